package main

import (
	"errors"
	"strings"
	"testing"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestBackfillEnded: what has written alerts and is not done is a part.
func TestBackfillEnded(t *testing.T) {
	for _, c := range []struct {
		state   string
		fetched int64
		written int
		why     string
		code    int
		says    string
	}{
		{state.Done, 5, 5, "", 0, ""},
		{state.Failed, 0, 0, "", exitFailed, "backfill b failed: "},
		{state.Failed, 5, 5, "", exitPartial, "stopped after 5 alerts: backfill b failed: "},
		{state.Cancelled, 5, 1, "", exitPartial, "stopped after 1 alert: backfill b was cancelled"},
		{state.Running, 5, 0, "", exitPartial, "it is not finished; "},
		{state.Pending, 0, 5, "", exitPartial, "it is not finished; "},
		{state.Pending, 0, 0, "", exitFailed, "it is not begun; "},
		{state.Running, 5, 5, "GTI answered\n501", exitPartial, "it is not finished: GTI answered 501; the same command goes on with it"},
		{state.Pending, 0, 0, "another run is at work", exitFailed, "it is not begun: another run is at work; the same command goes on with it"},
	} {
		err := new(backfillStartCmd).ended(backfillRecord{ID: "b", State: c.state, Fetched: c.fetched, Error: c.why}, c.written)
		code := exitFailed
		switch {
		case err == nil:
			code = 0
		case errors.As(err, new(partialError)):
			code = exitPartial
		}
		if code != c.code || err != nil && !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("%+v: %d, %v", c, code, err)
		}
	}
}
