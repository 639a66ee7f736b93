package drain

import (
	"errors"
	"fmt"
	"testing"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// TestEndings: what follows when one listing after the other ends so.
func TestEndings(t *testing.T) {
	type step struct {
		end        listingEnd
		progressed bool
	}
	type after struct {
		decision        decision
		failed          bool
		followUp, alone bool
	}
	again := after{}
	for _, c := range []struct {
		name  string
		steps []step
		want  after
	}{
		{"finished", []step{{finished, false}}, after{decision: allRead}},
		{"a full last page", []step{{fullLast, true}}, again},
		{"and nothing more", []step{{fullLast, true}, {fullLast, false}}, after{decision: allRead}},
		{"and more", []step{{fullLast, true}, {fullLast, true}}, again},
		{"an empty first page", []step{{emptyFirst, false}}, again},
		{"twice", []step{{emptyFirst, false}, {emptyFirst, false}}, after{decision: allRead}},
		{"with a broken one between", []step{{emptyFirst, false}, {broken, false}, {emptyFirst, false}}, again},
		{"with a page that was too large between", []step{{emptyFirst, false}, {tooLarge, false}, {emptyFirst, false}}, after{decision: allRead}},
		{"an empty late page", []step{{emptyExpired, true}}, again},
		{"twice, and nothing new", []step{{emptyExpired, true}, {emptyExpired, false}}, after{decision: allRead}},
		{"a link that leads nowhere", []step{{refusedLast, true}}, again},
		{"twice, and nothing new", []step{{refusedLast, true}, {refusedLast, false}}, after{decision: allRead}},
		{"an empty later page", []step{{emptyLater, true}}, after{followUp: true}},
		{"and no memory then", []step{{emptyLater, true}, {noMemory, false}}, after{followUp: true, alone: true}},
		{"and progress then", []step{{emptyLater, true}, {broken, true}}, again},
		{"no memory until it brings something", []step{{noMemory, false}, {broken, false}}, after{alone: true}},
		{"no memory, and something", []step{{noMemory, false}, {broken, true}}, again},
		{"it repeats", []step{{repeated, true}}, again},
		{"it repeats again", []step{{repeated, true}, {repeated, false}}, after{decision: unclear}},
		{"broken", []step{{broken, true}, {broken, false}}, again},
		{"broken again", []step{{broken, true}, {broken, false}, {broken, false}}, after{decision: unclear, failed: true}},
		{
			"a mix that brings nothing",
			[]step{{broken, false}, {repeated, false}, {broken, false}, {repeated, false}, {broken, false}, {repeated, false}},
			after{decision: unclear, failed: true},
		},
		{
			"a mix that brings something in between",
			[]step{{broken, false}, {repeated, false}, {broken, true}, {repeated, false}, {broken, false}, {repeated, false}},
			again,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var e endings
			var got after
			for i, s := range c.steps {
				next, err := e.add(s.end, s.progressed, errDown)
				got = after{decision: next, failed: err != nil}
				if i < len(c.steps)-1 && got != again {
					t.Fatalf("after %d listings: %+v", i+1, got)
				}
				if err != nil && (!errors.Is(err, errDown) || !ListingFailed(err)) {
					t.Errorf("error %v", err)
				}
			}
			if got.decision == listAgain {
				got.followUp, got.alone = e.followUp, e.alone
			}
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// TestListing: how one listing goes on after its pages of two.
func TestListing(t *testing.T) {
	page := func(next string, ids ...string) dtm.Page {
		p := dtm.Page{Next: next}
		for _, id := range ids {
			p.Alerts = append(p.Alerts, dtm.Alert{ID: id})
		}
		return p
	}
	empty := page("e")
	at := func(p dtm.Page, asked, received int) dtm.Page {
		p.AskedAt, p.ReceivedAt = sec(asked), sec(received)
		return p
	}
	for _, c := range []struct {
		name     string
		pages    []dtm.Page
		followUp bool
		isPast   bool // the last page
		want     listingEnd
	}{
		{"there is more", []dtm.Page{page("1", "a", "b")}, false, false, goesOn},
		{"past the end", []dtm.Page{page("1", "a", "b")}, false, true, finished},
		{"not full, and no link", []dtm.Page{page("", "a")}, false, false, finished},
		{"full, and no link", []dtm.Page{page("", "a", "b")}, false, false, fullLast},
		{"a token again", []dtm.Page{page("1", "a"), page("2", "b"), page("1", "c")}, false, false, repeated},
		{"the same alerts again", []dtm.Page{page("1", "a", "b"), page("2", "b", "a")}, false, false, goesOn},
		{"the same alerts once more", []dtm.Page{page("1", "a", "b"), page("2", "b", "a"), page("3", "a")}, false, false, repeated},
		{"an empty first page", []dtm.Page{empty}, false, false, emptyFirst},
		{"an empty first page, to follow", []dtm.Page{empty}, true, false, goesOn},
		{"an empty later page", []dtm.Page{page("1", "a"), empty}, false, false, emptyLater},
		{"an empty last page", []dtm.Page{at(page("1", "a"), 1, 2), at(page(""), 47, 48)}, false, false, finished},
		{"an empty last page, late", []dtm.Page{at(page("1", "a"), 1, 2), at(page(""), 48, 49)}, false, false, emptyExpired},
		{"a last page, late", []dtm.Page{at(page("1", "a", "b"), 1, 2), at(page("", "c"), 48, 49)}, false, false, finished},
		{"as many as before, and no link", []dtm.Page{page("1", "a"), page("2", "b"), page("", "c")}, false, false, fullLast},
		{"as many as one before, and no link", []dtm.Page{page("1", "a"), page("", "b")}, false, false, finished},
		{"an empty page alone", []dtm.Page{at(page(""), 48, 49)}, false, false, finished},
		{"empty pages to follow", []dtm.Page{page("1"), page("2"), page("3")}, true, false, goesOn},
		{"one too many", []dtm.Page{page("1"), page("2"), page("3"), page("4")}, true, false, finished},
		{"alerts between", []dtm.Page{page("1"), page("2"), page("3"), page("4", "a"), page("5")}, true, false, goesOn},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newListing(c.followUp)
			got := goesOn
			for i, p := range c.pages {
				if got != goesOn {
					t.Fatalf("it ended as %d after %d pages", got, i)
				}
				got, _ = l.add(p, 2, c.isPast && i == len(c.pages)-1)
			}
			if got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}

func TestEndOfError(t *testing.T) {
	restart := &dtm.RestartError{Cause: errDown}
	for _, c := range []struct {
		err  error
		want listingEnd
	}{
		{errDown, goesOn},
		{&dtm.APIError{Status: 500}, goesOn},
		{fmt.Errorf("listing: %w", restart), broken},
		{&dtm.WaitError{Cause: restart}, goesOn},
		{fmt.Errorf("listing: %w", dtm.ErrMemory), noMemory},
		{&dtm.PageTooLargeError{Size: 25}, tooLarge},
	} {
		if got := endOfError(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}
