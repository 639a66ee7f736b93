package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

var (
	errDown = errors.New("down")
	errLost = errors.New("lost")
)

// memory is a ledger in memory.
type memory struct {
	records   map[string]state.Entry
	conflicts int // how many bulks find that another writer was faster
	reads     int
	bulks     int
	down      error
}

func (l *memory) Records(_ context.Context, _ string, ids []string) ([]state.Entry, error) {
	l.reads++
	if l.down != nil {
		return nil, l.down
	}
	entries := make([]state.Entry, len(ids))
	for i, id := range ids {
		entries[i] = l.records[id]
		entries[i].Record.ID = id
	}
	return entries, nil
}

func (l *memory) WriteRecords(_ context.Context, _ string, entries []state.Entry) ([]error, error) {
	l.bulks++
	results := make([]error, len(entries))
	for i, e := range entries {
		if l.bulks <= l.conflicts {
			other := l.records[e.Record.ID]
			other.Record.ID, other.Record.Priority = e.Record.ID, "P4" // another writer's
			l.put(other)
		}
		if l.records[e.Record.ID].Revision != e.Revision {
			results[i] = state.ErrConflict
			continue
		}
		l.put(e)
	}
	return results, nil
}

func (l *memory) put(e state.Entry) {
	e.Revision += "1"
	l.records[e.Record.ID] = e
}

// topics remember what they took. They refuse and fail by the alert's id or the
// element's text.
type topics struct {
	took, rejected []string
	refuse, fail   string
	calls          int
}

func (p *topics) Publish(_ context.Context, messages []message.Message) []error {
	p.calls++
	results := make([]error, len(messages))
	for i, m := range messages {
		a := m.Attributes
		switch id := a["alert_id"]; id {
		case p.fail:
			results[i] = errDown
		case p.refuse:
			results[i] = fmt.Errorf("no: %w", message.ErrRefused)
		default:
			text := id + " " + a["event"]
			if a["previous_status"] != "" {
				text += " from " + a["previous_status"]
			}
			if a["truncated"] != "" {
				text += " truncated"
			}
			if a["origin"] != state.FromGTI {
				text += " by " + a["origin"]
			}
			if a["refs"] != "" {
				text += " bare"
			}
			if a["monitor_name"] != "" {
				text += " of " + a["monitor_name"]
			}
			p.took = append(p.took, text)
		}
	}
	return results
}

func (p *topics) Reject(_ context.Context, messages []message.Message) []error {
	p.calls++
	results := make([]error, len(messages))
	for i, m := range messages {
		name := m.Attributes["alert_id"]
		if name == "" {
			name = string(m.Data)
		}
		if name == p.fail {
			results[i] = errDown
			continue
		}
		p.rejected = append(p.rejected, name+": "+m.Attributes["reason"])
	}
	return results
}

var day = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// version is an alert in the version of so many seconds after its creation.
func version(id, status string, seconds int) dtm.Alert {
	return dtm.Alert{
		ID: id, Status: status, Severity: "high", Type: "Paste", Raw: []byte(`{"id":"` + id + `"}`),
		CreatedAt: day, UpdatedAt: day.Add(time.Duration(seconds) * time.Second), HasDoc: true,
	}
}

func element(text string) dtm.Alert { return dtm.Alert{Raw: []byte(text), Invalid: "not an object"} }

// large is an alert that is too large for a message, by its document or without it.
func large(id string, doc bool) dtm.Alert {
	a := version(id, "new", 0)
	name := "analysis"
	if doc {
		name = "doc"
	}
	a.Raw = []byte(`{"id":"` + id + `","` + name + `":"` + strings.Repeat("x", message.MaxSize) + `"}`)
	return a
}

func newProcessor() (*ledger.Processor, *memory, *topics) {
	l, p := &memory{records: map[string]state.Entry{}}, &topics{}
	return &ledger.Processor{
		Store: l, Publisher: p, Feed: "default", RunID: "run-1", TTL: time.Hour,
		Options: ledger.Options{CheckLease: func() error { return nil }},
	}, l, p
}

// all lets every alert be published.
var all unlimited

type unlimited struct{}

func (unlimited) Reserve(n int) int { return n }
func (unlimited) Return(int)        {}

// upTo lets so many alerts be published.
func upTo(left int) *limit { return &limit{left} }

type limit struct{ left int }

func (l *limit) Reserve(n int) int {
	n = min(n, l.left)
	l.left -= n
	return n
}

