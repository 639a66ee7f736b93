package writeback

import (
	"slices"
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

// TestDropOldest: whatever their order, intents that are open are dropped after all
// others, and of equals the one that came first goes first.
func TestDropOldest(t *testing.T) {
	for _, seqs := range [][]int64{{1, 2, 3, 4, 5}, {5, 4, 3, 2, 1}, {3, 5, 1, 4, 2}, {2, 1, 4, 3, 5}} {
		for n, want := range map[int][]int64{5: {1, 2, 3, 4, 5}, 4: {1, 2, 4, 5}, 3: {1, 2, 4}, 2: {2, 4}, 1: {4}, 0: nil, -1: nil} {
			var list []state.Intent
			for _, seq := range seqs {
				list = append(list, state.Intent{Seq: seq, Open: seq == 1 || seq == 2 || seq == 4, Values: []string{"x"}})
			}
			byBytes := dropOldest(slices.Clone(list), 5, max(0, n))
			for limit, kept := range map[string][]state.Intent{"number": dropOldest(list, n, 1000), "bytes": byBytes} {
				var got []int64
				for _, w := range kept {
					got = append(got, w.Seq)
				}
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("of %v, bounded by %s, %d are kept: %v, want %v", seqs, limit, n, got, want)
				}
			}
		}
	}
}
