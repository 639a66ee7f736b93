package drain

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// listedSince notes of each listing by created_at from where it was asked for.
type listedSince struct {
	http.RoundTripper
	start time.Time
	since []time.Duration // after start
	fail  bool            // each sweep
}

func (l *listedSince) RoundTrip(r *http.Request) (*http.Response, error) {
	switch q := r.URL.Query(); {
	case isSweep(r) && l.fail:
		answer := httptest.NewRecorder()
		answer.WriteHeader(http.StatusForbidden)
		return answer.Result(), nil
	case q.Get("sort") == "created_at":
		since, err := time.Parse(time.RFC3339Nano, q.Get("since"))
		if err != nil {
			return nil, err
		}
		l.since = append(l.since, since.Sub(l.start))
	}
	return l.RoundTripper.RoundTrip(r)
}

// TestLightOverlap: what a sweep has shown of the overlap is not listed again. One that
// comes into the index late is published with its document, and so is a young alert
// that GTI writes anew. What no sweep has read to its end is listed by the next run.
func TestLightOverlap(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC().Truncate(time.Second)
		alert := func(id string, created, visible time.Duration) dtmsim.Alert {
			return dtmsim.Alert{
				ID: id, CreatedAt: start.Add(created), VisibleAt: start.Add(visible),
				Body: fmt.Appendf(nil, `{"id":%q,"created_at":%q,"status":"new","doc":{}}`, id, start.Add(created).Format(time.RFC3339)),
			}
		}
		rewritten := alert("rewritten", 14*time.Minute, 14*time.Minute)
		rewritten.Changes = []dtmsim.Change{{At: start.Add(16 * time.Minute), Apply: func(*dtmsim.Alert) {}}}
		api := &listedSince{start: start, RoundTripper: dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{
			alert("one", 2*time.Minute, 2*time.Minute),
			alert("late", 12*time.Minute, 21*time.Minute),
			rewritten,
			alert("later", 23*time.Minute, 26*time.Minute),
		}).RoundTripper()}
		to := &subscriber{}
		run := func(at time.Duration, fail bool, since time.Duration, published ...string) {
			t.Helper()
			time.Sleep(time.Until(start.Add(at)))
			api.since, api.fail, to.took = nil, fail, nil
			r := newRun(t, s, api, nil)
			r.NewProcessor = func(o ledger.Options) Processor {
				return &ledger.Processor{Store: s, Publisher: to, Feed: "f", RunID: "r", TTL: 1000 * time.Hour, Options: o}
			}
			report, err := r.Live(t.Context(), "schedule", false)
			if (err != nil) != fail {
				t.Errorf("the run at %s ends as %s: %v", at, report.Outcome, err)
			}
			if diff := cmp.Diff([]time.Duration{since}, slices.Compact(api.since)); diff != "" {
				t.Errorf("the run at %s lists since (-want +got):\n%s", at, diff)
			}
			slices.Sort(to.took)
			if diff := cmp.Diff(published, to.took); diff != "" {
				t.Errorf("the run at %s publishes (-want +got):\n%s", at, diff)
			}
		}
		const settle, overlap = 30 * time.Second, 10 * time.Minute
		run(0, false, -time.Hour-ms)
		run(5*time.Minute, false, -settle-overlap-ms, "one created new") // there was no sweep before
		run(10*time.Minute, false, 5*time.Minute-settle-ms)
		run(15*time.Minute, false, 10*time.Minute-settle-ms, "rewritten created new")
		run(20*time.Minute, false, 15*time.Minute-settle-ms, "rewritten updated new")
		run(25*time.Minute, true, 20*time.Minute-settle-ms)
		run(30*time.Minute, true, 10*time.Minute-ms, "late created new", "later created new")
		run(35*time.Minute, false, 30*time.Minute-settle-overlap-ms)
		run(40*time.Minute, false, 35*time.Minute-settle-ms)
	})
}

// TestShortSweeps: with a run every minute, and many requests used, each sweep reads what
// is new, and one in half of OVERLAP the overlap. That one finds what came into the index
// late.
func TestShortSweeps(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC().Truncate(time.Second)
		var served []dtmsim.Alert
		for i := range 40 * 40 {
			created := start.Add(time.Duration(i) * 1500 * time.Millisecond) // 40 a minute
			served = append(served, dtmsim.Alert{ID: fmt.Sprint("a", i), Type: "Message", Status: "new", CreatedAt: created, VisibleAt: created})
		}
		served[10*40].VisibleAt = served[10*40].CreatedAt.Add(9*time.Minute + 30*time.Second)
		api := dtmsim.New(dtmsim.Options{}, served)
		var pages []int // of each run's sweep
		late := ""
		for i := range 30 {
			time.Sleep(time.Until(start.Add(time.Duration(5+i) * time.Minute)))
			to := &subscriber{}
			r := newRun(t, s, api.RoundTripper(), nil)
			r.Options.Refs, r.Options.RequestsPerDay = false, 500
			r.NewProcessor = func(o ledger.Options) Processor {
				return &ledger.Processor{Store: s, Publisher: to, Feed: "f", RunID: "r", TTL: 1000 * time.Hour, Options: o}
			}
			report, err := r.Live(t.Context(), "schedule", false)
			if err != nil || report.Outcome != OK {
				t.Fatalf("run %d ends as %s: %v", i, report.Outcome, err)
			}
			pages = append(pages, int(r.SweepAPI.Stats().Pages))
			if slices.ContainsFunc(to.took, func(text string) bool { return strings.HasPrefix(text, "a400 created") }) {
				late += fmt.Sprint("run ", i)
			}
		}
		// Pages of 100: 3 minutes of 40 alerts are two of them, 15 are seven.
		if diff := cmp.Diff([]int{7, 2, 2, 2, 2}, pages[24:29]); diff != "" {
			t.Errorf("pages of the sweeps (-want +got):\n%s\nall: %v", diff, pages)
		}
		// It came into the index in the 20th minute. Run 19 is the next that reads the overlap.
		if late != "run 19" {
			t.Errorf("the late alert was published by %q", late)
		}
	})
}

// TestDatabaseOfBefore: an instance whose database is taken back, or made anew, publishes
// what that one's ledger lacks, though it has published it before.
func TestDatabaseOfBefore(t *testing.T) {
	stores := []state.Store{newStore(t), newStore(t)}
	synctest.Test(t, func(t *testing.T) {
		created := time.Now().UTC().Add(-30 * time.Minute)
		api := dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{{ID: "a", Type: "Message", Status: "new", CreatedAt: created}})
		to, published := &subscriber{}, new(ledger.Published)
		for _, s := range append(stores[:1:1], stores...) {
			r := newRun(t, s, api.RoundTripper(), nil)
			r.Options.Refs, r.Published = false, published
			r.NewProcessor = func(o ledger.Options) Processor {
				return &ledger.Processor{Store: s, Publisher: to, Feed: "f", RunID: "r", TTL: 1000 * time.Hour, Published: published, Options: o}
			}
			if report, err := r.Live(t.Context(), "schedule", false); err != nil || report.Outcome != OK {
				t.Fatalf("a run ends as %s: %v", report.Outcome, err)
			}
		}
		if diff := cmp.Diff([]string{"a created new bare", "a created new bare"}, to.took); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
	})
}