func (l *limit) Return(n int) { l.left += n }

// failing wants nothing given back.
type failing struct {
	unlimited
	t *testing.T
}

func (f failing) Return(n int) {
	if n > 0 {
		f.t.Errorf("%d places are given back", n)
	}
}

// anyOldest leaves Counts.Oldest to TestOldest.
var anyOldest = cmpopts.IgnoreFields(ledger.Counts{}, "Oldest")

// TestProcess hands page after page to a processor. The last one is looked at.
func TestProcess(t *testing.T) {
	for _, c := range []struct {
		name      string
		pages     [][]dtm.Alert
		allowance ledger.Allowance
		refuse    string
		fail      string
		counts    ledger.Counts
		took      []string
		rejected  []string
		err       error
	}{
		{name: "nothing", pages: [][]dtm.Alert{{}}},
		{
			name:   "an alert that nobody knows",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}},
			counts: ledger.Counts{Handled: 1, Created: 1},
			took:   []string{"a created"},
		},
		{
			name: "an alert that is too large to be held, and again",
			pages: [][]dtm.Alert{
				{{ID: "a", Raw: []byte("{"), Digest: &dtm.Digest{Size: 1 << 30}, CreatedAt: second(0), UpdatedAt: second(0)}},
				{{ID: "a", Raw: []byte("{"), Digest: &dtm.Digest{Size: 1 << 30}, CreatedAt: second(0), UpdatedAt: second(0)}},
			},
			counts:   ledger.Counts{Handled: 1, Suppressed: 1},
			rejected: []string{"a: too_large"},
		},
		{
			name:   "the same version again",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}, {version("a", "new", 0)}},
			counts: ledger.Counts{Handled: 1, Suppressed: 1},
			took:   []string{"a created"},
		},
		{
			name:   "a newer version",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}, {version("a", "new", 1)}},
			counts: ledger.Counts{Handled: 1, Updated: 1},
			took:   []string{"a created", "a updated"},
		},
		{
			name:   "a newer version with another status",
			pages:  [][]dtm.Alert{{version("a", "new", 0)}, {version("a", "closed", 1)}},
			counts: ledger.Counts{Handled: 1, StatusChanged: 1},
			took:   []string{"a created", "a status_changed from new"},
		},
		{
			name:   "an older version",
			pages:  [][]dtm.Alert{{version("a", "new", 5)}, {version("a", "closed", 1)}},
			counts: ledger.Counts{Handled: 1, Superseded: 1},
			took:   []string{"a created"},
		},
		{
			name:   "two versions in one page: the newer one is sent",
			pages:  [][]dtm.Alert{{version("a", "new", 0), version("a", "new", 1), version("a", "new", 1)}},
			counts: ledger.Counts{Handled: 3, Created: 1, Superseded: 1, Suppressed: 1},
			took:   []string{"a created"},
		},
		{
			name:   "two versions in one page, the newer one first",
			pages:  [][]dtm.Alert{{version("a", "new", 1), version("a", "new", 0)}},
			counts: ledger.Counts{Handled: 2, Created: 1, Superseded: 1},
			took:   []string{"a created"},
		},
		{
			name:     "an alert that the topic refuses is rejected, and not again",
			pages:    [][]dtm.Alert{{version("a", "new", 0)}, {version("a", "new", 0), version("b", "new", 0)}},
			refuse:   "a",
			counts:   ledger.Counts{Handled: 2, Suppressed: 1, Created: 1},
			took:     []string{"b created"},
			rejected: []string{"a: refused"},
		},
		{
			name:     "an alert that is too large without its document too",
			pages:    [][]dtm.Alert{{large("a", false)}},
			counts:   ledger.Counts{Handled: 1, Rejected: 1},
			rejected: []string{"a: too_large"},
		},
		{
			name:   "an alert that is too large with its document",
			pages:  [][]dtm.Alert{{large("a", true)}},
			counts: ledger.Counts{Handled: 1, Created: 1},
			took:   []string{"a created truncated bare"},
		},
		{
			name:     "elements that are no alerts, two of them alike",
			pages:    [][]dtm.Alert{{element("1"), version("a", "new", 0), element("2"), element("1")}},
			counts:   ledger.Counts{Handled: 4, Created: 1, Rejected: 2, Suppressed: 1},
			took:     []string{"a created"},
			rejected: []string{"1: unusable: not an object", "2: unusable: not an object"},
		},
		{
			name:     "an element that was rejected before",
			pages:    [][]dtm.Alert{{element("1")}, {element("1")}},
			counts:   ledger.Counts{Handled: 1, Suppressed: 1},
			rejected: []string{"1: unusable: not an object"},
		},
		{
			name:   "a message that fails: the others are recorded, and it is sent again",
			pages:  [][]dtm.Alert{{version("a", "new", 0), version("b", "new", 0), version("c", "new", 0)}},
			fail:   "b",
			counts: ledger.Counts{Handled: 3, Created: 2},
			took:   []string{"a created", "c created"},
			err:    errDown,
		},
		{
			name:     "a reject that fails: the others are recorded",
			pages:    [][]dtm.Alert{{element("1"), version("a", "new", 0), element("2")}},
			fail:     "2",
			counts:   ledger.Counts{Handled: 3, Created: 1, Rejected: 1},
			took:     []string{"a created"},
			rejected: []string{"1: unusable: not an object"},
			err:      errDown,
		},
		{
			name:      "no more may be published: the page ends before the first one too many",
			pages:     [][]dtm.Alert{{version("a", "new", 0)}, {version("a", "new", 0), version("b", "new", 0), element("1"), version("c", "new", 0), version("a", "new", 0)}},
			allowance: upTo(2),
			counts:    ledger.Counts{Handled: 3, Suppressed: 1, Created: 1, Rejected: 1},
			took:      []string{"a created", "b created"},
			rejected:  []string{"1: unusable: not an object"},
		},
		{
			name:      "what has failed may have been published, and takes its place",
			pages:     [][]dtm.Alert{{version("a", "new", 0), version("b", "new", 0)}},
			allowance: failing{t: t},
			fail:      "b",
			counts:    ledger.Counts{Handled: 2, Created: 1},
			took:      []string{"a created"},
			err:       errDown,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			processor, book, topics := newProcessor()
			topics.refuse, topics.fail = c.refuse, c.fail
			if c.allowance == nil {
				c.allowance = all
			}
			var counts ledger.Counts
			var err error
			for _, page := range c.pages {
				counts, err = processor.Process(t.Context(), page, c.allowance)
			}
			if !errors.Is(err, c.err) {
				t.Errorf("%v, want %v", err, c.err)
			}
			if c.err != nil && !strings.Contains(err.Error(), c.fail) && !strings.Contains(err.Error(), message.ElementID(dtm.Alert{Raw: []byte(c.fail)})) {
				t.Errorf("%v does not say which", err)
			}
			if diff := cmp.Diff(c.counts, counts, anyOldest); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.took, topics.took); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.rejected, topics.rejected); diff != "" {
				t.Errorf("rejected (-want +got):\n%s", diff)
			}
			// What was acknowledged is in the ledger, and nothing else is.
			handled := 0
			for _, e := range book.records {
				if !e.Record.HandledVersion.IsZero() {
					handled++
				}
			}
			names := map[string]bool{}
			for _, text := range slices.Concat(topics.took, topics.rejected) {
				name, _, _ := strings.Cut(text, " ")
				names[name] = true
			}
			if handled != len(names) {
				t.Errorf("%d records say that something was done, want %d: %v", handled, len(names), book.records)
			}
		})
	}
}

