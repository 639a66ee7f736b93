package drain

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// sweep looks for changes of alerts that were created within UPDATES_WINDOW, and
// for alerts that came to match the filter. What it can't read to its end within
// its time is left to backfills.
func (w *work) sweep(feed state.Feed) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = observe.Recovered(v)
		}
	}()
	// Alerts that the first run has read can only have changed while it ran: the next
	// sweep reads back to its start.
	if w.runner.Options.UpdatesWindow == 0 || w.clock.first {
		return nil
	}
	began := w.clock.now().Truncate(ms)
	w.sweepSince = w.oldestChange(feed, began)
	fetching, stop := w.sweepTime()
	defer stop(nil)
	listed := w.report.Fetched
	kinds := []string{state.Changes}
	if w.runner.Options.Filter.HasMutable() {
		kinds = append(kinds, state.Matches)
	}
	wholly, back := true, time.Time{}
	for i, kind := range kinds {
		s := w.sweepOf(fetching, kind, feed, began)
		end, err := w.sweepListing(fetching, s)
		switch {
		case err != nil:
			return w.sweepFailed(fetching, err, kinds[i:], began)
		case kind == state.Changes && listed > 0 && !s.shown && w.isNewestWithin():
			// Counted as complete, it would hide changes and late alerts until the audit.
			w.runner.Log.WarnContext(w.deadlines.caller, "the API lists no alert by its last change, and has just listed some by their creation: changes are not seen", "event", "sweep", "feed", w.runner.Feed)
			return nil
		case end == unclear:
			w.runner.Log.WarnContext(w.deadlines.caller, "the API lists the same again and again, and changes after that are not seen", "event", "sweep", "feed", w.runner.Feed)
			return nil
		}
		wholly, back = wholly && !s.short, s.back
	}
	if w.holder != nil {
		w.swept(began)
		w.coverOverlap(began, later(back, w.sweepSince), wholly)
	}
	return nil
}

// isNewestWithin reports whether the newest alert that the feed has read is one that a sweep
// lists.
func (w *work) isNewestWithin() bool {
	return w.holder != nil && !w.holder.Feed().Newest.Before(w.sweepSince)
}

// oldestChange is the created_at back to which a sweep looks: all of UPDATES_WINDOW, but
// for what GTI refuses to list.
func (w *work) oldestChange(feed state.Feed, began time.Time) time.Time {
	o := w.runner.Options
	if r := feed.Refusal; r != nil && began.Sub(r.At) < refusalHolds && o.UpdatesWindow > r.Age-refusalDelay {
		return o.oldestSafeSince(began)
	}
	return began.Add(-o.UpdatesWindow)
}

// sweepTime is the time in which a sweep lists. The rest of the run is the backfills', to
// which a dry run leaves nothing.
func (w *work) sweepTime() (fetching context.Context, stop context.CancelCauseFunc) {
	if w.holder == nil {
		return w.deadlines.fetching, func(error) {}
	}
	length := sweepFor
	if deadline, ok := w.deadlines.fetching.Deadline(); ok {
		length = min(length, time.Until(deadline)/2)
	}
	shorter, stop := w.deadlines.until(time.Now().Add(length), errLiveFeed)
	return shorter.fetching, stop
}

