package drain_test

import (
	"slices"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// matches reports whether an alert was in a filter all the time since from. Of
// the filters that histories have, only the status is one that can change.
func (w *world) matches(a *knownAlert, f dtm.Filter, from time.Time) bool {
	if len(f.Status) == 0 {
		return true
	}
	versions := w.api.Versions(a.served)
	for i, v := range versions {
		over := i+1 < len(versions) && versions[i+1].UpdatedAt.Before(from.Add(-2*time.Millisecond))
		if !over && !slices.Contains(f.Status, v.Status) {
			return false
		}
	}
	return true
}

// versionAt is the updated_at of the version that the API shows from before a
// time; zero for what is no alert, or when it has none yet.
func (w *world) versionAt(a *knownAlert, at time.Time) (newest time.Time) {
	if a.Element != "" {
		return time.Time{}
	}
	for _, v := range w.api.Versions(a.served) {
		if v.UpdatedAt.Before(at) {
			newest = v.UpdatedAt
		}
	}
	return newest
}

// listings is how many listings a sweep has.
func (w *world) listings() int {
	switch {
	case w.Feed.UpdatesWindow == 0:
		return 0
	case w.Feed.Filter.HasMutable():
		return 2
	}
	return 1
}

// aheads is how many alerts are in a version that lies ahead: each sweep lists them.
func (w *world) aheads() (n int) {
	for _, a := range w.known {
		if w.isAhead(a) {
			n++
		}
	}
	return n
}

func (w *world) isAhead(a *knownAlert) bool {
	if a.Element != "" {
		return false
	}
	versions := w.api.Versions(a.served)
	return isAhead(versions[len(versions)-1].UpdatedAt)
}

// quietSweep is how many requests a sweep takes that finds nothing: one for each
// listing, unless the API hides its end and what it lists before is no alert.
func (w *world) quietSweep() int {
	elements := 0
	for _, a := range w.known {
		if a.Element != "" {
			elements++
		}
	}
	pages := 1 + (elements+1+w.aheads())/w.Bare // a single alert from before says nothing
	if w.Server.LinkOnLastPage {
		pages = 2*(pages+1) + 3 // the second listing follows links of empty pages
	}
	if w.unreadable() {
		pages *= 2 // it is asked for once more
	}
	return w.listings() * pages
}

// checkSwept checks a message for where it comes from. The lock is held.
func (w *world) checkSwept(p *proc, a *knownAlert, b *backfill, m message.Message) {
	event := m.Attributes["event"]
	own := b != nil && b.record.Kind != ""
	w.checkOrigin(p, a, m)
	switch {
	// A backfill has dropped it.
	case w.isNoise(a) && !w.ledger[a.id].HandledVersion.IsZero():
	// Law: nothing from before the feed began is published first by anything but a
	// backfill that was asked for.
	case event == ledger.Created && (b == nil || own) && a.created.Before(w.doc.BeginsAt) && !w.skewed():
		w.fail("%s publishes %s of %s, and the feed begins at %s", p.name, a.id, a.created, w.doc.BeginsAt)
	// Law: what goes on with a sweep for changes publishes changes.
	case own && b.record.Kind == state.Changes && event == ledger.Created && w.ledger[a.id].HandledVersion.IsZero():
		w.fail("%s publishes %s for the first time for %s", p.name, a.id, b.record.ID)
	}
	if own && b.record.Kind == state.Audit && w.ledger[a.id].HandledVersion.IsZero() {
		b.late = max(b.late, a.Late)
		if b.oldest.IsZero() || a.created.Before(b.oldest) {
			b.oldest = a.created
		}
	}
}

// Law: when a sweep is written down as done, or left to backfills, every change
// of a known alert from before it is in the ledger, or before one of these
// backfills; so is every alert that had come to match the filter. checkSweep
// checks a write of the feed's document. The lock is held.
func (w *world) checkSweep(p *proc, f state.Feed) {
	before := w.doc
	if f.LastSweep.Equal(before.LastSweep) || !w.alone() {
		return
	}
	if w.untold() {
		return // when the next run comes soon, it takes that back (TestWrongClocks)
	}
	if f.LastSweep.Before(before.LastSweep) && !w.skewed() {
		w.fail("%s swept at %s, and before at %s", p.name, f.LastSweep, before.LastSweep)
	}
	w.reach = later(w.reach, f.SweepSince)
	for _, a := range w.known {
		if a.Element != "" || a.Refused || a.created.Before(w.reach) || w.clamped(a, time.Now()) || a.visible.After(f.LastSweep) {
			continue
		}
		rec := w.ledger[a.id]
		if !w.versionAt(a, time.Now().Add(time.Millisecond)).Before(f.LastSweep) {
			continue // it may have moved to the top of the listing, for the next sweep
		}
		if v := w.versionAt(a, f.LastSweep); !w.isAhead(a) && rec.Known() && v.After(rec.HandledVersion) && !w.handed(a, state.Changes) {
			w.fail("%s swept at %s, and the version of %s of %s (%s) is not in the ledger", p.name, f.LastSweep, a.id, v, a.created)
		}
		if !w.ordered() || !w.Feed.Filter.HasMutable() || !rec.HandledVersion.IsZero() || a.excused || given(f, a.created) || pending(f, a.created) ||
			a.created.Before(f.BeginsAt) || !a.created.Before(f.End.Add(-w.Feed.Overlap)) ||
			!f.RereadFrom.IsZero() && !a.created.Before(f.RereadFrom) || a.Late >= w.Feed.Overlap {
			continue
		}
		if a.Late > 0 && !f.SweptOverlap.Equal(f.LastSweep) {
			continue // a sweep that ends early leaves what came late to another one
		}
		if w.matches(a, w.Feed.Filter, f.LastSweep) && !w.handed(a, state.Matches) {
			w.fail("%s swept at %s, and %s of %s, which matches, is not in the ledger", p.name, f.LastSweep, a.id, a.created)
		}
	}
}

// handed reports whether an alert is before a backfill of the relay's own. The
// lock is held.
func (w *world) handed(a *knownAlert, kind string) bool {
	for _, b := range w.backfills {
		if r := b.record; r.Kind == kind && !r.Finished() && pending(state.Feed{Slices: r.Slices}, a.created) {
			return true
		}
	}
	return false
}

// checkSweepRequests bounds what looking for changes may ask of the API.
func (w *world) checkSweepRequests(p *proc, faults int) {
	asked := int(p.sweeps.Stats().Requests)
	pages, changed, refused := (len(w.known)+1)/w.Bare+2, 0, 0
	for _, a := range w.known {
		// What came late, and a young alert that changes, are fetched.
		if a.Late > 0 || a.created.After(time.Now().Add(-p.took-2*w.Feed.Overlap-2*w.Feed.Settle)) {
			refused++
		}
		if a.Refused || w.isNoise(a) { // it may be published now, and a rule may look at its document
			refused++
		}
		if a.Element != "" || !w.versionAt(a, time.Now()).Before(p.swept.Add(-w.Feed.Overlap)) {
			changed++
			if w.Masked { // its document says what to mask
				refused++
			}
		}
	}
	if w.PageMemory < 10*w.PageLimit {
		refused *= 2 // one for which there is no memory beside others is fetched again alone
	}
	changed += w.aheads()
	if w.calm() && !w.Server.LinkOnLastPage && !w.Feed.Filter.HasMutable() && !p.swept.IsZero() && !w.unreadable() {
		// Law: no more pages are asked for than hold changes, and one.
		// One that was refused so far is fetched by its id.
		// What changes meanwhile moves to the top, and others to the next page: two pages
		// that show nothing new end the listing, and it is read once more.
		listings := 1 + int(p.took/time.Minute)
		if slices.ContainsFunc(w.known, func(a *knownAlert) bool {
			return a.Element == "" && w.versionAt(a, time.Now()).After(time.Now().Add(-p.took))
		}) {
			listings++
		}
		if w.Bare < dtm.PageSize(false) { // a last page that is as full as others is confirmed
			listings++
		}
		if most := min(pages, (changed+1)/w.Bare+2)*listings + refused; asked > most {
			w.fail("%s sends %d requests for %d changes, want at most %d", p.name, asked, changed, most)
		}
		return
	}
	passes := 3 + faults + p.messages
	if w.Server.LinkOnLastPage {
		passes += 3
	}
	if most := w.listings()*pages*passes*(1+int(p.took/time.Minute)) + 5*(p.messages+refused) + 5*faults; asked > most {
		w.fail("%s sends %d requests for changes, want at most %d", p.name, asked, most)
	}
}

// checkCurrent checks, after an undisturbed run, that what was published last of
// each alert is what the API has.
func (w *world) checkCurrent() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Feed.UpdatesWindow == 0 || w.untold() {
		return
	}
	reach := later(w.reach, w.doc.SweepSince)
	for _, a := range w.known {
		if a.Element != "" || a.Refused || a.created.Before(reach) || w.clamped(a, w.doc.LastSweep) || a.visible.After(w.doc.LastSweep) {
			continue
		}
		now := w.versionAt(a, w.doc.LastSweep)
		last := w.latest[a.id].version
		if w.isNoise(a) && !w.isEscalated(a, now) {
			last = w.ledger[a.id].HandledVersion // it was dropped
		}
		if w.ledger[a.id].Known() && isAhead(last) {
			versions := w.api.Versions(a.served)
			if later := versions[len(versions)-1].UpdatedAt; later.Before(w.doc.LastSweep) {
				w.fail("of %s of %s the version of %s hides that of %s", a.id, a.created, last, later)
			}
		}
		if w.ledger[a.id].Known() && last.Before(now) {
			w.fail("of %s of %s the version of %s was published last, and the API has that of %s; the record is %+v, the feed %+v", a.id, a.created, last, now, w.ledger[a.id], w.doc)
		}
	}
}

