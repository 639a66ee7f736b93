package ledger_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const dayLong = 24 * 60 * 60

// ahead is an alert in a version whose updated_at lies so many days after its
// creation, which is today.
func ahead(id, status string, days int) dtm.Alert {
	a := version(id, status, days*dayLong)
	a.Ahead = true
	return a
}

// TestAhead: a version whose time lies ahead is published once, and hides none of
// those that come with the right time.
func TestAhead(t *testing.T) {
	past := ahead("a", "read", 5) // the same version, when its time has come
	past.Ahead = false
	for _, c := range []struct {
		name   string
		pages  [][]dtm.Alert
		refuse string
		counts ledger.Counts // of the last page
		took   []string
	}{
		{
			name:   "what comes after it is newer",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}, {ahead("a", "read", 5)}, {version("a", "closed", 9)}},
			counts: ledger.Counts{Handled: 1, StatusChanged: 1},
			took:   []string{"a created", "a status_changed from new", "a status_changed from read"},
		},
		{
			name:   "with the same status",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}, {ahead("a", "new", 5)}, {version("a", "new", 9)}, {version("a", "new", 9)}},
			counts: ledger.Counts{Handled: 1, Suppressed: 1},
			took:   []string{"a created", "a updated", "a updated"},
		},
		{
			name:   "listed again",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}, {ahead("a", "read", 5)}, {ahead("a", "read", 5)}},
			counts: ledger.Counts{Handled: 1, Suppressed: 1},
			took:   []string{"a created", "a status_changed from new"},
		},
		{
			name:   "listed again when its time has come",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}, {ahead("a", "read", 5)}, {past}},
			counts: ledger.Counts{Handled: 1, Suppressed: 1},
			took:   []string{"a created", "a status_changed from new"},
		},
		{
			name:   "the first version of all",
			pages:  [][]dtm.Alert{{ahead("a", "new", 5)}, {ahead("a", "new", 5)}, {version("a", "read", 0)}},
			counts: ledger.Counts{Handled: 1, StatusChanged: 1},
			took:   []string{"a created", "a status_changed from new"},
		},
		{
			name:   "another one that is less far ahead",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}, {ahead("a", "new", 5)}, {ahead("a", "read", 3)}},
			counts: ledger.Counts{Handled: 1, StatusChanged: 1},
			took:   []string{"a created", "a updated", "a status_changed from new"},
		},
		{
			name:   "passed by the right time",
			pages:  [][]dtm.Alert{{ahead("a", "read", 5)}, {version("a", "closed", 6*dayLong)}, {past}},
			counts: ledger.Counts{Handled: 1, Superseded: 1},
			took:   []string{"a created", "a status_changed from read"},
		},
		{
			name:   "of two versions in one page the one with the right time is sent",
			pages:  [][]dtm.Alert{{version("a", "new", 0), version("b", "new", 0)}, {ahead("a", "new", 5), version("a", "closed", 9), version("b", "closed", 9), ahead("b", "new", 5)}},
			counts: ledger.Counts{Handled: 4, StatusChanged: 2, Superseded: 2},
			took:   []string{"a created", "b created", "a status_changed from new", "b status_changed from new"},
		},
		{
			name:   "also when it has been published, and its time has come",
			pages:  [][]dtm.Alert{{ahead("a", "read", 5)}, {past, version("a", "closed", 9)}},
			counts: ledger.Counts{Handled: 2, StatusChanged: 1, Superseded: 1},
			took:   []string{"a created", "a status_changed from read"},
		},
		{
			name:   "two in one page that are both ahead",
			pages:  [][]dtm.Alert{{ahead("a", "new", 3), ahead("a", "read", 5), ahead("a", "read", 5)}},
			counts: ledger.Counts{Handled: 3, Created: 1, Superseded: 1, Suppressed: 1},
			took:   []string{"a created"},
		},
		{
			name:  "rejected, and not again",
			pages: [][]dtm.Alert{{ahead("a", "new", 5)}, {ahead("a", "new", 5)}}, refuse: "a",
			counts: ledger.Counts{Handled: 1, Suppressed: 1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			processor, _, topic := newProcessor()
			topic.refuse = c.refuse
			var counts ledger.Counts
			for _, page := range c.pages {
				var err error
				if counts, err = processor.Process(t.Context(), page, all); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(c.counts, counts, anyOldest); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.took, topic.took); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAheadThatWasRejected leaves the alert unknown: what comes next is its first
// message.
func TestAheadThatWasRejected(t *testing.T) {
	processor, _, topic := newProcessor()
	handle := func(a dtm.Alert) {
		t.Helper()
		if _, err := processor.Process(t.Context(), []dtm.Alert{a}, all); err != nil {
			t.Fatal(err)
		}
	}
	topic.refuse = "a"
	handle(ahead("a", "new", 5))
	topic.refuse = ""
	processor.Mode = ledger.Changes
	handle(version("a", "new", 0))
	if diff := cmp.Diff([]string{"a created"}, topic.took); diff != "" || len(topic.rejected) != 1 {
		t.Errorf("rejected %v, published (-want +got):\n%s", topic.rejected, diff)
	}
}

// TestAheadIsFoundAmongManyVersions: a record keeps the latest, and a listing
// shows the current one.
func TestAheadIsFoundAmongManyVersions(t *testing.T) {
	processor, _, topic := newProcessor()
	for i := range 130 {
		if _, err := processor.Process(t.Context(), []dtm.Alert{version("a", "new", i)}, all); err != nil {
			t.Fatal(err)
		}
	}
	topic.took = nil
	for range 3 {
		if _, err := processor.Process(t.Context(), []dtm.Alert{ahead("a", "new", 5)}, all); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"a updated"}, topic.took); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
}

// TestRecordOfAnAheadVersion: it is in the timeline, and moves neither of the two
// versions that others are compared with.
func TestRecordOfAnAheadVersion(t *testing.T) {
	far := second(5 * dayLong)
	for _, c := range []struct {
		name   string
		before []dtm.Alert
		refuse string
		want   state.Record
	}{
		{
			name: "the first version of all",
			want: state.Record{
				PublishedVersion: day.Add(-time.Millisecond), HandledVersion: day.Add(-time.Millisecond), Status: "read",
				Statuses: []state.StatusChange{{Status: "read", At: far, Origin: state.FromGTI}},
				Versions: []state.AlertVersion{{UpdatedAt: far, RunID: "run-1", Event: "created", Outcome: state.Published}},
			},
		},
		{
			name: "rejected", refuse: "a",
			want: state.Record{
				HandledVersion: day.Add(-time.Millisecond),
				Versions:       []state.AlertVersion{{UpdatedAt: far, RunID: "run-1", Outcome: state.Rejected, Reason: "refused"}},
			},
		},
		{
			name: "a later version", before: []dtm.Alert{version("a", "new", 3)},
			want: state.Record{
				PublishedVersion: second(3), HandledVersion: second(3), Status: "read",
				Statuses: []state.StatusChange{{Status: "new", At: second(3), Origin: state.FromGTI}, {Status: "read", At: far, Origin: state.FromGTI}},
				Versions: []state.AlertVersion{
					{UpdatedAt: second(3), RunID: "run-1", Event: "created", Outcome: state.Published},
					{UpdatedAt: far, RunID: "run-1", Event: "status_changed", Outcome: state.Published},
				},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			processor, book, topic := newProcessor()
			topic.refuse = c.refuse
			for _, a := range append(c.before, ahead("a", "read", 5)) {
				if _, err := processor.Process(t.Context(), []dtm.Alert{a}, all); err != nil {
					t.Fatal(err)
				}
			}
			c.want.ID, c.want.Type, c.want.Severity, c.want.Priority, c.want.CreatedAt = "a", "Paste", "high", "P1", day
			if diff := cmp.Diff(c.want, book.records["a"].Record,
				cmpopts.IgnoreFields(state.Record{}, "FirstSeen", "ExpireAt"), cmpopts.IgnoreFields(state.AlertVersion{}, "At")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestBackfilledAhead: a backfill knows what became of a version whose time lies
// ahead.
func TestBackfilledAhead(t *testing.T) {
	past := ahead("published", "new", 5)
	past.Ahead = false
	for _, c := range []struct {
		republish bool
		listed    dtm.Alert
		took      []string
	}{
		{false, ahead("published", "new", 5), nil},
		{false, ahead("rejected", "new", 5), []string{"rejected created"}},
		{true, ahead("published", "new", 5), []string{"published created", "published updated"}},
		{true, past, []string{"published created", "published updated"}},
	} {
		t.Run(fmt.Sprintf("%s, republish %t, ahead %t", c.listed.ID, c.republish, c.listed.Ahead), func(t *testing.T) {
			processor, _, topic := newProcessor()
			topic.refuse = "rejected"
			handle := func(a dtm.Alert) {
				t.Helper()
				if _, err := processor.Process(t.Context(), []dtm.Alert{a}, all); err != nil {
					t.Fatal(err)
				}
			}
			handle(ahead("published", "new", 5))
			handle(ahead("rejected", "new", 5))
			topic.refuse, topic.took = "", nil
			processor.BackfillID, processor.Mode = "b", ledger.Backfill
			if c.republish {
				processor.Mode = ledger.Republish
			}
			handle(c.listed)
			handle(c.listed) // once a backfill
			if c.republish {
				// It still counts for no newest one.
				handle(version("published", "new", 9))
			} else {
				processor.BackfillID = "another one"
				handle(c.listed)
			}
			if diff := cmp.Diff(c.took, topic.took); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDryRunOfAnAheadVersion(t *testing.T) {
	processor, _, _ := newProcessor()
	processor.DryRun = &ledger.DryRun{}
	for i, want := range []struct {
		alert  dtm.Alert
		counts ledger.Counts
	}{
		{ahead("a", "new", 5), ledger.Counts{Handled: 1, Created: 1}},
		{ahead("a", "new", 5), ledger.Counts{Handled: 1, Suppressed: 1}},
		{version("a", "new", 3), ledger.Counts{Handled: 1, Updated: 1}},
		{ahead("a", "new", 5), ledger.Counts{Handled: 1, Suppressed: 1}},
	} {
		counts, err := processor.Process(t.Context(), []dtm.Alert{want.alert}, all)
		if err != nil {
			t.Fatal(err)
		}
		counts.ByType, counts.BySeverity, counts.ByRule = nil, nil, nil
		if diff := cmp.Diff(want.counts, counts, anyOldest); diff != "" {
			t.Errorf("counts of page %d (-want +got):\n%s", i, diff)
		}
	}
}

// TestHydrateOfAnAheadVersion: GTI may have put its time right by the time that it
// is fetched.
func TestHydrateOfAnAheadVersion(t *testing.T) {
	processor, book, topic := newProcessor()
	processor.FetchFull = func(context.Context, string) (dtm.Page, error) {
		return dtm.Page{Alerts: []dtm.Alert{version("a", "new", 9)}}, nil
	}
	listed := ahead("a", "new", 5)
	listed.HasDoc = false
	if _, err := processor.Process(t.Context(), []dtm.Alert{listed}, all); err != nil {
		t.Fatal(err)
	}
	if r := book.records["a"].Record; len(topic.took) != 1 || topic.took[0] != "a created" || !r.PublishedVersion.Equal(second(9)) {
		t.Errorf("published %v, version %s", topic.took, r.PublishedVersion)
	}
}
