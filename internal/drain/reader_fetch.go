package drain

import (
	"context"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

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
			r.failed(ctx, pages, l, c.pages, err)
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
func (r *reader) failed(ctx context.Context, pages chan<- fetched, l *sliceListing, pageNo int, err error) {
	f := fetched{err: err, end: l.endOf(err)}
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
	case pageNo == 0 && r.since.IsZero() && dtm.IsSinceRefused(err) && l.query.Since.Before(r.engine.oldestSafeSince()):
		f.end = refusedSince
	}
	send(ctx, pages, f)
}
