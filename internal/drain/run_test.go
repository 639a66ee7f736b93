package drain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// wire answers the client's requests in place of a network.
type wire func(r *http.Request) reply

type reply struct {
	status     int
	retryAfter string
	body       string
	next       string // the token of the next link
}

func (f wire) RoundTrip(r *http.Request) (*http.Response, error) {
	a := f(r)
	header := http.Header{}
	if a.retryAfter != "" {
		header.Set("Retry-After", a.retryAfter)
	}
	if a.next != "" {
		header.Set("Link", `<https://gti.example/api/v3/dtm/alerts?page=`+a.next+`>; rel="next"`)
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	default:
		return &http.Response{StatusCode: a.status, Header: header, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
	}
}

// What a request is for.
func isOne(r *http.Request) bool   { return !strings.HasSuffix(r.URL.Path, "/alerts") }
func isSweep(r *http.Request) bool { return r.URL.Query().Get("sort") == "updated_at" }
func isLive(r *http.Request) bool {
	return !isOne(r) && !isSweep(r) && r.URL.Query().Get("refs") == "true"
}

func alertsOf(all ...string) reply { return reply{body: `{"alerts":[` + strings.Join(all, ",") + `]}`} }

type key struct{}

func (key) Key(context.Context) (string, error)           { return "key", nil }
func (key) Renew(context.Context, string) (string, error) { return "key", nil }

// topic takes every message, and keeps the alerts' ids.
type topic struct {
	mu  sync.Mutex // workers publish side by side
	ids []string
	// rejected counts what was sent to the topic for that.
	rejected int
}

func (p *topic) Publish(_ context.Context, m []message.Message) []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range m {
		p.ids = append(p.ids, m.Attributes["alert_id"])
	}
	return make([]error, len(m))
}

func (p *topic) Reject(_ context.Context, m []message.Message) []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rejected += len(m)
	return make([]error, len(m))
}

// feedWith is the database of a feed that has run for four hours, with backfills
// of an hour long ago.
func feedWith(t *testing.T, s state.Store, backfills ...state.Backfill) {
	t.Helper()
	now := time.Now().UTC().Truncate(ms)
	filter := dtm.Filter{}.String()
	if _, err := s.WriteFeed(t.Context(), "f", state.Feed{
		BeginsAt: now.Add(-5 * time.Hour), FirstRun: now.Add(-4 * time.Hour), End: now.Add(-5 * time.Minute),
		Filter: filter, FilterSince: now.Add(-4 * time.Hour), LastAudit: now,
	}, ""); err != nil {
		t.Fatal(err)
	}
	for _, b := range backfills {
		b.State, b.Filter, b.RequestedAt = state.Pending, filter, now
		b.Since, b.Until = now.Add(-4*time.Hour), now.Add(-3*time.Hour)
		b.Slices = []state.Slice{{From: b.Since, To: b.Until, DoneUntil: b.Since}}
		if err := s.CreateBackfill(t.Context(), "f", b); err != nil {
			t.Fatal(err)
		}
	}
}

// inTheBackfills is a created_at that lies in feedWith's backfills.
func inTheBackfills() string { return time.Now().UTC().Add(-210 * time.Minute).Format(time.RFC3339) }

