// Package drain is the engine: it cuts a range of time into slices, lists the
// alerts of each from the API with several workers, hands every page to the
// processor, and moves a slice's position only past what was acknowledged.
//
// This is the way of an alert, from its page to the checkpoint after it:
//
//  1. Runner.Live takes the lease and plans what there is to read (work.plan).
//  2. work.runAll drains the live feed's slices (work.drainLive, engine.run), then
//     sweeps (work.changes), looks at the monitors (work.monitors), asks for an audit
//     (work.audit) and works backfills (work.backfills), each with an engine of its own.
//  3. A worker acquires a slice (engine.acquire) and lists it until it is read
//     (reader.readSlice). A reader.pass is one listing, or several that follow each other.
//  4. reader.fetch lists a page ahead of what is being published, and says with
//     listing.add whether the listing goes on.
//  5. reader.handle picks the alerts that are this worker's to publish (reader.pick),
//     claims them (engine.claim), and has them published and recorded
//     (Processor.Process).
//  6. engine.advance moves the slice's position as far as the order of the listing
//     allows, and engine.checkpoint hands it to the lease's holder, which stores it.
//  7. endings.add says from how the listing ended whether the slice is read.
package drain

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// Store is what a run needs of the database (state.Store).
type Store interface {
	state.FeedStore
	BackfillStore
	CreateBackfill(ctx context.Context, feed string, b state.Backfill) error
	AddUsage(ctx context.Context, keyID string, add, old state.Usage) error
}

// Session is one run's view of the API (dtm.Session).
type Session interface {
	Source
	Get(ctx context.Context, id string, refs bool) (dtm.Page, error)
	Stats() dtm.Stats
}

// Meter counts the requests of a key (dtm.Meter).
type Meter interface {
	Load(requests, errors map[int64]int64)
	Take() (requests, errors map[int64]int64)
	Return(requests, errors map[int64]int64)
	Used() (requests, errors int64)
}

// Runner runs one feed.
type Runner struct {
	Version string // of this program, for the report
	Feed    string
	Options Options
	// KeyID names the counters of the API key. Its error may wrap ErrKeyMissing.
	KeyID func(ctx context.Context) (string, error)
	Store Store
	Usage *UsageCounter
	// LiveAPI, SweepAPI and BackfillAPI are the sessions of live work, of sweeps and of
	// backfills. The last two may use less of the key's budgets.
	LiveAPI     Session
	SweepAPI    Session
	BackfillAPI Session
	// MonitorsAPI lists the monitors. It has a session of its own, since a refusal ends a
	// session, and this one may be about the monitors alone. Nil without MonitorsCheck.
	MonitorsAPI MonitorLister
	// Cache is what the processors know; nil: nothing.
	Cache *ledger.Cache
	// WorksBackfill reports whether a run works a backfill that somebody asked for; nil: it
	// works all. Those of the relay's own are worked in any case.
	WorksBackfill func(id string) bool
	// NewProcessor makes a processor for this run.
	NewProcessor func(ledger.Options) Processor
	RunID        string
	RequestedBy  string // for the report; empty where nobody is known
	Log          *slog.Logger
	// Now is this instance's clock, which may be wrong; nil stands for time.Now.
	Now func() time.Time
}

// ErrKeyMissing means that there is no API key yet: the secret has no version.
var ErrKeyMissing = errors.New("there is no API key")

// callTime bounds one call to the database at a run's beginning and end.
const callTime = 20 * time.Second

// Live relays everything new, and returns what it did. The error is the one in
// the report, for those who need to know its kind. When ctx ends, the run stops
// between pages, stores its position and releases the lease.
func (r *Runner) Live(ctx context.Context, trigger string, dryRun bool) (Report, error) {
	began := time.Now().UTC().Truncate(ms)
	report := Report{Version: r.Version, Feed: r.Feed, RunID: r.RunID, Trigger: trigger, RequestedBy: r.RequestedBy, DryRun: dryRun, StartedAt: began}
	if dryRun {
		report.count()
	}
	outcome, reason, err := r.live(ctx, &report, began)
	r.finish(&report, outcome, reason, err)
	return report, err
}

