package drain_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// TestModel lets random histories happen to the engine, the client, the processor and
// the holder of the lease together, and checks the laws that the relay promises
// to keep (laws_test.go).
func TestModel(t *testing.T) {
	times := "1000"
	if testing.Short() { // with the race detector each takes ten times as long
		times = "200"
	}
	check(t, times, histories)
}

// check lets histories happen, so many unless the command line says otherwise.
func check(t *testing.T, times string, of *rapid.Generator[history]) {
	t.Helper()
	unlessGiven(t, "rapid.checks", times)
	// The same histories each time, so that the gate says nothing else tomorrow than
	// today. New ones: -rapid.seed=0 -rapid.checks=20000.
	unlessGiven(t, "rapid.seed", "1")
	store, err := bolt.OpenNoSync(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	lives := 0
	rapid.Check(t, func(r *rapid.T) {
		h := of.Draw(r, "history")
		lives++
		// The verdict leaves the bubble as a value: rapid can't end a test from inside.
		var broken string
		synctest.Test(t, func(*testing.T) {
			broken = newWorld(h, store, fmt.Sprintf("feed-%d", lives)).live()
		})
		if broken != "" {
			r.Fatal(broken)
		}
	})
}

// unlessGiven gives a flag of the test a value, unless the command line did.
func unlessGiven(t *testing.T, name, value string) {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if given {
		return
	}
	f := flag.Lookup(name)
	before := f.Value.String()
	if err := flag.Set(name, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flag.Set(name, before) })
}
