package drain

import (
	"context"
	"time"

	"dtmrelay.internal/dtmrelay/internal/observe"
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

// isOver reports whether fetching has ended, so that the next pass ends as stopped.
func (r *reader) isOver() bool { return r.engine.deadlines.fetching.Err() != nil }

func (r *reader) until() time.Time {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	return r.slice.To
}
