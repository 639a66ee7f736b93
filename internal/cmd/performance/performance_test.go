package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
)

const root = "../../.."

// TestBudgets: the table has all that the relay has to keep, and each row's benchmark is
// there and reports what the row is about.
func TestBudgets(t *testing.T) {
	t.Parallel()
	subjects := []string{
		"quiet", "sequential", "parallel", "processor", "rules", "redaction", "memory", "start", "volume", "reads", "minute", "inputs",
	}
	var found, ids []string
	tests := module.Tests{}
	for _, b := range budgets {
		subject, _, _ := strings.Cut(b.id, "-")
		found = append(found, subject)
		ids = append(ids, b.id)
		if strings.Contains(b.what+b.unit, "|") {
			t.Errorf("%s: a | would break the table", b.id)
		}
		if (b.floor != "" && b.least != 0) || (b.onRatio && b.floor == "") {
			t.Errorf("%s: the floor is either a metric or known, and a limit on the ratio needs one that is measured", b.id)
		}
		top, _, _ := strings.Cut(b.benchmark, "/")
		dir := filepath.Join(root, filepath.FromSlash(b.dir))
		has, err := tests.Has(dir, "Benchmark"+top)
		if err != nil {
			t.Fatal(err)
		}
		if !has {
			t.Errorf("%s: %s has no Benchmark%s", b.id, b.dir, top)
		}
		for _, metric := range []string{b.ours, b.floor} {
			if metric != "" && !mentions(t, dir, `"`+metric+`"`) {
				t.Errorf("%s: no benchmark of %s reports %s", b.id, b.dir, metric)
			}
		}
	}
	if diff := cmp.Diff(subjects, slices.Compact(found)); diff != "" {
		t.Errorf("budgets, wanted (-) and there (+):\n%s", diff)
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != len(budgets) {
		t.Error("two budgets have one id")
	}
}

// mentions reports whether a test of the package in a folder has the text in it.
func mentions(t *testing.T, dir, text string) bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(source), text)
	})
}

const output = `goos: linux
goarch: amd64
pkg: example
cpu: A Processor
BenchmarkParallel/90%_in_5%/250ms-2         	       1	12345 ns/op	         11.5 s	        10.0 s-floor	         1.150 time/floor
BenchmarkParallel/90%_in_5%/600ms-2         	       1	12345 ns/op	         99 s	        10.0 s-floor
BenchmarkMemory 	       1	12345 ns/op	         80 MiB
PASS
ok  	example	32.858s
`

func TestParse(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]map[string]float64{
		"BenchmarkParallel/90%_in_5%/250ms": {"ns/op": 12345, "s": 11.5, "s-floor": 10, "time/floor": 1.15},
		"BenchmarkMemory":                   {"ns/op": 12345, "MiB": 80}, // GOMAXPROCS is 1
		"BenchmarkParallel":                 nil,
		"ok":                                nil,
	} {
		got, cpu := parse(output, name)
		if diff := cmp.Diff(want, got); diff != "" || cpu != "A Processor" {
			t.Errorf("%s on %q, wanted (-) and got (+):\n%s", name, cpu, diff)
		}
	}
	// A skipped benchmark has a line without figures.
	if got, _ := parse("BenchmarkMemory\n--- SKIP: BenchmarkMemory\n", "BenchmarkMemory"); got != nil {
		t.Errorf("of a skipped benchmark: %v", got)
	}
}

func TestRow(t *testing.T) {
	t.Parallel()
	metrics := measured{metrics: map[string]float64{"s": 11.5, "s-floor": 10, "none": 0}, others: 0.126}
	for name, c := range map[string]struct {
		budget
		want string // after the name
	}{
		"a ratio, at its limit":  {budget{ours: "s", floor: "s-floor", unit: "s", limit: 1.15, onRatio: true}, "| 10 s | 11.5 s | 1.150 | ≤ 1.15 × floor | kept | 13 % |"},
		"a ratio, over it":       {budget{ours: "s", floor: "s-floor", unit: "s", limit: 1.1499, onRatio: true}, "| 10 s | 11.5 s | 1.150 | ≤ 1.15 × floor | **not kept** | 13 % |"},
		"a figure, with a floor": {budget{ours: "s", least: 2, unit: "s", limit: 12}, "| 2 s | 11.5 s | 5.750 | ≤ 12 s | kept | 13 % |"},
		"a figure, over it":      {budget{ours: "s", floor: "s-floor", unit: "s", limit: 11}, "| 10 s | 11.5 s | 1.150 | ≤ 11 s | **not kept** | 13 % |"},
		"nothing, as allowed":    {budget{ours: "none", unit: "s"}, "| – | 0 s | – | ≤ 0 s | kept | 13 % |"},
	} {
		c.id, c.what = "id", "what"
		r, err := rowOf(c.budget, metrics)
		if got := r.String(); err != nil || got != "| `id`: what "+c.want+"\n" {
			t.Errorf("%s: %s %v, want %s", name, got, err, c.want)
		}
	}
	for _, b := range []budget{{ours: "other"}, {ours: "s", floor: "other"}, {ours: "s", floor: "none", onRatio: true}} {
		if r, err := rowOf(b, metrics); err == nil {
			t.Errorf("%+v: %+v", b, r)
		}
	}
}

