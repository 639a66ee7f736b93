package drain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// reader reads one slice to its end, listing anew where a listing can't be gone
// on with.
//
// Each pass is one listing (or, with a filter on what changes, a chain of
// listings), fetched a page ahead of what is being published.
type reader struct {
	engine *engine
	slice  *activeSlice

	// After a page that was too large, or can't be read: ask for less at a time.
	size        int       // page size, 0 for the full one
	passing     int       // alerts to get past before the size is full again
	noRefs      bool      // even one alert was too large with its document
	ahead       int       // how many pages were listed before the one that was too large
	oversizedAt time.Time // created_at of that one alert, once it is known
	lastAt      time.Time // created_at of the last alert that was listed with its document
	isolating   bool      // GTI fails at a page, though it answers: each is asked for once
	failures    int       // at a page of one alert
	order       order     // of what the pass has published
	doubts      doubts
	endings     endings

	// since replaces the slice's position in the next pass: the oldest since that
	// the API is known to answer, after it refused an older one.
	since   time.Time
	refused time.Duration // the age of the since that was refused
	// recalled: it was refused to an earlier run, and this one hasn't asked.
	recalled bool

	listed time.Time // when the last listing was asked for; zero: none was
}

// readSlice reads the slice until it is done or fetching ends.
func (r *reader) readSlice() (done bool, err error) {
	defer func() {
		if done {
			r.lastRead()
		}
	}()
	for {
		if r.skipRefused() {
			return true, nil
		}
		end, progressed, cause, err := r.pass()
		if err != nil || end == stopped {
			return false, err
		}
		switch next, err := r.endings.add(end, progressed, cause); {
		case err != nil:
			return false, err
		case next == allRead:
			return true, nil
		case next == unclear:
			// The rest of the slice stays for the next run.
			r.setAside()
			return false, nil
		}
		if end == refusedSince {
			position := r.position()
			if r.since, r.refused = r.engine.oldestSafeSince(), r.engine.clock.now().Sub(position); !r.since.After(position) {
				r.since = time.Time{}
			}
		}
		if end == faulty {
			again, err := r.isolate(cause)
			if err != nil {
				return false, err
			}
			if again {
				continue
			}
		}
		if end == tooLarge || end == faulty {
			if err := r.shrinkPage(cause); err != nil {
				return false, err
			}
			if progressed {
				r.ahead = -1 // the next listing begins elsewhere
			}
		}
	}
}

// fetched is what the fetching goroutine hands to the publishing one.
type fetched struct {
	page dtm.Page
	// listed is when its listing was asked for: what came into the index later may
	// be missing in it.
	listed time.Time
	asked  state.Slice // what its listing asked for, From and To included
	light  bool        // without documents
	end    listingEnd
	err    error // with an end: why the pass ended; else fatal
	// goOn is answered before the next page is asked for, where that depends on
	// what the page brought; nil where it doesn't.
	goOn chan bool
}

// pass lists once from the slice's position. cause says more about an ending.
func (r *reader) pass() (end listingEnd, progressed bool, cause, err error) {
	ctx, cancel := context.WithCancel(r.engine.deadlines.fetching)
	r.order = order{}
	pages := make(chan fetched)
	go func() {
		defer close(pages)
		defer func() {
			if v := recover(); v != nil {
				send(ctx, pages, fetched{err: observe.Recovered(v)})
			}
		}()
		r.fetchAll(ctx, pages)
	}()
	defer func() {
		cancel()
		for f := range pages {
			f.page.Release()
		}
	}()
	for f := range pages {
		if f.err != nil && f.end == goesOn {
			return goesOn, progressed, nil, listingFailed(f.err)
		}
		if !f.listed.IsZero() {
			r.listed = f.listed
		}
		if r.isPastOversized(f) {
			f.page.Release()
			return anew, true, nil, nil
		}
		more, err := r.handle(f)
		f.page.Release()
		if err != nil {
			return goesOn, progressed, nil, listingFailed(err)
		}
		progressed = progressed || more.progressed
		switch {
		case more.stopped:
			return stopped, progressed, nil, nil
		case !more.allHandled:
			r.engine.stopAll(errCap)
			return stopped, progressed, nil, nil
		case f.end != goesOn:
			return f.end, progressed, f.err, nil
		case r.engine.isCapReached():
			r.engine.stopAll(errCap)
			return stopped, progressed, nil, nil
		case f.goOn == nil:
		case r.restored(f.page, more):
			return anew, progressed, nil, nil
		default:
			f.goOn <- len(f.page.Alerts) > 0 || !progressed
		}
	}
	if r.engine.deadlines.fetching.Err() == nil {
		return goesOn, progressed, nil, errNoEnd
	}
	return stopped, progressed, nil, nil
}

