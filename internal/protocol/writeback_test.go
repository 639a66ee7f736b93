package protocol

// Ages of the lease in an alert's record, in ticks. A change is sent, and its answer
// awaited, before patchAge. One that was given up lands before overAge, or never. Others
// may take the lease at leaseEnd.
const (
	patchAge = 1
	overAge  = 2
	leaseEnd = 2
)

// Statuses of the alert: as GTI made it, as the two messages want it, as an analyst sets it.
const (
	statusNew = iota
	statusFirst
	statusSecond
	statusAnalyst
	anyStatus // a message that names none, or expects none
)

// Tags of the alert, a bit for each.
const (
	tagBase = 1 << iota
	tagFirst
	tagSecond
	tagAnalyst
)

// request is what a message asks for: a status, a tag to add, an expected status. The second
// message is the later one.
type request struct{ status, tag, expect uint8 }

// alertState is the world of one alert and its write-backs.
type alertState struct {
	gti     content
	intents [2]intents // the record's, of each message
	lease   writeLease // the record's
	msgs    [2]message
	at      [2]delivery // what the two instances work on
	late    patch       // a change that was given up, and may land
	analyst bool        // somebody has set the status in GTI
	left    writebackBudget
}

// content is what GTI has of the alert.
type content struct{ status, tags uint8 }

// writebackBudget is what may still happen.
type writebackBudget struct {
	faults  uint8 // crashes, freezes, lost answers
	analyst uint8 // changes of an analyst
	records uint8 // writes of the record by a run
}

// intents are those of one message: of the status and of the tag.
type intents struct{ status, tag uint8 }

// What the record has of an intent.
const (
	absent = iota
	open
	done
)

type writeLease struct {
	held  bool
	owner actor // nobody: a delivery that has ended
	age   uint8
}

// message is a message of the topic.
type message struct {
	deliveries uint8 // that may still come
	acked      bool
	served     bool // it was answered with success, whether or not Pub/Sub heard it
	rejected   bool
	tagSeen    bool // GTI had what it asks for
	statusSeen bool
}

// patch is a change that is on its way to GTI.
type patch struct {
	underWay bool
	msg      uint8
	status   uint8 // anyStatus: stays as it is
	tags     uint8 // 0: stay as they are
	read     content
	// overruled: since its delivery read the record, another one of its message was
	// rejected.
	overruled bool
	// raced: an analyst has changed the alert since it was read. Nobody can prevent that:
	// GTI's change of an alert takes no condition.
	raced bool
}

// What a delivery does next.
const (
	none = iota
	reading
	getting
	beginning
	begun   // look at the clock, send
	sent    // waits for GTI
	changed // record it
	completing
	withdrawing
	withdrawingBegun // it holds the lease, or has lost it
	rejecting
	acking
)

// delivery is one message's work in one instance.
type delivery struct {
	at      uint8
	msg     uint8
	again   bool // its message was served before it came
	current bool // the record is as it was read
	mine    intents
	patch   patch
	age     uint8 // of its lease
	frozen  bool
	stood   bool
	reject  bool
}

// writebackModel is the protocol of write-backs, or a variant of it that is broken on
// purpose.
type writebackModel struct {
	requests [2]request

	noReread      bool // after a failed condition the alert is not read anew
	noLease       bool // nobody waits for the lease
	unconditional bool // the record is written on no condition
	forgets       bool // what is done is not recorded
	expectsNoMore bool // the expected status is not looked at
	// forgetsEarly: a later request that has only begun makes the record forget an earlier one.
	forgetsEarly bool
	// supersedesEarly: a later request that has only begun supersedes an earlier one.
	supersedesEarly bool
	// withdrawsAnyhow: a message is rejected whatever others have written to the record.
	withdrawsAnyhow bool
	// withdrawsUnseen: what has begun nothing is rejected without a new revision of the record.
	withdrawsUnseen bool
	// neverSupersedes: a later request leaves the earlier one to be done.
	neverSupersedes bool
	leaseEnd        uint8
}

type writebackExplorer = explorer[alertState]

func (m *writebackModel) explore(deliveries uint8, left writebackBudget) report {
	return explore(m.start(deliveries, left), m.next, m.canonical)
}