func TestFigure(t *testing.T) {
	t.Parallel()
	for x, want := range map[float64]string{0: "0", 0.375: "0.375", 1.05: "1.05", 2: "2", 12.5: "12.5", 101.46: "101.5", 4321.4: "4321", 40_000: "40000"} {
		if got := figure(x); got != want {
			t.Errorf("%v is %s, want %s", x, got, want)
		}
	}
}

// TestKnownStays: what a call doesn't measure stays, unless the budget is another one since.
func TestKnownStays(t *testing.T) {
	t.Parallel()
	first, second := budgets[0], budgets[1]
	m := measured{metrics: map[string]float64{first.ours: 1, second.ours: 100}}
	var rows []row
	for _, b := range []budget{first, second} {
		r, err := rowOf(b, m)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	before := document("", rows, "a machine")
	if again := document(before, nil, ""); again != before {
		t.Errorf("a call that measured nothing changed the document:\n%s", cmp.Diff(before, again))
	}
	if want := fmt.Sprintf("2 of %d budgets are measured, and 1 of these are kept.\n\nThe last call was on a machine.\n", len(budgets)); !strings.HasSuffix(before, want) {
		t.Errorf("the document does not end with %q:\n%s", want, before)
	}
	rows[1].ours, rows[1].verdict = "3 calls", kept
	if after := document(before, rows[1:], "another"); !strings.Contains(after, rows[0].String()) || !strings.Contains(after, rows[1].String()) || !strings.Contains(after, "2 of these") {
		t.Errorf("one row was measured again:\n%s", after)
	}
	other := strings.Replace(before, rows[0].allowed, "≤ 7 requests", 1)
	if after := document(other, nil, ""); !strings.Contains(after, unmeasured(first).String()) {
		t.Errorf("what was measured against another limit stays:\n%s", after)
	}
}

func TestByBenchmark(t *testing.T) {
	t.Parallel()
	var got [][]string
	for _, group := range byBenchmark([]budget{
		{id: "1", dir: "a", benchmark: "A"}, {id: "2", dir: "a", benchmark: "B"}, {id: "3", dir: "b", benchmark: "A"}, {id: "4", dir: "a", benchmark: "A"},
	}) {
		var ids []string
		for _, b := range group {
			ids = append(ids, b.id)
		}
		got = append(got, ids)
	}
	if diff := cmp.Diff([][]string{{"1", "4"}, {"2"}, {"3"}}, got); diff != "" {
		t.Error(diff)
	}
}

// TestDocument: the document's table is what the command writes.
func TestDocument(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, inside, _ := strings.Cut(string(page), "<!-- performance: begin -->\n\n")
	inside, _, _ = strings.Cut(inside, "\n<!-- performance: end -->\n")
	if diff := cmp.Diff(document(string(page), nil, ""), inside); diff != "" {
		t.Errorf("docs/performance.md is not what the command writes, wanted (-) and got (+):\n%s", diff)
	}
}

// TestMeasure runs a benchmark that takes no time.
func TestMeasure(t *testing.T) {
	t.Parallel()
	i := slices.IndexFunc(budgets, func(b budget) bool { return b.id == "inputs" })
	m, err := measure(t.Context(), root, budgets[i])
	if err != nil {
		t.Fatal(err)
	}
	if r, err := rowOf(budgets[i], m); err != nil || r.verdict != kept || m.others < 0 || m.others > 1 {
		t.Errorf("%+v %v, of %+v", r, err, m)
	}
	none := budgets[i]
	none.benchmark = "None"
	if m, err := measure(t.Context(), root, none); err == nil {
		t.Errorf("of a benchmark that isn't there: %+v", m)
	}
}
