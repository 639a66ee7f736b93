package drain

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
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
}

// Runner runs one feed.
type Runner struct {
	Feed    string
	Options Options
	// KeyID names the counters of the API key. Its error may wrap ErrKeyMissing.
	KeyID func(ctx context.Context) (string, error)
	Store Store
	Meter Meter
	// LiveAPI, SweepAPI and BackfillAPI are the sessions of live work, of sweeps and of
	// backfills. The last two may use less of the key's budgets.
	LiveAPI     Session
	SweepAPI    Session
	BackfillAPI Session
	// NewProcessor makes a processor for this run.
	NewProcessor func(ledger.Options) Processor
	RunID        string
	Log          *slog.Logger
	// Now is this instance's clock, which may be wrong; nil stands for time.Now.
	Now func() time.Time
}

// ErrKeyMissing means that there is no API key yet: the secret has no version.
var ErrKeyMissing = errors.New("there is no API key")

const (
	// callTime bounds one call to the database at a run's beginning and end.
	callTime = 20 * time.Second
)

// Live relays everything new, and returns what it did. The error is the one in
// the report, for those who need to know its kind. When ctx ends, the run stops
// between pages, stores its position and releases the lease.
func (r *Runner) Live(ctx context.Context, trigger string, dryRun bool) (Report, error) {
	began := time.Now().UTC().Truncate(ms)
	report := Report{Feed: r.Feed, RunID: r.RunID, Trigger: trigger, DryRun: dryRun, StartedAt: began}
	if dryRun {
		report.WouldPublish, report.ByType, report.BySeverity = new(int64), map[string]int64{}, map[string]int64{}
	}
	outcome, reason, err := r.live(ctx, &report, began)
	report.finish(outcome, reason, err)
	return report, err
}

func (r *Runner) live(ctx context.Context, report *Report, began time.Time) (outcome, reason string, err error) {
	budgetEnd := began.Add(r.Options.Budget)
	deadlines, done := newDeadlines(ctx, budgetEnd)
	defer done()
	opening, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	w := r.work(deadlines, report)
	keyID, err := r.KeyID(opening)
	if err != nil {
		return outcomeOf(err)
	}
	found, err := r.Store.Open(opening, r.Feed, keyID)
	if err != nil {
		return Failed, StopError, err
	}
	feed, usage := found.Feed, found.Usage
	report.before(feed)
	if !report.DryRun && feed.Lease != nil && began.Before(feed.Lease.ExpiresAt) {
		return Skipped, StopLeaseHeld, nil
	}
	r.Meter.Load(usage.Requests, usage.Errors)
	w.clock.first = feed.BeginsAt.IsZero()
	refiltered := w.plan(&feed)
	feed.KeyID = keyID

	var holder *state.Holder
	leased, checkLease := deadlines.storing, func() error { return nil }
	if !report.DryRun {
		holder, err = state.Acquire(deadlines.storing, r.Store, r.Feed, r.RunID, feed, found.Revision)
		switch {
		case errors.Is(err, state.ErrHeld):
			return Skipped, StopLeaseHeld, nil
		case err != nil:
			return Failed, StopError, err
		}
		leased, checkLease = holder.Context(), holder.CheckLease
		if refiltered {
			r.Log.InfoContext(ctx, "the filter was changed: a backfill can cover the past for it",
				"event", "filter", "feed", r.Feed, "past", feed.FilterPast)
		}
	}
	stopCounting := r.countRequests(deadlines.storing, keyID, usage)
	w.holder, w.checkLease = holder, checkLease
	end := w.deadlines.start(leased, budgetEnd)
	err = w.runAll(feed)
	end()
	outcome, reason, err = outcomeOf(err)
	r.stats(report)
	if report.isHigh() {
		r.Log.WarnContext(ctx, "a run sent more than twice the requests that its alerts needed",
			"event", "requests_high", "feed", r.Feed, "run_id", r.RunID, "requests", report.Requests, "needed", int64(math.Ceil(report.needed))+report.Slices)
	}

	closing, cancel := context.WithTimeout(deadlines.storing, callTime)
	defer cancel()
	defer stopCounting(closing)
	if holder == nil {
		return outcome, reason, err
	}
	released := holder.Release(closing, func(f *state.Feed) {
		position := f.Position()
		report.PositionAfter = &position
		report.Checkpoints = f.Write
		report.finish(outcome, reason, err)
		f.LastRun, _ = json.Marshal(report) // a Report always marshals
	})
	if released == nil || errors.Is(err, state.ErrLost) {
		return outcome, reason, err
	}
	// A checkpoint that failed is a run that failed.
	report.PositionAfter = report.PositionBefore
	err = errors.Join(err, released)
	_, reason, _ = outcomeOf(err)
	return Failed, reason, err
}

