package protocol

import "math/bits"

// alerts and pages are the most that a bound may have.
const alerts, pages = 3, 2

// sweepPage stands for the listing of a sweep.
const sweepPage = pages

// Ages of a lease, in ticks. A run counts its lease as lost at lostAge, and others may
// take it at expiredAge. A call to the topic that was begun in one tick ends in the next.
const (
	lostAge    = 2
	expiredAge = 3
)

// feedState is the feed's whole world.
type feedState struct {
	// What GTI has of each alert: its newest version, counted from 1, and the change that
	// made it, counted over all alerts; 0: none did.
	version, changedAt [alerts]uint8
	// The versions that the topic has of each alert, a bit for each, and those that may
	// come again: a fault has kept them out of the ledger.
	published, mayRepeat [alerts]uint8
	// The ledger: the published version; 0: there is no record.
	record [alerts]uint8

	doc  document
	late lateWrite
	runs [2]run
	left budget
}

// budget is what may still happen.
type budget struct {
	runs    uint8
	faults  uint8 // crashes, freezes, lost answers
	changes uint8 // of alerts, at GTI
}

// document is feeds/{feed}.
type document struct {
	done   uint8 // pages, a bit for each: the slices' done_until
	swept  uint8 // changes that are seen: last_sweep
	writer actor // nobody: a run that has ended
	leased bool
	age    uint8 // of its lease
}

// lateWrite is a write that is still on its way when its caller has given it up.
type lateWrite struct {
	underWay bool
	current  bool // its condition holds
	doc      document
}

// What a run does next.
const (
	idle        = iota
	acquiring   // waits for the write that takes the lease
	planning    // list a page, or what has changed
	listed      // look up
	lookedUp    // look at the lease
	publishing  // its messages are sent
	acked       // look at the lease
	recording   // its records are sent
	conflicting // read again what another has recorded
	releasing   // look at the lease, send the last write
	released    // waits for that
)

// run is one run, with its holder of the lease.
type run struct {
	at     uint8
	frozen bool
	// stood: it was frozen since it last looked at the clock.
	stood  bool
	failed bool

	// The holder: the document in its memory, and the time since the last confirmed write
	// was sent.
	done, swept uint8
	dirty       bool
	confirmed   uint8
	current     bool // its revision is the stored document's
	write       feedWrite

	// The processor: the page, and the version of each alert on it. Which alerts have to be
	// sent, which were acknowledged and have to be recorded, of which another run has
	// written the record meanwhile, and of which this one has found that out (again).
	page                           uint8
	versions                       [alerts]uint8
	toSend, toRecord, stale, again uint8
	began                          uint8 // sweep: the changes before it
	callAge                        uint8
}

// feedWrite is a write of the feed's document that is under way.
type feedWrite struct {
	underWay bool
	doc      document
}

// feedModel is the feed's protocol, or a variant of it that is broken on purpose.
type feedModel struct {
	pages           []uint8 // the alerts on each page, a bit for each
	positionFirst   bool    // the position moves before the ledger is written
	noLeaseCheck    bool    // nobody looks at the lease before publishing
	unconditional   bool    // the feed's document is written on no condition
	recordsAnyhow   bool    // the ledger is written on no condition
	lostAge         uint8   // when a run counts its lease as lost
	acceptsAnyWrite bool    // after a failed condition nobody looks whose write it was
	ignoresFailure  bool    // a message that fails ends no run
	skipsSweep      bool    // a sweep notes its time, and lists nothing
	recordsFirst    bool    // the ledger is written before the topic has the message

	quiet map[feedTruth]bool // whose quiet run was looked at
}

func (m *feedModel) start(left budget) feedState {
	m.quiet = map[feedTruth]bool{}
	s := feedState{left: left}
	for _, page := range m.pages {
		for i := range alerts {
			if page>>i&1 == 1 {
				s.version[i] = 1
			}
		}
	}
	return s
}

type feedExplorer = explorer[feedState]

func (m *feedModel) explore(left budget) report { return explore(m.start(left), m.next, m.canonical) }

