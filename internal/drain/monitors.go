package drain

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// MonitorLister lists the monitors (dtm.Session).
type MonitorLister interface {
	Monitors(ctx context.Context) (list []dtm.Monitor, complete bool, err error)
	Stats() dtm.Stats
}

const (
	// monitorsTime bounds one look: backfills wait for it.
	monitorsTime = 30 * time.Second
	// monitorsRefused and monitorsFailed are how long nothing is asked after a look that
	// the API has refused, and after one that failed in any other way.
	monitorsRefused = 24 * time.Hour
	monitorsFailed  = time.Hour
	// monitorGoneFor is how long a monitor that GTI lists no more is remembered, unless
	// the filter names it.
	monitorGoneFor = 30 * 24 * time.Hour
)

var errMonitorsTime = errors.New("GTI did not answer in time")

// monitors looks at GTI's monitors when it is time to: GTI disables one by itself when
// it finds too much, and the feed is then well and empty (DTM API). Nothing that goes
// wrong here ends a run.
//
// What has changed is told before it is stored with the next write of the feed's
// document: a run that dies in between leaves it to be told again.
func (w *work) monitors() {
	before := w.holder.Feed().Monitors
	every, now := w.runner.Options.MonitorsCheck, w.clock.now().Truncate(ms)
	if every == 0 || !isLookDue(before, every, now) {
		return
	}
	log := w.runner.Log.With("feed", w.runner.Feed)
	shorter, stop := w.deadlines.until(time.Now().Add(monitorsTime), errMonitorsTime)
	defer stop(nil)
	list, complete, err := w.runner.MonitorsAPI.Monitors(shorter.fetching)
	w.report.needed += float64(w.runner.MonitorsAPI.Stats().Requests)
	switch kind := dtm.Kind(err); {
	case err == nil:
	case w.deadlines.fetching.Err() != nil, kind == dtm.BudgetSpent, kind == dtm.Wait:
		return // the next run looks
	default:
		wait := monitorsFailed
		if refusal := refusalOf(err); refusal != nil {
			wait, err = monitorsRefused, refusal
		}
		log.WarnContext(w.deadlines.caller, "the monitors could not be looked at: whether GTI has disabled one is not known",
			"event", "monitors", "error", err.Error(), "again_in", wait.String())
		w.holder.UpdateLazily(func(f *state.Feed) { f.Monitors.FailedAt, f.Monitors.Wait = now, wait })
		return
	}
	after, news := compareMonitors(before, list, complete, w.runner.Options.Filter.MonitorID, now)
	for _, n := range news {
		n.tell(w.deadlines.caller, log)
	}
	w.holder.UpdateLazily(func(f *state.Feed) { f.Monitors = after })
}

// isLookDue reports whether the monitors are to be looked at. A time that lies ahead was
// stored by a clock that was wrong.
func isLookDue(m state.Monitors, every time.Duration, now time.Time) bool {
	last, wait := m.CheckedAt, every
	if !m.FailedAt.IsZero() {
		last, wait = m.FailedAt, m.Wait
	}
	passed := now.Sub(last)
	return passed >= wait || passed < -clockAhead
}

// refusalOf is the API's answer that this key's user may not list monitors, or that
// there is no such list; nil when err is something else.
func refusalOf(err error) *dtm.APIError {
	var api *dtm.APIError
	if dtm.Kind(err) != dtm.TokenSpent && errors.As(err, &api) && (api.Status == http.StatusForbidden || api.Status == http.StatusNotFound) {
		return api
	}
	return nil
}

// monitorNews is what is new about a monitor. The level says how bad it is: Error, a
// monitor of this feed has ended; Warn, it was never seen enabled; Info, it is enabled again.
type monitorNews struct {
	monitor state.DisabledMonitor
	level   slog.Level
}

func (n monitorNews) tell(ctx context.Context, log *slog.Logger) {
	m := n.monitor
	log = log.With("monitor", m.ID, "name", m.Name)
	switch {
	case n.level == slog.LevelInfo:
		log.InfoContext(ctx, "a monitor is enabled again", "event", "monitor_enabled", "since", m.Since)
	case m.Code == state.MonitorGone:
		log.ErrorContext(ctx, "a monitor is gone: GTI lists it no more, and no new alerts of it come",
			"event", "monitor_disabled", "disabled_code", m.Code, "disabled_reason", m.Reason)
	default:
		log.Log(ctx, n.level, "a monitor is disabled: no new alerts of it come",
			"event", "monitor_disabled", "disabled_code", m.Code, "disabled_reason", m.Reason)
	}
}

// compareMonitors says what two looks differ in. With named, the monitors of the
// filter, only those count. Where list is not complete, a monitor that it lacks is as
// it was.
//
// A disabled monitor that was never seen enabled is news once. It is an error if the
// filter names it, for the feed waits for it; else it may be one that nobody misses.
func compareMonitors(before state.Monitors, list []dtm.Monitor, complete bool, named []string, now time.Time) (after state.Monitors, news []monitorNews) {
	after.CheckedAt = now
	enabled := map[string]bool{}
	last := map[string]state.DisabledMonitor{} // all that are known
	order := slices.Clone(named)
	for _, m := range before.Enabled {
		enabled[m.ID], last[m.ID] = true, state.DisabledMonitor{Monitor: m}
		order = append(order, m.ID)
	}
	for _, m := range before.Disabled {
		last[m.ID] = m
		order = append(order, m.ID)
	}
	done := map[string]bool{}
	isNamed := func(id string) bool { return slices.Contains(named, id) }
	disable := func(m state.DisabledMonitor) {
		switch before, known := last[m.ID]; {
		case known && !enabled[m.ID]:
			m.Since = before.Since
		case enabled[m.ID] || isNamed(m.ID):
			news = append(news, monitorNews{m, slog.LevelError})
		default:
			news = append(news, monitorNews{m, slog.LevelWarn})
		}
		after.Disabled = append(after.Disabled, m)
	}
	counts := func(id string) bool {
		first := !done[id]
		done[id] = true
		return first && (len(named) == 0 || isNamed(id))
	}
	for _, m := range list {
		names := state.Monitor{ID: m.ID, Name: m.Name}
		switch before, known := last[m.ID]; {
		case !counts(m.ID):
		case !m.Enabled:
			disable(state.DisabledMonitor{Monitor: names, Code: m.DisabledCode, Reason: m.DisabledReason, Since: now})
		default:
			after.Enabled = append(after.Enabled, names)
			if known && !enabled[m.ID] {
				before.Monitor = names
				news = append(news, monitorNews{before, slog.LevelInfo})
			}
		}
	}
	for _, id := range order {
		m, known := last[id]
		switch {
		case !counts(id):
		case complete:
			m.ID, m.Code, m.Reason = id, state.MonitorGone, "GTI lists it no more"
			if !known || enabled[id] {
				m.Since = now
			}
			if isNamed(id) || now.Sub(m.Since) < monitorGoneFor {
				disable(m)
			}
		case enabled[id]:
			after.Enabled = append(after.Enabled, m.Monitor)
		case known:
			after.Disabled = append(after.Disabled, m)
		}
	}
	after.Enabled = after.Enabled[:min(len(after.Enabled), dtm.MaxMonitors)]
	after.Disabled = after.Disabled[:min(len(after.Disabled), dtm.MaxMonitors)]
	return after, news
}
