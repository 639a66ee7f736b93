package drain

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
)

// errDown is what fails here, and errWithheld stands for a listing that can't be read.
var (
	errDown     = errors.New("down")
	errWithheld = errors.New("withheld")
)

// swept is what the API answers to one listing of a sweep, page by page.
type swept []sweptPage

type sweptPage struct {
	// updated are seconds of updated_at; the alert's id is its number. Below 0 it has
	// no updated_at of its own, and 0 is an element that can't be read.
	updated []int
	next    string
	err     error
	// received is when it came; zero: it doesn't say.
	received time.Time
}

// sweeps is a source that answers one listing of a sweep after the other, and the
// last one for ever.
type sweeps struct {
	listings []swept
	asked    []dtm.Query
	pages    int
	stop     func(page int) // told before a page is answered
}

func (s *sweeps) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
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
			page := dtm.Page{Next: a.next, ReceivedAt: a.received}
			for _, at := range a.updated {
				a := dtm.Alert{ID: fmt.Sprint("a", at), Status: "new", CreatedAt: sec(0), UpdatedAt: sec(max(at, -at)), HasDoc: true}
				if a.Undated = at < 0; at == 0 {
					a = dtm.Alert{Raw: []byte("{"), Invalid: "not valid JSON", Unreadable: true}
				}
				page.Alerts = append(page.Alerts, a)
			}
			if !yield(page, nil) || a.next == "" {
				return
			}
		}
	}
}

// newSweepProcessor is a processor with a ledger of its own, which publishes to a subscriber.
func newSweepProcessor(t *testing.T) (*ledger.Processor, *subscriber) {
	t.Helper()
	to := &subscriber{}
	return &ledger.Processor{
		Store: newStore(t), Publisher: to, Feed: "f", RunID: "r", TTL: time.Hour,
		Options: ledger.Options{CheckLease: func() error { return nil }},
	}, to
}

// all lets every alert be published.
func all() *allowance { return &allowance{left: math.MaxInt} }

