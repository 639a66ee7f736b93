package dtm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxAttempts = 5
	backoffBase = 500 * time.Millisecond
	backoffCap  = 30 * time.Second
)

var errExpired = fmt.Errorf("the page before was received more than %v ago", pageLife)

// request is a request, with all its attempts.
type request struct {
	method string
	target url.URL
	body   []byte // JSON; nil for none
	// read takes the alerts out of the answer. Its error means that the answer
	// can't be used, as if none had come.
	read func(response) ([]Alert, error)

	size  int
	refs  bool
	alone bool
	once  bool
	last  bool // there is no smaller page to ask for
	// expires is when the page context ends. It is zero for what is no later page
	// of a listing, and may be asked again at will.
	expires time.Time
}

func (r request) token() bool { return !r.expires.IsZero() }

// changes reports whether the request changes something.
func (r request) changes() bool { return r.method == http.MethodPatch }

// isAnsweredBy reports whether an answer with this status is one to the request.
func (r request) isAnsweredBy(status int) bool {
	return status == http.StatusOK || status == http.StatusNoContent || r.changes() && status/100 == 2
}

// endpoint names what is asked, without a query.
func (r request) endpoint() string { return r.target.Host + r.target.Path }

// fetch sends a request until it has the answer or knows that none will come.
func (s *Session) fetch(ctx context.Context, req request) (response, error) {
	var notBefore time.Time
	var last error
	doubted := false // a 400 may have been a proxy's
	for attempt := 1; ; attempt++ {
		if err := s.pause(ctx, req, notBefore, last); err != nil {
			return response{}, err
		}
		got, err := s.try(ctx, req, attempt > 1)
		if err == nil {
			return got, nil
		}
		if api := (*APIError)(nil); errors.As(err, &api) && api.isDoubtful() {
			api.Repeated, doubted = doubted, true
		}
		wait, final := s.decideRetry(req, attempt, err)
		if final != nil {
			return response{}, final
		}
		notBefore, last = time.Now().Add(wait), err
	}
}

// decideRetry says what follows from a failed attempt: how long to wait before the
// next one, or the error that it ends with.
func (s *Session) decideRetry(req request, attempt int, err error) (wait time.Duration, final error) {
	if over := s.over(); over != nil {
		return 0, over
	}
	if kind := Kind(err); kind == Wait || kind == TokenSpent {
		// The request met a closed gate and was not sent. The answer in this error is
		// the one that closed the gate: taken for one of this attempt, it would close
		// the gate anew each time that somebody asks.
		return 0, err
	}
	var (
		apiErr *APIError
		lost   *NoAnswerError
		rekey  *newKeyError
		kind   ErrorKind // of the answer alone
	)
	if errors.As(err, &apiErr) {
		kind = apiErr.kind()
	}
	switch {
	case errors.As(err, &rekey):
		if req.token() {
			// The other key may belong to another user, who has no such page context.
			return 0, &RestartError{Cause: err}
		}
	case errors.As(err, &lost):
		if req.token() {
			return 0, &RestartError{Cause: err}
		}
		wait = s.client.backoff(attempt)
	case kind == Throttled:
		// A 429 says that nothing was done, so that even a token may be asked again.
		// The limits are per user: all requests wait.
		if wait = apiErr.RetryAfter; wait == 0 {
			wait = s.client.backoff(attempt)
		}
		s.client.gate.raise(s.opened, time.Now().Add(wait), apiErr)
	case kind == Interrupted, kind == Unavailable:
		if apiErr.RetryAfter > 0 {
			s.client.gate.raise(s.opened, time.Now().Add(apiErr.RetryAfter), apiErr)
		}
		if req.token() {
			return 0, &RestartError{Cause: err}
		}
		if wait = apiErr.RetryAfter; wait == 0 {
			wait = s.client.backoff(attempt)
		}
	case apiErr != nil && apiErr.isDoubtful() && !req.token() && !req.changes():
		wait = s.client.backoff(attempt)
	case apiErr != nil && req.token():
		// What an expired token is answered with is not documented.
		return 0, &RestartError{Cause: err}
	default:
		return 0, err
	}
	if (s.once || req.once) && rekey == nil {
		return 0, err
	}
	if attempt == maxAttempts {
		if rekey != nil {
			err = &KeyError{Status: rekey.apiErr.Status, API: rekey.apiErr, Replaced: true}
		}
		return 0, fmt.Errorf("gave up after %d attempts: %w", maxAttempts, err)
	}
	return wait, nil
}

func newQuotaError(apiErr *APIError) *QuotaError {
	wait := apiErr.RetryAfter
	if wait == 0 {
		now := time.Now()
		wait = now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
	}
	return &QuotaError{API: apiErr, RetryAfter: wait}
}

// backoff is the full-jitter wait after the nth failed attempt.
func (c *Client) backoff(attempt int) time.Duration {
	limit := min(backoffCap, backoffBase<<(attempt-1))
	return time.Duration(c.rand() * float64(limit))
}

var decimal = regexp.MustCompile(`^([0-9]+)(?:\.([0-9]+))?$`)

// retryAfter reads the header of that name, seconds or a date, and returns 0
// when it is absent, past or unreadable: the caller then backs off by itself. A
// part of a second, which the header has not by its definition, counts as one.
func retryAfter(header http.Header) time.Duration {
	const longest = 24 * time.Hour // the API's longest window
	text := strings.TrimSpace(header.Get("Retry-After"))
	if m := decimal.FindStringSubmatch(text); m != nil {
		seconds, err := strconv.ParseUint(m[1], 10, 32)
		if strings.Trim(m[2], "0") != "" {
			seconds++
		}
		if err != nil || seconds > uint64(longest/time.Second) {
			return longest
		}
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(text); err == nil {
		return min(longest, max(0, time.Until(date)))
	}
	return 0
}

// pause waits until a moment. When that is after ctx's deadline or the end of
// the page context it answers at once.
func (s *Session) pause(ctx context.Context, req request, until time.Time, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	wait := time.Until(until)
	if wait > 0 {
		if deadline, ok := ctx.Deadline(); ok && !until.Before(deadline) {
			return &WaitError{Wait: wait, Cause: cause}
		}
	} else {
		until, cause = time.Now(), errExpired
	}
	if req.token() && !until.Before(req.expires) {
		return &RestartError{Cause: cause}
	}
	if wait <= 0 {
		return nil
	}
	defer s.held(time.Now())
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// try makes one attempt.
func (s *Session) try(ctx context.Context, req request, retry bool) (response, error) {
	if !s.isAuthenticated() {
		if err := s.acquire(ctx, s.probe, 1); err != nil {
			return response{}, err
		}
		release := sync.OnceFunc(func() { s.probe.Release(1) })
		defer release()
		if s.isAuthenticated() {
			release()
		}
	}
	memory := &pageMemory{pool: s.client.memory}
	if req.alone {
		if err := s.acquire(ctx, s.client.memory, s.client.pageLimit); err != nil {
			return response{}, err
		}
		memory.held = s.client.pageLimit
	}
	got, err := s.exchange(ctx, req, memory, retry)
	if err == nil {
		switch got.alerts, err = req.read(got); {
		case errors.Is(err, errTangled):
			err = &PageTooLargeError{Size: req.size, Refs: req.refs, Tangled: true}
		case err != nil:
			err = &NoAnswerError{Answered: true, endpoint: req.endpoint(), err: got.explain(err)}
		}
	}
	if err != nil {
		memory.release()
		return response{}, err
	}
	got.release = sync.OnceFunc(memory.release)
	return got, nil
}
