package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// counting counts the calls for backfills.
type counting struct {
	state.Store
	calls atomic.Int64
}

func (c *counting) CreateBackfill(ctx context.Context, feed string, b state.Backfill) error {
	c.calls.Add(1)
	return c.Store.CreateBackfill(ctx, feed, b)
}

func (c *counting) Backfill(ctx context.Context, feed, id string) (state.Backfill, state.Revision, error) {
	c.calls.Add(1)
	return c.Store.Backfill(ctx, feed, id)
}

func (c *counting) WriteBackfill(ctx context.Context, feed string, b state.Backfill, v state.Revision) (state.Revision, error) {
	c.calls.Add(1)
	return c.Store.WriteBackfill(ctx, feed, b, v)
}

// ask sends POST /backfill and returns the id of the backfill that was recorded.
func ask(t *testing.T, ingest http.Handler, body string) string {
	t.Helper()
	w := httptest.NewRecorder()
	ingest.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/backfill", strings.NewReader(body)))
	var b struct{ ID string }
	if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || w.Code != http.StatusAccepted {
		t.Errorf("%s: %d %s", body, w.Code, w.Body)
	}
	return b.ID
}

// finish is what a run does with a backfill in the end. It is kept until a time.
func finish(t *testing.T, store state.Store, id string, until time.Time) {
	t.Helper()
	b, v, err := store.Backfill(t.Context(), "default", id)
	if err != nil || v == "" {
		t.Fatalf("backfill %s: version %q, %v", id, v, err)
	}
	b.State, b.FinishedAt, b.ExpireAt = state.Done, time.Now(), until
	if _, err := store.WriteBackfill(t.Context(), "default", b, v); err != nil {
		t.Fatal(err)
	}
}

const kept = 90 * 24 * time.Hour

// TestTheSameRequestAgainAndAgain: while a backfill is unfinished, every equal
// request means it, whichever process gets it; then the next one. However many
// there were, none of it takes longer.
func TestTheSameRequestAgainAndAgain(t *testing.T) {
	store := &counting{Store: openStore(t)}
	synctest.Test(t, func(t *testing.T) {
		occupy(t, store)
		processes := []http.Handler{newIngest(t, store, nil), newIngest(t, store, nil)}
		const body = `{"since":"96h"}`
		const atOnce, most = 4, 3 // calls for each: one id is tried, found to be taken, and read in the end
		seen := map[string]bool{}
		for n := 1; n <= 20; n++ {
			time.Sleep(time.Minute)
			store.calls.Store(0)
			var asking sync.WaitGroup
			ids := make([]string, atOnce+1)
			for i := range atOnce {
				asking.Go(func() { ids[i] = ask(t, processes[i%2], body) })
			}
			asking.Wait()
			calls := store.calls.Load()
			ids[atOnce] = ask(t, processes[0], body) // a resumption
			for _, id := range ids {
				if id != ids[0] || seen[id] {
					t.Fatalf("no. %d: the ids are %v, want one new one", n, ids)
				}
			}
			seen[ids[0]] = true
			if calls > atOnce*most {
				t.Fatalf("no. %d: %d calls to the database for %d requests", n, calls, atOnce)
			}
			finish(t, store, ids[0], time.Now().Add(kept))
			// Also the one after it, within the same second.
			again := ask(t, processes[1], body)
			if seen[again] || again == "" {
				t.Fatalf("no. %d: after %s came %q", n, ids[0], again)
			}
			seen[again] = true
			finish(t, store, again, time.Now().Add(kept))
		}
		// Two that have nothing to do with each other don't meet.
		if id := ask(t, processes[0], `{"since":"95h"}`); seen[id] {
			t.Errorf("another request got %s", id)
		}
	})
}

// slowly is a database that takes two seconds to record a backfill.
type slowly struct{ state.Store }

func (s slowly) CreateBackfill(ctx context.Context, feed string, b state.Backfill) error {
	time.Sleep(2 * time.Second)
	return s.Store.CreateBackfill(ctx, feed, b)
}