func (m *feedModel) next(s feedState, e *feedExplorer) {
	m.checkQuietRun(s, e)
	m.environment(s, e)
	for i := range s.runs {
		who := actor(i + 1)
		r := s.runs[i]
		switch {
		case r.at == idle && i == 1 && s.runs[0].at == idle: // as good as the other
		case r.at == idle:
			m.open(s, e, who)
		case r.frozen:
			s.runs[i].frozen = false
			e.to(s, wake, who)
		default:
			m.fault(s, e, who)
			m.holder(s, e, who)
			m.worker(s, e, who)
		}
	}
}

// canonical leaves out what changes nothing any more: runs that can only end, writes that
// can't land, and which run is which.
func (m *feedModel) canonical(s feedState) (_ feedState, swapped bool) {
	if !s.late.current && !m.unconditional {
		s.late = lateWrite{}
	}
	for i := range s.runs {
		r, who := &s.runs[i], actor(i+1)
		if r.at == idle {
			continue
		}
		if r.write.underWay && !r.current && s.doc.writer != who && !m.unconditional && !m.acceptsAnyWrite {
			m.lose(&s, who)
		}
		if r.confirmed >= m.lostAge && !r.write.underWay && r.at != publishing && r.at != recording && !m.noLeaseCheck {
			m.end(&s, who)
		}
	}
	if s.doc.writer == nobody && s.doc.age == expiredAge {
		s.doc.leased, s.doc.age = false, 0
	}
	for i := range alerts {
		old := uint8(2)<<s.record[i] - 1 // nobody decides to send one of these
		for _, r := range s.runs {
			if r.toSend>>i&1 == 1 {
				old &^= 1 << r.versions[i]
			}
		}
		s.mayRepeat[i] &^= old
	}
	if s.runs[1].order() <= s.runs[0].order() {
		return s, false
	}
	s.runs[0], s.runs[1] = s.runs[1], s.runs[0]
	for _, doc := range []*document{&s.doc, &s.late.doc, &s.runs[0].write.doc, &s.runs[1].write.doc} {
		doc.writer = doc.writer.other()
	}
	return s, true
}

// order puts the runs of a state in order.
func (r run) order() (n uint64) {
	for _, b := range [...]uint8{r.at, r.confirmed, r.done, r.toSend, r.toRecord, r.versions[0], r.write.doc.age, r.swept<<2 | r.write.doc.swept} {
		n = n<<8 | uint64(b)
	}
	return n
}

// environment is what happens beside the runs.
func (m *feedModel) environment(s feedState, e *feedExplorer) {
	if t, ok := m.afterTick(s); ok && t != s {
		e.to(t, tick, world)
	}
	if s.left.changes > 0 {
		for i, version := range s.version {
			if version == 0 {
				continue
			}
			t := s
			t.left.changes--
			t.version[i]++
			t.changedAt[i] = m.changes(s) + 1
			e.to(t, change, world)
		}
	}
	if s.late.underWay {
		t := s
		t.late = lateWrite{}
		if s.late.current || m.unconditional {
			m.store(&t, e, s.late.doc, writeFeedLate, world)
		}
		e.to(t, writeFeedLate, world)
	}
}

// changes is how many changes there were.
func (m *feedModel) changes(s feedState) (n uint8) {
	for _, at := range s.changedAt {
		n = max(n, at)
	}
	return n
}

// afterTick is the state a tick later. No tick passes a deadline of a process that runs:
// what is under way ends before it, one way or another.
func (m *feedModel) afterTick(s feedState) (feedState, bool) {
	s.doc.age = min(s.doc.age+1, expiredAge)
	s.late.doc.age = min(s.late.doc.age+1, expiredAge)
	if !s.doc.leased {
		s.doc.age = 0
	}
	if !s.late.underWay || !s.late.doc.leased {
		s.late.doc.age = 0
	}
	for i := range s.runs {
		r := &s.runs[i]
		if r.at == idle {
			continue
		}
		if r.at == publishing {
			if r.callAge > 0 && !r.frozen {
				return s, false
			}
			r.callAge = 1
		}
		if r.at != acquiring {
			r.confirmed = min(r.confirmed+1, m.lostAge)
		}
		if r.write.underWay && r.write.doc.leased {
			r.write.doc.age = min(r.write.doc.age+1, expiredAge)
		}
	}
	return s, true
}