func newStore(t *testing.T) state.Store {
	t.Helper()
	s, err := bolt.OpenNoSync(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// newRun is a run with the real client, processor and a store.
func newRun(t *testing.T, s state.Store, api http.RoundTripper, to ledger.Publisher) *Runner {
	t.Helper()
	meter := dtm.NewMeter(1000)
	c, err := dtm.New(dtm.Options{
		BaseURL: "https://gti.example/api/v3", ToolName: "t", UserAgent: "t", Keys: key{}, Meter: meter, Concurrency: 2, QPS: 100, Transport: api,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Runner{
		Feed: "f", RunID: "r", Store: s, Usage: usageOf(s, meter), Log: slog.New(slog.DiscardHandler),
		Options: Options{
			Workers: 2, PageSize: 25, Refs: true, InitialLookback: time.Hour, MaxLookback: 120 * time.Hour, Overlap: 10 * time.Minute,
			Settle: 30 * time.Second, Budget: 9 * time.Minute, UpdatesWindow: 24 * time.Hour,
		},
		KeyID:       func(context.Context) (string, error) { return "k", nil },
		LiveAPI:     c.Session(dtm.Share{Errors: 50, Requests: 1}),
		SweepAPI:    c.Session(dtm.Share{Errors: 35, Requests: 0.9}),
		BackfillAPI: c.Session(dtm.Share{Errors: 35, Requests: 0.6}),
		MonitorsAPI: c.Session(dtm.Share{Errors: 35, Requests: 0.9}).Once(),

		NewProcessor: func(o ledger.Options) Processor {
			return &ledger.Processor{
				Store: s, Publisher: to, Feed: "f", RunID: "r", TTL: 1000 * time.Hour, Options: o,
			}
		},
	}
}

func stateOf(t *testing.T, s state.Store, id string) string {
	t.Helper()
	b, _, err := s.Backfill(t.Context(), "f", id)
	if err != nil {
		t.Fatal(err)
	}
	return b.State
}

// TestSweepThatIsToWait: a wait that is longer than a sweep, and shorter than the
// run, holds up nothing else.
func TestSweepThatIsToWait(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, s, state.Backfill{ID: "b-1"})
		throttled := false
		r := newRun(t, s, wire(func(r *http.Request) reply {
			if isSweep(r) && !throttled {
				throttled = true
				return reply{status: http.StatusTooManyRequests, retryAfter: "45"}
			}
			return alertsOf()
		}), &topic{})
		report, err := r.Live(t.Context(), "schedule", false)
		if report.Outcome != OK || stateOf(t, s, "b-1") != state.Done {
			t.Errorf("the run ends as %s %s after %d ms, the backfill is %s: %v", report.Outcome, report.StopReason, report.DurationMS, stateOf(t, s, "b-1"), err)
		}
	})
}

// TestLeaseThatLiesFarAhead: no run leaves one, and somebody has to hear of it.
func TestLeaseThatLiesFarAhead(t *testing.T) {
	for length, told := range map[time.Duration]bool{state.LeaseFor: false, state.LeaseFor + clockAhead: false, time.Hour: true} {
		s := newStore(t)
		synctest.Test(t, func(t *testing.T) {
			lease := &state.Lease{Owner: "r0", ExpiresAt: time.Now().UTC().Add(length)}
			if _, err := s.WriteFeed(t.Context(), "f", state.Feed{BeginsAt: time.Now().UTC(), Lease: lease}, ""); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			r := newRun(t, s, wire(func(*http.Request) reply { return alertsOf() }), &topic{})
			r.Log = slog.New(slog.NewJSONHandler(&log, nil))
			report, err := r.Live(t.Context(), "schedule", false)
			if err != nil || report.Outcome != Skipped || strings.Contains(log.String(), `"event":"lease"`) != told {
				t.Errorf("%s ahead: %s, %v\n%s", length, report.Outcome, err, &log)
			}
		})
	}
}

// damagedBackfill is a database in which one backfill's record can't be read.
type damagedBackfill struct {
	state.Store
	id  string
	err error
}

func (d damagedBackfill) Backfill(ctx context.Context, feed, id string) (state.Backfill, state.Revision, error) {
	if id == d.id {
		return state.Backfill{}, "", d.err
	}
	return d.Store.Backfill(ctx, feed, id)
}

// TestBackfillThatCannotBeRead fails the run, and holds up no other.
func TestBackfillThatCannotBeRead(t *testing.T) {
	for _, damage := range []error{&state.DamagedError{Err: errors.New("no slices")}, state.ErrSchema} {
		s := newStore(t)
		synctest.Test(t, func(t *testing.T) {
			feedWith(t, s, state.Backfill{ID: "b-1"}, state.Backfill{ID: "b-2"})
			r := newRun(t, damagedBackfill{s, "b-1", damage}, wire(func(*http.Request) reply { return alertsOf() }), &topic{})
			report, err := r.Live(t.Context(), "schedule", false)
			if !errors.Is(err, damage) || report.Outcome != Failed || stateOf(t, s, "b-2") != state.Done {
				t.Errorf("the run ends as %s, the other backfill is %s: %v", report.Outcome, stateOf(t, s, "b-2"), err)
			}
		})
	}
}

// TestBackfillWhoseFilterCannotBeRead was edited by hand. It fails the run, and holds up no
// other.
func TestBackfillWhoseFilterCannotBeRead(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, s, state.Backfill{ID: "b-1"}, state.Backfill{ID: "b-2"})
		b, v, err := s.Backfill(t.Context(), "f", "b-1")
		if err != nil {
			t.Fatal(err)
		}
		b.Filter = `{"status":`
		if _, err := s.WriteBackfill(t.Context(), "f", b, v); err != nil {
			t.Fatal(err)
		}
		report, err := newRun(t, s, wire(func(*http.Request) reply { return alertsOf() }), &topic{}).Live(t.Context(), "schedule", false)
		if err == nil || !strings.Contains(err.Error(), "backfill b-1: reading its filter") || report.Outcome != Failed || stateOf(t, s, "b-2") != state.Done {
			t.Errorf("the run ends as %s, the other backfill is %s: %v", report.Outcome, stateOf(t, s, "b-2"), err)
		}
	})
}

// TestABackfillFinishedByHand is taken off the list of unfinished ones.
func TestABackfillFinishedByHand(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, s, state.Backfill{ID: "b-1"}, state.Backfill{ID: "b-2"})
		b, _, err := s.Backfill(t.Context(), "f", "b-1")
		if err != nil {
			t.Fatal(err)
		}
		b.State = state.Cancelled
		r := newRun(t, edited{s, b}, wire(func(*http.Request) reply { return alertsOf() }), &topic{})
		if report, err := r.Live(t.Context(), "schedule", false); report.Outcome != OK {
			t.Errorf("the run ends as %s: %v", report.Outcome, err)
		}
		if found, err := s.Open(t.Context(), "f", ""); err != nil || len(found.Feed.Unfinished) > 0 || stateOf(t, s, "b-1") != state.Cancelled {
			t.Errorf("unfinished are %v, b-1 is %s: %v", found.Feed.Unfinished, stateOf(t, s, "b-1"), err)
		}
	})
}

// edited is a database in which somebody has changed a backfill's record by hand.
type edited struct {
	state.Store
	record state.Backfill
}

func (e edited) Backfill(ctx context.Context, feed, id string) (state.Backfill, state.Revision, error) {
	b, v, err := e.Store.Backfill(ctx, feed, id)
	if id == e.record.ID {
		b = e.record
	}
	return b, v, err
}

// busy is a database in which others write a backfill's record all the time, once it is done.
type busy struct{ state.Store }

