package lifecycle

import (
	"hash/maphash"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// Shown tells pages of a listing that come again, under whatever token, from new
// ones. A listing is bounded by what it brings: a server that serves its last page
// for ever would otherwise cost a day's requests.
type Shown struct {
	seed maphash.Seed
	// Only the latest alerts are remembered, or a listing of a million alerts would
	// take more memory than all its pages: those of now, and as many before them.
	now, before map[uint64]struct{}
	// barren is how many pages in a row hold alerts and bring none, and hollow how
	// many bring nothing either and hold only what is no alert: such elements may well
	// be alike.
	barren, hollow int
}

// maxHollow is how many hollow pages in a row a listing may have.
const maxHollow = 10

// remembered is how many alerts are in one of a Shown's two sets, of about 20
// bytes each.
const remembered = 16 << 10

// Add takes the next page, and returns how many alerts it brings that the listing
// has not shown.
func (s *Shown) Add(page dtm.Page) (brought int) {
	if s.now == nil {
		s.seed, s.now = maphash.MakeSeed(), map[uint64]struct{}{}
	}
	usable := false
	for _, a := range page.Alerts {
		usable = usable || a.Fault == ""
		name := maphash.String(s.seed, LedgerID(a))
		_, now := s.now[name]
		if _, before := s.before[name]; now || before {
			continue
		}
		if len(s.now) == remembered {
			s.now, s.before = map[uint64]struct{}{}, s.now
		}
		s.now[name] = struct{}{}
		brought++
	}
	switch {
	case len(page.Alerts) == 0: // what empty pages mean is another matter
	case brought > 0:
		s.barren, s.hollow = 0, 0
	case usable:
		s.barren++
	default:
		s.hollow++
	}
	return brought
}

// Endless reports whether the last pages brought nothing: two that hold alerts, or
// more that hold none.
func (s *Shown) Endless() bool { return s.barren >= 2 || s.hollow >= maxHollow }

// Doubts are the unreadable elements that pages held. The API is asked again for a
// page with new ones: those that come a second time, byte for byte, were not spoilt
// on their way, and are rejected like any element that is no alert.
type Doubts struct {
	seen  map[string]bool
	times int
}

// maxDoubts bounds the requests for them.
const maxDoubts = 6

// Cut keeps of a page what comes before the first element that is unreadable for the
// first time, and reports whether there is one that is worth another request.
func (d *Doubts) Cut(page dtm.Page) (dtm.Page, bool) {
	first := -1
	for i, a := range page.Alerts {
		if !a.Unreadable || d.times == maxDoubts {
			continue
		}
		name := LedgerID(a)
		if d.seen[name] {
			continue
		}
		if d.seen == nil {
			d.seen = map[string]bool{}
		}
		d.seen[name] = true
		if first < 0 {
			first = i
		}
	}
	if first < 0 {
		return page, false
	}
	d.times++
	page.Alerts = page.Alerts[:first]
	return page, true
}