// TestRecord says what the ledger holds of an alert.
func TestRecord(t *testing.T) {
	processor, book, topics := newProcessor()
	handle := func(a dtm.Alert) {
		t.Helper()
		if _, err := processor.Process(t.Context(), []dtm.Alert{a}, all); err != nil {
			t.Fatal(err)
		}
	}
	handle(version("a", "new", 0))
	handle(version("a", "new", 1))
	topics.refuse = "a"
	handle(version("a", "closed", 2))
	topics.refuse = ""
	handle(version("a", "read", 3))

	got := book.records["a"].Record
	if got.FirstSeen.IsZero() || got.ExpireAt.Sub(got.FirstSeen) < processor.TTL {
		t.Errorf("first seen %s, kept until %s", got.FirstSeen, got.ExpireAt)
	}
	got.FirstSeen, got.ExpireAt = time.Time{}, time.Time{}
	for i := range got.Versions {
		got.Versions[i].At = time.Time{}
	}
	at := func(seconds int) time.Time { return day.Add(time.Duration(seconds) * time.Second) }
	want := state.Record{
		ID: "a", Type: "Paste", Severity: "high", Priority: "P1", Status: "read",
		CreatedAt: day, PublishedVersion: at(3), HandledVersion: at(3),
		Statuses: []state.StatusChange{
			{Status: "new", At: at(0), Origin: state.FromGTI},
			{Status: "read", At: at(3), Origin: state.FromGTI},
		},
		Versions: []state.AlertVersion{
			{UpdatedAt: at(0), RunID: "run-1", Event: "created", Outcome: state.Published},
			{UpdatedAt: at(1), RunID: "run-1", Event: "updated", Outcome: state.Published},
			{UpdatedAt: at(2), RunID: "run-1", Outcome: state.Rejected, Reason: "refused"},
			{UpdatedAt: at(3), RunID: "run-1", Event: "status_changed", Outcome: state.Published},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRecordKeepsTheFirstAndTheLatest versions of an alert that changes often.
func TestRecordKeepsTheFirstAndTheLatest(t *testing.T) {
	const versions = 130
	processor, book, _ := newProcessor()
	for i := range versions {
		if _, err := processor.Process(t.Context(), []dtm.Alert{version("a", fmt.Sprint(i), i)}, all); err != nil {
			t.Fatal(err)
		}
	}
	r := book.records["a"].Record
	if len(r.Statuses) != 100 || len(r.Versions) != 100 {
		t.Fatalf("%d statuses and %d versions, want 100", len(r.Statuses), len(r.Versions))
	}
	for i := range 50 {
		last := 100 - 50 + i
		if r.Statuses[i].Status != fmt.Sprint(i) || r.Statuses[last].Status != fmt.Sprint(versions-50+i) {
			t.Fatalf("status %d is %s, status %d is %s", i, r.Statuses[i].Status, last, r.Statuses[last].Status)
		}
	}
}

// TestRecordOfHugeFields: a database that refused the record would stop the feed
// at that alert, and a status that was cut is still the same status.
func TestRecordOfHugeFields(t *testing.T) {
	processor, book, topic := newProcessor()
	huge := strings.Repeat("ä", 1<<20)
	a := version("a", huge, 0)
	a.Type, a.Severity, a.MonitorID = huge, huge, huge
	if _, err := processor.Process(t.Context(), []dtm.Alert{a}, all); err != nil {
		t.Fatal(err)
	}
	r := book.records["a"].Record
	for name, v := range map[string]string{
		"type": r.Type, "severity": r.Severity, "monitor": r.MonitorID, "status": r.Status, "first status": r.Statuses[0].Status,
	} {
		if v == "" || len(v) > 1024 {
			t.Errorf("%s is recorded with %d bytes, want 1 to 1024", name, len(v))
		}
	}
	if _, err := processor.Process(t.Context(), []dtm.Alert{version("a", huge, 5)}, all); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a created", "a updated"}; !cmp.Equal(topic.took, want) {
		t.Errorf("published %v, want %v", topic.took, want)
	}
}

// TestRecordMerges: other writers of a record never end a run.
func TestRecordMerges(t *testing.T) {
	for _, c := range []struct {
		conflicts int
		recorded  bool
	}{{0, true}, {1, true}, {4, true}, {5, false}} {
		t.Run(fmt.Sprintf("%d faster writers", c.conflicts), func(t *testing.T) {
			processor, book, topics := newProcessor()
			book.conflicts = c.conflicts
			counts, err := processor.Process(t.Context(), []dtm.Alert{version("a", "new", 0), version("b", "new", 0)}, all)
			if err != nil || counts.Created != 2 || len(topics.took) != 2 {
				t.Fatalf("%+v %v", counts, err)
			}
			for _, id := range []string{"a", "b"} {
				r := book.records[id].Record
				if recorded := r.Known(); recorded != c.recorded {
					t.Errorf("%s recorded: %t", id, recorded)
				}
				if c.recorded && len(r.Versions) != 1 {
					t.Errorf("%d versions of %s", len(r.Versions), id)
				}
			}
		})
	}
}

// newer is a ledger in which another holder has published a newer version by the
// time that ours is written.
type newer struct{ *memory }

func (n newer) WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error) {
	if n.bulks == 0 {
		other := entries[0]
		other.Record.PublishedVersion, other.Record.HandledVersion = day.Add(time.Hour), day.Add(time.Hour)
		other.Record.Status = "closed"
		n.put(other)
	}
	return n.memory.WriteRecords(ctx, feed, entries)
}

func TestPublishedVersionNeverGoesBack(t *testing.T) {
	processor, book, _ := newProcessor()
	processor.Store = newer{book}
	if _, err := processor.Process(t.Context(), []dtm.Alert{version("a", "new", 0)}, all); err != nil {
		t.Fatal(err)
	}
	r := book.records["a"].Record
	if want := day.Add(time.Hour); !r.PublishedVersion.Equal(want) || !r.HandledVersion.Equal(want) || r.Status != "closed" {
		t.Errorf("published %s, handled %s, status %s", r.PublishedVersion, r.HandledVersion, r.Status)
	}
}

// TestProcessStops where it can't go on, and says what was done until then.
func TestProcessStops(t *testing.T) {
	page := []dtm.Alert{version("a", "new", 0), element("1")}
	t.Run("the ledger can't be read", func(t *testing.T) {
		processor, book, topics := newProcessor()
		book.down = errDown
		if _, err := processor.Process(t.Context(), page, all); !errors.Is(err, errDown) || topics.calls > 0 {
			t.Errorf("%v, %d calls", err, topics.calls)
		}
	})
	// CheckLease is asked before publishing, before rejecting, and before recording.
	for allowed, want := range []struct {
		took, rejected int
		counts         ledger.Counts
	}{
		{0, 0, ledger.Counts{Handled: 2}},
		{1, 0, ledger.Counts{Handled: 2, Created: 1}},
		{1, 1, ledger.Counts{Handled: 2, Created: 1, Rejected: 1}},
	} {
		t.Run(fmt.Sprintf("the lease is lost after %d looks at it", allowed), func(t *testing.T) {
			processor, book, topics := newProcessor()
			asked := 0
			processor.CheckLease = func() error {
				if asked++; asked > allowed {
					return errLost
				}
				return nil
			}
			counts, err := processor.Process(t.Context(), page, all)
			if !errors.Is(err, errLost) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(want.counts, counts, anyOldest); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if len(topics.took) != want.took || len(topics.rejected) != want.rejected || book.bulks > 0 {
				t.Errorf("published %v, rejected %v, %d writes to the ledger", topics.took, topics.rejected, book.bulks)
			}
		})
	}
}

// answerLost is a ledger whose first answer to a write is lost. The client repeats the
// write, and finds that somebody was faster.
type answerLost struct {
	*memory
	lost bool
}

func (l *answerLost) WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error) {
	results, err := l.memory.WriteRecords(ctx, feed, entries)
	if !l.lost {
		l.lost = true
		for i := range results {
			results[i] = state.ErrConflict
		}
	}
	return results, err
}

