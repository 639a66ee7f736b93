package drain

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// limited is a processor that records what was created before a moment, and ends there.
type limited struct {
	recordingProcessor
	before time.Time
	err    error // nil: the run may publish no more
}

func (l *limited) Process(ctx context.Context, alerts []dtm.Alert, allowance ledger.Allowance) (ledger.Counts, error) {
	for i, a := range alerts {
		if !a.CreatedAt.Before(l.before) {
			counts, _ := l.recordingProcessor.Process(ctx, alerts[:i], allowance)
			return counts, l.err
		}
	}
	return l.recordingProcessor.Process(ctx, alerts, allowance)
}

// TestPositionFollowsTheRecords: no progress that is stored passes an alert that was not
// recorded, be it that its publish failed, or that the run may publish no more.
func TestPositionFollowsTheRecords(t *testing.T) {
	failed := errors.New("the topic is gone")
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"a publish fails", failed, failed},
		{"the run may publish no more", nil, errCap},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := &scripted{listings: [][]scriptedPage{{page("a", 1, 2, 3, 4), page("b", 5, 6, 7, 8), page("", 9)}}}
				processor := &limited{before: sec(6), err: c.err}
				begin := Progress{Slices: []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}}}
				saved := 0
				e := &engine{
					opts:   Options{Workers: 1, PageSize: 4, Refs: true, MaxLookback: 120 * time.Hour, Overlap: time.Minute},
					source: source, processor: processor, report: &Report{},
					save: func(p Progress) {
						saved++
						position := state.Feed{Slices: p.Slices, End: sec(1000)}.Position()
						if position.After(sec(6)) {
							t.Errorf("the position %s passes the alert of %s, which was not recorded", position, sec(6))
						}
					},
					onGap: func(state.Gap) {},
				}
				if err := e.run(deadlines{working: t.Context(), fetching: t.Context()}, begin); !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
				if got := strings.Join(processor.published, " "); got != "1 2 3 4 5" {
					t.Errorf("recorded (-want +got):\n%s", cmp.Diff("1 2 3 4 5", got))
				}
				if saved == 0 {
					t.Error("no progress was stored")
				}
			})
		})
	}
}

// exclusive lists an alert for each of so many milliseconds from sec(0) on, and neither
// what was created at since nor at until.
type exclusive int

func (n exclusive) List(_ context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		var page dtm.Page
		for i := range n {
			created := sec(0).Add(time.Duration(i) * ms)
			if !created.After(q.Since) || !created.Before(q.Until) {
				continue
			}
			page.Alerts = append(page.Alerts, dtm.Alert{ID: fmt.Sprint(i), CreatedAt: created, UpdatedAt: created})
			if len(page.Alerts) == q.Size {
				page.Next, page.AskedAt = fmt.Sprint(i), time.Now()
				time.Sleep(100 * time.Millisecond) // so that workers wait, and slices are split
				if !yield(page, nil) {
					return
				}
				page = dtm.Page{}
			}
		}
		page.AskedAt = time.Now()
		yield(page, nil)
	}
}

// everything is a processor that several workers may use.
type everything struct {
	sync.Mutex
	ids map[string]bool
}

func (e *everything) Process(_ context.Context, alerts []dtm.Alert, _ ledger.Allowance) (ledger.Counts, error) {
	e.Lock()
	defer e.Unlock()
	counts := ledger.Counts{Handled: len(alerts)}
	for _, a := range alerts {
		if !e.ids[a.ID] {
			e.ids[a.ID] = true
			counts.Created++
		}
	}
	return counts, nil
}

// TestNoMillisecondIsLeftOut, neither at the ends of what is asked for, whose bounds GTI
// may exclude, nor where slices are split.
func TestNoMillisecondIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 2000
		processor := &everything{ids: map[string]bool{}}
		e := &engine{
			opts:   Options{Workers: 4, PageSize: 4, Refs: true, MaxLookback: 120 * time.Hour, Overlap: time.Minute},
			source: exclusive(n), processor: processor, report: &Report{},
			save: func(Progress) {}, onGap: func(state.Gap) {},
		}
		begin := Progress{Slices: []state.Slice{{From: sec(0), To: sec(0).Add(n * ms), DoneUntil: sec(0)}}}
		if err := e.run(deadlines{working: t.Context(), fetching: t.Context()}, begin); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if !processor.ids[fmt.Sprint(i)] {
				t.Errorf("the alert of millisecond %d is left out", i)
			}
		}
		if e.report.Splits == 0 {
			t.Error("nothing was split")
		}
	})
}

