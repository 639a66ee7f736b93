package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/e2e/process"
	"dtmrelay.internal/dtmrelay/internal/emulatortest"
	"dtmrelay.internal/dtmrelay/internal/message"
)

func TestMain(m *testing.M) { os.Exit(emulatortest.Main(m)) }

// TestChaos makes runs whose faults leave no lease that has to end by itself.
func TestChaos(t *testing.T) {
	t.Parallel()
	firestore := emulatortest.SharedFirestore(t)
	dir := t.TempDir()
	program, err := process.Build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for seed, faults := range [][]kind{{terminate, topicSlow}, {freeze, storeSlow, two}} {
		t.Run(fmt.Sprint(faults), func(t *testing.T) {
			t.Parallel()
			p := planWith(rand.New(rand.NewPCG(uint64(seed), 1)), uint64(seed), faults)
			r, err := once(t.Context(), p, program, firestore, dir)
			if err != nil {
				t.Fatal(err)
			}
			// What was published at all proves that the checks had something to look at.
			if len(r.Problems) > 0 || r.Published < r.Alerts || r.Writebacks < statusTargets+tagTargets {
				t.Errorf("seed %d: %+v", seed, r)
			}
		})
	}
}

// peaceful is what a run without any fault leaves: of two alerts, one in two versions.
func peaceful() evidence {
	created := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	server := dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{{ID: "one", CreatedAt: created}, {ID: "two", CreatedAt: created}})
	server.Update("one", func(a *dtmsim.Alert) { a.Status, a.Tags = "closed", []string{"asked"} })
	e := evidence{
		faults: []kind{terminate},
		truth:  map[string][]dtmsim.Alert{"one": server.Versions("one"), "two": server.Versions("two")},
		wants:  []want{{id: "one", status: "closed", tags: []string{"asked"}}},
	}
	for _, a := range slices.Concat(e.truth["one"], e.truth["two"]) {
		e.messages = append(e.messages, published{data: a.Element(false, true), attributes: map[string]string{
			"alert_id": a.ID, "updated_at": message.Time(a.UpdatedAt), "dedupe_key": message.DedupeKey(a.ID, a.UpdatedAt), "run_id": "r",
		}})
	}
	return e
}

// TestCheckFails: each thing that must not be is found.
func TestCheckFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spoil func(*evidence)
		want  verdict // without what peace counts
		says  string  // in a problem; empty: there is none
	}{
		{"peace", func(*evidence) {}, verdict{}, ""},
		{"an alert that was never published", func(e *evidence) { e.messages = e.messages[:2] }, verdict{Lost: 1}, "alert two was not published"},
		{"only an older version", func(e *evidence) { e.messages = slices.Delete(e.messages, 1, 2) }, verdict{Lost: 1}, "alert one was not published"},
		{"a version that went back", func(e *evidence) { slices.Reverse(e.messages) }, verdict{Back: 1}, "alert one of"},
		{"the same, of another run, after a long freeze", func(e *evidence) {
			slices.Reverse(e.messages)
			e.messages[2].attributes["run_id"] = "frozen"
			e.faults = []kind{longFreeze}
		}, verdict{LateFrozen: 1}, ""},
		{"the same, of one run, after a long freeze", func(e *evidence) {
			slices.Reverse(e.messages)
			e.faults = []kind{longFreeze}
		}, verdict{Back: 1}, "alert one of"},
		{"a repeat", func(e *evidence) { e.messages = append(e.messages, e.messages[2]) }, verdict{Repeats: 1, Unexpected: 1}, "no fault explains it"},
		{"a repeat around a crash", func(e *evidence) {
			e.messages = append(e.messages, e.messages[2])
			e.faults = []kind{kill}
		}, verdict{Repeats: 1}, ""},
		{"a version that never was", func(e *evidence) { e.messages[0].attributes["updated_at"] = "2026-03-02T09:00:00.000Z" }, verdict{}, "never had"},
		{"other bytes", func(e *evidence) { e.messages[2].data = []byte(`{"id":"two"}`) }, verdict{}, "changed on its way"},
		{"a key in a message", func(e *evidence) { e.messages[2].attributes["monitor_name"] = "m " + apiKey }, verdict{Keys: 1}, "attribute monitor_name"},
		{"a key in a reject", func(e *evidence) { e.rejects = []published{{data: []byte(apiKey)}} }, verdict{Keys: 1}, "data of a message"},
		{"a key in an output", func(e *evidence) { e.output = []byte("x-apikey: " + apiKey) }, verdict{Keys: 1}, "output of a process"},
		{"a panic", func(e *evidence) { e.output = []byte(`{"event":"panic"}`) }, verdict{}, "panicked"},
		{"a process that ended", func(e *evidence) { e.ended = []string{"exit status 2"} }, verdict{}, "exit status 2"},
		{"a write-back that isn't done", func(e *evidence) { e.wants[0].tags = []string{"other"} }, verdict{Undone: 1}, "want closed [other]"},
		{"an analyst's change that is undone", func(e *evidence) { e.wants[0].status = later }, verdict{Undone: 1}, "want escalated"},
		{"a write-back that isn't acknowledged", func(e *evidence) { e.unacked = []string{"m-1"} }, verdict{}, "never acknowledged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := peaceful()
			c.spoil(&e)
			got := check(e)
			problems := got.Problems
			c.want.Alerts, c.want.Published, c.want.Writebacks = 2, len(e.messages), 1
			got.Problems = nil
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if c.says == "" && len(problems) > 0 || c.says != "" && !strings.Contains(strings.Join(problems, "\n"), c.says) {
				t.Errorf("problems: %q, want %q", problems, c.says)
			}
		})
	}
}

// TestPlans: each fault comes first in one of so many runs that follow each other, and a
// seed means the same run always.
func TestPlans(t *testing.T) {
	t.Parallel()
	var first []kind
	for seed := range uint64(len(kinds)) {
		p := newPlan(seed)
		first = append(first, p.names()[0])
		if diff := cmp.Diff(p, newPlan(seed), cmp.AllowUnexported(plan{}, fault{})); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff(kinds, first); diff != "" {
		t.Error(diff)
	}
}

// TestReport: results go into the document's place for them, also after a line that was cut.
func TestReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	document, lines := filepath.Join(dir, "chaos.md"), filepath.Join(dir, "runs.jsonl")
	if err := os.WriteFile(document, []byte("before\n<!-- chaos: begin -->\nold\n<!-- chaos: end -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := `{"seed":1,"faults":["SIGKILL"],"seconds":2,"alerts":3,"published":4,"repeats":1}` + "\n" + `{"seed":2,"fau` + "\n" +
		`{"seed":2,"faults":["SIGKILL","SIGTERM"],"seconds":4,"alerts":5,"published":5,"lost":1,"problems":["lost"]}` + "\n"
	if err := os.WriteFile(lines, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (options{dir: dir, report: document}).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"before\n", "after\n", "1 runs found something",
		"| SIGKILL | 2 | 8 | 9 | 1 | 0 | 1 | 0 | 0 | 0 | 0 | 3.0 |", "| SIGTERM | 1 | 5 | 5 | 1 |", "| **all runs** | 2 | 8 |",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is not in the document:\n%s", want, got)
		}
	}
}
