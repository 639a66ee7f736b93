package app

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// readTime bounds what a GET waits for the database.
const readTime = 15 * time.Second

// status is the body of GET /status.
type status struct {
	Version    string       `json:"version"`
	Feed       string       `json:"feed"`
	Position   *time.Time   `json:"position"` // null before the first run
	BeginsAt   *time.Time   `json:"begins_at"`
	LagSeconds *float64     `json:"lag_seconds"`
	Lease      *state.Lease `json:"lease"`

	LastRun            json.RawMessage `json:"last_run"`
	LastSweep          *time.Time      `json:"last_sweep"`
	SweepReachesBackTo *time.Time      `json:"sweep_reaches_back_to"`
	LastAudit          *time.Time      `json:"last_audit"`
	LateMaxSeconds     float64         `json:"late_max_seconds"` // by the last finished audit

	Requests used `json:"requests"`
	Errors   used `json:"errors"`

	Filter      json.RawMessage `json:"filter"`
	FilterSince *time.Time      `json:"filter_since"`
	// FilterPast are the spans that were read with another filter, in the form that
	// POST /backfill takes.
	FilterPast []state.TimeRange `json:"filter_past"`
	Gaps       []state.Gap       `json:"gaps"`
	Monitors   *monitors         `json:"monitors"` // null before the first look, and without MONITORS_CHECK
	Backfills  []unfinished      `json:"backfills"`
}

// monitors is what /status says of GTI's monitors.
type monitors struct {
	CheckedAt time.Time               `json:"checked_at"`
	Enabled   int                     `json:"enabled"`
	Disabled  []state.DisabledMonitor `json:"disabled"`
}

// unfinished is what /status says of a backfill.
type unfinished struct {
	ID    string  `json:"id"`
	State string  `json:"state"`
	Done  float64 `json:"done"`
}

// readsAtOnce is how many of them are read at the same time: one after the other, the fifty
// that may be unfinished could take longer than readTime.
const readsAtOnce = 10

// used is what is used of a limit.
type used struct {
	Used   int64  `json:"used"`
	Limit  int64  `json:"limit"`
	Window string `json:"window"`
}

// getStatus is GET /status.
func (a *App) getStatus(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	s, err := a.status(ctx)
	if err != nil {
		a.unavailable(w, r, err)
		return
	}
	answer(w, http.StatusOK, "application/json", s)
}

// Status is the body of the answer to GET /status.
func (a *App) Status(ctx context.Context) ([]byte, error) {
	s, err := a.status(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

func (a *App) status(ctx context.Context) (status, error) {
	// Without a key there is still a feed to show.
	keyID, _ := a.keyID(ctx)
	found, err := a.parts.Store.Open(ctx, a.cfg.Feed, keyID)
	if err == nil && keyID == "" && found.Feed.KeyID != "" {
		found, err = a.parts.Store.Open(ctx, a.cfg.Feed, found.Feed.KeyID)
	}
	if err != nil {
		return status{}, err
	}
	feed, usage := found.Feed, found.Usage
	// Not the app's own meter: a run that is under way may have taken counts out of
	// it that are still on their way to the database.
	meter := dtm.NewMeter(a.cfg.RequestsPerDay)
	meter.Load(usage.Requests, usage.Errors)
	requests, failures := meter.Used()
	s := status{
		Version: observe.Version, Feed: a.cfg.Feed, LastRun: orNull(string(feed.LastRun)), Filter: orNull(feed.Filter),
		Requests: used{requests, int64(a.cfg.RequestsPerDay), "24h"},
		Errors:   used{failures, int64(a.shares.live.Errors), "1h"},
		Gaps:     append([]state.Gap{}, feed.Gaps...), FilterPast: append([]state.TimeRange{}, feed.FilterPast...),
		LastSweep: orAbsent(feed.LastSweep), SweepReachesBackTo: orAbsent(feed.SweepSince),
		LastAudit: orAbsent(feed.LastAudit), LateMaxSeconds: feed.LateMax.Seconds(),
	}
	if !feed.BeginsAt.IsZero() {
		now := time.Now()
		position := feed.Position()
		lag := now.Sub(position).Seconds()
		s.Position, s.BeginsAt, s.LagSeconds, s.FilterSince = &position, &feed.BeginsAt, &lag, &feed.FilterSince
		if feed.Lease != nil && now.Before(feed.Lease.ExpiresAt) {
			s.Lease = feed.Lease
		}
	}
	if m := feed.Monitors; a.cfg.MonitorsCheck > 0 && !m.CheckedAt.IsZero() {
		s.Monitors = &monitors{CheckedAt: m.CheckedAt, Enabled: len(m.Enabled), Disabled: append([]state.DisabledMonitor{}, m.Disabled...)}
	}
	s.Backfills, err = a.unfinished(ctx, feed.Unfinished)
	return s, err
}

// unfinished reads backfills, and leaves out those that are gone meanwhile.
func (a *App) unfinished(ctx context.Context, ids []string) ([]unfinished, error) {
	found := make([]*unfinished, len(ids))
	reads, ctx := errgroup.WithContext(ctx)
	reads.SetLimit(readsAtOnce)
	for i, id := range ids {
		reads.Go(func() error {
			b, revision, err := a.parts.Store.Backfill(ctx, a.cfg.Feed, id)
			if err == nil && revision != "" {
				found[i] = &unfinished{ID: b.ID, State: b.State, Done: doneShare(b)}
			}
			return err
		})
	}
	if err := reads.Wait(); err != nil {
		return nil, err
	}
	all := []unfinished{}
	for _, b := range found {
		if b != nil {
			all = append(all, *b)
		}
	}
	return all, nil
}

func timeRanges(gaps []state.Gap) []state.TimeRange {
	out := []state.TimeRange{}
	for _, g := range gaps {
		out = append(out, g.TimeRange)
	}
	return out
}

// orNull is a stored JSON text, or null where it is none: somebody may have edited the
// document by hand. What else it says can still be shown, and a backfill be cancelled.
func orNull(text string) json.RawMessage {
	if !json.Valid([]byte(text)) {
		return json.RawMessage("null")
	}
	return json.RawMessage(text)
}

func orAbsent(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
