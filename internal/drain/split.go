package drain

import (
	"math"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// minPages is how many pages must seem to remain in a slice that is split: a
// quiet feed costs one request a run, and a split may cost one more.
const minPages = 4

// observeRate notes the alerts of a page for judging how much of a slice remains.
func (e *engine) observeRate(s *activeSlice, alerts int, last time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !last.After(s.fetched) {
		return
	}
	rate := float64(alerts) / float64(max(1, last.Sub(s.fetched)/ms))
	s.rate, s.fetched = rate, last
}

// remainingPages is how many pages seem to remain in a slice after the last alert fetched.
func (e *engine) remainingPages(s *activeSlice) float64 {
	return s.rate * float64(s.To.Sub(s.fetched)/ms) / float64(e.opts.PageSize)
}

// split cuts a slice for the workers that wait, if none is much larger, and reports
// whether it did. Only the reader that owns the slice calls it, between pages, and
// the cut is after the last alert fetched.
func (e *engine) split(s *activeSlice) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	waiting := e.idle
	left, all := e.remainingPages(s), 0.0
	for _, o := range e.active {
		if !o.owned {
			waiting--
			continue
		}
		r := e.remainingPages(o)
		all += r
		if r > 2*left {
			return false // that one is to be cut; of two alike, whichever comes first
		}
	}
	if waiting <= 0 || left < minPages || !e.firstAnswered {
		return false
	}
	// As many parts as its share of the work is worth, each of two pages at least.
	share := all / float64(e.opts.Workers)
	parts := min(waiting+1, int(math.Round(left/share)), int(left/2), maxSlices-len(e.active))
	parts = min(max(parts, 2), maxSlices-len(e.active))
	from := s.fetched.Add(ms)
	step := (s.To.Sub(from) / time.Duration(parts)).Truncate(ms)
	if parts < 2 || step < ms {
		return false
	}
	to := s.To
	s.To = from.Add(step)
	at := slices.Index(e.active, s) + 1
	for i := 1; i < parts; i++ {
		cut := state.Slice{From: from.Add(step * time.Duration(i)), To: from.Add(step * time.Duration(i+1))}
		if i == parts-1 {
			cut.To = to
		}
		cut.DoneUntil = cut.From
		e.active = slices.Insert(e.active, at, &activeSlice{Slice: cut, fetched: cut.From, rate: s.rate})
		at++
	}
	e.report.Splits += int64(parts - 1)
	e.report.Slices += int64(parts - 1)
	e.changed.Broadcast()
	return true
}
