// Package statetest is the suite of tests that every state.Store has to pass.
package statetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	feed  = "default"
	keyID = "0123456789abcdef"
)

// Run tests the stores that open returns, each empty. The function newer makes
// an existing document of one of them look as if a newer program had written
// it; path is "feeds", feed or "keys", keyID or, after "feeds", feed, "alerts", id
// or "backfills", id or "unfinished", "backfills". The function extend adds fields
// that this program doesn't know to an existing document, and to each element of a
// record's lists of write-backs, marks, statuses and versions; the function that it
// returns counts those that are still there. The function remove deletes a field of an
// existing document, or the document where the field is empty.
func Run(t *testing.T, open func(t *testing.T) state.Store, newer func(t *testing.T, s state.Store, path ...string),
	extend func(t *testing.T, s state.Store, path ...string) (left func() int), remove func(t *testing.T, s state.Store, field string, path ...string),
) {
	s := suite{open: open, newer: newer, extend: extend, remove: remove}
	t.Run("MissingFeed", s.missingFeed)
	t.Run("FeedVersions", s.feedVersions)
	t.Run("TwoWriters", s.twoWriters)
	t.Run("FeedFields", s.feedFields)
	t.Run("LastRun", s.lastRun)
	t.Run("RecordFields", s.recordFields)
	t.Run("EchoTags", s.echoTags)
	t.Run("ZeroValues", s.zeroValues)
	t.Run("RecordOrder", s.recordOrder)
	t.Run("Expired", s.expired)
	t.Run("BulkConflicts", s.bulkConflicts)
	t.Run("DocumentTwiceInABulk", s.documentTwiceInABulk)
	t.Run("UnwritableRecord", s.unwritableRecord)
	t.Run("InvalidText", s.invalidText)
	t.Run("ManyRecords", s.manyRecords)
	t.Run("BigRecord", s.bigRecord)
	t.Run("IDs", s.ids)
	t.Run("Model", s.model)
	t.Run("Usage", s.usage)
	t.Run("UsageTogether", s.usageTogether)
	t.Run("NoKey", s.noKey)
	t.Run("BackfillFields", s.backfillFields)
	t.Run("BackfillLife", s.backfillLife)
	t.Run("BackfillConflicts", s.backfillConflicts)
	t.Run("TwoCreators", s.twoCreators)
	t.Run("ListTogether", s.listTogether)
	t.Run("UnfinishedLeftAlone", s.unfinishedLeftAlone)
	t.Run("ExpiredBackfill", s.expiredBackfill)
	t.Run("DeletedBackfill", s.deletedBackfill)
	t.Run("BackfillIDs", s.backfillIDs)
	t.Run("Pages", s.pages)
	t.Run("PagesWhileCreating", s.pagesWhileCreating)
	t.Run("Cursors", s.cursors)
	t.Run("UnwritableBackfill", s.unwritableBackfill)
	t.Run("FeedsApart", s.feedsApart)
	t.Run("NewerSchema", s.newerSchema)
	t.Run("UnknownFields", s.unknownFields)
	t.Run("MissingList", s.missingList)
	t.Run("ContextEnded", s.contextEnded)
}

type suite struct {
	open   func(t *testing.T) state.Store
	newer  func(t *testing.T, s state.Store, path ...string)
	extend func(t *testing.T, s state.Store, path ...string) (left func() int)
	remove func(t *testing.T, s state.Store, field string, path ...string)
}

func (s suite) missingFeed(t *testing.T) {
	f, v, u := mustOpen(t, s.open(t), feed, keyID)
	if diff := cmp.Diff(state.Feed{}, f, equal); diff != "" {
		t.Errorf("a feed that doesn't exist is not zero (-want +got):\n%s", diff)
	}
	if v != "" {
		t.Errorf("its revision is %q, want none", v)
	}
	if len(u.Requests)+len(u.Errors) != 0 {
		t.Errorf("a key that doesn't exist has counters: %v", u)
	}
}

func (s suite) feedVersions(t *testing.T) {
	store := s.open(t)
	f := state.Feed{BeginsAt: at(0), Write: 1}
	v1 := mustWriteFeed(t, store, feed, f, "")

	if _, err := store.WriteFeed(t.Context(), feed, f, ""); !errors.Is(err, state.ErrConflict) {
		t.Errorf("creating it again: %v, want ErrConflict", err)
	}

	f.Write = 2
	v2 := mustWriteFeed(t, store, feed, f, v1)
	if v2 == v1 {
		t.Errorf("two writes have one revision %q", v1)
	}
	f.Write = 3
	v3 := mustWriteFeed(t, store, feed, f, v2) // the revision of a write is enough to go on with

	got, v, _ := mustOpen(t, store, feed, "")
	if v != v3 {
		t.Errorf("revision %q was read, %q was written", v, v3)
	}
	if diff := cmp.Diff(f, got, equal); diff != "" {
		t.Errorf("the last write is not what is read (-want +got):\n%s", diff)
	}
	for _, old := range []state.Revision{v1, v2} {
		if _, err := store.WriteFeed(t.Context(), feed, state.Feed{Write: 9}, old); !errors.Is(err, state.ErrConflict) {
			t.Errorf("writing at the old revision %q: %v, want ErrConflict", old, err)
		}
	}
	if _, err := store.WriteFeed(t.Context(), "missing", f, v3); !errors.Is(err, state.ErrConflict) {
		t.Errorf("writing a missing feed at a revision: %v, want ErrConflict", err)
	}
}