func (s busy) WriteBackfill(ctx context.Context, feed string, b state.Backfill, v state.Revision) (state.Revision, error) {
	if b.State == state.Done {
		return "", state.ErrConflict
	}
	return s.Store.WriteBackfill(ctx, feed, b, v)
}

// TestADoneBackfillThatIsNotStored is not done: what it has covered stays a gap.
func TestADoneBackfillThatIsNotStored(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, s, state.Backfill{ID: "b-1"})
		b, _, err := s.Backfill(t.Context(), "f", "b-1")
		if err != nil {
			t.Fatal(err)
		}
		found, err := s.Open(t.Context(), "f", "")
		if err != nil {
			t.Fatal(err)
		}
		found.Feed.Gaps = []state.Gap{{TimeRange: state.TimeRange{Since: b.Since, Until: b.Until}}}
		if _, err := s.WriteFeed(t.Context(), "f", found.Feed, found.Revision); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			store state.Store
			gaps  int
		}{{busy{s}, 1}, {s, 0}} {
			r := newRun(t, c.store, wire(func(*http.Request) reply { return alertsOf() }), &topic{})
			if report, err := r.Live(t.Context(), "schedule", false); report.Outcome != OK {
				t.Errorf("the run ends as %s: %v", report.Outcome, err)
			}
			found, err := s.Open(t.Context(), "f", "")
			if err != nil || len(found.Feed.Unfinished) != c.gaps || len(found.Feed.Gaps) != c.gaps {
				t.Errorf("unfinished are %v, gaps %v: %v", found.Feed.Unfinished, found.Feed.Gaps, err)
			}
		}
	})
}

// TestSweepInAShortRun: a sweep that can't be read to its end within the run's
// time leaves some of it to the backfill that it becomes.
func TestSweepInAShortRun(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		alerts := make([]dtmsim.Alert, 1500)
		for i := range alerts {
			created := time.Now().UTC().Add(-4*time.Hour + time.Duration(i)*time.Second)
			alerts[i] = dtmsim.Alert{ID: fmt.Sprintf("a%04d", i), Type: "Message", Status: "new", CreatedAt: created, UpdatedAt: created}
		}
		sim := dtmsim.New(dtmsim.Options{Key: "key", Latency: time.Second}, alerts)
		to := &topic{}
		run := func(budget time.Duration) Report {
			t.Helper()
			r := newRun(t, s, sim.RoundTripper(), to)
			r.Options.Refs, r.Options.PageSize, r.Options.InitialLookback, r.Options.Budget = false, 100, 5*time.Hour, budget
			report, err := r.Live(t.Context(), "schedule", false)
			if err != nil {
				t.Fatal(err)
			}
			return report
		}
		run(9 * time.Minute)
		time.Sleep(time.Hour)
		for _, a := range alerts {
			sim.Update(a.ID, func(a *dtmsim.Alert) { a.Status = "closed" })
		}
		var last Report
		for range 15 { // until OVERLAP has passed
			last = run(10 * time.Second)
			time.Sleep(2 * time.Minute)
		}
		if len(to.ids) != 2*len(alerts) || last.Outcome != OK {
			t.Errorf("after some runs %d changes have come, and the last one ends as %s %s", len(to.ids)-len(alerts), last.Outcome, last.StopReason)
		}
	})
}

// TestOthersUseTheSameKey: what other feeds send while a run goes on counts.
func TestOthersUseTheSameKey(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, s, state.Backfill{ID: "b-1"})
		first := time.Now().UTC().Add(-230 * time.Minute)
		r := newRun(t, s, wire(func(r *http.Request) reply {
			if isLive(r) && !r.URL.Query().Has("page") || isSweep(r) {
				if since, _ := time.Parse(time.RFC3339, r.URL.Query().Get("since")); isSweep(r) || since.After(first) {
					return alertsOf()
				}
			}
			time.Sleep(time.Second)
			var n int
			_, _ = fmt.Sscan(r.URL.Query().Get("page"), &n)
			page := alertsOf(fmt.Sprintf(`{"id":"a%d","created_at":%q}`, n, first.Add(time.Duration(n)*time.Second).Format(time.RFC3339)))
			page.next = fmt.Sprint(n + 1)
			return page
		}), &topic{})
		r.Options.Workers = 1
		bucket := time.Now().UTC().Truncate(state.RequestBucket).Unix()
		time.AfterFunc(5*time.Second, func() {
			if err := s.AddUsage(t.Context(), "k", state.Usage{Requests: map[int64]int64{bucket: 600}}, state.Usage{}); err != nil { // of 1,000 a day
				t.Error(err)
			}
		})
		report, err := r.Live(t.Context(), "schedule", false)
		if report.Requests > 25 || stateOf(t, s, "b-1") != state.Running {
			t.Errorf("%d requests, the backfill is %s: %v", report.Requests, stateOf(t, s, "b-1"), err)
		}
	})
}

