package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// table is how long each target was fuzzed, and what came of it.
func table(results []result) string {
	sums := map[target]result{}
	var targets []target
	for _, r := range results {
		sum, known := sums[r.target]
		if !known {
			targets = append(targets, r.target)
		}
		sum.Seconds += r.Seconds
		sum.Inputs += r.Inputs
		sum.Corpus = max(sum.Corpus, r.Corpus)
		sum.Broken += r.Broken
		sums[r.target] = sum
	}
	slices.SortFunc(targets, func(a, b target) int { return cmp.Or(strings.Compare(a.Dir, b.Dir), strings.Compare(a.Name, b.Name)) })
	var b strings.Builder
	b.WriteString("| package | target | time | inputs | inputs that reach what no other reaches | broken |\n|---|---|---|---|---|---|\n")
	for _, t := range targets {
		sum, broken := sums[t], "no"
		if sum.Broken != "" {
			broken = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %v | %d | %d | %s |\n", t.Dir, t.Name,
			time.Duration(sum.Seconds*float64(time.Second)).Round(time.Second), sum.Inputs, sum.Corpus, broken)
	}
	return b.String()
}

// keepBytes bounds what a target's inputs take in the source: go test runs them all.
const keepBytes = 32 << 10

// keep copies inputs that were found into the source, where go test runs them: the
// smallest ones, as many as keepBytes has room for.
func keep(dir string, results []result) error {
	done := map[target]bool{}
	for _, r := range results {
		if done[r.target] {
			continue
		}
		done[r.target] = true
		if err := keepOf(filepath.Join(corpusOf(dir, r.target), r.Name), filepath.Join(r.Dir, "testdata", "fuzz", r.Name)); err != nil {
			return err
		}
	}
	return nil
}

func keepOf(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		files = append(files, info)
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return cmp.Compare(a.Size(), b.Size()) })
	if err := os.MkdirAll(to, 0o755); err != nil { //nolint:gosec // it is source
		return err
	}
	room := int64(keepBytes)
	for _, f := range files {
		if room -= f.Size(); room < 0 {
			break
		}
		text, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), text, 0o644); err != nil { //nolint:gosec // it is source
			return err
		}
	}
	return nil
}