func (s suite) twoWriters(t *testing.T) {
	store := s.open(t)
	v := mustWriteFeed(t, store, feed, state.Feed{Generation: 1}, "")

	const writers = 2
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = store.WriteFeed(t.Context(), feed, state.Feed{Generation: int64(10 + i)}, v)
		})
	}
	wg.Wait()

	f, _, _ := mustOpen(t, store, feed, "")
	won := 0
	for i, err := range errs {
		switch {
		case err == nil:
			won++
			if want := int64(10 + i); f.Generation != want {
				t.Errorf("writer %d won, but generation %d is stored", i, f.Generation)
			}
		case !errors.Is(err, state.ErrConflict):
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d writers won, want 1", won, writers)
	}
}

func (s suite) feedFields(t *testing.T) {
	in, want := sampleFeed(), sampleFeed()
	if empty := zeroFields(in); len(empty) > 0 {
		t.Fatalf("the sample leaves %v empty, so it says nothing about them", empty)
	}
	normalize(&want)
	store := s.open(t)
	mustWriteFeed(t, store, feed, in, "")
	for _, id := range in.Unfinished { // which WriteFeed leaves alone
		mustCreateBackfill(t, store, feed, state.Backfill{ID: id, State: state.Pending})
	}
	if diff := cmp.Diff(sampleFeed(), in, equal); diff != "" {
		t.Errorf("writing changed the caller's feed (-before +after):\n%s", diff)
	}
	got, _, _ := mustOpen(t, store, feed, "")
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if bad := badTimes(got); len(bad) > 0 {
		t.Errorf("not UTC in whole milliseconds: %v", bad)
	}
}

func (s suite) lastRun(t *testing.T) {
	store := s.open(t)
	var v state.Revision
	for i, report := range []string{
		`{"feed":"default","published":12,"lag_seconds":0.25,"gap":null,"ok":true,"error":"<a & b>"}`,
		`{"by_type":{"Phishing":3},"spans":[{"since":"2026-01-02T03:04:05Z"}],"empty":{},"none":[]}`,
		`{"nested":[[1,2],[3]]}`,
		`{"large":18446744073709551615}`,
		`{"":1}`,
		`{"__name__":1}`,
		`"text"`,
		`[]`,
		`7`,
	} {
		in := state.Feed{LastRun: json.RawMessage(report), Write: int64(i)}
		v = mustWriteFeed(t, store, feed, in, v)
		got, _, _ := mustOpen(t, store, feed, "")
		if diff := cmp.Diff(in, got, equal); diff != "" {
			t.Errorf("%s (-want +got):\n%s", report, diff)
		}
	}
	for _, report := range []string{`{"a":`, `{} {}`} {
		if _, err := store.WriteFeed(t.Context(), feed, state.Feed{LastRun: json.RawMessage(report)}, v); err == nil {
			t.Errorf("%s was accepted", report)
		}
	}
}

func (s suite) recordFields(t *testing.T) {
	in, want := sampleRecord("a1"), sampleRecord("a1")
	if empty := zeroFields(in); len(empty) > 0 {
		t.Fatalf("the sample leaves %v empty, so it says nothing about them", empty)
	}
	normalize(&want)
	store := s.open(t)
	mustWriteRecords(t, store, feed, state.Entry{Record: in})
	if diff := cmp.Diff(sampleRecord("a1"), in, equal); diff != "" {
		t.Errorf("writing changed the caller's record (-before +after):\n%s", diff)
	}
	got := mustRecords(t, store, feed, "a1")[0]
	if diff := cmp.Diff(want, got.Record, equal); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if bad := badTimes(got); len(bad) > 0 {
		t.Errorf("not UTC in whole milliseconds: %v", bad)
	}
}

// echoTags: that no tags were written is something else than that all were taken
// away. The option equal would not see it.
func (s suite) echoTags(t *testing.T) {
	store := s.open(t)
	want := []state.Echo{
		{Status: "closed"},
		{Version: at(1), Tags: []string{}},
		{Tags: []string{""}},
		{Tags: []string{"b", "a"}},
	}
	v := state.Revision("")
	for range 2 { // what was read is written again as it was
		mustWriteRecords(t, store, feed, state.Entry{Record: state.Record{ID: "a1", Echoes: want}, Revision: v})
		got := mustRecords(t, store, feed, "a1")[0]
		if diff := cmp.Diff(want, got.Record.Echoes); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		want, v = got.Record.Echoes, got.Revision
	}
}

