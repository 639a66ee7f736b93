package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Lease says who works a feed, or changes an alert in GTI.
type Lease struct {
	Owner     string    `json:"owner"` // run id, or the writing process's name
	ExpiresAt time.Time `json:"expires_at"`
}

// A lease is given for LeaseFor and renewed every RenewEvery. Its holder counts
// it as lost LostAfter its last confirmed renewal: the rest is for clocks that
// differ and for calls that were under way.
const (
	LeaseFor   = 60 * time.Second
	RenewEvery = 15 * time.Second
	LostAfter  = 35 * time.Second
)

// checkpointEvery is the least time between two writes of a feed's document
// (Firestore: about one write a second to one document).
const checkpointEvery = time.Second

var (
	// ErrHeld means that another run works the feed.
	ErrHeld = errors.New("another run holds the lease")
	// ErrLost means that the lease was lost while it was held: nothing more may
	// be published or written.
	ErrLost = errors.New("the lease was lost")
)

// FeedStore is what a Holder needs of a Store.
type FeedStore interface {
	Open(ctx context.Context, feed, keyID string) (Snapshot, error)
	WriteFeed(ctx context.Context, feed string, f Feed, v Revision) (Revision, error)
}

// Holder holds the lease of a feed. Its one goroutine does all writes of the
// feed's document: checkpoints, at most one a second, and renewals.
type Holder struct {
	store  FeedStore
	name   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	// writing ends the goroutine and what it is writing.
	writing     context.Context
	stopWriting context.CancelFunc
	quit        chan struct{} // ends the goroutine after what it is writing
	kick        chan struct{}
	done        chan struct{}

	mu    sync.Mutex
	feed  Feed
	dirty bool      // it was changed since it was last written
	due   time.Time // when it is to be written next
	// confirmed is when the last confirmed write was sent.
	confirmed time.Time
	stored    int64         // Feed.Write of the last write that is known to be in the database
	written   chan struct{} // is closed when stored changes

	revision Revision // only the goroutine, and after it Release, use it
}

// Acquire takes the lease of a feed as it was read, writing f with it. It
// returns ErrHeld when another run holds it or was faster.
func Acquire(ctx context.Context, store FeedStore, name, owner string, f Feed, v Revision) (*Holder, error) {
	now := time.Now()
	if f.Lease != nil && now.Before(f.Lease.ExpiresAt) {
		return nil, ErrHeld
	}
	f = f.Clone()
	f.Lease = &Lease{Owner: owner}
	f.Writer = owner
	f.Generation++
	f.Write = 0
	h := &Holder{
		store: store, name: name, feed: f, revision: v, confirmed: now,
		quit: make(chan struct{}), kick: make(chan struct{}, 1), done: make(chan struct{}), written: make(chan struct{}),
	}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	h.writing, h.stopWriting = context.WithCancel(h.ctx)
	if _, err := h.write(h.ctx); err != nil {
		h.cancel(err)
		if errors.Is(err, ErrLost) {
			return nil, ErrHeld
		}
		return nil, fmt.Errorf("taking the lease of feed %s: %w", name, err)
	}
	go h.keep()
	return h, nil
}

// Context ends when the lease is lost, with the reason as its cause.
func (h *Holder) Context() context.Context { return h.ctx }

// CheckLease returns an error wrapping ErrLost when the lease can no longer be
// counted on. It looks at the clock itself, since a process that was frozen runs
// on before its timers do.
func (h *Holder) CheckLease() error {
	if err := context.Cause(h.ctx); err != nil {
		return err
	}
	err := h.overdue()
	if err != nil {
		h.cancel(err)
	}
	return err
}

func (h *Holder) overdue() error {
	h.mu.Lock()
	since := sinceBoth(h.confirmed)
	h.mu.Unlock()
	if since < LostAfter {
		return nil
	}
	return fmt.Errorf("%w: not renewed for %s", ErrLost, since.Round(time.Second))
}

// sinceBoth is the time since t by the monotonic or the wall clock, whichever
// says more: the first stands still while a machine is suspended.
func sinceBoth(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// Update changes the document in memory; it is written a second later, together
// with what else has changed until then.
func (h *Holder) Update(change func(*Feed)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.feed)
	if !h.dirty {
		h.writeAt(time.Now().Add(checkpointEvery))
	}
}

