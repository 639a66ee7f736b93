package drain

import (
	"slices"
	"time"
)

// Out of place by up to coarse, alerts show that the API sorts by less than a
// millisecond; by up to loose, that it sorts by something close to created_at.
const (
	coarse = time.Second
	loose  = time.Minute
	// maxTogether is how many alerts at the end of what was listed may all be ahead of their
	// place. Each listing that goes on from there lists so many again.
	maxTogether = 4
)

// order judges how far a listing by created_at has come. The order of a listing
// lets a slice's position move before the listing ends; it is no condition of
// reading. So the position follows the alerts that are in order, and one alert
// out of place, or a few, neither hold it nor carry it past alerts that were not read.
type order struct {
	// safe is the created_at up to which the listing is read: later alerts in order
	// came after it.
	safe time.Time
	// tail are the alerts in order after safe. Nothing shows yet that these are in
	// their places.
	tail []time.Time
	// trail is how far alerts that are slightly out of place were off, rounded up.
	trail time.Duration
	read  int // alerts
	// Of these, how many were slightly and how many far out of place.
	near, far int
}

// orderFrom is the order of a listing that begins at a position.
func orderFrom(position time.Time) order { return order{safe: position} }

// last is the latest alert in order; zero when there is none.
func (o *order) last() time.Time {
	if len(o.tail) == 0 {
		return time.Time{}
	}
	return o.tail[len(o.tail)-1]
}

// add takes the alerts of the next page by their created_at, and says by how much
// each is out of place.
func (o *order) add(page []time.Time) []time.Duration {
	off := make([]time.Duration, len(page))
	if len(page) == 0 {
		return off
	}
	// The alerts at the end, in order, may themselves be out of place, so they take part.
	run := slices.Concat(o.tail, page)
	shift := len(run) - len(page)
	chain := ascending(run, o.safe)
	for i := range page {
		switch off[i] = misplaced(run, chain, i+shift); {
		case off[i] == 0:
		case off[i] <= coarse:
			o.near, o.trail = o.near+1, max(o.trail, coarse)
		case off[i] <= loose:
			o.near, o.trail = o.near+1, loose
		default:
			o.far++
		}
	}
	o.read += len(page)
	ordered := make([]time.Time, len(chain))
	for i, at := range chain {
		ordered[i] = run[at]
	}
	if n := o.witnessed(ordered); n > 0 && !o.isLost() {
		o.safe, o.tail = ordered[n-1], ordered[n:]
	} else {
		o.tail = ordered[max(0, len(ordered)-min(o.few(), maxTogether)-2):]
	}
	return off
}

// witnessed is how many of the alerts in order are in their places, as others that
// follow them show: all but the last, and but a few that stand after a leap. These
// may all be ahead of their place.
func (o *order) witnessed(ordered []time.Time) int {
	n := len(ordered) - 1
	few := min(o.few(), maxTogether)
	for i := len(ordered) - 1; i > 0 && i >= len(ordered)-1-few; i-- {
		if ordered[i].Sub(ordered[i-1]) > loose {
			n = i
		}
	}
	if first := len(ordered) - 1 - few; first <= 0 && len(ordered) > 0 && ordered[0].Sub(o.safe) > loose {
		n = 0
	}
	return n
}

// few is how many alerts may be out of place in a listing that is in order.
func (o *order) few() int { return 1 + o.read/25 }

// isLost reports whether so many alerts are far out of place that the listing is
// in no order at all, and says nothing before its end.
func (o *order) isLost() bool { return o.far > o.few() }

// position is the created_at before which nothing is left to read. When more than
// one alert in 25 is slightly out of place, others still come from before safe.
func (o *order) position() time.Time { return o.safe.Add(-o.slack()) }

// slack is how much later than in its place an alert may still come.
func (o *order) slack() time.Duration {
	if 25*o.near > o.read {
		return o.trail
	}
	return 0
}

// ascending returns the indexes of the longest ascending run of times that are
// not before from; of several, the one that ends earliest.
func ascending(times []time.Time, from time.Time) []int {
	var ends []int // by length: where the run of that length which ends earliest ends
	before := make([]int, len(times))
	for i, t := range times {
		if t.Before(from) {
			continue
		}
		// Equal times follow each other.
		n, _ := slices.BinarySearchFunc(ends, t, func(end int, t time.Time) int {
			if times[end].After(t) {
				return 1
			}
			return -1
		})
		before[i] = -1
		if n > 0 {
			before[i] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, i)
		} else {
			ends[n] = i
		}
	}
	if len(ends) == 0 {
		return nil
	}
	run := make([]int, len(ends))
	for n, i := len(ends)-1, ends[len(ends)-1]; n >= 0; n, i = n-1, before[i] {
		run[n] = i
	}
	return run
}

// misplaced is how far the ith time is from where it would be in order, 0 when it
// is there.
func misplaced(times []time.Time, chain []int, i int) time.Duration {
	after, in := slices.BinarySearch(chain, i)
	off := time.Duration(0)
	if after > 0 {
		off = max(off, times[chain[after-1]].Sub(times[i]))
	}
	if after < len(chain) && !in {
		off = max(off, times[i].Sub(times[chain[after]]))
	}
	return off
}
