package drain

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// counters is a database of which only the counters are asked for.
type counters struct {
	Store
	used  int64
	reads int
	added []int64
	slow  time.Duration
	err   error
}

func (c *counters) Open(context.Context, string, string) (state.Snapshot, error) {
	c.reads++
	hour := time.Now().Truncate(state.RequestBucket).Unix()
	return state.Snapshot{Usage: state.Usage{Requests: map[int64]int64{hour: c.used}}}, nil
}

func (c *counters) AddUsage(_ context.Context, _ string, add, _ state.Usage) error {
	time.Sleep(c.slow)
	if c.err != nil {
		return c.err
	}
	for _, n := range add.Requests {
		c.added = append(c.added, n)
		c.used += n
	}
	return nil
}

// TestCountersAreReadOnceInAWhile: a burst of write-backs costs one read, and
// what others have used is known soon.
func TestCountersAreReadOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, meter := &counters{used: 1}, dtm.NewMeter(1000)
		counter := NewUsageCounter("default", store, meter, slog.New(slog.DiscardHandler))
		load := func(when, keyID string, reads int, used int64) {
			t.Helper()
			if err := counter.Load(t.Context(), keyID); err != nil {
				t.Fatal(err)
			}
			if requests, _ := meter.Used(); store.reads != reads || requests != used {
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

// counted is a meter that counts by hand.
type counted struct {
	sent   int64
	loaded []int64
}

func (m *counted) Load(requests, _ map[int64]int64) {
	for _, n := range requests {
		m.loaded = append(m.loaded, n)
	}
}

func (m *counted) Take() (requests, errors map[int64]int64) {
	if m.sent == 0 {
		return nil, nil
	}
	requests, m.sent = map[int64]int64{time.Now().Truncate(state.RequestBucket).Unix(): m.sent}, 0
	return requests, nil
}

func (m *counted) Return(requests, _ map[int64]int64) {
	for _, n := range requests {
		m.sent += n
	}
}

func (m *counted) Used() (requests, errors int64) { return m.sent, 0 }

// TestCountsOnTheirWayAreNotMissing: what is loaded has the counts that were on their
// way to the database, also when whoever sent them is gone.
func TestCountsOnTheirWayAreNotMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, meter := &counters{used: 1, slow: time.Second}, &counted{sent: 4}
		counter := NewUsageCounter("default", store, meter, slog.New(slog.DiscardHandler))
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		go counter.Add(gone, "one")
		synctest.Wait()
		if err := counter.Load(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		counter.Add(t.Context(), "one") // nothing was sent since
		if diff := cmp.Diff([][]int64{{4}, {5}}, [][]int64{store.added, meter.loaded}); diff != "" {
			t.Errorf("added and loaded (-want +got):\n%s", diff)
		}
	})
}

// usageOf keeps a meter in step with a database.
func usageOf(s Store, meter Meter) *UsageCounter {
	return NewUsageCounter("f", s, meter, slog.New(slog.DiscardHandler))
}

// slowCounting is a database that takes a second to count requests.
type slowCounting struct{ state.Store }

func (s slowCounting) AddUsage(ctx context.Context, keyID string, add, old state.Usage) error {
	time.Sleep(time.Second)
	return s.Store.AddUsage(ctx, keyID, add, old)
}

// TestARunCountsWhatIsOnItsWay: what a write-back of this instance has sent when a run
// begins is in what the run reads.
func TestARunCountsWhatIsOnItsWay(t *testing.T) {
	stored := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		hour := time.Now().Truncate(state.RequestBucket).Unix()
		if err := stored.AddUsage(t.Context(), "k", state.Usage{Requests: map[int64]int64{hour: 1}}, state.Usage{}); err != nil {
			t.Fatal(err)
		}
		meter, store := &counted{sent: 4}, slowCounting{stored}
		for what, begin := range map[string]func(*Runner){
			"a run":          func(r *Runner) { _, _ = r.Live(t.Context(), "schedule", false) },
			"a dry backfill": func(r *Runner) { _, _ = r.DryBackfill(t.Context(), state.Backfill{Filter: "{}"}) },
		} {
			r := newRun(t, store, wire(func(*http.Request) reply { return alertsOf() }), &topic{})
			r.Usage = usageOf(store, meter)
			before, err := stored.Open(t.Context(), "f", "k")
			if err != nil {
				t.Fatal(err)
			}
			want := before.Usage.Requests[hour] + 4
			meter.loaded, meter.sent = nil, 4
			go r.Usage.Add(t.Context(), "k")
			synctest.Wait()
			begin(r)
			if diff := cmp.Diff([]int64{want}, meter.loaded); diff != "" {
				t.Errorf("%s loads (-want +got):\n%s", what, diff)
			}
		}
	})
}

// TestCountsThatAreRefused are added with the next ones: GTI counts them.
func TestCountsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, meter := &counters{err: errors.New("no")}, &counted{sent: 4}
		counter := NewUsageCounter("default", store, meter, slog.New(slog.DiscardHandler))
		counter.Add(t.Context(), "one")
		counter.Add(t.Context(), "one")
		meter.sent++
		store.err = nil
		counter.Add(t.Context(), "one")
		if diff := cmp.Diff([]int64{5}, store.added); diff != "" {
			t.Errorf("added (-want +got):\n%s", diff)
		}
	})
}
