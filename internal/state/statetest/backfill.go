package statetest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/state"
)

func (s suite) backfillFields(t *testing.T) {
	in, want := sampleBackfill("b1"), sampleBackfill("b1")
	if empty := zeroFields(in); len(empty) > 0 {
		t.Fatalf("the sample leaves %v empty, so it says nothing about them", empty)
	}
	normalize(&want)
	store := s.open(t)
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(sampleBackfill("b1"), in, equal); diff != "" {
			t.Errorf("%s changed the caller's backfill (-before +after):\n%s", when, diff)
		}
		got, _ := mustBackfill(t, store, feed, "b1")
		if diff := cmp.Diff(want, got, equal); diff != "" {
			t.Errorf("read after %s (-want +got):\n%s", when, diff)
		}
		all, _, err := store.Backfills(t.Context(), feed, "", 9)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]state.Backfill{want}, all, equal); diff != "" {
			t.Errorf("listed after %s (-want +got):\n%s", when, diff)
		}
		if bad := append(badTimes(got), badTimes(all)...); len(bad) > 0 {
			t.Errorf("after %s not UTC in whole milliseconds: %v", when, bad)
		}
	}
	mustCreateBackfill(t, store, feed, in)
	check("creating")

	_, v := mustBackfill(t, store, feed, "b1")
	zero := state.Backfill{ID: "b1"}
	v = mustWriteBackfill(t, store, feed, zero, v)
	got, _ := mustBackfill(t, store, feed, "b1")
	if diff := cmp.Diff(zero, got, equal); diff != "" {
		t.Errorf("zero backfill (-want +got):\n%s", diff)
	}
	if got := mustList(t, store, feed, 1); len(got) != 1 {
		t.Errorf("a backfill that was requested at no time is not in the list: %v", got)
	}
	mustWriteBackfill(t, store, feed, in, v)
	check("writing")
}

// backfillLife goes through the states: only the last one takes a backfill off
// the list of unfinished ones, and only that backfill.
func (s suite) backfillLife(t *testing.T) {
	store := s.open(t)
	if b, v, err := store.Backfill(t.Context(), feed, "b"); err != nil || v != "" || b.ID != "" {
		t.Errorf("a backfill that doesn't exist: %+v, revision %q, %v", b, v, err)
	}
	for _, final := range []string{state.Done, state.Cancelled, state.Failed} {
		before := unfinished(t, store)
		b := state.Backfill{ID: final, State: state.Pending}
		mustCreateBackfill(t, store, feed, b)
		mustCreateBackfill(t, store, feed, state.Backfill{ID: "beside-" + final, State: state.Pending})
		with, without := append(slices.Clone(before), final, "beside-"+final), append(slices.Clone(before), "beside-"+final)

		_, v1 := mustBackfill(t, store, feed, final)
		expectUnfinished(t, store, "a new backfill", with)
		b.State = state.Running
		v2 := mustWriteBackfill(t, store, feed, b, v1)
		expectUnfinished(t, store, "a running backfill", with)
		b.State = final
		v3 := mustWriteBackfill(t, store, feed, b, v2) // the revision of a write is enough to go on with
		expectUnfinished(t, store, final, without)
		if v1 == v2 || v2 == v3 {
			t.Errorf("%s: two of three writes have one revision: %q, %q, %q", final, v1, v2, v3)
		}
		if _, v := mustBackfill(t, store, feed, final); v != v3 {
			t.Errorf("%s: revision %q was read, %q was written", final, v, v3)
		}

		b.Error = "told later"
		mustWriteBackfill(t, store, feed, b, v3)
		expectUnfinished(t, store, final+" written again", without)
	}
	if _, v, _ := mustOpen(t, store, feed, ""); v != "" {
		t.Errorf("backfills alone made the feed's document, revision %q", v)
	}
}

