package ledger_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

func second(n int) time.Time { return day.Add(time.Duration(n) * time.Second) }

func tagged(seconds int, tags string) dtm.Alert {
	a := version("a", "new", seconds)
	a.Raw = []byte(`{"id":"a","tags":` + tags + `}`)
	return a
}

// TestEcho: what the relay itself wrote back is known when its echo comes, once.
func TestEcho(t *testing.T) {
	answered := state.Echo{Version: second(20), Status: "closed", Tags: []string{"a"}}
	for _, c := range []struct {
		name   string
		before []dtm.Alert // published before the echoes are recorded
		echoes []state.Echo
		open   bool        // the end of a write is not known yet
		leased bool        // it is under way
		then   []dtm.Alert // one page each
		took   []string
		left   int // echoes
	}{
		{
			name: "the version that the write-back was answered with", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{answered}, then: []dtm.Alert{version("a", "closed", 20)},
			took: []string{"a status_changed from new by writeback"},
		},
		{
			name: "a later version that brings the status", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{answered}, then: []dtm.Alert{version("a", "closed", 30)},
			took: []string{"a status_changed from new by writeback"},
		},
		{
			name: "an answer that was lost", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{At: second(19), Status: "closed"}}, then: []dtm.Alert{version("a", "closed", 20)},
			took: []string{"a status_changed from new by writeback"},
		},
		{
			name: "the echo is consumed: later the same status is somebody else's", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{answered},
			then:   []dtm.Alert{version("a", "closed", 20), version("a", "new", 30), version("a", "closed", 40)},
			took:   []string{"a status_changed from new by writeback", "a status_changed from closed", "a status_changed from new"},
		},
		{
			name: "a change to another status consumes it too", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{answered},
			then:   []dtm.Alert{version("a", "read", 25), version("a", "closed", 30)},
			took:   []string{"a status_changed from new", "a status_changed from read"},
		},
		{
			name: "a version from before the write-back leaves the echo", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{answered},
			then:   []dtm.Alert{version("a", "read", 10), version("a", "closed", 20)},
			took:   []string{"a status_changed from new", "a status_changed from read by writeback"},
		},
		{
			name: "news from GTI while it is written leaves the echo", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{At: second(19), Status: "closed"}}, open: true,
			then: []dtm.Alert{version("a", "new", 10), version("a", "closed", 20)},
			took: []string{"a updated", "a status_changed from new by writeback"},
		},
		{
			name: "two write-backs, of which the older version is listed first", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(10), Status: "in_progress"}, answered},
			then:   []dtm.Alert{version("a", "in_progress", 10), version("a", "closed", 20)},
			took:   []string{"a status_changed from new by writeback", "a status_changed from in_progress by writeback"},
		},
		{
			name: "two write-backs, of which only the later one is seen", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(10), Status: "in_progress"}, answered},
			then:   []dtm.Alert{version("a", "closed", 20), version("a", "in_progress", 30)},
			took:   []string{"a status_changed from new by writeback", "a status_changed from closed"},
		},
		{
			name: "tags alone", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(20), Tags: []string{"x"}}}, then: []dtm.Alert{tagged(20, `["x"]`)},
			took: []string{"a updated by writeback"},
		},
		{
			name: "another status while it is written leaves the echo", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{At: second(19), Status: "closed"}}, open: true,
			then: []dtm.Alert{version("a", "read", 10), version("a", "closed", 20)},
			took: []string{"a status_changed from new", "a status_changed from read by writeback"},
		},
		{
			name: "of two write-backs only the last one's status counts", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(10), Status: "in_progress"}, answered},
			then:   []dtm.Alert{version("a", "in_progress", 30)},
			took:   []string{"a status_changed from new"},
		},
		{
			name: "two processes write the same: two versions, two echoes", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(10), Tags: []string{"x"}}, {At: second(19), Tags: []string{"x"}}}, open: true,
			then: []dtm.Alert{tagged(10, `["x"]`), tagged(20, `["x"]`)},
			took: []string{"a updated by writeback", "a updated by writeback"},
		},
		{
			name: "somebody does the same while it is written", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{At: second(19), Status: "closed"}}, open: true, leased: true,
			then: []dtm.Alert{version("a", "closed", 19), version("a", "closed", 20)},
			took: []string{"a status_changed from new by writeback", "a updated by writeback"}, left: 1,
		},
		{
			name: "tags alone, and the answer was lost", before: []dtm.Alert{version("a", "new", 0)}, open: true,
			echoes: []state.Echo{{At: second(19), Tags: []string{"x", "y"}}},
			then:   []dtm.Alert{tagged(10, `["x"]`), tagged(20, `["y","x"]`)},
			took:   []string{"a updated", "a updated by writeback"},
		},
		{
			name: "tags alone, hidden by news from GTI", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(20), Tags: []string{"x"}}},
			then:   []dtm.Alert{tagged(30, `["x"]`)},
			took:   []string{"a updated"},
		},
		{
			name: "before the alert's own first publication", echoes: []state.Echo{answered},
			then: []dtm.Alert{version("a", "closed", 20)}, took: []string{"a created by writeback"},
		},
		{
			name: "first published in a version from before", echoes: []state.Echo{answered},
			then: []dtm.Alert{version("a", "new", 10), version("a", "closed", 20)},
			took: []string{"a created", "a status_changed from new by writeback"},
		},
		{
			name: "still to come", before: []dtm.Alert{version("a", "new", 0)}, echoes: []state.Echo{answered},
			then: []dtm.Alert{version("a", "new", 5)}, took: []string{"a updated"}, left: 1,
		},
		{
			name: "answered with a version that lies ahead", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(5 * dayLong), At: second(19), Status: "closed"}},
			then:   []dtm.Alert{ahead("a", "closed", 5), version("a", "read", 30), version("a", "closed", 40)},
			took:   []string{"a status_changed from new by writeback", "a status_changed from closed", "a status_changed from read"},
		},
		{
			name: "one that lies ahead is hidden by a later one with the right time", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(5 * dayLong), At: second(19), Status: "closed"}},
			then:   []dtm.Alert{version("a", "closed", 30)}, took: []string{"a status_changed from new by writeback"},
		},
		{
			name: "one that lies ahead is consumed by a change to another status", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(5 * dayLong), At: second(19), Status: "closed"}},
			then:   []dtm.Alert{version("a", "read", 30), version("a", "closed", 40)},
			took:   []string{"a status_changed from new", "a status_changed from read"},
		},
		{
			name: "one that lies ahead is still to come", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(5 * dayLong), At: second(19), Status: "closed"}},
			then:   []dtm.Alert{version("a", "read", 10)}, took: []string{"a status_changed from new"}, left: 1,
		},
		{
			name: "of two, the one that lies ahead was written first", before: []dtm.Alert{version("a", "new", 0)},
			echoes: []state.Echo{{Version: second(20), At: second(19), Status: "closed"}, {Version: second(5 * dayLong), At: second(9), Status: "in_progress"}},
			then:   []dtm.Alert{version("a", "closed", 30)}, took: []string{"a status_changed from new by writeback"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			processor, book, topic := newProcessor()
			handle := func(a dtm.Alert) {
				t.Helper()
				if _, err := processor.Process(t.Context(), []dtm.Alert{a}, all); err != nil {
					t.Fatal(err)
				}
			}
			for _, a := range c.before {
				handle(a)
			}
			topic.took = nil
			e := book.records["a"]
			e.Record.ID, e.Record.Echoes = "a", slices.Clone(c.echoes)
			for i, echo := range c.echoes {
				if echo.At.IsZero() {
					e.Record.Echoes[i].At = echo.Version
				}
			}
			if c.leased {
				e.Record.WriteLease = &state.Lease{Owner: "x", ExpiresAt: second(49)}
			}
			if c.open {
				e.Record.Intents = []state.Intent{{Field: state.IntentStatus, Open: true}}
			}
			book.put(e)
			for _, a := range c.then {
				handle(a)
			}
			if diff := cmp.Diff(c.took, topic.took); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
			rec := book.records["a"].Record
			if len(rec.Echoes) != c.left {
				t.Errorf("echoes left: %+v", rec.Echoes)
			}
			// The timeline tells the same.
			for i, text := range topic.took {
				want := state.FromGTI
				if last := len(text) - len("by writeback"); last > 0 && text[last:] == "by writeback" {
					want = state.FromWriteback
				}
				at := c.then[i].UpdatedAt
				for _, s := range rec.Statuses {
					if s.At.Equal(at) && s.Origin != want {
						t.Errorf("%s is from %s in the timeline", text, s.Origin)
					}
				}
			}
		})
	}
}

