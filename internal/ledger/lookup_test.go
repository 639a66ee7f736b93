package ledger_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// asked is a ledger that notes what it is asked for.
type asked struct {
	ledger.Store
	ids []string
}

func (a *asked) Records(ctx context.Context, feed string, ids []string) ([]state.Entry, error) {
	a.ids = append(a.ids, ids...)
	return a.Store.Records(ctx, feed, ids)
}

// TestPublishedIsNotLookedUp: an instance looks a version up once, and a newer one again.
// Another instance, which knows nothing, publishes nothing more for it.
func TestPublishedIsNotLookedUp(t *testing.T) {
	p, l, _ := newProcessor()
	store := &asked{Store: l}
	p.Store = store
	warm := new(ledger.Cache)
	old, changed := func(id string) dtm.Alert { return version(id, "new", 0) }, func(id string) dtm.Alert { return version(id, "new", 60) }
	for _, c := range []struct {
		name   string
		known  *ledger.Cache
		mode   ledger.Mode
		id     string
		alerts []dtm.Alert
		asked  []string
		want   ledger.Counts
	}{
		{"new", warm, ledger.Live, "", []dtm.Alert{old("a"), old("b")}, []string{"a", "b"}, ledger.Counts{Handled: 2, Created: 2}},
		{"again", warm, ledger.Live, "", []dtm.Alert{old("a"), old("b")}, nil, ledger.Counts{Handled: 2, Suppressed: 2}},
		{"one has changed", warm, ledger.Matches, "", []dtm.Alert{changed("a"), old("b")}, []string{"a"}, ledger.Counts{Handled: 2, Updated: 1, Suppressed: 1}},
		{"the version before that", warm, ledger.Live, "", []dtm.Alert{old("a")}, nil, ledger.Counts{Handled: 1, Superseded: 1}},
		{"both versions on a page", warm, ledger.Live, "", []dtm.Alert{old("a"), changed("a")}, nil, ledger.Counts{Handled: 2, Suppressed: 1, Superseded: 1}},
		{"another instance", new(ledger.Cache), ledger.Live, "", []dtm.Alert{changed("a"), old("b")}, []string{"a", "b"}, ledger.Counts{Handled: 2, Suppressed: 2}},
		{"republished", warm, ledger.Republish, "b1", []dtm.Alert{changed("a")}, []string{"a"}, ledger.Counts{Handled: 1, Created: 1}},
	} {
		store.ids = nil
		p.Cache, p.Mode, p.BackfillID = c.known, c.mode, c.id
		got, err := p.Process(t.Context(), c.alerts, all)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got, anyOldest); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if diff := cmp.Diff(c.asked, store.ids); diff != "" {
			t.Errorf("%s: looked up (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestContendedIsLookedUpAgain: an instance knows what the ledger holds, not what others
// kept it from writing there.
func TestContendedIsLookedUpAgain(t *testing.T) {
	p, l, _ := newProcessor()
	p.Cache, l.conflicts = new(ledger.Cache), state.Tries
	for range 2 {
		if _, err := p.Process(t.Context(), []dtm.Alert{version("a", "new", 0)}, all); err != nil {
			t.Fatal(err)
		}
	}
	if !l.records["a"].Record.Known() {
		t.Error("the version is in the ledger neither at first nor when it is seen again")
	}
}
