package app_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// takes is a publisher that takes every message.
type takes struct{}

func (takes) Publish(_ context.Context, m []message.Message) []error { return make([]error, len(m)) }

func (takes) Reject(_ context.Context, m []message.Message) []error { return make([]error, len(m)) }

func openStore(t *testing.T) state.Store {
	t.Helper()
	store, err := bolt.OpenNoSync(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// newIngest is the function Ingest of one process.
func newIngest(t *testing.T, store state.Store, api http.Handler) http.Handler {
	t.Helper()
	return newIngestFor(t, store, api, nil, nil, slog.New(slog.DiscardHandler))
}

// newIngestFor is newIngest with names of who may write and read, and a log.
func newIngestFor(t *testing.T, store state.Store, api http.Handler, operators, viewers []string, log *slog.Logger) http.Handler {
	t.Helper()
	base := "http://127.0.0.1:9"
	if api != nil { // else nothing is asked of it
		server := httptest.NewServer(api)
		t.Cleanup(server.Close)
		base = server.URL
	}
	a, err := app.New(config.Config{
		Feed: "default", BaseURL: base + "/api/v3", ToolName: "test", Concurrency: 6, QPS: 1000, RequestsPerDay: 1000, ErrorsPerHour: 100,
		InitialLookback: 24 * time.Hour, MaxLookback: 120 * time.Hour, LedgerTTL: time.Hour, Budget: time.Minute,
		Operators: operators, Viewers: viewers,
	}, app.Parts{Store: store, Publisher: takes{}, Keys: &keys{}}, log)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// occupy lets another run hold the feed's lease: what is asked for is recorded,
// and nobody works it.
func occupy(t *testing.T, store state.Store) {
	t.Helper()
	now := time.Now().UTC()
	feed := state.Feed{
		BeginsAt: now.Add(-24 * time.Hour), FirstRun: now, End: now, Filter: "{}", FilterSince: now,
		Lease: &state.Lease{Owner: "another run", ExpiresAt: now.Add(time.Hour)},
	}
	if _, err := store.WriteFeed(t.Context(), "default", feed, ""); err != nil {
		t.Fatal(err)
	}
}

// TestContentTypeSaysNothing: curl -d sends a form, Cloud Scheduler bytes.
func TestContentTypeSaysNothing(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	ingest := newIngest(t, store, http.NotFoundHandler())
	for _, kind := range []string{"", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "application/octet-stream", "no; type=;"} {
		for path, c := range map[string]struct {
			body string
			want int
		}{
			"/":         {`{"dry_run":false}`, http.StatusOK},
			"/backfill": {`{"since":"96h"}`, http.StatusAccepted},
		} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(c.body))
			if kind != "" {
				r.Header.Set("Content-Type", kind)
			}
			w := httptest.NewRecorder()
			ingest.ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("POST %s as %q: %d %s, want %d", path, kind, w.Code, w.Body, c.want)
			}
		}
	}
}

// TestVersionIsSaid to GTI, in the run's report and in /status.
func TestVersionIsSaid(t *testing.T) {
	var agent atomic.Value
	api := dtmsim.New(dtmsim.Options{}, nil)
	ingest := newIngest(t, openStore(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent.Store(r.UserAgent())
		api.ServeHTTP(w, r)
	}))
	for _, request := range [][2]string{{http.MethodPost, "/"}, {http.MethodGet, "/status"}} {
		w := serveAs(t, ingest, nil, request[0], request[1], "")
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), `{"version":"`+observe.Version+`",`) {
			t.Errorf("%s %s: %d %.100s", request[0], request[1], w.Code, w.Body)
		}
	}
	if got := agent.Load(); got != "dtm-relay/"+observe.Version {
		t.Errorf("the user agent is %v", got)
	}
}

// TestListsThatCannotBeRead: it is GTI that failed.
func TestListsThatCannotBeRead(t *testing.T) {
	api := dtmsim.New(dtmsim.Options{}, nil)
	api.AddFault(dtmsim.Fault{Kind: dtmsim.List, Redirect: "https://evil.example/"})
	w := httptest.NewRecorder()
	newIngest(t, openStore(t), api).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", http.NoBody))
	if w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), "redirect") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
