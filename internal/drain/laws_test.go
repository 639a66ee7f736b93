package drain_test

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// knownAlert is what the observer knows of an alert.
type knownAlert struct {
	alert
	id      string // in the ledger
	created time.Time
	visible time.Time
	served  string    // its id at the API
	newest  time.Time // when it changes last

	passed  bool // the stored position is past it
	missed  bool // an instance whose clock was ahead passed it, GTI telling it no time
	excused bool // the API didn't show it when it was read over
}

func newKnownAlert(i int, a alert, start time.Time) *knownAlert {
	known := &knownAlert{alert: a, id: id(i), served: id(i), created: start.Add(a.Created)}
	known.visible, known.newest = known.created.Add(a.Late-a.Astray), known.created
	if a.Element != "" {
		known.id = message.ElementID(dtm.Alert{Raw: []byte(a.Element)})
		return known
	}
	for _, c := range a.changes() {
		known.newest = known.created.Add(c.After)
	}
	return known
}

// fail notes the first law that was broken.
func (w *world) fail(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf("%s after %s: ", w.feed, time.Since(w.start)) + fmt.Sprintf(format, args...)
	}
}

// gone reports whether an alert was at any time not in the filter.
func (w *world) gone(a *knownAlert) bool {
	return !w.matches(a, w.Feed.Filter, a.visible)
}

// Law: a process that can't count on its lease does nothing any more. (A call
// that was under way may still have its effect.)
func (w *world) checkLease(p *proc, does string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if since := time.Since(p.leased); !p.writes && since >= state.LostAfter && !p.isDead() {
		w.fail("%s %s %s after it last confirmed its lease", p.name, does, since)
	}
}

// checkMessage checks a message that the alerts topic takes. The lock is held.
func (w *world) checkMessage(p *proc, m message.Message) {
	a := w.byID[m.Attributes["alert_id"]]
	version, err := time.Parse(time.RFC3339, m.Attributes["updated_at"])
	key, mark := m.Attributes["dedupe_key"], m.Attributes["backfill"]
	b := w.backfills[mark]
	again := b != nil && b.record.Republish
	event := m.Attributes["event"]
	switch {
	case b == nil && mark != "":
		w.fail("%s publishes %s for a backfill that nobody asked for: %s", p.name, a.id, mark)
		return
	case err != nil || !slices.ContainsFunc(w.api.Versions(a.served), func(v dtmsim.Alert) bool { return v.UpdatedAt.Equal(version) }):
		w.fail("%s publishes %s in a version that it never had: %q", p.name, a.id, m.Attributes["updated_at"])
		return
	case key != message.DedupeKey(a.id, version):
		w.fail("%s publishes %s with dedupe_key %q", p.name, a.id, key)
	}

	// Law: within one holder of the lease each version is published once, and once
	// more for each backfill that republishes; and no older one follows a newer.
	// One whose time lies ahead is no newer than those that come after it.
	last, ok := p.versions[a.id]
	// A topic that has taken a message and didn't say so gets it again, in the same run where
	// another slice shows the alert, too.
	unanswered := slices.ContainsFunc(p.step.Troubles, func(t trouble) bool { return t.Where == "publish" })
	switch {
	case ok && version.Equal(last) && unanswered && !w.ordered():
	case isAhead(version) && p.sent[key+mark]:
		w.fail("%s publishes %s of %s again", p.name, a.id, version)
	case isAhead(version):
	case ok && !version.After(last) && (!again || version.Before(last) || p.sent[key+mark]):
		w.fail("%s publishes %s of %s after the version of %s", p.name, a.id, version, last)
	default:
		p.versions[a.id] = version
	}
	p.sent[key+mark] = true

	// Law: what is in the ledger is not published again.
	known := w.ledger[a.id].HandledVersion
	switch {
	case !again || !version.Equal(known):
	case w.ledger[a.id].Backfill == mark:
		known = b.recorded[a.id]
	default:
		known = time.Time{} // a record names one backfill: two that republish it forget each other
	}
	if w.alone() && !version.After(known) {
		w.fail("%s publishes %s of %s, and the ledger has that of %s", p.name, key, version, known)
	}

	// Law: without trouble each version is published once, and its event says
	// what is new in it to those who have the earlier ones.
	w.acked[key]++
	if w.calm() {
		if w.acked[key] > 1 && !again {
			w.fail("%s publishes %s again", p.name, key)
		}
		want, before := ledger.Created, ""
		// A record that many write at a moment is given up by the processor.
		if last, ok := w.latest[a.id]; ok && (len(w.Asks) == 0 || w.ledger[a.id].Known()) && (!again || version.After(last.version)) {
			if want = ledger.Updated; last.status != m.Attributes["status"] {
				want, before = ledger.StatusChanged, last.status
			}
		}
		if event != want || m.Attributes["previous_status"] != before {
			w.fail("%s is published as %s after %q, want %s after %q", key, event, m.Attributes["previous_status"], want, before)
		}
	}
	// What a process sends that was frozen in the middle of a call may come after
	// what its successor sent: a consumer keeps the greatest updated_at.
	if last, ok := w.latest[a.id]; !ok || !version.Before(last.version) || isAhead(last.version) {
		w.latest[a.id] = sent{version, m.Attributes["status"]}
	}
	if b != nil {
		w.checkBackfilled(p, a, b, version)
	}
	w.checkSwept(p, a, b, m)

	w.checkRuled(p, a, m)
	// Law: no message has a password, unless nothing has ever said that it is one: no
	// message had the document, or its record was lost.
	bareData := m.Attributes["refs"] == "false"
	untold := bareData && !w.ledger[a.id].HasSecrets && (!w.calm() || !w.told[a.id])
	w.told[a.id] = w.told[a.id] || !bareData
	if w.Masked && bytes.Contains(m.Data, []byte(password)) && !untold {
		w.fail("%s publishes %s with its password", p.name, a.id)
	}

	// Law: the version that GTI rewrites within SETTLE is never seen.
	if a.Rewritten > 0 && version.Before(a.created.Add(a.Rewritten)) && !w.untold() {
		w.fail("%s publishes %s before it was rewritten", p.name, a.id)
	}

	// Law: only what a page can't hold loses its document, and what can't be told
	// apart from it; and what is fetched by its id while there is no memory for it.
	scarceMemory := b == nil || b.record.Kind != ""
	scarceMemory = scarceMemory && w.PageMemory < 96<<20
	if bare := m.Attributes["refs"] == "false"; bare != !w.Feed.Refs && bare && event == ledger.Created && !w.nearHuge(a) && !scarceMemory {
		w.fail("%s publishes %s without its document", p.name, a.id)
	}
	// Law: such a message says so.
	truncated := m.Attributes["truncated"] == "true"
	if truncated && !w.nearHuge(a) && !scarceMemory || !truncated && a.Huge && event == ledger.Created && w.Feed.Refs && w.calm() {
		w.fail("%s publishes %s with truncated %t", p.name, a.id, truncated)
	}

	p.messages++
	if w.Feed.MaxAlerts > 0 && p.messages > w.Feed.MaxAlerts {
		w.fail("%s publishes %d alerts, with MAX_ALERTS_PER_RUN=%d", p.name, p.messages, w.Feed.MaxAlerts)
	}
}

