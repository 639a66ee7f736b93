package drain

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/lifecycle"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// sec is so many seconds into the day before the one that a bubble begins with.
func sec(n int) time.Time {
	return time.Date(1999, 12, 31, 0, 0, n, 0, time.UTC)
}

// turn is one answer of a listing: a page of alerts created at these seconds, or
// an error.
type turn struct {
	created []int
	next    string
	err     error
}

func page(next string, created ...int) turn { return turn{created: created, next: next} }

func fails(err error) turn { return turn{err: err} }

// scripted answers listing after listing as it is told, and writes down what it
// was asked.
type scripted struct {
	listings [][]turn
	asked    []string
}

func (s *scripted) List(_ context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		asked := fmt.Sprint("since ", q.Since.Sub(sec(0)).Seconds())
		if q.Size != 4 {
			asked += fmt.Sprint(" size ", q.Size)
		}
		if !q.Refs {
			asked += " without refs"
		}
		if q.Alone {
			asked += " alone"
		}
		s.asked = append(s.asked, asked)
		if len(s.listings) == 0 {
			yield(dtm.Page{}, errors.New("the script has ended"))
			return
		}
		turns := s.listings[0]
		s.listings = s.listings[1:]
		for _, turn := range turns {
			p := dtm.Page{Next: turn.next, AskedAt: time.Now()}
			for _, n := range turn.created {
				p.Alerts = append(p.Alerts, dtm.Alert{ID: fmt.Sprint(n), CreatedAt: sec(n), UpdatedAt: sec(n), HasDoc: q.Refs})
			}
			if !yield(p, turn.err) {
				return
			}
		}
	}
}

// notebook is a desk that writes down what it publishes.
type notebook struct{ published []string }

func (n *notebook) Handle(_ context.Context, alerts []dtm.Alert, _ func(int) int) (lifecycle.Tally, error) {
	tally := lifecycle.Tally{Handled: len(alerts)}
	for _, a := range alerts {
		name := a.ID
		if !a.HasDoc {
			name += " bare"
		}
		if known := func() bool {
			for _, p := range n.published {
				if p == a.ID || p == a.ID+" bare" {
					return true
				}
			}
			return false
		}(); known {
			tally.Suppressed++
			continue
		}
		n.published = append(n.published, name)
		tally.Created++
	}
	return tally, nil
}

var (
	errSpent = &dtm.RestartError{Cause: errors.New("reset")}
	errOld   = &dtm.APIError{Status: 400}
	errLarge = &dtm.PageTooLargeError{}
)

