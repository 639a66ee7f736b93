package drain

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// clockStep is how exactly GTI says what time it is (HTTP: Date in whole seconds).
	clockStep = time.Second
	// clockOff is by how much the clocks may differ without a word.
	clockOff = 30 * time.Second
	// clockMost is how far ahead our clock may be. A Date from long before is no time of
	// GTI's: a machine whose clock is so wrong accepts no certificate, and a first run
	// that believed it would read all that GTI has.
	clockMost = 30 * 24 * time.Hour
	// clockAhead is how far a stored time may lie ahead: clocks of instances differ.
	clockAhead = 2 * time.Minute
)

// clock is the lesser of our clock and GTI's. What may move, and what is asked
// for, goes by it: a position ahead of GTI's time would pass alerts that are not
// created yet. GTI's clock is known from the answers, so before the first of them
// it is ours.
type clock struct {
	ours func() time.Time
	log  *slog.Logger
	feed string
	// first: it is the feed's first run. What lies ahead in it is of its own making, and
	// no fault that anybody has to know of.
	first bool

	mu sync.Mutex
	// Our clock is at least atLeast, and at most ahead, later than GTI's: an answer may have
	// been dated when its request came, or when it was complete. The greater counts, so that
	// nothing is taken for older than it is.
	atLeast, ahead time.Duration
	// agreed: the last two answers said so. A single one may be an old answer of a
	// proxy's, which keeps the position where it is, and must take nothing back.
	agreed bool
	told   bool // that the clocks differ
}

// now is the present; a nil clock is ours.
func (c *clock) now() time.Time {
	if c == nil {
		return time.Now().UTC()
	}
	return c.ours().UTC().Add(-c.off())
}

// off is by how much our clock is ahead of GTI's.
func (c *clock) off() time.Duration {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead
}

// note takes note of what an answer says of GTI's clock.
func (c *clock) note(ctx context.Context, page dtm.Page) {
	if page.Date.IsZero() || page.AskedAt.Sub(page.Date) > clockMost || isContradicted(page) {
		return
	}
	// GTI's clock was at Date, or within the second after it, at some moment between
	// these two: only what is beyond both of them is a difference.
	ahead, late := page.AskedAt.Sub(page.Date), page.Date.Sub(page.ReceivedAt)
	c.mu.Lock()
	defer c.mu.Unlock()
	leastBefore, mostBefore := c.atLeast, c.ahead
	c.atLeast, c.ahead = 0, 0
	if ahead > clockStep {
		c.atLeast, c.ahead = ahead, page.ReceivedAt.Sub(page.Date)
	}
	c.agreed = max(c.atLeast, leastBefore)-min(c.ahead, mostBefore) <= 2*clockStep
	off := max(ahead-clockStep, late)
	if off <= clockOff || c.told {
		return
	}
	c.told = true
	c.log.WarnContext(ctx, "the clock of this instance and GTI's differ; the earlier one counts",
		"event", "clock", "feed", c.feed, "gti", page.Date, "ahead_seconds", (c.ahead - max(0, late)).Round(time.Second).Seconds())
}

// isContradicted reports whether alerts of a page were created later than it says
// that it is. A proxy on the way has written that, or kept it for long; by such a
// clock the feed would stand still. A single alert may be what is wrong.
func isContradicted(page dtm.Page) bool {
	later := 0
	for _, a := range page.Alerts {
		if a.Invalid == "" && a.CreatedAt.After(page.Date.Add(clockAhead)) {
			later++
		}
	}
	return later > 1
}

// certain is the present by which stored times are judged: what a single answer says
// does not count.
func (c *clock) certain() time.Time {
	c.mu.Lock()
	agreed := c.agreed
	c.mu.Unlock()
	if agreed {
		return c.now()
	}
	return c.ours().UTC()
}

// timed is a session whose answers set a clock, and whose single alerts
// are counted.
type timed struct {
	Session
	clock *clock
	got   *atomic.Int64
}

func (t timed) Get(ctx context.Context, id string, refs bool) (dtm.Page, error) {
	t.got.Add(1)
	return t.Session.Get(ctx, id, refs)
}

func (t timed) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		for page, err := range t.Session.List(ctx, q) {
			if err == nil {
				t.clock.note(ctx, page)
			}
			if !yield(page, err) {
				return
			}
		}
	}
}

// takeBack mends a feed whose times lie ahead of now: an instance whose clock was
// wrong, and that GTI told no time, has stored them. Each goes back to where
// everything before it is known to be read. It reports whether there was any.
func (c *clock) takeBack(ctx context.Context, f *state.Feed, o Options, now time.Time) (taken bool) {
	now = now.Truncate(ms)
	isAhead := func(t time.Time) bool { return t.After(now.Add(clockAhead)) }
	log := c.log.With("event", "clock", "feed", c.feed, "end", f.End, "newest", f.Newest, "now", now)
	if isAhead(f.Newest) {
		// GTI's clock has been there: it is ours that is late, and stored times are right.
		if !c.told {
			c.told = true
			log.ErrorContext(ctx, "the clock of this instance is late: alerts are relayed that much later")
		}
		return false
	}
	back := f.Newest.Add(-o.Overlap)
	sinceFirst := f.FilterSince.Equal(f.FirstRun)
	take := func(t *time.Time, to time.Time) {
		if isAhead(*t) {
			*t, taken = to, true
		}
	}
	take(&f.BeginsAt, now.Add(-o.InitialLookback)) // nothing was read
	back = later(back, f.BeginsAt)
	take(&f.FirstRun, back)
	if isAhead(f.End) {
		f.Slices = slicesBefore(f.Slices, back)
	}
	if isAhead(f.End) || isAhead(f.LastSweep) { // no sweep has shown what follows
		if f.RereadFrom.IsZero() || back.Before(f.RereadFrom) {
			f.RereadFrom = back
		}
		f.Owed.Until = earlier(f.Owed.Until, back)
	}
	take(&f.End, back)
	// All changes from before the newest alert was created were seen with it.
	take(&f.LastSweep, f.Newest)
	take(&f.SweptOverlap, f.Newest)
	take(&f.LastAudit, time.Time{})
	take(&f.AuditedUntil, time.Time{})
	take(&f.AuditedAgainUntil, time.Time{})
	take(&f.FilterSince, now)
	if sinceFirst {
		f.FilterSince = f.FirstRun // or audits would take the filter for a changed one
	}
	if f.Refusal != nil && isAhead(f.Refusal.At) {
		f.Refusal, taken = nil, true
	}
	if taken && !c.first {
		log.ErrorContext(ctx, "the feed's stored times lie in the future, as the clock of an instance was wrong: they are taken back, and what follows is read again",
			"taken_back_to", f.End)
	}
	return taken
}

// slicesBefore is the part of slices before a time.
func slicesBefore(all []state.Slice, end time.Time) []state.Slice {
	var out []state.Slice
	for _, s := range all {
		s.To = earlier(s.To, end)
		if s.DoneUntil.Before(s.To) {
			out = append(out, s)
		}
	}
	return out
}