// send hands f over, unless the pass has ended.
func send(ctx context.Context, pages chan<- fetched, f fetched) bool {
	select {
	case pages <- f:
		return true
	case <-ctx.Done():
		f.page.Release()
		return false
	}
}

// sliceListing is what one listing by created_at has shown so far.
type sliceListing struct {
	listing
	query dtm.Query
	asked time.Time // when; zero: it was not answered yet
	order order
	past  int // alerts of the last pages that are past the slice's end, when no other were on them
	cut   bool
	light bool
	// isFirst: no page came yet. firstTo is the last alert in order of the first one.
	isFirst bool
	firstTo time.Time
}

// chain is the listings of a pass: one, or several of which each goes on where the one
// before has been left.
type chain struct {
	since time.Time // from where the present listing lists
	base  listing   // what those before it have shown
	pages int       // of all of them
}

// leave goes on with another listing, from a time on.
func (c *chain) leave(l *sliceListing, at time.Time) { c.since, c.base = at, l.next() }

// fetchAll lists pages until the pass is over.
func (r *reader) fetchAll(ctx context.Context, pages chan<- fetched) {
	c := &chain{since: r.position(), base: newListing(r.endings.followUp)}
	for another := true; another && ctx.Err() == nil; {
		another = r.fetch(ctx, pages, c)
	}
}

// fetch hands the pages of one listing on, and judges after each whether the listing can be
// gone on with. It reports whether another one follows.
func (r *reader) fetch(ctx context.Context, pages chan<- fetched, c *chain) (another bool) {
	l := &sliceListing{listing: c.base, isFirst: true}
	l.query, l.light = r.query(c.since)
	l.order = orderFrom(l.query.Since)
	relist := r.engine.opts.Filter.HasMutable()
	for page, err := range r.engine.source.List(ctx, l.query) {
		if err != nil {
			r.failed(ctx, pages, l.query, c.pages, err)
			return false
		}
		if l.asked.IsZero() {
			l.asked = page.AskedAt.Add(-r.engine.clock.off())
		}
		r.engine.cutFuture(l.asked)
		if c.pages == 0 && !r.isSinceAnswered(page, c) {
			page.Release()
			send(ctx, pages, fetched{end: refusedSince})
			return false
		}
		f := r.judge(page, l)
		if relist && !l.isFirst {
			// Alerts that have left the list since its first page may have shifted others past
			// this one, which then only shows that those of the first page are in their places.
			if at := earlier(l.order.position(), l.firstTo); at.After(c.since) {
				f.page.Release()
				c.leave(l, at)
				return true
			}
			if f.end == finished {
				f.end = shifted
			}
		}
		if l.isFirst {
			l.isFirst, l.firstTo = false, l.order.last()
		}
		c.pages++
		if !r.handOn(ctx, pages, f) {
			return false
		}
		// A slice that was cut is listed anew, up to its new end: then a list is read
		// to its end, and an alert out of place is in it wherever it stands.
		l.cut = r.size == 0 && r.wasCut() || l.cut
		if at := l.order.position(); (l.cut || relist) && at.After(c.since) {
			c.leave(l, at)
			return true
		}
	}
	return false
}

// isSinceAnswered looks at a pass's first page. It reports whether GTI has answered the
// since that it was asked for, as far as is known.
func (r *reader) isSinceAnswered(page dtm.Page, c *chain) bool {
	switch {
	case r.since.IsZero():
		r.detectClamp(c.since, page)
	case r.engine.oldestSafeSince().Before(r.since):
		// This instance's clock is ahead, as the answer says: less is too old than was thought.
		return false
	default:
		c.since = r.acceptBound()
	}
	return true
}

// judge says how the listing goes on after a page.
func (r *reader) judge(page dtm.Page, l *sliceListing) fetched {
	if r.engine.opts.Refs && !l.query.Refs && !l.light { // one of its documents was too large
		for i := range page.Alerts {
			page.Alerts[i].Truncated = true
		}
	}
	page, doubtful := r.doubts.cut(page)
	f := fetched{page: page, listed: l.asked, asked: state.Slice{From: l.query.Since, To: l.query.Until}, light: l.light}
	if f.end = r.endOf(page, l); doubtful {
		f.end = unreadable
	}
	return f
}

