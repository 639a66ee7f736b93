// Package protocol explores every interleaving of the relay's small protocol, up to a
// stated bound, and checks in each state the laws that the relay promises to keep. It has
// two models: of the runs of a feed (feed_test.go) and of the write-backs of an alert
// (writeback_test.go). Their steps stand for functions of the code (steps_test.go), and a
// test fails when these change their order (source_test.go). docs/protocol.md says what is
// explored, and what is not.
//
// Time is in ticks. Of the numbers of the code they keep which comes before which
// (TestTimes):
//
//   - A feed's lease is counted on at the ages 0 and 1. At 2 its holder counts it as lost
//     (35 s), and at 3 others may take it (60 s). A message that is sent in one tick is
//     taken in the same or in the next (15 s), unless its process freezes. So the last call
//     of a run that counts on its lease ends before another run begins.
//   - A run may renew its lease at any age at which it counts on it (every 15 s), or not at all.
//   - The lease of an alert's record lasts two ticks (30 s). A change is sent in the first,
//     and its answer awaited in it (10 s). One that was given up takes effect in the second
//     tick at the latest.
//
// The time that the code has beyond that is for clocks that differ. The models have one
// clock. Nor do they bound the time of a write to the database: only its condition protects
// the document.
package protocol

import (
	"maps"
	"strings"
	"testing"
)

// feedBounds are the bounds up to which the feed's protocol is explored. All have two
// processes, in which runs follow one another.
var feedBounds = []struct {
	name  string
	pages []uint8 // the alerts on each, a bit for each
	left  budget
}{
	{"1 alert on 1 page", []uint8{0b1}, budget{runs: 3, faults: 2, changes: 2}},
	{"2 alerts on 1 page", []uint8{0b11}, budget{runs: 2, faults: 2, changes: 1}},
	{"2 alerts on 2 pages", []uint8{0b1, 0b10}, budget{runs: 2, faults: 1, changes: 1}},
	{"3 alerts on 2 pages", []uint8{0b11, 0b100}, budget{runs: 2, faults: 2}},
}

// feedMeets is what the exploration must meet, or its laws would be empty.
var feedMeets = []string{
	"a batch of a run that was frozen in the call",
	"a repeat with the same key",
	"an older version of a run that was frozen in the call",
}

func TestFeed(t *testing.T) {
	skipShort(t)
	var all report
	for _, b := range feedBounds {
		m := feedModel{pages: b.pages, lostAge: lostAge}
		r := m.explore(b.left)
		t.Logf("%s, %d runs, %d faults, %d changes: %s", b.name, b.left.runs, b.left.faults, b.left.changes, r)
		if r.broken != "" {
			t.Fatal("a law is broken")
		}
		all.join(r)
	}
	t.Logf("in all: %s", all)
	all.checkMet(t, acquire, reread, feedMeets)
}

// Two messages for one alert, the second of which is the later one.
var (
	twoStatuses = [2]request{{statusFirst, tagFirst, anyStatus}, {statusSecond, tagSecond, anyStatus}}
	oneMessage  = [2]request{{statusFirst, tagFirst, anyStatus}, {}}
	conditional = [2]request{{statusFirst, tagFirst, statusNew}, {anyStatus, tagSecond, anyStatus}}
)

// writebackBounds are the bounds up to which the protocol of write-backs is explored. All
// have two instances.
var writebackBounds = []struct {
	name       string
	requests   [2]request
	deliveries uint8 // of each message
	left       writebackBudget
}{
	{"1 message", oneMessage, 4, writebackBudget{faults: 3, analyst: 2, records: 1}},
	{"2 messages for one field", twoStatuses, 2, writebackBudget{faults: 2, analyst: 1}},
	{"2 messages for one field", twoStatuses, 2, writebackBudget{faults: 1, analyst: 1, records: 1}},
	{"2 messages, one with an expected status", conditional, 2, writebackBudget{faults: 2, analyst: 1, records: 1}},
}

var writebackMeets = []string{
	"a change of an instance that was frozen in the call for longer than the lease",
	"an analyst's change between a delivery's GET and its PATCH",
	"a change of a message that comes again after it was rejected",
}

