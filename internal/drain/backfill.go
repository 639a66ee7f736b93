package drain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// BackfillStore is what working a backfill needs of the database (state.Store).
type BackfillStore interface {
	Backfill(ctx context.Context, feed, id string) (state.Backfill, state.Revision, error)
	WriteBackfill(ctx context.Context, feed string, b state.Backfill, v state.Revision) (state.Revision, error)
}

// liveEvery is how long backfills are worked before the live feed is looked at again.
const liveEvery = time.Minute

// KeepFinished is how long a finished backfill's record is kept.
const KeepFinished = 90 * 24 * time.Hour

var (
	errLiveFeed   = errors.New("the live feed is to be looked at again")
	errNoProgress = fmt.Errorf("%w, and the backfill got nowhere until then", errLiveFeed)
	errCancelled  = errors.New("the backfill was cancelled")
)

// backfills works the feed's unfinished backfills, the oldest first, and returns
// to the live feed every minute. It ends when none is left, or with what stopped it.
func (w *work) backfills() error {
	done := map[string]bool{}
	// noProgress are those that got nowhere in their last minute: a page, or one alert
	// that is fetched by its id, may take longer than any minute.
	noProgress := map[string]bool{}
	var unreadable error
	for {
		i := slices.IndexFunc(w.unfinished, func(id string) bool { return !done[id] && !noProgress[id] })
		switch {
		case i < 0 && len(noProgress) == 0:
			return unreadable
		case i < 0:
			clear(noProgress)
			continue
		}
		id := w.unfinished[i]
		err := w.backfill(id)
		kind, damaged := dtm.Kind(err), (*state.DamagedError)(nil)
		switch {
		case err == nil:
			done[id] = true
		case w.deadlines.working.Err() != nil:
			return err
		case ListingFailed(err):
			// The backfill's record has the error. The feed itself is well, and other
			// backfills may be too.
			done[id] = true
			err = nil
		case errors.As(err, &damaged), errors.Is(err, state.ErrSchema):
			// Somebody has to mend a document. The others get their turn.
			done[id] = true
			unreadable, err = errors.Join(unreadable, err), nil
		case kind == dtm.BudgetSpent:
			// Its share of the key's budget is used up, and the live feed's isn't: a
			// later run goes on.
			return unreadable
		case errors.Is(err, errLiveFeed):
			noProgress[id] = errors.Is(err, errNoProgress)
		case kind == dtm.Wait && w.deadlines.hasTime(dtm.RetryAfter(err)): // the live feed waits for it
		default:
			return err
		}
		if err != nil || !time.Now().Before(w.liveAt) {
			if err := w.lookAtLive(); err != nil {
				return err
			}
		}
		// Others may have been asked for, or cancelled, in the meantime.
		found, err := w.runner.Store.Open(w.deadlines.working, w.runner.Feed, "")
		if err != nil {
			return err
		}
		w.unfinished = found.Feed.Unfinished
	}
}

// lookAtLive relays what has come or changed since the live feed was last looked at.
func (w *work) lookAtLive() error {
	if err := context.Cause(w.deadlines.fetching); err != nil {
		return err
	}
	w.holder.Update(func(f *state.Feed) { w.plan(f) })
	if err := w.drainLive(w.holder.Feed()); err != nil {
		return err
	}
	return w.changes()
}

// backfill works one backfill until it is finished or the time is up. It returns
// nil when nothing is left to do.
func (w *work) backfill(id string) error {
	b, revision, err := w.runner.Store.Backfill(w.deadlines.working, w.runner.Feed, id)
	if err != nil {
		return err
	}
	if revision == "" || b.Finished() {
		return w.takeOffList(id, b, revision)
	}
	if works := w.runner.WorksBackfill; b.Kind == "" && works != nil && !works(id) {
		return nil
	}
	shorter, stop := w.deadlines.until(w.liveAt, errLiveFeed)
	defer stop(nil)

	rw := &recordWriter{store: w.runner.Store, feed: w.runner.Feed, checkLease: w.checkLease, cancelled: func() { stop(errCancelled) }, record: b, revision: revision}
	e, pending, err := w.backfillEngine(shorter.fetching, b, rw)
	if err != nil {
		return err
	}
	began, asked := time.Now(), w.runner.BackfillAPI.Stats().Requests
	rw.spent = func(now *state.Backfill) {
		now.WorkedFor = b.WorkedFor + time.Since(began).Truncate(ms)
		now.Requests = b.Requests + w.runner.BackfillAPI.Stats().Requests - asked
	}
	stopWriting := rw.keepWriting(w.deadlines.working)
	err = w.run(shorter, e, pending)
	stopWriting()
	if err == nil && len(e.progress.Slices) > 0 {
		err = &listingError{errors.New("the API lists the same again and again, and brings nothing new")}
	}
	if errors.Is(err, errLiveFeed) && time.Since(began) >= liveEvery/2 && !rw.movedFrom(b) {
		err = errNoProgress
	}
	done := rw.finish(err)
	if errors.Is(err, errCancelled) {
		err = nil
	}
	written := rw.write(w.deadlines.working)
	if written != nil && !errors.Is(written, state.ErrContended) {
		if err != nil {
			written = fmt.Errorf("%w (it had ended with: %v)", written, err) //nolint:errorlint // what counts now is that it isn't stored
		}
		return written
	}
	if done && written == nil {
		w.conclude(rw.record)
		return nil
	}
	return err
}