// sweepFailed says what follows when a sweep has not read the listings of some kinds to
// their end: the error that it ends with, nil when backfills or the next sweep do the rest.
func (w *work) sweepFailed(fetching context.Context, err error, kinds []string, began time.Time) error {
	switch ended := context.Cause(fetching); {
	case w.holder != nil && errors.Is(err, ended) && (errors.Is(err, errLiveFeed) || errors.Is(err, errBudget)):
		// A sweep that was handed over before is finished first: it covers part of this one.
		if !w.isUnfinished("sweep-") {
			if err := w.handOver(kinds, began); err != nil {
				return err
			}
			w.swept(began)
			// The overlap is the next run's to list.
			w.holder.UpdateLazily(func(f *state.Feed) { f.SweptOverlap = began })
		}
		if errors.Is(err, errLiveFeed) {
			return nil
		}
		return err
	case errors.Is(err, errCap), errors.Is(err, ended):
		return err
	case dtm.Kind(err) == dtm.BudgetSpent, dtm.Kind(err) == dtm.Wait && w.holder != nil && w.deadlines.hasTime(dtm.RetryAfter(err)):
		// Its share of the key's budget is used up, and the live feed's isn't; or GTI
		// asks for a wait that is longer than a sweep, and not than the run.
		w.runner.Log.WarnContext(w.deadlines.caller, "changes are not looked for", "event", "sweep", "feed", w.runner.Feed, "reason", err.Error())
		return nil
	default:
		return fmt.Errorf("looking for changed alerts: %w", w.lost(listingFailed(err)))
	}
}

// swept notes that everything that has changed before the sweep began is seen, or left
// to backfills.
func (w *work) swept(began time.Time) {
	since := w.sweepSince
	w.holder.UpdateLazily(func(f *state.Feed) { f.LastSweep, f.SweepSince = began, since })
}

// coverOverlap notes that the live feed need not list the overlap: a sweep shows it, this
// one or one soon after it. updated_at is never before created_at (DTM API), so an alert
// that came into the index since a sweep has read the overlap, less than OVERLAP after its
// creation, is in the listing of the next one that does.
// back is the created_at back to which this one has looked for them.
func (w *work) coverOverlap(began, back time.Time, wholly bool) {
	w.holder.UpdateLazily(func(f *state.Feed) {
		for _, owed := range []time.Time{f.Owed.Since, f.RereadFrom} {
			if !owed.IsZero() && back.After(owed) {
				return
			}
		}
		f.Owed, f.RereadFrom = state.TimeRange{}, time.Time{}
		if wholly {
			f.SweptOverlap = began
		}
	})
}

// sweepListing reads one listing of a sweep. When the API refuses since for its
// age, it goes on from the oldest that the API is known to answer.
func (w *work) sweepListing(fetching context.Context, s *sweepReader) (decision, error) {
	w.report.needed++ // one listing, of however few alerts
	for refused := time.Duration(0); ; {
		s.query.Since = w.sweepSince
		asked, bound := w.clock.now(), w.runner.Options.oldestSafeSince(w.clock.now())
		before := w.runner.SweepAPI.Stats().Pages
		end, err := s.read(fetching, w.deadlines.working)
		answered := w.runner.SweepAPI.Stats().Pages > before
		if refused > 0 && answered {
			refusal := &state.Refusal{At: asked.Truncate(ms), Age: refused}
			w.update(func(f *state.Feed) { f.Refusal = refusal })
			refused = 0
		}
		// GTI may also refuse the since of a later listing, when the sweep begins anew.
		if refused > 0 || !dtm.IsSinceRefused(err) || !w.sweepSince.Before(bound) {
			return end, err
		}
		refused, w.sweepSince = asked.Sub(w.sweepSince), bound
	}
}

// update changes the feed's document, if the run holds it.
func (w *work) update(change func(*state.Feed)) {
	if w.holder != nil {
		w.holder.Update(change)
	}
}

// sweptUntil is when all that had changed by then was seen.
func sweptUntil(feed state.Feed) time.Time {
	switch {
	case !feed.LastSweep.IsZero():
		return feed.LastSweep
	case !feed.FirstRun.IsZero():
		return feed.FirstRun
	default: // the feed is older than the sweep
		return feed.BeginsAt
	}
}

// sweepFor is how long a sweep may take. One of 250,000 alerts a day is a hundred pages,
// and one that is cut short costs a listing of all of UPDATES_WINDOW.
const sweepFor = 2 * time.Minute

// sweepLate is how old the last sweep may be at a run's end before the run says so. A
// budget of errors that is used up passes within an hour.
const sweepLate = 2 * time.Hour

