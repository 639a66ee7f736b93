package drain

import (
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	day = 24 * time.Hour
	// auditAge is how old an hour is at least when an audit reads it for the first time,
	// where AUDIT_WINDOW is more than a day.
	auditAge = day
	// auditHole is the longest range, already read, that one audit reads again so that its
	// two ranges need not be two backfills.
	auditHole = time.Hour
	// againSuffix ends the id of an audit of the end of AUDIT_WINDOW alone.
	againSuffix = "-again"
)

// audit asks once a day for what may have come into the index late. Each hour is read
// at an age of about a day, and once more at the end of AUDIT_WINDOW, or only there when
// the window is a day or less. Where the two ranges meet, as by default, one audit reads
// them. The first day has just been read.
func (w *work) audit() error {
	f, now := w.holder.Feed(), w.clock.now()
	last := f.LastAudit
	if last.IsZero() {
		last = f.FirstRun
	}
	today := now.Truncate(day)
	if w.runner.Options.AuditWindow == 0 || !last.Before(today) || w.isUnfinished("audit-") {
		return nil
	}
	first, again := auditRanges(&f, w.runner.Options, w.runner.Options.oldestSafeSince(now))
	if again.Since.Before(again.Until) && first.Since.Before(first.Until) && first.Since.Sub(again.Until) < auditHole {
		first.Since, again = again.Since, state.TimeRange{}
	}
	b := state.Backfill{ID: "audit-" + today.Format(time.DateOnly), Kind: state.Audit, Filter: w.runner.Options.Filter.String()}
	b.Since, b.Until = first.Since, first.Until
	if err := w.requestBackfill(b); err != nil {
		return err
	}
	b.ID += againSuffix
	b.Since, b.Until = again.Since, again.Until
	if err := w.requestBackfill(b); err != nil {
		return err
	}
	if first.Since.Before(first.Until) || again.Since.Before(again.Until) {
		w.holder.Update(func(f *state.Feed) { f.LastAudit = now.Truncate(ms) })
	}
	return nil
}

// auditRanges are what today's audits read for the first time, and again. Either may
// be empty. oldest is the oldest since that the API is known to answer.
func auditRanges(f *state.Feed, o Options, oldest time.Time) (first, again state.TimeRange) {
	position, begin := f.Position(), f.BeginsAt
	// Alerts from before a change of the filter were not read with it.
	if f.FilterSince.After(f.FirstRun) {
		begin = later(begin, f.FilterSince)
	}
	window := later(begin, position.Add(-o.AuditWindow))
	if o.AuditWindow <= day {
		return state.TimeRange{Since: later(window, f.AuditedUntil), Until: position.Add(-o.Overlap)}, again
	}
	// Audits are not exactly a day apart, and one may fail: what it left is read with the next.
	again = state.TimeRange{Since: later(begin, later(f.AuditedAgainUntil, oldest)), Until: position.Add(day - o.AuditWindow)}
	if f.AuditedAgainUntil.IsZero() { // what the first run has read at that age needs no more
		again.Since = later(again.Since, f.FirstRun.Add(day-o.AuditWindow))
	}
	first = state.TimeRange{Since: later(window, later(again.Until, f.AuditedUntil)), Until: position.Add(-auditAge)}
	return first, again
}

// audited notes what a finished audit has read.
func audited(f *state.Feed, b state.Backfill, o Options) {
	againUntil := b.Until
	if strings.HasSuffix(b.ID, againSuffix) {
		f.LateMax = max(f.LateMax, b.LateMax)
	} else {
		f.LateMax, f.AuditedUntil = b.LateMax, later(f.AuditedUntil, b.Until)
		againUntil = b.Until.Add(auditAge + day - o.AuditWindow)
	}
	if o.AuditWindow > day && b.Since.Before(againUntil) {
		f.AuditedAgainUntil = later(f.AuditedAgainUntil, againUntil)
	}
}
