package drain

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// budgetGrace is what a page that is being published has when the budget is
	// used up (the budget ends 30 s before the platform does).
	budgetGrace = 20 * time.Second
	// shutdownGrace is the same when the platform ends the instance (Cloud Run:
	// 10 s between SIGTERM and SIGKILL).
	shutdownGrace = 6 * time.Second
	// budgetClosing and shutdownClosing are what the last calls to the database have
	// after these, so that the report still comes.
	budgetClosing   = 8 * time.Second
	shutdownClosing = 2 * time.Second
)

var (
	errBudget   = errors.New("the run's budget is used up")
	errShutdown = errors.New("the run is told to stop")
	errLate     = errors.New("the database did not answer before the run had to be over")
)

// deadlines are the contexts of a run. What is under way when fetching ends is
// finished, and the end of the run is stored, but only as long as the platform lets
// the report come:
//
//	ends           when the platform   when the budget   when the lease
//	               ends the instance   is used up        is lost
//	fetching       at once             at once           at once
//	working        6 s later           20 s later        at once
//	storing        8 s later           28 s later        –
type deadlines struct {
	caller   context.Context // the request's, which names the trace for logs
	storing  context.Context // calls to the database that open and close the run
	leased   context.Context // ends with the lease
	working  context.Context // publishing and recording
	fetching context.Context // requests to GTI
}

// newDeadlines has those of a run that holds no lease yet. Only caller and storing
// are there.
func newDeadlines(ctx context.Context, end time.Time) (d deadlines, done func()) {
	storing, late := context.WithCancelCause(context.WithoutCancel(ctx))
	storing, cancel := context.WithDeadlineCause(storing, end.Add(budgetGrace+budgetClosing), errLate)
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(shutdownGrace+shutdownClosing, func() { late(errLate) })
	})
	return deadlines{caller: ctx, storing: storing}, func() {
		stop()
		cancel()
		late(nil)
	}
}

// start begins the time of fetching and working, which ends with leased.
func (d *deadlines) start(leased context.Context, end time.Time) (done func()) {
	working, stopWork := context.WithCancelCause(leased)
	fetching, stopFetch := context.WithCancelCause(working)
	// A wait that GTI asks for is measured against this deadline.
	fetching, cancel := context.WithDeadlineCause(fetching, end, errBudget)
	noShutdown := context.AfterFunc(d.caller, func() { stopFetch(errShutdown) })
	noGrace := context.AfterFunc(fetching, func() {
		grace := budgetGrace
		if errors.Is(context.Cause(fetching), errShutdown) {
			grace = shutdownGrace
		}
		late := time.AfterFunc(grace, func() {
			stopWork(fmt.Errorf("publishing and recording took longer than %s after the run was to end", grace))
		})
		context.AfterFunc(working, func() { late.Stop() })
	})
	d.leased, d.working, d.fetching = leased, working, fetching
	return func() {
		noShutdown()
		noGrace()
		cancel()
		stopFetch(nil)
		stopWork(nil)
	}
}

// until is d with fetching ending at a time, with a cause, or when stop is called.
func (d deadlines) until(end time.Time, cause error) (shorter deadlines, stop context.CancelCauseFunc) {
	fetching, cancel := context.WithDeadlineCause(d.fetching, end, cause)
	fetching, stopFetch := context.WithCancelCause(fetching)
	d.fetching = fetching
	return d, func(cause error) {
		stopFetch(cause)
		cancel()
	}
}

// stoppable is d with fetching ending also when stop is called.
func (d deadlines) stoppable() (shorter deadlines, stop context.CancelCauseFunc) {
	d.fetching, stop = context.WithCancelCause(d.fetching)
	return d, stop
}

// hasTime reports whether fetching goes on for longer than a time.
func (d deadlines) hasTime(wait time.Duration) bool {
	deadline, ok := d.fetching.Deadline()
	return d.fetching.Err() == nil && (!ok || time.Until(deadline) > wait)
}
