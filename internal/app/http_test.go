package app

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/strictjson"
)

// TestStatusOfAFailedRun: what failed at GTI, what failed here, and when to come again.
func TestStatusOfAFailedRun(t *testing.T) {
	refused := &dtm.APIError{Status: 429}
	for _, c := range []struct {
		err    error
		status int
		after  time.Duration
		reason string
	}{
		{drain.ErrKeyMissing, 503, 0, "key_missing"},
		{dtm.ErrNoKey, 503, 0, "key_missing"},
		{&dtm.BudgetError{What: "errors", RetryAfter: time.Minute}, 503, time.Minute, "error_budget"},
		{&dtm.BudgetError{What: "requests"}, 503, time.Second, "request_limit"},
		{&dtm.QuotaError{API: refused, RetryAfter: time.Hour}, 503, time.Hour, "request_limit"},
		{&dtm.WaitError{Wait: time.Minute, Cause: refused}, 503, time.Minute, "wait"},
		{&dtm.KeyError{API: &dtm.APIError{Status: 401}}, 502, 0, "key_refused"},
		{&dtm.APIError{Status: 500}, 502, 0, "gti"},
		{&dtm.NoAnswerError{}, 502, 0, "gti"},
		{&dtm.RestartError{Cause: errors.New("cut")}, 502, 0, "gti"},
		{&dtm.RedirectError{}, 502, 0, "gti"},
		{&dtm.PageTooLargeError{Size: 1}, 502, 0, "gti"},
		{&dtm.UndoneError{ID: "a"}, 502, 0, "gti"},
		{errors.New("the database is away"), 500, 0, "error"},
		{dtm.ErrMemory, 500, 0, "error"},
	} {
		status, after := statusOf(fmt.Errorf("draining: %w", c.err))
		if reason := drain.Reason(c.err); reason != c.reason {
			t.Errorf("%T: the reason %s, want %s", c.err, reason, c.reason)
		}
		if status != c.status || after != c.after {
			t.Errorf("%T: %d after %v, want %d after %v", c.err, status, after, c.status, c.after)
		}
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-01-02T03:04:05Z":          time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"2026-01-02t03:04:05.1239z":     time.Date(2026, 1, 2, 3, 4, 5, 123e6, time.UTC),
		"2026-01-02t03:04:05.5+01:00":   time.Date(2026, 1, 2, 2, 4, 5, 5e8, time.UTC),
		"72h":                           now.Add(-72 * time.Hour),
		"72H":                           {},
		"2026-01-02 03:04:05z":          {},
		"-1h":                           {},
		"":                              {},
		"9999-12-31t23:59:59.99+00:00Z": {},
	} {
		body := &strictjson.Object{}
		if got, ok := readMoment(body, "since", text, now); !got.Equal(want) || ok == want.IsZero() || ok != (len(body.Problems()) == 0) {
			t.Errorf("%q: %v, %t, %q", text, got, ok, body.Problems())
		}
	}
}