// TestABackfillAsksAnew: what GTI refused the live feed for its age, it is asked
// for once more when an operator wants it.
func TestABackfillAsksAnew(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, s, state.Backfill{ID: "b-1"})
		found, err := s.Open(t.Context(), "f", "k")
		if err != nil {
			t.Fatal(err)
		}
		found.Feed.Refusal = &state.Refusal{At: time.Now().Add(-time.Hour), Age: 2 * time.Hour}
		if _, err := s.WriteFeed(t.Context(), "f", found.Feed, found.Revision); err != nil {
			t.Fatal(err)
		}
		to := &topic{}
		r := newRun(t, s, wire(func(r *http.Request) reply {
			since, _ := time.Parse(time.RFC3339, r.URL.Query().Get("since"))
			if isLive(r) && time.Since(since) > 230*time.Minute {
				return alertsOf(fmt.Sprintf(`{"id":"a1","created_at":%q}`, inTheBackfills()))
			}
			return alertsOf()
		}), to)
		r.Options.MaxLookback = 210 * time.Minute // what the API is known to answer for begins within the backfill
		if _, err := r.Live(t.Context(), "schedule", false); err != nil || len(to.ids) != 1 || stateOf(t, s, "b-1") != state.Done {
			t.Errorf("published %v, the backfill is %s: %v", to.ids, stateOf(t, s, "b-1"), err)
		}
	})
}

// TestWaitForOneAlert: an alert that is fetched by its id keeps nobody waiting for
// longer than the run has.
func TestWaitForOneAlert(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, s, state.Backfill{ID: "audit-2000-01-01", Kind: state.Audit})
		created := inTheBackfills()
		r := newRun(t, s, wire(func(r *http.Request) reply {
			switch {
			case isOne(r):
				return reply{status: http.StatusTooManyRequests, retryAfter: "3600"}
			case isLive(r), isSweep(r):
				return alertsOf()
			}
			return alertsOf(`{"id":"a","created_at":"` + created + `"}`)
		}), &topic{})
		began := time.Now()
		report, err := r.Live(t.Context(), "schedule", false)
		if took := time.Since(began); report.Outcome != Partial || report.StopReason != StopWait || report.Wait != time.Hour || !strings.Contains(report.WaitCause, "GTI answered 429") || took > time.Second {
			t.Errorf("the run ends as %s %s after %v: %v", report.Outcome, report.StopReason, took, err)
		}
		if got := stateOf(t, s, "audit-2000-01-01"); got != state.Running {
			t.Errorf("the audit is %s", got)
		}
	})
}

// TestStopsWhileOpening: a run that is told to stop before it has begun has not failed, and
// a dry backfill says why it counted nothing.
func TestStopsWhileOpening(t *testing.T) {
	denied := errors.New("access to the secret is refused")
	waits := func(ctx context.Context) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	for name, c := range map[string]struct {
		key             func(ctx context.Context) (string, error)
		outcome, reason string
		said            string
	}{
		"SIGTERM":   {waits, Partial, StopShutdown, "it was not counted to the end: shutdown"},
		"no answer": {waits, Failed, StopError, context.DeadlineExceeded.Error()},
		"no key":    {func(context.Context) (string, error) { return "", ErrKeyMissing }, Failed, StopKeyMissing, ErrKeyMissing.Error()},
		"no rights": {func(context.Context) (string, error) { return "", denied }, Failed, StopError, denied.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				r := newRun(t, s, wire(func(*http.Request) reply { return alertsOf() }), &topic{})
				r.KeyID = c.key
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(time.Minute, cancel)
				if name == "SIGTERM" {
					time.AfterFunc(time.Second, cancel)
				}
				report, err := r.Live(ctx, "schedule", false)
				if report.Outcome != c.outcome || report.StopReason != c.reason || (err != nil) != (c.outcome == Failed) {
					t.Errorf("the run ends as %s %s: %v", report.Outcome, report.StopReason, err)
				}
				b, err := r.DryBackfill(ctx, state.Backfill{ID: "b", State: state.Pending, Filter: "{}"})
				if b.State != state.Failed || b.Error != c.said || (err != nil) != (c.outcome == Failed) {
					t.Errorf("the dry backfill is %s, %q: %v", b.State, b.Error, err)
				}
			})
		})
	}
}

// TestADryRunCountsAll: MAX_ALERTS_PER_RUN bounds what is published.
func TestADryRunCountsAll(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		alerts := everyMinute(55*time.Minute, -5*time.Minute)
		run := func() *Runner {
			r := newRun(t, s, dtmsim.New(dtmsim.Options{}, alerts).RoundTripper(), &topic{})
			r.Options.MaxAlerts = 10
			return r
		}
		report, err := run().Live(t.Context(), "schedule", true)
		if n := *report.WouldPublish; report.Outcome != OK || n != int64(len(alerts)) {
			t.Errorf("the run ends as %s %s and would publish %d of %d alerts: %v", report.Outcome, report.StopReason, n, len(alerts), err)
		}
		b := state.Backfill{ID: "b", Filter: "{}", Since: now.Add(-time.Hour), Until: now}
		b.Slices = []state.Slice{{From: b.Since, To: b.Until, DoneUntil: b.Since}}
		b, err = run().DryBackfill(t.Context(), b)
		if b.State != state.Done || b.WouldPublish != int64(len(alerts)) {
			t.Errorf("the backfill is %s (%s) and would publish %d of %d alerts: %v", b.State, b.Error, b.WouldPublish, len(alerts), err)
		}
	})
}