func isAhead(version time.Time) bool { return version.After(time.Now().Add(24 * time.Hour)) }

// nearHuge reports whether an alert is too large for a page, or may be taken for
// one that is: where another shares that one's moment, or comes into the index
// before it just then, or stands in another place, the engine does not always know which of
// them it was. Where each listing begins anew after a page, what it repeats looks out of
// place, so that neither does it know of one within a second of that one.
func (w *world) nearHuge(a *knownAlert) bool {
	for i, o := range w.known {
		near := func(other *knownAlert) bool { return other.created.Sub(o.created).Abs() <= time.Millisecond }
		hasNeighbour := i > 0 && near(w.known[i-1]) || i+1 < len(w.known) && near(w.known[i+1])
		again := w.changeable() && a.created.Sub(o.created).Abs() <= time.Second
		if o.Huge && (o == a || hasNeighbour || a.Late > 0 || a.Astray != 0 || again) {
			return true
		}
	}
	return false
}

// checkReject checks a message that the rejects topic takes. The lock is held.
func (w *world) checkReject(p *proc, m message.Message) {
	name, alike := m.Attributes["alert_id"], 1
	if name == "" {
		name, alike = look(m), w.elementsLike(m)
		if alike == 0 {
			w.fail("%s rejects what was never served: %s", p.name, m.Data)
		}
	}
	if w.Masked && bytes.Contains(m.Data, []byte(password)) {
		w.fail("%s rejects %s with its password", p.name, name)
	}
	p.rejects++
	w.rejected[name]++
	// Law: an element is rejected once, and once more for each backfill that covers it.
	if w.calm() && w.rejected[name] > alike*(1+len(w.asked)) && m.Attributes["alert_id"] == "" {
		w.fail("%s rejects %s again", p.name, name)
	}
}

