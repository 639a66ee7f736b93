package drain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// failing is a session whose first listings fail.
type failing struct {
	empty
	times *int
}

func (f failing) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	if *f.times > 0 {
		*f.times--
		return func(yield func(dtm.Page, error) bool) { yield(dtm.Page{}, &dtm.APIError{Status: 500}) }
	}
	return f.empty.List(ctx, q)
}

// TestLateSweep: when changes were not looked for to the end for long, each run says so.
func TestLateSweep(t *testing.T) {
	const never = -1
	for _, c := range []struct {
		name     string
		last     time.Duration // since the last complete sweep
		window   time.Duration
		failures int
		dryRun   bool
		late     bool
	}{
		{name: "it fails, and for long", last: 3 * time.Hour, window: time.Hour, failures: 9, late: true},
		{name: "it fails, and was complete lately", last: time.Hour, window: time.Hour, failures: 9},
		{name: "it is complete again", last: 3 * time.Hour, window: time.Hour},
		{name: "it never was complete", last: never, window: time.Hour, failures: 9, late: true},
		{name: "nobody wants it", last: never},
		{name: "a dry run", last: 3 * time.Hour, window: time.Hour, failures: 9, dryRun: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now().UTC()
				s := newMemoryStore()
				s.feed = state.Feed{
					BeginsAt: now.Add(-4 * time.Hour), FirstRun: now.Add(-3 * time.Hour), End: now.Add(-time.Minute),
					Filter: dtm.Filter{}.String(), FilterSince: now.Add(-3 * time.Hour),
				}
				if c.last != never {
					s.feed.LastSweep = now.Add(-c.last)
				}
				var asked []string
				var logs bytes.Buffer
				r := &Runner{
					Feed: "f", RunID: "r", Store: s, Usage: usageOf(s, dtm.NewMeter(100)), Log: slog.New(slog.NewJSONHandler(&logs, nil)),
					Options: Options{
						Workers: 1, PageSize: 10, InitialLookback: time.Hour, MaxLookback: 1e6 * time.Hour, Budget: 10 * time.Minute,
						UpdatesWindow: c.window,
					},
					KeyID:        func(context.Context) (string, error) { return "k", nil },
					NewProcessor: func(ledger.Options) Processor { return idle{} },
					LiveAPI:      empty{name: "live", asked: &asked},
					SweepAPI:     failing{empty: empty{name: "sweep", asked: &asked}, times: &c.failures},
					BackfillAPI:  empty{name: "backfill", asked: &asked},
				}
				_, _ = r.Live(t.Context(), "schedule", c.dryRun)
				if late := strings.Contains(logs.String(), `"event":"sweep_late","feed":"f","last_sweep":`); late != c.late {
					t.Errorf("it is told: %t, want %t\n%s", late, c.late, logs.String())
				}
			})
		})
	}
}

// lengthy is a session whose first listing takes longer than the live feed waits
// for its turn.
type lengthy struct {
	empty
	first *bool
}

func (s lengthy) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		if *s.first {
			*s.first = false
			time.Sleep(liveEvery + time.Second)
		}
		s.empty.List(ctx, q)(yield)
	}
}

