package ledger

import (
	"sync"
	"time"
	"unique"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// DryRun is what a dry run would have recorded, so that an alert which is listed
// twice is counted once. It holds only what decides what the next version of an alert
// would be: a dry run may count a million alerts.
type DryRun struct {
	mu      sync.Mutex
	decided map[alertKey]decided
	// ahead are the versions whose time lay ahead, of the few alerts that have any.
	ahead map[alertKey][]state.AlertVersion
}

// decided is a part of a record. Its times are in milliseconds.
type decided struct {
	status             unique.Handle[string]
	published, handled int64
}

// remember writes down that the items would have been sent.
func (d *DryRun) remember(p *Processor, items []*item) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.decided == nil {
		d.decided, d.ahead = map[alertKey]decided{}, map[alertKey][]state.AlertVersion{}
	}
	for _, it := range items {
		switch {
		case it.alert.Invalid != "":
			it.outcome = state.Rejected
		case it.rules.Drop:
			it.outcome = state.Dropped
		default:
			it.outcome = state.Published
		}
		rec := it.entry.Record
		p.merge(&rec, it, time.Now())
		var ahead []state.AlertVersion
		for _, v := range rec.Versions {
			if aheadOutcome(rec, v.UpdatedAt) != "" {
				ahead = append(ahead, v)
			}
		}
		key := keyOf(rec.ID)
		d.decided[key] = decided{unique.Make(rec.Status), rec.PublishedVersion.UnixMilli(), rec.HandledVersion.UnixMilli()}
		delete(d.ahead, key)
		if ahead != nil {
			d.ahead[key] = ahead
		}
	}
}

// overlay replaces what the ledger knows by what the dry run knows better.
func (d *DryRun) overlay(p *Processor, entries []state.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, e := range entries {
		key := keyOf(e.Record.ID)
		if known, ok := d.decided[key]; ok {
			// What a backfill has handled, it does not handle again.
			entries[i].Record = state.Record{
				ID: e.Record.ID, Status: known.status.Value(), Versions: d.ahead[key], Backfill: p.BackfillID,
				PublishedVersion: time.UnixMilli(known.published).UTC(), HandledVersion: time.UnixMilli(known.handled).UTC(),
			}
		}
	}
}
