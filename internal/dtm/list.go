package dtm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	// pageLife is how long the server is asked to keep a page context, the most
	// that the API allows.
	pageLife      = 10 * time.Minute
	pageLifeValue = "10m"

	maxAttempts = 5
	backoffBase = 500 * time.Millisecond
	backoffCap  = 30 * time.Second

	queryTime = "2006-01-02T15:04:05.000Z"
)

var errExpired = fmt.Errorf("the page before was received more than %v ago", pageLife)

// ask is a request for a page, with all its attempts.
type ask struct {
	query string
	size  int
	refs  bool
	alone bool
	// expires is when the page context ends. It is zero for the first page of a
	// listing, which has none and may be asked for again at will.
	expires time.Time
}

func (a ask) token() bool { return !a.expires.IsZero() }

func newAsk(q Query) ask {
	v := url.Values{
		"sort":         {"created_at"},
		"order":        {"asc"},
		"refs":         {strconv.FormatBool(q.Refs)},
		"monitor_name": {"true"},
		"life":         {pageLifeValue},
	}
	if q.Size > 0 {
		v.Set("size", strconv.Itoa(q.Size))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(queryTime))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.UTC().Format(queryTime))
	}
	q.Filter.addTo(v)
	return ask{query: v.Encode(), size: q.Size, refs: q.Refs, alone: q.Alone}
}

// List returns the pages of a listing, oldest alerts first. A page is requested
// when the consumer asks for it, and its memory is the consumer's to release.
// After an error the iteration ends. It yields every typed error of this package
// and, when ctx is done, ctx's cause.
func (s *Session) List(ctx context.Context, q Query) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		a := newAsk(q)
		for {
			page, received, err := s.fetch(ctx, a)
			if err != nil {
				yield(Page{}, err)
				return
			}
			next := page.Next
			if !yield(page, nil) || next == "" {
				return
			}
			if next == NoToken {
				yield(Page{}, &RestartError{Cause: errors.New("the next link has no usable page value")})
				return
			}
			// DTM API: nothing may accompany the page parameter.
			a.query = "page=" + url.QueryEscape(next)
			a.expires = received.Add(pageLife)
		}
	}
}

// fetch asks for one page until it has it or knows that it won't come. It also
// returns when the answer began.
func (s *Session) fetch(ctx context.Context, a ask) (Page, time.Time, error) {
	var notBefore time.Time
	var last error
	for attempt := 1; ; attempt++ {
		if err := s.pause(ctx, a, notBefore, last); err != nil {
			return Page{}, time.Time{}, err
		}
		page, received, err := s.try(ctx, a, attempt > 1)
		if err == nil {
			return page, received, nil
		}
		wait, final := s.judge(a, attempt, err)
		if final != nil {
			return Page{}, time.Time{}, final
		}
		notBefore, last = time.Now().Add(wait), err
	}
}

// judge says what follows from a failed attempt: how long to wait before the
// next one, or the error that the listing ends with.
func (s *Session) judge(a ask, attempt int, err error) (wait time.Duration, final error) {
	if over := s.over(); over != nil {
		return 0, over
	}
	var (
		answer *APIError
		lost   *NoAnswerError
		rekey  *newKeyError
	)
	switch {
	case errors.As(err, &rekey):
		if a.token() {
			// The other key may belong to another user, who has no such page context.
			return 0, &RestartError{Cause: err}
		}
	case errors.As(err, &lost):
		if a.token() {
			return 0, &RestartError{Cause: err}
		}
		wait = s.client.backoff(attempt)
	case errors.As(err, &answer) && answer.Status == http.StatusTooManyRequests:
		if answer.Code == "QuotaExceededError" {
			return 0, s.end(newQuotaError(answer))
		}
		// It says that nothing was done, so that even a token may be asked again.
		// The limits are per user: all requests wait.
		if wait = answer.RetryAfter; wait == 0 {
			wait = s.client.backoff(attempt)
		}
		s.client.gate.raise(time.Now().Add(wait), answer)
	case answer != nil && (answer.Status == http.StatusRequestTimeout || answer.Status >= 500):
		if answer.RetryAfter > 0 {
			s.client.gate.raise(time.Now().Add(answer.RetryAfter), answer)
		}
		if a.token() {
			return 0, &RestartError{Cause: err}
		}
		if wait = answer.RetryAfter; wait == 0 {
			wait = s.client.backoff(attempt)
		}
	case answer != nil && a.token():
		// What an expired token is answered with is not documented.
		return 0, &RestartError{Cause: err}
	default:
		return 0, err
	}
	if attempt == maxAttempts {
		return 0, fmt.Errorf("gave up after %d attempts: %w", maxAttempts, err)
	}
	return wait, nil
}

func newQuotaError(answer *APIError) *QuotaError {
	wait := answer.RetryAfter
	if wait == 0 {
		now := time.Now()
		wait = now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
	}
	return &QuotaError{API: answer, RetryAfter: wait}
}

// backoff is the full-jitter wait behind the nth failed attempt.
func (c *Client) backoff(attempt int) time.Duration {
	limit := min(backoffCap, backoffBase<<(attempt-1))
	return time.Duration(c.rand() * float64(limit))
}

// retryAfter reads the header of that name, seconds or a date, and returns 0
// when it is absent, past or unreadable: the caller then backs off by itself.
func retryAfter(header http.Header) time.Duration {
	const longest = 24 * time.Hour // the API's longest window
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 63); err == nil || errors.Is(err, strconv.ErrRange) {
		if seconds > uint64(longest/time.Second) {
			return longest
		}
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(text); err == nil {
		return min(longest, max(0, time.Until(date)))
	}
	return 0
}

// pause waits until a moment. When that is behind ctx's deadline or the end of
// the page context it answers at once.
func (s *Session) pause(ctx context.Context, a ask, until time.Time, cause error) error {
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
	if a.token() && !until.Before(a.expires) {
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
func (s *Session) try(ctx context.Context, a ask, retry bool) (Page, time.Time, error) {
	if !s.isProven() {
		if err := s.acquire(ctx, s.lead, 1); err != nil {
			return Page{}, time.Time{}, err
		}
		release := sync.OnceFunc(func() { s.lead.Release(1) })
		defer release()
		if s.isProven() {
			release()
		}
	}
	memory := &pageMemory{pool: s.client.memory}
	if a.alone {
		if err := s.acquire(ctx, s.client.memory, s.client.pageLimit); err != nil {
			return Page{}, time.Time{}, err
		}
		memory.held = s.client.pageLimit
	}
	got, err := s.exchange(ctx, a, memory, retry)
	if err != nil {
		memory.release()
		return Page{}, time.Time{}, err
	}
	page := Page{AskedAt: got.askedAt, release: sync.OnceFunc(memory.release)}
	if got.status != http.StatusNoContent { // which stands for an empty list
		if page.Alerts, err = decodePage(got.body); err != nil {
			memory.release()
			return Page{}, time.Time{}, &NoAnswerError{where: s.client.where(), err: err}
		}
	}
	token, found := nextPage(got.header)
	if page.Next = token; found && token == "" {
		page.Next = NoToken
	}
	s.count(func(st *Stats) { st.Pages++ })
	return page, got.receivedAt, nil
}