// takeOffList takes a backfill off the feed's list of unfinished ones whose record is gone,
// or was finished by hand. Each run would read it, and it would count as unfinished for good.
func (w *work) takeOffList(id string, b state.Backfill, revision state.Revision) (err error) {
	if err := w.checkLease(); err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(ms)
	if store := w.runner.Store; revision == "" {
		gone := state.Backfill{ID: id, State: state.Cancelled, RequestedAt: now, FinishedAt: now, ExpireAt: now} // as good as deleted
		err = store.CreateBackfill(w.deadlines.working, w.runner.Feed, gone)
	} else {
		if b.ExpireAt.IsZero() { // by hand, nobody has said when it may go
			b.FinishedAt, b.ExpireAt = now, now.Add(KeepFinished)
		}
		_, err = store.WriteBackfill(w.deadlines.working, w.runner.Feed, b, revision)
	}
	if errors.Is(err, state.ErrConflict) {
		return nil // it was asked for anew, or somebody else takes it off
	}
	return err
}

// backfillEngine makes the engine of a backfill, which keeps its progress in the
// backfill's own record.
func (w *work) backfillEngine(fetching context.Context, b state.Backfill, rw *recordWriter) (*engine, Progress, error) {
	filter, _, err := dtm.ParseFilter(b.Filter)
	if err != nil {
		return nil, Progress{}, &state.DamagedError{Err: fmt.Errorf("backfill %s: reading its filter: %w", b.ID, err)}
	}
	opts := w.runner.Options
	opts.Filter = filter
	options := ledger.Options{Mode: modeOf(b), CheckLease: w.checkLease, BackfillID: b.ID}
	if b.Kind != "" {
		opts.Refs, opts.PageSize = false, dtm.PageSize(false)
		options.FetchFull = w.fetchFull(fetching, w.runner.BackfillAPI)
	}
	// A range that an operator asks for is asked of GTI, even one as old as what GTI
	// has refused before.
	var known *state.Refusal
	if b.Kind != "" {
		known = w.holder.Feed().Refusal
	}
	e := &engine{
		clock: w.clock, scope: scope{b.Since, b.Until},
		opts: opts, source: w.runner.BackfillAPI, report: w.report, onGap: func(state.Gap) {},
		processor: w.runner.NewProcessor(options),
		save: func(p Progress) {
			rw.update(func(b *state.Backfill) { b.Slices, b.Refused = p.Slices, refused(p.Gaps) })
			if p.Refusal != known {
				known = p.Refusal
				w.holder.Update(func(f *state.Feed) { f.Refusal = known })
			}
		},
		onCounts: func(fetched int, counts ledger.Counts) {
			rw.update(func(b *state.Backfill) { countBackfill(b, fetched, counts) })
			if b.Kind == state.Audit && !counts.Oldest.IsZero() {
				late := w.clock.now().Sub(counts.Oldest).Truncate(ms)
				rw.update(func(b *state.Backfill) { b.LateMax = max(b.LateMax, late) })
				w.report.LateMaxSeconds = max(w.report.LateMaxSeconds, late.Seconds())
			}
		},
	}
	return e, Progress{Slices: b.Slices, Gaps: b.Refused, Refusal: known}, nil
}

// modeOf is what is published for a backfill. An audit, and one that goes on with the
// second listing of a sweep, looks for what the live feed has missed.
func modeOf(b state.Backfill) ledger.Mode {
	switch {
	case b.Republish:
		return ledger.Republish
	case b.Kind == "":
		return ledger.Backfill
	case b.Kind == state.Changes:
		return ledger.Changes
	}
	return ledger.Live
}

func countBackfill(b *state.Backfill, fetched int, c ledger.Counts) {
	b.Fetched += int64(fetched)
	b.Published += int64(c.Published())
	b.Suppressed += int64(c.Suppressed + c.Superseded)
	b.Dropped += int64(c.Dropped)
	b.Rejected += int64(c.Rejected)
}

// refused are the gaps that the API has told of. What is only suspected is of use
// for the live feed alone: a range of long ago often begins without alerts.
func refused(gaps []state.Gap) []state.Gap {
	return slices.DeleteFunc(slices.Clone(gaps), func(g state.Gap) bool { return g.Suspected })
}

