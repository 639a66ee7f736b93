package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPieces(t *testing.T) {
	got := pieces(5_200, 1_000)
	want := []piece{
		{"TestModel", 1, 1_000},
		{"TestModel", 1_001, 1_000},
		{"TestModel", 2_001, 1_000},
		{"TestModel", 3_001, 1_000},
		{"TestWriteback", 1, 1_000},
		{"TestModel", 4_001, 200},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestResults: a call goes on with what an earlier one has found, of which the last line
// may be cut, and a broken law ends the command with an error.
func TestResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pieces.jsonl")
	text := `{"test":"TestModel","first":1,"histories":500,"commit":"a","counts":{"histories":500,"alerts":12000,"with a crash":31}}

{"test":"TestWriteback","first":1,"histories":500,"commit":"b","counts":{"histories":500,"write-backs":900}}
{"test":"TestModel","first":501,"histories":500,"commit":"b","broken":"history 612: it is lost"}
{"test":"TestModel","first":1001,"histo`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	results, err := read(path)
	if err != nil || len(results) != 3 {
		t.Fatalf("%d results: %v", len(results), err)
	}
	if err := failure(results[:2]); err != nil {
		t.Error(err)
	}
	if err := failure(results); err == nil || !strings.Contains(err.Error(), "TestModel from 501") {
		t.Errorf("the error is %v", err)
	}
	shown := table(results)
	for _, line := range []string{
		"| **histories** | 500 | 500 |", "| with a crash | 31 | 0 |", "| in all: alerts | 12,000 | 0 |", "| in all: write-backs | 0 | 900 |",
		"1,000 histories have kept all laws, and in 1 pieces a law was broken.", "500 on a, 500 on b",
	} {
		if !strings.Contains(shown, line) {
			t.Errorf("%q is not in\n%s", line, shown)
		}
	}
}
