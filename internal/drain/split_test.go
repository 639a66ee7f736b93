package drain

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sort"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// evenSource is an API that only costs time: every page takes latency.
type evenSource struct {
	alerts   []time.Time // created_at, sorted
	latency  time.Duration
	requests atomic.Int64
}

func (l *evenSource) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		at := sort.Search(len(l.alerts), func(i int) bool { return !l.alerts[i].Before(q.Since) })
		end := sort.Search(len(l.alerts), func(i int) bool { return l.alerts[i].After(q.Until) })
		for {
			l.requests.Add(1)
			asked := time.Now()
			select {
			case <-time.After(l.latency):
			case <-ctx.Done():
				yield(dtm.Page{}, ctx.Err())
				return
			}
			page := dtm.Page{AskedAt: asked}
			for ; at < end && len(page.Alerts) < q.Size; at++ {
				page.Alerts = append(page.Alerts, dtm.Alert{ID: fmt.Sprint(at), CreatedAt: l.alerts[at], UpdatedAt: l.alerts[at]})
			}
			if at < end {
				page.Next = fmt.Sprint(at)
			}
			if !yield(page, nil) || page.Next == "" {
				return
			}
		}
	}
}

// costlyProcessor is a processor that publishes every alert once, each page in its own time.
type costlyProcessor struct {
	took  time.Duration
	known map[string]bool
	turn  chan struct{}
}

func (d *costlyProcessor) Process(_ context.Context, alerts []dtm.Alert, _ ledger.Allowance) (ledger.Counts, error) {
	time.Sleep(d.took)
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	t := ledger.Counts{Handled: len(alerts)}
	for _, a := range alerts {
		if d.known[a.ID] {
			t.Suppressed++
			continue
		}
		d.known[a.ID] = true
		t.Created++
	}
	return t, nil
}

// worlds are spans of time with alerts: how many of all lie in how much of the
// time, and where that begins.
var worlds = []struct {
	name                string
	share, within, from float64
}{
	{"uniform", 0, 1, 0},
	{"90%_in_the_first_5%", 0.9, 0.05, 0},
	{"90%_in_5%_in_the_middle", 0.9, 0.05, 0.47},
	{"90%_in_the_last_5%", 0.9, 0.05, 0.95},
	{"80%_in_1.7%", 0.8, 0.017, 0.61},
}

// TestDrainNearItsFloor compares the time and the requests of a drain with their
// floors, in the fake time of a bubble: what the engine itself adds.
func TestDrainNearItsFloor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		workers, alerts, size int
		latency               time.Duration
		time, requests        float64
	}{
		{1, 8_000, 25, 100 * time.Millisecond, 1.02, 1.02},
		{1, 50_000, 100, 100 * time.Millisecond, 1.02, 1.02},
		{8, 8_000, 25, 600 * time.Millisecond, 1.2, 1.08},
		{8, 50_000, 100, 100 * time.Millisecond, 1.15, 1.05},
	} {
		if testing.Short() && c.alerts > 8_000 {
			continue // the race detector learns no more from them, in ten times the time
		}
		for _, w := range worlds {
			t.Run(fmt.Sprintf("%d_workers/%d_alerts/%s", c.workers, c.alerts, w.name), func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(5) {
					synctest.Test(t, func(t *testing.T) {
						const took = 20 * time.Millisecond
						now := time.Now().UTC().Truncate(ms)
						source := &evenSource{alerts: spread(seed, c.alerts, now.Add(-5*24*time.Hour), now, w.share, w.within, w.from), latency: c.latency}
						processor := &costlyProcessor{took: took, known: map[string]bool{}, turn: make(chan struct{}, 1)}
						e := &engine{
							opts: Options{Workers: c.workers, PageSize: c.size}, source: source, processor: processor,
							save: func(Progress) {}, onGap: func(state.Gap) {}, report: &Report{},
						}
						from := now.Add(-5 * 24 * time.Hour)
						err := e.run(deadlines{working: t.Context(), fetching: t.Context()}, Progress{Slices: []state.Slice{{From: from, To: now, DoneUntil: from}}})
						if err != nil {
							t.Fatal(err)
						}
						if len(processor.known) != c.alerts {
							t.Errorf("published %d of %d alerts", len(processor.known), c.alerts)
						}
						pages := (c.alerts + c.size - 1) / c.size
						floor := time.Duration((pages+c.workers-1)/c.workers) * c.latency
						took1, asked := float64(time.Since(now))/float64(floor), float64(source.requests.Load())/float64(pages)
						t.Logf("seed %d: time %.3f, requests %.3f of the floor, %d splits", seed, took1, asked, e.report.Splits)
						if took1 > c.time || asked > c.requests {
							t.Errorf("want at most %.2f and %.2f", c.time, c.requests)
						}
					})
				}
			})
		}
	}
}

// spread puts n alerts into a span, a share of them within a part of it.
func spread(seed uint64, n int, from, to time.Time, share, within, begin float64) []time.Time {
	random := rand.New(rand.NewPCG(seed, 1))
	span := float64(to.Sub(from))
	out := make([]time.Time, n)
	for i := range out {
		at := random.Float64()
		if random.Float64() < share {
			at = begin + within*random.Float64()
		}
		out[i] = from.Add(time.Duration(at * span)).Truncate(ms)
	}
	slices.SortFunc(out, time.Time.Compare)
	return out
}