// checkAsked checks a backfill that a run asks for. The lock is held.
func (w *world) checkAsked(p *proc, r state.Backfill) {
	filter, _, err := dtm.ParseFilter(r.Filter)
	if err != nil {
		w.fail("%s asks for %s with the filter %s: %v", p.name, r.ID, r.Filter, err)
	}
	b := &backfill{record: r, filter: filter, recorded: map[string]time.Time{}, known: map[string]bool{}}
	for id, rec := range w.ledger {
		b.known[id] = rec.Known()
	}
	w.backfills[r.ID] = b
	f := w.doc
	// The document may be a second older than what the run knows, and hold another plan
	// than that of a run whose clock was ahead. No end of a run is past this.
	settled := time.Now().Add(-w.Feed.Settle + w.unnoticed())
	switch r.Kind {
	case state.Changes, state.Matches:
		if w.Feed.UpdatesWindow == 0 || r.Until.After(settled) && p.step.Skew == 0 || r.Kind == state.Matches && r.Since.Before(f.BeginsAt) {
			w.fail("%s asks for %+v", p.name, r)
		}
	case state.Audit:
		// Law: an audit is once a day, and not on the first.
		day := time.Now().UTC().Truncate(24 * time.Hour)
		again := strings.HasSuffix(r.ID, "-again")
		asked := slices.ContainsFunc(w.audits, func(o audit) bool { return o.again == again && !o.at.Before(day) })
		if (!f.FirstRun.Before(day) || asked) && !w.skewed() {
			w.fail("%s asks for an audit at %s, the last was at %s", p.name, time.Now(), w.audited)
		}
		w.audited = time.Now()
		w.audits = append(w.audits, audit{state.TimeRange{Since: r.Since, Until: r.Until}, w.audited, again})
		if early := r.Since.Before(f.BeginsAt) || r.Since.Before(f.Position().Add(-max(w.Feed.AuditWindow, w.Feed.MaxLookback))); !w.untold() && (early && p.step.Skew == 0 || r.Until.After(settled.Add(-w.Feed.Overlap))) {
			w.fail("%s audits from %s to %s, with the position %s", p.name, r.Since, r.Until, f.Position())
		}
	default:
		w.fail("%s asks for a backfill of the kind %q", p.name, r.Kind)
	}
}

