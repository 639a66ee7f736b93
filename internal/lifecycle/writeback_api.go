package lifecycle

import (
	"context"
	"errors"
	"net/http"

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
	alert := page.Alerts[0] // without a created_at, it has all that is needed here
	return current{status: alert.Status, tags: alert.Tags(), version: alert.UpdatedAt}, nil
}

func (t *task) update(ctx context.Context, change dtm.Patch) (dtm.Alert, error) {
	api, err := t.breaker.session(t.keyID)
	if err != nil {
		return dtm.Alert{}, err
	}
	alert, err := api.Update(ctx, t.id, change)
	t.breaker.heard(api, t.keyID, err)
	return alert, judged(err)
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