// TestReader reads [0 s, 1000 s) with pages of 4 alerts from a source that
// follows a script, by one worker.
func TestReader(t *testing.T) {
	changeable := dtm.Filter{Status: []string{"new"}}
	const lookback = 20 * time.Hour // a bubble begins 24 hours behind sec(0)
	for _, c := range []struct {
		name     string
		filter   dtm.Filter
		lookback time.Duration
		listings [][]turn
		asked    []string
		publish  string
		left     []state.Slice
		gaps     []state.Gap
		err      string
	}{
		{
			name:     "a page without a next link ends the slice",
			listings: [][]turn{{page("a", 1, 2), page("", 3)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 3",
		},
		{
			name:     "an empty page without a next link ends the slice",
			listings: [][]turn{{page("")}},
			asked:    []string{"since -0.001"},
		},
		{
			name:     "two alerts from behind the slice end it, and do not belong to it",
			listings: [][]turn{{page("a", 1, 1000, 1001), page("", 2)}},
			asked:    []string{"since -0.001"},
			publish:  "1",
		},
		{
			name:     "so do two on two pages",
			listings: [][]turn{{page("a", 1, 1000), page("b", 1000), page("", 2)}},
			asked:    []string{"since -0.001"},
			publish:  "1",
		},
		{
			name:     "and the last one of all",
			listings: [][]turn{{page("", 1, 2, 3, 1000), page("", 2)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 3",
		},
		{
			name:     "a single one from behind the slice hides none that come after it",
			listings: [][]turn{{page("a", 1, 2, 3, 5000), page("b", 5000, 4), page("", 5000, 5, 5000)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 3 4 5",
		},
		{
			name:     "nor does one from before what was asked for",
			listings: [][]turn{{page("a", 1, -50, 2), page("", -50, 3)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 3",
		},
		{
			name:     "from behind the slice, and in the wrong order",
			listings: [][]turn{{page("a", 3000, 2000)}, {page("a", 3000, 2000)}},
			asked:    []string{"since -0.001", "since -0.001"},
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}},
			err:      "out of order",
		},
		{
			name:     "a full page without a next link is confirmed by a listing that brings nothing",
			listings: [][]turn{{page("", 1, 2, 3, 4)}, {page("", 4)}},
			asked:    []string{"since -0.001", "since 3.999"},
			publish:  "1 2 3 4",
		},
		{
			name:     "a full page without a next link, full of one moment",
			listings: [][]turn{{page("", 1, 1, 1, 1)}, {page("", 1, 1, 1, 1)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1",
		},
		{
			name:     "a full page without a next link, and there was more",
			listings: [][]turn{{page("", 1, 2, 3, 4)}, {page("a", 4, 5, 6, 7), page("", 8)}},
			asked:    []string{"since -0.001", "since 3.999"},
			publish:  "1 2 3 4 5 6 7 8",
		},
		{
			name:     "an empty first page with a next link is asked for once more",
			listings: [][]turn{{page("a")}, {page("b")}},
			asked:    []string{"since -0.001", "since -0.001"},
		},
		{
			name:     "an empty first page was a mistake",
			listings: [][]turn{{page("a")}, {page("", 1)}},
			asked:    []string{"since -0.001", "since -0.001"},
			publish:  "1",
		},
		{
			name:     "behind an empty later page comes a new listing, then three links",
			listings: [][]turn{{page("a", 1), page("b")}, {page("c", 1), page("d"), page("e"), page("f"), page("g")}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1",
		},
		{
			name:     "a page that was withheld comes in the new listing",
			listings: [][]turn{{page("a", 1), page("b"), page("", 3)}, {page("c", 1, 2), page("", 3)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2 3",
		},
		{
			name:     "an empty page between others is followed when the new listing has it too",
			listings: [][]turn{{page("a", 1), page("b")}, {page("c", 1), page("d"), page("e"), page("", 2)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2",
		},
		{
			name: "an empty page behind something new is not followed",
			listings: [][]turn{
				{page("a", 1), page("b")},
				{page("c", 1, 2), page("d")},
				{page("e", 2), page("f"), page("g"), page("h"), page("i")},
			},
			asked:   []string{"since -0.001", "since 0.999", "since 1.999"},
			publish: "1 2",
		},
		{
			name:     "a token that is repeated ends the run's work on the slice when a new listing brings nothing",
			listings: [][]turn{{page("a", 1), page("a", 2)}, {page("b", 2), page("b")}},
			asked:    []string{"since -0.001", "since 1.999"},
			publish:  "1 2",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(2)}},
		},
		{
			name:     "a token that is repeated by mistake",
			listings: [][]turn{{page("a", 1), page("a", 2)}, {page("b", 2), page("", 3)}},
			asked:    []string{"since -0.001", "since 1.999"},
			publish:  "1 2 3",
		},
		{
			name:     "a page out of order is published and does not move the position",
			listings: [][]turn{{page("a", 1), page("b", 4, 3)}, {page("a", 1), page("", 2, 3, 4)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 4 3 2",
		},
		{
			name:     "pages out of order twice in a row, with nothing new",
			listings: [][]turn{{page("a", 1, 4, 3)}, {page("a", 1, 4, 3)}, {page("a", 1, 4, 3)}},
			asked:    []string{"since -0.001", "since -0.001"},
			publish:  "1 4 3",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}},
			err:      "out of order",
		},
		{
			name:     "a page that got lost starts the listing again",
			listings: [][]turn{{page("a", 1), fails(errSpent)}, {page("b", 1), page("", 2)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2",
		},
		{
			name:     "pages that get lost twice in a row without progress",
			listings: [][]turn{{page("a", 1), fails(errSpent)}, {page("b", 1), fails(errSpent)}, {page("c", 1), fails(errSpent)}},
			asked:    []string{"since -0.001", "since 0.999", "since 0.999"},
			publish:  "1",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
			err:      "twice in a row",
		},
		{
			name:     "pages that get lost, with progress between",
			listings: [][]turn{{page("a", 1), fails(errSpent)}, {page("b", 2), fails(errSpent)}, {page("c", 3), fails(errSpent)}, {page("", 3)}},
			asked:    []string{"since -0.001", "since 0.999", "since 1.999", "since 2.999"},
			publish:  "1 2 3",
		},
		{
			name: "listings that bring nothing come to an end, whatever ends them",
			listings: [][]turn{
				{page("a")},
				{fails(errSpent)},
				{page("a")},
				{fails(errSpent)},
				{page("a")},
				{fails(errSpent)},
			},
			asked: []string{"since -0.001", "since -0.001", "since -0.001", "since -0.001", "since -0.001", "since -0.001"},
			left:  []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}},
			err:   "6 listings in a row brought nothing",
		},
		{
			name:     "another error ends the run",
			listings: [][]turn{{page("a", 1), fails(errOld)}},
			asked:    []string{"since -0.001"},
			publish:  "1",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
			err:      "400",
		},
		{
			name: "a page too large shrinks, and is full again behind as many alerts",
			listings: [][]turn{
				{fails(errLarge)},
				{page("a", 1), page("b", 2), page("c", 3), page("d", 4), page("e", 5)},
				{page("f", 4, 5, 6, 7), page("", 8)},
			},
			asked:   []string{"since -0.001", "since -0.001 size 1", "since 3.999"},
			publish: "1 2 3 4 5 6 7 8",
		},
		{
			name: "an alert too large comes without its document, the one behind it with it",
			listings: [][]turn{
				{fails(errLarge)},
				{page("a", 1), fails(errLarge)},
				{page("b", 1), page("c", 2), page("d", 3)},
				{page("", 3, 4)},
			},
			asked:   []string{"since -0.001", "since -0.001 size 1", "since 0.999 size 1 without refs", "since 2.999"},
			publish: "1 2 bare 3 4",
		},
		{
			name: "an alert too large that was published already",
			listings: [][]turn{
				{page("a", 1, 2), fails(errSpent)},
				{fails(errLarge)},
				{fails(errLarge)},
				{page("b", 2), page("c", 3)},
				{page("", 3, 4)},
			},
			asked:   []string{"since -0.001", "since 1.999", "since 1.999 size 1", "since 1.999 size 1 without refs", "since 2.999"},
			publish: "1 2 3 4",
		},
		{
			name:     "an alert too large even so",
			listings: [][]turn{{fails(errLarge)}, {fails(errLarge)}, {fails(errLarge)}},
			asked:    []string{"since -0.001", "since -0.001 size 1", "since -0.001 size 1 without refs"},
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}},
			err:      "larger than",
		},
		{
			name: "without memory the listing waits for it, and what was learned before stays",
			listings: [][]turn{
				{page("a", 1), page("b")},
				{page("c", 1), fails(dtm.ErrMemory)},
				{page("d", 1), page("e"), page("f"), page("g"), page("h")},
			},
			asked:   []string{"since -0.001", "since 0.999", "since 0.999 alone"},
			publish: "1",
		},
		{
			name:     "a filter on what changes: each page is a new listing",
			filter:   changeable,
			listings: [][]turn{{page("a", 1, 2)}, {page("b", 2, 3, 4)}, {page("", 4)}},
			asked:    []string{"since -0.001", "since 1.999", "since 3.999"},
			publish:  "1 2 3 4",
		},
		{
			name:     "a filter on what changes: tokens get past one moment",
			filter:   changeable,
			listings: [][]turn{{page("a", 1, 2)}, {page("b", 2, 2), page("c", 2, 3)}, {page("", 3)}},
			asked:    []string{"since -0.001", "since 1.999", "since 2.999"},
			publish:  "1 2 3",
		},
		{
			name:     "a since refused for its age leaves a gap when a younger one is answered",
			lookback: lookback,
			listings: [][]turn{{fails(errOld)}, {page("", 1500)}},
			asked:    []string{"since -0.001", "since 15000"},
			gaps:     []state.Gap{{Since: sec(0), Until: sec(1000)}},
		},
		{
			name:     "a since refused, and the younger one too: the position stays",
			lookback: lookback,
			listings: [][]turn{{fails(errOld)}, {fails(errOld)}},
			asked:    []string{"since -0.001", "since 15000"},
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}},
			err:      "400",
		},
		{
			name:     "a first alert that is younger than the known look-back is suspected",
			lookback: 24*time.Hour - time.Minute, // ten minutes more are known at 660 s
			listings: [][]turn{{page("", 900)}},
			asked:    []string{"since -0.001"},
			publish:  "900",
			gaps:     []state.Gap{{Since: sec(0), Until: sec(660), Suspected: true}},
		},
		{
			name:     "a first alert within the known look-back is not",
			lookback: 24*time.Hour - time.Minute,
			listings: [][]turn{{page("", 600)}},
			asked:    []string{"since -0.001"},
			publish:  "600",
		},
		{
			name:     "a wait that outlives the run stops it",
			listings: [][]turn{{page("a", 1), fails(&dtm.WaitError{Wait: time.Hour, Cause: errOld})}},
			asked:    []string{"since -0.001"},
			publish:  "1",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
			err:      "after the end of this run",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, desk := &scripted{listings: c.listings}, &notebook{}
				stored := Progress{Slices: []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}}}
				e := &engine{
					opts:   Options{Workers: 1, PageSize: 4, Refs: true, Filter: c.filter, MaxLookback: 120 * time.Hour, Overlap: time.Minute},
					source: source, desk: desk, report: &Report{},
					save: func(p Progress) { stored = p }, onGap: func(state.Gap) {},
				}
				if c.lookback > 0 {
					e.opts.MaxLookback = c.lookback
				}
				err := e.run(t.Context(), t.Context(), stored)
				if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				if diff := cmp.Diff(c.asked, source.asked); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.publish, strings.Join(desk.published, " ")); diff != "" {
					t.Errorf("published (-want +got):\n%s", diff)
				}
				if len(stored.Slices) == 0 {
					stored.Slices = nil
				}
				if diff := cmp.Diff(c.left, stored.Slices); diff != "" {
					t.Errorf("left to read (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.gaps, stored.Gaps); diff != "" {
					t.Errorf("gaps (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestRefusalIsRemembered: what the API refused for its age within the day is
// not asked for, and what is younger is read all the same.
func TestRefusalIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		young := state.Slice{From: sec(80_000), To: sec(86_000), DoneUntil: sec(80_000)}
		stored := Progress{
			Slices:  []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}, young},
			Refusal: &state.Refusal{At: time.Now().Add(-time.Hour), Age: 23 * time.Hour},
		}
		source := &scripted{listings: [][]turn{{page("", 81_000)}}}
		e := &engine{
			opts:   Options{Workers: 3, PageSize: 4, Refs: true, MaxLookback: 20 * time.Hour, Overlap: time.Hour},
			source: source, desk: &notebook{}, report: &Report{},
			save: func(p Progress) { stored = p }, onGap: func(state.Gap) {},
		}
		fetching, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.run(fetching, t.Context(), stored); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"since 79999.999"}, source.asked); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]state.Gap{{Since: sec(0), Until: sec(1000)}}, stored.Gaps); diff != "" {
			t.Errorf("gaps (-want +got):\n%s", diff)
		}
		// Only what was listed is read again: the last hour but the settled seconds.
		if want := time.Now().UTC().Add(-time.Hour); !stored.RereadFrom.Equal(want) {
			t.Errorf("to be read again from %s, want %s", stored.RereadFrom, want)
		}
	})
}

// slow is a source whose pages take a minute each.
type slow struct{ Source }

func (s slow) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		for p, err := range s.Source.List(ctx, q) {
			p.AskedAt = time.Now()
			time.Sleep(time.Minute)
			if !yield(p, err) {
				return
			}
		}
	}
}