// writeAt has the goroutine write the document at a time. The lock is held.
func (h *Holder) writeAt(at time.Time) {
	h.dirty, h.due = true, at
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// Flush writes the document as it is now, and waits until that is stored. It returns an
// error when ctx ends first, or the lease is lost.
func (h *Holder) Flush(ctx context.Context) error {
	h.mu.Lock()
	h.writeAt(time.Now())
	for this := h.feed.Write; h.stored <= this; {
		written := h.written
		h.mu.Unlock()
		select {
		case <-written:
		case <-h.ctx.Done():
			return context.Cause(h.ctx)
		case <-ctx.Done():
			return fmt.Errorf("storing feed %s: %w", h.name, context.Cause(ctx))
		}
		h.mu.Lock()
	}
	h.mu.Unlock()
	return nil
}

// UpdateLazily changes the document in memory; it is written with whatever is written
// next, at the latest with the renewal of the lease.
func (h *Holder) UpdateLazily(change func(*Feed)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.feed)
}

// Feed returns the document as this holder last changed it.
func (h *Holder) Feed() Feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.feed.Clone()
}

// Release makes a last change, writes it without the lease, and ends the
// holder. When the lease is lost it writes nothing and says so. ctx bounds how
// long it tries.
func (h *Holder) Release(ctx context.Context, last func(*Feed)) error {
	close(h.quit)
	select {
	case <-h.done:
	case <-time.After(checkpointEvery): // what is being written hangs
		h.stopWriting()
		<-h.done
	}
	defer h.cancel(errors.New("the lease was released"))
	if err := h.CheckLease(); err != nil {
		return err
	}
	h.mu.Lock()
	last(&h.feed)
	h.feed.Lease = nil
	h.mu.Unlock()
	for {
		stored, err := h.write(ctx)
		switch {
		case err == nil && stored:
			return nil
		case errors.Is(err, ErrLost):
			return err
		case err != nil && !h.pause(ctx):
			return fmt.Errorf("releasing the lease of feed %s: %w", h.name, err)
		}
	}
}

// keep writes and renews until it is stopped or the lease is lost.
func (h *Holder) keep() {
	defer close(h.done)
	timer := time.NewTimer(RenewEvery)
	defer timer.Stop()
	for {
		h.mu.Lock()
		timer.Reset(time.Until(h.due))
		h.mu.Unlock()
		select {
		case <-h.writing.Done():
			return
		case <-h.quit:
			return
		case <-h.kick: // it is due earlier now
			continue
		case <-timer.C:
		}
		_, err := h.write(h.writing)
		switch {
		case h.writing.Err() != nil:
			return
		case errors.Is(err, ErrLost):
			h.cancel(err)
			return
		case err != nil:
			if lost := h.overdue(); lost != nil {
				h.cancel(fmt.Errorf("%w: %w", lost, err))
				return
			}
		}
	}
}

// write writes the document once. stored is false when an earlier write of this
// holder, whose answer was lost, is what the database holds: then the newest
// content has still to be written.
func (h *Holder) write(ctx context.Context) (stored bool, err error) {
	h.mu.Lock()
	sent := time.Now()
	h.feed.Write++
	if h.feed.Lease != nil {
		h.feed.Lease.ExpiresAt = sent.Add(LeaseFor)
	}
	f := h.feed.Clone()
	h.dirty = false
	// After LostAfter another run may hold the lease: no write is under way then.
	deadline := h.confirmed.Add(LostAfter)
	h.mu.Unlock()

	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	v, err := h.store.WriteFeed(ctx, h.name, f, h.revision)
	stored = true
	if errors.Is(err, ErrConflict) {
		// The client repeats a commit whose answer was lost: look whose write it was.
		found, failed := h.store.Open(ctx, h.name, "")
		now := found.Feed
		switch {
		case failed != nil:
			err = failed
		case found.Revision == h.revision: // nobody's: the database refuses it
			err = fmt.Errorf("the document of feed %s can't be written, though nobody has changed it: %w", h.name, err)
		case now.Generation != f.Generation || now.Writer != f.Writer:
			return false, fmt.Errorf("%w to another run", ErrLost)
		default:
			v, err = found.Revision, nil
			stored = now.Write == f.Write
			if !stored && now.Lease != nil {
				sent = now.Lease.ExpiresAt.Add(-LeaseFor) // what counts is the lease that is stored
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || !stored {
		h.dirty, h.due = true, time.Now().Add(checkpointEvery)
	}
	if err != nil {
		return false, err
	}
	h.revision, h.confirmed = v, sent
	if stored {
		h.stored = f.Write
		close(h.written)
		h.written = make(chan struct{})
	}
	if !h.dirty {
		h.due = sent.Add(RenewEvery)
	}
	return stored, nil
}

// pause waits before a write is tried again; false when there's no time left.
func (h *Holder) pause(ctx context.Context) bool {
	if h.CheckLease() != nil {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(checkpointEvery):
		return true
	}
}
