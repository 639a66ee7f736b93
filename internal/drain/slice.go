package drain

import (
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// maxSlices bounds what is pending in a feed's document.
const maxSlices = 64

// ms is the API's precision of created_at (DTM API: milliseconds).
const ms = time.Millisecond

// extend adds to the feed's pending slices what has come since the last run, up
// to end. After what is pending there is no overlap. Else the overlap comes first, unless
// sweeps show it: from overlap before the last end, or from where alerts were last
// listed so young that others with an earlier created_at may have come into the index
// since. listed is the created_at before which all that is pending was listed before; zero
// where nothing is known of that.
func extend(f *state.Feed, end time.Time, o Options) (listed time.Time) {
	f.Slices = tidy(f.Slices)
	sweepCovers := o.UpdatesWindow > 0 && f.RereadFrom.IsZero() && f.Owed.Since.IsZero() && !f.SweptOverlap.IsZero()
	if owed := (state.TimeRange{Since: later(f.BeginsAt, f.SweptOverlap.Add(-o.Overlap)), Until: f.End}); sweepCovers && owed.Since.Before(owed.Until) {
		f.Owed = owed // until this run's sweep has shown it
	}
	switch {
	case len(f.Slices) == 0 && sweepCovers:
		if f.End.Before(end) {
			f.Slices = []state.Slice{{From: f.End, To: end, DoneUntil: f.End}}
		}
	case len(f.Slices) == 0:
		listed = f.End
		from := f.End.Add(-o.Overlap)
		if !f.RereadFrom.IsZero() {
			from = earlier(from, f.RereadFrom)
		}
		from = later(f.BeginsAt, from)
		if from.Before(end) {
			f.Slices = []state.Slice{{From: from, To: end, DoneUntil: from}}
			f.RereadFrom = time.Time{}
		}
		if since, until := f.Owed.Since, earlier(f.Owed.Until, from); since.Before(until) {
			f.Slices = tidy(append(f.Slices, state.Slice{From: since, To: until, DoneUntil: since}))
		}
		if !f.Owed.Since.IsZero() {
			// It is pending now, and listed later than this. Owed once more by the next run, a
			// listing that takes more than one would never be over.
			f.Owed, f.SweptOverlap = state.TimeRange{}, later(f.SweptOverlap, end)
		}
	case end.After(f.End):
		f.Slices = tidy(append(f.Slices, state.Slice{From: f.End, To: end, DoneUntil: f.End}))
	}
	if end.After(f.End) {
		f.End = end
	}
	return listed
}

// tidy sorts slices, drops those that are done, and joins neighbours of which
// the later one was not begun. There are at most maxSlices afterwards: beyond
// that, the work of the newest, and what was read between them, is forgotten and
// done again.
func tidy(in []state.Slice) []state.Slice {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b state.Slice) int { return a.From.Compare(b.From) })
	var out []state.Slice
	for _, s := range in {
		if !s.DoneUntil.Before(s.To) {
			continue
		}
		if n := len(out); n > 0 && (n == maxSlices || out[n-1].To.Equal(s.From) && s.DoneUntil.Equal(s.From)) {
			out[n-1].To = s.To
			continue
		}
		out = append(out, s)
	}
	return out
}

// cutBefore takes what lies before bound out of a slice and returns it as a gap;
// ok is false when nothing does.
func cutBefore(s *state.Slice, bound time.Time) (gap state.Gap, ok bool) {
	if !s.DoneUntil.Before(bound) {
		return state.Gap{}, false
	}
	gap = state.Gap{TimeRange: state.TimeRange{Since: s.DoneUntil, Until: earlier(bound, s.To)}}
	s.DoneUntil = gap.Until
	return gap, true
}

// addGap joins a gap to those that it touches and are of its kind.
func addGap(gaps []state.Gap, g state.Gap) []state.Gap {
	var out []state.Gap
	for _, o := range gaps {
		if o.Suspected != g.Suspected || o.Until.Before(g.Since) || o.Since.After(g.Until) {
			out = append(out, o)
			continue
		}
		g.Since, g.Until = earlier(g.Since, o.Since), later(o.Until, g.Until)
	}
	out = append(out, g)
	slices.SortFunc(out, func(a, b state.Gap) int { return a.Since.Compare(b.Since) })
	return out
}