// TestRereadFrom: a listing shows what was in the index when it began, however
// long it takes.
func TestRereadFrom(t *testing.T) {
	const overlap = 3 * time.Minute
	for _, c := range []struct {
		name  string
		turns []turn
	}{
		{"alerts of a late page", []turn{page("a", 86_000), page("b", 86_100), page("", 86_300)}},
		{"alerts of the first page", []turn{page("a", 86_000, 86_260), page("", 86_280)}},
		{"the end, without any alert", []turn{page("a", 86_000), page("")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now().UTC()
				stored := Progress{Slices: []state.Slice{{From: sec(85_000), To: sec(86_370), DoneUntil: sec(85_000)}}}
				e := &engine{
					opts:   Options{Workers: 1, PageSize: 4, Refs: true, MaxLookback: 120 * time.Hour, Overlap: overlap},
					source: slow{&scripted{listings: [][]turn{c.turns}}}, desk: &notebook{}, report: &Report{},
					save: func(p Progress) { stored = p }, onGap: func(state.Gap) {},
				}
				if err := e.run(t.Context(), t.Context(), stored); err != nil {
					t.Fatal(err)
				}
				if got := began.Sub(stored.RereadFrom); got != overlap {
					t.Errorf("to be read again from %s before the beginning, want %s", got, overlap)
				}
			})
		})
	}
}