func TestWriteback(t *testing.T) {
	skipShort(t)
	var all report
	for _, b := range writebackBounds {
		m := writebackModel{requests: b.requests, leaseEnd: leaseEnd}
		r := m.explore(b.deliveries, b.left)
		t.Logf("%s, %d deliveries each, %d faults, %d changes of an analyst, %d writes of a run: %s",
			b.name, b.deliveries, b.left.faults, b.left.analyst, b.left.records, r)
		if r.broken != "" {
			t.Fatal("a law is broken")
		}
		all.join(r)
	}
	t.Logf("in all: %s", all)
	all.checkMet(t, deliver, ack, writebackMeets)
}

// skipShort leaves an exploration out where the race detector makes it take ten times as
// long: it is one goroutine.
func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped with -short: go test ./internal/protocol")
	}
}

// join adds what another exploration has seen.
func (r *report) join(o report) {
	r.states += o.states
	r.transitions += o.transitions
	r.deepest = max(r.deepest, o.deepest)
	r.took += o.took
	for s, n := range o.taken {
		r.taken[s] += n
	}
	if r.seen == nil {
		r.seen = map[string]int{}
	}
	for what, n := range o.seen {
		r.seen[what] += n
	}
}

// checkMet checks that each step from one to another was taken, and that all was seen.
func (r report) checkMet(t *testing.T, from, to step, seen []string) {
	t.Helper()
	for s := from; s <= to; s++ {
		if r.taken[s] == 0 {
			t.Errorf("no interleaving has the step %q", s)
		}
	}
	for _, what := range seen {
		if r.seen[what] == 0 {
			t.Errorf("no interleaving has %s", what)
		}
	}
}

// A law that no variant of the protocol breaks would prove nothing.
func TestBrokenFeed(t *testing.T) {
	one, two := []uint8{0b1}, []uint8{0b11}
	for _, tt := range []struct {
		name  string
		model feedModel
		left  budget
		want  string
	}{
		{"position before the ledger", feedModel{pages: one, positionFirst: true, lostAge: lostAge}, budget{runs: 2}, "the position passes an alert that is not recorded"},
		{"publishing without a look at the lease", feedModel{pages: one, noLeaseCheck: true, lostAge: lostAge}, budget{runs: 2}, "a run publishes without the lease, and was not frozen in the call"},
		{"an unconditional write of the feed's document", feedModel{pages: one, unconditional: true, lostAge: lostAge}, budget{runs: 2}, "the lease is taken before its end"},
		{"a failed condition taken for its own write", feedModel{pages: one, acceptsAnyWrite: true, lostAge: lostAge}, budget{runs: 2}, "a run counts on a lease that is not its own"},
		{"an unconditional write of the ledger", feedModel{pages: one, recordsAnyhow: true, lostAge: lostAge}, budget{runs: 2, changes: 1}, "the published version goes back"},
		{"a lease lost as late as it expires", feedModel{pages: one, lostAge: expiredAge}, budget{runs: 2}, "a run publishes without the lease, and was not frozen in the call"},
		{"a failed message that ends no run", feedModel{pages: two, ignoresFailure: true, lostAge: lostAge}, budget{runs: 2, faults: 1}, "the position passes an alert that is not recorded"},
		{"a sweep that goes unread", feedModel{pages: one, skipsSweep: true, lostAge: lostAge}, budget{runs: 2, changes: 1}, "the sweep passes a change that is not recorded"},
		{"a record before its message", feedModel{pages: one, recordsFirst: true, lostAge: lostAge}, budget{runs: 1, faults: 1}, "an alert's newest version is lost"},
	} {
		t.Run(tt.name, func(t *testing.T) { checkBroken(t, tt.model.explore(tt.left), tt.want) })
	}
}

