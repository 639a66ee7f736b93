package drain

import (
	"time"

	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// plan adds what this run is for to the feed, and reports whether the filter is
// another one than before.
func (w *work) plan(f *state.Feed) (refiltered bool) {
	if !f.BeginsAt.IsZero() {
		w.clock.takeBack(w.deadlines.caller, f, w.runner.Options, w.certain())
	}
	now := w.clock.now().Truncate(ms)
	if f.BeginsAt.IsZero() {
		f.BeginsAt, f.FirstRun = now.Add(-w.runner.Options.InitialLookback).Truncate(ms), now
		f.End = f.BeginsAt
	}
	if text := w.runner.Options.Filter.String(); text != f.Filter || f.FilterSince.IsZero() {
		refiltered = !f.FilterSince.IsZero()
		if past := (state.TimeRange{Since: f.BeginsAt, Until: f.End}); refiltered && past.Since.Before(past.Until) {
			f.FilterPast = []state.TimeRange{past}
		}
		f.Filter, f.FilterSince = text, now
	}
	w.listed = extend(f, w.settled(w.clock.now()), w.runner.Options)
	return refiltered
}

// drainLive runs the engine on the feed's pending slices.
func (w *work) drainLive(feed state.Feed) error {
	e := &engine{
		opts: w.runner.Options, source: w.runner.LiveAPI, report: w.report,
		processor: w.runner.NewProcessor(ledger.Options{CheckLease: w.checkLease, DryRun: w.dryRun}),
		save:      func(Progress) {},
		onGap:     w.tellGap,
		clock:     w.clock, scope: scope{From: feed.BeginsAt}, settled: w.settled, listed: w.listed,
	}
	if full := w.fetchFull(w.deadlines.fetching, w.runner.LiveAPI); full != nil && !w.listed.IsZero() && len(feed.Slices) > 0 {
		e.light = w.runner.NewProcessor(ledger.Options{
			CheckLease: w.checkLease, DryRun: w.dryRun, FetchFull: full, FullSince: feed.Slices[0].From,
		})
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
	if w.isLookDue() {
		e.whileIdle = w.look
	}
	defer func() { w.liveAt = time.Now().Add(liveEvery) }()
	err := w.run(w.deadlines, e, Progress{
		Slices: feed.Slices, RereadFrom: feed.RereadFrom, Gaps: feed.Gaps, Refusal: feed.Refusal,
		End: feed.End, Newest: feed.Newest,
	})
	w.tellMonitors()
	if err == nil && len(e.active) > 0 {
		w.runner.Log.WarnContext(w.deadlines.caller, "the API lists the same again and again: what comes after that is left for the next run",
			"event", "listing", "feed", w.runner.Feed, "position", e.active[0].DoneUntil)
	}
	// What a run that is cut short leaves is planned by the right clock, too.
	if anew := w.replan(); anew && err == nil {
		// A run after a crash would else begin where this one should have, by its own time.
		if err := w.holder.Flush(w.deadlines.working); err != nil {
			return err
		}
		return w.drainLive(w.holder.Feed())
	}
	return err
}

func (w *work) tellGap(g state.Gap) {
	log := w.runner.Log.With("event", "gap", "feed", w.runner.Feed, "since", g.Since, "until", g.Until, "suspected", g.Suspected)
	if g.Suspected {
		log.WarnContext(w.deadlines.caller, "the API may have left out alerts from before this")
		return
	}
	log.ErrorContext(w.deadlines.caller, "alerts from before this can't be fetched")
}

// settled is how far a slice may reach at a time: what is younger is left for the next run.
func (w *work) settled(now time.Time) time.Time {
	return now.Add(-w.runner.Options.Settle).Truncate(ms)
}

// certain is the present by which stored times are judged. In a first run they are
// its own, and going back further than needed does no harm.
func (w *work) certain() time.Time {
	if w.clock.first {
		return w.clock.now()
	}
	return w.clock.certain()
}

// replan mends the plan of a run that has learned only from its answers that this
// instance's clock is ahead of GTI's: a first run then begins too late, and times
// that earlier runs have stored may lie ahead too. It reports whether there is
// anything more to read now.
func (w *work) replan() bool {
	now, ours := w.certain(), w.clock.ours()
	off := ours.Sub(now)
	if w.holder == nil || off <= clockOff || w.replanned {
		return false
	}
	w.replanned = true
	anew := false
	w.holder.Update(func(f *state.Feed) {
		ahead := now.Add(clockAhead)
		switch {
		case w.clock.first && !f.BeginsAt.After(ahead):
			begins := f.BeginsAt.Add(-off).Truncate(ms)
			f.Slices = tidy(append([]state.Slice{{From: begins, To: f.BeginsAt, DoneUntil: begins}}, f.Slices...))
			f.BeginsAt, f.FirstRun = begins, f.FirstRun.Add(-off).Truncate(ms)
			f.FilterSince = f.FirstRun
			anew = true
		case !w.clock.first && f.FilterSince.After(ahead): // it was changed by this run
			f.FilterSince = now.Truncate(ms)
		}
		anew = w.clock.takeBack(w.deadlines.caller, f, w.runner.Options, now) || anew
		if anew { // or the overlap would be planned a second time, and be left
			w.plan(f)
		}
	})
	return anew
}
