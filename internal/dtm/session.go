package dtm

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Stats is what a session did so far.
type Stats struct {
	Requests int64 // sent, followed redirects among them
	Retries  int64 // of these, how many repeated one that failed
	Pages    int64
	Errors   int64 // answers of 400 and above
	Bytes    int64 // of bodies, unpacked
	// Throttled is the time that requests were held back, by the API or by the
	// client's own limits, added up over all workers.
	Throttled time.Duration
}

// Session is one run's view of a client. It may be used by several goroutines.
// A key or quota that the API refused ends it: every further request answers the
// same error without being sent.
type Session struct {
	client *Client
	share  Share
	once   bool
	opened time.Time

	// probe lets requests through one by one until the first good answer, so that
	// a bad key costs one error and not one for every worker.
	probe *semaphore.Weighted
	// renewing is held while the secret is read again.
	renewing *semaphore.Weighted

	*sessionState
}

// sessionState is what a session has done and learned so far.
type sessionState struct {
	mu            sync.Mutex
	stats         Stats
	authenticated bool   // the API accepted a request
	asked         bool   // the secret was read again
	key           string // what it held then
	ended         error
}

// Session returns a new session that stops at the share's budgets.
func (c *Client) Session(share Share) *Session {
	return &Session{
		client: c, share: share, opened: time.Now(), probe: semaphore.NewWeighted(1), renewing: semaphore.NewWeighted(1),
		sessionState: &sessionState{},
	}
}

// Within returns the same session with the budgets of another share: what the API
// tells one of them holds for both, and Stats counts both.
func (s *Session) Within(share Share) *Session {
	within := *s
	within.share = share
	return &within
}

// Once makes a new session send its requests once, but again after the one time
// that the secret is read again: for work that somebody else repeats. It returns
// the session itself.
func (s *Session) Once() *Session {
	s.once = true
	return s
}

// Stats returns the counts so far.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Session) count(change func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.stats)
}

// failed counts an answer of 400 or above.
func (s *Session) failed() {
	s.client.meter.failed()
	s.count(func(st *Stats) { st.Errors++ })
}

func (s *Session) held(since time.Time) {
	s.count(func(st *Stats) { st.Throttled += time.Since(since) })
}

// end makes err the answer to all further requests.
func (s *Session) end(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = err
	}
	return err
}

func (s *Session) over() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *Session) isAuthenticated() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.authenticated
}

func (s *Session) setAuthenticated() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authenticated = true
}

// acquire takes n of a semaphore and counts the time it took.
func (s *Session) acquire(ctx context.Context, sem *semaphore.Weighted, n int64) error {
	if ctx.Err() == nil && sem.TryAcquire(n) {
		return nil
	}
	defer s.held(time.Now())
	if err := sem.Acquire(ctx, n); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// currentKey returns the key to ask with, without the white space that secrets
// often end with.
func (s *Session) currentKey(ctx context.Context) (string, error) {
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	if key == "" {
		var err error
		if key, err = s.client.keys.Key(ctx); err != nil {
			return "", keyFailure(ctx, err)
		}
	}
	key = strings.TrimSpace(key)
	if key == "" || !validHeader(key) {
		return "", ErrNoKey
	}
	return key, nil
}

// refused handles a 401 or 403: it returns nil when there is now another key
// than the one that was refused. The secret is read again once for all workers.
func (s *Session) refused(ctx context.Context, key string, apiErr *APIError) error {
	if err := s.acquire(ctx, s.renewing, 1); err != nil {
		return err
	}
	defer s.renewing.Release(1)
	s.mu.Lock()
	asked, renewed := s.asked, s.key
	s.mu.Unlock()
	if !asked {
		var err error
		if renewed, err = s.client.keys.Renew(ctx, key); err != nil {
			err = keyFailure(ctx, err)
			if ctx.Err() == nil {
				return s.end(err)
			}
			return err
		}
		renewed = strings.TrimSpace(renewed)
		s.mu.Lock()
		s.asked, s.key = true, renewed
		s.mu.Unlock()
	}
	if renewed != key && renewed != "" {
		return nil
	}
	return s.end(&KeyError{Status: apiErr.Status, API: apiErr})
}

func keyFailure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("reading the API key: %w", err)
}
