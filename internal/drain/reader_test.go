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
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// sec is so many seconds into the day before the one that a bubble begins with.
func sec(n int) time.Time {
	return time.Date(1999, 12, 31, 0, 0, n, 0, time.UTC)
}

// scriptedPage is one answer of a listing: a page of alerts created at these seconds, or
// an error.
type scriptedPage struct {
	created []int
	next    string
	err     error
	broken  string // an element that can't be read
	at      int    // how many alerts come before it
	now     bool   // it says when it came
}

func now(p scriptedPage) scriptedPage {
	p.now = true
	return p
}

func page(next string, created ...int) scriptedPage {
	return scriptedPage{created: created, next: next}
}

func fails(err error) scriptedPage { return scriptedPage{err: err} }

// withBroken is a page with an element that can't be read after so many alerts.
func withBroken(next string, at int, created ...int) scriptedPage {
	return scriptedPage{created: created, next: next, broken: "broken", at: at}
}

func spoilt(element string) scriptedPage { return scriptedPage{broken: element, next: "a"} }

// scripted answers listing after listing as it is told, and writes down what it
// was asked.
type scripted struct {
	listings [][]scriptedPage
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
		if q.Once {
			asked += " once"
		}
		s.asked = append(s.asked, asked)
		if len(s.listings) == 0 {
			yield(dtm.Page{}, errors.New("the script has ended"))
			return
		}
		pages := s.listings[0]
		s.listings = s.listings[1:]
		for _, page := range pages {
			p := dtm.Page{Next: page.next, AskedAt: time.Now()}
			if page.now {
				p.ReceivedAt = time.Now()
			}
			for i, n := range page.created {
				if page.broken != "" && i == page.at {
					p.Alerts = append(p.Alerts, dtm.Alert{Raw: []byte(page.broken), Invalid: "not valid JSON", Unreadable: true})
				}
				p.Alerts = append(p.Alerts, dtm.Alert{ID: fmt.Sprint(n), CreatedAt: sec(n), UpdatedAt: sec(n), HasDoc: q.Refs})
			}
			if page.broken != "" && len(page.created) == 0 {
				p.Alerts = append(p.Alerts, dtm.Alert{Raw: []byte(page.broken), Invalid: "not valid JSON", Unreadable: true})
			}
			if !yield(p, page.err) {
				return
			}
		}
	}
}

// recordingProcessor is a processor that writes down what it publishes.
type recordingProcessor struct{ published []string }

func (n *recordingProcessor) Process(_ context.Context, alerts []dtm.Alert, _ ledger.Allowance) (ledger.Counts, error) {
	counts := ledger.Counts{Handled: len(alerts)}
	for _, a := range alerts {
		name := a.ID
		if a.Invalid != "" {
			n.published = append(n.published, string(a.Raw))
			counts.Rejected++
			continue
		}
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
			counts.Suppressed++
			continue
		}
		n.published = append(n.published, name)
		counts.Created++
	}
	return counts, nil
}

var (
	errSpent    = &dtm.RestartError{Cause: errors.New("reset")}
	errNoToken  = &dtm.RestartError{Cause: &dtm.APIError{Status: 404}}
	errOld      = &dtm.APIError{Status: 400}
	errLarge    = &dtm.PageTooLargeError{}
	err500      = &dtm.APIError{Status: 500}
	errSpent500 = &dtm.RestartError{Cause: err500}
)