// open is the beginning of a run that finds the lease free, and sends the write that
// takes it. (That it may be slow between the two adds nothing: its condition then says
// that the document is as it was.)
func (m *feedModel) open(s feedState, e *feedExplorer, who actor) {
	if s.left.runs == 0 || s.doc.leased && s.doc.age < expiredAge {
		return
	}
	s.left.runs--
	s.runs[who-1] = run{at: acquiring, current: true, done: s.doc.done, swept: s.doc.swept}
	m.send(&s, who, true)
	e.to(s, acquire, who)
}

// fault crashes a run, or freezes it. To be frozen differs from being slow only in a call
// that has a deadline.
func (m *feedModel) fault(s feedState, e *feedExplorer, who actor) {
	if s.left.faults == 0 {
		return
	}
	s.left.faults--
	r := s.runs[who-1]
	if r.at == publishing {
		t := s
		t.runs[who-1].frozen, t.runs[who-1].stood = true, true
		e.to(t, freeze, who)
	}
	t := s
	m.end(&t, who)
	e.to(t, crash, who)
	if r.write.underWay && !s.late.underWay {
		t.late = lateWrite{underWay: true, current: r.current, doc: r.write.doc}
		t.late.doc.writer = nobody
		e.to(t, crash, who)
	}
}

// mayRepeat notes that what a run has published and not recorded may be published again.
func mayRepeat(s *feedState, who actor) {
	r := &s.runs[who-1]
	for i := range alerts {
		if (r.toRecord|r.again)>>i&1 == 1 {
			s.mayRepeat[i] |= 1 << r.versions[i]
		}
	}
}

// end is the end of a process, with all that was in its memory.
func (m *feedModel) end(s *feedState, who actor) {
	mayRepeat(s, who)
	s.runs[who-1] = run{}
	if s.doc.writer == who {
		s.doc.writer = nobody
	}
	if s.late.doc.writer == who {
		s.late.doc.writer = nobody
	}
}

// isOn reports whether an alert is on one of the pages.
func (m *feedModel) isOn(done uint8, alert int) bool {
	for page, on := range m.pages {
		if done>>page&1 == 1 && on>>alert&1 == 1 {
			return true
		}
	}
	return false
}

// store writes the feed's document, and checks the laws about it.
func (m *feedModel) store(s *feedState, e *feedExplorer, doc document, step step, who actor) {
	for i := range alerts {
		if m.isOn(doc.done, i) && s.record[i] == 0 {
			e.fail(step, who, "the position passes an alert that is not recorded")
		}
		if s.changedAt[i] > 0 && s.changedAt[i] <= doc.swept && s.record[i] != 0 && s.record[i] != s.version[i] {
			e.fail(step, who, "the sweep passes a change that is not recorded")
		}
	}
	if s.doc.done&^doc.done != 0 || doc.swept < s.doc.swept {
		e.fail(step, who, "the position goes back")
	}
	if s.doc.leased && s.doc.age < expiredAge && s.doc.writer != doc.writer {
		e.fail(step, who, "the lease is taken before its end")
	}
	s.doc = doc
	s.late.current = false
	for i := range s.runs {
		s.runs[i].current = false
		if other := actor(i + 1); other != doc.writer {
			mayRepeat(s, other) // it has lost its lease
		}
	}
}

// send sends a write of the document as it is in memory.
func (m *feedModel) send(s *feedState, who actor, leased bool) {
	r := &s.runs[who-1]
	r.dirty = false
	r.write = feedWrite{underWay: true, doc: document{done: r.done, swept: r.swept, writer: who, leased: leased}}
}

