package drain

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/observe"
)

// reader reads one slice to its end, listing anew where a listing can't be gone
// on with.
//
// Each pass is one listing (or, with a filter on what changes, a chain of
// listings), fetched a page ahead of what is being published.
type reader struct {
	*engine
	span *span

	// After a page that was too large, or can't be read: ask for less at a time.
	size     int       // page size, 0 for the full one
	passing  int       // alerts to get past before the size is full again
	noRefs   bool      // even one alert was too large with its document
	ahead    int       // how many pages were listed before the one that was too large
	giant    time.Time // created_at of that one alert, once it is known
	alone    bool      // wait for a whole page's memory
	followUp bool      // the pass follows links of empty pages

	// since replaces the slice's position in the next pass: the oldest since that
	// the API is known to answer, after it refused an older one.
	since   time.Time
	refused time.Duration // the age of the since that was refused

	listed time.Time // when the last listing was asked for; zero: none was
}

// ending says why a pass ended.
type ending int

const (
	none         ending = iota
	finished            // the slice is read
	fullLast            // a full page without a next link: there may be more
	emptyFirst          // an empty first page with a next link
	emptyLater          // an empty later page with a next link
	repeated            // the next link repeats a token
	disorder            // a page is out of order
	broken              // a page request failed, and its token is spent
	noMemory            // the page didn't fit into the workers' share
	tooLarge            // the page is larger than a page may be
	resize              // the giant is behind: ask for full pages again
	refusedSince        // the API answers 400 to this since
	stopped             // fetching has ended
)

const (
	// maxFollow is how many empty pages are followed (design: the API is known to
	// have put a next link on its last page).
	maxFollow = 3
	// maxFruitless bounds listings that bring nothing, whatever mix of faults
	// ends them.
	maxFruitless = 6
)

// read reads the slice until it is done or fetching ends.
func (r *reader) read() (done bool, err error) {
	before, fruitless := none, 0
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
		switch {
		case err != nil:
			return false, err
		case end == finished:
			return true, nil
		case end == stopped:
			return false, nil
		}
		again := end == before && !progressed
		switch {
		case again && (end == fullLast || end == emptyFirst):
			return true, nil
		case again && end == repeated:
			// The listing has ended, but nobody said that this was all: the rest of the
			// slice stays for the next run.
			r.leave()
			return false, nil
		case again && end == disorder:
			return false, &listingError{errors.New("the API answers pages out of order, twice in a row and with nothing new")}
		case again && end == broken && fruitless > 0:
			return false, &listingError{fmt.Errorf("no page could be read, twice in a row: %w", cause)}
		case end == refusedSince:
			r.since, r.refused = r.opts.bound(), time.Since(r.position())
		case end == tooLarge:
			if err := r.shrink(cause); err != nil {
				return false, err
			}
			if progressed {
				r.ahead = -1 // the next listing begins elsewhere
			}
		}
		r.alone = end == noMemory || r.alone && !progressed
		if progressed {
			before, fruitless, r.followUp = none, 0, false
		}
		if end == noMemory || end == tooLarge || end == resize || end == refusedSince {
			continue // this says how to ask, and nothing about the slice
		}
		if !progressed {
			if fruitless++; fruitless >= maxFruitless {
				return false, &listingError{errors.Join(fmt.Errorf("%d listings in a row brought nothing", fruitless), cause)}
			}
		}
		r.followUp = end == emptyLater
		before = end
	}
}

// listingError is a listing that can't be gone on with now, for a reason that
// lies in what was asked or how it was answered.
type listingError struct{ err error }

func (e *listingError) Error() string { return "listing alerts: " + e.err.Error() }
func (e *listingError) Unwrap() error { return e.err }

// listingFailed tells a failed listing from what every other would fail with too.
func listingFailed(err error) error {
	if dtm.Failed(err) {
		return &listingError{err}
	}
	return err
}

// fetched is what the fetching goroutine hands to the publishing one.
type fetched struct {
	page dtm.Page
	// listed is when its listing was asked for: what came into the index later may
	// be missing in it.
	listed time.Time
	end    ending
	err    error // with end none: fatal; else why the pass ended
	// goOn is answered before the next page is asked for, where that depends on
	// what the page brought; nil where it doesn't.
	goOn chan bool
}

