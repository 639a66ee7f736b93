package drain

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

func TestWithout(t *testing.T) {
	gap := func(since, until int) state.Gap {
		return state.Gap{TimeRange: state.TimeRange{Since: at(since), Until: at(until)}}
	}
	for _, c := range []struct {
		name string
		gaps []state.Gap
		want []state.Gap
	}{
		{"none", nil, nil},
		{"the same", []state.Gap{gap(10, 20)}, nil},
		{"within", []state.Gap{gap(12, 15)}, nil},
		{"around", []state.Gap{gap(5, 30)}, []state.Gap{gap(5, 10), gap(20, 30)}},
		{"over its beginning", []state.Gap{gap(5, 15)}, []state.Gap{gap(5, 10)}},
		{"over its end", []state.Gap{gap(15, 30)}, []state.Gap{gap(20, 30)}},
		{"touching", []state.Gap{gap(5, 10), gap(20, 30)}, []state.Gap{gap(5, 10), gap(20, 30)}},
		{"apart", []state.Gap{gap(1, 2), gap(40, 50)}, []state.Gap{gap(1, 2), gap(40, 50)}},
		{
			"a suspected one stays suspected",
			[]state.Gap{{TimeRange: state.TimeRange{Since: at(5), Until: at(15)}, Suspected: true}},
			[]state.Gap{{TimeRange: state.TimeRange{Since: at(5), Until: at(10)}, Suspected: true}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, cutOut(c.gaps, rangeOfGap, at(10), at(20))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// memoryStore is a database of one feed.
type memoryStore struct {
	mu              sync.Mutex
	feed            state.Feed
	records         map[string]state.Backfill
	revisions       map[string]int
	reads           []string
	failing         error                 // what a write of a backfill ends with
	concurrentWrite func(*state.Backfill) // changes the record before the next write
}

func newMemoryStore(records ...state.Backfill) *memoryStore {
	s := &memoryStore{records: map[string]state.Backfill{}, revisions: map[string]int{}}
	for _, b := range records {
		s.records[b.ID], s.revisions[b.ID] = b, 1
	}
	return s
}

func (s *memoryStore) Open(context.Context, string, string) (state.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return state.Snapshot{Feed: s.feed.Clone(), Revision: "1"}, nil
}

func (s *memoryStore) WriteFeed(_ context.Context, _ string, f state.Feed, _ state.Revision) (state.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Unfinished = s.feed.Unfinished
	s.feed = f
	return "1", nil
}

func (s *memoryStore) AddUsage(context.Context, string, state.Usage, state.Usage) error { return nil }

func (s *memoryStore) revision(id string) state.Revision {
	if s.revisions[id] == 0 {
		return ""
	}
	return state.Revision(strconv.Itoa(s.revisions[id]))
}

func (s *memoryStore) Backfill(_ context.Context, _, id string) (state.Backfill, state.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, id)
	return s.records[id], s.revision(id), nil
}

// CreateBackfill is asked for one that is finished, in the place of one that was deleted.
func (s *memoryStore) CreateBackfill(_ context.Context, _ string, b state.Backfill) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revision(b.ID) != "" || !b.Expired(time.Now()) {
		return state.ErrConflict
	}
	s.feed.Unfinished = slices.DeleteFunc(slices.Clone(s.feed.Unfinished), func(id string) bool { return id == b.ID })
	return nil
}

func (s *memoryStore) WriteBackfill(_ context.Context, _ string, b state.Backfill, v state.Revision) (state.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing != nil {
		return "", s.failing
	}
	if s.concurrentWrite != nil {
		changed := s.records[b.ID]
		s.concurrentWrite(&changed)
		s.records[b.ID], s.concurrentWrite = changed, nil
		s.revisions[b.ID]++
	}
	if v != s.revision(b.ID) {
		return "", state.ErrConflict
	}
	s.records[b.ID] = b
	s.revisions[b.ID]++
	return s.revision(b.ID), nil
}

func TestTicketWrite(t *testing.T) {
	stored := state.Backfill{ID: "b", State: state.Running, Slices: []state.Slice{span3(0, 100, 10)}}
	work := func(b *state.Backfill) { b.Published, b.Slices = 7, []state.Slice{span3(0, 100, 50)} }
	worked := stored
	work(&worked)
	cancel := func(b *state.Backfill) { b.State, b.FinishedAt, b.ExpireAt = state.Cancelled, at(1), at(2) }
	cancelled := worked
	cancel(&cancelled)
	unavailable := errors.New("unavailable")
	for _, c := range []struct {
		name            string
		concurrentWrite func(*state.Backfill)
		failing         error
		want            state.Backfill
		told            bool
	}{
		{name: "alone", want: worked},
		{name: "cancelled meanwhile", concurrentWrite: cancel, want: cancelled, told: true},
		{name: "touched meanwhile", concurrentWrite: func(*state.Backfill) {}, want: worked},
		{name: "unavailable", failing: unavailable, want: stored},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newMemoryStore(stored)
			s.concurrentWrite, s.failing = c.concurrentWrite, c.failing
			told := false
			tk := &recordWriter{
				store: s, checkLease: func() error { return nil }, cancelled: func() { told = true },
				spent: func(*state.Backfill) {}, record: stored, revision: "1",
			}
			tk.update(work)
			if err := tk.write(t.Context()); !errors.Is(err, c.failing) {
				t.Errorf("error %v, want %v", err, c.failing)
			}
			if diff := cmp.Diff(c.want, s.records["b"]); diff != "" || told != c.told {
				t.Errorf("told of a cancel: %t, want %t; stored: %s", told, c.told, diff)
			}
			if tk.dirty != (c.failing != nil) {
				t.Errorf("there is something to write: %t", tk.dirty)
			}
		})
	}
}

