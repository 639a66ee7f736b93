package ledger

import (
	"fmt"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestCacheIsBounded: the alerts that were shown last are remembered, and no more
// than maxCached.
func TestCacheIsBounded(t *testing.T) {
	p := new(Cache)
	at := time.UnixMilli(1_700_000_000_000)
	alert := func(i int) dtm.Alert { return dtm.Alert{ID: fmt.Sprint("a", i), UpdatedAt: at} }
	for i := range 3 * maxCached {
		p.note(state.Record{ID: alert(i).ID, PublishedVersion: at, HandledVersion: at})
		if _, ok := p.version(alert(0)); !ok {
			t.Fatalf("after %d others, what is shown all the time is forgotten", i)
		}
	}
	if n := len(p.now) + len(p.before); n > maxCached {
		t.Errorf("%d alerts are remembered", n)
	}
	if _, ok := p.version(alert(3*maxCached - maxCached/2)); !ok {
		t.Error("one of the latest is forgotten")
	}
	if _, ok := p.version(alert(1)); ok {
		t.Error("one of the first is remembered")
	}
}