// pass lists once from the slice's position. cause says more about an ending.
func (r *reader) pass() (end ending, progressed bool, cause, err error) {
	ctx, cancel := context.WithCancel(r.fetching)
	pages := make(chan fetched)
	go func() {
		defer close(pages)
		defer func() {
			if v := recover(); v != nil {
				send(ctx, pages, fetched{err: observe.Recovered(v)})
			}
		}()
		r.fetch(ctx, pages)
	}()
	defer func() {
		cancel()
		for f := range pages {
			f.page.Release()
		}
	}()
	for f := range pages {
		if f.err != nil && f.end == none {
			return none, progressed, nil, listingFailed(f.err)
		}
		if !f.listed.IsZero() {
			r.listed = f.listed
		}
		if r.behindGiant(f) {
			f.page.Release()
			return resize, true, nil, nil
		}
		more, err := r.handle(f)
		f.page.Release()
		if err != nil {
			return none, progressed, nil, listingFailed(err)
		}
		progressed = progressed || more.progressed
		switch {
		case more.stopped:
			return stopped, progressed, nil, nil
		case !more.whole:
			r.stopAll(errCap)
			return stopped, progressed, nil, nil
		case f.end != none:
			return f.end, progressed, f.err, nil
		case r.full():
			r.stopAll(errCap)
			return stopped, progressed, nil, nil
		case f.goOn == nil:
		case r.restored(f.page, more):
			return resize, progressed, nil, nil
		default:
			f.goOn <- len(f.page.Alerts) > 0 || !progressed
		}
	}
	if r.fetching.Err() == nil {
		return none, progressed, nil, errors.New("listing alerts: the listing ended without an end")
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

// fetch lists pages and judges whether the listing can be gone on with.
func (r *reader) fetch(ctx context.Context, pages chan<- fetched) {
	r.mu.Lock()
	s, query := r.span.Slice, r.query()
	r.mu.Unlock()
	relist := r.opts.Filter.Changeable()
	pageNo, empties := 0, 0
	for since := s.DoneUntil; ; {
		query.Since = since.Add(-ms)
		if !r.since.IsZero() {
			query.Since = r.since
			if !query.Until.After(query.Since) {
				query.Until = query.Since.Add(time.Second) // the whole slice is older
			}
		}
		var (
			seen   order
			listed time.Time // when this listing was asked for
		)
		tokens := map[string]bool{}
		again := false
		for page, err := range r.source.List(ctx, query) {
			if err != nil {
				r.failed(ctx, pages, query, pageNo, err)
				return
			}
			if listed.IsZero() {
				listed = page.AskedAt
			}
			switch {
			case pageNo > 0:
			case !r.since.IsZero():
				since = r.accept()
			default:
				r.suspect(s.DoneUntil, page)
			}
			r.answered()
			f := fetched{page: page, listed: listed}
			if len(page.Alerts) == 0 && page.Next != "" && !tokens[page.Next] {
				switch {
				case r.followUp && empties < maxFollow:
					empties++
					f.goOn = make(chan bool, 1)
				case r.followUp:
					f.end = finished
				case pageNo == 0:
					f.end = emptyFirst
				default:
					f.end = emptyLater
				}
			} else {
				empties = 0
				f.end = r.judge(page, query, tokens, &seen)
				if r.size > 0 {
					f.goOn = make(chan bool, 1)
				}
			}
			pageNo++
			if !send(ctx, pages, f) || f.end != none {
				return
			}
			if f.goOn != nil {
				select {
				case <-ctx.Done():
					return
				case more := <-f.goOn:
					if !more {
						send(ctx, pages, fetched{end: emptyLater})
						return
					}
				}
			}
			tokens[page.Next] = true
			if r.size == 0 {
				r.split(r.span)
			}
			if relist && seen.last.After(since) {
				since, again = seen.last, true
				break
			}
		}
		if !again || ctx.Err() != nil {
			return
		}
	}
}

// query is the listing of what remains of the slice. The lock is held.
func (r *reader) query() dtm.Query {
	q := dtm.Query{
		// Whether the bounds are inclusive is unknown (DTM API), so ask for a
		// millisecond more on both sides.
		Until: r.span.To.Add(ms),
		Size:  r.opts.PageSize, Refs: r.opts.Refs && !r.noRefs, Filter: r.opts.Filter, Alone: r.alone,
	}
	if r.size > 0 {
		q.Size = r.size
	}
	return q
}

// order is what a listing has shown so far.
type order struct {
	last time.Time // created_at of the newest alert of the slice
	// How many alerts from behind the slice came at the end, and the last of them.
	behind     int
	lastBehind time.Time
}

// add takes the next alert of a listing, and reports false when it is out of
// order. A single alert from outside the slice says nothing: a broken one must
// not hide those that come after it.
func (o *order) add(at, since, to time.Time) bool {
	switch {
	case at.Before(since): // the API leaves since out of account, or the alert is broken
		return true
	case at.Before(to):
		ordered := !at.Before(o.last)
		o.last, o.behind, o.lastBehind = at, 0, time.Time{}
		return ordered
	default:
		ordered := !at.Before(o.lastBehind)
		o.behind++
		o.lastBehind = at
		return ordered
	}
}

// judge says how the listing goes on behind a page.
func (r *reader) judge(page dtm.Page, q dtm.Query, tokens map[string]bool, seen *order) ending {
	r.mu.Lock()
	to := r.span.To
	r.mu.Unlock()
	n, ordered := 0, true
	for _, a := range page.Alerts {
		if a.Fault != "" {
			continue
		}
		ordered = seen.add(a.CreatedAt, q.Since, to) && ordered
		if a.CreatedAt.Before(to) {
			n++
		}
	}
	switch {
	case !ordered:
		return disorder
	case seen.behind >= 2, seen.behind == 1 && page.Next == "":
		return finished
	}
	r.saw(r.span, n, seen.last)
	switch {
	case page.Next == "" && len(page.Alerts) >= q.Size:
		return fullLast
	case page.Next == "":
		return finished
	case tokens[page.Next]:
		return repeated
	default:
		return none
	}
}

// failed hands on why a listing could not be gone on with.
func (r *reader) failed(ctx context.Context, pages chan<- fetched, q dtm.Query, pageNo int, err error) {
	var (
		restart *dtm.RestartError
		large   *dtm.PageTooLargeError
		wait    *dtm.WaitError
		api     *dtm.APIError
	)
	f := fetched{err: err}
	switch {
	case r.fetching.Err() != nil:
		return // the pass ends as stopped
	case errors.As(err, &wait):
		r.stopAll(err)
		return
	case errors.As(err, &restart):
		f.end = broken
	case errors.Is(err, dtm.ErrMemory):
		f.end = noMemory
	case errors.As(err, &large):
		f.end, r.ahead = tooLarge, pageNo
	case pageNo == 0 && r.since.IsZero() && errors.As(err, &api) && api.Status == http.StatusBadRequest && api.Final() && q.Since.Before(r.opts.bound()):
		f.end = refusedSince
	}
	send(ctx, pages, f)
}

// outcome is what a page brought.
type outcome struct {
	whole      bool // all its alerts are dealt with
	progressed bool // it held something new, or moved the slice's position
	stopped    bool // fetching ended before its turn came
	fresh      int
}

// handle publishes what belongs of a page, and moves the slice's position
// behind it where the page is in order.
func (r *reader) handle(f fetched) (outcome, error) {
	r.mu.Lock()
	s := r.span.Slice
	r.mu.Unlock()
	var mine []dtm.Alert
	faulty := false
	for _, a := range f.page.Alerts {
		faulty = faulty || a.Fault != ""
		// Whether the API's bounds are inclusive doesn't matter: an alert belongs
		// to the one slice that its created_at is in.
		if a.Fault != "" || !a.CreatedAt.Before(s.From) && a.CreatedAt.Before(s.To) {
			mine = append(mine, a)
		}
	}
	if faulty {
		select {
		case r.faulty <- struct{}{}:
			defer func() { <-r.faulty }()
		case <-r.fetching.Done(): // what others publish now may take all the time that is left
			return outcome{stopped: true}, nil
		}
	}
	tally, err := r.desk.Handle(r.working, mine, r.allow)
	r.count(len(f.page.Alerts), tally)
	if err != nil {
		return outcome{}, err
	}
	out := outcome{whole: tally.Handled == len(mine), fresh: tally.Fresh()}
	to := s.DoneUntil
	for _, a := range mine[:tally.Handled] {
		if a.Fault == "" && a.CreatedAt.After(to) {
			to = a.CreatedAt
		}
	}
	moved := f.end != disorder && len(mine) > 0 && r.advance(r.span, to, f.listed)
	out.progressed = moved || out.fresh > 0
	return out, nil
}

// leave keeps the rest of the slice from this run's workers.
func (r *reader) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.span.left = true
}

// lastRead notes that the rest of the slice was listed, up to its end.
func (r *reader) lastRead() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.listed.IsZero() {
		r.young(r.span.DoneUntil, r.span.To, r.listed)
	}
}