// TestADeletedRecordLeavesTheList: the backfill is cancelled, and its record says so.
func TestADeletedRecordLeavesTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, told := newMemoryStore(), false
		tk := &recordWriter{
			store: s, checkLease: func() error { return nil }, cancelled: func() { told = true },
			spent: func(*state.Backfill) {}, record: state.Backfill{ID: "b", State: state.Running}, revision: "1",
		}
		tk.update(func(b *state.Backfill) { b.Published = 7 })
		if err := tk.write(t.Context()); err != nil || !told {
			t.Errorf("told of a cancel: %t, %v", told, err)
		}
		now := time.Now().UTC()
		want := state.Backfill{ID: "b", State: state.Cancelled, Published: 7, FinishedAt: now, ExpireAt: now.Add(KeepFinished)}
		if diff := cmp.Diff(want, s.records["b"]); diff != "" || !tk.finish(nil) {
			t.Errorf("stored (-want +got):\n%s", diff)
		}
	})
}

func TestTicketWritesNothingWithoutTheLease(t *testing.T) {
	s := newMemoryStore(state.Backfill{ID: "b", State: state.Running})
	tk := &recordWriter{
		store: s, checkLease: func() error { return state.ErrLost }, spent: func(*state.Backfill) {},
		record: state.Backfill{ID: "b", State: state.Done}, revision: "1",
	}
	if err := tk.write(t.Context()); !errors.Is(err, state.ErrLost) || s.records["b"].State != state.Running {
		t.Errorf("error %v, and %s is stored", err, s.records["b"].State)
	}
}