// holder is what the holder of the lease does beside the worker.
func (m *feedModel) holder(s feedState, e *feedExplorer, who actor) {
	r := s.runs[who-1]
	if !r.write.underWay {
		if r.at >= planning && r.at < releasing && (r.dirty || r.confirmed > 0) && r.confirmed < m.lostAge {
			m.send(&s, who, true)
			e.to(s, sendFeed, who)
		}
		return
	}
	t := s
	if r.current || m.unconditional {
		m.store(&t, e, r.write.doc, writeFeed, who)
		stored := t
		m.answered(&t, who)
		e.to(t, writeFeed, who)
		t = stored
	} else {
		m.conflict(&t, who)
		e.to(t, conflictFeed, who)
		t = s
	}
	if s.left.faults == 0 {
		return
	}
	// The answer is lost, after the effect or before it, and then the effect may still come.
	t.left.faults--
	m.unanswered(&t, who)
	e.to(t, loseAnswer, who)
	if !r.current {
		return
	}
	t = s
	t.left.faults--
	m.unanswered(&t, who)
	e.to(t, loseAnswer, who)
	if !s.late.underWay {
		t.late = lateWrite{underWay: true, current: true, doc: r.write.doc}
		if t.runs[who-1].at == idle {
			t.late.doc.writer = nobody
		}
		e.to(t, loseAnswer, who)
	}
}

// answered is the good answer to a write. (While it is on its way, the run counts on less
// than it has. That adds nothing.)
func (m *feedModel) answered(s *feedState, who actor) {
	r := &s.runs[who-1]
	r.current, r.confirmed = true, r.write.doc.age
	r.write = feedWrite{}
	switch r.at {
	case acquiring:
		r.at = planning
	case released:
		m.end(s, who)
	}
}

// conflict is the answer that a write's condition fails, and what the holder reads then:
// another's write, or an earlier one of its own.
func (m *feedModel) conflict(s *feedState, who actor) {
	r := &s.runs[who-1]
	if s.doc.writer != who && !m.acceptsAnyWrite {
		m.lose(s, who)
		return
	}
	r.write, r.current, r.dirty = feedWrite{}, true, true
	if s.doc.leased {
		r.confirmed = min(s.doc.age, m.lostAge)
	}
	if r.at == released {
		r.at = releasing
	}
}

// lose is the loss of the lease. Of a run that works, the calls under way go on, and the
// next look at the lease ends it.
func (m *feedModel) lose(s *feedState, who actor) {
	r := &s.runs[who-1]
	if r.at == acquiring || r.at == released {
		m.end(s, who)
		return
	}
	r.write = feedWrite{}
	r.confirmed = m.lostAge
}

// unanswered is a write that fails without an answer.
func (m *feedModel) unanswered(s *feedState, who actor) {
	r := &s.runs[who-1]
	r.write, r.dirty = feedWrite{}, true
	switch r.at {
	case acquiring:
		m.end(s, who)
	case released:
		r.at = releasing
	}
}

// worker is what a run does, page after page.
func (m *feedModel) worker(s feedState, e *feedExplorer, who actor) {
	r := &s.runs[who-1]
	switch r.at {
	case planning:
		m.list(s, e, who)
	case listed:
		m.lookUp(&s, who)
		e.to(s, lookUp, who)
	case lookedUp:
		if m.checkLease(s, e, who, checkBeforePublish) {
			if m.recordsFirst {
				s.record = r.versions
			}
			r.at, r.callAge = publishing, 0
			if !m.noLeaseCheck {
				r.stood = false
			}
			e.to(s, checkBeforePublish, who)
		}
	case publishing:
		m.publish(s, e, who)
	case acked:
		if m.checkLease(s, e, who, checkBeforeRecord) {
			r.at, r.stood = recording, false
			e.to(s, checkBeforeRecord, who)
		}
	case recording:
		m.record(s, e, who)
	case conflicting:
		r.toRecord, r.again, r.stale = r.again, 0, 0
		r.at = acked
		e.to(s, reread, who)
	case releasing:
		if r.write.underWay {
			return // or it hangs, and is given up: loseAnswer
		}
		if m.checkLease(s, e, who, release) {
			m.send(&s, who, false)
			r.at, r.stood = released, false
			e.to(s, release, who)
		}
	}
}