// TestFailedSweep: a sweep that fails holds up no backfill, and the run says so;
// unless a later sweep of the same run makes up for it.
func TestFailedSweep(t *testing.T) {
	for _, c := range []struct {
		name     string
		failures int
		outcome  string
	}{
		{"once", 1, OK},
		{"each time", 9, Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now().UTC()
				s := newMemoryStore(state.Backfill{
					ID: "b-1", State: state.Pending, Filter: dtm.Filter{}.String(), Since: at(0), Until: at(10),
					Slices: []state.Slice{{From: at(0), To: at(10), DoneUntil: at(0)}},
				})
				s.feed = state.Feed{
					BeginsAt: now.Add(-2 * time.Hour), FirstRun: now.Add(-time.Hour), End: now.Add(-time.Minute), Unfinished: []string{"b-1"},
					Filter: dtm.Filter{}.String(), FilterSince: now.Add(-time.Hour),
				}
				var asked []string
				failures, first := c.failures, true
				r := &Runner{
					Feed: "f", RunID: "r", Store: s, Usage: usageOf(s, dtm.NewMeter(100)), Log: slog.New(slog.DiscardHandler),
					Options: Options{
						Workers: 1, PageSize: 10, InitialLookback: time.Hour, MaxLookback: 1e6 * time.Hour, Budget: 10 * time.Minute,
						UpdatesWindow: time.Hour,
					},
					KeyID:        func(context.Context) (string, error) { return "k", nil },
					NewProcessor: func(ledger.Options) Processor { return idle{} },
					LiveAPI:      empty{name: "live", asked: &asked},
					SweepAPI:     failing{empty{name: "sweep", asked: &asked}, &failures},
					BackfillAPI:  lengthy{empty{name: "backfill", asked: &asked}, &first},
				}
				report, err := r.Live(t.Context(), "schedule", false)
				var api *dtm.APIError
				if report.Outcome != c.outcome || (c.outcome == Failed) != errors.As(err, &api) {
					t.Errorf("the run ends as %s: %v", report.Outcome, err)
				}
				if got := s.records["b-1"].State; got != state.Done {
					t.Errorf("the backfill is %s: %v", got, asked)
				}
			})
		})
	}
}

// delayed is a session whose every listing takes its time.
type delayed struct {
	empty
	takes time.Duration
}

func (s delayed) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		time.Sleep(s.takes)
		s.empty.List(ctx, q)(yield)
	}
}

// TestLongSweep: where each sweep takes longer than the live feed waits for its turn,
// backfills are worked all the same.
func TestLongSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC()
		s := newMemoryStore(state.Backfill{
			ID: "b-1", State: state.Pending, Filter: dtm.Filter{}.String(), Since: at(0), Until: at(10),
			Slices: []state.Slice{{From: at(0), To: at(10), DoneUntil: at(0)}},
		})
		s.feed = state.Feed{
			BeginsAt: now.Add(-2 * time.Hour), FirstRun: now.Add(-time.Hour), End: now.Add(-time.Minute), Unfinished: []string{"b-1"},
			Filter: dtm.Filter{}.String(), FilterSince: now.Add(-time.Hour),
		}
		var asked []string
		r := &Runner{
			Feed: "f", RunID: "r", Store: s, Usage: usageOf(s, dtm.NewMeter(100)), Log: slog.New(slog.DiscardHandler),
			Options: Options{
				Workers: 1, PageSize: 10, InitialLookback: time.Hour, MaxLookback: 1e6 * time.Hour, Budget: 10 * time.Minute,
				UpdatesWindow: time.Hour,
			},
			KeyID:        func(context.Context) (string, error) { return "k", nil },
			NewProcessor: func(ledger.Options) Processor { return idle{} },
			LiveAPI:      empty{name: "live", asked: &asked},
			SweepAPI:     delayed{empty{name: "sweep", asked: &asked}, liveEvery + time.Second},
			BackfillAPI:  delayed{empty{name: "backfill", asked: &asked}, time.Second},
		}
		report, err := r.Live(t.Context(), "schedule", false)
		if err != nil || report.Outcome != OK || s.records["b-1"].State != state.Done {
			t.Errorf("the run ends as %s (%v), and the backfill is %s: %v", report.Outcome, err, s.records["b-1"].State, asked)
		}
	})
}