// TestRepublishedOrigin: a version that is published once more comes from where it
// came from, though its echo is consumed.
func TestRepublishedOrigin(t *testing.T) {
	processor, book, topic := newProcessor()
	handle := func(a dtm.Alert) {
		t.Helper()
		if _, err := processor.Process(t.Context(), []dtm.Alert{a}, all); err != nil {
			t.Fatal(err)
		}
	}
	handle(version("a", "new", 0))
	e := book.records["a"]
	e.Record.Echoes = []state.Echo{{Version: second(20), Status: "closed"}}
	book.put(e)
	handle(version("a", "closed", 20))
	handle(version("b", "new", 0))
	topic.took = nil
	processor.BackfillID, processor.Mode = "b-1", ledger.Republish
	handle(version("a", "closed", 20))
	handle(version("b", "new", 0))
	if diff := cmp.Diff([]string{"a created by writeback", "b created"}, topic.took); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
}

// TestMatches: what the ledger has no version of is only published where that is
// wanted.
func TestMatches(t *testing.T) {
	processor, book, topic := newProcessor()
	topic.refuse = "refused"
	if _, err := processor.Process(t.Context(), []dtm.Alert{version("known", "new", 0), version("refused", "new", 0)}, all); err != nil {
		t.Fatal(err)
	}
	topic.took, topic.refuse = nil, ""
	book.put(state.Entry{Record: state.Record{ID: "asked", Intents: []state.Intent{{Field: state.IntentStatus}}}, Revision: book.records["asked"].Revision})
	processor.Mode, processor.IsFeeds = ledger.Matches, func(a dtm.Alert) bool { return a.ID == "welcome" }
	counts, err := processor.Process(t.Context(), []dtm.Alert{
		version("known", "read", 1), version("unknown", "new", 0), version("welcome", "new", 0), version("asked", "new", 0),
		version("refused", "read", 1), element("1"),
	}, all)
	if err != nil {
		t.Fatal(err)
	}
	want := ledger.Counts{Handled: 6, Created: 2, StatusChanged: 1, LeftAlone: 3}
	if diff := cmp.Diff(want, counts, anyOldest); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"known status_changed from new", "welcome created", "refused created"}, topic.took); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	if len(topic.rejected) != 1 { // the refused one, once
		t.Errorf("rejected %v", topic.rejected)
	}
}

// TestOldest is the created_at of the oldest published alert without a trace.
func TestOldest(t *testing.T) {
	processor, _, _ := newProcessor()
	early, late, known := version("early", "new", 0), version("late", "new", 0), version("known", "new", 0)
	early.CreatedAt, late.CreatedAt, known.CreatedAt = second(-9), second(-5), second(-90)
	if _, err := processor.Process(t.Context(), []dtm.Alert{known}, all); err != nil {
		t.Fatal(err)
	}
	known.UpdatedAt = second(5)
	counts, err := processor.Process(t.Context(), []dtm.Alert{late, early, known}, all)
	if err != nil || !counts.Oldest.Equal(early.CreatedAt) {
		t.Errorf("%s %v, want %s", counts.Oldest, err, early.CreatedAt)
	}
}