// list lists a page that is not done, or what has changed since the last sweep.
func (m *feedModel) list(s feedState, e *feedExplorer, who actor) {
	r := &s.runs[who-1]
	if r.done == 1<<len(m.pages)-1 {
		r.page, r.began = sweepPage, m.changes(s)
		for i := range alerts {
			if s.changedAt[i] > r.swept && !m.skipsSweep {
				r.versions[i] = s.version[i]
			}
		}
		m.afterList(&s, who)
		e.to(s, listChanges, who)
		return
	}
	for page, on := range m.pages {
		if r.done>>page&1 == 1 {
			continue
		}
		t := s
		r := &t.runs[who-1]
		r.page = uint8(page)
		for i := range alerts {
			if on>>i&1 == 1 {
				r.versions[i] = s.version[i]
			}
		}
		m.afterList(&t, who)
		e.to(t, listPage, who)
	}
}

// afterList looks up at once when no alert changes any more: then it is all the same when
// it was listed.
func (m *feedModel) afterList(s *feedState, who actor) {
	s.runs[who-1].at = listed
	if s.left.changes == 0 {
		m.lookUp(s, who)
	}
}

// lookUp reads the records of the page's alerts, and decides what has to be sent.
func (m *feedModel) lookUp(s *feedState, who actor) {
	r := &s.runs[who-1]
	for i := range alerts {
		// Mode Changes leaves alone what the ledger has no version of.
		if r.versions[i] > s.record[i] && (r.page != sweepPage || s.record[i] != 0) {
			r.toSend |= 1 << i
		}
	}
	r.at = lookedUp
	if r.toSend == 0 {
		m.finishPage(r)
	}
}

// checkLease looks at the clock. Without the lease the run ends, and writes nothing more.
func (m *feedModel) checkLease(s feedState, e *feedExplorer, who actor, step step) bool {
	r := &s.runs[who-1]
	if step == checkBeforePublish && m.noLeaseCheck {
		return true
	}
	if r.confirmed >= m.lostAge {
		m.end(&s, who)
		e.to(s, step, who)
		return false
	}
	// The last write of a run may have given the lease away, and its answer may be lost.
	// Another one fails on its condition.
	if step != release && (s.doc.writer != who || s.doc.age >= expiredAge) {
		e.fail(step, who, "a run counts on a lease that is not its own")
	}
	return true
}

// publish sends one message. The topic takes it or not, and says so or not.
func (m *feedModel) publish(s feedState, e *feedExplorer, who actor) {
	for i := range alerts {
		bit := uint8(1) << i
		if s.runs[who-1].toSend&bit == 0 {
			continue
		}
		t := s
		r := &t.runs[who-1]
		m.checkPublish(s, e, who, i)
		t.published[i] |= 1 << r.versions[i]
		if r.stood {
			t.mayRepeat[i] |= 1 << r.versions[i]
		}
		r.toSend &^= bit
		unsent := t
		unsent.published = s.published
		answered := t
		answered.runs[who-1].toRecord |= bit
		m.afterPublish(&answered, who)
		e.to(answered, publish, who)
		if s.left.faults == 0 {
			continue
		}
		for _, lost := range []feedState{t, unsent} {
			r := &lost.runs[who-1]
			lost.left.faults--
			r.failed = !m.ignoresFailure
			if lost.published != s.published {
				lost.mayRepeat[i] |= 1 << r.versions[i]
			}
			m.afterPublish(&lost, who)
			e.to(lost, loseAnswer, who)
		}
	}
}

func (m *feedModel) afterPublish(s *feedState, who actor) {
	r := &s.runs[who-1]
	if r.toSend != 0 {
		return
	}
	r.callAge, r.stood = 0, false
	if m.positionFirst && !r.failed {
		m.advance(r)
	}
	if r.at = acked; r.toRecord == 0 {
		m.finishPage(r)
	}
}

