package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// lifetime is what a report knows of one alert.
type lifetime struct {
	alertType, severity string
	monitorID, monitor  string // the name may be missing
	createdAt           time.Time
	relayedAt           time.Time // first published; zero: not known
	backfilled          bool      // by a backfill
	versions            []lifeVersion
	status              string // the latest
	triagedAt, closedAt time.Time
	latest              time.Time // of what the fields above are from
}

// lifeVersion is a status that an alert had, and since when.
type lifeVersion struct {
	at     time.Time
	status string
}

// records are what a report is made of.
type records struct {
	source   string
	alerts   map[string]*lifetime
	dropped  int // alerts of which rules have dropped every version
	unusable int // elements that are no usable alerts
	// firstRun is when the relay began: what is older was late for it by no fault of GTI.
	// Zero: not known.
	firstRun time.Time
	usage    *state.Usage // nil: not known
}

// maxAhead is how far ahead of the clock a time of an alert may lie. What is later is a
// mistake of GTI's clock, as for the relay and the views of BigQuery.
const maxAhead = 24 * time.Hour

// readState reads the ledger of a relay of this machine.
func readState(ctx context.Context, dir, feed string) (*records, error) {
	path := filepath.Join(dir, "state.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: --data names the folder that poll or serve --local has", path)
	}
	store, err := bolt.OpenCopy(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }() // it is a copy
	found, err := store.Open(ctx, feed, "")
	if err == nil && found.Feed.KeyID != "" {
		found, err = store.Open(ctx, feed, found.Feed.KeyID)
	}
	if err != nil {
		return nil, err
	}
	r := &records{source: dir + ", feed " + feed, alerts: map[string]*lifetime{}, firstRun: found.Feed.FirstRun, usage: &found.Usage}
	names := map[string]string{}
	for _, m := range found.Feed.Monitors.Enabled {
		names[m.ID] = m.Name
	}
	for _, m := range found.Feed.Monitors.Disabled {
		names[m.ID] = m.Name
	}
	err = store.EachRecord(ctx, feed, func(rec state.Record) error {
		r.addRecord(rec, names[rec.MonitorID])
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	r.end()
	return r, nil
}

func (r *records) addRecord(rec state.Record, monitor string) {
	switch {
	case rec.Known():
	case rec.CreatedAt.IsZero():
		r.unusable++
		return
	default:
		if slices.ContainsFunc(rec.Versions, func(v state.AlertVersion) bool { return v.Outcome == state.Dropped }) {
			r.dropped++
		} else {
			r.unusable++
		}
		return
	}
	a := &lifetime{
		alertType: rec.Type, severity: rec.Severity, monitorID: rec.MonitorID, monitor: monitor,
		createdAt: rec.CreatedAt, relayedAt: rec.FirstSeen, backfilled: rec.Backfill != "",
	}
	for _, s := range rec.Statuses {
		at := s.At
		for _, v := range rec.Versions {
			if v.UpdatedAt.Equal(s.At) && s.At.After(v.At.Add(maxAhead)) {
				at = v.At
			}
		}
		a.versions = append(a.versions, lifeVersion{at, s.Status})
	}
	r.alerts[rec.ID] = a
}

// readFiles reads alerts and messages. Several lines of one alert are one alert.
func readFiles(ctx context.Context, paths []string, now time.Time) (*records, error) {
	r := &records{source: fmt.Sprintf("%d files", len(paths)), alerts: map[string]*lifetime{}}
	switch {
	case len(paths) == 1 && paths[0] == "-":
		r.source = "standard input"
	case len(paths) == 1:
		r.source = paths[0]
	}
	for _, path := range paths {
		err := eachFileAlert(path, func(a fileAlert) error {
			r.addLine(a, now)
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
	}
	r.end()
	return r, nil
}

func (r *records) addLine(f fileAlert, now time.Time) {
	if f.Invalid != "" || f.CreatedAt.After(now.Add(maxAhead)) {
		r.unusable++
		return
	}
	a := r.alerts[f.ID]
	if a == nil {
		a = &lifetime{createdAt: f.CreatedAt}
		r.alerts[f.ID] = a
	}
	relayed := runTime(f.Attributes["run_id"])
	at, seen := f.UpdatedAt, now
	if !relayed.IsZero() {
		seen = relayed
		if r.firstRun.IsZero() || relayed.Before(r.firstRun) {
			r.firstRun = relayed
		}
		if a.relayedAt.IsZero() || relayed.Before(a.relayedAt) {
			a.relayedAt, a.backfilled = relayed, f.Attributes["backfill"] != ""
		}
	}
	if at.After(seen.Add(maxAhead)) {
		at = seen
	}
	if !at.Before(a.latest) {
		a.latest = at
		a.alertType, a.severity, a.monitorID = f.Type, f.Severity, f.MonitorID
		a.monitor = cmp.Or(f.MonitorName, a.monitor)
	}
	a.versions = append(a.versions, lifeVersion{at, f.Status})
}

// runTime is when a run began, which its id begins with; zero for what is no such id. A
// message doesn't say when it was published.
func runTime(id string) time.Time {
	const form = "20060102T150405Z"
	if len(id) < len(form) {
		return time.Time{}
	}
	t, _ := time.Parse(form, id[:len(form)]) // zero is what is to come of an error
	return t
}

// end tells from the versions what became of each alert, as the views of BigQuery do. It
// is triaged with the first status that is not new, and closed at the first version after
// the last open one.
func (r *records) end() {
	for _, a := range r.alerts {
		slices.SortStableFunc(a.versions, func(x, y lifeVersion) int { return x.at.Compare(y.at) })
		for _, v := range a.versions {
			a.status = cmp.Or(v.status, "new")
			if a.status != "new" && a.triagedAt.IsZero() {
				a.triagedAt = v.at
			}
			switch {
			case !a.closed():
				a.closedAt = time.Time{}
			case a.closedAt.IsZero():
				a.closedAt = v.at
			}
		}
	}
}

func (a *lifetime) closed() bool { return message.State(a.status) == "closed" }
