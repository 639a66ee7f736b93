package drain

import (
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// boundMargin keeps a bounded since clear of the API's own look-back.
	boundMargin = 10 * time.Minute
	// refusalHolds is how long a refused since is not asked for again.
	refusalHolds = 24 * time.Hour
	// refusalDelay is how much older a since may have been when GTI refused it than when the
	// sweep chose it: a process may stand still for a moment.
	refusalDelay = time.Minute
)

// oldestSafeSince is the oldest since that the API is known to answer at a time.
func (o Options) oldestSafeSince(now time.Time) time.Time {
	return now.Truncate(ms).Add(-o.MaxLookback).Add(boundMargin)
}

func (e *engine) oldestSafeSince() time.Time { return e.opts.oldestSafeSince(e.clock.now()) }

// skipRefused leaves out what the API refused for its age within a day, without
// earning the error again. It reports whether nothing of the slice is left.
func (r *reader) skipRefused() (done bool) {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	last := r.engine.progress.Refusal
	now := r.engine.clock.now()
	switch age := now.Sub(r.slice.DoneUntil); {
	case last == nil || now.Sub(last.At) >= refusalHolds || age < last.Age:
	case r.engine.firstAnswered:
		r.giveUpBefore(r.engine.oldestSafeSince())
	case r.since.IsZero():
		// Nothing is given up before GTI has said what time it is.
		r.since, r.refused, r.recalled = r.engine.oldestSafeSince(), age, true
	}
	return !r.slice.DoneUntil.Before(r.slice.To)
}

// acceptBound goes on after a since that was refused, now that a younger one was
// answered, and returns the slice's new position.
func (r *reader) acceptBound() time.Time {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	if !r.recalled {
		r.engine.progress.Refusal = &state.Refusal{At: r.engine.clock.now().Truncate(ms), Age: r.refused}
	}
	r.recalled = false
	r.giveUpBefore(r.since.Add(ms))
	r.since = time.Time{}
	return r.slice.DoneUntil
}

// giveUpBefore gives up what lies before bound in this slice and in those that
// nobody has begun to read: it becomes a gap. The lock is held.
func (r *reader) giveUpBefore(bound time.Time) {
	for _, s := range r.engine.active {
		if s.owned && s != r.slice {
			continue
		}
		if g, ok := cutBefore(&s.Slice, bound); ok {
			s.fetched = s.DoneUntil
			r.engine.addGap(g)
		}
	}
	r.engine.checkpoint()
}

// detectClamp looks at the first page of a listing from before the API's known
// look-back: when it begins later, the API may have left out what is older
// without a word.
func (r *reader) detectClamp(from time.Time, page dtm.Page) {
	bound := r.engine.oldestSafeSince()
	if !from.Before(bound.Add(-boundMargin)) {
		return
	}
	first := slices.IndexFunc(page.Alerts, func(a dtm.Alert) bool { return a.Invalid == "" })
	if first < 0 || !page.Alerts[first].CreatedAt.After(bound) {
		return
	}
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	r.engine.addGap(state.Gap{TimeRange: state.TimeRange{Since: from, Until: bound}, Suspected: true})
	r.engine.checkpoint()
}

// covered reports whether a gap is known as a part of another of its kind.
func covered(gaps []state.Gap, g state.Gap) bool {
	return slices.ContainsFunc(gaps, func(known state.Gap) bool {
		return known.Suspected == g.Suspected && !known.Since.After(g.Since) && !known.Until.Before(g.Until)
	})
}

// addGap notes a gap, and tells of it once. The lock is held.
func (e *engine) addGap(g state.Gap) {
	if covered(e.progress.Gaps, g) {
		return
	}
	e.progress.Gaps = addGap(e.progress.Gaps, g)
	if !g.Suspected {
		if e.report.Gap == nil {
			e.report.Gap = &state.TimeRange{Since: g.Since, Until: g.Until}
		}
		e.report.Gap.Since = earlier(e.report.Gap.Since, g.Since)
		e.report.Gap.Until = later(e.report.Gap.Until, g.Until)
	}
	e.onGap(g)
}
