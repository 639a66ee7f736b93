package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// tries is how often a record is read, merged and written again when another
	// writer was faster.
	tries = 5
	// conflictPause grows with each of these tries.
	conflictPause = 70 * time.Millisecond
	// kept is how many of the first and how many of the latest statuses and
	// versions a record holds.
	kept = 50
)

// record writes down what became of the jobs. A record that other writers keep
// changing is given up after some tries: the alert is published, and the worst
// that follows is a duplicate with the same key.
func (d *Desk) record(ctx context.Context, jobs []*job) error {
	now := time.Now().UTC().Truncate(time.Millisecond)
	for try := range tries {
		if len(jobs) == 0 {
			return nil
		}
		if err := d.Alive(); err != nil {
			return err
		}
		entries := make([]state.Entry, len(jobs))
		for i, j := range jobs {
			entries[i] = j.entry
			d.note(&entries[i].Record, j, now)
		}
		results, err := d.Ledger.WriteRecords(ctx, d.Feed, entries)
		if err != nil {
			return fmt.Errorf("recording %d alerts in the ledger: %w", len(jobs), err)
		}
		var again []*job
		for i, err := range results {
			switch {
			case errors.Is(err, state.ErrConflict):
				again = append(again, jobs[i])
			case err != nil:
				return fmt.Errorf("recording %s in the ledger: %w", entries[i].Record.ID, err)
			}
		}
		if jobs = again; len(jobs) == 0 {
			return nil
		}
		// Not in step with another writer that tries as often.
		select {
		case <-ctx.Done():
			return fmt.Errorf("recording %d alerts in the ledger: %w", len(jobs), context.Cause(ctx))
		case <-time.After(time.Duration(try) * conflictPause):
		}
		if err := d.reread(ctx, jobs); err != nil {
			return err
		}
	}
	return nil
}

func (d *Desk) reread(ctx context.Context, jobs []*job) error {
	names := make([]string, len(jobs))
	for i, j := range jobs {
		names[i] = j.entry.Record.ID
	}
	entries, err := d.Ledger.Records(ctx, d.Feed, names)
	if err != nil {
		return fmt.Errorf("reading %d changed alerts from the ledger: %w", len(jobs), err)
	}
	for i, j := range jobs {
		j.entry = entries[i]
	}
	return nil
}

// aside is what became of a version that the record holds beside its handled and
// its published one, because its time lay ahead when it came; empty when there is
// no such version. A listing shows an alert in its current version, so it is among
// the latest, which a record keeps.
func aside(rec state.Record, version time.Time) string {
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
	return !a.Ahead && aside(rec, a.UpdatedAt) == ""
}

// wasPublished reports whether this version was, or one that is as new.
func wasPublished(rec state.Record, a dtm.Alert) bool {
	return !a.UpdatedAt.After(rec.PublishedVersion) || aside(rec, a.UpdatedAt) == state.Published
}

// note merges what became of a job's version into a record, which may hold what
// another writer knows. The published version never goes back, and doesn't move to
// a time that lies ahead, or every later change would pass for an older one.
func (d *Desk) note(rec *state.Record, j *job, now time.Time) {
	a := j.alert
	version := a.UpdatedAt
	if a.Fault != "" {
		version = now // its bytes are its version
	}
	if d.Missing {
		rec.Backfill = d.Backfill
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
		// A database refuses a record with a field of a megabyte, which would stop the
		// feed at this alert: no more of it than an attribute holds.
		rec.Type, rec.Severity, rec.MonitorID = message.Cut(a.Type), message.Cut(a.Severity), message.Cut(a.MonitorID)
		if a.Fault == "" {
			rec.Priority = message.Priority(a.Severity)
		}
	}
	v := state.AlertVersion{UpdatedAt: version, At: now, RunID: d.RunID, Outcome: j.outcome, Reason: j.reason}
	if j.outcome == state.Published {
		v.Event = j.event
		if first {
			_, rec.Echoes = comesRound(*rec, a)
			status := message.Cut(a.Status)
			if !rec.Known() || rec.Status != status {
				rec.Statuses = trim(append(slices.Clone(rec.Statuses),
					state.StatusChange{Status: status, At: version, Origin: j.origin}))
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
	rec.Versions = trim(append(slices.Clone(rec.Versions), v))
	rec.ExpireAt = now.Add(d.TTL)
}

// trim keeps the first and the latest of a list, which are what a timeline is
// read for.
func trim[T any](list []T) []T {
	if len(list) <= 2*kept {
		return list
	}
	return slices.Delete(list, kept, len(list)-kept)
}
