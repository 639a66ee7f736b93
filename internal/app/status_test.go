package app

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/secret"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// counters is a database of which only the counters are asked for.
type counters struct {
	state.Store
	used int64
	feed state.Feed
}

func (c *counters) Open(context.Context, string, string) (state.Snapshot, error) {
	hour := time.Now().Truncate(state.RequestBucket).Unix()
	return state.Snapshot{Feed: c.feed, Usage: state.Usage{Requests: map[int64]int64{hour: c.used}}}, nil
}

func meteredApp(store state.Store) *App {
	return &App{
		cfg: config.Config{Feed: "default", RequestsPerDay: 1000}, parts: Parts{Store: store, Keys: secret.Static("the-key")},
		shares: sharesOf(250), log: slog.New(slog.DiscardHandler),
	}
}

// TestStatusLeavesTheMeterAlone: a run's counts that are on their way to the
// database are in neither of the two figures that a load would leave.
func TestStatusLeavesTheMeterAlone(t *testing.T) {
	store, meter := &counters{used: 3}, dtm.NewMeter(1000)
	a := meteredApp(store)
	a.usage = drain.NewUsageCounter("default", store, meter, a.log)
	hour := time.Now().Truncate(state.RequestBucket).Unix()
	meter.Load(map[int64]int64{hour: 5}, nil) // three in the database, two on their way
	w := httptest.NewRecorder()
	a.getStatus(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/status", http.NoBody))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"requests":{"used":3,"limit":1000,"window":"24h"},"errors":{"used":0,"limit":125,"window":"1h"}`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if requests, _ := meter.Used(); requests != 5 {
		t.Errorf("the run counts %d requests, want 5", requests)
	}
}

// TestStatusShowsMonitors as the last look has found them.
func TestStatusShowsMonitors(t *testing.T) {
	at := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	off := state.DisabledMonitor{Monitor: state.Monitor{ID: "m3", Name: "three"}, Code: "c", Reason: "r", Since: at.Add(-time.Hour)}
	looked := state.Monitors{CheckedAt: at, Enabled: []state.Monitor{{ID: "m1"}, {ID: "m2"}}, Disabled: []state.DisabledMonitor{off}}
	allOn := looked
	allOn.Disabled = nil
	for _, c := range []struct {
		name   string
		every  time.Duration
		stored state.Monitors
		want   string
	}{
		{"one is off", time.Hour, looked, `{"checked_at":"2026-05-06T07:08:09Z","enabled":2,"disabled":[{"id":"m3","name":"three","code":"c","reason":"r","since":"2026-05-06T06:08:09Z"}]}`},
		{"none is", time.Hour, allOn, `{"checked_at":"2026-05-06T07:08:09Z","enabled":2,"disabled":[]}`},
		{"before the first look", time.Hour, state.Monitors{FailedAt: at, Wait: time.Hour}, "null"},
		{"not looked at any more", 0, looked, "null"},
	} {
		a := meteredApp(&counters{feed: state.Feed{Monitors: c.stored}})
		a.cfg.MonitorsCheck = c.every
		w := httptest.NewRecorder()
		a.getStatus(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/status", http.NoBody))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"monitors":`+c.want+`,"backfills"`) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
}

// TestStatusShowsALeaseThatHolds, and none that is over.
func TestStatusShowsALeaseThatHolds(t *testing.T) {
	now := time.Now().UTC()
	for _, c := range []struct {
		ends time.Duration
		want string
	}{{time.Hour, `"lease":{"owner":"a run",`}, {-time.Second, `"lease":null,`}} {
		a := meteredApp(&counters{feed: state.Feed{BeginsAt: now, End: now, Lease: &state.Lease{Owner: "a run", ExpiresAt: now.Add(c.ends)}}})
		w := httptest.NewRecorder()
		a.getStatus(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/status", http.NoBody))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("it ends in %s: %d %s, want %s", c.ends, w.Code, w.Body, c.want)
		}
	}
}
