package drain

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// Source lists alerts (dtm.Session).
type Source interface {
	List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error]
}

// Processor publishes and records the alerts of a page (ledger.Processor).
type Processor interface {
	Process(ctx context.Context, alerts []dtm.Alert, allowance ledger.Allowance) (ledger.Counts, error)
}

// Options are what the configuration says about draining.
type Options struct {
	Workers         int // concurrent listings
	PageSize        int // 25 with Refs, 100 without (DTM API)
	Refs            bool
	Filter          dtm.Filter
	Overlap         time.Duration
	Settle          time.Duration
	InitialLookback time.Duration
	MaxLookback     time.Duration
	UpdatesWindow   time.Duration // 0: no sweep
	AuditWindow     time.Duration // 0: no audit
	MonitorsCheck   time.Duration // from one look at the monitors to the next; 0: none
	MaxAlerts       int           // 0: no limit
	RequestsPerDay  int           // by the key
	Budget          time.Duration
}

// Progress is what the engine would have stored.
type Progress struct {
	Slices []state.Slice
	// RereadFrom is the lowest created_at that was listed while younger than
	// the overlap; zero when none was.
	RereadFrom time.Time
	Gaps       []state.Gap
	Refusal    *state.Refusal
	// End is where the newest slice ends. It goes back when GTI's clock turns out to
	// be earlier than ours.
	End time.Time
	// Newest is the newest created_at that was read, never ahead of GTI's clock.
	Newest time.Time
}

// scope is what alerts out of place must be within to be published: From ≤
// created_at < To. A bound that is zero is none.
type scope struct{ From, To time.Time }

func (s scope) holds(at time.Time) bool {
	return !at.Before(s.From) && (s.To.IsZero() || at.Before(s.To))
}

// engine drains one set of slices.
type engine struct {
	opts      Options
	source    Source
	processor Processor
	// Alerts from before listed were listed by earlier runs. They are listed once more, in
	// case some came into the index late, and large parts of them without their documents;
	// light, unless nil, fetches the document of what it publishes.
	listed time.Time
	light  Processor
	// save is told of every progress, under the engine's lock, and must not block.
	save func(Progress)
	// onCounts, unless nil, is told of every page that was handled, under the lock.
	onCounts func(fetched int, t ledger.Counts)
	// onGap is told of every gap that is found, under the lock.
	onGap func(state.Gap)
	// whileIdle, unless nil, is done once by a worker that finds no slice, so that it takes
	// no time of its own. Where none is idle before the end, it is left.
	whileIdle func(fetching context.Context)

	clock *clock
	scope scope
	// settled, unless nil, is how far the slices may reach when they are listed at a time.
	settled func(now time.Time) time.Time

	deadlines deadlines
	stopAll   context.CancelCauseFunc // ends fetching

	mu            sync.Mutex
	changed       *sync.Cond
	claimed       map[string]bool // what workers handle now, by its name in the ledger
	active        []*activeSlice  // pending, sorted
	idle          int             // workers that wait for a slice
	splits        int             // of slices
	span          time.Duration   // of what was pending at the beginning
	firstAnswered bool            // the first request of the run was answered well
	probing       bool            // a worker has been let through to send it
	allowance     int             // alerts that may still be published
	reserving     int             // workers that have reserved some, and have not returned what they didn't publish
	turns, turn   int             // of those that reserve: how many have come, and whose it is
	progress      Progress
	report        *Report
}

// activeSlice is a slice that is pending, and what this run has read of it.
type activeSlice struct {
	state.Slice
	owned    bool
	setAside bool      // for the next run
	light    bool      // listed without documents
	wasCut   bool      // since its owner asked for a listing of it
	answered bool      // a page of it came
	begin    time.Time // where this run has begun to read it
	// fetched is the created_at of the last alert fetched, which runs ahead of DoneUntil.
	fetched time.Time
	read    int // alerts
	// rate is how many alerts a millisecond are at fetched, and rateAtEnd at To: as pages
	// have shown, or a guess. knowsEnd: a page of the next slice has shown it.
	rate, rateAtEnd float64
	knowsEnd        bool
}

