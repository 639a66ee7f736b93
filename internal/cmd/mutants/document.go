package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const documentHead = `# Mutants

A mutant is one fault, planted in the relay on purpose. For each there is a test that has to fail with it. A mutant that no test catches is a hole in the tests.

` + "```sh" + `
go run ./internal/cmd/mutants
go run ./internal/cmd/mutants -run '^drain-'
go run ./internal/cmd/mutants -list
` + "```" + `

The first command runs them all, the second some of them. Both run each test without the fault first, and write what they find into this page. They end with 1 unless every mutant is caught. A mutant is caught when its test fails: one that doesn't compile, or that makes its test hang, is not.

The mutants are files in ` + "`internal/cmd/mutants/testdata/mutants`" + `: a piece of the source, and what stands in its place. ` + "`go test ./internal/cmd/mutants`" + `, a part of the gate, checks that each still applies, that its test exists, and that this page says that it is caught.

`

// updateDocument writes into docs/mutants.md what became of a mutant. What is known of the
// others stays.
func updateDocument(root string, mutants []mutant, res result) error {
	path := filepath.Join(root, "docs", "mutants.md")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(document(string(old), mutants, res)), 0o644) //nolint:gosec // everybody may read it
}

func document(old string, mutants []mutant, results ...result) string {
	became := map[string]string{} // the end of a mutant's row
	for _, m := range mutants {
		if _, rest, ok := strings.Cut(old, row(m)); ok {
			became[m.ID], _, _ = strings.Cut(rest, "\n")
		}
	}
	for _, r := range results {
		became[r.ID] = fmt.Sprintf(" %s, %.1f s |", r.verdict, r.processor.Seconds())
	}
	var tables strings.Builder
	n, total, dir := 0, 0.0, ""
	for _, m := range mutants {
		if m.Dir != dir {
			dir = m.Dir
			fmt.Fprintf(&tables, "\n## %s\n\n| mutant | the fault | what would break | the test that catches it | |\n|---|---|---|---|---|\n", dir)
		}
		end := became[m.ID]
		if end == "" {
			end = " not run |"
		}
		tables.WriteString(row(m) + end + "\n")
		var seconds float64
		if k, _ := fmt.Sscanf(end, " caught, %f s |", &seconds); k == 1 {
			n++
			total += seconds
		}
	}
	took := time.Duration(total * float64(time.Second)).Round(time.Second)
	return documentHead + fmt.Sprintf("%d of %d mutants are caught. Compiler and tests have taken %v of processor time for that; the last column has each one's.\n",
		n, len(mutants), took) + tables.String()
}

// row is the beginning of a mutant's row in the table.
func row(m mutant) string {
	return fmt.Sprintf("| `%s` | %s | %s | `%s` |", m.ID, m.Fault, m.Breaks, m.Test)
}