func (s suite) backfillConflicts(t *testing.T) {
	store := s.open(t)
	first := state.Backfill{ID: "a", State: state.Pending, Filter: "first"}
	mustCreateBackfill(t, store, feed, first)
	mustCreateBackfill(t, store, feed, state.Backfill{ID: "b", State: state.Pending})
	before, v := mustBackfill(t, store, feed, "a")

	err := store.CreateBackfill(t.Context(), feed, state.Backfill{ID: "a", State: state.Pending, Filter: "second"})
	if !errors.Is(err, state.ErrConflict) {
		t.Errorf("creating it again: %v, want ErrConflict", err)
	}
	if got, _ := mustBackfill(t, store, feed, "a"); got.Filter != before.Filter {
		t.Errorf("creating it again wrote %+v", got)
	}

	first.State = state.Running
	running := mustWriteBackfill(t, store, feed, first, v)
	for what, stale := range map[string]state.Revision{"an old revision": v, "no revision": ""} {
		_, err := store.WriteBackfill(t.Context(), feed, state.Backfill{ID: "a", State: state.Cancelled}, stale)
		if !errors.Is(err, state.ErrConflict) {
			t.Errorf("finishing it at %s: %v, want ErrConflict", what, err)
		}
	}
	if got, v := mustBackfill(t, store, feed, "a"); got.State != state.Running || v != running {
		t.Errorf("a write that was refused left %+v", got)
	}
	_, err = store.WriteBackfill(t.Context(), feed, state.Backfill{ID: "missing", State: state.Done}, running)
	if !errors.Is(err, state.ErrConflict) {
		t.Errorf("writing a missing one at a revision: %v, want ErrConflict", err)
	}
	expectUnfinished(t, store, "after conflicts", []string{"a", "b"})

	// A finished one keeps its id.
	first.State = state.Done
	mustWriteBackfill(t, store, feed, first, running)
	if err := store.CreateBackfill(t.Context(), feed, first); !errors.Is(err, state.ErrConflict) {
		t.Errorf("creating a finished one again: %v, want ErrConflict", err)
	}
	expectUnfinished(t, store, "after creating a finished one again", []string{"b"})
}

// twoCreators of one id: a new one, and one that an expired backfill has.
func (s suite) twoCreators(t *testing.T) {
	store := s.open(t)
	mustCreateBackfill(t, store, feed, state.Backfill{ID: "old", State: state.Done, ExpireAt: time.Now().Add(-time.Hour)})
	for _, id := range []string{"new", "old"} {
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				errs[i] = store.CreateBackfill(t.Context(), feed, state.Backfill{ID: id, State: state.Pending, Requests: int64(i)})
			})
		}
		wg.Wait()
		b, _ := mustBackfill(t, store, feed, id)
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
				if b.Requests != int64(i) {
					t.Errorf("%s: creator %d won, but the backfill of %d is stored", id, i, b.Requests)
				}
			case !errors.Is(err, state.ErrConflict):
				t.Errorf("%s: creator %d: %v", id, i, err)
			}
		}
		if won != 1 {
			t.Errorf("%s: %d of %d creators won, want 1", id, won, len(errs))
		}
	}
	expectUnfinished(t, store, "after two creators", []string{"new", "old"})
}