// oneAtATime is a desk that takes its time.
type oneAtATime struct {
	t    *testing.T
	turn chan struct{}
}

func (d *oneAtATime) Handle(_ context.Context, alerts []dtm.Alert, _ func(int) int) (lifecycle.Tally, error) {
	select {
	case d.turn <- struct{}{}:
	default:
		d.t.Error("two pages with unusable elements are handled at the same time")
	}
	time.Sleep(time.Second)
	<-d.turn
	return lifecycle.Tally{Handled: len(alerts)}, nil
}

// unusable answers every listing with an element that is no alert.
type unusable struct{}

func (unusable) List(context.Context, dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		yield(dtm.Page{Alerts: []dtm.Alert{{Raw: []byte("null"), Fault: "not an object"}}, AskedAt: time.Now()}, nil)
	}
}

// TestUnusableElements: the ledger can't tell two workers apart that are shown the
// same element at the same time. Nobody waits for the others beyond the run's time.
func TestUnusableElements(t *testing.T) {
	for _, c := range []struct {
		name         string
		budget, took time.Duration
		end          error
	}{
		{name: "each in its turn", budget: time.Hour, took: 4 * time.Second},
		{name: "the time is up", budget: 1500 * time.Millisecond, took: 2 * time.Second, end: errBudget},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var stored Progress
				for i := range 4 {
					stored.Slices = append(stored.Slices, state.Slice{From: sec(i), To: sec(i + 1), DoneUntil: sec(i)})
				}
				e := &engine{
					opts:   Options{Workers: 4, PageSize: 4, MaxLookback: 120 * time.Hour},
					source: unusable{}, desk: &oneAtATime{t: t, turn: make(chan struct{}, 1)}, report: &Report{},
					save: func(Progress) {}, onGap: func(state.Gap) {},
				}
				began := time.Now()
				fetching, cancel := context.WithTimeoutCause(t.Context(), c.budget, errBudget)
				defer cancel()
				if err := e.run(fetching, t.Context(), stored); !errors.Is(err, c.end) {
					t.Fatal(err)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}