// TestReserve: of MAX_ALERTS_PER_RUN nothing is taken by what is not published, whichever
// worker has reserved it.
func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetching, end := context.WithCancel(t.Context())
		e := &engine{opts: Options{MaxAlerts: 10}, allowance: 10, deadlines: deadlines{fetching: fetching}}
		e.changed = sync.NewCond(&e.mu)
		ask := func(n int) <-chan int {
			got := make(chan int, 1)
			go func() { got <- e.Reserve(n) }()
			synctest.Wait()
			return got
		}
		if n := <-ask(25); n != 10 || e.isCapReached() {
			t.Fatalf("of 25 alerts %d may be published, reached %t", n, e.isCapReached())
		}
		second := ask(5)
		if len(second) != 0 {
			t.Fatal("another worker doesn't wait for what may come back")
		}
		e.Return(10) // all were dropped
		if n := <-second; n != 5 {
			t.Errorf("of 5 alerts %d may be published", n)
		}
		if n := <-ask(7); n != 5 {
			t.Errorf("of 7 alerts %d may be published, and 5 are left", n)
		}
		third := ask(1)
		e.Return(0)
		e.Return(0)
		if n := <-third; n != 0 || !e.isCapReached() {
			t.Errorf("%d more may be published, reached %t", n, e.isCapReached())
		}
		e.allowance, e.reserving = 0, 1
		last := ask(1)
		end()
		e.changed.Broadcast() // as engine.run does
		if n := <-last; n != 0 {
			t.Errorf("after fetching %d may be published", n)
		}
	})
}

// TestAFailedBackfillCoversNothing: what it has not read stays a gap, and the next audits'.
func TestAFailedBackfillCoversNothing(t *testing.T) {
	gap := state.Gap{TimeRange: state.TimeRange{Since: at(10), Until: at(20)}}
	for _, kind := range []string{"", state.Audit} {
		feed := state.Feed{Gaps: []state.Gap{gap}, FilterPast: []state.TimeRange{gap.TimeRange}, AuditedUntil: at(5)}
		w := held(t, feed)
		w.conclude(state.Backfill{ID: "b", Kind: kind, State: state.Failed, Since: at(0), Until: at(100)})
		f := w.holder.Feed()
		if diff := cmp.Diff(feed.Gaps, f.Gaps); diff != "" {
			t.Errorf("kind %q: gaps (-want +got):\n%s", kind, diff)
		}
		if diff := cmp.Diff(feed.FilterPast, f.FilterPast); diff != "" {
			t.Errorf("kind %q: read with another filter (-want +got):\n%s", kind, diff)
		}
		if !f.AuditedUntil.Equal(at(5)) {
			t.Errorf("kind %q: audited until %s, want %s", kind, f.AuditedUntil, at(5))
		}
	}
}

// TestWhatABackfillCovers: one that took longer than GTI looks back has read its end before
// the last alerts came into the index, and the gap that was found since holds them.
func TestWhatABackfillCovers(t *testing.T) {
	gap := state.Gap{TimeRange: state.TimeRange{Since: at(10), Until: at(20)}}
	for _, c := range []struct {
		name            string
		asked, finished time.Time
		want            []state.Gap
	}{
		{"at once", at(20), at(21), nil},
		{"for days", at(25), at(25).Add(5 * 24 * time.Hour), []state.Gap{{TimeRange: state.TimeRange{Since: at(15), Until: at(20)}}}},
		{"for days, and all of it was old", at(30), at(30).Add(5 * 24 * time.Hour), nil},
		{"for days, and all of it was young", at(20), at(20).Add(5 * 24 * time.Hour), []state.Gap{gap}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := held(t, state.Feed{Gaps: []state.Gap{gap}})
			w.runner.Options.MaxLookback, w.runner.Options.Overlap = 120*time.Hour, 10*time.Second
			w.conclude(state.Backfill{ID: "b", State: state.Done, Since: at(10), Until: at(20), RequestedAt: c.asked, FinishedAt: c.finished})
			if diff := cmp.Diff(c.want, w.holder.Feed().Gaps); diff != "" {
				t.Errorf("gaps (-want +got):\n%s", diff)
			}
		})
	}
}