func (s suite) zeroValues(t *testing.T) {
	store := s.open(t)
	mustWriteFeed(t, store, feed, state.Feed{}, "")
	f, v, _ := mustOpen(t, store, feed, "")
	if diff := cmp.Diff(state.Feed{}, f, equal); diff != "" {
		t.Errorf("feed (-want +got):\n%s", diff)
	}
	if v == "" {
		t.Error("a zero feed that was written has no revision")
	}

	zero := state.Record{ID: "a1"}
	mustWriteRecords(t, store, feed, state.Entry{Record: zero})
	e := mustRecords(t, store, feed, "a1")[0]
	if diff := cmp.Diff(zero, e.Record, equal); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if e.Revision == "" {
		t.Error("a zero record that was written has no revision")
	}
}

func (s suite) recordOrder(t *testing.T) {
	store := s.open(t)
	mustWriteRecords(t, store, feed,
		state.Entry{Record: state.Record{ID: "c", Status: "new"}},
		state.Entry{Record: state.Record{ID: "a", Status: "closed"}},
	)
	ids := []string{"b", "a", "c", "a", "z", "b"}
	got := mustRecords(t, store, feed, ids...)
	for i, want := range []state.Record{
		{ID: "b"},
		{ID: "a", Status: "closed"},
		{ID: "c", Status: "new"},
		{ID: "a", Status: "closed"},
		{ID: "z"},
		{ID: "b"},
	} {
		if diff := cmp.Diff(want, got[i].Record, equal); diff != "" {
			t.Errorf("entry %d (-want +got):\n%s", i, diff)
		}
		if absent, bare := got[i].Revision == "", want.Status == ""; absent != bare {
			t.Errorf("entry %d, %s: revision %q", i, want.ID, got[i].Revision)
		}
	}
	if got := mustRecords(t, store, feed); len(got) != 0 {
		t.Errorf("no ids: %d entries", len(got))
	}
	results, err := store.WriteRecords(t.Context(), feed, nil)
	if err != nil || len(results) != 0 {
		t.Errorf("no entries: %v, %v", results, err)
	}
}

func (s suite) expired(t *testing.T) {
	store := s.open(t)
	now := time.Now()
	mustWriteRecords(t, store, feed,
		state.Entry{Record: state.Record{ID: "old", Status: "new", ExpireAt: now.Add(-time.Hour)}},
		state.Entry{Record: state.Record{ID: "young", Status: "new", ExpireAt: now.Add(time.Hour)}},
		state.Entry{Record: state.Record{ID: "never", Status: "new"}},
	)
	got := mustRecords(t, store, feed, "old", "young", "never")
	if diff := cmp.Diff(state.Record{ID: "old"}, got[0].Record, equal); diff != "" {
		t.Errorf("an expired record is not bare (-want +got):\n%s", diff)
	}
	for _, e := range got[1:] {
		if e.Record.Status != "new" {
			t.Errorf("%s is gone before its time", e.Record.ID)
		}
	}
	got[0].Record.Status = "again"
	mustWriteRecords(t, store, feed, got[0]) // its revision is good for a write
	if e := mustRecords(t, store, feed, "old")[0]; e.Record.Status != "again" {
		t.Errorf("after writing over the expired record: %+v", e.Record)
	}
}

