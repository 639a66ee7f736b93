package lifecycle

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
	// Nobody bounds the tags that an alert has in GTI. Without them only its version,
	// or its status, makes the change known when it comes round.
	if bytesOf(e.Tags) > maxEchoBytes {
		e.Tags = []string{}
	}
	return e
}

// adopt takes the alert's version for that of what an earlier delivery wrote,
// without living to hear the answer.
func (t *task) adopt(rec state.Record, p plan, alert current) {
	if t.written || !slices.ContainsFunc(p.mine, func(w state.Wish) bool { _, begun := find(rec.Wishes, w); return begun }) {
		return
	}
	for _, e := range rec.Echoes {
		if e.Version.IsZero() && e.Seq == p.seq() && shows(alert, e) && alert.version.Before(e.At.Add(underWay)) {
			t.stamps = append(t.stamps, stamp{e, alert.version})
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
func (t *task) begin(ctx context.Context, entry state.Entry, p plan, echo state.Echo) (bool, error) {
	rec := &entry.Record
	p.write(rec, true)
	t.stamp(rec)
	// What nobody waits for any more, and is about to be replaced, can only be
	// mistaken for somebody else's.
	rec.Echoes = slices.DeleteFunc(rec.Echoes, func(e state.Echo) bool {
		return e.Version.IsZero() && e.Status != "" && echo.Status != "" && !isOpen(rec.Wishes, e.Seq)
	})
	// An earlier delivery may have written the same, and each write comes round.
	if countZero(rec.Echoes, echo) < 2 {
		rec.Echoes = append(rec.Echoes, echo)
	}
	rec.Echoes = boundEchoes(rec.Echoes)
	now := time.Now()
	lease := state.Lease{Owner: t.owner, ExpiresAt: now.UTC().Truncate(time.Millisecond).Add(leaseTime)}
	rec.WriteLease = &lease
	ok, err := t.record(ctx, entry)
	if ok {
		t.lease, t.takenAt = lease, now
	}
	return ok, err
}

// holds reports whether the lease is the one that this task took.
func (t *task) holds(rec state.Record) bool {
	return rec.WriteLease != nil && sameLease(*rec.WriteLease, t.lease)
}

// complete records that the message is done by its change. It reports false when
// the lease was lost.
func (t *task) complete(ctx context.Context) (bool, error) {
	return t.giveBack(ctx, func(rec *state.Record) {
		planFor(*rec, t.asked).write(rec, false)
		t.stamp(rec)
	})
}

// giveBack gives the lease back, and writes down what edit adds. It reports false
// when the lease was lost.
func (t *task) giveBack(ctx context.Context, edit func(*state.Record)) (bool, error) {
	for range tries {
		entry, err := t.read(ctx)
		if err != nil || !t.holds(entry.Record) {
			return false, err
		}
		entry.Record.WriteLease = nil
		edit(&entry.Record)
		if ok, err := t.record(ctx, entry); ok || err != nil {
			return ok, err
		}
	}
	return false, errors.New("others write to the alert's record all the time")
}

// settle records that the message is done, where there was nothing to change. It
// reports false when another writer was faster.
func (t *task) settle(ctx context.Context, entry state.Entry, p plan) (bool, error) {
	entry.Record.WriteLease = nil // its time is over, or the record would have changed
	p.write(&entry.Record, false)
	t.stamp(&entry.Record)
	return t.record(ctx, entry)
}

// stamp records the versions that are known by now.
func (t *task) stamp(rec *state.Record) {
	rec.Echoes = slices.Clone(rec.Echoes)
	for _, s := range t.stamps {
		i := zeroEcho(rec.Echoes, s.echo)
		if i >= 0 {
			rec.Echoes = slices.Delete(rec.Echoes, i, i+1)
		}
		// Otherwise it has come round already.
		if s.version.After(rec.PublishedVersion) {
			s.echo.Version = s.version
			rec.Echoes = append(rec.Echoes, s.echo)
		}
	}
	// Those without a version are still to come.
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

// boundEchoes keeps the last marks, and the tags of the last of them: those with a
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

func zeroEcho(list []state.Echo, e state.Echo) int {
	return slices.IndexFunc(list, func(o state.Echo) bool { return isZero(o, e) })
}

func countZero(list []state.Echo, e state.Echo) (n int) {
	for _, o := range list {
		if isZero(o, e) {
			n++
		}
	}
	return n
}

// isZero reports whether o is e, and without a version.
func isZero(o, e state.Echo) bool {
	return o.Version.IsZero() && o.Seq == e.Seq && o.Status == e.Status && (o.Tags == nil) == (e.Tags == nil) && slices.Equal(o.Tags, e.Tags)
}

func isOpen(wishes []state.Wish, seq int64) bool {
	return slices.ContainsFunc(wishes, func(w state.Wish) bool { return w.Open && w.Seq == seq })
}

// refuse takes what the message began out of the record before it is rejected,
// and gives the lease back if it holds it.
// Any other error it returns as it is.
func (t *task) refuse(ctx context.Context, err error) error {
	var refused refusal
	if !errors.As(err, &refused) {
		return err
	}
	for range tries {
		entry, err := t.read(ctx)
		if err != nil {
			return err
		}
		begun, held := remove(&entry.Record, t.asked), t.holds(entry.Record)
		if !begun && !held {
			return refused
		}
		if held {
			entry.Record.WriteLease = nil
		}
		t.stamp(&entry.Record)
		if ok, err := t.record(ctx, entry); err != nil {
			return err
		} else if ok {
			return refused
		}
	}
	return errors.New("others write to the alert's record all the time")
}

func (t *task) read(ctx context.Context) (state.Entry, error) {
	entries, err := t.Ledger.Records(ctx, t.Feed, []string{t.id})
	if err != nil {
		return state.Entry{}, fmt.Errorf("reading the ledger: %w", err)
	}
	return entries[0], nil
}

// record writes a record that nobody else has written since it was read, and
// reports false otherwise.
func (t *task) record(ctx context.Context, entry state.Entry) (bool, error) {
	if end := time.Now().UTC().Truncate(time.Millisecond).Add(t.TTL); end.After(entry.Record.ExpireAt) {
		entry.Record.ExpireAt = end
	}
	results, err := t.Ledger.WriteRecords(ctx, t.Feed, []state.Entry{entry})
	if err == nil {
		err = results[0]
	}
	switch {
	case errors.Is(err, state.ErrConflict):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("writing to the ledger: %w", err)
	}
	t.stamps = nil
	return true, nil
}
