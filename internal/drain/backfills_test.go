package drain_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// backfill is what the observer knows of one.
type backfill struct {
	record state.Backfill // as the database holds it
	filter dtm.Filter
	// recorded are the versions that the ledger holds of it, by the alerts' ids.
	recorded  map[string]time.Time
	messages  int
	cancelled time.Time // when DELETE took effect; zero: it did not
	// Everything that the API showed before this was published by another
	// backfill; zero: nothing is known.
	repeats time.Time

	// The following are of those that the relay asked itself for.
	known map[string]bool // alerts of which something was published by then
	// late is how late that was in the index which an audit found, and oldest the
	// created_at of the oldest of these.
	late   time.Duration
	oldest time.Time
}

// ask asks for a backfill, as POST /backfill does.
func (w *world) ask(a ask) {
	w.mu.Lock()
	position := time.Now().UTC().Truncate(time.Millisecond).Add(-w.Feed.Settle)
	if !w.doc.BeginsAt.IsZero() {
		position = w.doc.Position()
	}
	w.mu.Unlock()
	since, until := position.Add(-a.Back), position.Add(-a.Short)
	if since.Before(until) {
		w.create(state.Backfill{Since: since, Until: until, Filter: a.Filter.String(), Republish: a.Republish})
	}
}

func (w *world) create(b state.Backfill) *backfill {
	w.mu.Lock()
	defer w.mu.Unlock()
	b.ID, b.State = fmt.Sprintf("b-%d", len(w.asked)+1), state.Pending
	b.RequestedAt = time.Now().UTC().Truncate(time.Millisecond)
	b.Slices = []state.Slice{{From: b.Since, To: b.Until, DoneUntil: b.Since}}
	filter, _, err := dtm.ParseFilter(b.Filter)
	if err == nil {
		err = w.store.CreateBackfill(context.Background(), w.feed, b)
	}
	if err != nil {
		panic(err)
	}
	w.asked = append(w.asked, b.ID)
	w.backfills[b.ID] = &backfill{record: b, filter: filter, recorded: map[string]time.Time{}}
	return w.backfills[b.ID]
}

// cancel cancels the oldest unfinished backfill, as DELETE /backfill/{id} does.
func (w *world) cancel() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.asked {
		b := w.backfills[id]
		if b.record.Finished() {
			continue
		}
		record, version, err := w.store.Backfill(context.Background(), w.feed, id)
		if err != nil {
			panic(err)
		}
		b.cancelled = time.Now()
		now := b.cancelled.UTC().Truncate(time.Millisecond)
		record.State, record.FinishedAt, record.ExpireAt = state.Cancelled, now, now.Add(drain.KeepFinished)
		if _, err := w.store.WriteBackfill(context.Background(), w.feed, record, version); err != nil {
			panic(err)
		}
		b.record = record
		return
	}
}

// alternating is a session that tells for whom it lists.
type alternating struct {
	drain.Session
	p    *proc
	live bool
}

func (t alternating) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		t.p.listsFor(t.live)
		for page, err := range t.Session.List(ctx, q) {
			if t.live {
				t.p.listsFor(true)
			}
			page.AskedAt, page.ReceivedAt = page.AskedAt.Add(t.p.step.Skew), page.ReceivedAt.Add(t.p.step.Skew)
			if !yield(page, err) {
				return
			}
			t.p.listsFor(t.live)
		}
	}
}

// Law: while backfills are worked the live feed is looked at every minute, from
// when the last of what it listed is published. (What is under way is ended first.)
func (p *proc) listsFor(live bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if live {
		p.liveAt = time.Now()
		return
	}
	if since := time.Since(p.liveAt); since > 90*time.Second && p.step.Freeze == 0 && !p.isDead() {
		p.fail("%s lists for a backfill %s after the live feed was looked at", p.name, since)
	}
}