func TestBrokenWriteback(t *testing.T) {
	for _, tt := range []struct {
		name  string
		model writebackModel
		left  writebackBudget
		want  string
	}{
		{"writing without reading again", writebackModel{requests: twoStatuses, noReread: true, leaseEnd: leaseEnd}, writebackBudget{analyst: 1, records: 1}, "a change undoes what its delivery has not read"},
		{"no lease", writebackModel{requests: twoStatuses, noLease: true, leaseEnd: leaseEnd}, writebackBudget{}, "a change undoes what its delivery has not read"},
		{"an unconditional write of the record", writebackModel{requests: twoStatuses, unconditional: true, leaseEnd: leaseEnd}, writebackBudget{}, "a change undoes what its delivery has not read"},
		{"a lease as short as a change", writebackModel{requests: twoStatuses, leaseEnd: patchAge}, writebackBudget{faults: 1}, "a change undoes what its delivery has not read"},
		{"what is done is not recorded", writebackModel{requests: oneMessage, forgets: true, leaseEnd: leaseEnd}, writebackBudget{faults: 1, analyst: 1}, "a message that was served is written again"},
		{"the expected status is not looked at", writebackModel{requests: conditional, expectsNoMore: true, leaseEnd: leaseEnd}, writebackBudget{analyst: 1}, "a change lands, and the status that was read is not the expected one"},
		{"the earlier request is written after the later", writebackModel{requests: twoStatuses, neverSupersedes: true, leaseEnd: leaseEnd}, writebackBudget{}, "the earlier of two requests stands"},
		{"a done request forgotten for a later one that GTI refuses", writebackModel{requests: twoStatuses, forgetsEarly: true, leaseEnd: leaseEnd}, writebackBudget{analyst: 1, faults: 1}, "a message that was served is written again"},
		{"a request superseded by a later one that GTI refuses", writebackModel{requests: twoStatuses, supersedesEarly: true, leaseEnd: leaseEnd}, writebackBudget{faults: 1}, "a message is acknowledged, and nothing was written"},
		{"a message rejected whatever its other delivery has written", writebackModel{requests: conditional, withdrawsAnyhow: true, leaseEnd: leaseEnd}, writebackBudget{analyst: 1}, "a message is both written and rejected"},
		{"a message rejected, and its other delivery goes on", writebackModel{requests: conditional, withdrawsUnseen: true, leaseEnd: leaseEnd}, writebackBudget{analyst: 1}, "a message is both written and rejected"},
		{"a message that GTI refused, rejected without the lease", writebackModel{requests: oneMessage, withdrawsAnyhow: true, leaseEnd: leaseEnd}, writebackBudget{faults: 1}, "a message is both written and rejected"},
	} {
		t.Run(tt.name, func(t *testing.T) { checkBroken(t, tt.model.explore(2, tt.left), tt.want) })
	}
}

func checkBroken(t *testing.T, r report, want string) {
	t.Helper()
	t.Log(r)
	if r.broken != want || len(r.trace) == 0 {
		t.Errorf("found %q, want %q", r.broken, want)
	}
	if !strings.Contains(r.String(), r.trace[len(r.trace)-1].String()) {
		t.Error("the trace is not printed")
	}
}

// What canonical leaves out must matter to nothing that can be seen from outside.
func TestCanonical(t *testing.T) {
	skipShort(t)
	f := feedModel{pages: []uint8{0b1}, lostAge: lostAge}
	checkCanonical(t, f.start(budget{runs: 2, faults: 1, changes: 1}), f.next, f.canonical, func(s feedState) any {
		return feedTruth{s.version, s.changedAt, s.published, s.record, s.doc.done, s.doc.swept}
	})
	for _, requests := range [][2]request{twoStatuses, conditional} {
		w := writebackModel{requests: requests, leaseEnd: leaseEnd}
		checkCanonical(t, w.start(2, writebackBudget{faults: 1, analyst: 1}), w.next, w.canonical, func(s alertState) any {
			return [...]any{s.gti, s.intents, s.msgs[0].acked, s.msgs[1].acked}
		})
	}
}

func checkCanonical[S comparable](t *testing.T, start S, next func(S, *explorer[S]), canonical func(S) (S, bool), outside func(S) any) {
	t.Helper()
	explored := func(canonical func(S) (S, bool)) map[any]bool {
		all := map[any]bool{}
		r := explore(start, func(s S, e *explorer[S]) {
			all[outside(s)] = true
			next(s, e)
		}, canonical)
		t.Logf("%s, %d different from outside", r, len(all))
		if r.broken != "" {
			t.Error("a law is broken")
		}
		return all
	}
	fewer, more := explored(canonical), explored(func(s S) (S, bool) { return s, false })
	if !maps.Equal(fewer, more) {
		t.Errorf("%d states different from outside, and %d without canonical", len(fewer), len(more))
	}
}
