package drain

import (
	"hash/maphash"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
)

// shown tells pages of a listing that come again, under whatever token, from new
// ones. A listing is bounded by what it brings: a server that serves its last page
// for ever would otherwise cost a day's requests.
type shown struct {
	seed maphash.Seed
	// Only the latest alerts are remembered, or a listing of a million alerts would
	// take more memory than all its pages: those of now, and as many before them.
	now, before map[uint64]struct{}
	// repeats is how many pages in a row hold alerts and bring none. unusableRepeats is
	// how many in a row hold only elements that are no alerts and bring none: such
	// elements may well be alike.
	repeats, unusableRepeats int
}

// maxUnusableRepeats is how many pages in a row may bring nothing and hold only
// elements that are no alerts.
const maxUnusableRepeats = 10

// remembered is how many alerts are in one of a shown's two sets, of about 20
// bytes each.
const remembered = 4 << 10

// add takes the next page, and returns how many alerts it brings that the listing
// has not shown.
func (s *shown) add(page dtm.Page) (brought int) {
	if s.now == nil {
		s.seed, s.now = maphash.MakeSeed(), map[uint64]struct{}{}
	}
	usable := false
	for _, a := range page.Alerts {
		usable = usable || a.Invalid == ""
		name := maphash.String(s.seed, ledger.ID(a))
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
		s.repeats, s.unusableRepeats = 0, 0
	case usable:
		s.repeats++
	default:
		s.unusableRepeats++
	}
	return brought
}

// isEndless reports whether the last pages brought nothing: two that hold alerts, or
// more that hold none.
func (s *shown) isEndless() bool { return s.repeats >= 2 || s.unusableRepeats >= maxUnusableRepeats }

// doubts are the unreadable elements that pages held. The API is asked again for a
// page with new ones: those that come a second time, byte for byte, were not spoilt
// on their way, and are rejected like any element that is no alert.
type doubts struct {
	seen  map[string]bool
	times int
}

// maxDoubts bounds the requests for them.
const maxDoubts = 6

// cut keeps of a page what comes before the first element that is unreadable for the
// first time, and reports whether there is one that is worth another request.
func (d *doubts) cut(page dtm.Page) (dtm.Page, bool) {
	first := -1
	for i, a := range page.Alerts {
		if !a.Unreadable || d.times == maxDoubts {
			continue
		}
		name := ledger.ID(a)
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
