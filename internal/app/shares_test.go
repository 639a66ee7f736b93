package app_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestWhoStopsAtWhichShare: what is used of the key's budgets stops side work first, and a
// look at the monitors that fails costs one request.
func TestWhoStopsAtWhichShare(t *testing.T) {
	for _, c := range []struct {
		name             string
		errors, requests int64 // that were used within the hour
		fault            bool  // of the monitors
		want             []string
	}{
		{"nothing is used", 0, 0, false, []string{"backfill", "live", "monitors", "sweep"}},
		{"a look at the monitors fails", 0, 0, true, []string{"backfill", "live", "monitors", "sweep"}},
		{"36 % of the errors", 36, 0, false, []string{"live"}},
		{"61 % of the requests", 0, 610, false, []string{"live", "monitors", "sweep"}},
		{"91 % of the requests", 0, 910, false, []string{"live"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now().UTC().Truncate(time.Millisecond)
			day := now.Add(-24 * time.Hour)
			store := openStore(t)
			feed := state.Feed{BeginsAt: day, FirstRun: day, End: now.Add(-time.Minute), Filter: "{}", FilterSince: day}
			if _, err := store.WriteFeed(t.Context(), "default", feed, ""); err != nil {
				t.Fatal(err)
			}
			b := state.Backfill{ID: "b", State: state.Pending, RequestedAt: now, Since: day.Add(-time.Hour), Until: day, Filter: "{}"}
			b.Slices = []state.Slice{{From: b.Since, To: b.Until, DoneUntil: b.Since}}
			if err := store.CreateBackfill(t.Context(), "default", b); err != nil {
				t.Fatal(err)
			}
			used := state.Usage{
				Errors:   map[int64]int64{now.Truncate(state.ErrorBucket).Unix(): c.errors},
				Requests: map[int64]int64{now.Truncate(state.RequestBucket).Unix(): c.requests},
			}
			if err := store.AddUsage(t.Context(), keyID(), used, state.Usage{}); err != nil {
				t.Fatal(err)
			}

			api := dtmsim.New(dtmsim.Options{}, nil)
			if c.fault {
				api.AddFault(dtmsim.Fault{Kind: dtmsim.Monitors, Status: http.StatusInternalServerError})
			}
			var mu sync.Mutex
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				kind := "live"
				switch query := r.URL.Query(); {
				case strings.HasSuffix(r.URL.Path, "/monitors"):
					kind = "monitors"
				case query.Get("sort") == "updated_at":
					kind = "sweep"
				case query.Get("since") < day.Format(time.RFC3339):
					kind = "backfill"
				}
				mu.Lock()
				asked = append(asked, kind)
				mu.Unlock()
				api.ServeHTTP(w, r)
			}))
			defer server.Close()
			relay, err := app.New(config.Config{
				Feed: "default", BaseURL: server.URL + "/api/v3", ToolName: "test", Concurrency: 6, QPS: 1000, RequestsPerDay: 1000, ErrorsPerHour: 100,
				InitialLookback: 24 * time.Hour, MaxLookback: 120 * time.Hour, UpdatesWindow: 96 * time.Hour, MonitorsCheck: time.Hour,
				LedgerTTL: time.Hour, Budget: time.Minute,
			}, app.Parts{Store: store, Publisher: takes{}, Keys: &keys{}}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if w := serveAs(t, relay, nil, http.MethodPost, "/", ""); w.Code != http.StatusOK {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			slices.Sort(asked)
			if diff := cmp.Diff(c.want, asked); diff != "" {
				t.Errorf("asked GTI (-want +got):\n%s", diff)
			}
		})
	}
}
