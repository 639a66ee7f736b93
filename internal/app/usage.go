package app

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"

	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// usageAge is how long the count of a key's requests is good: others send too.
	usageAge = 10 * time.Second
	// usageTime bounds a call to the database for it.
	usageTime = 20 * time.Second
)

// usageCounter keeps the database's count of requests for work that is no run.
type usageCounter struct {
	app *App
	// lock is held while counts are on their way, as they would be missing from
	// what is loaded meanwhile.
	lock   *semaphore.Weighted
	keyID  string
	loaded time.Time
}

func newUsageCounter(a *App) *usageCounter {
	return &usageCounter{app: a, lock: semaphore.NewWeighted(1)}
}

// Load reads the count if it is too old.
func (u *usageCounter) Load(ctx context.Context, keyID string) error {
	ctx, cancel := context.WithTimeout(ctx, usageTime)
	defer cancel()
	if err := u.lock.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("reading the count of requests: %w", context.Cause(ctx))
	}
	defer u.lock.Release(1)
	if u.keyID == keyID && time.Since(u.loaded) < usageAge {
		return nil
	}
	found, err := u.app.parts.Store.Open(ctx, u.app.cfg.Feed, keyID)
	if err != nil {
		return fmt.Errorf("reading the count of requests: %w", err)
	}
	u.app.meter.Load(found.Usage.Requests, found.Usage.Errors)
	u.keyID, u.loaded = keyID, time.Now()
	return nil
}

// Add adds what was sent, in one call for all that ended meanwhile. Buckets that
// are out of date are left to the runs. A count that is lost changes nothing
// for the message, so it is only logged.
func (u *usageCounter) Add(ctx context.Context, keyID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), usageTime)
	defer cancel()
	err := u.lock.Acquire(ctx, 1)
	if err == nil {
		defer u.lock.Release(1)
		var add state.Usage
		if add.Requests, add.Errors = u.app.meter.Take(); len(add.Requests) == 0 && len(add.Errors) == 0 {
			return
		}
		err = u.app.parts.Store.AddUsage(ctx, keyID, add, state.Usage{})
	}
	if err != nil {
		u.app.log.WarnContext(ctx, "requests could not be counted", "feed", u.app.cfg.Feed, "error", err.Error())
	}
}
