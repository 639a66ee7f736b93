package main

import (
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

// TestResults: the table has the histories that have kept all laws, and a broken law ends
// the command with an error.
func TestResults(t *testing.T) {
	results := []result{
		{piece: piece{"TestModel", 1, 500}, Commit: "a", Counts: map[string]int{"histories": 500, "alerts": 12_000, "with a crash": 31}},
		{piece: piece{"TestWriteback", 1, 500}, Commit: "b", Counts: map[string]int{"histories": 500, "write-backs": 900}},
		{piece: piece{"TestModel", 501, 500}, Commit: "b", Broken: "history 612: it is lost"},
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

// TestLatest: of a piece that was lived through again, the last result counts.
func TestLatest(t *testing.T) {
	one, two := piece{"TestModel", 1, 500}, piece{"TestModel", 501, 500}
	got := latest([]result{{piece: one, Broken: "history 7"}, {piece: two}, {piece: one, Commit: "mended"}})
	want := []result{{piece: one, Commit: "mended"}, {piece: two}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Error(diff)
	}
}
