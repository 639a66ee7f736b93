package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

const (
	// conflictPause grows with each of state.Tries.
	conflictPause = 70 * time.Millisecond
	// kept is how many of the first and how many of the latest statuses and
	// versions a record holds.
	kept = 50
)

// record writes down what became of the items. A record that other writers keep
// changing is given up after some tries: the alert is published, and what follows is a
// repeat with the same key. A change of an alert that is in no record then waits for the
// audit, since a sweep can't tell it from one of before the feed.
func (p *Processor) record(ctx context.Context, items []*item) error {
	contended, err := p.write(ctx, items, func(it *item, rec *state.Record, now time.Time) {
		p.merge(rec, it, now)
		it.recorded = *rec
	})
	if err != nil {
		return err
	}
	for _, it := range items {
		if !slices.Contains(contended, it) {
			p.Cache.note(it.recorded)
		}
	}
	return nil
}

// write changes the items' records, and reads and changes again those that another
// writer has changed. contended are those that others keep changing.
func (p *Processor) write(ctx context.Context, items []*item, change func(*item, *state.Record, time.Time)) (contended []*item, err error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	for try := range state.Tries {
		if len(items) == 0 {
			return nil, nil
		}
		if err := p.CheckLease(); err != nil {
			return nil, err
		}
		entries := make([]state.Entry, len(items))
		for i, it := range items {
			entries[i] = it.entry
			change(it, &entries[i].Record, now)
		}
		results, err := p.Store.WriteRecords(ctx, p.Feed, entries)
		if err != nil {
			return nil, fmt.Errorf("recording %d alerts in the ledger: %w", len(items), err)
		}
		var again []*item
		for i, err := range results {
			switch {
			case errors.Is(err, state.ErrConflict):
				again = append(again, items[i])
			case err != nil:
				return nil, fmt.Errorf("recording %s in the ledger: %w", entries[i].Record.ID, err)
			}
		}
		if items = again; len(items) == 0 || try == state.Tries-1 {
			return items, nil
		}
		// Not in step with another writer that tries as often.
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("recording %d alerts in the ledger: %w", len(items), context.Cause(ctx))
		case <-time.After(time.Duration(try) * conflictPause):
		}
		if err := p.reread(ctx, items); err != nil {
			return nil, err
		}
	}
	return items, nil
}

func (p *Processor) reread(ctx context.Context, items []*item) error {
	names := make([]string, len(items))
	for i, it := range items {
		names[i] = it.entry.Record.ID
	}
	entries, err := p.Store.Records(ctx, p.Feed, names)
	if err != nil {
		return fmt.Errorf("reading %d changed alerts from the ledger: %w", len(items), err)
	}
	for i, it := range items {
		it.entry = entries[i]
	}
	return nil
}

// merge merges what became of an item's version into a record, which may hold what
// another writer knows. The published version never goes back, and doesn't move to
// a time that lies ahead, or every later change would pass for an older one.
func (p *Processor) merge(rec *state.Record, it *item, now time.Time) {
	a := it.alert
	version := a.UpdatedAt
	if a.Invalid != "" {
		version = now // its bytes are its version
	}
	if p.Mode == Backfill || p.Mode == Republish {
		rec.Backfill = p.BackfillID
	}
	if rec.FirstSeen.IsZero() {
		rec.FirstSeen = now
		rec.CreatedAt = a.CreatedAt
	}
	dated, first := isDated(*rec, a), !wasPublished(*rec, a)
	// The alert is in the ledger by a version that is older than any.
	before := a.CreatedAt.Add(-time.Millisecond)
	if !version.Before(rec.HandledVersion) {
		switch {
		case dated:
			rec.HandledVersion = version
		case rec.HandledVersion.IsZero():
			rec.HandledVersion = before
		}
		rec.Type, rec.Severity, rec.MonitorID = field(a.Type), field(a.Severity), field(a.MonitorID)
		if a.Invalid == "" {
			rec.Priority = it.rules.Priority
		}
	}
	v := state.AlertVersion{UpdatedAt: version, At: now, RunID: p.RunID, Outcome: it.outcome, Reason: it.reason}
	if it.outcome == state.Published {
		v.Event = it.event
		if first {
			_, rec.Echoes = writeback.MatchEcho(*rec, a)
			status := field(a.Status)
			if !rec.Known() || rec.Status != status {
				rec.Statuses = trim(append(slices.Clone(rec.Statuses),
					state.StatusChange{Status: status, At: version, Origin: it.origin}))
			}
			rec.Status = status
			switch {
			case dated:
				rec.PublishedVersion = version
			case !rec.Known():
				rec.PublishedVersion = before
			}
		}
	}
	if it.requested {
		it.noteSent(rec)
	}
	rec.HasSecrets = rec.HasSecrets || it.secret
	if it.fingerprint != "" {
		rec.Fingerprint = it.fingerprint
	}
	// A write whose answer was lost is repeated, and finds its own entry.
	if !slices.ContainsFunc(rec.Versions, func(o state.AlertVersion) bool {
		return o.UpdatedAt.Equal(v.UpdatedAt) && o.At.Equal(v.At) && o.RunID == v.RunID && o.Outcome == v.Outcome
	}) {
		rec.Versions = trim(append(slices.Clone(rec.Versions), v))
	}
	rec.ExpireAt = now.Add(p.TTL)
}

// field is an alert's text as a record holds it.
func field(text string) string { return dtm.Cut(text, state.MaxFieldBytes) }

// trim keeps the first and the latest of a list, which are what a timeline is
// read for.
func trim[T any](list []T) []T {
	if len(list) <= 2*kept {
		return list
	}
	return slices.Delete(list, kept, len(list)-kept)
}