func (m *writebackModel) start(deliveries uint8, left writebackBudget) alertState {
	s := alertState{gti: content{statusNew, tagBase}, left: left}
	for i := range s.msgs {
		if m.requests[i].tag != 0 {
			s.msgs[i].deliveries = deliveries
		} else {
			s.msgs[i].acked = true
		}
	}
	m.look(&s)
	return s
}

func (m *writebackModel) next(s alertState, e *writebackExplorer) {
	if s.msgs[0].served && s.msgs[1].served && m.requests[1].status != anyStatus && !s.analyst && s.gti.status != statusSecond {
		e.fail(quietRun, world, "the earlier of two requests stands")
	}
	m.environment(s, e)
	for i := range s.at {
		who := actor(i + 1)
		switch d := s.at[i]; {
		case d.at == none && i == 1 && s.at[0].at == none: // as good as the other
		case d.at == none:
			for msg := range s.msgs {
				if s.msgs[msg].deliveries > 0 {
					t := s
					t.msgs[msg].deliveries--
					t.at[i] = delivery{at: reading, msg: uint8(msg), again: s.msgs[msg].served}
					e.to(t, deliver, who)
				}
			}
		case d.frozen:
			s.at[i].frozen = false
			e.to(s, wake, who)
		default:
			m.fault(s, e, who)
			m.work(s, e, who)
		}
	}
}

// canonical leaves out what changes nothing any more: a condition that can only fail, what
// is known of a message that is done, and which instance is which.
func (m *writebackModel) canonical(s alertState) (_ alertState, swapped bool) {
	if s.lease.held && s.lease.owner == nobody && s.lease.age >= m.leaseEnd && !s.late.underWay {
		s.lease = writeLease{}
	}
	for i := range s.at {
		if d := &s.at[i]; d.at == completing && !d.current && !m.unconditional {
			m.startOver(&s, actor(i+1))
		}
		if msg := &s.msgs[i]; msg.served {
			msg.tagSeen, msg.statusSeen = true, true
		}
	}
	if s.at[1].order() <= s.at[0].order() {
		return s, false
	}
	s.at[0], s.at[1] = s.at[1], s.at[0]
	s.lease.owner = s.lease.owner.other()
	return s, true
}

func (d delivery) order() int {
	return int(d.at)<<8 | int(d.msg)<<7 | int(d.age)<<4 | int(d.mine.status)<<2 | int(d.mine.tag)
}

// environment is what happens beside the instances.
func (m *writebackModel) environment(s alertState, e *writebackExplorer) {
	if t, ok := m.afterTick(s); ok && t != s {
		e.to(t, tick, world)
	}
	if s.left.analyst > 0 {
		for _, c := range []content{{statusAnalyst, s.gti.tags}, {s.gti.status, s.gti.tags | tagAnalyst}, {statusNew, s.gti.tags}} {
			isBack := c.status == statusNew && s.gti.status != statusNew
			if c == s.gti || isBack && !m.isExpected(statusNew) {
				continue
			}
			t := s
			t.left.analyst--
			t.analyst = t.analyst || c.status != s.gti.status
			t.gti = c
			m.look(&t)
			t.late.raced = t.late.underWay
			for i := range t.at {
				if p := &t.at[i].patch; p.underWay {
					p.raced = true
				}
			}
			e.to(t, change, world)
		}
	}
	if s.left.records > 0 {
		t := s
		t.left.records--
		m.touch(&t)
		e.to(t, record, world)
	}
	if s.late.underWay {
		t := s
		t.late = patch{}
		e.to(t, dropPatch, world)
		if m.land(&t, e, s.late, world, patchLate, false) {
			e.to(t, patchLate, world)
		}
	}
}

// isExpected reports whether a message expects a status.
func (m *writebackModel) isExpected(status uint8) bool {
	return m.requests[0].expect == status || m.requests[1].expect == status
}

// look notes what GTI has by now of what the messages ask for.
func (m *writebackModel) look(s *alertState) {
	for i, w := range m.requests {
		msg := &s.msgs[i]
		msg.tagSeen = msg.tagSeen || s.gti.tags&w.tag != 0
		msg.statusSeen = msg.statusSeen || w.status == anyStatus || s.gti.status == w.status
	}
}

