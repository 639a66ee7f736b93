package lifecycle

import (
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// Draft is what a dry run would have recorded, so that an alert which is listed
// twice is counted once.
type Draft struct {
	mu      sync.Mutex
	records map[string]state.Record
}

// note writes down that the jobs would have been done.
func (f *Draft) note(d *Desk, jobs []*job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.records == nil {
		f.records = map[string]state.Record{}
	}
	for _, j := range jobs {
		j.outcome = state.Published
		if j.alert.Fault != "" {
			j.outcome = state.Rejected
		}
		rec := j.entry.Record
		d.note(&rec, j, time.Now())
		var ahead []state.AlertVersion
		for _, v := range rec.Versions {
			if aside(rec, v.UpdatedAt) != "" {
				ahead = append(ahead, v)
			}
		}
		// Only these decide what the next version would be.
		f.records[rec.ID] = state.Record{
			ID: rec.ID, Status: rec.Status, PublishedVersion: rec.PublishedVersion, HandledVersion: rec.HandledVersion,
			Backfill: rec.Backfill, Versions: ahead,
		}
	}
}

// overlay replaces what the ledger knows by what the draft knows better.
func (f *Draft) overlay(entries []state.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, e := range entries {
		if rec, ok := f.records[e.Record.ID]; ok {
			entries[i].Record = rec
		}
	}
}
