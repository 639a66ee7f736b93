package drain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// Store is what a run needs of the database (state.Store).
type Store interface {
	state.FeedStore
	AddUsage(ctx context.Context, keyID string, add, old state.Usage) error
}

// Session is one run's view of the API (dtm.Session).
type Session interface {
	Source
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
	KeyID   func(ctx context.Context) (string, error)
	Store   Store
	Meter   Meter
	Session Session
	// Desk makes the desk of one run. alive is what it asks before it publishes.
	Desk  func(runID string, alive func() error, dryRun bool) Desk
	RunID string
	Log   *slog.Logger
}

// ErrKeyMissing means that there is no API key yet: the secret has no version.
var ErrKeyMissing = errors.New("there is no API key")

const (
	// callTime bounds one call to the database at a run's beginning and end.
	callTime = 10 * time.Second
	// budgetGrace is what a page that is being published has when the budget is
	// used up (the budget ends 30 s before the platform does).
	budgetGrace = 20 * time.Second
	// shutdownGrace is the same when the platform ends the instance (Cloud Run:
	// 10 s between SIGTERM and SIGKILL).
	shutdownGrace = 6 * time.Second
	// countEvery is how often the requests made are added to the database's counters.
	countEvery = 10 * time.Second
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
	// What is under way is finished after ctx ends.
	base := context.WithoutCancel(ctx)
	opening, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	keyID, err := r.KeyID(opening)
	if err != nil {
		return judge(err)
	}
	feed, version, usage, err := r.Store.Open(opening, r.Feed, keyID)
	if err != nil {
		return Failed, StopError, fmt.Errorf("reading feed %s: %w", r.Feed, err)
	}
	report.before(feed)
	if !report.DryRun && feed.Lease != nil && began.Before(feed.Lease.ExpiresAt) {
		return Skipped, StopLeaseHeld, nil
	}
	r.Meter.Load(usage.Requests, usage.Errors)
	r.plan(&feed, began)
	feed.KeyID = keyID

	var holder *state.Holder
	leased, alive := base, func() error { return nil }
	if !report.DryRun {
		holder, err = state.Acquire(base, r.Store, r.Feed, r.RunID, feed, version)
		switch {
		case errors.Is(err, state.ErrHeld):
			return Skipped, StopLeaseHeld, nil
		case err != nil:
			return Failed, StopError, err
		}
		leased, alive = holder.Context(), holder.Alive
	}
	stopCounting := r.count(base, keyID, usage)
	outcome, reason, err = judge(r.drain(ctx, leased, report, feed, holder, alive, began))
	r.stats(report)

	closing, cancel := context.WithTimeout(base, callTime)
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
	if outcome != Failed {
		_, reason, _ = judge(released)
	}
	return Failed, reason, errors.Join(err, released)
}

// plan adds what this run is for to the feed.
func (r *Runner) plan(f *state.Feed, now time.Time) {
	end := now.Add(-r.Options.Settle).Truncate(ms)
	if f.BeginsAt.IsZero() {
		f.BeginsAt = now.Add(-r.Options.InitialLookback).Truncate(ms)
		f.End = f.BeginsAt
	}
	extend(f, end, r.Options.Overlap)
	if text := r.Options.Filter.String(); text != f.Filter || f.FilterSince.IsZero() {
		f.Filter, f.FilterSince = text, now
	}
}

