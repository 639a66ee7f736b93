package dtm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKind has every error of the package, with what follows from it.
func TestKind(t *testing.T) {
	answer := func(status int, code string) *APIError { return &APIError{Status: status, Code: code} }
	foreign := func(status int) *APIError { return &APIError{Status: status, Foreign: true} }
	lost := &NoAnswerError{endpoint: "gti.example", err: context.DeadlineExceeded}
	unread := &NoAnswerError{Answered: true, endpoint: "gti.example", err: errInvalid}
	throttled := &APIError{Status: 429, RetryAfter: 2 * time.Second}
	for _, tc := range []struct {
		err    error
		want   ErrorKind
		failed bool
		after  time.Duration
	}{
		{nil, Unknown, false, 0},
		{errors.New("a database"), Unknown, false, 0},
		{context.DeadlineExceeded, Unknown, false, 0},
		{&newKeyError{answer(401, "")}, Unknown, false, 0},

		{&WaitError{Wait: 3 * time.Second, Cause: throttled}, Wait, false, 3 * time.Second},
		{&WaitError{Wait: time.Second, Cause: lost}, Wait, false, time.Second},
		{&RestartError{Cause: &WaitError{Wait: time.Second, Cause: answer(503, "")}}, Wait, false, time.Second},
		{ErrNoKey, NoKey, false, 0},
		{&KeyError{Status: 401, API: answer(401, "WrongCredentialsError")}, KeyRefused, false, 0},
		{&KeyError{Status: 403, API: foreign(403)}, KeyRefused, false, 0},
		{&BudgetError{What: budgetErrors, RetryAfter: time.Hour}, BudgetSpent, false, time.Hour},
		{&BudgetError{What: budgetRequests, RetryAfter: time.Hour}, BudgetSpent, false, time.Hour},
		{&QuotaError{API: throttled, RetryAfter: time.Minute}, QuotaSpent, false, time.Minute},

		{&RestartError{Cause: errExpired}, TokenSpent, true, 0},
		{&RestartError{Cause: lost}, TokenSpent, true, 0},
		{&RestartError{Cause: answer(400, "")}, TokenSpent, true, 0},
		{&RestartError{Cause: answer(404, "")}, TokenSpent, true, 0},
		{&RestartError{Cause: throttled}, TokenSpent, true, 2 * time.Second},
		{&RestartError{Cause: &newKeyError{answer(401, "")}}, TokenSpent, true, 0},
		{ErrMemory, NoMemory, false, 0},
		{&PageTooLargeError{Size: 25}, PageTooLarge, true, 0},
		{&PageTooLargeError{Size: 25, Tangled: true}, PageTooLarge, true, 0},
		{&RedirectError{Status: 301}, Redirected, true, 0},
		{&UndoneError{ID: "a"}, Undone, true, 0},
		{lost, NoAnswer, true, 0},
		{unread, Unreadable, true, 0},

		{throttled, Throttled, true, 2 * time.Second},
		{foreign(429), Throttled, true, 0},
		{answer(408, ""), Interrupted, true, 0},
		{answer(502, ""), Interrupted, true, 0},
		{foreign(502), Interrupted, true, 0},
		{answer(504, ""), Interrupted, true, 0},
		{answer(500, ""), Unavailable, true, 0},
		{answer(501, ""), Unavailable, true, 0},
		{answer(503, ""), Unavailable, true, 0},
		{foreign(503), Unavailable, true, 0},
		{answer(999, ""), Unavailable, true, 0},
		{answer(404, ""), NotFound, true, 0},
		{answer(404, "NotFoundError"), NotFound, true, 0},
		{answer(404, "TransientError"), Refused, true, 0},
		{foreign(404), Refused, true, 0},
		{answer(400, ""), BadRequest, true, 0},
		{answer(400, "InvalidArgumentError"), BadRequest, true, 0},
		{answer(400, "NotAvailableYet"), Refused, true, 0},
		{foreign(400), Refused, true, 0},
		{answer(422, ""), Unprocessable, true, 0},
		{foreign(422), Refused, true, 0},
		{answer(401, ""), Refused, true, 0},
		{answer(403, ""), Refused, true, 0},
		{answer(409, ""), Refused, true, 0},
		{answer(425, ""), Refused, true, 0},
		{answer(499, ""), Refused, true, 0},
	} {
		other := errors.New("the lease is lost")
		for form, err := range map[string]error{
			"bare": tc.err, "wrapped": fmt.Errorf("gave up: %w", tc.err), "joined": errors.Join(other, tc.err), "joined first": errors.Join(tc.err, other),
		} {
			if got := Kind(err); got != tc.want {
				t.Errorf("%v, %s: %s, want %s", tc.err, form, got, tc.want)
			}
			if got := Failed(err); got != tc.failed {
				t.Errorf("%v, %s: failed %t", tc.err, form, got)
			}
			if got := RetryAfter(err); got != tc.after {
				t.Errorf("%v, %s: again after %v, want %v", tc.err, form, got, tc.after)
			}
			final := slices.Contains([]ErrorKind{NotFound, BadRequest, Unprocessable}, tc.want)
			if got := Kind(err).Final(); got != final {
				t.Errorf("%v, %s: final %t", tc.err, form, got)
			}
		}
	}
}

// TestKindOfJoined: the kinds have an order, whichever way errors were joined.
func TestKindOfJoined(t *testing.T) {
	order := []error{
		&WaitError{Cause: errRate}, ErrNoKey, &KeyError{API: &APIError{Status: 401}}, &BudgetError{}, &QuotaError{API: &APIError{Status: 429}},
		&RestartError{Cause: errExpired}, ErrMemory, &PageTooLargeError{}, &RedirectError{}, &UndoneError{},
		&NoAnswerError{err: errInvalid}, &APIError{Status: 503},
	}
	for i, first := range order {
		for _, second := range order[i+1:] {
			want := Kind(first)
			if a, b := Kind(errors.Join(first, second)), Kind(errors.Join(second, first)); a != want || b != want {
				t.Errorf("%v and %v: %s and %s, want %s", first, second, a, b, want)
			}
		}
	}
}

func TestShorten(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "",
		strings.Repeat("a", 100):               strings.Repeat("a", 100),
		strings.Repeat("a", 101):               strings.Repeat("a", 100) + "…",
		strings.Repeat("a", 99) + "ü":          strings.Repeat("a", 99) + "…",
		strings.Repeat("a", 98) + "ü" + "bbbb": strings.Repeat("a", 98) + "ü…",
	} {
		if got := Shorten(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
