package writeback

import (
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestMatchEchoOfALaterVersion: the status that was written back makes a later version its
// echo only where it is new, and an echo that may still come stays.
func TestMatchEchoOfALaterVersion(t *testing.T) {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name      string
		published string // the status
		echo      state.Echo
		version   dtm.Alert
		want      string
		left      int
	}{
		{"it brings the status", "new", state.Echo{Version: at, At: at, Status: "closed"}, dtm.Alert{Status: "closed", UpdatedAt: at.Add(time.Hour)}, state.FromWriteback, 0},
		{"it leaves the status", "closed", state.Echo{Version: at, At: at, Status: "closed"}, dtm.Alert{Status: "closed", UpdatedAt: at.Add(time.Hour)}, state.FromGTI, 0},
		{"it is from before the write", "new", state.Echo{At: at, Status: "closed"}, dtm.Alert{Status: "read", UpdatedAt: at.Add(-time.Minute)}, state.FromGTI, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := state.Record{Status: c.published, PublishedVersion: at.Add(-time.Hour), Echoes: []state.Echo{c.echo}}
			if got, left := MatchEcho(rec, c.version); got != c.want || len(left) != c.left {
				t.Errorf("from %s with %d echoes left, want %s with %d", got, len(left), c.want, c.left)
			}
		})
	}
}

// TestMatchEchoOfALostAnswer: a write whose end nobody knows marks one version, and while
// its lease lasts any that looks like its own. What comes after that is somebody else's.
func TestMatchEchoOfALostAnswer(t *testing.T) {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	type version struct {
		status string
		after  time.Duration
		want   string
	}
	for name, versions := range map[string][]version{
		"seen after its lease":     {{"closed", time.Second, state.FromWriteback}, {"new", 40 * time.Second, state.FromGTI}, {"closed", 50 * time.Second, state.FromGTI}},
		"hidden by a later change": {{"closed", time.Hour, state.FromWriteback}, {"new", 2 * time.Hour, state.FromGTI}, {"closed", 3 * time.Hour, state.FromGTI}},
		"undone before it is seen": {{"new", 40 * time.Second, state.FromGTI}, {"closed", 50 * time.Second, state.FromGTI}},
		"taken for it":             {{"closed", time.Second, state.FromWriteback}, {"new", 2 * time.Second, state.FromGTI}, {"closed", 3 * time.Second, state.FromWriteback}},
	} {
		rec := state.Record{
			Status: "new", PublishedVersion: at.Add(-time.Hour), Echoes: []state.Echo{{At: at, Status: "closed"}},
			Intents:    []state.Intent{{Field: state.IntentStatus, Values: []string{"closed"}, Open: true}},
			WriteLease: &state.Lease{Owner: "x", ExpiresAt: at.Add(leaseTime)},
		}
		for i, v := range versions {
			var got string
			got, rec.Echoes = MatchEcho(rec, dtm.Alert{Status: v.status, UpdatedAt: at.Add(v.after)})
			if rec.Status = v.status; got != v.want {
				t.Errorf("%s: version %d is from %s, want %s", name, i+1, got, v.want)
			}
		}
	}
}

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

// TestIsStale: each version of the last minutes that the record has tells an older one, beyond
// what GTI leaves out of a second. A mark that lies far ahead tells nothing, and hides no other.
func TestIsStale(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name      string
		published time.Duration // before now
		echo      time.Duration
		version   time.Duration
		want      bool
	}{
		{"as published", time.Second, time.Hour, time.Second, false},
		{"older than what was published", time.Second, time.Hour, time.Minute, true},
		{"in whole seconds", 100 * time.Millisecond, time.Hour, time.Second, false},
		{"older than what was written back", time.Hour, time.Second, time.Minute, true},
		{"the record is of long ago", time.Hour, 2 * time.Hour, 3 * time.Hour, false},
		{"a mark far ahead", time.Second, -time.Hour, time.Minute, true},
	} {
		rec := state.Record{PublishedVersion: now.Add(-c.published), Echoes: []state.Echo{{Version: now.Add(-c.echo)}}}
		if got := isStale(now.Add(-c.version), rec); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