// TestStopsAmongSingleAlerts: a page of alerts that are fetched one by one ends
// with the run, and does not keep the live feed from its turn.
func TestStopsAmongSingleAlerts(t *testing.T) {
	for _, c := range []struct {
		name             string
		budget, shutdown time.Duration
		within           time.Duration
		reason           string
	}{
		{name: "SIGTERM", budget: 9 * time.Minute, shutdown: 5 * time.Second, within: 6 * time.Second, reason: StopShutdown},
		{name: "the budget", budget: 20 * time.Second, within: 21 * time.Second, reason: StopBudget},
		{name: "the live feed's turn", budget: 9 * time.Minute, within: 9 * time.Minute, reason: StopDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				feedWith(t, s, state.Backfill{ID: "audit-2000-01-01", Kind: state.Audit})
				var all []string
				created := inTheBackfills()
				for i := range 100 {
					all = append(all, fmt.Sprintf(`{"id":"a%d","created_at":%q}`, i, created))
				}
				began := time.Now()
				asked, longest := began, time.Duration(0)
				to := &topic{}
				r := newRun(t, s, wire(func(r *http.Request) reply {
					switch {
					case isOne(r):
						select {
						case <-time.After(3 * time.Second):
						case <-r.Context().Done():
						}
						_, id, _ := strings.Cut(r.URL.Path, "/alerts/")
						return reply{body: fmt.Sprintf(`{"id":%q,"created_at":%q,"doc":{}}`, id, created)}
					case isSweep(r):
						return alertsOf()
					case isLive(r):
						longest, asked = max(longest, time.Since(asked)), time.Now()
						return alertsOf()
					}
					return alertsOf(all...)
				}), to)
				r.Options.Budget = c.budget
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.shutdown > 0 {
					time.AfterFunc(c.shutdown, cancel)
				}
				report, err := r.Live(ctx, "schedule", false)
				if took := time.Since(began); report.StopReason != c.reason || took > c.within {
					t.Errorf("the run ends as %s %s after %v: %v", report.Outcome, report.StopReason, took, err)
				}
				if longest > 90*time.Second {
					t.Errorf("the live feed had no turn for %v", longest)
				}
				if c.reason == StopDone && len(to.ids) != 100 {
					t.Errorf("%d of 100 were published", len(to.ids))
				}
			})
		})
	}
}

// TestSlowSingleAlerts: also where an alert that is fetched by its id takes longer
// than there is time for, the others are published, and the next backfill is worked.
func TestSlowSingleAlerts(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes func(id string) time.Duration
		most  int // that are not published
	}{
		{"each of them takes its time", func(string) time.Duration { return 20 * time.Second }, 0},
		{"one is never answered", func(id string) time.Duration {
			if id == "a3" {
				return time.Hour
			}
			return 0
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				feedWith(t, s, state.Backfill{ID: "audit-2000-01-01", Kind: state.Audit}, state.Backfill{ID: "b-1"})
				created := inTheBackfills()
				var all []string
				for i := range 12 { // more than are fetched at a time
					all = append(all, fmt.Sprintf(`{"id":"a%d","created_at":%q}`, i, created))
				}
				to := &topic{}
				api := wire(func(r *http.Request) reply {
					switch {
					case isOne(r):
						_, id, _ := strings.Cut(r.URL.Path, "/alerts/")
						select {
						case <-time.After(c.takes(id)):
						case <-r.Context().Done():
						}
						return reply{body: fmt.Sprintf(`{"id":%q,"created_at":%q,"doc":{}}`, id, created)}
					case isLive(r), isSweep(r):
						return alertsOf()
					}
					return alertsOf(all...)
				})
				for range 2 {
					if report, err := newRun(t, s, api, to).Live(t.Context(), "schedule", false); err != nil {
						t.Fatalf("%s: %v", report.Outcome, err)
					}
				}
				if len(to.ids) < len(all)-c.most || stateOf(t, s, "b-1") != state.Done {
					t.Errorf("%d of %d are published, and the backfill after them is %s", len(to.ids), len(all), stateOf(t, s, "b-1"))
				}
			})
		})
	}
}

// TestOneUnreadableAlert is published as it was listed: it holds up no others.
func TestOneUnreadableAlert(t *testing.T) {
	for name, filter := range map[string]dtm.Filter{"audit": {}, "came to match": {Severity: []string{"high"}}} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				feedWith(t, s, state.Backfill{ID: "audit-2000-01-01", Kind: state.Audit}, state.Backfill{ID: "b-1"})
				created, updated := inTheBackfills(), time.Now().UTC().Format(time.RFC3339)
				listed := func(id string) string {
					return fmt.Sprintf(`{"id":%q,"created_at":%q,"updated_at":%q}`, id, created, updated)
				}
				to := &topic{}
				r := newRun(t, s, wire(func(r *http.Request) reply {
					switch {
					case strings.HasSuffix(r.URL.Path, "/bad"):
						return reply{body: `{"id":"bad","created_at":`}
					case isOne(r):
						return reply{body: listed("good")}
					case isLive(r), isSweep(r) && r.URL.Query().Get("severity") == "":
						return alertsOf()
					}
					return alertsOf(listed("bad"), listed("good"))
				}), to)
				r.Options.Filter = filter
				report, err := r.Live(t.Context(), "schedule", false)
				if report.Outcome != OK || len(to.ids) != 2 || stateOf(t, s, "b-1") != state.Done {
					t.Errorf("the run ends as %s, published %v, the backfill is %s: %v", report.Outcome, to.ids, stateOf(t, s, "b-1"), err)
				}
			})
		})
	}
}

// shortListings is a session that can read only short listings.
type shortListings struct{ empty }

func (s shortListings) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	if q.Until.Sub(q.Since) < 5*time.Second {
		return s.empty.List(ctx, q)
	}
	return func(yield func(dtm.Page, error) bool) {
		yield(dtm.Page{}, &dtm.PageTooLargeError{Size: q.Size, Limit: 1})
	}
}