// checkAudit checks a write of an audit's record. The lock is held.
func (w *world) checkAudit(p *proc, b *backfill, r state.Backfill) {
	hurt := slices.ContainsFunc(w.Steps, func(s step) bool {
		return s.Crash+s.Freeze > 0 || s.Second+s.Shutdown > 0 ||
			slices.ContainsFunc(s.Troubles, func(t trouble) bool { return t.Where == "write backfill" })
	})
	if r.Kind != state.Audit || !r.Finished() || hurt || w.skewed() {
		return
	}
	// Law: late_max_seconds is not less than how late what it found was, and no
	// more than can be. What it found and a rule dropped is not seen here.
	noise := slices.ContainsFunc(w.known, w.isNoise)
	switch {
	case noise && r.LateMax >= b.late:
	case r.LateMax < b.late, b.oldest.IsZero() && r.LateMax > 0, r.LateMax > 0 && r.LateMax > time.Since(b.oldest):
		w.fail("%s finds in %s what was %s late, the oldest of %s, and reports %s", p.name, r.ID, b.late, b.oldest, r.LateMax)
	}
}

// audit runs the feed on the day after everything has come into the index.
func (w *world) audit() {
	if w.Feed.AuditWindow == 0 || w.untold() {
		return
	}
	last := time.Now()
	for _, a := range w.known {
		last = later(last, a.visible)
	}
	days := 1 + int(w.Feed.AuditWindow/(24*time.Hour))
	for i := range days {
		tomorrow := time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		if i == 0 {
			tomorrow = last.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		}
		time.Sleep(time.Until(tomorrow) + time.Minute)
		if !w.drained() {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.known {
		read := slices.ContainsFunc(w.audits, func(o audit) bool {
			refused := w.Server.SinceMaxAge > 0 && a.created.Before(o.at.Add(-w.Server.SinceMaxAge+10*time.Minute))
			return !a.created.Before(o.Since) && a.created.Before(o.Until) && a.visible.Before(o.at) && !refused
		})
		// Law: what was late by up to the window, less the day between two audits, is read
		// once it is in the index.
		if !read && w.Feed.AuditWindow > 24*time.Hour && w.Server.SinceMaxAge == 0 && a.Late < w.Feed.AuditWindow-25*time.Hour && !a.created.Before(w.doc.BeginsAt) &&
			a.created.Before(w.audited.Add(-w.Feed.AuditWindow)) && !w.skewed() && w.audits[0].at.Before(a.created.Add(w.Feed.AuditWindow-25*time.Hour)) {
			w.fail("no audit reads %s of %s, which came into the index at %s: %v", a.id, a.created, a.visible, w.audits)
		}
		switch {
		case !read || given(w.doc, a.created) || a.excused || !w.ordered() || w.clamped(a, w.audited) || w.gone(a):
		case w.ledger[a.id].HandledVersion.IsZero():
			w.fail("%s of %s, which came into the index at %s, was not found by the audit", a.id, a.created, a.visible)
		}
	}
}

// audit is one that was asked for.
type audit struct {
	state.TimeRange
	at    time.Time
	again bool
}

// refilter changes the filter, and asks for the backfill that covers the past.
func (w *world) refilter() {
	if !w.Refilter || w.broken != "" {
		return
	}
	before := w.doc
	if w.Feed.Filter = (dtm.Filter{Status: []string{"closed", "new"}}); before.Filter != (dtm.Filter{}).String() {
		w.Feed.Filter = dtm.Filter{}
	}
	w.mu.Lock()
	for _, a := range w.known {
		a.excused = true // what was read was read with the other filter
	}
	w.mu.Unlock()
	time.Sleep(2*w.Feed.Overlap + time.Minute)
	if !w.drained() {
		return
	}
	w.mu.Lock()
	f := w.doc
	if f.Filter != w.Feed.Filter.String() || !f.FilterSince.After(before.FilterSince) || len(f.FilterPast) != 1 ||
		!f.FilterPast[0].Since.Equal(f.BeginsAt) || !f.FilterPast[0].Until.Equal(before.Position()) {
		w.fail("after a change of the filter the past is %v, and was %v to %v; in force is %s since %s",
			f.FilterPast, before.BeginsAt, before.Position(), f.Filter, f.FilterSince)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	since := time.Now()
	w.create(state.Backfill{Since: f.FilterPast[0].Since, Until: f.FilterPast[0].Until, Filter: w.Feed.Filter.String()})
	if !w.drained() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.doc.FilterPast) > 0 {
		w.fail("after the backfill of the past there is left %v", w.doc.FilterPast)
	}
	for _, a := range w.known {
		switch {
		case a.created.Before(f.FilterPast[0].Since) || !a.created.Before(f.FilterPast[0].Until):
		case given(w.doc, a.created) || !w.ordered() || w.clamped(a, time.Now()) || a.visible.After(since) || !w.matches(a, w.Feed.Filter, since):
		case w.ledger[a.id].HandledVersion.IsZero():
			w.fail("%s of %s was not published for the new filter", a.id, a.created)
		}
	}
}
