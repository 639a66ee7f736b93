package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/lifecycle"
)

// listing is what the API answers to one listing, page by page.
type listing []answer

type answer struct {
	// updated are seconds of updated_at; the alert's id is its number. Below 0 it has
	// no updated_at of its own, and 0 is an element that can't be read.
	updated []int
	next    string
	err     error
}

// script is a source that answers one listing after the other, and the last one
// for ever.
type script struct {
	listings []listing
	asked    []dtm.Query
	pages    int
	stop     func(page int) // told before a page is answered
}

func (s *script) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		now := s.listings[min(len(s.asked), len(s.listings)-1)]
		s.asked = append(s.asked, q)
		for _, a := range now {
			if s.pages++; s.stop != nil {
				s.stop(s.pages)
			}
			if ctx.Err() != nil {
				yield(dtm.Page{}, context.Cause(ctx))
				return
			}
			if a.err != nil {
				yield(dtm.Page{}, a.err)
				return
			}
			page := dtm.Page{Next: a.next}
			for _, at := range a.updated {
				a := version(fmt.Sprint("a", at), "new", max(at, -at))
				if a.Undated = at < 0; at == 0 {
					a = dtm.Alert{Raw: []byte("{"), Fault: "not valid JSON", Unreadable: true}
				}
				page.Alerts = append(page.Alerts, a)
			}
			if !yield(page, nil) || a.next == "" {
				return
			}
		}
	}
}

// TestSweep reads listings whose pages hold three alerts, back to 10 seconds.
func TestSweep(t *testing.T) {
	lost := answer{err: &dtm.RestartError{Cause: errDown}}
	head := answer{updated: []int{90, 80, 70}, next: "2"}
	for _, c := range []struct {
		name     string
		listings []listing
		shifting bool
		took     []string
		asked    int
		end      lifecycle.Ending
		err      error
	}{
		{name: "nothing at all", listings: []listing{{{}}}, asked: 1},
		{name: "nothing has changed", listings: []listing{{{updated: []int{9, 8, 7}, next: "2"}}}, asked: 1},
		{
			name: "back to what is known, and one more that may be out of place", asked: 1,
			listings: []listing{{head, {updated: []int{60, 9, 8}, next: "3"}, {updated: []int{7, 6, 5}}}},
			took:     []string{"a90", "a80", "a70", "a60", "a9"},
		},
		{
			name: "to the end of the listing", asked: 1,
			listings: []listing{{head, {updated: []int{60}}}},
			took:     []string{"a90", "a80", "a70", "a60"},
		},
		{
			name: "a page that is out of order proves nothing", asked: 1,
			listings: []listing{{{updated: []int{5, 90, 4}, next: "2"}, {updated: []int{80, 3}}}},
			took:     []string{"a5", "a90", "a4", "a80", "a3"},
		},
		{
			name: "a page is lost: from the top", asked: 2,
			listings: []listing{{head, lost}, {head, {updated: []int{60}}}},
			took:     []string{"a90", "a80", "a70", "a60"},
		},
		{
			name: "no page comes", listings: []listing{{lost}}, asked: 2, err: errDown, end: lifecycle.Unclear,
		},
		{
			name: "a link on the last page", asked: 2, listings: []listing{{head, {next: "3"}}},
			took: []string{"a90", "a80", "a70"},
		},
		{
			name: "a page was withheld", asked: 2,
			listings: []listing{{head, {next: "3"}}, {head, {updated: []int{60}}}},
			took:     []string{"a90", "a80", "a70", "a60"},
		},
		{
			name: "a full last page: there may be more", asked: 2,
			listings: []listing{{{updated: []int{90, 80, 70}}}, {head, {updated: []int{60}}}},
			took:     []string{"a90", "a80", "a70", "a60"},
		},
		{
			name: "a full last page, and no more", listings: []listing{{{updated: []int{90, 80, 70}}}}, asked: 2,
			took: []string{"a90", "a80", "a70"},
		},
		{
			name: "a token that is repeated", listings: []listing{{head, head}}, asked: 2, end: lifecycle.Unclear,
			took: []string{"a90", "a80", "a70"},
		},
		{
			name: "the same page under fresh tokens, for ever", asked: 2, end: lifecycle.Unclear, took: []string{"a90", "a80", "a70"},
			listings: []listing{{head, {updated: []int{90, 80, 70}, next: "3"}, {updated: []int{70, 80, 90}, next: "4"}, {updated: []int{60}}}},
		},
		{
			name: "a page that comes twice", asked: 1, took: []string{"a90", "a80", "a70", "a60"},
			listings: []listing{{head, {updated: []int{90, 80, 70}, next: "3"}, {updated: []int{60}}}},
		},
		{
			name: "a single one from before, the last of its page", asked: 1, took: []string{"a90", "a80", "a5", "a70", "a4"},
			listings: []listing{{{updated: []int{90, 80, 5}, next: "2"}, {updated: []int{70, 4, 3}, next: "3"}, {updated: []int{60}}}},
		},
		{
			name: "those without a time of their own", asked: 1, took: []string{"a90", "a-5", "a-3", "a80"},
			listings: []listing{{{updated: []int{90, -5, -4}, next: "2"}, {updated: []int{-3, 80}}}},
		},
		{
			name: "an element that can't be read: once more", asked: 2, took: []string{"a90", "a80"},
			listings: []listing{{{updated: []int{90, 0}, next: "2"}, {updated: []int{80}}}},
		},
		{
			name: "memory is short", asked: 2, listings: []listing{{{err: dtm.ErrMemory}}, {{updated: []int{90}}}},
			took: []string{"a90"},
		},
		{
			name: "pages are too large", asked: 2, listings: []listing{{{err: &dtm.PageTooLargeError{}}}, {{updated: []int{90}, next: "2"}, {}}},
			took: []string{"a90"},
		},
		{
			name: "alerts leave the listing while it is read: once more", asked: 3, shifting: true,
			listings: []listing{{head, {updated: []int{50}}}, {{updated: []int{90, 70, 60}, next: "2"}, {updated: []int{50}}}},
			took:     []string{"a90", "a80", "a70", "a50", "a60"},
		},
		{
			name: "one page can't shift", listings: []listing{{{updated: []int{90}}}}, asked: 1, shifting: true, took: []string{"a90"},
		},
		{
			name: "GTI refuses the listing", listings: []listing{{{err: &dtm.APIError{Status: 400}}}}, asked: 1,
			err: &dtm.APIError{Status: 400}, end: lifecycle.Stopped,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			desk, _, topic := newDesk()
			source := &script{listings: c.listings}
			looked := 0
			s := lifecycle.Sweep{
				Source: source, Desk: desk, Query: dtm.Query{Newest: true, Size: 3}, Back: second(10), Shifting: c.shifting,
				Take: all, OnPage: func(n, _ int, _ lifecycle.Tally) { looked += n },
			}
			end, err := s.Run(t.Context(), t.Context())
			api := (*dtm.APIError)(nil)
			if (err == nil) != (c.err == nil) || c.err != nil && !errors.Is(err, c.err) && !errors.As(err, &api) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if end != c.end || len(source.asked) != c.asked {
				t.Errorf("it ends as %d after %d listings, want %d after %d", end, len(source.asked), c.end, c.asked)
			}
			var want []string
			for _, id := range c.took {
				want = append(want, id+" created")
			}
			if diff := cmp.Diff(want, topic.took); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
			if looked < len(c.took) {
				t.Errorf("looked at %d alerts", looked)
			}
		})
	}
}

