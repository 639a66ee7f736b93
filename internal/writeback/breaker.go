package writeback

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// Pauses after a refused API key or a quota that is used up, each twice as long
// as the one before. A quota's own time may be a day away: it may be raised before
// that, and Pub/Sub gives a message up.
const (
	shortestPause = 30 * time.Second
	longestPause  = 10 * time.Minute
)

// PausedError says that nothing is sent to GTI for a while, since it would only
// be refused.
type PausedError struct {
	RetryAfter time.Duration
	Cause      error
}

func (e *PausedError) Error() string {
	return fmt.Sprintf("GTI is asked again in %v: %v", e.RetryAfter.Round(time.Second), e.Cause)
}

func (e *PausedError) Unwrap() error { return e.Cause }

// breaker hands out the session that all messages share. A key or a quota that
// is refused ends it for all of them at the cost of one request (dtm.Session).
type breaker struct {
	open func() Session

	mu     sync.Mutex
	opened Session   // zero: none is
	cause  error     // why there is a pause; nil: there is none
	keyID  string    // of the key that was refused, or has no quota left
	until  time.Time // the pause ends, at the latest
	length time.Duration
}

// session returns what to ask with about an alert that is, or is not, in the ledger;
// or a *PausedError. keyID names the key that there is now: the pause is only for the
// one that was refused.
func (b *breaker) session(keyID string, known bool) (API, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil {
		if left := time.Until(b.until); left > 0 && keyID == b.keyID {
			return nil, &PausedError{RetryAfter: left, Cause: b.cause}
		}
		b.cause = nil
	}
	if b.opened == (Session{}) {
		b.opened = b.open()
	}
	if known {
		return b.opened.Known, nil
	}
	return b.opened.Unknown, nil
}

// note takes note of how a request by a session and a key ended.
func (b *breaker) note(api API, keyID string, err error) {
	kind := dtm.Kind(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	if api != b.opened.Known && api != b.opened.Unknown {
		return // others have noted it before
	}
	switch {
	case kind == dtm.KeyRefused, kind == dtm.QuotaSpent:
		b.length = min(max(2*b.length, shortestPause), longestPause)
		b.opened = Session{}
		b.cause, b.keyID, b.until = err, keyID, time.Now().Add(b.length)
	case kind == dtm.Wait: // the session knows until when nothing is to be sent
	case err == nil, isOwnAnswer(err):
		b.length = 0
	case dtm.Failed(err), kind == dtm.BudgetSpent,
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	default:
		// A secret that could not be read again has ended the session as well.
		b.opened = Session{}
	}
}
