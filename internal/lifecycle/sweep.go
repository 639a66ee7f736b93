package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// Source lists alerts (dtm.Session).
type Source interface {
	List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error]
}

// Handler deals with the alerts of a page (Desk).
type Handler interface {
	Handle(ctx context.Context, alerts []dtm.Alert, take func(n int) int) (Tally, error)
}

// Sweep reads what was updated last, back to what an earlier sweep has seen:
// since only filters on created_at (DTM API), so changes of older alerts are found
// by the order of the listing.
type Sweep struct {
	Source Source
	Desk   Handler
	Query  dtm.Query // with Newest
	// Back is the updated_at at which the sweep ends.
	Back time.Time
	// Shifting: alerts leave the listing while it is read, so that others may skip
	// from one page to the one before. A listing of several pages that brought
	// something is then read once more.
	Shifting bool
	Take     func(n int) int
	// OnPage is told of every page: how many of its alerts were not seen by an earlier
	// sweep, and how many its listing had not shown before.
	OnPage func(looked, brought int, t Tally)

	doubts Doubts
}

// Ending says how far a sweep came.
type Ending int

// Endings of a sweep.
const (
	Complete Ending = iota
	Stopped         // its context ended
	Capped          // take allowed no more
	// Unclear: the API ends its listing in a way that doesn't say whether this was
	// all, twice in a row.
	Unclear

	// The following end one listing, and not the sweep.
	brokenOff
	emptyLinked // an empty page with a next link
	fullUnlinked
	endless
	unreadable
	crowded
)

// maxFruitless bounds the listings of a sweep that bring nothing new.
const maxFruitless = 6

// Run sweeps. It ends between pages when fetching ends, and publishes nothing
// more when working does.
func (s *Sweep) Run(fetching, working context.Context) (Ending, error) {
	before, fruitless := Complete, 0
	for {
		p := pass{Sweep: s, tokens: map[string]bool{}}
		end, err := p.run(fetching, working)
		switch {
		case err != nil:
			return end, err
		case end == Complete && s.Shifting && p.pages > 1 && p.fresh > 0, end == unreadable:
			continue
		case end <= Unclear:
			return end, nil
		}
		if p.fresh > 0 {
			before, fruitless = end, 0
			continue
		}
		if fruitless++; fruitless >= maxFruitless {
			return Unclear, fmt.Errorf("%d listings in a row brought nothing: %w", fruitless, errors.Join(p.cause, errors.New("the API does not bring a listing to its end")))
		}
		switch again := end == before; {
		case again && (end == emptyLinked || end == fullUnlinked):
			return Complete, nil // DTM API: a next link on the last page has been seen
		case again && end == endless:
			return Unclear, nil
		case again && end == brokenOff:
			return Unclear, fmt.Errorf("no page could be read, twice in a row: %w", p.cause)
		}
		before = end
	}
}

// pass is one listing from the top.
type pass struct {
	*Sweep
	tokens map[string]bool
	shown  Shown
	// older is how many alerts in a row, up to the last one, were seen by an earlier
	// sweep.
	older int
	pages int
	fresh int
	cause error
}

func (p *pass) run(fetching, working context.Context) (Ending, error) {
	ctx, cancel := context.WithCancel(fetching)
	defer cancel()
	for page, err := range p.Source.List(ctx, p.Query) {
		switch {
		case err != nil && fetching.Err() != nil:
			return Stopped, nil
		case err != nil:
			return p.failed(err)
		}
		p.pages++
		brought := p.shown.Add(page)
		page, doubtful := p.doubts.Cut(page)
		whole, err := p.handle(working, page, brought)
		page.Release()
		switch {
		case err != nil && errors.Is(err, context.Cause(fetching)): // in the middle of fetching whole alerts
			return Stopped, nil
		case err != nil:
			return Stopped, err
		case !whole:
			return Capped, nil
		case doubtful:
			return unreadable, nil
		}
		if end, done := p.judge(page); done {
			return end, nil
		}
		if fetching.Err() != nil {
			return Stopped, nil
		}
		p.tokens[page.Next] = true
	}
	return Stopped, nil
}

// handle publishes what has changed of a page. What the listing holds from before is
// known, but for alerts that stand among changed ones: their updated_at may be wrong.
func (p *pass) handle(working context.Context, page dtm.Page, brought int) (whole bool, err error) {
	var mine []dtm.Alert
	changed := 0
	for _, a := range page.Alerts {
		if a.Fault != "" {
			continue
		}
		mine = append(mine, a)
		if !a.UpdatedAt.Before(p.Back) {
			changed = len(mine)
		}
	}
	if changed > 0 { // the one behind these may be one of them, too
		changed = min(changed+1, len(mine))
	}
	mine = mine[:changed]
	tally, err := p.Desk.Handle(working, mine, p.Take)
	p.OnPage(len(mine), brought, tally)
	p.fresh += tally.Fresh()
	return tally.Handled == len(mine), err
}

// judge says whether the listing goes on after a page.
func (p *pass) judge(page dtm.Page) (Ending, bool) {
	for _, a := range page.Alerts {
		switch {
		case a.Fault != "" || a.Undated: // its place says nothing
		case a.UpdatedAt.Before(p.Back):
			p.older++
		default:
			p.older = 0
		}
	}
	switch {
	// A single one may be out of place, and ends nothing.
	case p.older >= 2:
		return Complete, true
	case page.Next == "" && len(page.Alerts) >= p.Query.Size:
		return fullUnlinked, true
	case page.Next == "":
		return Complete, true
	case len(page.Alerts) == 0:
		return emptyLinked, true
	case p.tokens[page.Next], p.shown.Endless():
		return endless, true
	}
	return Complete, false
}

// failed tells what ends a sweep from what only ends the listing.
func (p *pass) failed(err error) (Ending, error) {
	var (
		restart *dtm.RestartError
		large   *dtm.PageTooLargeError
	)
	p.cause = err
	switch {
	case errors.As(err, &restart):
		return brokenOff, nil
	case errors.Is(err, dtm.ErrMemory) && !p.Query.Alone:
		p.Query.Alone = true
		return crowded, nil
	case errors.As(err, &large) && p.Query.Size > 1:
		p.Query.Size = max(1, p.Query.Size/4)
		return crowded, nil
	}
	return Stopped, err
}