func (r *Runner) live(ctx context.Context, report *Report, began time.Time) (outcome, reason string, err error) {
	// Not from began, which has lost the clock that never jumps: calls would take a deadline
	// for passed whose time has not come, and be made again until it has.
	budgetEnd := time.Now().Add(r.Options.Budget)
	deadlines, done := newDeadlines(ctx, budgetEnd)
	defer done()
	w := r.newWork(deadlines, report)
	keyID, found, err := r.open(ctx)
	if err != nil {
		return outcomeOf(err)
	}
	feed := found.Feed
	r.Cache.Opened(feed.Generation)
	report.before(feed)
	if !report.DryRun && feed.Lease != nil && began.Before(feed.Lease.ExpiresAt) {
		if feed.Lease.ExpiresAt.Sub(began) > state.LeaseFor+clockAhead {
			r.Log.ErrorContext(ctx, "no lease is given for so long: the clock of an instance was wrong, or somebody has changed the feed's document. Nothing is relayed until it expires, or is deleted there",
				"event", "lease", "feed", r.Feed, "owner", feed.Lease.Owner, "expires_at", feed.Lease.ExpiresAt)
		}
		return Skipped, StopLeaseHeld, nil
	}
	w.clock.first = feed.BeginsAt.IsZero()
	refiltered := w.plan(&feed)
	feed.KeyID = keyID

	leased := deadlines.storing
	if !report.DryRun {
		w.holder, err = state.Acquire(deadlines.storing, r.Store, r.Feed, r.RunID, feed, found.Revision)
		switch {
		case errors.Is(err, state.ErrHeld):
			return Skipped, StopLeaseHeld, nil
		case err != nil:
			return Failed, StopError, err
		}
		leased, w.checkLease = w.holder.Context(), w.holder.CheckLease
		if refiltered {
			r.Log.InfoContext(ctx, "the filter was changed: a backfill can cover the past for it",
				"event", "filter", "feed", r.Feed, "past", feed.FilterPast)
		}
	}
	stopCounting := r.countRequests(deadlines.storing, keyID)
	end := w.deadlines.start(leased, budgetEnd)
	err = w.runAll(feed)
	end()
	r.stats(report)
	w.tell()

	closing, cancel := context.WithTimeout(deadlines.storing, callTime)
	defer cancel()
	defer stopCounting(closing)
	return w.release(closing, err)
}

// open reads the key and what is stored of the feed.
func (r *Runner) open(ctx context.Context) (keyID string, found state.Snapshot, err error) {
	opening, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if keyID, err = r.KeyID(opening); err == nil {
		found, err = r.Usage.Open(opening, keyID)
	}
	if err != nil && ctx.Err() != nil { // it failed for that
		err = errShutdown
	}
	return keyID, found, err
}

// tell logs what the run's report alone would not show.
func (w *work) tell() {
	r, report, ctx := w.runner, w.report, w.deadlines.caller
	for _, rule := range slices.Sorted(maps.Keys(report.failures)) {
		r.Log.WarnContext(ctx, "a rule failed: it drops nothing, and the alerts' priority is P2 at least",
			"event", "rule_failed", "feed", r.Feed, "rule", rule, "reason", report.failures[rule])
	}
	if report.isHigh() {
		r.Log.WarnContext(ctx, "a run sent more than twice the requests that its alerts needed",
			"event", "requests_high", "feed", r.Feed, "run_id", r.RunID, "requests", report.Requests, "needed", int64(math.Ceil(report.needed))+report.Slices)
	}
	if w.holder != nil {
		w.tellLateSweep()
	}
}

// release says what the run has ended with. It stores that with the feed, and gives the
// lease back, unless the run is a dry one.
func (w *work) release(ctx context.Context, failure error) (outcome, reason string, err error) {
	w.report.Wait = dtm.RetryAfter(failure)
	if wait := (*dtm.WaitError)(nil); errors.As(failure, &wait) {
		w.report.WaitCause = wait.Cause.Error()
	}
	outcome, reason, err = outcomeOf(failure)
	if w.holder == nil {
		return outcome, reason, err
	}
	released := w.holder.Release(ctx, func(f *state.Feed) {
		position := f.Position()
		w.report.PositionAfter = &position
		w.report.Checkpoints = f.Write
		w.runner.finish(w.report, outcome, reason, err)
		f.LastRun, _ = json.Marshal(w.report) // a Report always marshals
	})
	if released == nil || errors.Is(err, state.ErrLost) {
		return outcome, reason, err
	}
	// A checkpoint that failed is a run that failed.
	w.report.PositionAfter = w.report.PositionBefore
	err = errors.Join(err, released)
	_, reason, _ = outcomeOf(err)
	return Failed, reason, err
}

