package ledger

import (
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// DryRun is what a dry run would have recorded, so that an alert which is listed
// twice is counted once.
type DryRun struct {
	mu      sync.Mutex
	records map[string]state.Record
}

// remember writes down that the items would have been sent.
func (d *DryRun) remember(p *Processor, items []*item) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.records == nil {
		d.records = map[string]state.Record{}
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
		// Only these decide what the next version would be.
		d.records[rec.ID] = state.Record{
			ID: rec.ID, Status: rec.Status, PublishedVersion: rec.PublishedVersion, HandledVersion: rec.HandledVersion,
			Backfill: rec.Backfill, Versions: ahead,
		}
	}
}

// overlay replaces what the ledger knows by what the dry run knows better.
func (d *DryRun) overlay(entries []state.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, e := range entries {
		if rec, ok := d.records[e.Record.ID]; ok {
			entries[i].Record = rec
		}
	}
}