// TestEqualRequestsBeforeEitherIsRecorded mean one backfill, though their times differ.
func TestEqualRequestsBeforeEitherIsRecorded(t *testing.T) {
	store := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		occupy(t, store)
		processes := []http.Handler{newIngest(t, slowly{store}, nil), newIngest(t, slowly{store}, nil)}
		var asking sync.WaitGroup
		ids := make([]string, len(processes))
		for i, p := range processes {
			asking.Go(func() { ids[i] = ask(t, p, `{"since":"96h"}`) })
			time.Sleep(time.Second)
		}
		asking.Wait()
		if ids[0] == "" || ids[0] != ids[1] {
			t.Errorf("one text, backfills %v", ids)
		}
	})
}

// TestAnUnfinishedBackfillIsFound: also when the records before it are gone, and
// not for an id of somebody's own that only looks like it.
func TestAnUnfinishedBackfillIsFound(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	ingest := newIngest(t, store, http.NotFoundHandler())
	const body = `{"since":"96h"}`
	first := ask(t, ingest, body)
	finish(t, store, first, time.Now().Add(kept))
	second := ask(t, ingest, body)
	if b, v, err := store.Backfill(t.Context(), "default", first); err != nil {
		t.Fatal(err)
	} else {
		b.ExpireAt = time.Now()
		if _, err := store.WriteBackfill(t.Context(), "default", b, v); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask(t, ingest, body); got != second {
		t.Errorf("got %s, and %s is unfinished", got, second)
	}
	finish(t, store, second, time.Now())
	own := ask(t, ingest, fmt.Sprintf(`{"since":"50h","id":%q}`, first))
	if got := ask(t, ingest, body); got == own || got == "" {
		t.Errorf("got %s, which is asked for with another range", got)
	}
}

// TestATypeThatNobodyKnowsIsNoted: it is no error, since the API's list grows, and it may
// be a slip of the pen that matches nothing. What a note repeats is bounded.
func TestATypeThatNobodyKnowsIsNoted(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	ingest := newIngest(t, store, http.NotFoundHandler())
	types := strings.Repeat(`"`+strings.Repeat("z", 100)+`",`, 40)
	for _, c := range []struct {
		filter, want string
		most         int
	}{
		{`{"alert_type":["Message","Leter"]}`, `the field "filter": alert_type: "Leter" is none of the types known to this version`, 1000},
		{`{"alert_type":[` + types + `"Message"]}`, `is none of the types known`, 5000},
		{`{"alert_type":["Message"]}`, "", 1000},
	} {
		w := httptest.NewRecorder()
		ingest.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/backfill",
			strings.NewReader(`{"since":"96h","filter":`+c.filter+`}`)))
		var b struct{ Note string }
		if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || w.Code != http.StatusAccepted {
			t.Fatalf("%.100s: %d %s", c.filter, w.Code, w.Body)
		}
		if said := strings.Contains(b.Note, "none of the types"); said != (c.want != "") || !strings.Contains(b.Note, c.want) || len(b.Note) > c.most {
			t.Errorf("%.100s: the note of %d bytes is %.300q", c.filter, len(b.Note), b.Note)
		}
	}
}

// TestWhatIsNoTime: what time.Parse takes, and RFC 3339 doesn't have, is no moment.
func TestWhatIsNoTime(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	ingest := newIngest(t, store, http.NotFoundHandler())
	for since, want := range map[string]string{
		"2026-01-02T1:02:03Z":            "allowed: an RFC 3339 time",
		"2026-01-02T01:02:03,5Z":         "allowed: an RFC 3339 time",
		"2026-01-02T01:02:03+24:00":      "allowed: an RFC 3339 time",
		"2562047h":                       "allowed: an RFC 3339 time",
		"0s":                             "which is now or in the future; allowed: a time before the live position",
		"2026-01-02t01:02:03.123456789z": "",
	} {
		w := httptest.NewRecorder()
		ingest.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/backfill", strings.NewReader(fmt.Sprintf(`{"since":%q}`, since))))
		if refused := w.Code == http.StatusBadRequest; refused != (want != "") || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", since, w.Code, w.Body)
		}
	}
}

