package app

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/secret"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// counters is a database of which only the counters are asked for.
type counters struct {
	state.Store
	used  int64
	reads int
}

func (c *counters) Open(context.Context, string, string) (state.Snapshot, error) {
	c.reads++
	hour := time.Now().Truncate(state.RequestBucket).Unix()
	return state.Snapshot{Usage: state.Usage{Requests: map[int64]int64{hour: c.used}}}, nil
}

func meteredApp(store state.Store) *App {
	return &App{
		cfg: config.Config{Feed: "default", RequestsPerDay: 1000}, parts: Parts{Store: store, Keys: secret.Static("the-key")},
		meter: dtm.NewMeter(1000), log: slog.New(slog.DiscardHandler),
	}
}

// TestCountersAreReadOnceInAWhile: a burst of write-backs costs one read, and
// what others have used is known soon.
func TestCountersAreReadOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counters{used: 1}
		a := meteredApp(store)
		counter := newUsageCounter(a)
		load := func(when, keyID string, reads int, used int64) {
			t.Helper()
			if err := counter.Load(t.Context(), keyID); err != nil {
				t.Fatal(err)
			}
			if requests, _ := a.meter.Used(); store.reads != reads || requests != used {
				t.Errorf("%s: %d reads and %d requests, want %d and %d", when, store.reads, requests, reads, used)
			}
		}
		load("at first", "one", 1, 1)
		store.used = 2
		load("again", "one", 1, 1)
		time.Sleep(usageAge - time.Millisecond)
		load("a little younger than it may be", "one", 1, 1)
		time.Sleep(time.Millisecond)
		load("too old", "one", 2, 2)
		load("of another key", "two", 3, 2)
		load("of another key, again", "two", 3, 2)
	})
}

// TestStatusLeavesTheMeterAlone: a run's counts that are on their way to the
// database are in neither of the two figures that a load would leave.
func TestStatusLeavesTheMeterAlone(t *testing.T) {
	a := meteredApp(&counters{used: 3})
	hour := time.Now().Truncate(state.RequestBucket).Unix()
	a.meter.Load(map[int64]int64{hour: 5}, nil) // three in the database, two on their way
	w := httptest.NewRecorder()
	a.getStatus(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/status", http.NoBody))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"requests":{"used":3,"limit":1000,"window":"24h"}`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if requests, _ := a.meter.Used(); requests != 5 {
		t.Errorf("the run counts %d requests, want 5", requests)
	}
}
