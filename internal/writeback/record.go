package writeback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

func echoOf(p dtm.Patch, seq int64) state.Echo {
	e := state.Echo{Seq: seq, At: time.Now().UTC().Truncate(time.Millisecond)}
	if p.Status != nil {
		e.Status = *p.Status
	}
	if p.Tags != nil {
		e.Tags = *p.Tags
	}
	// GTI does not bound the tags of an alert. An echo without its tags is recognised
	// by its version or its status alone.
	if bytesOf(e.Tags) > maxEchoBytes {
		e.Tags = []string{}
	}
	return e
}

// recoverVersion takes the alert's version for that of what an earlier delivery wrote,
// without living to hear the answer.
func (d *delivery) recoverVersion(rec state.Record, p plan, alert current) {
	if d.written || !slices.ContainsFunc(p.mine, func(in state.Intent) bool { _, begun := findIntent(rec.Intents, in); return begun }) {
		return
	}
	for _, e := range rec.Echoes {
		if e.Version.IsZero() && e.Seq == p.seq() && shows(alert, e) && alert.version.Before(e.At.Add(underWay)) {
			d.confirmations = append(d.confirmations, confirmation{e, alert.version})
			return
		}
	}
}

// shows reports whether the alert is as it was written.
func shows(alert current, e state.Echo) bool {
	return (e.Status == "" || e.Status == alert.status) && (e.Tags == nil || sameSet(e.Tags, alert.tags))
}

// begin records what is about to be written, and takes the lease for it. It
// reports false when another writer was faster.
func (d *delivery) begin(ctx context.Context, entry state.Entry, p plan, echo state.Echo) (bool, error) {
	rec := &entry.Record
	p.write(rec, true)
	d.confirm(rec)
	// An unconfirmed status that this change replaces, and of which no intent is open,
	// could only be mistaken for somebody else's change.
	rec.Echoes = slices.DeleteFunc(rec.Echoes, func(e state.Echo) bool {
		return e.Version.IsZero() && e.Status != "" && echo.Status != "" && !isOpen(rec.Intents, e.Seq)
	})
	// An earlier delivery may have written the same, and each write has an echo.
	if countUnconfirmed(rec.Echoes, echo) < 2 {
		rec.Echoes = append(rec.Echoes, echo)
	}
	rec.Echoes = boundEchoes(rec.Echoes)
	now := time.Now()
	lease := state.Lease{Owner: d.writer.owner, ExpiresAt: now.UTC().Truncate(time.Millisecond).Add(leaseTime)}
	rec.WriteLease = &lease
	ok, err := d.record(ctx, entry)
	if ok {
		d.lease, d.takenAt = lease, now
	}
	return ok, err
}

// holds reports whether the lease is the one that this delivery took.
func (d *delivery) holds(rec state.Record) bool {
	return rec.WriteLease != nil && sameLease(*rec.WriteLease, d.lease)
}

// completeChanged records that the message is done by its change. It reports false when
// the lease was lost.
func (d *delivery) completeChanged(ctx context.Context) (bool, error) {
	return d.releaseLease(ctx, func(rec *state.Record) {
		planFor(*rec, d.asked).write(rec, false)
		d.confirm(rec)
	})
}

// releaseLease gives the lease back, and writes down what edit adds. It reports false
// when the lease was lost.
func (d *delivery) releaseLease(ctx context.Context, edit func(*state.Record)) (released bool, err error) {
	err = state.Update(func() (done bool, err error) {
		entry, err := d.read(ctx)
		if err != nil || !d.holds(entry.Record) {
			return true, err
		}
		entry.Record.WriteLease = nil
		edit(&entry.Record)
		released, err = d.record(ctx, entry)
		return released, err
	})
	return released, err
}

// completeUnchanged records that the message is done, where there was nothing to change. It
// reports false when another writer was faster.
func (d *delivery) completeUnchanged(ctx context.Context, entry state.Entry, p plan) (bool, error) {
	entry.Record.WriteLease = nil // its time is over, or the record would have changed
	p.write(&entry.Record, false)
	d.confirm(&entry.Record)
	return d.record(ctx, entry)
}

