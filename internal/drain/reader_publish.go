package drain

import (
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// outcome is what a page brought.
type outcome struct {
	allHandled bool // all its alerts are dealt with
	progressed bool // it held something new, or moved the slice's position
	stopped    bool // fetching ended before it could be handled
	newAlerts  int
}

// handle publishes what belongs of a page, and lets the slice's position follow
// what is in order.
func (r *reader) handle(f fetched) (outcome, error) {
	p := r.pick(f)
	release := r.engine.claim(p.alerts)
	if release == nil {
		return outcome{stopped: true}, nil
	}
	defer release()
	processor := r.engine.processor
	if f.light {
		processor = r.engine.light
	}
	counts, err := processor.Process(r.engine.deadlines.working, p.alerts, r.engine)
	r.engine.addCounts(len(f.page.Alerts), counts)
	if err != nil {
		return outcome{}, err
	}
	out := outcome{allHandled: counts.Handled == len(p.alerts), newAlerts: counts.New()}
	r.order = p.after
	if !out.allHandled {
		r.order = p.before
		r.order.add(p.times[:p.placed[counts.Handled]])
		for _, a := range p.alerts[counts.Handled:] {
			if a.Invalid == "" && a.CreatedAt.Before(r.order.safe) {
				r.order.safe = a.CreatedAt
			}
		}
	}
	moved := len(p.times) > 0 && r.engine.advance(r.slice, r.order, f)
	out.progressed = moved || out.newAlerts > 0
	return out, nil
}

// picked is what this worker publishes of a page.
type picked struct {
	alerts []dtm.Alert
	// times are those that the order is judged by, and placed how many of them come
	// before each of the alerts.
	times         []time.Time
	placed        []int
	before, after order
}

// pick chooses what is to be published of a page. An alert belongs to the one slice
// that its created_at is in, so it doesn't matter whether the API's bounds are
// inclusive. A single alert that is far out of place is published by the worker that
// sees it: no other may be shown it.
func (r *reader) pick(f fetched) picked {
	r.engine.mu.Lock()
	s := r.slice.Slice
	r.engine.mu.Unlock()
	if r.order.safe.IsZero() {
		r.order = orderFrom(f.asked.From)
	}
	p := picked{before: r.order, after: r.order}
	usable, strays, far := 0, 0, 0
	for _, a := range f.page.Alerts {
		if a.Invalid != "" {
			continue
		}
		usable++
		if isStray(a, f.asked) {
			strays++
		}
		if !a.CreatedAt.Before(f.asked.From) {
			p.times = append(p.times, a.CreatedAt)
		}
	}
	off := p.after.add(p.times)
	for _, d := range off {
		if d > loose {
			far++
		}
	}
	// When many are, it is the API that doesn't keep to what was asked for, or to any
	// order.
	few := max(1, usable/10)
	n := 0
	for _, a := range f.page.Alerts {
		at, out := n, time.Duration(0)
		if a.Invalid == "" && !a.CreatedAt.Before(f.asked.From) {
			out = off[n]
			n++
		}
		belongs := a.Invalid != "" || !a.CreatedAt.Before(s.From) && a.CreatedAt.Before(s.To)
		displaced := out > loose && far <= few
		if isStray(a, f.asked) {
			displaced = strays <= few
		}
		if belongs || displaced && r.engine.scope.holds(a.CreatedAt) {
			p.alerts, p.placed = append(p.alerts, a), append(p.placed, at)
		}
	}
	return p
}

// isStray reports whether an alert lies outside of what its listing asked for.
func isStray(a dtm.Alert, asked state.Slice) bool {
	return a.CreatedAt.Before(asked.From) || a.CreatedAt.After(asked.To)
}