func (s suite) bulkConflicts(t *testing.T) {
	store := s.open(t)
	mustWriteRecords(t, store, feed,
		state.Entry{Record: state.Record{ID: "stale"}},
		state.Entry{Record: state.Record{ID: "fresh"}},
		state.Entry{Record: state.Record{ID: "exists"}},
	)
	read := mustRecords(t, store, feed, "stale", "fresh")
	stale, fresh := read[0], read[1]
	other := stale
	other.Record.Status = "other"
	mustWriteRecords(t, store, feed, other)

	stale.Record.Status, fresh.Record.Status = "lost", "done"
	missing := state.Entry{Record: state.Record{ID: "missing"}, Revision: fresh.Revision}
	results, err := store.WriteRecords(t.Context(), feed, []state.Entry{
		{Record: state.Record{ID: "made", Status: "done"}},
		stale,
		fresh,
		{Record: state.Record{ID: "exists", Status: "lost"}},
		missing,
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, conflict := range []bool{false, true, false, true, true} {
		if conflict && !errors.Is(results[i], state.ErrConflict) || !conflict && results[i] != nil {
			t.Errorf("result %d: %v, want a conflict: %t", i, results[i], conflict)
		}
	}
	var got []string
	for _, e := range mustRecords(t, store, feed, "made", "stale", "fresh", "exists", "missing") {
		got = append(got, e.Record.Status)
	}
	if diff := cmp.Diff([]string{"done", "other", "done", "", ""}, got); diff != "" {
		t.Errorf("statuses stored (-want +got):\n%s", diff)
	}
}

func (s suite) documentTwiceInABulk(t *testing.T) {
	store := s.open(t)
	results, err := store.WriteRecords(t.Context(), feed, []state.Entry{
		{Record: state.Record{ID: "a", Status: "first"}},
		{Record: state.Record{ID: "b", Status: "only"}},
		{Record: state.Record{ID: "a", Status: "second"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if results[0] != nil || results[1] != nil || !errors.Is(results[2], state.ErrConflict) {
		t.Errorf("results %v, want only the last one a conflict", results)
	}
	if got := mustRecords(t, store, feed, "a")[0].Record.Status; got != "first" {
		t.Errorf("stored %q, want the first", got)
	}
}

// An alert may say that it is of any year. JSON and Firestore end at 9999.
func (s suite) unwritableRecord(t *testing.T) {
	store := s.open(t)
	results, err := store.WriteRecords(t.Context(), feed, []state.Entry{
		{Record: state.Record{ID: "a"}},
		{Record: state.Record{ID: "b", CreatedAt: time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*60*60))}},
		{Record: state.Record{ID: "c"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if results[0] != nil || results[2] != nil {
		t.Errorf("records beside an unwritable one failed: %v", results)
	}
	if err := results[1]; err == nil || errors.Is(err, state.ErrConflict) || !strings.Contains(err.Error(), "b") {
		t.Errorf("a record of the year 10000: %v, want an error that names it", err)
	}
}

func (s suite) invalidText(t *testing.T) {
	store := s.open(t)
	mustWriteRecords(t, store, feed, state.Entry{Record: state.Record{ID: "a", Type: "x\xffy"}})
	got := mustRecords(t, store, feed, "a")[0].Record.Type
	if !utf8.ValidString(got) || !strings.HasPrefix(got, "x") || !strings.HasSuffix(got, "y") {
		t.Errorf("text that is no UTF-8 came back as %q", got)
	}
}

func (s suite) manyRecords(t *testing.T) {
	const n = 1_100 // three bulks of Firestore
	store := s.open(t)
	entries := make([]state.Entry, n)
	ids := make([]string, n)
	for i := range entries {
		ids[i] = fmt.Sprintf("alert-%d", i)
		entries[i].Record = state.Record{ID: ids[i], Status: "new"}
	}
	taken := map[int]bool{0: true, 499: true, 500: true, n - 1: true}
	for i := range taken {
		mustWriteRecords(t, store, feed, state.Entry{Record: state.Record{ID: ids[i], Status: "taken"}})
	}
	results, err := store.WriteRecords(t.Context(), feed, entries)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != n {
		t.Fatalf("%d results, want %d", len(results), n)
	}
	for i, err := range results {
		if taken[i] != errors.Is(err, state.ErrConflict) || !taken[i] && err != nil {
			t.Errorf("result %d: %v", i, err)
		}
	}
	for i, e := range mustRecords(t, store, feed, ids...) {
		want := "new"
		if taken[i] {
			want = "taken"
		}
		if e.Record.ID != ids[i] || e.Record.Status != want {
			t.Fatalf("entry %d is %s with status %q, want %s with %q", i, e.Record.ID, e.Record.Status, ids[i], want)
		}
	}
}

func (s suite) bigRecord(t *testing.T) {
	r := sampleRecord("a1")
	for i := len(r.Statuses); i < 100; i++ {
		r.Statuses = append(r.Statuses, state.StatusChange{Status: fmt.Sprint("status ", i), At: at(i), Origin: state.FromGTI})
	}
	for i := len(r.Versions); i < 100; i++ {
		r.Versions = append(r.Versions, state.AlertVersion{UpdatedAt: at(i), At: at(i + 1), RunID: fmt.Sprint("run ", i), Outcome: state.Rejected, Reason: "too large"})
	}
	store := s.open(t)
	mustWriteRecords(t, store, feed, state.Entry{Record: r})
	normalize(&r)
	if diff := cmp.Diff(r, mustRecords(t, store, feed, "a1")[0].Record, equal); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func (s suite) ids(t *testing.T) {
	ids := []string{
		"A", "a", "0", "-", "_", "__", "__x__", "____",
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-",
		strings.Repeat("z", 128),
		"x-" + strings.Repeat("0f", 32),
	}
	store := s.open(t)
	var entries []state.Entry
	for _, id := range ids {
		entries = append(entries, state.Entry{Record: state.Record{ID: id, Status: "of " + id}})
	}
	mustWriteRecords(t, store, feed, entries...)
	for i, e := range mustRecords(t, store, feed, ids...) {
		if e.Record.ID != ids[i] || e.Record.Status != "of "+ids[i] {
			t.Errorf("%s came back as %s with status %q", ids[i], e.Record.ID, e.Record.Status)
		}
	}
}

// model compares random reads and bulk writes, at versions that may be old,
// with a map.
func (s suite) model(t *testing.T) {
	store := s.open(t)
	feeds := 0
	rapid.Check(t, func(t *rapid.T) {
		feeds++
		feed := fmt.Sprintf("feed-%d", feeds)
		ids := rapid.SampledFrom([]string{"a", "b", "c", "d", "__e__"})

		type stored struct {
			record state.Record
			write  int // number of the write that made it so; 0: it doesn't exist
		}
		type held struct {
			version state.Revision
			write   int
		}
		model := map[string]stored{}
		holds := map[string]held{} // what the caller read, maybe long ago
		writes := 0

		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			asked := rapid.SliceOfN(ids, 0, 6).Draw(t, "ids to read")
			entries, err := store.Records(t.Context(), feed, asked)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != len(asked) {
				t.Fatalf("%d entries for %d ids", len(entries), len(asked))
			}
			for i, e := range entries {
				want := model[asked[i]]
				want.record.ID = asked[i]
				if diff := cmp.Diff(want.record, e.Record, equal); diff != "" {
					t.Fatalf("%s (-want +got):\n%s", asked[i], diff)
				}
				if (e.Revision != "") != (want.write > 0) {
					t.Fatalf("%s has revision %q", asked[i], e.Revision)
				}
				holds[asked[i]] = held{e.Revision, want.write}
			}

			var bulk []state.Entry
			var conflicts []bool
			seen := map[string]bool{}
			for _, id := range rapid.SliceOfN(ids, 0, 4).Draw(t, "ids to write") {
				writes++
				e := state.Entry{Revision: holds[id].version, Record: state.Record{
					ID:        id,
					Status:    fmt.Sprint("write ", writes),
					CreatedAt: at(rapid.IntRange(-1_000_000, 1_000_000).Draw(t, "created")),
				}}
				for range rapid.IntRange(0, 2).Draw(t, "statuses") {
					e.Record.Statuses = append(e.Record.Statuses, state.StatusChange{Status: "s", At: at(writes)})
				}
				conflict := seen[id] || holds[id].write != model[id].write
				seen[id] = true
				bulk = append(bulk, e)
				conflicts = append(conflicts, conflict)
				if !conflict {
					model[id] = stored{e.Record, writes}
				}
			}
			results, err := store.WriteRecords(t.Context(), feed, bulk)
			if err != nil {
				t.Fatal(err)
			}
			for i, err := range results {
				if conflicts[i] && !errors.Is(err, state.ErrConflict) || !conflicts[i] && err != nil {
					t.Fatalf("writing %s: %v, want a conflict: %t", bulk[i].Record.ID, err, conflicts[i])
				}
			}
		}
	})
}

func (s suite) usage(t *testing.T) {
	store := s.open(t)
	first := state.Usage{
		Requests: map[int64]int64{1_700_000_000: 3, 1_700_003_600: 1},
		Errors:   map[int64]int64{1_700_000_100: 2},
	}
	if empty := zeroFields(first); len(empty) > 0 {
		t.Fatalf("the sample leaves %v empty, so it says nothing about them", empty)
	}
	for _, step := range []struct {
		what           string
		add, old, want state.Usage
	}{
		{
			what: "the first count, which finds no document",
			add:  first,
			old:  state.Usage{Requests: map[int64]int64{1_600_000_000: 0}},
			want: first,
		},
		{
			what: "more in old and new buckets, one dropped of each kind",
			add:  state.Usage{Requests: map[int64]int64{1_700_003_600: 5, 1_700_007_200: 1}},
			old:  state.Usage{Requests: map[int64]int64{1_700_000_000: 0}, Errors: map[int64]int64{1_700_000_100: 2}},
			want: state.Usage{Requests: map[int64]int64{1_700_003_600: 6, 1_700_007_200: 1}},
		},
		{
			what: "a bucket both added to and dropped, which is added to",
			add:  state.Usage{Requests: map[int64]int64{1_700_003_600: 1}, Errors: map[int64]int64{1_700_007_300: 1}},
			old:  state.Usage{Requests: map[int64]int64{1_700_003_600: 0}},
			want: state.Usage{Requests: map[int64]int64{1_700_003_600: 7, 1_700_007_200: 1}, Errors: map[int64]int64{1_700_007_300: 1}},
		},
		{
			what: "nothing",
			want: state.Usage{Requests: map[int64]int64{1_700_003_600: 7, 1_700_007_200: 1}, Errors: map[int64]int64{1_700_007_300: 1}},
		},
	} {
		mustAddUsage(t, store, keyID, step.add, step.old)
		_, _, got := mustOpen(t, store, feed, keyID)
		if diff := cmp.Diff(step.want, got, equal); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, diff)
		}
	}
}

func (s suite) usageTogether(t *testing.T) {
	const goroutines, each = 6, 5
	store := s.open(t)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				add := state.Usage{Requests: map[int64]int64{3600: 2}, Errors: map[int64]int64{300: 1}}
				if err := store.AddUsage(t.Context(), keyID, add, state.Usage{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_, _, got := mustOpen(t, store, feed, keyID)
	want := state.Usage{
		Requests: map[int64]int64{3600: 2 * goroutines * each},
		Errors:   map[int64]int64{300: goroutines * each},
	}
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func (s suite) noKey(t *testing.T) {
	store := s.open(t)
	mustAddUsage(t, store, keyID, state.Usage{Requests: map[int64]int64{0: 1}}, state.Usage{})
	mustWriteFeed(t, store, feed, state.Feed{Write: 1}, "")
	f, _, u := mustOpen(t, store, feed, "")
	if f.Write != 1 || len(u.Requests)+len(u.Errors) != 0 {
		t.Errorf("without a key: feed %+v, usage %v", f, u)
	}
	if err := store.AddUsage(t.Context(), "", state.Usage{Requests: map[int64]int64{0: 1}}, state.Usage{}); err == nil {
		t.Error("counting without a key was accepted")
	}
}

func (s suite) feedsApart(t *testing.T) {
	store := s.open(t)
	for _, name := range []string{"one", "one-a", "two"} {
		mustWriteFeed(t, store, name, state.Feed{Filter: name}, "")
		mustWriteRecords(t, store, name, state.Entry{Record: state.Record{ID: "a", Status: name}})
		mustAddUsage(t, store, name, state.Usage{Requests: map[int64]int64{int64(len(name)): 1}}, state.Usage{})
		mustCreateBackfill(t, store, name, state.Backfill{ID: "a", State: state.Pending, Filter: name})
		mustCreateBackfill(t, store, name, state.Backfill{ID: "of-" + name, State: state.Pending})
	}
	b, v := mustBackfill(t, store, "two", "a")
	b.State = state.Done
	mustWriteBackfill(t, store, "two", b, v)
	for _, name := range []string{"one", "one-a", "two"} {
		f, _, u := mustOpen(t, store, name, name)
		r := mustRecords(t, store, name, "a")[0].Record
		if f.Filter != name || r.Status != name {
			t.Errorf("%s: feed of %s, record of %s", name, f.Filter, r.Status)
		}
		if diff := cmp.Diff(map[int64]int64{int64(len(name)): 1}, u.Requests); diff != "" {
			t.Errorf("%s: usage (-want +got):\n%s", name, diff)
		}
		unfinished := []string{"a", "of-" + name}
		if name == "two" {
			unfinished = unfinished[1:]
		}
		if diff := cmp.Diff(unfinished, f.Unfinished); diff != "" {
			t.Errorf("%s: unfinished (-want +got):\n%s", name, diff)
		}
		if b, _ := mustBackfill(t, store, name, "a"); b.Filter != name {
			t.Errorf("%s: backfill of %s", name, b.Filter)
		}
		if diff := cmp.Diff([]string{"of-" + name, "a"}, mustList(t, store, name, 1)); diff != "" {
			t.Errorf("%s: list (-want +got):\n%s", name, diff)
		}
	}
	if got := mustList(t, store, "three", 9); len(got) != 0 {
		t.Errorf("a feed that has nothing has backfills: %v", got)
	}
	if e := mustRecords(t, store, "three", "a")[0]; e.Revision != "" {
		t.Errorf("a feed that has nothing has a record: %+v", e)
	}
}

func (s suite) newerSchema(t *testing.T) {
	store := s.open(t)
	mustWriteFeed(t, store, feed, sampleFeed(), "")
	mustWriteRecords(t, store, feed, state.Entry{Record: sampleRecord("a1")}, state.Entry{Record: sampleRecord("a2")})
	mustAddUsage(t, store, keyID, state.Usage{Requests: map[int64]int64{0: 1}}, state.Usage{})
	mustCreateBackfill(t, store, feed, sampleBackfill("b1"))
	mustCreateBackfill(t, store, feed, sampleBackfill("b2"))

	expect := func(what, name string, err error) {
		t.Helper()
		if !errors.Is(err, state.ErrSchema) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want ErrSchema and the name %s", what, err, name)
		}
	}
	s.newer(t, store, "keys", keyID)
	_, err := store.Open(t.Context(), feed, keyID)
	expect("newer key", keyID, err)
	// Counting doesn't read, so it may succeed, but must not hide it.
	_ = store.AddUsage(t.Context(), keyID, state.Usage{Requests: map[int64]int64{0: 1}}, state.Usage{})
	_, err = store.Open(t.Context(), feed, keyID)
	expect("newer key after counting", keyID, err)

	mustOpen(t, store, feed, "") // the feed itself is still readable
	s.newer(t, store, "feeds", feed, "unfinished", "backfills")
	_, err = store.Open(t.Context(), feed, "")
	expect("newer list of unfinished backfills", "unfinished", err)
	// Adding to it may succeed without reading, but must not hide it.
	_ = store.CreateBackfill(t.Context(), feed, state.Backfill{ID: "b3", State: state.Pending})
	_, err = store.Open(t.Context(), feed, "")
	expect("newer list of unfinished backfills after adding", "unfinished", err)
	s.newer(t, store, "feeds", feed)
	_, err = store.Open(t.Context(), feed, "")
	expect("newer feed", feed, err)

	s.newer(t, store, "feeds", feed, "alerts", "a2")
	mustRecords(t, store, feed, "a1")
	_, err = store.Records(t.Context(), feed, []string{"a1", "a2"})
	expect("newer record", "a2", err)

	s.newer(t, store, "feeds", feed, "backfills", "b2")
	mustBackfill(t, store, feed, "b1")
	_, _, err = store.Backfill(t.Context(), feed, "b2")
	expect("newer backfill", "b2", err)
	_, _, err = store.Backfills(t.Context(), feed, "", 9)
	expect("list with a newer backfill", "b2", err)
	expect("creating a newer backfill again", "b2", store.CreateBackfill(t.Context(), feed, sampleBackfill("b2")))
}

// unknownFields: what a newer program of the same schema has added stays as it is
// when this one writes the document again. Fields that this one knows can still be
// emptied, and an element that is taken away goes with all that it holds.
func (s suite) unknownFields(t *testing.T) {
	store := s.open(t)
	check := func(what string, left func() int, want int) {
		t.Helper()
		if got := left(); got != want || want == 0 {
			t.Errorf("%s: %d unknown fields are left, want %d", what, got, want)
		}
	}

	mustWriteFeed(t, store, feed, sampleFeed(), "")
	left := s.extend(t, store, "feeds", feed)
	all := left()
	f, v, _ := mustOpen(t, store, feed, "")
	for i, next := range []state.Feed{f, {Write: 2}} {
		v = mustWriteFeed(t, store, feed, next, v)
		check(fmt.Sprintf("write %d of a feed", i), left, all)
		got, _, _ := mustOpen(t, store, feed, "")
		if diff := cmp.Diff(next, got, equal); diff != "" {
			t.Errorf("a feed that was extended (-written +read):\n%s", diff)
		}
	}

	mustWriteRecords(t, store, feed, state.Entry{Record: sampleRecord("a1")})
	left = s.extend(t, store, "feeds", feed, "alerts", "a1")
	all = left()
	entry := mustRecords(t, store, feed, "a1")[0]
	want := sampleRecord("a1")
	normalize(&want)
	if diff := cmp.Diff(want, entry.Record, equal, cmpopts.IgnoreTypes(state.Rest(""))); diff != "" {
		t.Errorf("a record that was extended (-want +got):\n%s", diff)
	}
	r := &entry.Record
	r.Priority, r.HandledVersion, r.Intents[0].Open = "", time.Time{}, false
	r.Statuses = append(r.Statuses, state.StatusChange{Status: "read", At: at(9)})
	r.Versions = append([]state.AlertVersion{{UpdatedAt: at(1), At: at(1), Outcome: "a later word"}}, r.Versions...)
	mustWriteRecords(t, store, feed, entry)
	check("a record", left, all)
	again := mustRecords(t, store, feed, "a1")[0]
	if diff := cmp.Diff(entry.Record, again.Record, equal); diff != "" {
		t.Errorf("a record that was extended (-written +read):\n%s", diff)
	}
	again.Record.Echoes = nil
	mustWriteRecords(t, store, feed, again)
	check("a record without a mark", left, all-1)

	mustCreateBackfill(t, store, feed, sampleBackfill("b1"))
	left, listLeft := s.extend(t, store, "feeds", feed, "backfills", "b1"), s.extend(t, store, "feeds", feed, "unfinished", "backfills")
	all, list := left(), listLeft()
	b, backfillVersion := mustBackfill(t, store, feed, "b1")
	b.Error, b.State = "", state.Done
	mustWriteBackfill(t, store, feed, b, backfillVersion)
	check("a backfill", left, all)
	check("the list of backfills", listLeft, list)
	if got, _ := mustBackfill(t, store, feed, "b1"); !cmp.Equal(b, got, equal) {
		t.Errorf("a backfill that was extended (-written +read):\n%s", cmp.Diff(b, got, equal))
	}

	mustAddUsage(t, store, keyID, state.Usage{Requests: map[int64]int64{0: 1}}, state.Usage{})
	left = s.extend(t, store, "keys", keyID)
	all = left()
	mustAddUsage(t, store, keyID, state.Usage{Requests: map[int64]int64{0: 1}}, state.Usage{})
	check("a key", left, all)
}

// missingList: a document of which somebody has deleted a list, and to which a newer program
// has added fields. The list is empty, and the fields stay.
func (s suite) missingList(t *testing.T) {
	store := s.open(t)
	for i, extend := range []bool{false, true} {
		id := fmt.Sprint("a", i)
		mustWriteRecords(t, store, feed, state.Entry{Record: sampleRecord(id)})
		left := func() int { return 0 }
		if extend {
			left = s.extend(t, store, "feeds", feed, "alerts", id)
		}
		s.remove(t, store, "statuses", "feeds", feed, "alerts", id)
		all := left()
		want := sampleRecord(id)
		want.Statuses = nil
		normalize(&want)
		entry := mustRecords(t, store, feed, id)[0]
		if diff := cmp.Diff(want, entry.Record, equal, cmpopts.IgnoreTypes(state.Rest(""))); diff != "" {
			t.Errorf("%s without a list (-want +got):\n%s", id, diff)
		}
		entry.Record.Priority = "P4"
		mustWriteRecords(t, store, feed, entry)
		if got := left(); got != all {
			t.Errorf("%s: %d unknown fields are left, want %d", id, got, all)
		}
	}
}

func (s suite) contextEnded(t *testing.T) {
	store := s.open(t)
	v := mustWriteFeed(t, store, feed, state.Feed{Write: 1}, "")
	mustCreateBackfill(t, store, feed, state.Backfill{ID: "a", State: state.Pending})
	_, backfillVersion := mustBackfill(t, store, feed, "a")

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{cancelled, late} {
		_, openErr := store.Open(ctx, feed, keyID)
		_, feedErr := store.WriteFeed(ctx, feed, state.Feed{Write: 2}, v)
		_, readErr := store.Records(ctx, feed, []string{"a"})
		_, writeErr := store.WriteRecords(ctx, feed, []state.Entry{{Record: state.Record{ID: "a"}}})
		_, _, backfillErr := store.Backfill(ctx, feed, "a")
		_, writeBackfillErr := store.WriteBackfill(ctx, feed, state.Backfill{ID: "a", State: state.Done}, backfillVersion)
		_, _, listErr := store.Backfills(ctx, feed, "", 9)
		for method, err := range map[string]error{
			"Open": openErr, "WriteFeed": feedErr, "Records": readErr, "WriteRecords": writeErr,
			"AddUsage":       store.AddUsage(ctx, keyID, state.Usage{Requests: map[int64]int64{0: 1}}, state.Usage{}),
			"CreateBackfill": store.CreateBackfill(ctx, feed, state.Backfill{ID: "b", State: state.Pending}),
			"Backfill":       backfillErr, "WriteBackfill": writeBackfillErr, "Backfills": listErr,
		} {
			if !errors.Is(err, ctx.Err()) {
				t.Errorf("%s: %v, want %v", method, err, ctx.Err())
			}
		}
	}

	f, _, u := mustOpen(t, store, feed, keyID)
	if f.Write != 1 || len(u.Requests) != 0 || mustRecords(t, store, feed, "a")[0].Revision != "" {
		t.Error("a call with an ended context wrote something")
	}
	if diff := cmp.Diff([]string{"a"}, f.Unfinished); diff != "" {
		t.Errorf("a call with an ended context changed the unfinished backfills (-want +got):\n%s", diff)
	}
	if got := mustList(t, store, feed, 9); len(got) != 1 {
		t.Errorf("a call with an ended context wrote a backfill: %v", got)
	}
}

// equal compares times as instants, JSON by its meaning, and takes nil for empty.
var equal = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.FilterValues(func(a, b json.RawMessage) bool { return json.Valid(a) && json.Valid(b) },
		cmp.Transformer("JSON", func(raw json.RawMessage) (v any) {
			_ = json.Unmarshal(raw, &v)
			return v
		})),
}

func mustOpen(t *testing.T, s state.Store, feed, keyID string) (state.Feed, state.Revision, state.Usage) {
	t.Helper()
	found, err := s.Open(t.Context(), feed, keyID)
	if err != nil {
		t.Fatal(err)
	}
	return found.Feed, found.Revision, found.Usage
}

func mustWriteFeed(t *testing.T, s state.Store, feed string, f state.Feed, v state.Revision) state.Revision {
	t.Helper()
	v, err := s.WriteFeed(t.Context(), feed, f, v)
	if err != nil {
		t.Fatal(err)
	}
	if v == "" {
		t.Fatal("a feed that was written has no revision")
	}
	return v
}

func mustRecords(t *testing.T, s state.Store, feed string, ids ...string) []state.Entry {
	t.Helper()
	entries, err := s.Records(t.Context(), feed, ids)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(ids) {
		t.Fatalf("%d entries for %d ids", len(entries), len(ids))
	}
	return entries
}

func mustWriteRecords(t *testing.T, s state.Store, feed string, entries ...state.Entry) {
	t.Helper()
	results, err := s.WriteRecords(t.Context(), feed, entries)
	if err := errors.Join(append(results, err)...); err != nil {
		t.Fatal(err)
	}
}

func mustAddUsage(t *testing.T, s state.Store, keyID string, add, old state.Usage) {
	t.Helper()
	if err := s.AddUsage(t.Context(), keyID, add, old); err != nil {
		t.Fatal(err)
	}
}