// TestOversizedAlertInABackfill that can't be got past holds up no younger backfill.
func TestOversizedAlertInABackfill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now, filter := time.Now().UTC(), dtm.Filter{}.String()
		s := newMemoryStore(
			state.Backfill{ID: "b-1", State: state.Pending, Filter: filter, Since: at(0), Until: at(10), Slices: []state.Slice{span3(0, 10, 0)}},
			state.Backfill{ID: "b-2", State: state.Pending, Filter: filter, Since: at(0), Until: at(2), Slices: []state.Slice{span3(0, 2, 0)}},
		)
		s.feed = state.Feed{
			BeginsAt: now.Add(-2 * time.Hour), FirstRun: now.Add(-time.Hour), End: now.Add(-time.Minute), Unfinished: []string{"b-1", "b-2"},
			Filter: filter, FilterSince: now.Add(-time.Hour),
		}
		var asked []string
		r := newRun(t, nil, nil, &topic{})
		r.Store, r.Usage = s, usageOf(s, dtm.NewMeter(1000))
		r.LiveAPI, r.SweepAPI = empty{name: "live", asked: &asked}, empty{name: "sweep", asked: &asked}
		r.BackfillAPI = shortListings{empty{name: "backfill", asked: &asked}}
		r.Options.MaxLookback = 1e6 * time.Hour
		r.NewProcessor = func(ledger.Options) Processor { return idle{} }
		_, err := r.Live(t.Context(), "schedule", false)
		if b := s.records["b-2"]; b.State != state.Done {
			t.Errorf("the younger backfill is %s: %v", b.State, err)
		}
		var large *dtm.PageTooLargeError
		if b := s.records["b-1"]; b.State != state.Running || !strings.Contains(b.Error, "larger than") || errors.As(err, &large) {
			t.Errorf("the first is %s, %q, and the run ends with %v", b.State, b.Error, err)
		}
	})
}

// TestFilterPast: what was read with another filter, and is not pending, is shown.
func TestFilterPast(t *testing.T) {
	r := &Runner{
		Options: Options{Filter: dtm.Filter{Severity: []string{"high"}}, Overlap: 10 * time.Second, InitialLookback: time.Hour},
		Log:     slog.New(slog.DiscardHandler),
	}
	f := state.Feed{
		BeginsAt: at(0), FirstRun: at(0), End: at(1000), Filter: dtm.Filter{}.String(), FilterSince: at(0),
		Slices: []state.Slice{span3(100, 200, 110)}, // what comes after it was read before it
	}
	r.newWork(deadlines{caller: t.Context()}, &Report{}).plan(&f)
	for s := 0; s < 990; s += 10 {
		past := false
		for _, g := range f.FilterPast {
			past = past || !at(s).Before(g.Since) && at(s).Before(g.Until)
		}
		if !past && !unread(f.Slices, at(s)) {
			t.Fatalf("%v was read with the other filter only: %v, pending %v", at(s), f.FilterPast, f.Slices)
		}
	}
}

// TestPendingSlices are 64 at most, wherever the holes between them are.
func TestPendingSlices(t *testing.T) {
	f := state.Feed{BeginsAt: at(0), End: at(2000)}
	for i := range maxSlices {
		f.Slices = append(f.Slices, span3(20*i, 20*i+10, 20*i+5))
	}
	extend(&f, at(2100), Options{})
	if len(f.Slices) > maxSlices || !unread(f.Slices, at(2050)) || !unread(f.Slices, at(20*maxSlices-15)) {
		t.Errorf("%d slices are pending: %v", len(f.Slices), f.Slices[len(f.Slices)-2:])
	}
}

// silent is a database that answers nothing any more from a moment on.
type silent struct {
	state.Store
	from time.Time
}

func (s silent) hang(ctx context.Context) error {
	if time.Now().Before(s.from) {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (s silent) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (state.Revision, error) {
	if err := s.hang(ctx); err != nil {
		return "", err
	}
	return s.Store.WriteFeed(ctx, feed, f, v)
}

func (s silent) WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error) {
	if err := s.hang(ctx); err != nil {
		return nil, err
	}
	return s.Store.WriteRecords(ctx, feed, entries)
}

func (s silent) AddUsage(ctx context.Context, keyID string, add, old state.Usage) error {
	if err := s.hang(ctx); err != nil {
		return err
	}
	return s.Store.AddUsage(ctx, keyID, add, old)
}

// TestTheReportComes before the platform ends the process (10 s after SIGTERM,
// 30 s after the budget), whenever the database falls silent.
func TestTheReportComes(t *testing.T) {
	for _, c := range []struct {
		name  string
		pages int64         // of the live feed, of 5 s each
		run   time.Duration // until SIGTERM, or the end of the budget
		end   time.Duration // after that
	}{
		{"SIGTERM early", 9, 2 * time.Second, 9 * time.Second},
		{"SIGTERM", 9, 24 * time.Second, 9 * time.Second},
		{"SIGTERM when all is done", 1, 22 * time.Second, 9 * time.Second},
		{"the budget", 9, 24 * time.Second, 29 * time.Second},
	} {
		for silence := -time.Second; silence < 25*time.Second; silence += 2 * time.Second {
			t.Run(fmt.Sprint(c.name, " ", silence), func(t *testing.T) {
				store := newStore(t)
				synctest.Test(t, func(t *testing.T) {
					feedWith(t, store)
					first := time.Now().UTC().Add(-4 * time.Minute)
					var pages atomic.Int64 // workers list side by side
					r := newRun(t, silent{store, time.Now().Add(silence)}, wire(func(r *http.Request) reply {
						select {
						case <-time.After(5 * time.Second):
						case <-r.Context().Done():
						}
						if isSweep(r) {
							return alertsOf()
						}
						n := pages.Add(1)
						created := first.Add(time.Duration(n) * time.Second)
						page := alertsOf(fmt.Sprintf(`{"id":"a%d","created_at":%q}`, n, created.Format(time.RFC3339)))
						if n < c.pages {
							page.next = fmt.Sprint(n)
						}
						return page
					}), &topic{})
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if c.name == "the budget" {
						r.Options.Budget = c.run
					} else {
						time.AfterFunc(c.run, cancel)
					}
					began := time.Now()
					report, err := r.Live(ctx, "schedule", false)
					if took := time.Since(began); took > c.run+c.end {
						t.Errorf("the report comes after %v: %s %s %v", took, report.Outcome, report.StopReason, err)
					}
				})
			})
		}
	}
}

// TestASlowDatabaseAtTheEnd: a run that ends by itself waits for it.
func TestASlowDatabaseAtTheEnd(t *testing.T) {
	store := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, store)
		api := wire(func(*http.Request) reply {
			time.Sleep(5 * time.Second)
			return alertsOf()
		})
		report, err := newRun(t, slow15{store, time.Now().Add(9 * time.Second)}, api, &topic{}).Live(t.Context(), "schedule", false)
		if report.Outcome != OK {
			t.Errorf("%s %s %v", report.Outcome, report.StopReason, err)
		}
	})
}

