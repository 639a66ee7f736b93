package drain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// recordWriter writes the record of the backfill that is being worked. The other
// writer is DELETE, which may cancel the backfill at any time.
type recordWriter struct {
	store      BackfillStore
	feed       string
	checkLease func() error
	cancelled  func()
	// spent sets the time and the requests that the record counts.
	spent func(*state.Backfill)

	mu       sync.Mutex
	record   state.Backfill
	dirty    bool
	revision state.Revision // only who writes uses it
}

func (w *recordWriter) update(change func(*state.Backfill)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.record)
	w.dirty = true
}

// keepWriting writes the record once a second when it has changed, until the function
// that it returns is called. A write that fails is tried again with the next;
// the last one, by the caller, says whether the record is stored.
func (w *recordWriter) keepWriting(ctx context.Context) (stop func()) {
	w.update(func(b *state.Backfill) { b.State = state.Running })
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				w.mu.Lock()
				dirty := w.dirty
				w.mu.Unlock()
				if dirty {
					_ = w.write(ctx)
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// write writes the record. When DELETE was faster, the record stays cancelled,
// with what was done all the same. It is also cancelled when somebody has deleted it. With
// state.ErrContended it is not stored, which ends no run: the next write has all of it.
func (w *recordWriter) write(ctx context.Context) error {
	for range state.Tries {
		if err := w.checkLease(); err != nil {
			return err
		}
		w.mu.Lock()
		w.spent(&w.record)
		record := w.record
		record.Slices, record.Refused = slices.Clone(record.Slices), slices.Clone(record.Refused)
		w.dirty = false
		w.mu.Unlock()
		v, err := w.store.WriteBackfill(ctx, w.feed, record, w.revision)
		if err == nil {
			w.revision = v
			return nil
		}
		w.mu.Lock()
		w.dirty = true
		w.mu.Unlock()
		if !errors.Is(err, state.ErrConflict) {
			return fmt.Errorf("backfill %s: %w", record.ID, err)
		}
		stored, v, err := w.store.Backfill(ctx, w.feed, record.ID)
		if err != nil {
			return fmt.Errorf("backfill %s: %w", record.ID, err)
		}
		w.revision = v
		if v == "" {
			now := time.Now().UTC().Truncate(ms)
			stored.State, stored.FinishedAt, stored.ExpireAt = state.Cancelled, now, now.Add(KeepFinished)
		}
		if stored.State == state.Cancelled {
			w.update(func(b *state.Backfill) {
				b.State, b.FinishedAt, b.ExpireAt = stored.State, stored.FinishedAt, stored.ExpireAt
			})
			w.cancelled()
		}
	}
	return state.ErrContended
}

// movedFrom reports whether anything was published or read since the record was b.
func (w *recordWriter) movedFrom(b state.Backfill) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.record
	return now.Published+now.Rejected > b.Published+b.Rejected || !slices.Equal(now.Slices, b.Slices)
}

// finish notes how the work ended, and reports whether the backfill is finished.
func (w *recordWriter) finish(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := &w.record
	if b.Finished() { // cancelled
		return true
	}
	now := time.Now().UTC().Truncate(ms)
	switch {
	case err == nil:
		b.State, b.Error, b.Slices = state.Done, "", nil
	case errors.Is(err, errLiveFeed), errors.Is(err, errBudget), errors.Is(err, errShutdown), errors.Is(err, errCap), errors.Is(err, errCancelled):
		b.Error = ""
		return false
	case dtm.Kind(err).Final():
		// Asking again would earn the same error, and there is only an hour's
		// number of them.
		b.State, b.Error = state.Failed, err.Error()
	default:
		b.Error = err.Error()
		return false
	}
	b.FinishedAt, b.ExpireAt = now, now.Add(KeepFinished)
	return true
}
