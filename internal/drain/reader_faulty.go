package drain

import (
	"errors"
	"fmt"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// failsAtPage reports whether an error can be about what is on a page, such as an alert that
// GTI can't write down: an answer of 500, or one that is cut off.
func failsAtPage(err error) bool {
	var restart *dtm.RestartError
	if errors.As(err, &restart) {
		err = restart.Cause
	}
	switch dtm.Kind(err) {
	case dtm.Unavailable, dtm.Interrupted, dtm.NoAnswer, dtm.Unreadable:
		return true
	default:
		return false
	}
}

// isolate follows up a page at which GTI fails. When GTI answers nothing else either, cause
// is the end of it. Else less and less is asked for, so that one alert at which GTI fails
// doesn't stop the feed. What fails at one alert alone is asked for once again first.
func (r *reader) isolate(cause error) (again bool, err error) {
	if !r.isolating {
		switch {
		case r.answersFrom(r.position().Add(-ms)):
			r.isolating, r.failures = true, 0
			return false, nil
		case r.isOver():
			return true, nil
		}
		return false, listingFailed(cause)
	}
	if r.size != 1 {
		return false, nil
	}
	r.failures++
	switch {
	case r.failures%2 == 1:
		return true, nil
	case r.noRefs || r.slice.light || !r.engine.opts.Refs:
		return true, r.stepOver(cause)
	}
	return false, nil
}

// answersFrom reports whether GTI answers to the least that can be asked for.
func (r *reader) answersFrom(since time.Time) bool {
	q, _ := r.query(r.position())
	q.Since, q.Size, q.Refs, q.Once = since, 1, false, true
	for page, err := range r.engine.source.List(r.engine.deadlines.fetching, q) {
		page.Release()
		return err == nil
	}
	return false
}

// stepOver gives up an alert at which GTI fails however it is asked for. Where it lies is
// not known: the gap reaches from the position to a moment from which GTI answers again.
func (r *reader) stepOver(cause error) error {
	from := later(r.position(), r.order.last()) // the position is short of what was seen last
	for step := ms; ; step *= 10 {
		bound := from.Add(step + ms)
		switch {
		case !bound.Before(r.until()):
			return &listingError{fmt.Errorf("after %s: %w", from.Format(time.RFC3339Nano), cause)}
		case r.isOver():
			return nil
		case r.answersFrom(bound):
			r.goOnAt(bound.Add(ms)) // a listing begins a millisecond before the position
			return nil
		}
	}
}

// goOnAt gives up what lies before a moment in this slice: it becomes a gap.
func (r *reader) goOnAt(bound time.Time) {
	r.size, r.noRefs, r.isolating, r.passing = 0, false, false, 0
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	if g, ok := cutBefore(&r.slice.Slice, bound); ok {
		r.engine.addGap(g)
	}
	r.slice.fetched = r.slice.DoneUntil
	r.engine.checkpoint()
}

// shrinkPage asks for a quarter of the size that was too large, down to one alert,
// and then for that one without its document.
func (r *reader) shrinkPage(cause error) error {
	if r.size == 0 {
		r.size = r.engine.pageSize(r.slice)
		r.passing = r.size
	}
	switch {
	case r.size > 1:
		r.size = max(1, r.size/4)
	case r.engine.opts.Refs && !r.noRefs && !r.slice.light:
		r.noRefs, r.oversizedAt = true, time.Time{}
	default:
		return &listingError{fmt.Errorf("after %s: %w", r.slice.DoneUntil.Format(time.RFC3339Nano), cause)}
	}
	return nil
}

// restored reports whether what was too large is passed with the last page, and if
// so makes pages full again.
func (r *reader) restored(page dtm.Page, o outcome) bool {
	if r.noRefs {
		// One that is known already brings no progress; it is the one after the last that came.
		if len(page.Alerts) > 0 && r.oversizedAt.IsZero() &&
			(r.ahead == 0 || o.progressed || r.ahead < 0 && page.Alerts[0].CreatedAt.After(r.lastAt)) {
			r.oversizedAt = page.Alerts[0].CreatedAt
		}
		r.ahead--
		return false
	}
	if n := len(page.Alerts); n > 0 {
		r.lastAt = page.Alerts[n-1].CreatedAt
	}
	if r.size == 0 || !o.progressed {
		return false
	}
	r.passing -= max(1, o.newAlerts)
	if r.passing > 0 {
		return false
	}
	r.size, r.isolating = 0, false
	return true
}

// isPastOversized reports whether a page that was asked for without documents begins
// after the one alert that is too large with it. If so, pages are full again, and
// the position moves so far that the next listing doesn't begin with that alert
// once more.
func (r *reader) isPastOversized(f fetched) bool {
	if !r.noRefs || r.oversizedAt.IsZero() || len(f.page.Alerts) == 0 {
		return false
	}
	// A listing begins a millisecond before the position.
	next := r.oversizedAt.Add(2 * ms)
	if r.order.isLost() || f.page.Alerts[0].CreatedAt.Before(next.Add(r.order.slack())) {
		return false
	}
	if r.position().Before(next) && !r.engine.advance(r.slice, orderFrom(next), f) {
		return false
	}
	r.size, r.noRefs, r.isolating = 0, false, false
	return true
}