// TestReader reads [0 s, 1000 s) with pages of 4 alerts from a source that
// follows a script, by one worker.
func TestReader(t *testing.T) {
	changeable := dtm.Filter{Status: []string{"new"}}
	const lookback = 20 * time.Hour // a bubble begins 24 hours after sec(0)
	for _, c := range []struct {
		name     string
		filter   dtm.Filter
		lookback time.Duration
		listings [][]scriptedPage
		asked    []string
		publish  string
		left     []state.Slice
		gaps     []state.Gap
		err      string
	}{
		{
			name:     "a page without a next link ends the slice",
			listings: [][]scriptedPage{{page("a", 1, 2), page("", 3)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 3",
		},
		{
			name:     "an empty page without a next link ends the slice",
			listings: [][]scriptedPage{{page("")}},
			asked:    []string{"since -0.001"},
		},
		{
			name:     "a page of alerts past the slice ends it, and they do not belong to it",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b", 1000, 1002, 1003), page("", 3)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2",
		},
		{
			name:     "so do two of them, each on a page of its own",
			listings: [][]scriptedPage{{page("a", 1), page("b", 1000), page("c", 1000), page("", 2)}},
			asked:    []string{"since -0.001"},
			publish:  "1",
		},
		{
			name:     "and the last one of all",
			listings: [][]scriptedPage{{page("", 1, 2, 3, 1000), page("", 2)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 3",
		},
		{
			name:     "a single one past the slice hides none that come after it, and is out of place",
			listings: [][]scriptedPage{{page("a", 1, 2, 3, 5000), page("b", 5000, 4), page("", 5000, 5, 5000)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 3 5000 4 5",
		},
		{
			name:     "nor does one from before what was asked for",
			listings: [][]scriptedPage{{page("a", 1, -50, 2), page("", -50, 3)}},
			asked:    []string{"since -0.001"},
			publish:  "1 -50 2 3",
		},
		{
			name:     "past the slice, and in the wrong order",
			listings: [][]scriptedPage{{page("a", 3000, 2000)}},
			asked:    []string{"since -0.001"},
		},
		{
			name:     "a full page without a next link is confirmed by a listing that brings nothing",
			listings: [][]scriptedPage{{page("", 1, 2, 3, 4)}, {page("", 4)}},
			asked:    []string{"since -0.001", "since 2.999"},
			publish:  "1 2 3 4",
		},
		{
			name:     "as many as on the pages before are a full page, too",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b", 3, 4), page("", 5, 6)}, {page("a", 6, 7), page("", 8)}},
			asked:    []string{"since -0.001", "since 4.999"},
			publish:  "1 2 3 4 5 6 7 8",
		},
		{
			name:     "a page that isn't full is the last where its link leads nowhere, twice",
			listings: [][]scriptedPage{{page("a", 1, 2, 3, 4), now(page("b", 5)), fails(errNoToken)}, {now(page("a", 5)), fails(errNoToken)}},
			asked:    []string{"since -0.001", "since 3.999"},
			publish:  "1 2 3 4 5",
		},
		{
			name:     "a full page isn't",
			listings: [][]scriptedPage{{now(page("a", 1, 1, 1, 1)), fails(errNoToken)}, {now(page("a", 1, 1, 1, 1)), fails(errNoToken)}, {now(page("a", 1, 1, 1, 1)), fails(errNoToken)}},
			asked:    []string{"since -0.001", "since 0.999", "since 0.999"},
			publish:  "1",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
			err:      "no page could be read",
		},
		{
			name:     "a full page without a next link, full of one moment",
			listings: [][]scriptedPage{{page("", 1, 1, 1, 1)}, {page("", 1, 1, 1, 1)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1",
		},
		{
			name:     "a full page without a next link, and there was more",
			listings: [][]scriptedPage{{page("", 1, 2, 3, 4)}, {page("a", 4, 5, 6, 7), page("", 8)}},
			asked:    []string{"since -0.001", "since 2.999"},
			publish:  "1 2 3 4 5 6 7 8",
		},
		{
			name:     "an empty first page with a next link is asked for once more",
			listings: [][]scriptedPage{{page("a")}, {page("b")}},
			asked:    []string{"since -0.001", "since -0.001"},
		},
		{
			name:     "an empty first page was a mistake",
			listings: [][]scriptedPage{{page("a")}, {page("", 1)}},
			asked:    []string{"since -0.001", "since -0.001"},
			publish:  "1",
		},
		{
			name:     "after an empty later page comes a new listing, then three links",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b")}, {page("c", 1, 2), page("d"), page("e"), page("f"), page("g")}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2",
		},
		{
			name:     "a page that was withheld comes in the new listing",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b"), page("", 4)}, {page("c", 1, 2, 3), page("", 4)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2 3 4",
		},
		{
			name:     "an empty page between others is followed when the new listing has it too",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b")}, {page("c", 1, 2), page("d"), page("e"), page("", 3)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2 3",
		},
		{
			name: "an empty page after something new is not followed",
			listings: [][]scriptedPage{
				{page("a", 1, 2), page("b")},
				{page("c", 1, 2, 3), page("d")},
				{page("e", 2, 3), page("f"), page("g"), page("h"), page("i")},
			},
			asked:   []string{"since -0.001", "since 0.999", "since 1.999"},
			publish: "1 2 3",
		},
		{
			name:     "a token that is repeated ends the run's work on the slice when a new listing brings nothing",
			listings: [][]scriptedPage{{page("a", 1, 2), page("a", 3)}, {page("b", 2, 3), page("b")}},
			asked:    []string{"since -0.001", "since 1.999"},
			publish:  "1 2 3",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(2)}},
		},
		{
			name:     "a token that is repeated by mistake",
			listings: [][]scriptedPage{{page("a", 1, 2), page("a", 3)}, {page("b", 2, 3), page("", 4)}},
			asked:    []string{"since -0.001", "since 1.999"},
			publish:  "1 2 3 4",
		},
		{
			name:     "a page out of order is published, and the listing goes on",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b", 400, 300, 200, 100), page("", 500)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 400 300 200 100 500",
		},
		{
			name:     "pages out of order do not move the position",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b", 400, 300, 200, 100), page("c", 900, 800), fails(errOld)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 400 300 200 100 900 800",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
			err:      "400",
		},
		{
			name:     "a page that got lost starts the listing again",
			listings: [][]scriptedPage{{page("a", 1, 2), fails(errSpent)}, {page("b", 1, 2), page("", 3)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2 3",
		},
		{
			name:     "pages that get lost twice in a row without progress",
			listings: [][]scriptedPage{{page("a", 1, 2), fails(errSpent)}, {page("b", 1, 2), fails(errSpent)}, {page("c", 1, 2), fails(errSpent)}},
			asked:    []string{"since -0.001", "since 0.999", "since 0.999"},
			publish:  "1 2",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
			err:      "twice in a row",
		},
		{
			name:     "pages that get lost, with progress between",
			listings: [][]scriptedPage{{page("a", 1, 2), fails(errSpent)}, {page("b", 2, 3), fails(errSpent)}, {page("c", 3, 4), fails(errSpent)}, {page("", 4)}},
			asked:    []string{"since -0.001", "since 0.999", "since 1.999", "since 2.999"},
			publish:  "1 2 3 4",
		},
		{
			name: "listings that bring nothing come to an end, whatever ends them",
			listings: [][]scriptedPage{
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
			listings: [][]scriptedPage{{page("a", 1, 2), fails(errOld)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
			err:      "400",
		},
		{
			name: "a page too large shrinks, and is full again after as many alerts",
			listings: [][]scriptedPage{
				{fails(errLarge)},
				{page("a", 1), page("b", 2), page("c", 3), page("d", 4), page("e", 5)},
				{page("f", 3, 4, 5, 6), page("", 7)},
			},
			asked:   []string{"since -0.001", "since -0.001 size 1", "since 2.999"},
			publish: "1 2 3 4 5 6 7",
		},
		{
			name: "an alert too large comes without its document, the one after it with it",
			listings: [][]scriptedPage{
				{fails(errLarge)},
				{page("a", 1), fails(errLarge)},
				{page("b", 1), page("c", 2), page("d", 3)},
				{page("", 3, 4)},
			},
			asked:   []string{"since -0.001", "since -0.001 size 1", "since -0.001 size 1 without refs", "since 2.001"},
			publish: "1 2 bare 3 4",
		},
		{
			name: "an alert too large that was published already",
			listings: [][]scriptedPage{
				{page("a", 1, 2), fails(errSpent)},
				{fails(errLarge)},
				{page("b", 1), fails(errLarge)},
				{page("c", 1), page("d", 2), page("e", 3)},
				{page("", 3, 4)},
			},
			asked:   []string{"since -0.001", "since 0.999", "since 0.999 size 1", "since 0.999 size 1 without refs", "since 2.001"},
			publish: "1 2 3 4",
		},
		{
			name: "an alert too large that was published already, and one that came late before it",
			listings: [][]scriptedPage{
				{page("a", 10, 200, 202), fails(errSpent)},
				{fails(errLarge)},
				{page("b", 10), page("c", 11), page("d", 200), fails(errLarge)},
				{page("e", 11), page("f", 200), page("g", 202), page("h", 500)},
				{page("", 500, 501)},
			},
			asked:   []string{"since -0.001", "since 9.999", "since 9.999 size 1", "since 10.999 size 1 without refs", "since 202.001"},
			publish: "10 200 202 11 500 501",
		},
		{
			name: "an alert at which GTI fails comes without its document, the one after it with it",
			listings: [][]scriptedPage{
				{fails(err500)},
				{page("a", 1)}, // it answers
				{page("b", 1), fails(errSpent500)},
				{page("c", 1), fails(errSpent500)},
				{page("d", 1), page("e", 2), page("f", 3)},
				{page("", 3, 4)},
			},
			asked: []string{
				"since -0.001", "since -0.001 size 1 without refs once", "since -0.001 size 1 once", "since -0.001 size 1 once",
				"since -0.001 size 1 without refs once", "since 2.001",
			},
			publish: "1 2 bare 3 4",
		},
		{
			name: "an alert at which GTI fails in any case becomes a gap",
			listings: [][]scriptedPage{
				{page("a", 1), fails(errSpent500)},
				{fails(err500)},
				{page("b", 1)}, // it answers
				{page("c", 1), fails(errSpent500)},
				{page("d", 1), fails(errSpent500)},
				{page("e", 1), fails(errSpent500)},
				{page("f", 1), fails(errSpent500)},
				{fails(err500)},
				{fails(err500)},
				{fails(err500)},
				{fails(err500)},
				{page("g", 3)},
				{page("", 20)},
			},
			asked: []string{
				"since -0.001", "since -0.001", "since -0.001 size 1 without refs once", "since -0.001 size 1 once", "since -0.001 size 1 once",
				"since -0.001 size 1 without refs once", "since -0.001 size 1 without refs once",
				"since 1.002 size 1 without refs once", "since 1.011 size 1 without refs once", "since 1.101 size 1 without refs once",
				"since 2.001 size 1 without refs once", "since 11.001 size 1 without refs once", "since 11.001",
			},
			publish: "1 20",
			gaps:    []state.Gap{{TimeRange: state.TimeRange{Since: sec(0), Until: sec(11).Add(2 * ms)}}},
		},
		{
			name:     "GTI that fails at everything",
			listings: [][]scriptedPage{{fails(err500)}, {fails(err500)}},
			asked:    []string{"since -0.001", "since -0.001 size 1 without refs once"},
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}},
			err:      "500",
		},
		{
			name:     "an alert too large even so",
			listings: [][]scriptedPage{{fails(errLarge)}, {fails(errLarge)}, {fails(errLarge)}},
			asked:    []string{"since -0.001", "since -0.001 size 1", "since -0.001 size 1 without refs"},
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}},
			err:      "larger than",
		},
		{
			name: "without memory the listing waits for it, and what was learned before stays",
			listings: [][]scriptedPage{
				{page("a", 1, 2), page("b")},
				{page("c", 1, 2), fails(dtm.ErrMemory)},
				{page("d", 1, 2), page("e"), page("f"), page("g"), page("h")},
			},
			asked:   []string{"since -0.001", "since 0.999", "since 0.999 alone"},
			publish: "1 2",
		},
		{
			name:     "the last page comes again and again under fresh tokens",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b", 1, 2), page("c", 1, 2), page("d", 1, 2)}, {page("e", 1, 2), page("f", 1, 2), page("g", 1, 2)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
		},
		{
			name:     "a page that comes twice by mistake",
			listings: [][]scriptedPage{{page("a", 1, 2), page("b", 1, 2), page("", 3)}},
			asked:    []string{"since -0.001"},
			publish:  "1 2 3",
		},
		{
			name:     "a filter on what changes: the same moment without end",
			filter:   changeable,
			listings: [][]scriptedPage{{page("a", 1, 1), page("b", 1, 1), page("c", 1, 1)}, {page("d", 1, 1), page("e", 1, 1), page("f", 1, 1)}, {page("g", 1, 1), page("h", 1, 1), page("i", 1, 1)}},
			asked:    []string{"since -0.001", "since 0.999", "since 0.999"},
			publish:  "1",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
		},
		{
			name:     "one alert an hour before its place",
			listings: [][]scriptedPage{{page("a", 100, 200), page("b", 300, 110, 400), fails(errOld)}},
			asked:    []string{"since -0.001"},
			publish:  "100 200 300 110 400",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(200)}},
			err:      "400",
		},
		{
			name:     "one alert ahead of its place, the last of its page",
			listings: [][]scriptedPage{{page("a", 100, 200, 900), fails(errSpent)}, {page("b", 200, 900, 300), page("", 400)}},
			asked:    []string{"since -0.001", "since 99.999"},
			publish:  "100 200 900 300 400",
		},
		{
			name:     "two alerts the wrong way round on one last page",
			listings: [][]scriptedPage{{page("", 100, 300, 200)}},
			asked:    []string{"since -0.001"},
			publish:  "100 300 200",
		},
		{
			name:     "an unreadable element is doubted once, and then passed",
			listings: [][]scriptedPage{{withBroken("a", 2, 1, 2, 3)}, {withBroken("b", 2, 1, 2, 3), page("", 4)}},
			asked:    []string{"since -0.001", "since 0.999"},
			publish:  "1 2 broken 3 4",
		},
		{
			name: "an element that is spoilt anew each time is passed at last",
			listings: [][]scriptedPage{
				{spoilt("x1")},
				{spoilt("x2")},
				{spoilt("x3")},
				{spoilt("x4")},
				{spoilt("x5")},
				{spoilt("x6")},
				{spoilt("x7"), page("", 4)},
			},
			asked:   []string{"since -0.001", "since -0.001", "since -0.001", "since -0.001", "since -0.001", "since -0.001", "since -0.001"},
			publish: "x7 4",
		},
		{
			name:     "a filter on what changes: each page is a new listing",
			filter:   changeable,
			listings: [][]scriptedPage{{page("a", 1, 2, 3)}, {page("b", 2, 3, 4, 5)}, {page("", 4, 5)}},
			asked:    []string{"since -0.001", "since 1.999", "since 3.999"},
			publish:  "1 2 3 4 5",
		},
		{
			name:     "a filter on what changes: tokens get past one moment",
			filter:   changeable,
			listings: [][]scriptedPage{{page("a", 1, 2, 2)}, {page("b", 2, 2), page("c", 2, 3, 4)}, {page("", 3, 4)}},
			asked:    []string{"since -0.001", "since 1.999", "since 2.999"},
			publish:  "1 2 3 4",
		},
		{
			name:     "a since refused for its age leaves a gap when a younger one is answered",
			lookback: lookback,
			listings: [][]scriptedPage{{fails(errOld)}, {page("", 15000)}},
			asked:    []string{"since -0.001", "since 15000"},
			gaps:     []state.Gap{{TimeRange: state.TimeRange{Since: sec(0), Until: sec(1000)}}},
		},
		{
			name:     "a since refused, and the younger one too: the position stays",
			lookback: lookback,
			listings: [][]scriptedPage{{fails(errOld)}, {fails(errOld)}},
			asked:    []string{"since -0.001", "since 15000"},
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}},
			err:      "400",
		},
		{
			name:     "a first alert that is younger than the known look-back is suspected",
			lookback: 24*time.Hour - time.Minute, // ten minutes more are known at 660 s
			listings: [][]scriptedPage{{page("", 900)}},
			asked:    []string{"since -0.001"},
			publish:  "900",
			gaps:     []state.Gap{{TimeRange: state.TimeRange{Since: sec(0), Until: sec(660)}, Suspected: true}},
		},
		{
			name:     "a first alert within the known look-back is not",
			lookback: 24*time.Hour - time.Minute,
			listings: [][]scriptedPage{{page("", 600)}},
			asked:    []string{"since -0.001"},
			publish:  "600",
		},
		{
			name:     "a wait that outlives the run stops it",
			listings: [][]scriptedPage{{page("a", 1, 2), fails(&dtm.WaitError{Wait: time.Hour, Cause: errOld})}},
			asked:    []string{"since -0.001"},
			publish:  "1 2",
			left:     []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(1)}},
			err:      "after the end of this run",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, processor := &scripted{listings: c.listings}, &recordingProcessor{}
				stored := Progress{Slices: []state.Slice{{From: sec(0), To: sec(1000), DoneUntil: sec(0)}}}
				e := &engine{
					opts:   Options{Workers: 1, PageSize: 4, Refs: true, Filter: c.filter, MaxLookback: 120 * time.Hour, Overlap: time.Minute},
					source: source, processor: processor, report: &Report{},
					save: func(p Progress) { stored = p }, onGap: func(state.Gap) {},
				}
				if c.lookback > 0 {
					e.opts.MaxLookback = c.lookback
				}
				err := e.run(deadlines{working: t.Context(), fetching: t.Context()}, stored)
				if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				if diff := cmp.Diff(c.asked, source.asked); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.publish, strings.Join(processor.published, " ")); diff != "" {
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
		source := &scripted{listings: [][]scriptedPage{{page("")}, {page("", 81_000)}}}
		e := &engine{
			opts:   Options{Workers: 3, PageSize: 4, Refs: true, MaxLookback: 20 * time.Hour, Overlap: time.Hour},
			source: source, processor: &recordingProcessor{}, report: &Report{},
			save: func(p Progress) { stored = p }, onGap: func(state.Gap) {},
		}
		fetching, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.run(deadlines{working: t.Context(), fetching: fetching}, stored); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"since 15000", "since 79999.999"}, source.asked); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]state.Gap{{TimeRange: state.TimeRange{Since: sec(0), Until: sec(1000)}}}, stored.Gaps); diff != "" {
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
		pages []scriptedPage
	}{
		{"alerts of a late page", []scriptedPage{page("a", 86_000), page("b", 86_100, 86_200), page("", 86_300)}},
		{"alerts of the first page", []scriptedPage{page("a", 86_000, 86_260), page("", 86_280)}},
		{"the end, without any alert", []scriptedPage{page("a", 86_000), page("")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now().UTC()
				stored := Progress{Slices: []state.Slice{{From: sec(85_000), To: sec(86_370), DoneUntil: sec(85_000)}}}
				e := &engine{
					opts:   Options{Workers: 1, PageSize: 4, Refs: true, MaxLookback: 120 * time.Hour, Overlap: overlap},
					source: slow{&scripted{listings: [][]scriptedPage{c.pages}}}, processor: &recordingProcessor{}, report: &Report{},
					save: func(p Progress) { stored = p }, onGap: func(state.Gap) {},
				}
				if err := e.run(deadlines{working: t.Context(), fetching: t.Context()}, stored); err != nil {
					t.Fatal(err)
				}
				if got := began.Sub(stored.RereadFrom); got != overlap {
					t.Errorf("to be read again from %s before the beginning, want %s", got, overlap)
				}
			})
		})
	}
}

