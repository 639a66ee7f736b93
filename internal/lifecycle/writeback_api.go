package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// enter waits until the message may talk to GTI.
func (t *task) enter(ctx, work context.Context) error {
	if t.in {
		return nil
	}
	if err := t.slots.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	t.in = true
	var err error
	if t.keyID, err = t.KeyID(work); err != nil {
		return err
	}
	return t.Counter.Load(work, t.keyID)
}

func (t *task) leave(ctx context.Context) {
	if !t.in {
		return
	}
	t.in = false
	defer t.slots.Release(1)
	if t.keyID != "" {
		t.Counter.Add(ctx, t.keyID)
	}
}

// get reads the alert.
func (t *task) get(ctx context.Context) (current, error) {
	api, err := t.breaker.session(t.keyID)
	if err != nil {
		return current{}, err
	}
	page, err := api.Get(ctx, t.id, false)
	t.breaker.heard(api, t.keyID, err)
	if err != nil {
		return current{}, judged(err)
	}
	defer page.Release()
	return currentOf(page.Alerts[0]), nil // without a created_at, it has all that is needed here
}

func currentOf(alert dtm.Alert) current {
	tags, all := alert.Tags()
	return current{status: alert.Status, tags: tags, all: all, version: alert.UpdatedAt}
}

var (
	errUnsent = errors.New("this process stood still before it sent the change")
	errSlow   = fmt.Errorf("GTI did not answer to the change within %v: %w", patchTime, context.DeadlineExceeded)
)

// update changes the alert, while the lease is fresh.
func (t *task) update(ctx context.Context, change dtm.Patch) (current, error) {
	api, err := t.breaker.session(t.keyID)
	if err != nil {
		return current{}, err
	}
	end := t.takenAt.Add(patchTime)
	// Round(0): on some systems a machine that was suspended goes on with a clock that
	// stood still too; the time of day did not.
	if !time.Now().Round(0).Before(end.Round(0)) {
		return current{}, errUnsent
	}
	ctx, cancel := context.WithDeadlineCause(ctx, end, errSlow)
	defer cancel()
	alert, err := api.Update(ctx, t.id, change)
	t.breaker.heard(api, t.keyID, err)
	if err != nil {
		return current{}, judged(err)
	}
	return currentOf(alert), nil
}

// isOver reports whether a change that failed can't happen any more: it was not
// sent, or GTI itself has answered. The answer of a gateway tells nothing of the API
// that it stands before, nor does a connection that broke.
func isOver(err error) bool {
	var (
		api      *dtm.APIError
		wait     *dtm.WaitError
		budget   *dtm.BudgetError
		paused   *PausedError
		redirect *dtm.RedirectError
		lost     *dtm.NoAnswerError
	)
	switch {
	case errors.As(err, &paused), errors.As(err, &wait), errors.As(err, &budget), errors.As(err, &redirect), errors.Is(err, errUnsent):
		return true
	case errors.As(err, &lost):
		return false
	case errors.As(err, &api):
		switch api.Status {
		case http.StatusRequestTimeout, http.StatusBadGateway, http.StatusGatewayTimeout:
			return false
		}
		return !api.Foreign
	}
	return false
}

// judged makes a refusal of an error that no further delivery changes.
func judged(err error) error {
	var (
		answer *dtm.APIError
		large  *dtm.PageTooLargeError
	)
	switch {
	case errors.As(err, &large):
		return refusal("the alert is too large to be read")
	case !errors.As(err, &answer) || !answer.Final():
		return err
	case answer.Status == http.StatusNotFound:
		return refusal("unknown alert")
	}
	return refusal("refused by GTI: " + answer.Error())
}