// touch is a write of the record: nobody else has it as it is now.
func (m *writebackModel) touch(s *alertState) {
	for i := range s.at {
		s.at[i].current = false
	}
}

func (m *writebackModel) afterTick(s alertState) (alertState, bool) {
	if s.late.underWay && s.lease.age+1 >= overAge {
		return s, false
	}
	if s.lease.held {
		s.lease.age = min(s.lease.age+1, max(m.leaseEnd, overAge))
	}
	for i := range s.at {
		d := &s.at[i]
		if d.at == sent && !d.frozen && d.age+1 >= patchAge {
			return s, false
		}
		if d.at == begun || d.at == sent {
			d.age = min(d.age+1, patchAge)
		}
	}
	return s, true
}

// fault crashes an instance, or freezes it. To be frozen differs from being slow only
// between the look at the clock and the answer.
func (m *writebackModel) fault(s alertState, e *writebackExplorer, who actor) {
	if s.left.faults == 0 {
		return
	}
	s.left.faults--
	if s.at[who-1].at == sent {
		t := s
		t.at[who-1].frozen, t.at[who-1].stood = true, true
		e.to(t, freeze, who)
	}
	m.end(&s, who)
	e.to(s, crash, who)
}

// end is the end of a delivery that is not acknowledged.
func (m *writebackModel) end(s *alertState, who actor) {
	s.at[who-1] = delivery{}
	if s.lease.owner == who {
		s.lease.owner = nobody
	}
}

// lose is an answer that doesn't come: the delivery fails.
func (m *writebackModel) lose(s alertState, e *writebackExplorer, who actor) {
	if s.left.faults > 0 {
		s.left.faults--
		m.end(&s, who)
		e.to(s, loseAnswer, who)
	}
}

func (m *writebackModel) work(s alertState, e *writebackExplorer, who actor) {
	d := &s.at[who-1]
	w, msg := m.requests[d.msg], &s.msgs[d.msg]
	before := s
	switch d.at {
	case reading:
		if s.lease.held && s.lease.age < m.leaseEnd && !m.noLease {
			m.end(&s, who) // its time is over before the lease is
			e.to(s, outOfTime, who)
			return
		}
		if m.plan(&s, who); d.at == none {
			m.end(&s, who)
		}
		e.to(s, awaitLeaseEnd, who)
	case getting:
		overruled := d.patch.overruled
		d.patch = m.patchFor(*d, s.gti)
		d.patch.overruled = overruled
		expected := m.expectsNoMore || w.expect == anyStatus || s.gti.status == w.expect
		switch {
		case d.patch.status == anyStatus && d.patch.tags == 0:
			d.at, d.patch = completing, patch{}
		case !expected:
			d.at, d.patch = withdrawing, patch{}
		default:
			d.at = beginning
		}
		e.to(s, get, who)
		m.lose(before, e, who)
	case beginning:
		if !d.current && !m.unconditional {
			m.startOver(&s, who)
			e.to(s, conflictBegin, who)
			return
		}
		m.writeIntents(&s, d.msg, d.mine, open)
		m.touch(&s)
		s.lease = writeLease{held: true, owner: who}
		d.at, d.age = begun, 0
		e.to(s, begin, who)
		m.lose(s, e, who)
		m.lose(before, e, who)
	case begun:
		if d.age >= patchAge {
			m.release(&s, who)
			m.end(&s, who)
			e.to(s, unsent, who)
			return
		}
		if d.again {
			e.fail(update, who, "a message that was served is written again")
		}
		d.at, d.stood = sent, false
		e.to(s, update, who)
	case sent:
		m.answer(s, e, who)
	case changed:
		if !s.lease.held || s.lease.owner != who {
			d.at, d.patch = reading, patch{}
			e.to(s, completeChanged, who)
			return
		}
		m.complete(&s, who)
		e.to(s, completeChanged, who)
		m.lose(s, e, who)
		m.lose(before, e, who)
	case completing:
		if !d.current && !m.unconditional {
			m.startOver(&s, who)
			e.to(s, conflictBegin, who)
			return
		}
		m.complete(&s, who)
		e.to(s, completeUnchanged, who)
		m.lose(s, e, who)
		m.lose(before, e, who)
	case withdrawing:
		if !d.current && !m.unconditional && !m.withdrawsAnyhow {
			m.startOver(&s, who)
			e.to(s, conflictBegin, who)
			return
		}
		if d.current {
			s.lease = writeLease{} // its time is over, or the record would have changed
		}
		m.withdraw(&s, e, withdraw, who)
		e.to(s, withdraw, who)
		m.lose(s, e, who)
		m.lose(before, e, who)
	case withdrawingBegun:
		if isHeld := s.lease.held && s.lease.owner == who; !isHeld && !m.withdrawsAnyhow {
			d.at, d.patch = reading, patch{}
			e.to(s, withdrawBegun, who)
			return
		} else if isHeld {
			s.lease = writeLease{}
		}
		m.withdraw(&s, e, withdrawBegun, who)
		e.to(s, withdrawBegun, who)
		m.lose(s, e, who)
		m.lose(before, e, who)
	case rejecting:
		msg.rejected = true
		d.at = acking
		e.to(s, reject, who)
		m.lose(before, e, who)
	case acking:
		if !d.reject {
			msg.served = true
			later := d.msg == 0 && s.intents[1].status == done
			if !msg.tagSeen || !msg.statusSeen && !later {
				e.fail(ack, who, "a message is acknowledged, and nothing was written")
			}
		} else if !msg.rejected {
			e.fail(ack, who, "a message that was not written is acknowledged, and not rejected")
		}
		unheard := s
		msg.acked = true
		m.end(&s, who)
		e.to(s, ack, who)
		m.lose(unheard, e, who)
	}
}