// oneAtATime is a processor that takes its time.
type oneAtATime struct {
	t    *testing.T
	busy chan struct{}
}

func (d *oneAtATime) Process(_ context.Context, alerts []dtm.Alert, _ ledger.Allowance) (ledger.Counts, error) {
	select {
	case d.busy <- struct{}{}:
	default:
		d.t.Error("two pages with unusable elements are handled at the same time")
	}
	time.Sleep(time.Second)
	<-d.busy
	return ledger.Counts{Handled: len(alerts)}, nil
}

// unusable answers every listing with an element that is no alert.
type unusable struct{}

func (unusable) List(context.Context, dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		yield(dtm.Page{Alerts: []dtm.Alert{{Raw: []byte("null"), Invalid: "not an object"}}, AskedAt: time.Now()}, nil)
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
					source: unusable{}, processor: &oneAtATime{t: t, busy: make(chan struct{}, 1)}, report: &Report{},
					save: func(Progress) {}, onGap: func(state.Gap) {},
				}
				began := time.Now()
				fetching, cancel := context.WithTimeoutCause(t.Context(), c.budget, errBudget)
				defer cancel()
				if err := e.run(deadlines{working: t.Context(), fetching: fetching}, stored); !errors.Is(err, c.end) {
					t.Fatal(err)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

// TestPastOversized: pages are full again after the alert that is too large, as soon as
// nothing from before it can come any more, wherever the position is by then.
func TestPastOversized(t *testing.T) {
	for _, c := range []struct {
		name         string
		position, at int // seconds; the alert that is too large was created at 10
		order        order
		want         bool
	}{
		{"the alert itself", 5, 10, order{}, false},
		{"the next one", 5, 11, order{}, true},
		{"others may come for a minute", 5, 11, order{near: 1, read: 24, trail: time.Minute}, false},
		{"the minute is over", 5, 71, order{near: 1, read: 24, trail: time.Minute}, true},
		{"the position is past it", 30, 40, order{near: 1, read: 25, trail: time.Minute}, true},
		{"in no order", 5, 100, order{far: 5, read: 24}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &activeSlice{Slice: state.Slice{From: sec(0), To: sec(1000), DoneUntil: sec(c.position)}}
			e := &engine{active: []*activeSlice{s}, save: func(Progress) {}}
			r := &reader{engine: e, slice: s, size: 1, noRefs: true, oversizedAt: sec(10), order: c.order}
			f := fetched{page: dtm.Page{Alerts: []dtm.Alert{{ID: "a", CreatedAt: sec(c.at)}}, Date: sec(2000)}, listed: sec(2000)}
			if got := r.isPastOversized(f); got != c.want || r.noRefs == c.want {
				t.Errorf("%t, and without documents %t, want %t", got, r.noRefs, c.want)
			}
			if got := r.position(); got.Before(sec(c.position)) || c.want && got.Before(sec(10)) || got.After(sec(c.at)) {
				t.Errorf("the position is %v", got)
			}
		})
	}
}
