package drain

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/semaphore"

	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// countEvery is how often a run adds its requests to the database's counters.
	countEvery = 10 * time.Second
	// usageAge is how old the count of a key's requests may be. With an older one a process
	// would go on sending when other feeds and SyncStatus have used up the budget.
	usageAge = 10 * time.Second
)

// UsageCounter keeps a meter in step with the database's counters of a key: other
// feeds and SyncStatus use up the same budgets. It may be used by several goroutines. A
// meter has one: another one's load would leave out what this one has on its way.
type UsageCounter struct {
	feed  string
	store Store
	meter Meter
	log   *slog.Logger

	// lock is held while counts are on their way, as they would be missing from
	// what is loaded meanwhile.
	lock   *semaphore.Weighted
	keyID  string
	loaded time.Time
	// known is what the database held then. Its buckets that have left their window are
	// dropped with the next count.
	known state.Usage
}

// NewUsageCounter returns a counter that has loaded nothing yet. feed is for its log.
func NewUsageCounter(feed string, store Store, meter Meter, log *slog.Logger) *UsageCounter {
	return &UsageCounter{feed: feed, store: store, meter: meter, log: log, lock: semaphore.NewWeighted(1)}
}

// Open reads the feed, and with it the counters of a key.
func (u *UsageCounter) Open(ctx context.Context, keyID string) (state.Snapshot, error) {
	return u.load(ctx, keyID, 0)
}

// Load reads the counters of a key if they were read more than 10 s ago.
func (u *UsageCounter) Load(ctx context.Context, keyID string) error {
	if _, err := u.load(ctx, keyID, usageAge); err != nil {
		return fmt.Errorf("reading the count of requests: %w", err)
	}
	return nil
}

// Add adds what was sent, in one call for all that ended meanwhile, also after ctx
// has ended. What can't be added goes with the next count: a user whom GTI has locked out
// gets nothing more (DTM API). It changes nothing for what was sent, so it is only logged.
func (u *UsageCounter) Add(ctx context.Context, keyID string) {
	u.add(context.WithoutCancel(ctx), keyID)
}

func (u *UsageCounter) load(ctx context.Context, keyID string, age time.Duration) (found state.Snapshot, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := u.lock.Acquire(ctx, 1); err != nil {
		return found, context.Cause(ctx)
	}
	defer u.lock.Release(1)
	if u.keyID == keyID && time.Since(u.loaded) < age {
		return found, nil
	}
	if found, err = u.store.Open(ctx, u.feed, keyID); err != nil {
		return found, err
	}
	u.meter.Load(found.Usage.Requests, found.Usage.Errors)
	u.keyID, u.loaded, u.known = keyID, time.Now(), found.Usage
	return found, nil
}

func (u *UsageCounter) add(ctx context.Context, keyID string) (added bool) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err := u.lock.Acquire(ctx, 1)
	if err == nil {
		defer u.lock.Release(1)
		var sent state.Usage
		if sent.Requests, sent.Errors = u.meter.Take(); len(sent.Requests) == 0 && len(sent.Errors) == 0 {
			return false
		}
		if err = u.store.AddUsage(ctx, keyID, sent, u.known.Outdated(time.Now())); err == nil {
			u.known = state.Usage{}
		} else {
			u.meter.Return(sent.Requests, sent.Errors)
		}
	}
	if err != nil {
		u.log.WarnContext(ctx, "requests could not be counted", "feed", u.feed, "error", err.Error())
	}
	return err == nil
}

// countRequests adds a run's requests to the database's counters from time to time,
// and a last time when the function it returns is called. The run's own writes say
// whether the database is there.
func (r *Runner) countRequests(base context.Context, keyID string) (stop func(context.Context)) {
	quit, done := make(chan struct{}), make(chan struct{})
	counting, cancel := context.WithCancel(base)
	go func() {
		defer close(done)
		ticker := time.NewTicker(countEvery)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
				if !r.Usage.add(counting, keyID) {
					continue
				}
				if _, err := r.Usage.Open(counting, keyID); err != nil {
					r.Log.WarnContext(counting, "the requests of others could not be counted", "feed", r.Feed, "error", err.Error())
				}
			}
		}
	}()
	return func(ctx context.Context) {
		close(quit)
		stop := context.AfterFunc(ctx, cancel)
		<-done
		stop()
		cancel()
		r.Usage.add(ctx, keyID)
	}
}
