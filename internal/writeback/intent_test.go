package writeback

import (
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestSupersedes: a later request for a field leaves nothing of an earlier one, and
// nothing is known of a field that a later version of this program has.
func TestSupersedes(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	const unknown = "a field to come"
	for _, c := range []struct {
		later, earlier string
		supersedes     bool
	}{
		{state.IntentStatus, state.IntentStatus, true},
		{state.IntentStatus, state.IntentTags, false},
		{state.IntentTags, state.IntentTags, true},
		{state.IntentTags, state.IntentAddTag, true},
		{state.IntentAddTag, state.IntentTags, false},
		{state.IntentAddTag, state.IntentRemoveTag, true},
		{unknown, unknown, false},
		{unknown, state.IntentAddTag, false},
		{state.IntentTags, unknown, false},
		{state.IntentRemoveTag, unknown, false},
	} {
		later := state.Intent{Field: c.later, Values: []string{"x"}, At: now.Add(time.Second)}
		earlier := state.Intent{Field: c.earlier, Values: []string{"x"}, At: now}
		if supersedes(later, earlier) != c.supersedes || supersedes(earlier, later) {
			t.Errorf("%s after %s: %t", c.later, c.earlier, !c.supersedes)
		}
	}
}
