package main

import (
	"math/rand/v2"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// kind is what goes wrong.
type kind string

const (
	kill         kind = "SIGKILL"
	freeze       kind = "SIGSTOP, up to 3 s"
	longFreeze   kind = "SIGSTOP, 65 s"
	terminate    kind = "SIGTERM"
	apiCut       kind = "API: answers cut"
	apiSilent    kind = "API: silent"
	apiSlow      kind = "API: slow"
	apiErrors    kind = "API: 429 and 5xx"
	storeSlow    kind = "database: slow"
	storeCut     kind = "database: cut"
	storeSilent  kind = "database: silent"
	storeRefuses kind = "database: refuses"
	topicSlow    kind = "topics: slow"
	topicCut     kind = "topics: cut"
	topicSilent  kind = "topics: silent"
	topicRefuses kind = "topics: refuse"
	clockJump    kind = "wall clock jumps, up to 15 s"
	clockFar     kind = "wall clock jumps, up to 60 min"
	two          kind = "two instances of each"
)

var kinds = []kind{
	kill, freeze, longFreeze, terminate, apiCut, apiSilent, apiSlow, apiErrors,
	storeSlow, storeCut, storeSilent, storeRefuses, topicSlow, topicCut, topicSilent, topicRefuses,
	clockJump, clockFar, two,
}

// repeating are the faults around which a version may be published again: they come
// between the topic's acknowledgement and what the relay knows of it, or between that
// and its record. A clock that jumps ahead ends a lease.
var repeating = []kind{
	kill, longFreeze, clockFar, storeCut, storeSilent, storeRefuses, topicCut, topicSilent, topicRefuses,
}

// fault is something that goes wrong in a run, from the moment on when so many pieces
// have come through one of the networks.
type fault struct {
	kind    kind
	network int
	pieces  int
	lasts   time.Duration
	flavour int // which of the kind's ways
	seconds int // by which the clock jumps
}

// most are about the numbers of pieces of a run's storm: of the API's network, the
// database's and the topics'.
var most = [3]int{80, 200, 40}

// plan is what a seed says of a run.
type plan struct {
	seed      uint64
	faults    []fault
	storm     time.Duration // how long things happen and go wrong
	alerts    int           // that are there at the beginning
	instances int           // of each function
	gti       dtmsim.Options
}

// newPlan draws a run. Its first fault follows from the seed, so that each comes as
// often as the others.
func newPlan(seed uint64) plan {
	rng := rand.New(rand.NewPCG(seed, 1))
	wanted := []kind{kinds[seed%uint64(len(kinds))]}
	for range 2 {
		k := kinds[rng.IntN(len(kinds))]
		if rng.IntN(3) == 0 {
			k = kill // most moments of it do no harm that shows
		}
		switch {
		case rng.IntN(2) == 0, slices.Contains(wanted, k):
		case k == longFreeze: // so that few runs wait for more than a minute
		case k == clockFar, wanted[0] == clockFar:
			// Leases are made for clocks that differ by 20 s. A process may be wrong by more
			// when it is alone, and leaves no lease that ends in an hour.
		default:
			wanted = append(wanted, k)
		}
	}
	return planWith(rng, seed, wanted)
}

func planWith(rng *rand.Rand, seed uint64, wanted []kind) plan {
	p := plan{seed: seed, storm: between(rng, 800*time.Millisecond, 2500*time.Millisecond), alerts: 30 + rng.IntN(60), instances: 1}
	// A second instance takes over from one that stands still.
	if slices.Contains(wanted, two) || slices.Contains(wanted, longFreeze) {
		p.instances = 2
	}
	for _, k := range wanted {
		f := fault{kind: k, network: rng.IntN(len(most)), lasts: between(rng, 200*time.Millisecond, 2*time.Second), flavour: rng.IntN(3)}
		f.pieces = 1 + rng.IntN(most[f.network])
		switch k {
		case freeze:
			f.lasts = between(rng, 300*time.Millisecond, 3*time.Second)
		case longFreeze:
			f.lasts = 65 * time.Second
		case apiSilent, storeSilent, storeRefuses, topicSilent, topicRefuses:
			// Longer than calls are tried again, and than a lease holds without renewal.
			if rng.IntN(5) == 0 {
				f.lasts = 40 * time.Second
			}
		case clockJump:
			f.seconds = rng.IntN(31) - 15
		case clockFar:
			f.seconds, f.flavour = 60*(rng.IntN(121)-60), 0
		default:
		}
		p.faults = append(p.faults, f)
	}
	p.gti = dtmsim.Options{
		Key: apiKey, Seed: seed, MaxSize: 3 + rng.IntN(15),
		Latency: between(rng, 2*time.Millisecond, 15*time.Millisecond), Jitter: 10 * time.Millisecond,
		Ties:   []dtmsim.TieOrder{dtmsim.TiesByID, dtmsim.TiesReverse, dtmsim.TiesShuffled}[rng.IntN(3)],
		Tokens: []dtmsim.TokenMode{dtmsim.Once, dtmsim.Scroll}[rng.IntN(2)],
		Clock:  []time.Duration{0, 0, -2 * time.Second, 2 * time.Second}[rng.IntN(4)],
	}
	return p
}

func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(rng.Int64N(int64(to-from)))
}

// names are the kinds of a run's faults.
func (p plan) names() []kind {
	var names []kind
	for _, f := range p.faults {
		names = append(names, f.kind)
	}
	return names
}
