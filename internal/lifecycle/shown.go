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

// Doubts are the unreadable elements that pages held. The API is asked again for
// the first of each: one that comes a second time, byte for byte, was not spoilt on
// its way, and is rejected like any element that is no alert.
type Doubts struct{ seen map[string]bool }

// Cut keeps of a page what comes before an element that is unreadable for the first
// time, and reports whether there is one.
func (d *Doubts) Cut(page dtm.Page) (dtm.Page, bool) {
	for i, a := range page.Alerts {
		if !a.Unreadable {
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
		page.Alerts = page.Alerts[:i]
		return page, true
	}
	return page, false
}
