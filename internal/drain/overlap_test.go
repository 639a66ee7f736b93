package drain

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
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
		one := alert("one", 2*time.Minute, 2*time.Minute)
		one.Changes = []dtmsim.Change{{At: start.Add(60 * time.Minute), Apply: func(a *dtmsim.Alert) { a.Status = "closed" }}}
		api := &listedSince{start: start, RoundTripper: dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{
			one,
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
		run(45*time.Minute, true, 40*time.Minute-settle-ms)
		run(120*time.Minute, true, 30*time.Minute-ms)
		// The sweep reads back to the last one, and not to when the overlap was listed.
		run(125*time.Minute, false, 120*time.Minute-settle-overlap-ms, "one status_changed closed bare")
		run(130*time.Minute, false, 125*time.Minute-settle-ms)
	})
}

// TestShortSweeps: with a run every minute, and many requests used, each sweep reads what
// is new, and about one in OVERLAP the overlap. That one finds what came into the index
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
		// Pages of 100: 3 minutes of 40 alerts are two of them, 19 are eight.
		if diff := cmp.Diff([]int{8, 2, 2, 2, 2, 2, 2, 2, 2, 8}, pages[18:28]); diff != "" {
			t.Errorf("pages of the sweeps (-want +got):\n%s\nall: %v", diff, pages)
		}
		// It came into the index in the 20th minute. Run 18, in the 23rd, is the next that reads
		// the overlap.
		if late != "run 18" {
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
		to, cache := &subscriber{}, new(ledger.Cache)
		for _, s := range append(stores[:1:1], stores...) {
			r := newRun(t, s, api.RoundTripper(), nil)
			r.Options.Refs, r.Cache = false, cache
			r.NewProcessor = func(o ledger.Options) Processor {
				return &ledger.Processor{Store: s, Publisher: to, Feed: "f", RunID: "r", TTL: 1000 * time.Hour, Cache: cache, Options: o}
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

// asked counts the requests for alerts by what they are.
type asked struct {
	http.RoundTripper
	mu   sync.Mutex
	full int   // pages with documents
	bare []int // the sizes of pages without
	got  int   // alerts by their id
}

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := a.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	a.mu.Lock()
	defer a.mu.Unlock()
	switch alerts := bytes.Count(body, []byte(`"created_at"`)); {
	case !strings.HasSuffix(r.URL.Path, "/dtm/alerts"):
		a.got++
	case bytes.Contains(body, []byte(`"doc"`)) || alerts == 0:
		a.full++
	default:
		a.bare = append(a.bare, alerts)
	}
	return answer, nil
}

// TestOverlapWithoutSweeps: where no sweep shows it, a large overlap is listed in pages of
// 100 without documents, and what is unknown or newer there is fetched by its id. A small
// one is in the page of the new alerts.
func TestOverlapWithoutSweeps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		busy       func(second int) bool // whether an alert is created in a second of the first 20 minutes
		full, bare int                   // pages of the run in the 15th minute, at most
	}{
		// It reads minutes 0 to 10 once more, and 10 to 15 for the first time.
		{"quiet", func(second int) bool { return second%100 == 0 }, 1, 0},
		{"steady", func(second int) bool { return second%2 == 0 }, 1 + 6 + 4, 3 + 1}, // both parts may be split
		{"a burst in the overlap", func(second int) bool { return second < 60 }, 1 + 1, 1},
		{"a burst at its end", func(second int) bool { return second >= 500 && second < 560 }, 3, 0},
		{"a new burst", func(second int) bool { return second >= 700 && second < 760 }, 3, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				start := time.Now().UTC().Truncate(time.Second)
				var served []dtmsim.Alert
				serve := func(id string, created, visible time.Duration) {
					served = append(served, dtmsim.Alert{
						ID: id, CreatedAt: start.Add(created), VisibleAt: start.Add(visible),
						Body: fmt.Appendf(nil, `{"id":%q,"created_at":%q,"status":"new","doc":{}}`, id, start.Add(created).Format(time.RFC3339)),
					})
				}
				for second := range 20 * 60 {
					if at := time.Duration(second) * time.Second; c.busy(second) {
						serve(fmt.Sprint("a", second), at, at)
					}
				}
				serve("late", 8*time.Minute+ms, 12*time.Minute)
				serve("rewritten", 9*time.Minute+ms, 9*time.Minute)
				served[len(served)-1].Changes = []dtmsim.Change{{At: start.Add(11 * time.Minute), Apply: func(*dtmsim.Alert) {}}}
				slices.SortFunc(served, func(a, b dtmsim.Alert) int { return a.CreatedAt.Compare(b.CreatedAt) })
				api := &asked{RoundTripper: dtmsim.New(dtmsim.Options{}, served).RoundTripper()}
				to := &subscriber{}
				for at := 0; at <= 30; at += 5 {
					time.Sleep(time.Until(start.Add(time.Duration(at)*time.Minute + 30*time.Second)))
					api.full, api.bare, api.got = 0, nil, 0
					r := newRun(t, s, api, nil)
					r.Options.UpdatesWindow, r.Options.Workers = 0, 8
					r.NewProcessor = func(o ledger.Options) Processor {
						return &ledger.Processor{Store: s, Publisher: to, Feed: "f", RunID: "r", TTL: 1000 * time.Hour, Options: o}
					}
					report, err := r.Live(t.Context(), "schedule", false)
					if err != nil || report.Outcome != OK {
						t.Fatalf("the run in minute %d ends as %s: %v", at, report.Outcome, err)
					}
					got := 0
					if c.bare > 0 {
						got = 2
					}
					if isLight := len(api.bare) > 0; at == 15 && (api.full > c.full || len(api.bare) > c.bare || isLight != (c.bare > 0) || api.got != got) {
						t.Errorf("full pages %d, pages without documents %v, alerts by their id %d; want at most %d, at most %d, and %d",
							api.full, api.bare, api.got, c.full, c.bare, got)
					}
				}
				want := []string{"rewritten updated new"}
				for _, a := range served {
					want = append(want, a.ID+" created new")
				}
				slices.Sort(want)
				slices.Sort(to.took)
				if diff := cmp.Diff(want, to.took); diff != "" {
					t.Errorf("published (-want +got):\n%s", diff)
				}
			})
		})
	}
}