// slow15 is a database that takes 15 s for the feed's document from a moment on.
type slow15 struct {
	state.Store
	from time.Time
}

func (s slow15) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (state.Revision, error) {
	if time.Now().After(s.from) {
		select {
		case <-time.After(15 * time.Second):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	return s.Store.WriteFeed(ctx, feed, f, v)
}

// TestManyBrokenElements: elements that can't be read stop neither the feed nor the
// sweep, however many there are. Each is rejected once, as far as these are the same
// each time.
func TestManyBrokenElements(t *testing.T) {
	for _, n := range []int{1, 7, 9, 30} {
		for _, spread := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprintf("%d of them, %v apart", n, spread), func(t *testing.T) {
				s := newStore(t)
				synctest.Test(t, func(t *testing.T) {
					var alerts []dtmsim.Alert
					for i := range n {
						at := time.Now().Add(-30*time.Minute + time.Duration(i)*spread).Truncate(ms)
						alerts = append(alerts,
							dtmsim.Alert{ID: fmt.Sprintf("%03d-b", i), CreatedAt: at, Raw: fmt.Appendf(nil, `{"id":"%03d-b","severity":NaN}`, i)},
							dtmsim.Alert{ID: fmt.Sprintf("%03d-g", i), CreatedAt: at})
					}
					api, to := dtmsim.New(dtmsim.Options{}, alerts), &topic{}
					for range 3 {
						report, err := newRun(t, s, api.RoundTripper(), to).Live(t.Context(), "schedule", false)
						if err != nil || report.Outcome != OK {
							t.Errorf("the run is %s: %v", report.Outcome, err)
						}
						time.Sleep(5 * time.Minute)
					}
					slices.Sort(to.ids)
					var want []string
					for i := range n {
						want = append(want, fmt.Sprintf("%03d-g", i))
					}
					if diff := cmp.Diff(want, to.ids); diff != "" {
						t.Errorf("published (-want +got):\n%s", diff)
					}
					if to.rejected != n {
						t.Errorf("%d elements were rejected, want %d", to.rejected, n)
					}
				})
			})
		}
	}
}

// TestCoarseOrder: alerts that the API sorts by the second only are all published,
// into however many slices workers cut a backlog.
func TestCoarseOrder(t *testing.T) {
	const size = 25
	seeds := uint64(20)
	if testing.Short() { // with the race detector each takes ten times as long
		seeds = 4
	}
	for seed := range seeds {
		s := newStore(t)
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			var alerts []dtmsim.Alert
			for i := range 24 * size {
				at := time.Now().Add(-30*time.Minute + time.Duration(random.Int64N(int64(20*time.Second))))
				alerts = append(alerts, dtmsim.Alert{ID: fmt.Sprintf("a%03d-%d", random.IntN(1000), i), CreatedAt: at.Truncate(ms)})
			}
			api, to := dtmsim.New(dtmsim.Options{Coarse: time.Second, Latency: time.Second}, alerts), &topic{}
			r := newRun(t, s, api.RoundTripper(), to)
			r.Options.Workers, r.Options.PageSize = 4, size
			if report, err := r.Live(t.Context(), "schedule", false); err != nil || report.Outcome != OK {
				t.Errorf("the run is %s: %v", report.Outcome, err)
			}
			published := map[string]bool{}
			for _, id := range to.ids {
				published[id] = true
			}
			for _, a := range alerts {
				if !published[a.ID] {
					t.Errorf("%s of %v was not published", a.ID, a.CreatedAt)
				}
			}
		})
	}
}

