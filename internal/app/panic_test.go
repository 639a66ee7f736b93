package app_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// panicStore is a database of which each call panics.
type panicStore struct{ state.Store }

func (panicStore) Open(context.Context, string, string) (state.Snapshot, error) { panic("here") }

func (panicStore) Records(context.Context, string, []string) ([]state.Entry, error) { panic("here") }

// panicPublisher panics in a worker of a run.
type panicPublisher struct{ takes }

func (panicPublisher) Publish(context.Context, []message.Message) []error { panic("here") }

// TestAPanicIsALineOfTheLog with its stack, and an answer of 500.
func TestAPanicIsALineOfTheLog(t *testing.T) {
	api := httptest.NewServer(dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{{ID: "a", CreatedAt: time.Now().Add(-time.Hour)}}))
	defer api.Close()
	var log bytes.Buffer
	function := func(parts app.Parts) *app.App {
		parts.Keys = &keys{}
		relay, err := app.New(config.Config{
			Feed: "default", BaseURL: api.URL + "/api/v3", ToolName: "test", Concurrency: 1, QPS: 1000, RequestsPerDay: 1000, ErrorsPerHour: 100,
			InitialLookback: 24 * time.Hour, MaxLookback: 120 * time.Hour, LedgerTTL: time.Hour, Budget: time.Minute,
		}, parts, slog.New(slog.NewJSONHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		return relay
	}
	database := function(app.Parts{Store: panicStore{}, Publisher: takes{}})
	const problem, report = "application/problem+json", "application/json"
	for name, c := range map[string]struct {
		function           http.Handler
		method, path, body string
		kind               string
		lines              []any // their events
	}{
		"the status": {database, http.MethodGet, "/status", "", problem, []any{"panic"}},
		"a run":      {database, http.MethodPost, "/", "", problem, []any{"panic"}},
		"a push":     {database.SyncStatus(), http.MethodPost, "/", envelope(`{"alert_id":"a","status":"closed"}`), problem, []any{"panic"}},
		"a run, in a worker": {
			function(app.Parts{Store: openStore(t), Publisher: panicPublisher{}}), http.MethodPost, "/", "", report, []any{"run", "panic"},
		},
	} {
		log.Reset()
		w := serveAs(t, c.function, nil, c.method, c.path, c.body)
		if kind := w.Header().Get("Content-Type"); w.Code != http.StatusInternalServerError || kind != c.kind {
			t.Errorf("%s: %d %s %s", name, w.Code, kind, w.Body)
		}
		var events []any
		for _, line := range lines(t, &log, "run", "panic") {
			events = append(events, line["event"])
			if line["level"] != "ERROR" || line["event"] == "panic" && line["panic"] != "here" {
				t.Errorf("%s: the line %v", name, line)
			}
		}
		if diff := cmp.Diff(c.lines, events); diff != "" {
			t.Errorf("%s: lines (-want +got):\n%s", name, diff)
		}
	}
}
