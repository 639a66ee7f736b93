package app

import (
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestExpectedEnd: what something stops has no end that could be expected.
func TestExpectedEnd(t *testing.T) {
	since := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	now := since.Add(48 * time.Hour)
	half := state.Backfill{
		State: state.Running, Since: since, Until: since.Add(time.Hour), WorkedFor: time.Minute,
		Slices: []state.Slice{{From: since, To: since.Add(time.Hour), DoneUntil: since.Add(30 * time.Minute)}},
	}
	if end := show(half, now).ExpectedEnd; end == nil || !end.Equal(now.Add(time.Minute)) {
		t.Errorf("half of it took a minute, and it is expected to end at %v", end)
	}
	half.Error = "the day's requests are used up"
	if end := show(half, now).ExpectedEnd; end != nil {
		t.Errorf("it is stopped, and expected to end at %v", end)
	}
}