// tellLateSweep logs that sweeps stand still, which neither the run's outcome nor its
// lag shows. An alert policy counts the line.
func (w *work) tellLateSweep() {
	if w.runner.Options.UpdatesWindow == 0 {
		return
	}
	last, now := sweptUntil(w.holder.Feed()), w.clock.now()
	if now.Sub(last) > sweepLate {
		w.runner.Log.WarnContext(w.deadlines.caller, "changes of alerts come late: no sweep was complete for long",
			"event", "sweep_late", "feed", w.runner.Feed, "last_sweep", last)
	}
}

const (
	// A short sweep reads back to this long before the last one. With less, a change that
	// comes into GTI's index a little late would wait for a sweep of all of OVERLAP.
	shortOverlap = 2 * time.Minute
	// plentiful is the part of a day's requests up to which no sweep is short.
	plentiful = 0.15
)

func (w *work) sweepOf(fetching context.Context, kind string, feed state.Feed, began time.Time) *sweepReader {
	overlap := w.runner.Options.Overlap
	back := sweptUntil(feed)
	if !feed.SweptOverlap.IsZero() {
		back = earlier(back, feed.SweptOverlap)
	}
	back = back.Add(-overlap)
	// With a run every minute the overlap is ten elevenths of each sweep. Where requests
	// are not plentiful, every sweep reads what is new, and one in OVERLAP the rest: a tenth
	// less, since a run may begin a little early.
	var enough time.Time
	used, _ := w.runner.Usage.meter.Used()
	if began.Sub(feed.SweptOverlap) < overlap*9/10 && float64(used) >= plentiful*float64(w.runner.Options.RequestsPerDay) {
		enough = feed.LastSweep.Add(-min(shortOverlap, overlap))
	}
	options := ledger.Options{
		CheckLease: w.checkLease, DryRun: w.dryRun, FetchFull: w.fetchFull(fetching, w.runner.SweepAPI),
		FullSince: feed.End.Add(-2 * w.runner.Options.Overlap),
	}
	isFeeds := func(a dtm.Alert) bool {
		return !a.CreatedAt.Before(feed.BeginsAt) && a.CreatedAt.Before(feed.End) && !unread(feed.Slices, a.CreatedAt)
	}
	filter := w.runner.Options.Filter.Immutable()
	switch {
	case kind == state.Matches:
		filter = w.runner.Options.Filter
		options.Mode, options.IsFeeds = ledger.Matches, isFeeds
	case w.runner.Options.Filter.HasMutable(): // the other listing says what matches
		options.Mode = ledger.Changes
	default:
		// What is unknown of the overlap came into the index late. Alerts from before it are
		// the audit's.
		options.Mode, options.IsFeeds = ledger.Matches, func(a dtm.Alert) bool { return !a.CreatedAt.Before(back) && isFeeds(a) }
	}
	return &sweepReader{
		source: w.runner.SweepAPI, processor: w.runner.NewProcessor(options), back: back, enough: enough, shifting: kind == state.Matches,
		query:     dtm.Query{Order: dtm.UpdatedFirst, Size: dtm.PageSize(false), Filter: filter},
		allowance: w.allowance(),
		onPage: func(looked, brought int, c ledger.Counts) {
			w.report.add(looked, c)
			w.report.needed += float64(brought) / float64(dtm.PageSize(false))
		},
	}
}

// sweepReader reads what was updated last, back to what an earlier sweep has seen:
// since only filters on created_at (DTM API), so changes of older alerts are found
// by the order of the listing.
type sweepReader struct {
	source    Source
	processor Processor
	query     dtm.Query // its order is UpdatedFirst
	// back is the updated_at at which the sweep ends.
	back time.Time
	// enough, unless zero, is the updated_at at which a sweep of several pages may end.
	enough time.Time
	short  bool // it has ended there
	shown  bool // a page had an alert
	// shifting: alerts leave the listing while it is read, so that others may skip
	// from one page to the one before. A listing of several pages that brought
	// something is then read once more.
	shifting  bool
	allowance ledger.Allowance
	// onPage is told of every page: how many of its alerts were not seen by an earlier
	// sweep, and how many its listing had not shown before.
	onPage func(looked, brought int, c ledger.Counts)

	doubts  doubts
	endings endings
}

