package app

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// TestStatusOfAFailedRun: what failed at GTI, what failed here, and when to come again.
func TestStatusOfAFailedRun(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		after  time.Duration
	}{
		{drain.ErrKeyMissing, 503, 0},
		{&dtm.BudgetError{What: "errors", RetryAfter: time.Minute}, 503, time.Minute},
		{&dtm.BudgetError{What: "requests"}, 503, time.Second},
		{&dtm.QuotaError{API: &dtm.APIError{Status: 429}, RetryAfter: time.Hour}, 503, time.Hour},
		{&dtm.KeyError{API: &dtm.APIError{Status: 401}}, 502, 0},
		{&dtm.APIError{Status: 500}, 502, 0},
		{&dtm.NoAnswerError{}, 502, 0},
		{&dtm.RestartError{Cause: errors.New("cut")}, 502, 0},
		{&dtm.RedirectError{}, 502, 0},
		{&dtm.PageTooLargeError{Size: 1}, 502, 0},
		{errors.New("the database is away"), 500, 0},
	} {
		status, after := statusOf(fmt.Errorf("draining: %w", c.err))
		if status != c.status || after != c.after {
			t.Errorf("%T: %d after %v, want %d after %v", c.err, status, after, c.status, c.after)
		}
	}
}