// TestSweep reads listings whose pages hold three alerts, back to 10 seconds.
func TestSweep(t *testing.T) {
	lost := sweptPage{err: &dtm.RestartError{Cause: errDown}}
	head := sweptPage{updated: []int{90, 80, 70}, next: "2"}
	for _, c := range []struct {
		name     string
		listings []swept
		shifting bool
		took     []string
		asked    int
		end      decision
		err      error
	}{
		{name: "nothing at all", listings: []swept{{{}}}, asked: 1},
		{name: "nothing has changed", listings: []swept{{{updated: []int{9, 8, 7}, next: "2"}}}, asked: 1},
		{
			name: "back to what is known, and one more that may be out of place", asked: 1,
			listings: []swept{{head, {updated: []int{60, 9, 8}, next: "3"}, {updated: []int{7, 6, 5}}}},
			took:     []string{"a90", "a80", "a70", "a60", "a9"},
		},
		{
			name: "to the end of the listing", asked: 1,
			listings: []swept{{head, {updated: []int{60}}}},
			took:     []string{"a90", "a80", "a70", "a60"},
		},
		{
			name: "a page that is out of order proves nothing", asked: 1,
			listings: []swept{{{updated: []int{5, 90, 4}, next: "2"}, {updated: []int{80, 3}}}},
			took:     []string{"a5", "a90", "a4", "a80", "a3"},
		},
		{
			name: "a page is lost: from the top", asked: 2,
			listings: []swept{{head, lost}, {head, {updated: []int{60}}}},
			took:     []string{"a90", "a80", "a70", "a60"},
		},
		{
			name: "a link that leads nowhere, twice: nothing shows that this was all", asked: 2, end: unclear,
			listings: []swept{{{updated: []int{90, 80}, next: "2", received: time.Now()}, {err: errNoToken}}},
			took:     []string{"a90", "a80"},
		},
		{
			name: "no page comes", listings: []swept{{lost}}, asked: 2, err: errDown, end: unclear,
		},
		{
			name: "a link on the last page", asked: 2, listings: []swept{{head, {next: "3"}, {next: "4"}, {next: "5"}, {next: "6"}}},
			took: []string{"a90", "a80", "a70"},
		},
		{
			name: "a page was withheld twice, and one follows it", asked: 3,
			listings: []swept{{head, {next: "3"}}, {head, {next: "3"}, {updated: []int{50}}}, {head, {updated: []int{60}, next: "3"}, {updated: []int{50}}}},
			took:     []string{"a90", "a80", "a70", "a50", "a60"},
		},
		{
			name: "a page is withheld for ever", asked: 8, end: unclear, err: errWithheld,
			listings: []swept{{head, {next: "3"}, {updated: []int{50, 9, 8}}}},
			took:     []string{"a90", "a80", "a70", "a50", "a9"},
		},
		{
			name: "a page was withheld", asked: 2,
			listings: []swept{{head, {next: "3"}}, {head, {updated: []int{60}}}},
			took:     []string{"a90", "a80", "a70", "a60"},
		},
		{
			name: "a full last page: there may be more", asked: 2,
			listings: []swept{{{updated: []int{90, 80, 70}}}, {head, {updated: []int{60}}}},
			took:     []string{"a90", "a80", "a70", "a60"},
		},
		{
			name: "a full last page, and no more", listings: []swept{{{updated: []int{90, 80, 70}}}}, asked: 2,
			took: []string{"a90", "a80", "a70"},
		},
		{
			name: "a token that is repeated", listings: []swept{{head, head}}, asked: 2, end: unclear,
			took: []string{"a90", "a80", "a70"},
		},
		{
			name: "the same page under fresh tokens, for ever", asked: 2, end: unclear, took: []string{"a90", "a80", "a70"},
			listings: []swept{{head, {updated: []int{90, 80, 70}, next: "3"}, {updated: []int{70, 80, 90}, next: "4"}, {updated: []int{60}}}},
		},
		{
			name: "a page that comes twice", asked: 1, took: []string{"a90", "a80", "a70", "a60"},
			listings: []swept{{head, {updated: []int{90, 80, 70}, next: "3"}, {updated: []int{60}}}},
		},
		{
			name: "a single one from before, the last of its page", asked: 1, took: []string{"a90", "a80", "a5", "a70", "a4"},
			listings: []swept{{{updated: []int{90, 80, 5}, next: "2"}, {updated: []int{70, 4, 3}, next: "3"}, {updated: []int{60}}}},
		},
		{
			name: "those without a time of their own", asked: 1, took: []string{"a90", "a-5", "a-3", "a80"},
			listings: []swept{{{updated: []int{90, -5, -4}, next: "2"}, {updated: []int{-3, 80}}}},
		},
		{
			name: "an element that can't be read: once more", asked: 2, took: []string{"a90", "a80"},
			listings: []swept{{{updated: []int{90, 0}, next: "2"}, {updated: []int{80}}}},
		},
		{
			name: "memory is short", asked: 2, listings: []swept{{{err: dtm.ErrMemory}}, {{updated: []int{90}}}},
			took: []string{"a90"},
		},
		{
			name: "pages are too large", asked: 2, listings: []swept{{{err: &dtm.PageTooLargeError{}}}, {{updated: []int{90}, next: "2"}, {}}},
			took: []string{"a90"},
		},
		{
			name: "alerts leave the listing while it is read: once more", asked: 3, shifting: true,
			listings: []swept{{head, {updated: []int{50}}}, {{updated: []int{90, 70, 60}, next: "2"}, {updated: []int{50}}}},
			took:     []string{"a90", "a80", "a70", "a50", "a60"},
		},
		{
			name: "one page can't shift", listings: []swept{{{updated: []int{90}}}}, asked: 1, shifting: true, took: []string{"a90"},
		},
		{
			name: "GTI refuses the listing", listings: []swept{{{err: &dtm.APIError{Status: 400}}}}, asked: 1,
			err: &dtm.APIError{Status: 400}, end: unclear,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			processor, topic := newSweepProcessor(t)
			source := &sweeps{listings: c.listings}
			looked := 0
			s := sweepReader{
				source: source, processor: processor, query: dtm.Query{Order: dtm.UpdatedFirst, Size: 3}, back: sec(10), shifting: c.shifting,
				allowance: all(), onPage: func(n, _ int, _ ledger.Counts) { looked += n },
			}
			end, err := s.read(t.Context(), t.Context())
			api := (*dtm.APIError)(nil)
			listing := (*listingError)(nil)
			if (err == nil) != (c.err == nil) || c.err != nil && !errors.Is(err, c.err) && !errors.As(err, &api) && (!errors.Is(c.err, errWithheld) || !errors.As(err, &listing)) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if c.end == listAgain {
				c.end = allRead
			}
			if end != c.end || len(source.asked) != c.asked {
				t.Errorf("it ends as %d after %d listings, want %d after %d", end, len(source.asked), c.end, c.asked)
			}
			var want []string
			for _, id := range c.took {
				want = append(want, id+" created new")
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
	long := []swept{{
		{updated: []int{90, 80, 70}, next: "2"},
		{updated: []int{60, 50, 40}, next: "3"},
		{updated: []int{30, 20}},
	}}
	t.Run("its time is up", func(t *testing.T) {
		processor, topic := newSweepProcessor(t)
		ctx, cancel := context.WithCancel(t.Context())
		source := &sweeps{listings: long, stop: func(page int) {
			if page == 2 {
				cancel()
			}
		}}
		s := sweepReader{source: source, processor: processor, query: dtm.Query{Size: 3}, allowance: all(), onPage: func(int, int, ledger.Counts) {}}
		if _, err := s.read(ctx, t.Context()); !errors.Is(err, context.Canceled) || len(topic.took) != 3 {
			t.Errorf("%v, published %v", err, topic.took)
		}
	})
	t.Run("its time is up while it fetches full alerts", func(t *testing.T) {
		processor, topic := newSweepProcessor(t)
		up := errors.New("time is up")
		ctx, cancel := context.WithCancelCause(t.Context())
		var fetched atomic.Int64
		processor.FetchFull = func(_ context.Context, _ string) (dtm.Page, error) {
			if ctx.Err() != nil {
				return dtm.Page{}, context.Cause(ctx)
			}
			if fetched.Add(1) == 8 { // as many as are fetched together
				cancel(up)
			}
			return dtm.Page{}, &dtm.APIError{Status: 500}
		}
		page := sweptPage{next: "2"}
		for i := range 20 {
			page.updated = append(page.updated, 90-i)
		}
		s := sweepReader{
			source: &sweeps{listings: []swept{{page, {}}}}, processor: processor, query: dtm.Query{Size: 20},
			allowance: all(), onPage: func(int, int, ledger.Counts) {},
		}
		if _, err := s.read(ctx, t.Context()); !errors.Is(err, up) || len(topic.took) != 8 {
			t.Errorf("%v, published %v", err, topic.took)
		}
	})
	t.Run("no more may be published", func(t *testing.T) {
		processor, topic := newSweepProcessor(t)
		s := sweepReader{source: &sweeps{listings: long}, processor: processor, query: dtm.Query{Size: 3}, allowance: &allowance{left: 4}, onPage: func(int, int, ledger.Counts) {}}
		if _, err := s.read(t.Context(), t.Context()); !errors.Is(err, errCap) || len(topic.took) != 4 {
			t.Errorf("%v, published %v", err, topic.took)
		}
	})
	t.Run("a message fails", func(t *testing.T) {
		processor, topic := newSweepProcessor(t)
		topic.fail = "a60"
		s := sweepReader{source: &sweeps{listings: long}, processor: processor, query: dtm.Query{Size: 3}, allowance: all(), onPage: func(int, int, ledger.Counts) {}}
		if _, err := s.read(t.Context(), t.Context()); !errors.Is(err, errDown) {
			t.Errorf("error %v", err)
		}
	})
}
