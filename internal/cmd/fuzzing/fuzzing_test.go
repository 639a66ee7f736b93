package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseList(t *testing.T) {
	got := parseList("?   \tx.y/z\t[no test files]\nFuzzPage\nFuzzTime\nok  \tx.y/z/internal/dtm\t0.01s\nok  \tx.y/z/internal/state\t0.01s\nFuzzLoad\nok  \tx.y/z/internal/config\t0.01s\n", "x.y/z")
	want := []target{{"internal/dtm", "FuzzPage"}, {"internal/dtm", "FuzzTime"}, {"internal/config", "FuzzLoad"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseProgress(t *testing.T) {
	inputs, corpus := parseProgress("fuzz: elapsed: 0s, gathering baseline coverage: 0/76 completed\n" +
		"fuzz: elapsed: 3s, execs: 2000 (1033/sec), new interesting: 9 (total: 85)\n" +
		"fuzz: elapsed: 6s, execs: 41234 (1033/sec), new interesting: 11 (total: 87)\nPASS\n")
	if inputs != 41234 || corpus != 87 {
		t.Errorf("%d inputs, %d kept", inputs, corpus)
	}
}

// TestResults: the table has the sums of each target, and an input that breaks one ends
// the command with an error.
func TestResults(t *testing.T) {
	page, load := target{"internal/dtm", "FuzzPage"}, target{"internal/config", "FuzzLoad"}
	results := []result{
		{target: page, Commit: "a", Seconds: 300, Inputs: 1000, Corpus: 80, Broken: "mended since"},
		{target: page, Commit: "b", Seconds: 300, Inputs: 2000, Corpus: 95},
		{target: load, Commit: "b", Seconds: 60, Inputs: 10, Corpus: 3, Broken: "panic"},
		{target: load, Commit: "b", Seconds: 30, Inputs: 20, Corpus: 0},
	}
	if err := failure(sums(results[:2])); err != nil {
		t.Error(err)
	}
	results = sums(results)
	if err := failure(results); err == nil || !strings.Contains(err.Error(), "internal/config FuzzLoad") {
		t.Errorf("the error is %v", err)
	}
	shown := table(results)
	for _, line := range []string{
		"| `internal/dtm` | `FuzzPage` | 10m0s | 3000 | 95 | no | b |", "| `internal/config` | `FuzzLoad` | 1m30s | 30 | 3 | yes | b |",
	} {
		if !strings.Contains(shown, line) {
			t.Errorf("%q is not in\n%s", line, shown)
		}
	}
}

// TestKeep: the smallest inputs come into the source, beside those that are there, until it
// has enough of them.
func TestKeep(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "testdata", "fuzz", "FuzzX")
	for name, size := range map[string]int{"a": 10, "b": keepBytes - 20, "c": 11, "d": 5} {
		if err := os.WriteFile(filepath.Join(from, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(to, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "before"), make([]byte, keepBytes-40), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := keepOf(from, to); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(filepath.Join(to, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range kept {
		kept[i] = filepath.Base(path)
	}
	if diff := cmp.Diff([]string{"a", "before", "c", "d"}, kept); diff != "" {
		t.Error(diff)
	}
}