// withdraw takes a message's intents out of the record, so that it is rejected.
func (m *writebackModel) withdraw(s *alertState, e *writebackExplorer, step step, who actor) {
	d := &s.at[who-1]
	if rec := s.intents[d.msg]; rec.status == done || rec.tag == done {
		e.fail(step, who, "a message is both written and rejected")
	}
	if o := &s.at[2-who]; o.msg == d.msg && o.at >= getting && o.at <= sent {
		o.patch.overruled = true
	}
	if s.late.underWay && s.late.msg == d.msg {
		s.late.overruled = true
	}
	if !m.withdrawsUnseen || s.intents[d.msg] != (intents{}) {
		m.touch(s)
	}
	s.intents[d.msg] = intents{}
	d.at, d.mine, d.patch, d.age, d.reject = rejecting, intents{}, patch{}, 0, true
}

// startOver begins anew after a failed condition.
func (m *writebackModel) startOver(s *alertState, who actor) {
	d := &s.at[who-1]
	if m.noReread && d.at == beginning {
		old := d.patch
		if m.plan(s, who); d.at == getting {
			d.at, d.patch = beginning, old
			d.patch.raced = false
		}
		return
	}
	d.at, d.patch, d.mine = reading, patch{}, intents{}
}

// plan compares what a message asks for with the record that was just read.
func (m *writebackModel) plan(s *alertState, who actor) {
	d := &s.at[who-1]
	d.current, d.patch = true, patch{}
	rec := s.intents[d.msg]
	d.mine = intents{}
	superseded := !m.neverSupersedes && d.msg == 0 && m.requests[1].status != anyStatus && s.intents[1].status != absent
	if superseded && s.intents[1].status == open && rec.status != done && !m.supersedesEarly {
		d.at = none // the later request decides, and its end is not known
		return
	}
	begunBefore := false
	if m.requests[d.msg].status != anyStatus && rec.status != done {
		if !superseded {
			d.mine.status = open
		} else {
			begunBefore = rec.status == open
		}
	}
	if rec.tag != done {
		d.mine.tag = open
	}
	switch {
	case d.mine != intents{}:
		d.at = getting
	case begunBefore:
		d.at = completing
	default:
		d.at = acking
	}
}