// checkFeed checks a write of the feed's document. The lock is held.
func (w *world) checkFeed(p *proc, f state.Feed) {
	now := time.Now()
	if f.Generation != w.doc.Generation {
		p.slices = f.Slices
		if l := w.doc.Lease; l != nil && now.Before(l.ExpiresAt) {
			w.fail("%s takes the lease from %s %s before its end", p.name, l.Owner, l.ExpiresAt.Sub(now))
		}
	}
	if len(f.Slices) > 64 {
		w.fail("%d slices are pending", len(f.Slices))
	}
	for i, s := range f.Slices {
		if s.DoneUntil.Before(s.From) || s.To.Before(s.DoneUntil) || i > 0 && s.From.Before(f.Slices[i-1].To) || s.To.After(f.End) {
			w.fail("slice %d of %v is not in order", i, f.Slices)
		}
	}
	for _, g := range f.Gaps {
		// Law: only what the API is not known to answer for is given up. An instance that is
		// days ahead and told no time may suspect more.
		known := now.Add(-w.Feed.MaxLookback + 10*time.Minute + time.Millisecond)
		if w.Server.SinceMaxAge == 0 && (!g.Suspected || !w.untold()) || w.Server.SinceTooOld == dtmsim.Clamp && !g.Suspected || g.Until.After(known) && !w.untold() {
			w.fail("%s gives up %s to %s", p.name, g.Since, g.Until)
		}
	}

	w.checkSweep(p, f)

	// Law: the position passes nothing that the API showed and that is not in the
	// ledger; what comes late into the index, with a created_at before the
	// position, will be read again.
	reread := f.End.Add(-w.Feed.Overlap)
	if w.untold() && reread.After(f.Newest.Add(-w.Feed.Overlap)) {
		reread = f.Newest.Add(-w.Feed.Overlap) // to which it is taken back
	}
	switch {
	case !f.RereadFrom.IsZero():
		reread = earlier(reread, f.RereadFrom)
	case f.Owed.Since.IsZero() && w.Feed.UpdatesWindow > 0 && !f.SweptOverlap.IsZero(): // by a sweep
		reread = earlier(reread, f.SweptOverlap.Add(-w.Feed.Overlap))
	}
	owed := func(at time.Time) bool { return !at.Before(f.Owed.Since) && at.Before(f.Owed.Until) }
	for _, a := range w.known {
		if a.created.Before(f.BeginsAt) || !a.created.Before(f.End) || pending(f, a.created) || given(f, a.created) {
			a.passed, a.missed = false, false
			continue
		}
		if w.untold() && f.End.After(now) && a.created.After(now.Add(-w.Feed.Overlap)) {
			a.missed = true
		}
		// What a process with a wrong clock has passed, GTI telling it no time, the next
		// one takes back. And nobody knows beforehand that an alert stands elsewhere.
		if a.missed || !w.ordered() {
			a.passed = false
			continue
		}
		first := !a.passed
		a.passed = true
		if !w.ledger[a.id].HandledVersion.IsZero() || a.excused || a.Late >= w.Feed.Overlap-w.unnoticed() || w.gone(a) || w.isAudits(a) {
			continue
		}
		switch {
		case len(w.Asks) > 0 && !w.latest[a.id].version.IsZero():
			// Published, and so many write-backs wrote its record at that moment that the
			// processor gave it up.
		case w.clamped(a, now):
			a.excused = true
		case first && !a.visible.After(p.began):
			w.fail("%s passes %s of %s, which is not in the ledger: %v", p.name, a.id, a.created, f.Slices)
		case a.created.Before(reread) && !owed(a.created):
			w.fail("%s will not read again from %s, and %s of %s is not in the ledger", p.name, reread, a.id, a.created)
		}
	}
}

// isAudits reports whether an alert that comes late is left to the audit: nobody knows
// the place of an unusable element among changes.
func (w *world) isAudits(a *knownAlert) bool {
	return a.Element != "" && a.Late > 0 && w.Feed.UpdatesWindow > 0
}

func pending(f state.Feed, at time.Time) bool {
	return slices.ContainsFunc(f.Slices, func(s state.Slice) bool { return !at.Before(s.DoneUntil) && at.Before(s.To) })
}

// given reports whether a moment is in a gap.
func given(f state.Feed, at time.Time) bool {
	return slices.ContainsFunc(f.Gaps, func(g state.Gap) bool {
		return !g.Suspected && !at.Before(g.Since) && at.Before(g.Until)
	})
}

// grace is what a run may take beyond its budget: what is being published, and
// the last call to the database. The first calls to the database may hang too.
const grace, opening = 31 * time.Second, 46 * time.Second

