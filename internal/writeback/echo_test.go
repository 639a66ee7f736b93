package writeback

import (
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestMatchEchoBesideItsTime: the version of a write whose answer is not known is
// looked for from a little before the write, by a clock that may be late, to two minutes after.
func TestMatchEchoBesideItsTime(t *testing.T) {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{-skew - time.Millisecond, state.FromGTI},
		{-skew, state.FromWriteback},
		{0, state.FromWriteback},
		{underWay - time.Millisecond, state.FromWriteback},
		{underWay, state.FromGTI},
	} {
		rec := state.Record{Status: "new", PublishedVersion: at.Add(-time.Hour), Echoes: []state.Echo{{At: at, Status: "closed"}}}
		if got, _ := MatchEcho(rec, dtm.Alert{Status: "closed", UpdatedAt: at.Add(c.after)}); got != c.want {
			t.Errorf("%v after the write: from %s, want %s", c.after, got, c.want)
		}
	}
}