// conclude takes what a finished backfill has covered out of the feed's gaps, and
// adds what the API refused it.
func (w *work) conclude(b state.Backfill) {
	var found []state.Gap
	gaps := b.Refused
	if b.Kind != "" {
		gaps = nil // the live feed has read it before
	}
	w.holder.Update(func(f *state.Feed) {
		for _, g := range gaps {
			if !covered(f.Gaps, g) {
				found = append(found, g)
			}
		}
		if b.State == state.Done && b.Filter == f.Filter && (b.Kind == "" || b.Kind == state.Audit && len(b.Refused) == 0) {
			if until := coveredUntil(b, w.runner.Options); b.Since.Before(until) {
				f.Gaps = cutOut(f.Gaps, rangeOfGap, b.Since, until)
			}
			f.FilterPast = cutOut(f.FilterPast, itself, b.Since, b.Until)
		}
		if b.State == state.Done && b.Kind == state.Audit {
			audited(f, b, w.runner.Options)
		}
		for _, g := range gaps {
			f.Gaps = addGap(f.Gaps, g)
		}
	})
	for _, g := range found {
		w.tellGap(g)
	}
	log := w.runner.Log.With("event", "backfill", "feed", w.runner.Feed, "backfill", b.ID, "state", b.State,
		"published", b.Published, "rejected", b.Rejected, "requests", b.Requests)
	if b.State == state.Failed {
		log.ErrorContext(w.deadlines.caller, "a backfill failed", "error", b.Error)
		return
	}
	log.InfoContext(w.deadlines.caller, "a backfill is finished")
}

// coveredUntil is the created_at before which a backfill that is done has shown all that
// there is. One that took longer than GTI looks back may have read its end before the last
// alerts of it came into the index, and before the live feed, which was to list them, found
// that it can't any more.
func coveredUntil(b state.Backfill, o Options) time.Time {
	if b.FinishedAt.Sub(b.RequestedAt) < o.MaxLookback-boundMargin-o.Overlap {
		return b.Until
	}
	return earlier(b.Until, b.RequestedAt.Add(-o.Overlap))
}

// cutOut cuts a range of time out of those that rangeOf finds in a list.
func cutOut[T any](all []T, rangeOf func(*T) *state.TimeRange, since, until time.Time) []T {
	var out []T
	for _, e := range all {
		before, after := e, e
		if r := rangeOf(&before); r.Since.Before(since) {
			if r.Until.After(since) {
				r.Until = since
			}
			out = append(out, before)
		}
		if r := rangeOf(&after); r.Until.After(until) {
			if r.Since.Before(until) {
				r.Since = until
			}
			out = append(out, after)
		}
	}
	return out
}

func rangeOfGap(g *state.Gap) *state.TimeRange { return &g.TimeRange }

func itself(r *state.TimeRange) *state.TimeRange { return r }

// DryBackfill counts what a backfill would publish, and leaves no trace but the
// count of requests. When it could not be counted to the end, the backfill is failed and
// says why. There is no error when it was only stopped.
func (r *Runner) DryBackfill(ctx context.Context, b state.Backfill) (state.Backfill, error) {
	reason, err := r.count(ctx, &b)
	b.State = state.Done
	switch {
	case err != nil:
		b.State, b.Error = state.Failed, err.Error()
	case reason != StopDone:
		b.State, b.Error = state.Failed, "it was not counted to the end: "+reason
	}
	return b, err
}

// count counts what a backfill would publish, and says why it stopped.
func (r *Runner) count(ctx context.Context, b *state.Backfill) (reason string, err error) {
	budgetEnd := time.Now().Add(r.Options.Budget)
	deadlines, done := newDeadlines(ctx, budgetEnd)
	defer done()
	keyID, _, err := r.open(ctx)
	if err != nil {
		_, reason, err = outcomeOf(err)
		return reason, err
	}
	filter, _, err := dtm.ParseFilter(b.Filter)
	if err != nil {
		return StopError, fmt.Errorf("reading the filter: %w", err)
	}
	var report Report
	report.count()
	stopCounting := r.countRequests(deadlines.storing, keyID)
	w := r.newWork(deadlines, &report)
	defer w.deadlines.start(deadlines.storing, budgetEnd)()
	e := &engine{
		clock: w.clock, scope: scope{b.Since, b.Until},
		opts: w.runner.Options, source: w.runner.BackfillAPI, report: &report, save: func(Progress) {}, onGap: func(state.Gap) {},
		processor: r.NewProcessor(ledger.Options{Mode: modeOf(*b), CheckLease: w.checkLease, DryRun: w.dryRun, BackfillID: b.ID}),
		onCounts: func(fetched int, c ledger.Counts) {
			b.Fetched += int64(fetched)
			b.Suppressed += int64(c.Suppressed + c.Superseded)
			b.Dropped += int64(c.Dropped)
			b.Rejected += int64(c.Rejected)
		},
	}
	e.opts.Filter = filter
	err = w.run(w.deadlines, e, Progress{Slices: b.Slices})
	closing, cancel := context.WithTimeout(deadlines.storing, callTime)
	defer cancel()
	stopCounting(closing)
	b.WouldPublish, b.ByType, b.BySeverity, b.ByRule = *report.WouldPublish, report.ByType, report.BySeverity, report.ByRule
	b.Requests, b.Refused = r.BackfillAPI.Stats().Requests, refused(e.progress.Gaps)
	b.Slices = e.progress.Slices
	_, reason, err = outcomeOf(err)
	return reason, err
}