// checkRun checks a run that has ended.
func (w *world) checkRun(p *proc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := p.report
	if p.isDead() {
		return
	}
	errors, faults := p.after.Errors-p.before.Errors, p.after.Faults-p.before.Faults
	requests, bound := int(p.live.Stats().Requests), w.requests(p, faults)
	// A run that is told to stop before it holds the lease has nothing to store.
	unstored := p.stored.Lease != nil || p.stored.Writer == "" && r.StopReason != drain.StopShutdown
	switch {
	case !p.step.DryRun && (r.Outcome == drain.OK || r.Outcome == drain.Partial) && unstored:
		w.fail("%s ends as %s, and its end is not stored", p.name, r.Outcome)
	case p.step.Freeze > 0:
	case r.Outcome == drain.Failed && w.calm() && !w.Server.LinkOnLastPage:
		w.fail("%s fails without any trouble: %v", p.name, p.err)
	case p.took > max(w.Feed.Budget, opening)+grace:
		w.fail("%s took %s, with a budget of %s", p.name, p.took, w.Feed.Budget)
	case p.step.Shutdown > 0 && p.took > p.step.Shutdown+opening:
		w.fail("%s took %s, and was told to stop after %s", p.name, p.took, p.step.Shutdown)
	case p.step.WrongKey && (int(r.ErrorAnswers) > 2+faults || p.messages > 0 || r.Outcome == drain.OK && len(p.slices) > 0):
		w.fail("%s has a wrong key: %d errors, %d messages, %s", p.name, errors, p.messages, r.Outcome)
	case p.step.DryRun:
		if p.seen["publish"]+p.seen["reject"]+p.seen["write feed"]+p.seen["write records"]+p.seen["create backfill"] > 0 {
			w.fail("%s is a dry run, and calls %v", p.name, p.seen)
		}
	case p.together, p.seen["backfill"] > 0, p.step.Skew != 0, !w.ordered():
	case requests > bound:
		w.fail("%s sends %d requests, want at most %d", p.name, requests, bound)
	default:
		w.checkSweepRequests(p, faults)
	}
	if len(p.step.Troubles) == 0 && !p.step.DryRun && p.step.Freeze+p.step.Crash == 0 && !p.together && p.step.Shutdown == 0 && r.Outcome != drain.Failed {
		if int(r.Published) != p.messages || int(r.Rejected) != p.rejects || r.Published != r.Created+r.Updated+r.StatusChanged {
			w.fail("%s reports %d published and %d rejected, and did %d and %d", p.name, r.Published, r.Rejected, p.messages, p.rejects)
		}
		// Law: where there is nothing new, little is asked of the database. A run of
		// more than a second may write a checkpoint.
		calls := p.databaseCalls()
		if p.messages+p.rejects+int(r.Dropped)+errors+p.seen["backfill"] == 0 && r.Outcome != drain.Skipped && r.Pages == int64(1+w.listings()) && calls > 5+w.listings() && p.took < time.Second {
			w.fail("%s finds nothing new on its pages in %s, and calls the database %d times: %v", p.name, p.took, calls, p.seen)
		}
	}
}

func (p *proc) databaseCalls() int {
	return p.seen["open"] + p.seen["write feed"] + p.seen["records"] + p.seen["write records"] + p.seen["usage"] +
		p.seen["backfill"] + p.seen["write backfill"]
}

// requests bounds what a run may ask of the API: the pages that its slices hold,
// a few more for the end of each slice and for each trouble.
func (w *world) requests(p *proc, faults int) int {
	n, hugest := 0, 0
	for _, a := range w.known {
		if slices.ContainsFunc(p.slices, func(s state.Slice) bool {
			return !a.created.Before(s.DoneUntil.Add(-2*time.Millisecond)) && a.created.Before(s.To.Add(2*time.Millisecond))
		}) {
			n++
		}
		if a.Huge {
			hugest++
		}
	}
	ties, size := most(w.Alerts), w.Feed.PageSize
	if w.Feed.Refs { // an overlap may be listed without documents
		size = min(size, w.Bare)
	}
	// A listing begins with what lies within a moment of the last alert read.
	again := ties/size + 1
	pages := n/size + 1
	if w.Feed.Filter.HasMutable() {
		// A listing begins at the last alert but one of the page before, because only the one
		// after an alert shows that it is in its place: two of a page are known, and more where
		// they are of one moment. Where a page holds no more, a second one of each listing does.
		if size > ties+1 {
			pages = n/(size-ties-1) + 1
		} else {
			pages = n*(again+1) + 1
		}
	}
	for _, t := range p.step.Troubles {
		if t.What == "unlink" {
			faults++
		}
	}
	bound := pages + int(p.report.Slices)*(3+2*again) + faults*(3+2*again)
	// What comes in or changes while the end of a listing is read is found by one more of its
	// last moment.
	for _, a := range w.known {
		if a.visible.After(p.began) || a.Element == "" && w.versionAt(a, time.Now()).After(p.began) {
			bound += again + 2
		}
	}
	// What an overlap that is listed without documents brings is fetched by its id.
	bound += min(p.seen["get"], int(p.report.Published))
	if w.Server.LinkOnLastPage {
		bound += int(p.report.Slices) * (4 + 2*again)
	}
	if w.unreadable() {
		bound += 12 + 2*again // what can't be read is asked for again
	}
	bound += hugest * (12 + 2*again + w.Feed.PageSize + 3*ties)
	if w.PageMemory < 2*w.PageLimit*int64(w.Feed.Workers) {
		bound *= 3
	}
	return bound
}

