package drain_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// What internal/cmd/model asks for: other histories, and what happened in them.
var (
	firstHistory  = flag.Int("model.first", 1, "the first history of the model")
	manyHistories = flag.Int("model.histories", 0, "how many histories (those of the gate)")
	showCounts    = flag.Bool("model.counts", false, "print what happened in the histories, as a line of JSON")
)

// TestModel lets random histories happen to the engine, the client, the processor and
// the holder of the lease together, and checks the laws that the relay promises
// to keep (laws_test.go).
func TestModel(t *testing.T) {
	n := 10_000
	if testing.Short() { // with the race detector each takes ten times as long
		n = 200
	}
	check(t, n, histories)
}

// perStore is how many histories share a database: each write costs more with all that
// earlier ones have left.
const perStore = 50

// check lets n histories happen, or as many as the command line says. They are the same
// ones each time, so that the gate says nothing else tomorrow than today. The number of
// a history is the seed that it is drawn with: -rapid.seed=N -rapid.checks=1 draws it
// again, and makes it smaller when it breaks a law.
func check(t *testing.T, n int, of *rapid.Generator[history]) {
	t.Helper()
	// Little of a history stays in memory, and collecting it takes a third of the time. So
	// nothing is collected before there is much of it.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(256 << 20))
	if isGiven("rapid.seed") {
		shrink(t, of)
		return
	}
	if *manyHistories > 0 {
		n = *manyHistories
	}
	var mu sync.Mutex
	all := counts{}
	t.Run("histories", func(t *testing.T) {
		workers := runtime.GOMAXPROCS(0)
		for worker := range workers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				s := openStore(t)
				for i := worker; i < n; i += workers {
					if i/workers%perStore == perStore-1 {
						s = openStore(t)
					}
					seed := *firstHistory + i
					broken, c := happen(t, of.Example(seed), s, fmt.Sprintf("feed-%d", seed))
					if broken != "" {
						t.Errorf("history %d: %s", seed, broken)
						return
					}
					mu.Lock()
					all.add(c)
					mu.Unlock()
				}
			})
		}
	})
	if *showCounts {
		line, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s\n", line)
	}
}

// shrink lets the histories of rapid's flags happen. The smallest one that breaks a law
// is shown.
func shrink(t *testing.T, of *rapid.Generator[history]) {
	t.Helper()
	s := openStore(t)
	lives := 0
	rapid.Check(t, func(r *rapid.T) {
		h := of.Draw(r, "history")
		lives++
		// The verdict leaves the bubble as a value: rapid can't end a test from inside.
		if broken, _ := happen(t, h, s, fmt.Sprintf("feed-%d", lives)); broken != "" {
			r.Fatal(broken)
		}
	})
}

// happen lets a history happen, and returns the first law that it broke.
func happen(t *testing.T, h history, s *bolt.Store, feed string) (broken string, c counts) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		w := newWorld(h, s, feed)
		broken = w.live()
		c = w.count()
	})
	return broken, c
}

func openStore(t *testing.T) *bolt.Store {
	t.Helper()
	s, err := bolt.OpenNoSync(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// isGiven reports whether a flag is on the command line.
func isGiven(name string) (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// counts are what happened in histories, by its name.
type counts map[string]int

func (c counts) add(other counts) {
	for name, n := range other {
		c[name] += n
	}
}

// count counts what has happened, and notes what a history was about.
func (w *world) count() counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := counts{"histories": 1, "alerts": len(w.known), "runs": len(w.procs), "requests": w.api.Stats().Requests, "backfills": len(w.asked), "write-backs": len(w.backs.posts), "audits": len(w.audits)}
	for _, n := range w.acked {
		c["messages"] += n
	}
	for _, n := range w.rejected {
		c["rejects"] += n
	}
	with := func(what string, is bool) {
		if is {
			c["with "+what] = 1
		}
	}
	steps := func(is func(step) bool) bool { return slices.ContainsFunc(slices.Concat(w.Steps, w.Syncs), is) }
	with("a crash", steps(func(s step) bool { return s.Crash > 0 }))
	with("a frozen process", steps(func(s step) bool { return s.Freeze > 0 }))
	with("two processes at once", steps(func(s step) bool { return s.Second > 0 }))
	with("a shutdown", steps(func(s step) bool { return s.Shutdown > 0 }))
	with("a wrong key", steps(func(s step) bool { return s.WrongKey }))
	with("a wrong clock", w.skewed())
	with("calls that fail or hang", steps(func(s step) bool { return len(s.Troubles) > 0 }))
	with("answers that lie", steps(func(s step) bool {
		return slices.ContainsFunc(s.Troubles, func(t trouble) bool { return slices.Contains(lying, t.What) })
	}))
	with("late alerts", slices.ContainsFunc(w.Alerts, func(a alert) bool { return a.Late > 0 }))
	with("alerts that change", slices.ContainsFunc(w.Alerts, func(a alert) bool { return len(a.changes()) > 0 }))
	with("elements that are no alert", slices.ContainsFunc(w.Alerts, func(a alert) bool { return a.Element != "" }))
	with("alerts out of order", !w.ordered())
	with("a filter on what changes", w.changeable())
	with("rules", w.Ruled)
	with("masks", w.Masked)
	with("no trouble at all", w.calm())
	return c
}
