package drain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
)

// sweepReader reads what was updated last, back to what an earlier sweep has seen:
// since only filters on created_at (DTM API), so changes of older alerts are found
// by the order of the listing.
type sweepReader struct {
	source    Source
	processor Processor
	query     dtm.Query // with Newest
	// back is the updated_at at which the sweep ends.
	back time.Time
	// shifting: alerts leave the listing while it is read, so that others may skip
	// from one page to the one before. A listing of several pages that brought
	// something is then read once more.
	shifting bool
	reserve  func(n int) int
	// onPage is told of every page: how many of its alerts were not seen by an earlier
	// sweep, and how many its listing had not shown before.
	onPage func(looked, brought int, t ledger.Counts)

	doubts doubts
}

// sweepEnd says how far a sweep came.
type sweepEnd int

// Endings of a sweep.
const (
	sweepComplete sweepEnd = iota
	sweepStopped           // its context ended
	sweepCapped            // reserve allowed no more
	// sweepUnclear: the API ends its listing in a way that doesn't say whether this was
	// all, twice in a row.
	sweepUnclear

	// The following end one listing, and not the sweep.
	sweepBrokenOff
	sweepEmptyLinked // an empty page with a next link
	sweepFullUnlinked
	sweepEndless
	sweepUnreadable
	sweepTooLarge
)

// run sweeps. It ends between pages when fetching ends, and publishes nothing
// more when working does.
func (s *sweepReader) run(fetching, working context.Context) (sweepEnd, error) {
	before, withoutProgress := sweepComplete, 0
	for {
		p := sweepPass{sweepReader: s, tokens: map[string]bool{}}
		end, err := p.run(fetching, working)
		switch {
		case err != nil:
			return end, err
		case end == sweepComplete && s.shifting && p.pages > 1 && p.newAlerts > 0, end == sweepUnreadable:
			continue
		case end <= sweepUnclear:
			return end, nil
		}
		if p.newAlerts > 0 {
			before, withoutProgress = end, 0
			continue
		}
		if withoutProgress++; withoutProgress >= maxWithoutProgress {
			return sweepUnclear, fmt.Errorf("%d listings in a row brought nothing: %w", withoutProgress, errors.Join(p.cause, errors.New("the API does not bring a listing to its end")))
		}
		switch again := end == before; {
		case again && (end == sweepEmptyLinked || end == sweepFullUnlinked):
			return sweepComplete, nil // DTM API: a next link on the last page has been seen
		case again && end == sweepEndless:
			return sweepUnclear, nil
		case again && end == sweepBrokenOff:
			return sweepUnclear, fmt.Errorf("no page could be read, twice in a row: %w", p.cause)
		}
		before = end
	}
}

// sweepPass is one listing from the top.
type sweepPass struct {
	*sweepReader
	tokens map[string]bool
	shown  shown
	// older is how many alerts in a row, up to the last one, were seen by an earlier
	// sweep.
	older     int
	pages     int
	newAlerts int
	cause     error
}

func (p *sweepPass) run(fetching, working context.Context) (sweepEnd, error) {
	ctx, cancel := context.WithCancel(fetching)
	defer cancel()
	for page, err := range p.source.List(ctx, p.query) {
		switch {
		case err != nil && fetching.Err() != nil:
			return sweepStopped, nil
		case err != nil:
			return p.failed(err)
		}
		p.pages++
		brought := p.shown.add(page)
		page, doubtful := p.doubts.cut(page)
		allHandled, err := p.handle(working, page, brought)
		page.Release()
		switch {
		case err != nil && errors.Is(err, context.Cause(fetching)): // in the middle of fetching full alerts
			return sweepStopped, nil
		case err != nil:
			return sweepStopped, err
		case !allHandled:
			return sweepCapped, nil
		case doubtful:
			return sweepUnreadable, nil
		}
		if end, done := p.endOf(page); done {
			return end, nil
		}
		if fetching.Err() != nil {
			return sweepStopped, nil
		}
		p.tokens[page.Next] = true
	}
	return sweepStopped, nil
}

// handle publishes what has changed of a page. What the listing holds from before is
// known, but for alerts that stand among changed ones: their updated_at may be wrong.
func (p *sweepPass) handle(working context.Context, page dtm.Page, brought int) (allHandled bool, err error) {
	var mine []dtm.Alert
	changed := 0
	for _, a := range page.Alerts {
		if a.Invalid != "" {
			continue
		}
		mine = append(mine, a)
		if !a.UpdatedAt.Before(p.back) {
			changed = len(mine)
		}
	}
	if changed > 0 { // the one after these may be one of them, too
		changed = min(changed+1, len(mine))
	}
	mine = mine[:changed]
	counts, err := p.processor.Process(working, mine, p.reserve)
	p.onPage(len(mine), brought, counts)
	p.newAlerts += counts.New()
	return counts.Handled == len(mine), err
}

// endOf says whether the listing goes on after a page.
func (p *sweepPass) endOf(page dtm.Page) (sweepEnd, bool) {
	for _, a := range page.Alerts {
		switch {
		case a.Invalid != "" || a.Undated: // its place says nothing
		case a.UpdatedAt.Before(p.back):
			p.older++
		default:
			p.older = 0
		}
	}
	switch {
	// A single one may be out of place, and ends nothing.
	case p.older >= 2:
		return sweepComplete, true
	case page.Next == "" && len(page.Alerts) >= p.query.Size:
		return sweepFullUnlinked, true
	case page.Next == "":
		return sweepComplete, true
	case len(page.Alerts) == 0:
		return sweepEmptyLinked, true
	case p.tokens[page.Next], p.shown.isEndless():
		return sweepEndless, true
	}
	return sweepComplete, false
}

// failed tells what ends a sweep from what only ends the listing.
func (p *sweepPass) failed(err error) (sweepEnd, error) {
	var (
		restart *dtm.RestartError
		large   *dtm.PageTooLargeError
	)
	p.cause = err
	switch {
	case errors.As(err, &restart):
		return sweepBrokenOff, nil
	case errors.Is(err, dtm.ErrMemory) && !p.query.Alone:
		p.query.Alone = true
		return sweepTooLarge, nil
	case errors.As(err, &large) && p.query.Size > 1:
		p.query.Size = max(1, p.query.Size/4)
		return sweepTooLarge, nil
	}
	return sweepStopped, err
}
