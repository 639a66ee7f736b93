package drain

import (
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// audit asks once a day for what may have come into the index late. The first
// day has just been read.
func (w *work) audit() error {
	f, now := w.holder.Feed(), w.clock.now()
	last := f.LastAudit
	if last.IsZero() {
		last = f.FirstRun
	}
	today := now.Truncate(24 * time.Hour)
	if w.runner.Options.AuditWindow == 0 || !last.Before(today) || w.isUnfinished("audit-") {
		return nil
	}
	position := f.Position()
	from, to := position.Add(-w.runner.Options.AuditWindow), position.Add(-w.runner.Options.Overlap)
	if f.BeginsAt.After(from) {
		from = f.BeginsAt
	}
	// Alerts from before a change of the filter were not read with it.
	if f.FilterSince.After(from) && f.FilterSince.After(f.FirstRun) {
		from = f.FilterSince
	}
	if !from.Before(to) {
		return nil
	}
	err := w.requestBackfill(state.Backfill{
		ID: "audit-" + today.Format(time.DateOnly), Kind: state.Audit, Since: from, Until: to, Filter: w.runner.Options.Filter.String(),
	})
	if err == nil {
		w.holder.Update(func(f *state.Feed) { f.LastAudit = now.Truncate(ms) })
	}
	return err
}
