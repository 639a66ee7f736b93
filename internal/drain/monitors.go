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

// monitorsLook is one look at GTI's monitors.
type monitorsLook struct {
	list     []dtm.Monitor
	complete bool
	err      error
	isTold   bool
}

// monitors looks at GTI's monitors when it is time to: GTI disables one by itself when
// it finds too much, and the feed is then well and empty (DTM API). Nothing that goes
// wrong here ends a run.
func (w *work) monitors() {
	if w.isLookDue() {
		w.look(w.deadlines.fetching)
	}
	w.tellMonitors()
}

// isLookDue reports whether this run has still to look at the monitors.
func (w *work) isLookDue() bool {
	every := w.runner.Options.MonitorsCheck
	return w.holder != nil && w.looked == nil && every != 0 && isDue(w.holder.Feed().Monitors, every, w.clock.now())
}

// look asks for the monitors. What they say is for tellMonitors: the engine's workers may
// be at work, and the report is theirs. A look that fetching has ended is none.
func (w *work) look(fetching context.Context) {
	ctx, cancel := context.WithTimeoutCause(fetching, monitorsTime, errMonitorsTime)
	defer cancel()
	var l monitorsLook
	l.list, l.complete, l.err = w.runner.MonitorsAPI.Monitors(ctx)
	if fetching.Err() == nil {
		w.looked = &l
	}
}

// tellMonitors tells what this run's look has shown.
//
// What has changed is told before it is stored with the next write of the feed's
// document: a run that dies in between leaves it to be told again.
func (w *work) tellMonitors() {
	l := w.looked
	if l == nil || l.isTold {
		return
	}
	l.isTold = true
	w.report.needed += float64(w.runner.MonitorsAPI.Stats().Requests)
	log, now := w.runner.Log.With("feed", w.runner.Feed), w.clock.now().Truncate(ms)
	switch kind := dtm.Kind(l.err); {
	case l.err == nil:
	case kind == dtm.BudgetSpent, kind == dtm.Wait:
		return // the next run looks
	default:
		err, wait := l.err, monitorsFailed
		if refusal := refusalOf(err); refusal != nil {
			wait, err = monitorsRefused, refusal
		}
		log.WarnContext(w.deadlines.caller, "the monitors could not be looked at: whether GTI has disabled one is not known",
			"event", "monitors", "error", err.Error(), "again_in", wait.String())
		w.holder.UpdateLazily(func(f *state.Feed) { f.Monitors.FailedAt, f.Monitors.Wait = now, wait })
		return
	}
	after, news := compareMonitors(w.holder.Feed().Monitors, l.list, l.complete, w.runner.Options.Filter.MonitorID, now)
	for _, n := range news {
		n.tell(w.deadlines.caller, log)
	}
	w.holder.UpdateLazily(func(f *state.Feed) { f.Monitors = after })
}

// isDue reports whether the monitors are to be looked at again. A time that lies ahead was
// stored by a clock that was wrong.
func isDue(m state.Monitors, every time.Duration, now time.Time) bool {
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
	log = log.With("id", m.ID, "name", m.Name)
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
func compareMonitors(before state.Monitors, list []dtm.Monitor, complete bool, named []string, now time.Time) (after state.Monitors, news []monitorNews) {
	c := comparison{
		named: named, now: now, done: map[string]bool{},
		enabled: map[string]bool{}, known: map[string]state.DisabledMonitor{}, after: state.Monitors{CheckedAt: now},
	}
	order := slices.Clone(named)
	for _, m := range before.Enabled {
		c.enabled[m.ID], c.known[m.ID] = true, state.DisabledMonitor{Monitor: m}
		order = append(order, m.ID)
	}
	for _, m := range before.Disabled {
		c.known[m.ID] = m
		order = append(order, m.ID)
	}
	for _, m := range list {
		if c.counts(m.ID) {
			c.listed(m)
		}
	}
	for _, id := range order {
		switch {
		case !c.counts(id):
		case complete:
			c.gone(id)
		default:
			c.unchanged(id)
		}
	}
	c.after.Enabled = c.after.Enabled[:min(len(c.after.Enabled), dtm.MaxMonitors)]
	c.after.Disabled = c.after.Disabled[:min(len(c.after.Disabled), dtm.MaxMonitors)]
	return c.after, c.news
}

// comparison is of two looks, a monitor at a time.
type comparison struct {
	named []string // by the filter; none: all monitors count
	now   time.Time
	done  map[string]bool
	// enabled are the monitors that the look before found so, and known all that it knew.
	enabled map[string]bool
	known   map[string]state.DisabledMonitor

	after state.Monitors
	news  []monitorNews
}

// counts reports whether a monitor is to be compared, which it is once.
func (c *comparison) counts(id string) bool {
	first := !c.done[id]
	c.done[id] = true
	return first && (len(c.named) == 0 || c.isNamed(id))
}

func (c *comparison) isNamed(id string) bool { return slices.Contains(c.named, id) }

func (c *comparison) listed(m dtm.Monitor) {
	monitor := state.Monitor{ID: m.ID, Name: m.Name}
	if !m.Enabled {
		c.disable(state.DisabledMonitor{Monitor: monitor, Code: m.DisabledCode, Reason: m.DisabledReason, Since: c.now})
		return
	}
	c.after.Enabled = append(c.after.Enabled, monitor)
	if before, known := c.known[m.ID]; known && !c.enabled[m.ID] {
		before.Monitor = monitor
		c.news = append(c.news, monitorNews{before, slog.LevelInfo})
	}
}

// gone is told of a monitor that a complete list lacks.
func (c *comparison) gone(id string) {
	m, known := c.known[id]
	m.ID, m.Code, m.Reason = id, state.MonitorGone, "GTI lists it no more"
	if !known || c.enabled[id] {
		m.Since = c.now
	}
	if c.isNamed(id) || c.now.Sub(m.Since) < monitorGoneFor {
		c.disable(m)
	}
}

// unchanged is told of a monitor of which nothing new is known.
func (c *comparison) unchanged(id string) {
	m, known := c.known[id]
	switch {
	case c.enabled[id]:
		c.after.Enabled = append(c.after.Enabled, m.Monitor)
	case known:
		c.after.Disabled = append(c.after.Disabled, m)
	}
}

// disable notes a monitor that is disabled. One that was never seen enabled is news once. It
// is an error if the filter names it, for the feed waits for it; else it may be one that
// nobody misses.
func (c *comparison) disable(m state.DisabledMonitor) {
	switch before, known := c.known[m.ID]; {
	case known && !c.enabled[m.ID]:
		m.Since = before.Since
	case c.enabled[m.ID] || c.isNamed(m.ID):
		c.news = append(c.news, monitorNews{m, slog.LevelError})
	default:
		c.news = append(c.news, monitorNews{m, slog.LevelWarn})
	}
	c.after.Disabled = append(c.after.Disabled, m)
}