// read sweeps, one listing from the top after the other. It ends between pages when
// fetching ends, with the cause of that, and publishes nothing more when working
// does; errCap says that the allowance is used up.
func (s *sweepReader) read(fetching, working context.Context) (decision, error) {
	for {
		s.query.Alone, s.short = s.endings.alone, false
		p := sweepPass{listing: newListing(s.endings.followUp)}
		end, err := s.pass(fetching, working, &p)
		switch {
		case err != nil && end == goesOn:
			return unclear, err
		case end == finished && s.shifting && p.pages > 1 && p.newAlerts > 0:
			continue
		case end == tooLarge && s.query.Size == 1:
			return unclear, listingFailed(err)
		case end == tooLarge:
			s.query.Size = max(1, s.query.Size/4)
		case end == finished && p.withheld:
			end = emptyLater
		}
		next, err := s.endings.add(end, p.newAlerts > 0, err)
		if next == allRead && end == refusedLast {
			next = unclear // each listing begins at the top, so nothing shows that this was all
		}
		if err != nil || next != listAgain {
			return next, err
		}
	}
}

// sweepPass is what one listing of a sweep has shown.
type sweepPass struct {
	listing
	// older is how many alerts in a row, up to the last one, were seen by an earlier
	// sweep.
	older int
	// recent is how many of them were updated before sweepReader.enough.
	recent    int
	pages     int
	newAlerts int
	// emptied: it had an empty page with a link, and withheld: then one with alerts, so that
	// the empty one may have been withheld. Each listing begins at the top, so that only
	// another one shows what was in it.
	emptied, withheld bool
}

// freePages are pages that a sweep reads whatever they hold: a quiet feed has one.
const freePages = 2

// pass reads one listing from the top. An error that comes with an end has ended
// only the listing.
func (s *sweepReader) pass(fetching, working context.Context, p *sweepPass) (listingEnd, error) {
	ctx, cancel := context.WithCancel(fetching)
	defer cancel()
	for page, err := range s.source.List(ctx, s.query) {
		switch {
		case err != nil && fetching.Err() != nil:
			return goesOn, context.Cause(fetching)
		case err != nil:
			return p.endOf(err), err
		}
		p.pages++
		page, doubtful := s.doubts.cut(page)
		p.older, p.recent = inRow(p.older, page, s.back), inRow(p.recent, page, s.enough)
		// A single alert may be out of place, and ends nothing.
		isPast := p.older >= 2
		s.short = !isPast && p.recent >= 2 && p.pages >= freePages && page.Next != ""
		p.withheld = p.withheld || p.emptied && len(page.Alerts) > 0
		p.emptied, s.shown = p.emptied || len(page.Alerts) == 0, s.shown || len(page.Alerts) > 0
		end, brought := p.add(page, s.query.Size, isPast || s.short)
		allHandled, err := s.handle(working, page, brought, p)
		page.Release()
		switch {
		case err != nil:
			return goesOn, err
		case !allHandled:
			return goesOn, errCap
		case doubtful:
			return unreadable, nil
		case end != goesOn:
			return end, nil
		case fetching.Err() != nil:
			return goesOn, context.Cause(fetching)
		}
	}
	if err := context.Cause(fetching); err != nil {
		return goesOn, err
	}
	return goesOn, errNoEnd
}

// inRow is how many alerts in a row, up to the last one of a page, were updated before a
// time, after as many on the pages before.
func inRow(n int, page dtm.Page, before time.Time) int {
	for _, a := range page.Alerts {
		switch {
		case a.Invalid != "" || a.Undated: // its place says nothing
		case a.UpdatedAt.Before(before):
			n++
		default:
			n = 0
		}
	}
	return n
}

