package drain

import (
	"errors"
	"fmt"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// listingEnd says how a listing ended.
type listingEnd int

const (
	goesOn       listingEnd = iota
	finished                // it has shown all that was asked for
	fullLast                // a full page without a next link: there may be more
	shifted                 // as finished, after pages that others may have been shifted past
	emptyFirst              // an empty first page with a next link
	emptyLater              // an empty later page with a next link
	emptyExpired            // an empty last page, so long after the one before that its token may have expired
	repeated                // its tokens, or its alerts, come again
	broken                  // a page request failed, and its token is spent
	refusedLast             // GTI refuses the token of a page that was not full
	unreadable              // a page holds an element that can't be read, for the first time
	noMemory                // the page didn't fit into the workers' share
	tooLarge                // the page is larger than a page may be
	faulty                  // GTI fails at the page, after all attempts
	anew                    // the rest is to be asked for in another way: in full pages, or up to the slice's new end
	refusedSince            // the API answers 400 to this since
	stopped                 // fetching has ended
)

const (
	// maxFollow is how many empty pages are followed (DTM API: a next link on
	// the last page has been seen).
	maxFollow = 3
	// maxWithoutProgress bounds listings that bring nothing, whatever mix of faults
	// ends them.
	maxWithoutProgress = 6
	// tokenDoubt is from which age on a page's token may have expired (DTM API: the page
	// context lives 1 to 10 minutes; what an expired one is answered with is not known).
	tokenDoubt = 45 * time.Second
)

// listing is what one listing has shown so far, in whatever order it comes.
type listing struct {
	tokens   map[string]bool
	shown    shown
	first    bool // no page came yet
	followUp bool // follow links of empty pages
	empties  int  // that were followed since the last page with alerts

	received time.Time // the last page
	largest  int       // alerts on one page
	often    int       // pages that had so many
	full     bool      // the last page seems to be as large as a page may be
}

func newListing(followUp bool) listing {
	return listing{tokens: map[string]bool{}, first: true, followUp: followUp}
}

// noteFull notes whether a page of n alerts is full. An API may give fewer than it was asked
// for. So a page is also full when two pages before had as many, and none had more.
func (l *listing) noteFull(n, size int) {
	l.full = n >= size || n > 0 && n == l.largest && l.often >= 2
	if n > l.largest {
		l.largest, l.often = n, 0
	}
	if n == l.largest {
		l.often++
	}
}

// next is the listing that takes this one's place from a later position on.
func (l *listing) next() listing {
	return listing{tokens: map[string]bool{}, followUp: l.followUp, empties: l.empties, largest: l.largest, often: l.often}
}

// add takes a page of a listing that was asked for in pages of a size, and says how
// the listing goes on, and how many alerts the page brings that it had not shown.
// isPast: what follows is past the end of what is to be read.
func (l *listing) add(page dtm.Page, size int, isPast bool) (end listingEnd, brought int) {
	first, again := l.first, l.tokens[page.Next]
	late := !l.received.IsZero() && page.AskedAt.Sub(l.received) > tokenDoubt
	l.first, l.received = false, page.ReceivedAt
	l.tokens[page.Next] = true
	brought = l.shown.add(page)
	l.noteFull(len(page.Alerts), size)
	switch {
	case isPast:
		return finished, brought
	case page.Next == "" && l.full:
		return fullLast, brought
	case page.Next == "" && len(page.Alerts) == 0 && late:
		return emptyExpired, brought
	case page.Next == "":
		return finished, brought
	case again, l.shown.isEndless():
		return repeated, brought
	case len(page.Alerts) > 0:
		l.empties = 0
		return goesOn, brought
	case l.followUp && l.empties == maxFollow:
		return finished, brought
	case l.followUp:
		l.empties++
		return goesOn, brought
	case first:
		return emptyFirst, brought
	}
	return emptyLater, brought
}

// endOf is how an error ends the listing; goesOn when it ends the work with it. A page that
// is not full may be the last, whatever its link says (DTM API: a next link on the last page
// has been seen, and what such a token is answered with is not known).
func (l *listing) endOf(err error) listingEnd {
	var restart *dtm.RestartError
	isFresh := !l.received.IsZero() && time.Since(l.received) < tokenDoubt
	if errors.As(err, &restart) && isFresh && !l.full && dtm.Kind(restart.Cause).Final() {
		return refusedLast
	}
	return endOfError(err)
}

// endOfError is how an error ends any listing.
func endOfError(err error) listingEnd {
	switch dtm.Kind(err) {
	case dtm.TokenSpent:
		return broken
	case dtm.NoMemory:
		return noMemory
	case dtm.PageTooLarge:
		return tooLarge
	default:
		return goesOn
	}
}

var errNoEnd = errors.New("listing alerts: the listing ended without an end")

// decision is what follows from the end of a listing.
type decision int

const (
	listAgain decision = iota
	allRead
	// unclear: the API ends its listing in a way that doesn't say whether this was all.
	unclear
)

// endings decide when a slice or a sweep is read, from how one listing of it ended
// after the other:
//
//	the listing ended            it brought    nothing      nothing, and the one
//	                             something                  before ended like this
//	finished                     all read      all read     all read
//	shifted                      list again    all read     all read
//	fullLast, emptyFirst,        list again    list again   all read
//	emptyExpired, refusedLast
//	emptyLater                   the next listing follows links of empty pages
//	repeated                     list again    list again   unclear
//	broken                       list again    list again   an error, the second time
//	unreadable, noMemory,        list again in another way: this says nothing
//	tooLarge, faulty, anew,     about what was listed
//	refusedSince
//
// Six listings in a row that bring nothing are an error, whatever ended them.
type endings struct {
	before          listingEnd
	withoutProgress int
	followUp        bool // the next listing follows links of empty pages
	alone           bool // the next listing waits for a whole page's memory
}

// add says what follows from a listing's end. cause is the error that ended it, if
// one did.
func (e *endings) add(end listingEnd, progressed bool, cause error) (decision, error) {
	again := end == e.before && !progressed
	switch {
	case end == finished, end == shifted && !progressed:
		return allRead, nil
	case again && (end == fullLast || end == emptyFirst || end == emptyExpired || end == refusedLast):
		return allRead, nil
	case again && end == repeated:
		return unclear, nil
	case again && end == broken && e.withoutProgress > 0:
		return unclear, &listingError{fmt.Errorf("no page could be read, twice in a row: %w", cause)}
	}
	e.alone = end == noMemory || e.alone && !progressed
	if progressed {
		e.before, e.withoutProgress, e.followUp = goesOn, 0, false
	}
	if end == unreadable || end == noMemory || end == tooLarge || end == faulty || end == anew || end == refusedSince {
		return listAgain, nil
	}
	if !progressed {
		if e.withoutProgress++; e.withoutProgress == maxWithoutProgress {
			return unclear, &listingError{errors.Join(fmt.Errorf("%d listings in a row brought nothing", e.withoutProgress), cause)}
		}
	}
	e.before, e.followUp = end, end == emptyLater
	return listAgain, nil
}

// listingError is a listing that can't be gone on with now, for a reason that
// lies in what was asked or how it was answered.
type listingError struct{ err error }

func (e *listingError) Error() string { return "listing alerts: " + e.err.Error() }
func (e *listingError) Unwrap() error { return e.err }

// listingFailed tells a failed listing from what every other would fail with too.
func listingFailed(err error) error {
	if listing := (*listingError)(nil); errors.As(err, &listing) || !dtm.Failed(err) {
		return err
	}
	return &listingError{err}
}