func TestFinish(t *testing.T) {
	answer := func(status int) error { return fmt.Errorf("listing: %w", &dtm.APIError{Status: status}) }
	publish := errors.New("publishing alert a1: unavailable")
	for _, c := range []struct {
		name     string
		was      string
		err      error
		state    string
		finished bool
		told     bool // the record has the error
	}{
		{"read to its end", state.Running, nil, state.Done, true, false},
		{"the live feed is to be looked at", state.Running, errLiveFeed, state.Running, false, false},
		{"budget", state.Running, errBudget, state.Running, false, false},
		{"shutdown", state.Running, errShutdown, state.Running, false, false},
		{"cap", state.Running, errCap, state.Running, false, false},
		{"refused", state.Running, answer(400), state.Failed, true, true},
		{"unknown monitor", state.Running, answer(404), state.Failed, true, true},
		{"refused as it is", state.Running, answer(422), state.Failed, true, true},
		{"a page token that is refused", state.Running, &listingError{&dtm.RestartError{Cause: answer(400)}}, state.Running, false, true},
		{"refused by a proxy", state.Running, &dtm.APIError{Status: 400, Foreign: true}, state.Running, false, true},
		{"not yet", state.Running, &dtm.APIError{Status: 400, Code: "NotAvailableYet"}, state.Running, false, true},
		{"another 4xx", state.Running, answer(409), state.Running, false, true},
		{"wrong key", state.Running, answer(401), state.Running, false, true},
		{"no right", state.Running, answer(403), state.Running, false, true},
		{"timeout", state.Running, answer(408), state.Running, false, true},
		{"too many", state.Running, answer(429), state.Running, false, true},
		{"server", state.Running, answer(500), state.Running, false, true},
		{"a wait", state.Running, &dtm.WaitError{Wait: time.Hour, Cause: answer(503)}, state.Running, false, true},
		{"publishing", state.Running, publish, state.Running, false, true},
		{"cancelled", state.Cancelled, errCancelled, state.Cancelled, true, false},
		{"cancelled at its end", state.Cancelled, nil, state.Cancelled, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			slices := []state.Slice{span3(0, 100, 50)}
			tk := &recordWriter{record: state.Backfill{ID: "b", State: c.was, Error: "an earlier one", Slices: slices}}
			if c.was == state.Cancelled {
				tk.record.Error = ""
			}
			finished := tk.finish(c.err)
			b := tk.record
			if finished != c.finished || b.State != c.state || b.Finished() != c.finished {
				t.Errorf("finished %t as %s, want %t as %s", finished, b.State, c.finished, c.state)
			}
			want := ""
			if c.told {
				want = c.err.Error()
			}
			if b.Error != want {
				t.Errorf("error %q, want %q", b.Error, want)
			}
			if kept := len(b.Slices) == 1; kept == (b.State == state.Done) {
				t.Errorf("as %s it has the slices %v", b.State, b.Slices)
			}
			if c.was == state.Running && b.ExpireAt.IsZero() == c.finished {
				t.Errorf("as %s it expires at %s", b.State, b.ExpireAt)
			}
		})
	}
}

// empty answers every listing with an empty last page, and writes down who asked
// from when.
type empty struct {
	name  string
	asked *[]string
	fail  error // of listings from fail's moment on
	from  time.Time
}

func (e empty) List(_ context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		since := q.Since.Add(ms)
		*e.asked = append(*e.asked, fmt.Sprint(e.name, " ", since.Sub(at(0)).Seconds()))
		if e.fail != nil && since.Equal(e.from) {
			yield(dtm.Page{}, e.fail)
			return
		}
		yield(dtm.Page{}, nil)
	}
}

func (e empty) Get(context.Context, string, bool) (dtm.Page, error) {
	return dtm.Page{}, errors.New("not asked for")
}

func (e empty) Stats() dtm.Stats { return dtm.Stats{} }

type idle struct{}

func (idle) Process(context.Context, []dtm.Alert, ledger.Allowance) (ledger.Counts, error) {
	return ledger.Counts{}, nil
}

