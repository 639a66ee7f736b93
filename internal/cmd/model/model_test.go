package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMissing: one history in five is about write-backs, and none that has a result is
// lived through again, whatever the size of its piece was.
func TestMissing(t *testing.T) {
	got := missing(5_000, 1_000, nil)
	want := []piece{
		{"TestModel", 1, 1_000},
		{"TestWriteback", 1, 1_000},
		{"TestModel", 1_001, 1_000},
		{"TestModel", 2_001, 1_000},
		{"TestModel", 3_001, 1_000},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = missing(5_000, 1_000, []result{
		{piece: piece{"TestModel", 1, 1_300}},
		{piece: piece{"TestModel", 1_701, 300}},
		{piece: piece{"TestModel", 3_001, 9_000}},
		{piece: piece{"TestWriteback", 1, 400}},
	})
	want = []piece{{"TestModel", 1_301, 400}, {"TestWriteback", 401, 600}, {"TestModel", 2_001, 1_000}}
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

// TestJoined: neighbours of a commit become one result; of a piece that was lived through
// again, the last one counts.
func TestJoined(t *testing.T) {
	got := joined([]result{
		{piece: piece{"TestModel", 501, 500}, Commit: "a", Seconds: 2, Counts: map[string]int{"histories": 500, "runs": 7}},
		{piece: piece{"TestWriteback", 1, 500}, Commit: "a"},
		{piece: piece{"TestModel", 1001, 500}, Broken: "history 1007", Commit: "a"},
		{piece: piece{"TestModel", 1, 500}, Commit: "a", Seconds: 1, Counts: map[string]int{"histories": 500}},
		{piece: piece{"TestModel", 1001, 500}, Commit: "mended"},
		{piece: piece{"TestModel", 1501, 500}, Commit: "mended", Broken: "history 1777"},
	})
	want := []result{
		{piece: piece{"TestModel", 1, 1_000}, Commit: "a", Seconds: 3, Counts: map[string]int{"histories": 1_000, "runs": 7}},
		{piece: piece{"TestModel", 1001, 500}, Commit: "mended"},
		{piece: piece{"TestModel", 1501, 500}, Commit: "mended", Broken: "history 1777"},
		{piece: piece{"TestWriteback", 1, 500}, Commit: "a"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Error(diff)
	}
}