// checkPublish checks the laws about a message that the topic takes now.
func (m *feedModel) checkPublish(s feedState, e *feedExplorer, who actor, i int) {
	r := s.runs[who-1]
	if s.doc.writer != who || s.doc.age >= expiredAge {
		if !r.stood {
			e.fail(publish, who, "a run publishes without the lease, and was not frozen in the call")
		}
		e.saw("a batch of a run that was frozen in the call")
	}
	if s.published[i]>>r.versions[i]&1 == 1 {
		if s.mayRepeat[i]>>r.versions[i]&1 == 0 && !r.stood {
			e.fail(publish, who, "a version is published again, and no fault has kept it out of the ledger")
		}
		e.saw("a repeat with the same key")
	}
	if bits.Len8(s.published[i]) > int(r.versions[i])+1 {
		if !r.stood {
			e.fail(publish, who, "an older version is published after a newer one, by a run that was not frozen")
		}
		e.saw("an older version of a run that was frozen in the call")
	}
}

// record writes one record. Its condition holds, or it is read again.
func (m *feedModel) record(s feedState, e *feedExplorer, who actor) {
	for i := range alerts {
		bit := uint8(1) << i
		if s.runs[who-1].toRecord&bit == 0 {
			continue
		}
		t := s
		r := &t.runs[who-1]
		r.toRecord &^= bit
		if r.stale&bit != 0 && !m.recordsAnyhow {
			r.again |= bit
			m.afterRecord(r)
			e.to(t, conflictRecord, who)
			continue
		}
		v := r.versions[i]
		if s.record[i] > v && r.stale&bit == 0 {
			v = s.record[i] // merged
		}
		if v < s.record[i] {
			e.fail(record, who, "the published version goes back")
		}
		t.record[i] = v
		for o := range t.runs {
			if t.runs[o].at > listed {
				t.runs[o].stale |= bit & (t.runs[o].toSend | t.runs[o].toRecord | t.runs[o].again)
			}
		}
		answered := t
		m.afterRecord(&answered.runs[who-1])
		e.to(answered, record, who)
		if s.left.faults == 0 {
			continue
		}
		for _, written := range []uint8{s.record[i], v} {
			t := t
			t.left.faults--
			t.record[i] = written
			r := &t.runs[who-1]
			r.failed = true
			r.toRecord = s.runs[who-1].toRecord // none of them is known to be recorded
			mayRepeat(&t, who)
			m.finishPage(r)
			e.to(t, loseAnswer, who)
		}
	}
}

func (m *feedModel) afterRecord(r *run) {
	switch {
	case r.toRecord != 0:
	case r.again != 0:
		r.at = conflicting
	default:
		m.finishPage(r)
	}
}

// finishPage moves the position, unless something failed: then the run ends.
func (m *feedModel) finishPage(r *run) {
	r.at = planning
	if r.failed || r.page == sweepPage {
		r.at = releasing
	}
	if !r.failed {
		m.advance(r)
	}
	r.failed, r.page, r.versions, r.began = false, 0, [alerts]uint8{}, 0
	r.toSend, r.toRecord, r.again, r.stale = 0, 0, 0, 0
}

// advance moves the position in memory.
func (m *feedModel) advance(r *run) {
	before, swept := r.done, r.swept
	if r.page == sweepPage {
		r.swept = r.began
	} else {
		r.done |= 1 << r.page
	}
	r.dirty = r.dirty || r.done != before || r.swept != swept
}

// feedTruth is what is left of a state when every process dies.
type feedTruth struct {
	version, changedAt, published, record [alerts]uint8
	done, swept                           uint8
}

// checkQuietRun checks what becomes of the alerts when every process dies now, and one run
// follows that meets no fault.
func (m *feedModel) checkQuietRun(s feedState, e *feedExplorer) {
	k := feedTruth{s.version, s.changedAt, s.published, s.record, s.doc.done, s.doc.swept}
	if m.quiet[k] {
		return
	}
	m.quiet[k] = true
	for i := range alerts {
		if k.version[i] == 0 {
			continue
		}
		if !m.isOn(k.done, i) && k.version[i] > k.record[i] ||
			k.changedAt[i] > k.swept && k.record[i] != 0 && k.version[i] > k.record[i] {
			k.published[i] |= 1 << k.version[i]
		}
		if k.published[i]>>k.version[i]&1 == 0 {
			e.fail(quietRun, world, "an alert's newest version is lost")
		}
	}
}