// patchFor is the change that is still to be made of an alert as it was read.
func (m *writebackModel) patchFor(d delivery, read content) patch {
	w := m.requests[d.msg]
	p := patch{underWay: true, msg: d.msg, status: anyStatus, read: read}
	if d.mine.status != absent && read.status != w.status {
		p.status = w.status
	}
	if d.mine.tag != absent && read.tags&w.tag == 0 {
		p.tags = read.tags | w.tag
	}
	return p
}

// writeIntents puts a message's intents into the record: its own, and those that were
// begun and are superseded now. One that is done leaves the record when a later one is done
// too.
func (m *writebackModel) writeIntents(s *alertState, msg uint8, mine intents, how uint8) {
	rec := &s.intents[msg]
	if mine.status != absent || rec.status == open {
		rec.status = how
	}
	if mine.tag != absent {
		rec.tag = how
	}
	if later := s.intents[1].status; s.intents[0].status == done && (later == done || m.forgetsEarly && later == open) {
		s.intents[0].status = absent
	}
}

// complete records that a message is done.
func (m *writebackModel) complete(s *alertState, who actor) {
	d := &s.at[who-1]
	if !m.forgets {
		m.writeIntents(s, d.msg, d.mine, done)
	}
	s.lease = writeLease{}
	m.touch(s)
	d.at, d.patch, d.mine, d.age = acking, patch{}, intents{}, 0
}

// release gives the lease back.
func (m *writebackModel) release(s *alertState, who actor) {
	if s.lease.held && s.lease.owner == who {
		s.lease = writeLease{}
		m.touch(s)
	}
}

// answer is what comes of a change that was sent.
func (m *writebackModel) answer(s alertState, e *writebackExplorer, who actor) {
	d := &s.at[who-1]
	landed := s
	if m.land(&landed, e, d.patch, who, patchLands, d.stood) {
		answered := landed
		a := &answered.at[who-1]
		a.at, a.patch, a.stood, a.age = changed, patch{}, false, 0
		e.to(answered, patchLands, who)
		m.lose(landed, e, who)
	}
	if s.left.faults == 0 {
		return
	}
	s.left.faults--
	refused := s // GTI itself says that nothing was done
	m.release(&refused, who)
	m.end(&refused, who)
	e.to(refused, giveUp, who)
	denied := s // … and will for any delivery
	denied.at[who-1].at, denied.at[who-1].patch, denied.at[who-1].stood, denied.at[who-1].age = withdrawingBegun, patch{}, false, 0
	e.to(denied, giveUp, who)
	late := *d
	m.end(&s, who)
	e.to(s, giveUp, who)
	if !s.late.underWay && !late.stood {
		s.late = late.patch
		e.to(s, giveUp, who)
	}
}

// land is the effect of a change in GTI, with the laws about it. It reports false where
// the protocol promises nothing any more.
func (m *writebackModel) land(s *alertState, e *writebackExplorer, p patch, who actor, step step, stood bool) bool {
	isHeld := s.lease.held && s.lease.owner == who && s.lease.age < overAge
	if stood && !isHeld {
		e.saw("a change of an instance that was frozen in the call for longer than the lease")
		return false
	}
	msg, w := &s.msgs[p.msg], m.requests[p.msg]
	switch rec := s.intents[p.msg]; {
	case p.overruled:
		e.fail(step, who, "a message is both written and rejected")
	case msg.served:
		e.fail(step, who, "a change lands after its message was served")
	case p.read != s.gti && !p.raced:
		e.fail(step, who, "a change undoes what its delivery has not read")
	case w.expect != anyStatus && p.read.status != w.expect:
		e.fail(step, who, "a change lands, and the status that was read is not the expected one")
	case p.status != anyStatus && rec.status != open || p.tags != 0 && rec.tag != open:
		e.fail(step, who, "a change lands that no open intent announces")
	}
	if msg.acked {
		e.saw("a change of a message that comes again after it was rejected")
	}
	if p.read != s.gti {
		e.saw("an analyst's change between a delivery's GET and its PATCH")
	}
	if p.status != anyStatus {
		s.gti.status = p.status
	}
	if p.tags != 0 {
		s.gti.tags = p.tags
	}
	m.look(s)
	return true
}