var errCap = errors.New("MAX_ALERTS_PER_RUN is reached")

// run works until all slices are done, fetching ends, or something fails. It
// returns nil when all are done, or what stopped it. A worker's failure ends
// fetching, but not what the others are publishing.
func (e *engine) run(d deadlines, pending Progress) error {
	e.changed = sync.NewCond(&e.mu)
	e.claimed = map[string]bool{}
	e.progress = pending
	e.allowance = e.opts.MaxAlerts
	for _, s := range pending.Slices {
		e.active = append(e.active, &activeSlice{Slice: s, begin: s.DoneUntil, fetched: s.DoneUntil})
		e.span += s.To.Sub(s.DoneUntil)
	}
	e.report.Slices += int64(len(e.active))
	e.deadlines, e.stopAll = d.stoppable()
	defer e.stopAll(nil)
	defer context.AfterFunc(e.deadlines.fetching, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.changed.Broadcast()
	})()

	var group errgroup.Group
	for range e.opts.Workers {
		group.Go(func() (err error) {
			defer func() {
				if v := recover(); v != nil {
					err = observe.Recovered(v)
				}
				if err != nil {
					e.stopAll(err)
				}
			}()
			return e.runWorker()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if e.allDone() {
		return nil
	}
	return context.Cause(e.deadlines.fetching)
}

// allDone reports whether nothing is left for this run.
func (e *engine) allDone() bool {
	return !slices.ContainsFunc(e.active, func(s *activeSlice) bool { return !s.setAside })
}

// runWorker takes one slice after the other.
func (e *engine) runWorker() error {
	for {
		s := e.acquire()
		if s == nil {
			return nil
		}
		done, err := (&reader{engine: e, slice: s}).readSlice()
		if err != nil {
			e.stopAll(err) // or another worker acquires the slice, and asks the same again
		}
		e.release(s, done)
		if err != nil {
			return err
		}
	}
}

// acquire returns the earliest slice that nobody works, or part of one that somebody
// does, waiting for one that is worth it; nil when there's nothing more to do. Until the
// first request is answered only one worker gets one, so that a bad key costs one answer.
func (e *engine) acquire() *activeSlice {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if e.deadlines.fetching.Err() != nil || e.allDone() {
			return nil
		}
		if e.firstAnswered || !e.probing {
			for _, s := range e.active {
				if !s.owned && !s.setAside {
					s.owned, e.probing = true, true
					return s
				}
			}
			if s := e.split(); s != nil {
				s.owned = true
				return s
			}
		}
		if do := e.whileIdle; do != nil && e.firstAnswered {
			e.whileIdle = nil
			e.unlocked(do)
			continue
		}
		e.idle++
		e.changed.Wait()
		e.idle--
	}
}

// unlocked does something that takes a while. The lock is held before and after it.
func (e *engine) unlocked(do func(fetching context.Context)) {
	e.mu.Unlock()
	defer e.mu.Lock()
	do(e.deadlines.fetching)
}

// release puts a slice back, or away when it is done.
func (e *engine) release(s *activeSlice, done bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.owned = false
	if !e.firstAnswered {
		e.probing = false // it was given back without a request
	}
	if done {
		s.DoneUntil = s.To
		e.active = slices.DeleteFunc(e.active, func(o *activeSlice) bool { return o == s })
	}
	e.checkpoint()
	e.changed.Broadcast()
}

// checkpoint hands the present progress on. The lock is held.
func (e *engine) checkpoint() {
	e.progress.Slices = make([]state.Slice, 0, len(e.active))
	for _, s := range e.active {
		if s.DoneUntil.Before(s.To) {
			e.progress.Slices = append(e.progress.Slices, s.Slice)
		}
	}
	e.save(e.progress)
}

// Reserve says how many of n alerts a worker may publish. When nothing is left, it waits for
// what other workers may still return, one after the other. Else what rules drop would end
// a run in which little was published.
func (e *engine) Reserve(n int) int {
	if e.opts.MaxAlerts == 0 {
		return n
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	turn := e.turns
	e.turns++
	for (turn != e.turn || e.allowance == 0 && e.reserving > 0) && e.deadlines.fetching.Err() == nil {
		e.changed.Wait()
	}
	e.turn++
	e.changed.Broadcast()
	n = min(n, e.allowance)
	if n > 0 {
		e.allowance -= n
		e.reserving++
	}
	return n
}

// Return gives back what a worker has reserved and not published.
func (e *engine) Return(n int) {
	if e.opts.MaxAlerts == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.allowance += n
	e.reserving--
	e.changed.Broadcast()
}

// isCapReached reports whether no more alerts may be published in this run.
func (e *engine) isCapReached() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.opts.MaxAlerts > 0 && e.allowance == 0 && e.reserving == 0
}

// claim waits until no other worker handles any of the alerts, and claims them: two
// workers may be shown the same one where it is out of place, and an element that is
// no alert belongs to no slice. It returns how they are released, or nil when
// fetching has ended first: what others publish now may take all the time that is
// left.
func (e *engine) claim(alerts []dtm.Alert) (release func()) {
	names := make([]string, len(alerts))
	for i, a := range alerts {
		names[i] = ledger.ID(a)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for slices.ContainsFunc(names, func(name string) bool { return e.claimed[name] }) {
		if e.deadlines.fetching.Err() != nil {
			return nil
		}
		e.changed.Wait()
	}
	for _, name := range names {
		e.claimed[name] = true
	}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, name := range names {
			delete(e.claimed, name)
		}
		e.changed.Broadcast()
	}
}

// addCounts adds a page's counts to the report.
func (e *engine) addCounts(fetched int, c ledger.Counts) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.report.add(fetched, c)
	if e.onCounts != nil {
		e.onCounts(fetched, c)
	}
}

