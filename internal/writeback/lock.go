package writeback

import (
	"context"
	"sync"
)

// alertLocks lets one at a time deal with an alert. It remembers only the alerts that
// somebody deals with.
type alertLocks struct {
	mu    sync.Mutex
	locks map[string]*alertLock
}

type alertLock struct {
	free  chan struct{} // holds a token while nobody has the lock
	users int           // who have it or wait for it
}

// lock waits until nobody else has the alert's lock. The function that it returns
// gives it back.
func (l *alertLocks) lock(ctx context.Context, id string) (unlock func(), err error) {
	l.mu.Lock()
	if l.locks == nil {
		l.locks = map[string]*alertLock{}
	}
	mine := l.locks[id]
	if mine == nil {
		mine = &alertLock{free: make(chan struct{}, 1)}
		mine.free <- struct{}{}
		l.locks[id] = mine
	}
	mine.users++
	l.mu.Unlock()

	forget := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(l.locks, id)
		}
	}
	select {
	case <-mine.free:
		return func() {
			mine.free <- struct{}{}
			forget()
		}, nil
	case <-ctx.Done():
		forget()
		return nil, context.Cause(ctx)
	}
}
