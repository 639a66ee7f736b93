package drain

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// work is what a run does while it holds the lease: live slices and backfills,
// each with an engine of its own, within the run's time.
type work struct {
	*Runner
	deadlines  deadlines
	report     *Report
	holder     *state.Holder // nil in a dry run
	checkLease func() error
	dryRun     *ledger.DryRun // nil, unless the run is one

	clock     *clock
	got       *atomic.Int64 // alerts that were fetched by their id
	replanned bool

	liveAt     time.Time // when the live feed is to be looked at again
	unfinished []string  // backfills, as far as is known
	sweepSince time.Time // created_at back to which the sweep looks
	sweepErr   error     // why the last sweep failed
}

// work is a run's work on its own copy of the runner, whose sessions tell the time.
func (r *Runner) work(d deadlines, report *Report) *work {
	timing := *r
	w := &work{
		Runner: &timing, deadlines: d, report: report, got: new(atomic.Int64),
		clock: &clock{ours: r.Now, log: r.Log, feed: r.Feed},
	}
	if report.DryRun {
		w.dryRun = &ledger.DryRun{}
	}
	if r.Now == nil {
		w.clock.ours = time.Now
	}
	for _, s := range []*Session{&timing.LiveAPI, &timing.SweepAPI, &timing.BackfillAPI} {
		*s = timed{*s, w.clock, w.got}
	}
	return w
}

// runAll is the live slices, then the sweep, then backfills.
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
	err := w.audit()
	if err == nil {
		err = w.backfills()
	}
	if _, _, failure := outcomeOf(err); failure == nil && w.sweepErr != nil {
		return w.sweepErr
	}
	return err
}

// changes sweeps. A listing that fails for the sweep holds up no backfill.
func (w *work) changes() error {
	w.sweepErr = nil
	err := w.sweep(w.holder.Feed())
	if listing := (*listingError)(nil); errors.As(err, &listing) {
		w.sweepErr, err = err, nil
	}
	return err
}

// drainLive runs the engine on the feed's pending slices.
func (w *work) drainLive(feed state.Feed) error {
	e := &engine{
		opts: w.Options, source: w.LiveAPI, report: w.report,
		processor: w.NewProcessor(ledger.Options{CheckLease: w.checkLease, DryRun: w.dryRun}),
		save:      func(Progress) {},
		onGap:     w.tellGap,
		clock:     w.clock, scope: scope{From: feed.BeginsAt}, ends: w.newest,
	}
	if w.holder != nil {
		e.save = func(p Progress) {
			change := w.holder.Update
			if w.report.Published+w.report.Rejected == 0 {
				change = w.holder.UpdateLazily // there is nothing yet that would be published again
			}
			change(func(f *state.Feed) {
				f.Slices, f.RereadFrom, f.Gaps, f.Refusal = p.Slices, p.RereadFrom, p.Gaps, p.Refusal
				f.End, f.Newest = p.End, p.Newest
			})
		}
	}
	defer func() { w.liveAt = time.Now().Add(liveEvery) }()
	err := w.run(w.deadlines, e, Progress{
		Slices: feed.Slices, RereadFrom: feed.RereadFrom, Gaps: feed.Gaps, Refusal: feed.Refusal,
		End: feed.End, Newest: feed.Newest,
	})
	if err == nil && len(e.active) > 0 {
		w.Log.WarnContext(w.deadlines.caller, "the API lists the same again and again: what comes after that is left for the next run",
			"event", "listing", "feed", w.Feed, "position", e.active[0].DoneUntil)
	}
	// What a run that is cut short leaves is planned by the right clock, too.
	if anew := w.replan(); anew && err == nil {
		return w.drainLive(w.holder.Feed())
	}
	return err
}

// run runs an engine, within what is left of MAX_ALERTS_PER_RUN.
func (w *work) run(d deadlines, e *engine, pending Progress) error {
	if w.Options.MaxAlerts > 0 {
		e.opts.MaxAlerts = w.Options.MaxAlerts - int(w.report.Published)
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

func (w *work) tellGap(g state.Gap) {
	log := w.Log.With("event", "gap", "feed", w.Feed, "since", g.Since, "until", g.Until, "suspected", g.Suspected)
	if g.Suspected {
		log.WarnContext(w.deadlines.caller, "the API may have left out alerts from before this")
		return
	}
	log.ErrorContext(w.deadlines.caller, "alerts from before this can't be fetched")
}