// advance moves a slice's position as far as the order of its listing allows. All
// that the listing showed so far is acknowledged and recorded.
func (e *engine) advance(s *activeSlice, o order, f fetched) (moved bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	latest := f.page.Date
	if latest.IsZero() {
		latest = e.clock.now()
	}
	newest := earlier(o.last(), s.To) // what lies past it is another slice's
	if newest.After(e.progress.Newest) && !newest.After(latest) {
		e.progress.Newest = newest
	}
	to := earlier(o.position(), s.To)
	e.noteRecent(s.DoneUntil, to, f.listed)
	if !to.After(s.DoneUntil) {
		return false
	}
	s.DoneUntil = to
	e.checkpoint()
	return true
}

// cutFuture takes away what was not settled yet by GTI's clock when it was asked for: it is
// read when its time has come. A slice that ended there would pass alerts that are not
// created yet.
func (e *engine) cutFuture(asked time.Time) {
	if e.settled == nil {
		return
	}
	end := e.settled(asked)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !end.Before(e.progress.End) {
		return
	}
	end = later(end, e.doneTo())
	for _, s := range e.active {
		if s.To.After(end) {
			s.To = later(end, s.DoneUntil) // where it is DoneUntil, nothing is left
		}
	}
	e.active = slices.DeleteFunc(e.active, func(s *activeSlice) bool { return !s.owned && !s.DoneUntil.Before(s.To) })
	e.progress.End = end
	e.checkpoint()
	e.changed.Broadcast()
}

// doneTo is where the newest slice begins that is not read. The lock is held.
func (e *engine) doneTo() time.Time {
	to := e.progress.End
	for _, s := range slices.Backward(e.active) {
		if !s.To.Equal(to) {
			break
		}
		if to = s.DoneUntil; to.After(s.From) {
			break
		}
	}
	return to
}

// addNeeded notes that a listing in pages of a size has brought so many alerts.
func (e *engine) addNeeded(alerts, size int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.report.needed += float64(alerts) / float64(max(1, size))
}

// noteRecent remembers that [from, to] was listed while part of it was younger than
// the overlap: alerts with an earlier created_at may still come into the index.
func (e *engine) noteRecent(from, to, listed time.Time) {
	recentSince := listed.Add(-e.opts.Overlap).UTC().Truncate(ms)
	if to.Before(recentSince) {
		return
	}
	from = later(from, recentSince)
	if e.progress.RereadFrom.IsZero() || from.Before(e.progress.RereadFrom) {
		e.progress.RereadFrom = from
	}
}