// handOn hands a page on. It reports whether the listing is gone on with: where that
// depends on what the page has brought, once it is published.
func (r *reader) handOn(ctx context.Context, pages chan<- fetched, f fetched) (more bool) {
	if len(f.page.Alerts) == 0 || r.size > 0 {
		f.goOn = make(chan bool, 1)
	}
	if !send(ctx, pages, f) || f.end != goesOn {
		return false
	}
	if f.goOn == nil {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case more = <-f.goOn:
		if !more {
			send(ctx, pages, fetched{end: emptyLater})
		}
		return more
	}
}

// query is the listing of what remains of the slice from a time on, and whether it is a
// light one.
func (r *reader) query(since time.Time) (q dtm.Query, light bool) {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	r.slice.wasCut = false
	q = dtm.Query{
		Once: r.isolating,
		// Whether the bounds are inclusive is unknown (DTM API), so ask for a
		// millisecond more on both sides.
		Since: since.Add(-ms), Until: r.slice.To.Add(ms),
		Size: r.engine.pageSize(r.slice), Refs: r.engine.opts.Refs && !r.noRefs && !r.slice.light, Filter: r.engine.opts.Filter, Alone: r.endings.alone,
	}
	if r.size > 0 {
		q.Size = r.size
	}
	if !r.since.IsZero() {
		q.Since = r.since
		if !q.Until.After(q.Since) {
			q.Until = q.Since.Add(time.Second) // the whole slice is older
		}
	}
	return q, r.slice.light
}

// wasCut reports whether the slice ends earlier than its listing was asked for, or is to be
// listed in another way.
func (r *reader) wasCut() bool {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	return r.slice.wasCut
}

// endOf says how the listing goes on after a page.
func (r *reader) endOf(page dtm.Page, l *sliceListing) listingEnd {
	r.engine.mu.Lock()
	to := r.slice.To
	r.engine.mu.Unlock()
	var times []time.Time
	n, past := 0, 0
	for _, a := range page.Alerts {
		switch {
		case a.Invalid != "":
			continue
		case a.CreatedAt.Before(to):
			n++
		default:
			past++
		}
		if !a.CreatedAt.Before(l.query.Since) {
			times = append(times, a.CreatedAt)
		}
	}
	l.order.add(times)
	if n > 0 {
		l.past = 0
	} else {
		l.past += past
	}
	// A single one may be out of place, and ends nothing.
	isPast := n == 0 && l.past >= 2
	end, brought := l.add(page, l.query.Size, isPast || page.Next == "" && past > 0 && !l.order.last().Before(to))
	r.engine.addNeeded(brought, l.query.Size)
	if isPast && page.Next != "" && to.Before(l.query.Until.Add(-ms)) {
		// The slice was cut since this was asked for. Where the order is coarse, alerts of
		// its own may stand later in this list.
		return anew
	}
	r.engine.fetchedPage(r.slice, n, l.order.last(), end == finished, r.size == 0)
	return end
}

// failed hands on why a listing could not be gone on with.
func (r *reader) failed(ctx context.Context, pages chan<- fetched, q dtm.Query, pageNo int, err error) {
	f := fetched{err: err, end: endOfError(err)}
	switch {
	case r.engine.deadlines.fetching.Err() != nil:
		return // the pass ends as stopped
	case dtm.Kind(err) == dtm.Wait:
		r.engine.stopAll(err)
		return
	case failsAtPage(err) && (f.end == goesOn || r.isolating):
		f.end, r.ahead = faulty, pageNo
	case f.end == tooLarge:
		r.ahead = pageNo
	case f.end != goesOn:
	case pageNo == 0 && r.since.IsZero() && dtm.IsSinceRefused(err) && q.Since.Before(r.engine.oldestSafeSince()):
		f.end = refusedSince
	}
	send(ctx, pages, f)
}

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

// setAside keeps the rest of the slice from this run's workers.
func (r *reader) setAside() {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	r.slice.setAside = true
}

// lastRead notes that the rest of the slice was listed, up to its end.
func (r *reader) lastRead() {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	if !r.listed.IsZero() {
		r.engine.noteRecent(r.slice.DoneUntil, r.slice.To, r.listed)
	}
}

func (r *reader) position() time.Time {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	return r.slice.DoneUntil
}

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

// isOver reports whether fetching has ended, so that the next pass ends as stopped.
func (r *reader) isOver() bool { return r.engine.deadlines.fetching.Err() != nil }

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

func (r *reader) until() time.Time {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	return r.slice.To
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