// TestAnAnswerThatIsLost leaves one entry of a version. What a run publishes once more
// leaves one more.
func TestAnAnswerThatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, book, _ := newProcessor()
		store := &answerLost{memory: book}
		p.Store = store
		process(t, p, version("a", "new", 0), element("x"))
		for id, e := range book.records {
			if n := len(e.Record.Versions); n != 1 || len(e.Record.Statuses) > 1 {
				t.Errorf("%s has %d versions: %+v", id, n, e.Record)
			}
		}
		time.Sleep(time.Second)
		store.lost, p.Mode, p.BackfillID = false, ledger.Republish, "b"
		process(t, p, version("a", "new", 0))
		if v := book.records["a"].Record.Versions; len(v) != 2 {
			t.Errorf("published again, the versions are %+v", v)
		}
	})
}

func TestDryRun(t *testing.T) {
	processor, book, topics := newProcessor()
	known := version("known", "new", 0)
	if _, err := processor.Process(t.Context(), []dtm.Alert{known}, all); err != nil {
		t.Fatal(err)
	}
	bulks, calls := book.bulks, topics.calls
	processor.DryRun = &ledger.DryRun{}
	low := version("b", "new", 0)
	low.Severity, low.Type = "low", ""
	counts, err := processor.Process(t.Context(), []dtm.Alert{known, version("known", "closed", 9), version("a", "new", 0), low, element("1")}, all)
	if err != nil {
		t.Fatal(err)
	}
	want := ledger.Counts{
		Handled: 5, Superseded: 1, StatusChanged: 1, Created: 2, Rejected: 1,
		ByType: map[string]int{"Paste": 2, "": 1}, BySeverity: map[string]int{"high": 2, "low": 1},
		ByRule: map[string]int{},
	}
	if diff := cmp.Diff(want, counts, anyOldest); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if book.bulks != bulks || topics.calls != calls {
		t.Error("a dry run published or recorded something")
	}
}