// checkEnd checks what there is after the feed was read to its end.
func (w *world) checkEnd() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.known {
		outside := a.ByPlace && a.created.Add(-a.Astray).Before(w.doc.BeginsAt)
		late := a.Late
		if !a.ByPlace { // it is listed from when others of its place are
			late += max(0, -a.Astray)
		}
		if w.isAudits(a) {
			continue
		}
		if a.created.Before(w.doc.BeginsAt) || outside || given(w.doc, a.created) || a.excused || a.missed || late >= w.Feed.Overlap-w.unnoticed() || w.gone(a) {
			continue
		}
		if !w.ordered() && (!w.calm() || w.changeable() || w.Feed.Workers > 1 || w.handedOver || w.Feed.MaxAlerts > 0 || w.PublishTakes > 2*time.Second || w.Server.SinceMaxAge > 0 || w.PageLimit == limitOfHuge) {
			continue // a listing that begins anew may leave out what stands elsewhere
		}
		// Law: nothing is lost.
		switch {
		case a.Element != "" && w.rejected[look(w.rejectOf(a))] == 0:
			w.fail("element %s of %s was not rejected", a.Element, a.created)
		case a.Element == "" && a.Refused && w.rejected[a.id] == 0:
			w.fail("%s of %s, which the topic refuses, was not rejected", a.id, a.created)
		case w.isNoise(a): // it is dropped
			if w.ledger[a.id].HandledVersion.IsZero() {
				w.fail("%s of %s was not dropped", a.id, a.created)
			}
		case a.Element == "" && !a.Refused && w.latest[a.id].version.IsZero():
			w.fail("%s of %s was not published", a.id, a.created)
		}
	}
	if len(w.doc.Slices) > 0 || w.doc.Lease != nil {
		w.fail("after the last run there are slices %v and the lease %v", w.doc.Slices, w.doc.Lease)
	}
}

// checkQuiet checks a run that had nothing to read.
func (w *world) checkQuiet(p *proc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	requests, want := int(p.live.Stats().Requests), 1
	if w.Server.LinkOnLastPage {
		want = 2 // what an empty page with a link means is known after the second
	}
	if swept := int(p.sweeps.Stats().Requests - p.sweeps.Stats().Errors); swept > w.quietSweep() {
		w.fail("%s has nothing to read and sends %d requests for changes, want %d", p.name, swept, w.quietSweep())
	}
	if requests != want {
		w.fail("%s has nothing to read and sends %d requests, want %d", p.name, requests, want)
	}
	// Requests are counted and those of others read every 10 s, and the lease is
	// renewed every 15 s.
	most := 4 + 2*int(p.took/(10*time.Second)) + int(p.took/state.RenewEvery)
	if w.listings() > 0 {
		most += int(min(p.took/time.Second, 2)) // the live feed is stored while the sweep goes on
		// Each listing shows these, and they are looked up, as often as it is asked for.
		most += w.quietSweep() * w.aheads()
	}
	if calls := p.databaseCalls(); calls > most {
		w.fail("%s has nothing to read and calls the database %d times: %v", p.name, calls, p.seen)
	}
}

// clamped reports whether the API no longer shows an alert, and doesn't say so:
// it is older than the oldest since, or just as old where that is exclusive.
func (w *world) clamped(a *knownAlert, now time.Time) bool {
	if w.Server.SinceMaxAge == 0 || w.Server.SinceTooOld != dtmsim.Clamp {
		return false
	}
	oldest := now.Add(-w.Server.SinceMaxAge)
	return a.created.Before(oldest) || a.created.Equal(oldest) && w.Server.Since == dtmsim.Exclusive
}