// confirm records the versions that are known by now.
func (d *delivery) confirm(rec *state.Record) {
	rec.Echoes = slices.Clone(rec.Echoes)
	for _, s := range d.confirmations {
		i := findUnconfirmed(rec.Echoes, s.echo)
		if i >= 0 {
			rec.Echoes = slices.Delete(rec.Echoes, i, i+1)
		}
		// Otherwise the echo has been published already.
		if s.version.After(rec.PublishedVersion) {
			s.echo.Version = s.version
			rec.Echoes = append(rec.Echoes, s.echo)
		}
	}
	// Echoes without a version are still to come, so they stand last.
	slices.SortStableFunc(rec.Echoes, func(a, b state.Echo) int {
		switch {
		case a.Version.IsZero() && b.Version.IsZero():
			return 0
		case a.Version.IsZero():
			return 1
		case b.Version.IsZero():
			return -1
		}
		return a.Version.Compare(b.Version)
	})
	rec.Echoes = boundEchoes(rec.Echoes)
}

// boundEchoes keeps the last echoes, and the tags of the last of them: those with a
// version are before the others, and known by it.
func boundEchoes(list []state.Echo) []state.Echo {
	list = list[max(0, len(list)-maxEchoes):]
	held := 0
	for i, e := range slices.Backward(list) {
		if held += bytesOf(e.Tags); held > maxEchoBytes && e.Tags != nil {
			list[i].Tags = []string{}
		}
	}
	return list
}

func findUnconfirmed(list []state.Echo, e state.Echo) int {
	return slices.IndexFunc(list, func(o state.Echo) bool { return isUnconfirmed(o, e) })
}

func countUnconfirmed(list []state.Echo, e state.Echo) (n int) {
	for _, o := range list {
		if isUnconfirmed(o, e) {
			n++
		}
	}
	return n
}

// isUnconfirmed reports whether o is e, and without a version.
func isUnconfirmed(o, e state.Echo) bool {
	return o.Version.IsZero() && o.Seq == e.Seq && o.Status == e.Status && (o.Tags == nil) == (e.Tags == nil) && slices.Equal(o.Tags, e.Tags)
}

func isOpen(intents []state.Intent, seq int64) bool {
	return slices.ContainsFunc(intents, func(in state.Intent) bool { return in.Open && in.Seq == seq })
}

// withdraw takes what earlier deliveries of the message began out of the record, before
// the message is rejected or skipped. It returns the error that says so, or none when
// another writer was faster, and the message has to start over. Any other error it returns
// as it is.
//
// Another delivery of the message may have read the same record, and an alert that is to
// be changed. Of the two only the one that writes the record first has its way. So the
// record gets a new revision also where there is nothing to take out.
func (d *delivery) withdraw(ctx context.Context, entry state.Entry, err error) error {
	if !isVerdict(err) {
		return err
	}
	entry.Record.WriteLease = nil // its time is over, or the record would have changed
	remove(&entry.Record, d.asked)
	entry.Record.IntentSeq++ // a database gives no new revision for a write that changes nothing
	d.confirm(&entry.Record)
	if ok, failed := d.record(ctx, entry); !ok {
		return failed
	}
	return err
}

// withdrawBegun is withdraw for a delivery that has taken the lease. When the lease was
// lost, another delivery of the message may have written since.
func (d *delivery) withdrawBegun(ctx context.Context, err error) error {
	if !isVerdict(err) {
		return err
	}
	released, failed := d.releaseLease(ctx, func(rec *state.Record) {
		remove(rec, d.asked)
		d.confirm(rec)
	})
	if !released {
		return failed
	}
	return err
}

// isVerdict reports whether an error ends the message: it is rejected, or skipped.
func isVerdict(err error) bool {
	var permanent permanentError
	return errors.As(err, &permanent) || errors.Is(err, errConflict)
}

func (d *delivery) read(ctx context.Context) (state.Entry, error) {
	entries, err := d.writer.options.Ledger.Records(ctx, d.writer.options.Feed, []string{d.id})
	if err != nil {
		return state.Entry{}, fmt.Errorf("reading the ledger: %w", err)
	}
	return entries[0], nil
}

// record writes a record that nobody else has written since it was read, and
// reports false otherwise.
func (d *delivery) record(ctx context.Context, entry state.Entry) (bool, error) {
	if end := time.Now().UTC().Truncate(time.Millisecond).Add(d.writer.options.TTL); end.After(entry.Record.ExpireAt) {
		entry.Record.ExpireAt = end
	}
	results, err := d.writer.options.Ledger.WriteRecords(ctx, d.writer.options.Feed, []state.Entry{entry})
	if err == nil {
		err = results[0]
	}
	switch {
	case errors.Is(err, state.ErrConflict):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("writing to the ledger: %w", err)
	}
	d.confirmations = nil
	return true, nil
}