func TestBackfills(t *testing.T) {
	backfill := func(id string, since int) state.Backfill {
		s := span3(since, since+5, since)
		return state.Backfill{ID: id, State: state.Pending, Since: s.From, Until: s.To, Slices: []state.Slice{s}}
	}
	for _, c := range []struct {
		name       string
		unfinished []string
		fail       error // what the listing of b-1 ends with
		works      func(id string) bool
		kind       string // of b-2; empty: somebody asked for it
		asked      []string
		reads      []string
		states     map[string]string
		outcome    string
	}{
		{name: "none", asked: []string{}, outcome: OK, states: map[string]string{"b-1": state.Pending, "b-2": state.Pending}},
		{
			name: "in the order of the list", unfinished: []string{"b-2", "b-1"},
			asked: []string{"backfill 20", "backfill 10"}, reads: []string{"b-2", "b-1"},
			states: map[string]string{"b-1": state.Done, "b-2": state.Done}, outcome: OK,
		},
		{
			name: "one is gone", unfinished: []string{"gone", "b-1"},
			asked: []string{"backfill 10"}, reads: []string{"gone", "b-1"},
			states: map[string]string{"b-1": state.Done, "b-2": state.Pending}, outcome: OK,
		},
		{
			name: "one is refused for good", unfinished: []string{"b-1", "b-2"}, fail: &dtm.APIError{Status: 422},
			asked: []string{"backfill 10", "backfill 20"}, reads: []string{"b-1", "b-2"},
			states: map[string]string{"b-1": state.Failed, "b-2": state.Done}, outcome: OK,
		},
		{
			name: "their share of the key is used up", unfinished: []string{"b-1", "b-2"}, fail: &dtm.BudgetError{What: "requests"},
			asked: []string{"backfill 10"}, reads: []string{"b-1"},
			states: map[string]string{"b-1": state.Running, "b-2": state.Pending}, outcome: OK,
		},
		{
			name: "the day's quota is used up", unfinished: []string{"b-1", "b-2"}, fail: &dtm.QuotaError{API: &dtm.APIError{Status: 429}},
			asked: []string{"backfill 10"}, reads: []string{"b-1"},
			states: map[string]string{"b-1": state.Running, "b-2": state.Pending}, outcome: Failed,
		},
		{
			name: "another one is this run's", unfinished: []string{"b-1", "b-2"}, works: func(id string) bool { return id == "b-2" },
			asked: []string{"backfill 20"}, reads: []string{"b-1", "b-2"},
			states: map[string]string{"b-1": state.Pending, "b-2": state.Done}, outcome: OK,
		},
		{
			name: "the relay's own is every run's", unfinished: []string{"b-1", "b-2"}, works: func(string) bool { return false }, kind: state.Audit,
			asked: []string{"backfill 20"}, reads: []string{"b-1", "b-2"},
			states: map[string]string{"b-1": state.Pending, "b-2": state.Done}, outcome: OK,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				second := backfill("b-2", 20)
				second.Kind = c.kind
				s := newMemoryStore(backfill("b-1", 10), second)
				s.feed.Unfinished = c.unfinished
				var asked []string
				r := &Runner{
					Feed: "f", RunID: "r", Store: s, Usage: usageOf(s, dtm.NewMeter(100)), Log: slog.New(slog.DiscardHandler),
					Options:       Options{Workers: 2, PageSize: 10, InitialLookback: time.Hour, MaxLookback: 1e6 * time.Hour, Budget: time.Minute},
					KeyID:         func(context.Context) (string, error) { return "k", nil },
					WorksBackfill: c.works,
					NewProcessor:  func(ledger.Options) Processor { return idle{} },
					LiveAPI:       empty{name: "live", asked: &asked},
					SweepAPI:      empty{name: "sweep", asked: &asked},
					BackfillAPI:   empty{name: "backfill", asked: &asked, fail: c.fail, from: at(10)},
				}
				report, err := r.Live(t.Context(), "schedule", false)
				if report.Outcome != c.outcome {
					t.Errorf("the run ends as %s: %v", report.Outcome, err)
				}
				// The live feed comes first.
				if len(asked) == 0 || asked[0][:4] != "live" {
					t.Fatalf("asked %v", asked)
				}
				if diff := cmp.Diff(c.asked, asked[1:]); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(c.reads, slices.Clone(s.reads)); diff != "" {
					t.Error(diff)
				}
				if slices.Contains(s.feed.Unfinished, "gone") {
					t.Errorf("unfinished are %v", s.feed.Unfinished)
				}
				for id, want := range c.states {
					if got := s.records[id].State; got != want {
						t.Errorf("%s is %s, want %s", id, got, want)
					}
				}
			})
		})
	}
}