// TestARefusalIsNoted, so that the next runs don't earn the error again.
func TestARefusalIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stored Progress
		e := &engine{
			opts:   Options{Workers: 1, PageSize: 4, Refs: true, MaxLookback: 20 * time.Hour, Overlap: time.Minute},
			source: &scripted{listings: [][]scriptedPage{{fails(errOld)}, {page("")}}}, processor: &recordingProcessor{}, report: &Report{},
			save: func(p Progress) { stored = p }, onGap: func(state.Gap) {},
		}
		begin := Progress{Slices: []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}}}
		if err := e.run(deadlines{working: t.Context(), fetching: t.Context()}, begin); err != nil {
			t.Fatal(err)
		}
		want := &state.Refusal{At: time.Now().UTC(), Age: 24 * time.Hour} // a bubble begins so long after sec(0)
		if diff := cmp.Diff(want, stored.Refusal); diff != "" {
			t.Errorf("refusal (-want +got):\n%s", diff)
		}
	})
}

// held is work on a feed whose lease is held until the test ends.
func held(t *testing.T, feed state.Feed) *work {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // which ends before the cleanup
	holder, err := state.Acquire(ctx, newStore(t), "f", "r", feed, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := holder.Release(ctx, func(*state.Feed) {}); err != nil {
			t.Error(err)
		}
	})
	return &work{
		runner:    &Runner{Log: slog.New(slog.DiscardHandler), Options: Options{AuditWindow: 72 * time.Hour}},
		deadlines: deadlines{caller: t.Context()}, holder: holder,
	}
}

// TestWhatASweepCovers: it takes away what is owed of the overlap only when it has looked
// back as far, and counts as one of the overlap only when it has read all of it.
func TestWhatASweepCovers(t *testing.T) {
	owed := state.TimeRange{Since: at(10), Until: at(20)}
	for _, c := range []struct {
		name         string
		feed         state.Feed
		back         time.Time
		wholly       bool
		owes, covers bool // afterwards
	}{
		{"all of it", state.Feed{Owed: owed}, at(10), true, false, true},
		{"what was listed while it was young", state.Feed{RereadFrom: at(10)}, at(10), true, false, true},
		{"not so far back", state.Feed{Owed: owed}, at(11), true, true, false},
		{"not as far as what was listed while it was young", state.Feed{RereadFrom: at(10)}, at(11), true, true, false},
		{"a short one", state.Feed{}, at(10), false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := held(t, c.feed)
			w.coverOverlap(at(30), c.back, c.wholly)
			f := w.holder.Feed()
			if owes := !f.Owed.Since.IsZero() || !f.RereadFrom.IsZero(); owes != c.owes {
				t.Errorf("owed %v, to be read again from %v", f.Owed, f.RereadFrom)
			}
			if covers := f.SweptOverlap.Equal(at(30)); covers != c.covers {
				t.Errorf("the overlap was swept at %v", f.SweptOverlap)
			}
		})
	}
}

// unreleased is a database that takes no document without a lease.
type unreleased struct{ state.Store }

func (u unreleased) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (state.Revision, error) {
	if f.Lease == nil {
		return "", errors.New("the database is gone")
	}
	return u.Store.WriteFeed(ctx, feed, f, v)
}

// TestAFailedCheckpointIsAFailedRun, and its report has the position that is stored.
func TestAFailedCheckpointIsAFailedRun(t *testing.T) {
	store := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, store)
		api := wire(func(*http.Request) reply { return alertsOf() })
		report, err := newRun(t, unreleased{store}, api, &topic{}).Live(t.Context(), "schedule", false)
		if report.Outcome != Failed || err == nil {
			t.Errorf("it ends as %s: %v", report.Outcome, err)
		}
		if diff := cmp.Diff(report.PositionBefore, report.PositionAfter); diff != "" {
			t.Errorf("the position moves (-before +after):\n%s", diff)
		}
	})
}
