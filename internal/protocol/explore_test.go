package protocol

import (
	"fmt"
	"hash/maphash"
	"strings"
	"time"
)

// move is one step of one actor.
type move struct {
	step  step
	actor actor
	// swapped: the two processes have changed places in the state that it leads to.
	swapped bool
}

func (m move) String() string { return fmt.Sprintf("%-5s %s", m.actor, m.step) }

// report is what an exploration has seen.
type report struct {
	states, transitions, deepest int
	took                         time.Duration
	taken                        [stepCount]int // how often each step was
	seen                         map[string]int
	broken                       string // the first law that was broken; empty: none
	trace                        []move // the shortest one to it
}

func (r report) String() string {
	if r.broken == "" {
		return fmt.Sprintf("%d states, %d transitions, deepest trace %d steps, %.1f s", r.states, r.transitions, r.deepest, r.took.Seconds())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, after %d steps:\n", r.broken, len(r.trace))
	for i, m := range r.trace {
		fmt.Fprintf(&b, "  %2d  %s\n", i+1, m)
	}
	return b.String()
}

// reached is a state, and how it was first reached.
type reached[S comparable] struct {
	state  S
	parent uint32
	move   move
}

// chunk is how many states lie together: so many are never moved when there are more.
const chunk = 1 << 12

// explorer visits every state that can be reached, the nearest first, so that the first
// trace that breaks a law is a shortest one. A state is kept whole, and is equal to
// another only when all of it is: no law is proven by a hash.
type explorer[S comparable] struct {
	found []*[chunk]reached[S]
	count uint32
	table []uint32 // open addressing: one more than the index of a state; 0: none
	seed  maphash.Seed
	at    uint32 // whose successors are being found
	// canonical is the state that stands for all that differ from it in nothing that
	// matters. It may swap the two processes.
	canonical func(S) (s S, swapped bool)
	report    report
}

// explore visits what next can reach from start. next tells every successor of a state.
func explore[S comparable](start S, next func(S, *explorer[S]), canonical func(S) (S, bool)) report {
	began := time.Now()
	e := &explorer[S]{table: make([]uint32, 1<<16), seed: maphash.MakeSeed(), canonical: canonical}
	e.report.seen = map[string]int{}
	e.add(start, move{})
	depth, levelEnd := 0, uint32(1)
	for ; e.at < e.count && e.report.broken == ""; e.at++ {
		if e.at == levelEnd {
			depth, levelEnd = depth+1, e.count
		}
		next(e.get(e.at).state, e)
	}
	e.report.states, e.report.deepest, e.report.took = int(e.count), depth, time.Since(began)
	return e.report
}

// to tells a successor.
func (e *explorer[S]) to(s S, step step, who actor) {
	e.report.transitions++
	e.report.taken[step]++
	s, swapped := e.canonical(s)
	e.add(s, move{step, who, swapped})
}

// fail tells that a step breaks a law. Only the first one counts.
func (e *explorer[S]) fail(step step, who actor, law string) {
	if e.report.broken != "" {
		return
	}
	e.report.broken = law
	e.report.trace = []move{{step: step, actor: who}}
	for at := e.at; at != 0; at = e.get(at).parent {
		e.report.trace = append([]move{e.get(at).move}, e.report.trace...)
	}
	swapped := false
	for i, m := range e.report.trace {
		if swapped {
			e.report.trace[i].actor = m.actor.other()
		}
		swapped = swapped != m.swapped
	}
}

// saw counts something that the laws allow, and that an exploration must meet.
func (e *explorer[S]) saw(what string) { e.report.seen[what]++ }

func (e *explorer[S]) add(s S, m move) {
	if 2*int(e.count) >= len(e.table) {
		e.table = make([]uint32, 2*len(e.table))
		for i := range e.count {
			e.table[e.slot(e.get(i).state)] = i + 1
		}
	}
	slot := e.slot(s)
	if e.table[slot] != 0 {
		return
	}
	if e.count%chunk == 0 {
		e.found = append(e.found, new([chunk]reached[S]))
	}
	e.count++
	*e.get(e.count - 1) = reached[S]{s, e.at, m}
	e.table[slot] = e.count
}

func (e *explorer[S]) get(i uint32) *reached[S] { return &e.found[i/chunk][i%chunk] }

// slot is where the table has a state, or may have it.
func (e *explorer[S]) slot(s S) int {
	mask := len(e.table) - 1
	slot := int(maphash.Comparable(e.seed, s)) & mask
	for e.table[slot] != 0 && e.get(e.table[slot]-1).state != s {
		slot = (slot + 1) & mask
	}
	return slot
}
