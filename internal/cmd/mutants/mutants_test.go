package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
)

const root = "../../.."

// TestMutantsApply: the list can't rot. Each mutant still is a change of the source, and its test is there.
func TestMutantsApply(t *testing.T) {
	mutants, err := readMutants(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(mutants) < 90 {
		t.Errorf("there are %d mutants", len(mutants))
	}
	tests := module.Tests{}
	for _, m := range mutants {
		t.Run(m.ID, func(t *testing.T) {
			source, err := m.apply(root)
			if err != nil {
				t.Fatal(err)
			}
			if m.Old == m.New {
				t.Error("it changes nothing")
			}
			if _, err := parser.ParseFile(token.NewFileSet(), m.File, source, parser.SkipObjectResolution); err != nil {
				t.Errorf("with the fault it is no Go: %v", err)
			}
			name, _, _ := strings.Cut(m.Test, "/")
			has, err := tests.Has(filepath.Join(root, m.Dir), name)
			if err != nil {
				t.Fatal(err)
			}
			if !has {
				t.Errorf("%s has no test %s", m.Dir, name)
			}
			if strings.Contains(m.Fault+m.Breaks, "|") {
				t.Error("a | would break the table")
			}
		})
	}
}

func TestDocument(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "mutants.md"))
	if err != nil {
		t.Fatal(err)
	}
	mutants, err := readMutants(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		if !strings.Contains(string(page), row(m)+" caught, ") {
			t.Errorf("docs/mutants.md does not say that %s is caught: go run ./internal/cmd/mutants -run '^%[1]s$'", m.ID)
		}
	}
	if diff := cmp.Diff(document(string(page), mutants), string(page)); diff != "" {
		t.Errorf("docs/mutants.md is not what the command writes (-want +got):\n%s", diff)
	}
}

// TestVerdicts: the command tells apart how a mutant can end, on a module of two functions.
func TestVerdicts(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":    "module example\n\ngo 1.26\n",
		"a.go":      "package a\n\nfunc one() int { return 1 }\n\nfunc two() int { return 2 }\n",
		"a_test.go": "package a\n\nimport \"testing\"\n\nfunc TestOne(t *testing.T) {\n\tif one() != 1 {\n\t\tt.Fail()\n\t}\n}\n\nfunc TestFails(t *testing.T) { t.Fail() }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := newRunner(dir, t.TempDir())
	for i, tc := range []struct {
		mutant
		want verdict
	}{
		{mutant{Test: "TestOne", Old: "return 1", New: "return 3"}, caught},
		{mutant{Test: "TestOne", Old: "return 2", New: "return 3"}, survived},
		{mutant{Test: "TestOne", Old: "return 2", New: "return two"}, uncompilable},
		{mutant{Test: "TestOne", Old: "return", New: "return 1 +"}, outdated},
		{mutant{Test: "TestOne", Old: "return 3", New: "return 1"}, outdated},
		{mutant{Test: "TestFails", Old: "return 1", New: "return 3"}, broken},
		{mutant{Test: "TestNone", Old: "return 1", New: "return 3"}, broken},
	} {
		tc.ID, tc.File, tc.Dir = fmt.Sprint(i), "a.go", "."
		if got := r.run(t.Context(), tc.mutant); got.verdict != tc.want {
			t.Errorf("%s for %s: %s, want %s\n%s", tc.New, tc.Old, got.verdict, tc.want, got.detail)
		}
	}
}