// TestARefusedSweepIsRemembered: GTI refuses the since of a sweep once a day, also when
// the process stands still for a moment before it asks.
func TestARefusedSweepIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := dtmsim.New(dtmsim.Options{Key: "key", SinceMaxAge: 120 * time.Hour, SinceTooOld: dtmsim.Reject}, nil)
		s := newStore(t)
		for i := range 4 {
			r := newRun(t, s, api.RoundTripper(), new(topic))
			r.RunID, r.Options.UpdatesWindow = fmt.Sprint("run-", i), 720*time.Hour
			var asked atomic.Int64
			r.Now = func() time.Time { return time.Now().Add(time.Duration(asked.Add(1)) * 7 * time.Millisecond) }
			if report, err := r.Live(t.Context(), "schedule", false); err != nil || report.Outcome != OK {
				t.Fatal(report.Outcome, err)
			}
			time.Sleep(5 * time.Minute)
		}
		if n := api.Stats().Errors; n != 1 {
			t.Errorf("GTI has refused %d times", n)
		}
	})
}

// refusing answers 400 to a since that is too old, in words that may be a proxy's.
type refusing struct {
	http.RoundTripper
	status int
	body   string
	first  bool // only the first such request, as a proxy may
	errors int
}

func (r *refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	since, err := time.Parse(time.RFC3339, req.URL.Query().Get("since"))
	if err != nil || !since.Before(time.Now().Add(-120*time.Hour)) || r.first && r.errors > 0 {
		return r.RoundTripper.RoundTrip(req)
	}
	r.errors++
	return &http.Response{StatusCode: r.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(r.body)), Request: req}, nil
}

// TestSinceRefusedInOtherWords: a since is taken for refused whatever the words, when a
// later one is answered, and GTI is asked once a day; a single such answer is a proxy's.
func TestSinceRefusedInOtherWords(t *testing.T) {
	for body, want := range map[string]int{
		`{"error":{"code":"BadRequestError"}}`: 1,
		`{"error":{"code":"NotAvailableYet"}}`: 1,
		`{"message":"since"}`:                  1,
		`{"error":"since"}`:                    2,
		`{"error":{"code":400,"message":"m"}}`: 2,
		`{"detail":"since"}`:                   2,
		`since`:                                2,
		`<html></html>`:                        2,
		``:                                     2,
	} {
		for _, status := range []int{http.StatusBadRequest, http.StatusUnprocessableEntity} {
			synctest.Test(t, func(t *testing.T) {
				old := dtmsim.Alert{ID: "old", CreatedAt: time.Now().Add(-150 * time.Hour)}
				api := dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{old, {ID: "new", CreatedAt: time.Now().Add(-time.Hour)}})
				s, to, gti := newStore(t), &topic{}, &refusing{RoundTripper: api.RoundTripper(), status: status, body: body}
				for range 3 {
					r := newRun(t, s, gti, to)
					r.Options.InitialLookback, r.Options.UpdatesWindow = 200*time.Hour, 720*time.Hour
					if report, err := r.Live(t.Context(), "schedule", false); err != nil || report.Outcome != OK {
						t.Fatalf("%s: %s, %v", body, report.Outcome, err)
					}
					time.Sleep(5 * time.Minute)
				}
				feed, err := s.Open(t.Context(), "f", "")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{"new"}, to.ids); diff != "" || len(feed.Feed.Gaps) != 1 || feed.Feed.LastSweep.IsZero() {
					t.Errorf("%s: gaps %v, last sweep %v, %s", body, feed.Feed.Gaps, feed.Feed.LastSweep, diff)
				}
				if gti.errors != want {
					t.Errorf("%d %s: %d refusals, want %d", status, body, gti.errors, want)
				}
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		old := dtmsim.Alert{ID: "old", CreatedAt: time.Now().Add(-150 * time.Hour)}
		s, to := newStore(t), &topic{}
		r := newRun(t, s, &refusing{RoundTripper: dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{old}).RoundTripper(), status: http.StatusBadRequest, body: "bad gateway", first: true}, to)
		r.Options.InitialLookback = 200 * time.Hour
		if _, err := r.Live(t.Context(), "schedule", false); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"old"}, to.ids); diff != "" {
			t.Errorf("after a proxy's answer: %s", diff)
		}
	})
}