// TestSweepStops between two pages, and where no more may be published.
func TestSweepStops(t *testing.T) {
	long := []listing{{
		{updated: []int{90, 80, 70}, next: "2"},
		{updated: []int{60, 50, 40}, next: "3"},
		{updated: []int{30, 20}},
	}}
	t.Run("its time is up", func(t *testing.T) {
		desk, _, topic := newDesk()
		ctx, cancel := context.WithCancel(t.Context())
		source := &script{listings: long, stop: func(page int) {
			if page == 2 {
				cancel()
			}
		}}
		s := lifecycle.Sweep{Source: source, Desk: desk, Query: dtm.Query{Size: 3}, Take: all, OnPage: func(int, int, lifecycle.Tally) {}}
		end, err := s.Run(ctx, t.Context())
		if end != lifecycle.Stopped || err != nil || len(topic.took) != 3 {
			t.Errorf("%d %v, published %v", end, err, topic.took)
		}
	})
	t.Run("its time is up while it fetches whole alerts", func(t *testing.T) {
		desk, _, topic := newDesk()
		up := errors.New("time is up")
		ctx, cancel := context.WithCancelCause(t.Context())
		var fetched atomic.Int64
		desk.Whole = func(_ context.Context, _ string) (dtm.Page, error) {
			if ctx.Err() != nil {
				return dtm.Page{}, context.Cause(ctx)
			}
			if fetched.Add(1) == 8 { // as many as are fetched together
				cancel(up)
			}
			return dtm.Page{}, &dtm.APIError{Status: 500}
		}
		page := answer{next: "2"}
		for i := range 20 {
			page.updated = append(page.updated, 90-i)
		}
		s := lifecycle.Sweep{
			Source: &script{listings: []listing{{page, {}}}}, Desk: desk, Query: dtm.Query{Size: 20},
			Take: all, OnPage: func(int, int, lifecycle.Tally) {},
		}
		end, err := s.Run(ctx, t.Context())
		if end != lifecycle.Stopped || err != nil || len(topic.took) != 8 {
			t.Errorf("%d %v, published %v", end, err, topic.took)
		}
	})
	t.Run("no more may be published", func(t *testing.T) {
		desk, _, topic := newDesk()
		left := 4
		take := func(n int) int {
			n = min(n, left)
			left -= n
			return n
		}
		s := lifecycle.Sweep{Source: &script{listings: long}, Desk: desk, Query: dtm.Query{Size: 3}, Take: take, OnPage: func(int, int, lifecycle.Tally) {}}
		end, err := s.Run(t.Context(), t.Context())
		if end != lifecycle.Capped || err != nil || len(topic.took) != 4 {
			t.Errorf("%d %v, published %v", end, err, topic.took)
		}
	})
	t.Run("a message fails", func(t *testing.T) {
		desk, _, topic := newDesk()
		topic.fail = "a60"
		s := lifecycle.Sweep{Source: &script{listings: long}, Desk: desk, Query: dtm.Query{Size: 3}, Take: all, OnPage: func(int, int, lifecycle.Tally) {}}
		if _, err := s.Run(t.Context(), t.Context()); !errors.Is(err, errDown) {
			t.Errorf("error %v", err)
		}
	})
}
