package drain

import (
	"math"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// minPages is how many pages must seem to remain in the first slice that is split: a
	// quiet feed costs one request a run, and a split may cost one more.
	minPages = 4
	// minPagesLater is how many must in those after it. Fewer are read by their owner before
	// a second worker's page has come.
	minPagesLater = 2
	// minListedPages is how many must remain of what earlier runs have listed before it
	// becomes a slice of its own, whose pages are larger.
	minListedPages = 2
	// everyday is the span up to which the slices of a run hold what has come since the one
	// before. A split costs half a request and more, and gains seconds there.
	everyday = 20 * time.Minute
	// pagesOfSplit is how many pages must remain for each split of such slices.
	pagesOfSplit = 14
)

// fetchedPage takes the alerts of a page of a slice, judges by them how much of it
// remains, and splits for the workers that wait. Its owner calls it before anybody handles
// the page, so that it sees at once that its slice was cut. isLast: the slice is read.
// isFull: pages are as large as they may be.
func (e *engine) fetchedPage(s *activeSlice, alerts int, last time.Time, isLast, isFull bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.firstAnswered {
		e.firstAnswered = true
		defer e.changed.Broadcast() // when those who wait have been given what there is
	}
	s.read += alerts
	if isLast && last.Before(s.To) {
		last = s.To
	}
	if last.After(s.fetched) {
		e.observeRate(s, alerts, last)
		if isFull {
			e.cutListed(s)
		}
	}
	waiting := e.idle
	for _, s := range e.active {
		if !s.owned && !s.setAside {
			waiting--
		}
	}
	for waiting > 0 && e.split() != nil {
		waiting--
	}
}

// observeRate notes the rate of a page. The lock is held.
func (e *engine) observeRate(s *activeSlice, alerts int, last time.Time) {
	rate := float64(alerts) / float64(max(1, last.Sub(s.fetched)/ms))
	if !s.answered {
		if i := slices.Index(e.active, s); i > 0 && e.active[i-1].To.Equal(s.From) {
			e.active[i-1].rateAtEnd, e.active[i-1].knowsEnd = rate, true
		}
	}
	if !s.knowsEnd {
		s.rateAtEnd = rate
	}
	s.rate, s.fetched, s.answered = rate, last, true
}

// pageSize is how many alerts a page of a slice holds.
func (e *engine) pageSize(s *activeSlice) int {
	if s.light {
		return dtm.PageSize(false)
	}
	return e.opts.PageSize
}

// remainingPages is how many pages seem to remain in a slice after the last alert
// fetched, if the rate goes evenly from the one there to the one at its end. What is new
// is not judged by the rate of what earlier runs have listed.
func (e *engine) remainingPages(s *activeSlice) float64 {
	rate, to := (s.rate+s.rateAtEnd)/2, s.To
	if s.fetched.Before(e.listed) {
		to = earlier(to, e.listed)
	}
	if e.splits == 0 || e.span <= everyday {
		// A burst need not go on: as much as so far comes in the same time again.
		rate = min(rate, float64(s.read)/float64(max(1, s.fetched.Sub(s.begin)/ms)))
	}
	return rate * float64(max(0, to.Sub(s.fetched))/ms) / float64(e.pageSize(s))
}

// split cuts the slice in which most remains, and returns its later part for a worker
// that has nothing to do; nil when too little remains of each. The cut is after the last
// alert fetched. What the owner is being sent may reach past it: each publishes only what
// is in its own slice. The lock is held.
func (e *engine) split() *activeSlice {
	if !e.firstAnswered || len(e.active) >= maxSlices {
		return nil
	}
	left, all := float64(minPages), 0.0
	if e.splits > 0 {
		left = minPagesLater
	}
	var s *activeSlice
	for _, o := range e.active {
		pages := e.remainingPages(o)
		all += pages
		if !o.setAside && pages >= left {
			s, left = o, pages
		}
	}
	if s == nil || e.span <= everyday && float64((e.splits+1)*pagesOfSplit) > all {
		return nil
	}
	from := s.fetched.Add(ms)
	share := halfAt(s.rate, s.rateAtEnd)
	at := from.Add(time.Duration(float64(s.To.Sub(from)) * share)).Truncate(ms)
	if !at.After(from) || !at.Before(s.To) {
		return nil
	}
	e.splits++
	e.report.Splits++
	return e.cut(s, at, s.rate+(s.rateAtEnd-s.rate)*share)
}

// halfAt is the part of a span before which half of its alerts are, when their rate goes
// evenly from one to another.
func halfAt(from, to float64) float64 {
	d := to - from
	if math.Abs(d) < from/100 {
		return 0.5
	}
	return (math.Sqrt(from*from+d*(from+to)/2) - from) / d
}

// cut makes the part of a slice from a time on a slice of its own, which nobody owns
// yet. The rate there is a guess. The lock is held.
func (e *engine) cut(s *activeSlice, at time.Time, rate float64) *activeSlice {
	later := &activeSlice{
		Slice: state.Slice{From: at, To: s.To, DoneUntil: at},
		light: s.light, begin: at, fetched: at, rate: rate, rateAtEnd: s.rateAtEnd, knowsEnd: s.knowsEnd,
	}
	s.To, s.rateAtEnd, s.wasCut = at, rate, true
	e.active = slices.Insert(e.active, slices.Index(e.active, s)+1, later)
	e.report.Slices++
	e.changed.Broadcast()
	return later
}

// cutListed makes a slice of its own of what earlier runs have listed, when so much of it
// remains that larger pages are worth another request. Its alerts are listed without their
// documents. The lock is held.
func (e *engine) cutListed(s *activeSlice) {
	isBoth := e.listed.Before(s.To)
	switch {
	case s.light, !s.fetched.Before(e.listed), e.light == nil && !isBoth, isBoth && len(e.active) >= maxSlices, e.remainingPages(s) < minListedPages:
		return
	case isBoth:
		e.cut(s, e.listed, 0).rateAtEnd = 0
	}
	s.light, s.wasCut = e.light != nil, true
}