// checkBackfill checks a run's write of a backfill's record. The lock is held.
func (w *world) checkBackfill(p *proc, r state.Backfill) {
	b, now := w.backfills[r.ID], time.Now()
	defer func() { b.record = r }()
	// Law: a finished backfill stays as it was finished.
	if was := b.record; was.Finished() && (r.State != was.State || !r.FinishedAt.Equal(was.FinishedAt)) {
		w.fail("%s makes %s of %s, which was %s", p.name, r.State, r.ID, was.State)
	}
	if r.State == state.Failed {
		w.fail("%s lets %s fail: %s", p.name, r.ID, r.Error)
	}
	if len(r.Slices) > 64 {
		w.fail("%d slices of %s are pending", len(r.Slices), r.ID)
	}
	for i, s := range r.Slices {
		if s.From.Before(r.Since) || s.DoneUntil.Before(s.From) || s.To.Before(s.DoneUntil) ||
			i > 0 && s.From.Before(r.Slices[i-1].To) || s.To.After(r.Until) {
			w.fail("slice %d of %v is not in the order of %s", i, r.Slices, r.ID)
		}
	}
	// Law: only what the API is not known to answer for is given up.
	for _, g := range r.Refused {
		known := now.Add(-w.Feed.MaxLookback + 10*time.Minute + time.Millisecond)
		if w.Server.SinceMaxAge == 0 || w.Server.SinceTooOld == dtmsim.Clamp || g.Suspected || g.Until.After(known) && !w.untold() {
			w.fail("%s gives up %s to %s of %s", p.name, g.Since, g.Until, r.ID)
		}
	}

	// Law: its slices pass nothing that the API showed when it was asked for and
	// that is not in the ledger; with republish, that is not there for this
	// backfill. So the range of one that is done is complete.
	w.checkAudit(p, b, r)
	passed := state.Feed{Slices: r.Slices, Gaps: r.Refused}
	for _, a := range w.known {
		switch {
		case a.created.Before(r.Since) || !a.created.Before(r.Until) || a.visible.After(r.RequestedAt):
		case pending(passed, a.created) || given(passed, a.created):
		case w.clamped(a, now), !w.ordered():
		case r.Kind == state.Changes:
			if v := w.versionAt(a, r.RequestedAt); b.known[a.id] && w.alone() && !w.isAhead(a) && v.After(w.ledger[a.id].HandledVersion) {
				w.fail("%s passes %s of %s in %s (%s), and its version of %s is not in the ledger: %v", p.name, a.id, a.created, r.ID, r.State, v, r.Slices)
			}
		case !w.matches(a, b.filter, r.RequestedAt):
		case w.ledger[a.id].HandledVersion.IsZero(),
			r.Republish && w.alone() && b.recorded[a.id].IsZero():
			w.fail("%s passes %s of %s in %s (%s), which is not in the ledger: %v", p.name, a.id, a.created, r.ID, r.State, r.Slices)
		}
	}
}

// checkBackfilled checks a message of a backfill. The lock is held.
func (w *world) checkBackfilled(p *proc, a *knownAlert, b *backfill, version time.Time) {
	b.messages++
	r := b.record
	if a.created.Before(r.Since) || !a.created.Before(r.Until) {
		w.fail("%s publishes %s of %s for %s, which is of %s to %s", p.name, a.id, a.created, r.ID, r.Since, r.Until)
	}
	// Law: who repeats a finished backfill gets nothing but what came since.
	if !b.repeats.IsZero() && !version.After(b.repeats) && !a.visible.After(b.repeats) && w.ordered() {
		w.fail("%s publishes %s of %s again, for %s", p.name, a.id, version, r.ID)
	}
	// Law: a cancelled one publishes nothing but the page under way, and what
	// comes until its record is next written, a second after the next page.
	bound := 2*time.Second + 3*w.Server.Latency + 6*(w.PublishTakes+4*w.StoreTakes)
	troubled := len(p.step.Troubles) > 0 || p.step.Freeze > 0
	if since := time.Since(b.cancelled); !b.cancelled.IsZero() && !troubled && since > bound {
		w.fail("%s publishes %s for %s %s after that was cancelled", p.name, a.id, r.ID, since)
	}
}

// checkList checks the list of unfinished backfills when nobody works.
func (w *world) checkList(want []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found, err := w.store.Open(context.Background(), w.feed, "")
	if err != nil || !slices.Equal(found.Feed.Unfinished, want) {
		w.fail("the unfinished backfills are %v, want %v: %v", found.Feed.Unfinished, want, err)
	}
}

// repeat asks for the last backfill that was done again, twice.
func (w *world) repeat() {
	w.checkList(nil)
	w.mu.Lock()
	var last *backfill
	for _, id := range w.asked {
		if b := w.backfills[id]; b.record.State == state.Done {
			last = b
		}
	}
	newest := time.Now()
	for _, a := range w.known {
		newest = later(newest, a.newest)
	}
	w.mu.Unlock()
	if last == nil {
		return
	}
	time.Sleep(time.Until(newest) + time.Second)
	for range 2 {
		again := state.Backfill{Since: last.record.Since, Until: last.record.Until, Filter: last.record.Filter}
		repeats := last.record.RequestedAt
		last = w.create(again)
		last.repeats = repeats
		if !w.drained() {
			return
		}
		w.checkList(nil)
	}
	if last.messages > 0 && w.ordered() {
		w.fail("%s repeats what was repeated, and publishes %d alerts", last.record.ID, last.messages)
	}
}