// plan adds what this run is for to the feed, and reports whether the filter is
// another one than before.
func (w *work) plan(f *state.Feed) (refiltered bool) {
	if !f.BeginsAt.IsZero() {
		w.clock.takeBack(w.deadlines.caller, f, w.Options, w.certain())
	}
	now := w.clock.now().Truncate(ms)
	if f.BeginsAt.IsZero() {
		f.BeginsAt, f.FirstRun = now.Add(-w.Options.InitialLookback).Truncate(ms), now
		f.End = f.BeginsAt
	}
	if text := w.Options.Filter.String(); text != f.Filter || f.FilterSince.IsZero() {
		refiltered = !f.FilterSince.IsZero()
		if past := (state.TimeRange{Since: f.BeginsAt, Until: f.End}); refiltered && past.Since.Before(past.Until) {
			f.FilterPast = []state.TimeRange{past}
		}
		f.Filter, f.FilterSince = text, now
	}
	extend(f, w.newest(), w.Options.Overlap)
	return refiltered
}

// newest is how far a slice may reach now: what is younger is left for the next run.
func (w *work) newest() time.Time { return w.clock.now().Add(-w.Options.Settle).Truncate(ms) }

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
		anew = w.clock.takeBack(w.deadlines.caller, f, w.Options, now) || anew
		if anew { // or the overlap would be planned a second time, and be left
			w.plan(f)
		}
	})
	return anew
}

// Reason is the stop reason of a run that ends with err.
func Reason(err error) string {
	_, reason, _ := outcomeOf(err)
	return reason
}

// outcomeOf tells a run that was stopped from one that failed.
func outcomeOf(err error) (outcome, reason string, failure error) {
	var budget *dtm.BudgetError
	kind := dtm.Kind(err)
	switch {
	case err == nil:
		return OK, StopDone, nil
	case errors.Is(err, state.ErrLost):
		return Failed, StopLeaseLost, err
	case errors.Is(err, errBudget):
		return Partial, StopBudget, nil
	case errors.Is(err, errShutdown):
		return Partial, StopShutdown, nil
	case errors.Is(err, errCap):
		return Partial, StopCap, nil
	case kind == dtm.Wait:
		return Partial, StopWait, nil
	case errors.Is(err, ErrKeyMissing), kind == dtm.NoKey:
		return Failed, StopKeyMissing, err
	case kind == dtm.KeyRefused:
		return Failed, StopKeyRefused, err
	case errors.As(err, &budget) && budget.What == "errors":
		return Failed, StopErrors, err
	case kind == dtm.BudgetSpent, kind == dtm.QuotaSpent:
		return Failed, StopRequests, err
	case ListingFailed(err), dtm.Failed(err):
		return Failed, StopGTI, err
	default:
		return Failed, StopError, err
	}
}

func (r *Runner) stats(report *Report) {
	for _, s := range []dtm.Stats{r.LiveAPI.Stats(), r.SweepAPI.Stats(), r.BackfillAPI.Stats()} {
		report.Requests += s.Requests
		report.Retries += s.Retries
		report.Pages += s.Pages
		report.Bytes += s.Bytes
		report.Errors4xx += s.Errors4xx
		report.ThrottledMS += s.Throttled.Milliseconds()
	}
}

func (r *Report) before(f state.Feed) {
	if !f.BeginsAt.IsZero() {
		p := f.Position()
		r.PositionBefore, r.PositionAfter = &p, &p
	}
}