// drain runs the engine on the feed's pending slices.
func (r *Runner) drain(ctx, leased context.Context, report *Report, feed state.Feed, holder *state.Holder,
	alive func() error, began time.Time,
) error {
	working, stopWork := context.WithCancelCause(leased)
	defer stopWork(nil)
	fetching, stopFetch := context.WithCancelCause(working)
	defer stopFetch(nil)
	// A wait that GTI asks for is measured against this deadline.
	fetching, cancel := context.WithDeadlineCause(fetching, began.Add(r.Options.Budget), errBudget)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		stopFetch(errShutdown)
	})()
	defer context.AfterFunc(fetching, func() {
		grace := budgetGrace
		if errors.Is(context.Cause(fetching), errShutdown) {
			grace = shutdownGrace
		}
		late := time.AfterFunc(grace, func() {
			stopWork(fmt.Errorf("publishing took longer than %s after the run was to end", grace))
		})
		context.AfterFunc(working, func() { late.Stop() })
	})()

	e := &engine{
		opts: r.Options, source: r.Session, report: report,
		desk: r.Desk(r.RunID, alive, report.DryRun),
		save: func(Progress) {},
		onGap: func(g state.Gap) {
			log := r.Log.With("event", "gap", "feed", r.Feed, "since", g.Since, "until", g.Until, "suspected", g.Suspected)
			if g.Suspected {
				log.WarnContext(ctx, "the API may have left out alerts from before this")
				return
			}
			log.ErrorContext(ctx, "alerts from before this can't be fetched")
		},
	}
	if holder != nil {
		e.save = func(p Progress) {
			holder.Update(func(f *state.Feed) {
				f.Slices, f.RereadFrom, f.Gaps, f.Refusal = p.Slices, p.RereadFrom, p.Gaps, p.Refusal
			})
		}
	}
	err := e.run(fetching, working, Progress{
		Slices: feed.Slices, RereadFrom: feed.RereadFrom, Gaps: feed.Gaps, Refusal: feed.Refusal,
	})
	if lost := context.Cause(leased); lost != nil && err != nil && !errors.Is(err, lost) {
		return errors.Join(lost, err) // what was under way failed because of it
	}
	return err
}

// judge tells a run that was stopped from one that failed.
func judge(err error) (outcome, reason string, failure error) {
	var (
		wait   *dtm.WaitError
		budget *dtm.BudgetError
		quota  *dtm.QuotaError
		key    *dtm.KeyError
	)
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
	case errors.As(err, &wait):
		return Partial, StopWait, nil
	case errors.Is(err, ErrKeyMissing):
		return Failed, StopKeyMissing, err
	case errors.As(err, &key):
		return Failed, StopKeyRefused, err
	case errors.As(err, &budget) && budget.What == "errors":
		return Failed, StopErrors, err
	case errors.As(err, &budget), errors.As(err, &quota):
		return Failed, StopRequests, err
	default:
		return Failed, StopError, err
	}
}

// count adds the requests made to the database's counters from time to time,
// and a last time when the function it returns is called.
func (r *Runner) count(base context.Context, keyID string, known state.Usage) (stop func(context.Context)) {
	quit, done := make(chan struct{}), make(chan struct{})
	add := func(ctx context.Context) {
		var u state.Usage
		u.Requests, u.Errors = r.Meter.Take()
		if len(u.Requests) == 0 && len(u.Errors) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		// A count that is lost costs no alert; the run's own writes say whether
		// the database is there.
		if err := r.Store.AddUsage(ctx, keyID, u, outdated(known, time.Now())); err != nil {
			r.Log.WarnContext(ctx, "requests could not be counted", "feed", r.Feed, "error", err.Error())
		}
		known = state.Usage{}
	}
	go func() {
		defer close(done)
		ticker := time.NewTicker(countEvery)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
				add(base)
			}
		}
	}()
	return func(ctx context.Context) {
		close(quit)
		<-done
		add(ctx)
	}
}

// outdated names the buckets that have left their window.
func outdated(u state.Usage, now time.Time) state.Usage {
	return state.Usage{
		Requests: older(u.Requests, now.Add(-state.RequestBuckets*state.RequestBucket)),
		Errors:   older(u.Errors, now.Add(-state.ErrorBuckets*state.ErrorBucket)),
	}
}

func older(buckets map[int64]int64, than time.Time) map[int64]int64 {
	out := map[int64]int64{}
	for start, n := range buckets {
		if start <= than.Unix() {
			out[start] = n
		}
	}
	return out
}

func (r *Runner) stats(report *Report) {
	s := r.Session.Stats()
	report.Requests, report.Retries, report.Pages, report.Bytes = s.Requests, s.Retries, s.Pages, s.Bytes
	report.Errors4xx, report.ThrottledMS = s.Errors4xx, s.Throttled.Milliseconds()
}

func (r *Report) before(f state.Feed) {
	if !f.BeginsAt.IsZero() {
		p := f.Position()
		r.PositionBefore, r.PositionAfter = &p, &p
	}
}