// TestChangeOutOfPlace: a changed alert whose updated_at is older than its place in
// the sweep's listing says, is published like the others.
func TestChangeOutOfPlace(t *testing.T) {
	for place := range 3 {
		s := newStore(t)
		synctest.Test(t, func(t *testing.T) {
			var alerts []dtmsim.Alert
			for i := range 30 {
				at := time.Now().Add(-50*time.Minute + time.Duration(i)*time.Second).Truncate(ms)
				alerts = append(alerts, dtmsim.Alert{ID: fmt.Sprintf("a%02d", i), CreatedAt: at})
			}
			changeAt := time.Now().Add(10 * time.Minute)
			for i := range 3 {
				alerts[i].Changes = []dtmsim.Change{{At: changeAt.Add(time.Duration(i) * time.Second), Apply: func(a *dtmsim.Alert) { a.Status = "closed" }}}
			}
			api, to := dtmsim.New(dtmsim.Options{}, alerts), &topic{}
			// The alert at this place of the listing says that it was changed half an hour ago.
			wrong := wrongUpdate{api.RoundTripper(), fmt.Sprintf("a%02d", place), time.Now().Add(-20 * time.Minute)}
			for range 3 {
				if _, err := newRun(t, s, wrong, to).Live(t.Context(), "schedule", false); err != nil {
					t.Fatal(err)
				}
				time.Sleep(8 * time.Minute)
			}
			for i := range 3 {
				id := fmt.Sprintf("a%02d", i)
				if n := strings.Count(strings.Join(to.ids, " "), id); n != 2 {
					t.Errorf("%s is out of place: %s was published %d times, want 2", wrong.id, id, n)
				}
			}
		})
	}
}

// wrongUpdate replaces the updated_at of an alert's later version.
type wrongUpdate struct {
	http.RoundTripper
	id string
	at time.Time
}

func (w wrongUpdate) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.RoundTripper.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var page struct {
		Alerts []map[string]any `json:"alerts"`
	}
	if json.Unmarshal(body, &page) == nil && page.Alerts != nil {
		for _, a := range page.Alerts {
			if a["id"] == w.id && a["status"] == "closed" {
				a["updated_at"] = w.at.UTC().Format(time.RFC3339Nano)
			}
		}
		body, _ = json.Marshal(page)
		resp.ContentLength = int64(len(body))
		resp.Header.Del("Content-Length")
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// slowTopic takes so long for each batch.
type slowTopic struct {
	topic
	takes time.Duration
}

func (p *slowTopic) Publish(ctx context.Context, m []message.Message) []error {
	time.Sleep(p.takes)
	return p.topic.Publish(ctx, m)
}

// TestExpiredTokenThatSaysNothing: an API that answers an expired token with an empty page
// loses no alert of a run that was slow to ask for the next page.
func TestExpiredTokenThatSaysNothing(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		api := dtmsim.New(dtmsim.Options{MaxLife: time.Minute, ExpiredStatus: http.StatusNoContent}, everyMinute(170*time.Minute, -10*time.Minute))
		to := &slowTopic{takes: 70 * time.Second}
		r := newRun(t, s, api.RoundTripper(), to)
		r.Options.Workers, r.Options.InitialLookback, r.Options.UpdatesWindow, r.Options.Budget = 1, 4*time.Hour, 0, time.Hour
		report, err := r.Live(t.Context(), "schedule", false)
		if err != nil || report.Outcome != OK {
			t.Fatal(report.Outcome, err)
		}
		if len(to.ids) != 161 {
			t.Errorf("%d of 161 alerts were published", len(to.ids))
		}
	})
}

// TestARunOutlivesATimeOfDayThatJumps: where its deadline was told by the time of day alone,
// after a jump of an hour calls took it for passed, the contexts' timers did not, and the
// database's client repeated its call for the rest of the budget.
func TestARunOutlivesATimeOfDayThatJumps(t *testing.T) {
	store := newStore(t)
	feedWith(t, store)
	r := newRun(t, store, wire(func(r *http.Request) reply {
		if end, ok := r.Context().Deadline(); !ok || end == end.Round(0) { //nolint:staticcheck // Round drops the clock that doesn't jump
			t.Error("the deadline has no clock but the time of day")
		}
		return alertsOf()
	}), &topic{})
	r.Options.Budget = 5 * time.Second // less than one request may take
	if report, err := r.Live(t.Context(), "schedule", false); report.Outcome != OK {
		t.Errorf("%s %s %v", report.Outcome, report.StopReason, err)
	}
}

// TestASweepThatShowsNothing: where GTI lists no alert by its last change, and has just
// listed one by its creation, no change counts as seen.
func TestASweepThatShowsNothing(t *testing.T) {
	for _, c := range []struct {
		name    string
		created time.Duration // before now
		updates time.Duration
		swept   bool
	}{
		{"it would show the new one", 2 * time.Minute, 24 * time.Hour, false},
		{"it looks at younger ones", 2 * time.Minute, time.Minute, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				feedWith(t, store)
				at := time.Now().UTC().Add(-c.created).Format(time.RFC3339)
				r := newRun(t, store, wire(func(r *http.Request) reply {
					if isLive(r) {
						return alertsOf(fmt.Sprintf(`{"id":"a","created_at":%q,"updated_at":%q}`, at, at))
					}
					return alertsOf()
				}), &topic{})
				r.Options.UpdatesWindow = c.updates
				if report, err := r.Live(t.Context(), "schedule", false); report.Outcome != OK || report.Created != 1 {
					t.Fatalf("%s %s %v, %d created", report.Outcome, report.StopReason, err, report.Created)
				}
				found, err := store.Open(t.Context(), "f", "")
				if err != nil {
					t.Fatal(err)
				}
				if swept := !found.Feed.LastSweep.IsZero(); swept != c.swept {
					t.Errorf("swept: %t, want %t", swept, c.swept)
				}
			})
		})
	}
}
