package writeback

import (
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestRecoverVersion: an earlier delivery's write is taken for done only by the echo that
// it left, which the alert shows soon enough.
func TestRecoverVersion(t *testing.T) {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	mine := state.Intent{Field: state.IntentStatus, Values: []string{"closed"}, Seq: 2, Open: true}
	echo := state.Echo{At: at, Seq: 2, Status: "closed", Tags: []string{"x"}}
	shown := current{status: "closed", tags: []string{"X"}, all: true, version: at.Add(time.Second)}
	for _, c := range []struct {
		name    string
		change  func(e *state.Echo, alert *current)
		begun   bool
		written bool
		want    bool
	}{
		{"it shows", func(*state.Echo, *current) {}, true, false, true},
		{"at the last moment", func(_ *state.Echo, a *current) { a.version = at.Add(underWay - time.Millisecond) }, true, false, true},
		{"too late", func(_ *state.Echo, a *current) { a.version = at.Add(underWay) }, true, false, false},
		{"the echo's version is known", func(e *state.Echo, _ *current) { e.Version = at }, true, false, false},
		{"another message's echo", func(e *state.Echo, _ *current) { e.Seq = 1 }, true, false, false},
		{"another status", func(_ *state.Echo, a *current) { a.status = "read" }, true, false, false},
		{"other tags", func(_ *state.Echo, a *current) { a.tags = nil }, true, false, false},
		{"no tags were written", func(e *state.Echo, a *current) { e.Tags, a.tags = nil, nil }, true, false, true},
		{"no status was written", func(e *state.Echo, a *current) { e.Status, a.status = "", "read" }, true, false, true},
		{"it was not begun", func(*state.Echo, *current) {}, false, false, false},
		{"this delivery has written", func(*state.Echo, *current) {}, true, true, false},
	} {
		e, alert := echo, shown
		c.change(&e, &alert)
		rec := state.Record{Echoes: []state.Echo{e}}
		if c.begun {
			rec.Intents = []state.Intent{mine}
		}
		d := &delivery{written: c.written}
		d.recoverVersion(rec, plan{mine: []state.Intent{mine}}, alert)
		if got := len(d.confirmations) == 1 && d.confirmations[0].version.Equal(alert.version); got != c.want {
			t.Errorf("%s: recovered %+v", c.name, d.confirmations)
		}
	}
}
