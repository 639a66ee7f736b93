package ledger

import (
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

// decide tells what is to be sent from what is in the ledger already, up to what it can
// reserve.
func (p *Processor) decide(alerts []dtm.Alert, entries []state.Entry, counts *Counts, allowance Allowance) (items []*item, reserved int) {
	newest := newestOf(alerts, entries)
	actions := make([]action, len(alerts))
	n := 0
	for i, a := range alerts {
		actions[i] = p.actionFor(a, i, entries[i].Record, alerts[newest[entries[i].Record.ID]], newest[entries[i].Record.ID])
		if actions[i] == toSend && a.Invalid == "" {
			n++
		}
	}
	if n > 0 {
		reserved = allowance.Reserve(n)
	}
	left := reserved
	items = make([]*item, 0, n)
	for i, a := range alerts {
		switch actions[i] {
		case superseded:
			counts.Superseded++
		case suppressed:
			counts.Suppressed++
		case leftAlone:
			counts.LeftAlone++
		case toSend:
			if a.Invalid == "" {
				if left == 0 {
					return items, reserved
				}
				left--
			}
			it := &item{alert: a, entry: entries[i]}
			p.classify(it)
			items = append(items, it)
		}
		counts.Handled++
	}
	return items, reserved
}

type action int

const (
	toSend action = iota
	suppressed
	superseded
	leftAlone
)

// actionFor is what is to be done with alert a, the i-th of its page, of which the
// ledger holds rec and whose newest version in the page is the best-th.
func (p *Processor) actionFor(a dtm.Alert, i int, rec state.Record, newest dtm.Alert, best int) action {
	switch {
	case i != best && a.UpdatedAt.Equal(newest.UpdatedAt):
		return suppressed
	case i != best:
		return superseded
	case p.missing(a, rec):
		return toSend
	case (p.Mode == Changes || p.Mode == Matches) && a.Invalid != "":
		return leftAlone
	case a.Invalid != "" && !rec.HandledVersion.IsZero():
		return suppressed
	case a.Invalid != "":
		return toSend
	case a.UpdatedAt.Before(rec.HandledVersion):
		return superseded
	case a.UpdatedAt.Equal(rec.HandledVersion), aheadOutcome(rec, a.UpdatedAt) != "":
		return suppressed
	case rec.HandledVersion.IsZero() && !p.isNew(a):
		return leftAlone
	default:
		return toSend
	}
}

// isNew reports whether an alert that the ledger has no version of is published.
func (p *Processor) isNew(a dtm.Alert) bool {
	return p.Mode != Changes && (p.Mode != Matches || p.IsFeeds(a))
}

// missing reports whether the backfill that the processor works for has to send what
// the ledger holds already: what was never published, or everything when it
// republishes, and each once.
func (p *Processor) missing(a dtm.Alert, rec state.Record) bool {
	switch {
	case p.Mode != Backfill && p.Mode != Republish || rec.Backfill == p.BackfillID:
		return false
	case a.Invalid != "":
		return true
	case a.UpdatedAt.Equal(rec.PublishedVersion), aheadOutcome(rec, a.UpdatedAt) == state.Published:
		return p.Mode == Republish
	default:
		return a.UpdatedAt.After(rec.PublishedVersion)
	}
}

// newestOf says which of the alerts with one id is the newest version in the
// page: a page never sends two versions of one alert, whose messages could pass
// each other. One whose time lies ahead is newer only than others of its kind.
func newestOf(alerts []dtm.Alert, entries []state.Entry) map[string]int {
	best := make(map[string]int, len(alerts))
	for i, a := range alerts {
		rec := entries[i].Record
		j, ok := best[rec.ID]
		if !ok || newer(rec, a, alerts[j]) {
			best[rec.ID] = i
		}
	}
	return best
}

func newer(rec state.Record, a, b dtm.Alert) bool {
	if counts := isDated(rec, a); counts != isDated(rec, b) {
		return counts
	}
	return a.UpdatedAt.After(b.UpdatedAt)
}

// classify names what a version means to someone who has the earlier ones, and
// where it comes from.
func (p *Processor) classify(it *item) {
	a, rec := it.alert, it.entry.Record
	switch {
	case !rec.Known(), p.Mode == Republish && wasPublished(rec, a):
		it.event = Created
	case rec.Status != field(a.Status):
		it.event = StatusChanged
	default:
		it.event = Updated
	}
	it.origin = state.FromGTI
	if a.Invalid == "" {
		it.origin, _ = writeback.MatchEcho(rec, a)
	}
	// Publishing a version consumes its echo: the record knows where it came from.
	if i := slices.IndexFunc(rec.Statuses, func(s state.StatusChange) bool { return s.At.Equal(a.UpdatedAt) }); i >= 0 {
		it.origin = rec.Statuses[i].Origin
	}
}

// aheadOutcome is what became of a version that the record holds beside its handled and
// its published one, because its time lay ahead when it came; empty when there is
// no such version. A listing shows an alert in its current version, so it is among
// the latest, which a record keeps.
func aheadOutcome(rec state.Record, version time.Time) string {
	if !version.After(rec.HandledVersion) {
		return ""
	}
	outcome := ""
	for _, v := range rec.Versions {
		if v.UpdatedAt.Equal(version) && outcome != state.Published {
			outcome = v.Outcome
		}
	}
	return outcome
}

// isDated reports whether a version's updated_at says which versions are newer. One
// that lay ahead when it came goes on saying nothing when its time has come.
func isDated(rec state.Record, a dtm.Alert) bool {
	return !a.Ahead && aheadOutcome(rec, a.UpdatedAt) == ""
}

// wasPublished reports whether this version was, or one that is as new.
func wasPublished(rec state.Record, a dtm.Alert) bool {
	return !a.UpdatedAt.After(rec.PublishedVersion) || aheadOutcome(rec, a.UpdatedAt) == state.Published
}