func (r *reader) position() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.span.DoneUntil
}

// shrink asks for a quarter of the size that was too large, down to one alert,
// and then for that one without its document.
func (r *reader) shrink(cause error) error {
	if r.size == 0 {
		r.size, r.passing = r.opts.PageSize, r.opts.PageSize
	}
	switch {
	case r.size > 1:
		r.size = max(1, r.size/4)
	case r.opts.Refs && !r.noRefs:
		r.noRefs, r.giant = true, time.Time{}
	default:
		return &listingError{fmt.Errorf("behind %s: %w", r.span.DoneUntil.Format(time.RFC3339Nano), cause)}
	}
	return nil
}

// restored reports whether what was too large is behind the last page, and if
// so makes pages full again.
func (r *reader) restored(page dtm.Page, o outcome) bool {
	if r.noRefs {
		if len(page.Alerts) > 0 && r.giant.IsZero() && (r.ahead == 0 || o.progressed) {
			r.giant = page.Alerts[0].CreatedAt
		}
		r.ahead--
		return false
	}
	if r.size == 0 || !o.progressed {
		return false
	}
	r.passing -= max(1, o.fresh)
	if r.passing > 0 {
		return false
	}
	r.size = 0
	return true
}

// behindGiant reports whether a page that was asked for without documents begins
// behind the one alert that is too large with it. If so, pages are full again,
// and the position moves so far that the next listing doesn't begin with that
// alert once more.
func (r *reader) behindGiant(f fetched) bool {
	if !r.noRefs || r.giant.IsZero() || f.end == disorder || len(f.page.Alerts) == 0 {
		return false
	}
	// A listing begins a millisecond before the position.
	next := f.page.Alerts[0].CreatedAt
	if !next.After(r.giant.Add(ms)) || !r.advance(r.span, next, f.listed) {
		return false
	}
	r.size, r.noRefs = 0, false
	return true
}