// listTogether changes the one list from several sides.
func (s suite) listTogether(t *testing.T) {
	const each = 4
	store := s.open(t)
	versions := make([]state.Revision, each)
	for i := range each {
		id := fmt.Sprint("old-", i)
		mustCreateBackfill(t, store, feed, state.Backfill{ID: id, State: state.Pending})
		_, versions[i] = mustBackfill(t, store, feed, id)
	}
	var wg sync.WaitGroup
	for i := range each {
		wg.Go(func() {
			if _, err := store.WriteBackfill(t.Context(), feed, state.Backfill{ID: fmt.Sprint("old-", i), State: state.Done}, versions[i]); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := store.CreateBackfill(t.Context(), feed, state.Backfill{ID: fmt.Sprint("new-", i), State: state.Pending}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := slices.Sorted(slices.Values(unfinished(t, store)))
	if diff := cmp.Diff([]string{"new-0", "new-1", "new-2", "new-3"}, got); diff != "" {
		t.Errorf("unfinished (-want +got):\n%s", diff)
	}
}

// unfinishedLeftAlone: the holder of the lease writes the feed with the list as
// it was when it took the lease.
func (s suite) unfinishedLeftAlone(t *testing.T) {
	store := s.open(t)
	v := mustWriteFeed(t, store, feed, state.Feed{Write: 1, Unfinished: []string{"invented"}}, "")
	expectUnfinished(t, store, "after creating the feed", nil)
	mustCreateBackfill(t, store, feed, state.Backfill{ID: "b", State: state.Pending})
	mustCreateBackfill(t, store, feed, state.Backfill{ID: "a", State: state.Pending})
	for i, other := range [][]string{nil, {"a"}, {"invented", "a", "b"}} {
		v = mustWriteFeed(t, store, feed, state.Feed{Write: int64(2 + i), Unfinished: other}, v)
		expectUnfinished(t, store, fmt.Sprintf("after writing the feed with %v", other), []string{"b", "a"})
	}
	if _, now, _ := mustOpen(t, store, feed, ""); now != v {
		t.Errorf("backfills changed the feed's revision from %q to %q", v, now)
	}
}

// expiredBackfill: the database may take a day to delete it, and some never do.
func (s suite) expiredBackfill(t *testing.T) {
	store := s.open(t)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	all := []state.Backfill{
		{ID: "old", State: state.Done, ExpireAt: past, RequestedAt: at(5), Filter: "first"},
		{ID: "young", State: state.Done, ExpireAt: future, RequestedAt: at(4)},
		{ID: "old-too", State: state.Cancelled, ExpireAt: past, RequestedAt: at(3)},
		{ID: "never", State: state.Failed, RequestedAt: at(2)},
		{ID: "running", State: state.Running, ExpireAt: past, RequestedAt: at(1)},
		{ID: "old-last", State: state.Failed, ExpireAt: past, RequestedAt: at(0)},
	}
	for _, b := range all {
		mustCreateBackfill(t, store, feed, b)
	}
	for _, b := range all {
		got, v := mustBackfill(t, store, feed, b.ID)
		want := b.ID
		if strings.HasPrefix(b.ID, "old") {
			want = ""
		}
		if got.ID != want || (v == "") != (want == "") {
			t.Errorf("%s, %s: read as %+v at revision %q", b.ID, b.State, got, v)
		}
	}
	for limit := 1; limit <= len(all)+1; limit++ {
		if diff := cmp.Diff([]string{"young", "never", "running"}, mustList(t, store, feed, limit)); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", limit, diff)
		}
	}

	again := state.Backfill{ID: "old", State: state.Pending, RequestedAt: at(6), Filter: "second"}
	mustCreateBackfill(t, store, feed, again)
	got, v := mustBackfill(t, store, feed, "old")
	if diff := cmp.Diff(again, got, equal); diff != "" {
		t.Errorf("created over an expired one (-want +got):\n%s", diff)
	}
	again.State = state.Running
	mustWriteBackfill(t, store, feed, again, v)
	expectUnfinished(t, store, "after creating over an expired one", []string{"running", "old"})
}

// deletedBackfill: somebody has deleted the document of one that is unfinished. It stays on
// the list until one that is finished is written in its place.
func (s suite) deletedBackfill(t *testing.T) {
	store := s.open(t)
	for _, id := range []string{"written", "created", "beside"} {
		mustCreateBackfill(t, store, feed, state.Backfill{ID: id, State: state.Running})
	}
	_, old := mustBackfill(t, store, feed, "written")
	for _, id := range []string{"written", "created"} {
		s.remove(t, store, "", "feeds", feed, "backfills", id)
		if b, v := mustBackfill(t, store, feed, id); v != "" || b.ID != "" {
			t.Errorf("one that was deleted: %+v, revision %q", b, v)
		}
	}
	expectUnfinished(t, store, "after deleting two", []string{"written", "created", "beside"})

	finished := state.Backfill{ID: "written", State: state.Cancelled}
	if _, err := store.WriteBackfill(t.Context(), feed, finished, old); !errors.Is(err, state.ErrConflict) {
		t.Errorf("writing it at its last revision: %v, want ErrConflict", err)
	}
	mustWriteBackfill(t, store, feed, finished, "")
	expectUnfinished(t, store, "after writing one as finished", []string{"created", "beside"})

	finished = state.Backfill{ID: "created", State: state.Cancelled, ExpireAt: time.Now()}
	mustCreateBackfill(t, store, feed, finished)
	expectUnfinished(t, store, "after creating one that has expired", []string{"beside"})
	mustCreateBackfill(t, store, feed, state.Backfill{ID: "created", State: state.Pending})
	expectUnfinished(t, store, "after creating it anew", []string{"beside", "created"})
}

func (s suite) backfillIDs(t *testing.T) {
	ids := []string{
		"A", "a", "0", "0-", "a_", "a__", "a.", "a..", "a.b-c_d", "audit-2026-01-02",
		"123", "0123", strings.Repeat("z", 128),
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-",
	}
	store := s.open(t)
	for _, id := range ids {
		mustCreateBackfill(t, store, feed, state.Backfill{ID: id, State: state.Pending, Filter: "of " + id, RequestedAt: at(0)})
	}
	for _, id := range ids {
		if b, _ := mustBackfill(t, store, feed, id); b.ID != id || b.Filter != "of "+id {
			t.Errorf("%s came back as %s of filter %q", id, b.ID, b.Filter)
		}
	}
	expectUnfinished(t, store, "after creating them", ids)
	want := slices.Sorted(slices.Values(ids))
	slices.Reverse(want)
	if diff := cmp.Diff(want, mustList(t, store, feed, 1)); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

// pages of each size hold every backfill once, the newest request first.
func (s suite) pages(t *testing.T) {
	store := s.open(t)
	for i, id := range []string{"b0", "b7", "b5", "b3", "b1", "b8", "b6", "b4", "b2"} {
		b := state.Backfill{ID: id, State: state.Pending, RequestedAt: odd(i / 4)} // up to four at one time
		if i%2 == 0 {
			b.State = state.Done
		}
		mustCreateBackfill(t, store, feed, b)
	}
	want := []string{"b2", "b8", "b6", "b4", "b1", "b7", "b5", "b3", "b0"}
	for limit := 1; limit <= len(want)+1; limit++ {
		if diff := cmp.Diff(want, mustList(t, store, feed, limit)); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", limit, diff)
		}
	}
	for _, limit := range []int{0, -1} {
		if _, _, err := store.Backfills(t.Context(), feed, "", limit); err == nil {
			t.Errorf("a limit of %d was accepted", limit)
		}
	}
}

func (s suite) pagesWhileCreating(t *testing.T) {
	store := s.open(t)
	for i := range 4 {
		mustCreateBackfill(t, store, feed, state.Backfill{ID: fmt.Sprint("b", i), State: state.Pending, RequestedAt: at(i)})
	}
	_, next, err := store.Backfills(t.Context(), feed, "", 2)
	if err != nil {
		t.Fatal(err)
	}
	mustCreateBackfill(t, store, feed, state.Backfill{ID: "newest", State: state.Pending, RequestedAt: at(9)})
	rest, next, err := store.Backfills(t.Context(), feed, next, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(rest) != 2 || rest[0].ID != "b1" || rest[1].ID != "b0" || next != "" {
		t.Errorf("the second page is %+v, and then %q, want b1 and b0", rest, next)
	}
}

func (s suite) cursors(t *testing.T) {
	store := s.open(t)
	long := strings.Repeat("a", 128)
	mustCreateBackfill(t, store, feed, state.Backfill{ID: long, State: state.Pending, RequestedAt: at(1)})
	mustCreateBackfill(t, store, feed, state.Backfill{ID: "b", State: state.Pending})
	_, next, err := store.Backfills(t.Context(), feed, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9._~-]+$`).MatchString(next) {
		t.Errorf("the cursor %q has to be escaped in a URL", next)
	}

	garbage := []string{
		" ", "x", ".", "5", "5.", ".a", "5.-a", "5.a/b", "5.a b", "5.ä", "5." + long + "a", "5.a\x00", "\xff",
		" 5.a", "+5.a", "05.a", "-0.a", "5.5.a\n", "1e3.a", "99999999999999999999.a", "9223372036854775807.a",
		"-9223372036854775808.a", "253402300800000.a", "-62135596800001.a", next + "a", "0" + next, next + ".." + "/",
	}
	for _, cursor := range garbage {
		if _, _, err := store.Backfills(t.Context(), feed, cursor, 1); !errors.Is(err, state.ErrCursor) {
			t.Errorf("cursor %q: %v, want ErrCursor", cursor, err)
		}
	}
}

func (s suite) unwritableBackfill(t *testing.T) {
	store := s.open(t)
	late := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, b := range []state.Backfill{
		{ID: "bad", State: state.Pending, Until: late},
		{ID: "bad", State: state.Pending, RequestedAt: late},
		{ID: "bad", State: state.Pending, Slices: []state.Slice{{To: late}}},
	} {
		err := store.CreateBackfill(t.Context(), feed, b)
		if err == nil || errors.Is(err, state.ErrConflict) || !strings.Contains(err.Error(), "backfill bad of feed "+feed) {
			t.Errorf("a backfill of the year 10000: %v, want an error that names it", err)
		}
	}
	if _, v, err := store.Backfill(t.Context(), feed, "bad"); v != "" || err != nil {
		t.Errorf("it was written: revision %q, %v", v, err)
	}
	expectUnfinished(t, store, "after unwritable backfills", nil)
}

func unfinished(t *testing.T, s state.Store) []string {
	t.Helper()
	f, _, _ := mustOpen(t, s, feed, "")
	return f.Unfinished
}

func expectUnfinished(t *testing.T, s state.Store, when string, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, unfinished(t, s), equal); diff != "" {
		t.Errorf("%s: unfinished (-want +got):\n%s", when, diff)
	}
}

func mustCreateBackfill(t *testing.T, s state.Store, feed string, b state.Backfill) {
	t.Helper()
	if err := s.CreateBackfill(t.Context(), feed, b); err != nil {
		t.Fatal(err)
	}
}

func mustBackfill(t *testing.T, s state.Store, feed, id string) (state.Backfill, state.Revision) {
	t.Helper()
	b, v, err := s.Backfill(t.Context(), feed, id)
	if err != nil {
		t.Fatal(err)
	}
	return b, v
}

func mustWriteBackfill(t *testing.T, s state.Store, feed string, b state.Backfill, v state.Revision) state.Revision {
	t.Helper()
	v, err := s.WriteBackfill(t.Context(), feed, b, v)
	if err != nil {
		t.Fatal(err)
	}
	if v == "" {
		t.Fatal("a backfill that was written has no revision")
	}
	return v
}

// mustList returns the ids on all pages.
func mustList(t *testing.T, s state.Store, feed string, limit int) []string {
	t.Helper()
	var ids []string
	for next, pages := "", 1; ; pages++ {
		if pages > 100 {
			t.Fatalf("pages of %d have no end", limit)
		}
		page, following, err := s.Backfills(t.Context(), feed, next, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > limit {
			t.Fatalf("%d backfills on a page of %d", len(page), limit)
		}
		for _, b := range page {
			ids = append(ids, b.ID)
		}
		if next = following; next == "" {
			return ids
		}
	}
}