// TestConflictOfADryBackfill: a dry run answers for no other backfill than its id's.
func TestConflictOfADryBackfill(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	ingest := newIngest(t, store, http.NotFoundHandler())
	const body = `{"since":"2026-01-02T00:00:00Z","until":"2026-01-03T00:00:00Z","id":"x"%s}`
	for _, c := range []struct {
		body string
		want int
	}{
		{fmt.Sprintf(body, ""), http.StatusAccepted},
		{fmt.Sprintf(body, `,"dry_run":true`), http.StatusBadGateway}, // the API answers nothing
		{fmt.Sprintf(body, `,"dry_run":true,"republish":true`), http.StatusConflict},
		{strings.Replace(fmt.Sprintf(body, `,"dry_run":true`), "03T", "04T", 1), http.StatusConflict},
	} {
		if w := serveAs(t, ingest, nil, http.MethodPost, "/backfill", c.body); w.Code != c.want {
			t.Errorf("%s: %d %s, want %d", c.body, w.Code, w.Body, c.want)
		}
	}
}

// TestAQueryThatCannotBeRead is refused, and not taken for none.
func TestAQueryThatCannotBeRead(t *testing.T) {
	w := httptest.NewRecorder()
	newIngest(t, openStore(t), http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/backfill?limit=%zz", http.NoBody))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "the query can't be read") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestARangeIsCutWhereTheLiveFeedIsResponsible, and the note says so. What is published
// again reaches to the live feed's end: it won't bring what is published after its position.
func TestARangeIsCutWhereTheLiveFeedIsResponsible(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	found, err := store.Open(t.Context(), "default", "")
	if err != nil {
		t.Fatal(err)
	}
	end := found.Feed.End.Add(-time.Hour)
	position := end.Add(-10 * time.Minute)
	found.Feed.End = end
	found.Feed.Slices = []state.Slice{{From: position, To: end, DoneUntil: position}}
	if _, err := store.WriteFeed(t.Context(), "default", found.Feed, found.Revision); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		body, cutAt string
		until       time.Time
	}{
		{`{"since":"96h","until":"0s"}`, "the live position " + position.Format(time.RFC3339Nano), position},
		{`{"since":"96h"}`, "", position},
		{`{"since":"96h","until":"0s","republish":true}`, "the live feed's end " + end.Format(time.RFC3339Nano), end},
		{`{"since":"96h","republish":true}`, "", end},
	} {
		w := serveAs(t, newIngest(t, store, http.NotFoundHandler()), nil, http.MethodPost, "/backfill", tc.body)
		var b struct {
			ID, Note string
			Until    time.Time
		}
		if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || w.Code != http.StatusAccepted || !b.Until.Equal(tc.until) ||
			strings.Contains(b.Note, "was cut at") != (tc.cutAt != "") || !strings.Contains(b.Note, tc.cutAt) {
			t.Errorf("%s: %d %s; want the end %s", tc.body, w.Code, w.Body, tc.until)
		}
		if stored, _, err := store.Backfill(t.Context(), "default", b.ID); err != nil || !stored.Until.Equal(tc.until) {
			t.Errorf("%s: stored is %+v, %v", tc.body, stored, err)
		}
	}
}

// TestAFilterThatIsNoJSON was edited by hand in the database: the feed and its backfills are
// shown without it, and a backfill can be cancelled.
func TestAFilterThatIsNoJSON(t *testing.T) {
	store := openStore(t)
	ingest := newIngest(t, store, http.NotFoundHandler())
	for i, filter := range []string{"", `{"status":["new"}`, "{} {}"} {
		feed, id := state.Feed{BeginsAt: time.Now(), End: time.Now(), Filter: filter}, fmt.Sprint("b", i)
		found, err := store.Open(t.Context(), "default", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.WriteFeed(t.Context(), "default", feed, found.Revision); err != nil {
			t.Fatal(err)
		}
		if err := store.CreateBackfill(t.Context(), "default", state.Backfill{ID: id, State: state.Pending, Filter: filter}); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ method, path, state string }{
			{http.MethodGet, "/status", state.Pending},
			{http.MethodGet, "/backfill", state.Pending},
			{http.MethodGet, "/backfill/" + id, state.Pending},
			{http.MethodDelete, "/backfill/" + id, state.Cancelled},
		} {
			w := serveAs(t, ingest, nil, c.method, c.path, "")
			if body := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, `"filter":null`) || !strings.Contains(body, `"state":"`+c.state) {
				t.Errorf("the filter %q, %s %s: %d %s", filter, c.method, c.path, w.Code, body)
			}
		}
	}
}