// handle publishes what has changed of a page. What the listing holds from before is
// known, but for alerts that stand among changed ones: their updated_at may be wrong.
func (s *sweepReader) handle(working context.Context, page dtm.Page, brought int, p *sweepPass) (allHandled bool, err error) {
	var mine []dtm.Alert
	changed := 0
	for _, a := range page.Alerts {
		if a.Invalid != "" {
			continue
		}
		mine = append(mine, a)
		if !a.UpdatedAt.Before(s.back) {
			changed = len(mine)
		}
	}
	if changed > 0 { // the one after these may be one of them, too
		changed = min(changed+1, len(mine))
	}
	mine = mine[:changed]
	counts, err := s.processor.Process(working, mine, s.allowance)
	s.onPage(len(mine), brought, counts)
	p.newAlerts += counts.New()
	return counts.Handled == len(mine), err
}

// unread reports whether the live feed has still to read a moment.
func unread(pending []state.Slice, at time.Time) bool {
	return slices.ContainsFunc(pending, func(s state.Slice) bool { return !at.Before(s.DoneUntil) && at.Before(s.To) })
}

// fetchFull fetches an alert with its document, where messages have one, until
// fetching ends: a page may hold many of them.
func (w *work) fetchFull(fetching context.Context, s Session) func(context.Context, string) (dtm.Page, error) {
	if !w.runner.Options.Refs {
		return nil
	}
	return func(_ context.Context, id string) (dtm.Page, error) { return s.Get(fetching, id, true) }
}

// allowance is what is left of MAX_ALERTS_PER_RUN, for one goroutine.
type allowance struct{ left int }

func (a *allowance) Reserve(n int) int {
	n = min(n, a.left)
	a.left -= n
	return n
}

func (a *allowance) Return(n int) { a.left += n }

func (w *work) allowance() *allowance {
	if w.runner.Options.MaxAlerts == 0 {
		return &allowance{left: math.MaxInt}
	}
	return &allowance{left: max(0, w.runner.Options.MaxAlerts-int(w.report.Published))}
}

// handOver makes backfills of the listings that a sweep could not read to their end.
func (w *work) handOver(kinds []string, began time.Time) error {
	f := w.holder.Feed()
	for _, kind := range kinds {
		b := state.Backfill{
			ID: "sweep-" + began.Format("20060102T150405.000Z"), Kind: kind, Filter: w.runner.Options.Filter.Immutable().String(),
			Since: w.sweepSince, Until: f.End,
		}
		if kind == state.Matches {
			b.ID += "-" + kind
			b.Filter, b.Until = w.runner.Options.Filter.String(), f.Position()
			b.Since = later(b.Since, f.BeginsAt)
		}
		if err := w.requestBackfill(b); err != nil {
			return err
		}
	}
	return nil
}

// isUnfinished reports whether there is an unfinished backfill of the relay's own
// whose id begins so.
func (w *work) isUnfinished(prefix string) bool {
	return slices.ContainsFunc(w.unfinished, func(id string) bool { return strings.HasPrefix(id, prefix) })
}

// requestBackfill records a backfill of the relay's own.
func (w *work) requestBackfill(b state.Backfill) error {
	if !b.Since.Before(b.Until) {
		return nil
	}
	if err := w.checkLease(); err != nil {
		return err
	}
	b.State, b.RequestedAt = state.Pending, time.Now().UTC().Truncate(ms)
	b.RequestedBy = w.runner.RunID
	b.Slices = []state.Slice{{From: b.Since, To: b.Until, DoneUntil: b.Since}}
	err := w.runner.Store.CreateBackfill(w.deadlines.working, w.runner.Feed, b)
	if errors.Is(err, state.ErrConflict) { // an earlier run came so far
		err = nil
	}
	if err != nil {
		return fmt.Errorf("recording backfill %s: %w", b.ID, err)
	}
	w.unfinished = append(w.unfinished, b.ID)
	return nil
}
