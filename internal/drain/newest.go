package drain

import (
	"context"
	"errors"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
)

// ListNewest lists the alerts of a query (Since and Until bound created_at, Until not
// included and zero for none), the latest first, without a ledger: each once, however
// often the API makes a new listing necessary. handle is given those of a page that are
// new, and whether more pages follow; it may keep them, and answers whether to go on. Where the
// API's order is loose, or a listing had to begin anew, an alert may come after later ones.
func ListNewest(ctx context.Context, source Source, q dtm.Query, handle func(alerts []dtm.Alert, more bool) (goOn bool, err error)) error {
	q.Order = dtm.NewestFirst
	r := &newestReader{source: source, query: q, now: q, handle: handle, seen: map[string]bool{}, order: orderFrom(mirrored(never))}
	for {
		r.now.Alone = r.endings.alone
		end, progressed, err := r.pass(ctx)
		switch {
		case end == stopped:
			return nil
		case err != nil && end == goesOn:
			return err
		case end == tooLarge && r.now.Size > 1:
			r.now.Size = max(1, r.now.Size/4)
		case end == tooLarge && r.now.Refs:
			r.now.Refs = false
		case end == tooLarge:
			return err
		}
		switch next, err := r.endings.add(end, progressed > 0, err); {
		case err != nil:
			return err
		case next == allRead:
			return nil
		case next == unclear:
			return &listingError{errors.New("the API lists the same alerts again and again, and not those after them")}
		}
		// What was read is not asked for again, as far as the order says so.
		if at := mirrored(r.order.position()).Add(ms); at.Before(never) && (r.now.Until.IsZero() || at.Before(r.now.Until)) {
			r.now.Until = at
		}
		r.order = orderFrom(r.order.position())
	}
}

// never is later than every created_at of an alert that is not invalid.
var never = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// mirrored turns the time around, so that the latest comes first: order judges
// listings whose earliest comes first.
func mirrored(t time.Time) time.Time {
	zero := time.Unix(0, 0).UTC()
	return zero.Add(-t.Sub(zero))
}

type newestReader struct {
	source     Source
	query, now dtm.Query // as it was asked for, and as it is asked next
	handle     func(alerts []dtm.Alert, more bool) (goOn bool, err error)

	seen    map[string]bool
	order   order
	doubts  doubts
	endings endings
}

// pass reads one listing. It ends with stopped when handle wants no more, and with
// goesOn and an error when that ends everything.
func (r *newestReader) pass(ctx context.Context) (end listingEnd, progressed int, err error) {
	l := newListing(r.endings.followUp)
	q := r.now
	// Whether the bounds are inclusive is unknown (DTM API).
	if q.Since = q.Since.Add(-ms); !q.Until.IsZero() {
		q.Until = q.Until.Add(ms)
	}
	for page, err := range r.source.List(ctx, q) {
		if err != nil {
			return l.endOf(err), progressed, err
		}
		page, doubtful := r.doubts.cut(page)
		end, _ := l.add(page, q.Size, false)
		fresh := r.pick(page)
		progressed += len(fresh)
		goOn, err := r.handle(fresh, page.Next != "")
		isEmpty := len(page.Alerts) == 0
		page.Release()
		switch {
		case err != nil:
			return goesOn, progressed, err
		case !goOn:
			return stopped, progressed, nil
		case doubtful:
			return unreadable, progressed, nil
		case end != goesOn:
			return end, progressed, nil
		case isEmpty && progressed > 0: // it may have been withheld, and the link leads past it
			return emptyLater, progressed, nil
		case (q.Size < r.query.Size || q.Refs != r.query.Refs) && progressed >= r.query.Size:
			// Past the page that was too large, pages are full again.
			r.now.Size, r.now.Refs = r.query.Size, r.query.Refs
			return anew, progressed, nil
		}
	}
	return goesOn, progressed, errNoEnd
}

// pick takes the alerts that no page has shown yet, and are in the range.
func (r *newestReader) pick(page dtm.Page) (fresh []dtm.Alert) {
	var times []time.Time
	for _, a := range page.Alerts {
		if a.Invalid == "" {
			times = append(times, mirrored(a.CreatedAt))
		}
		name := ledger.ID(a)
		if r.seen[name] {
			continue
		}
		r.seen[name] = true
		if a.Invalid == "" && (a.CreatedAt.Before(r.query.Since) || !r.query.Until.IsZero() && !a.CreatedAt.Before(r.query.Until)) {
			continue
		}
		fresh = append(fresh, a)
	}
	r.order.add(times)
	return fresh
}