// work is what a run does while it holds the lease: live slices and backfills,
// each with an engine of its own, within the run's time.
type work struct {
	runner     *Runner
	deadlines  deadlines
	report     *Report
	holder     *state.Holder // nil in a dry run
	checkLease func() error
	dryRun     *ledger.DryRun // nil, unless the run is one

	clock     *clock
	got       *atomic.Int64 // alerts that were fetched by their id
	replanned bool

	listed     time.Time     // created_at before which the live slices were listed by earlier runs
	liveAt     time.Time     // when the live feed is to be looked at again
	unfinished []string      // backfills, as far as is known
	sweepSince time.Time     // created_at back to which the sweep looks
	sweepErr   error         // why the last sweep failed
	looked     *monitorsLook // at the monitors; nil: this run has not looked
}

// newWork begins a run. Its sessions are wrapped to note GTI's Date.
func (r *Runner) newWork(d deadlines, report *Report) *work {
	timing := *r
	w := &work{
		runner: &timing, deadlines: d, report: report, got: new(atomic.Int64),
		clock:      &clock{ours: r.Now, log: r.Log, feed: r.Feed},
		checkLease: func() error { return nil }, // until it holds one
	}
	if report.DryRun {
		w.dryRun = &ledger.DryRun{}
		timing.Options.MaxAlerts = 0 // it publishes nothing, and no other run goes on with it
	}
	if r.Now == nil {
		w.clock.ours = time.Now
	}
	for _, s := range []*Session{&timing.LiveAPI, &timing.SweepAPI, &timing.BackfillAPI} {
		*s = timed{*s, w.clock, w.got}
	}
	return w
}

// runAll is the live slices, then the sweep, then the monitors, then backfills.
func (w *work) runAll(feed state.Feed) error {
	defer func() { w.report.needed += float64(w.got.Load()) }()
	if err := w.drainLive(feed); err != nil {
		return err
	}
	if w.holder == nil {
		return w.sweep(feed)
	}
	w.unfinished = feed.Unfinished
	if err := w.changes(); err != nil {
		return err
	}
	// The sweep's answers may have confirmed what the live feed's first one said.
	if w.replan() {
		if err := w.drainLive(w.holder.Feed()); err != nil {
			return err
		}
	}
	w.monitors()
	err := w.audit()
	if err == nil {
		err = w.backfills()
	}
	if _, _, failure := outcomeOf(err); failure == nil && w.sweepErr != nil {
		return w.sweepErr
	}
	return err
}

// changes sweeps. A listing that fails for the sweep holds up no backfill, and neither does
// a long sweep: what remains of the minute after it is half of one at least.
func (w *work) changes() error {
	defer func() { w.liveAt = later(w.liveAt, time.Now().Add(liveEvery/2)) }()
	w.sweepErr = nil
	err := w.sweep(w.holder.Feed())
	if listing := (*listingError)(nil); errors.As(err, &listing) {
		w.sweepErr, err = err, nil
	}
	return err
}

// run runs an engine, within what is left of MAX_ALERTS_PER_RUN.
func (w *work) run(d deadlines, e *engine, pending Progress) error {
	if w.runner.Options.MaxAlerts > 0 {
		e.opts.MaxAlerts = w.runner.Options.MaxAlerts - int(w.report.Published)
		if e.opts.MaxAlerts <= 0 {
			return errCap
		}
	}
	return w.lost(e.run(d, pending))
}

// lost adds to a failure that the lease is lost, if it is: what was under way
// failed because of it.
func (w *work) lost(err error) error {
	if lost := context.Cause(w.deadlines.leased); lost != nil && err != nil && !errors.Is(err, lost) {
		return errors.Join(lost, err)
	}
	return err
}
