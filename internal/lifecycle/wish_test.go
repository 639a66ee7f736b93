package lifecycle

import (
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestBeats: a later request for a field leaves nothing of an earlier one, and
// nothing is known of a field that a later version of this program has.
func TestBeats(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	const unknown = "a field to come"
	for _, c := range []struct {
		later, earlier string
		beats          bool
	}{
		{state.WishStatus, state.WishStatus, true},
		{state.WishStatus, state.WishTags, false},
		{state.WishTags, state.WishTags, true},
		{state.WishTags, state.WishAddTag, true},
		{state.WishAddTag, state.WishTags, false},
		{state.WishAddTag, state.WishRemoveTag, true},
		{unknown, unknown, false},
		{unknown, state.WishAddTag, false},
		{state.WishTags, unknown, false},
		{state.WishRemoveTag, unknown, false},
	} {
		later := state.Wish{Field: c.later, Values: []string{"x"}, At: now.Add(time.Second)}
		earlier := state.Wish{Field: c.earlier, Values: []string{"x"}, At: now}
		if beats(later, earlier) != c.beats || beats(earlier, later) {
			t.Errorf("%s after %s: %t", c.later, c.earlier, !c.beats)
		}
	}
}
