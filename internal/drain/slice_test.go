package drain

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// at is so many seconds after a fixed moment.
func at(seconds int) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(seconds) * time.Second)
}

func span3(from, to, done int) state.Slice {
	return state.Slice{From: at(from), To: at(to), DoneUntil: at(done)}
}

func owed(since, until int) state.TimeRange {
	return state.TimeRange{Since: at(since), Until: at(until)}
}

func TestExtend(t *testing.T) {
	const overlap = 10 * time.Second
	for _, c := range []struct {
		name  string
		feed  state.Feed
		end   int
		want  state.Feed
		swept bool // sweeps look for changes
	}{
		{
			name: "a sweep has shown the overlap, and the next one owes it again", swept: true,
			feed: state.Feed{BeginsAt: at(0), End: at(100), SweptOverlap: at(103)}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), SweptOverlap: at(103), Owed: owed(93, 100), Slices: []state.Slice{span3(100, 130, 100)}},
		},
		{
			name: "the last sweep failed, which had much to read", swept: true,
			feed: state.Feed{BeginsAt: at(0), End: at(800), SweptOverlap: at(103), RereadFrom: at(792), Owed: owed(93, 100)}, end: 830,
			want: state.Feed{BeginsAt: at(0), End: at(830), SweptOverlap: at(830), Slices: []state.Slice{span3(93, 100, 93), span3(790, 830, 790)}},
		},
		{
			name: "the last sweep failed", swept: true,
			feed: state.Feed{BeginsAt: at(0), End: at(104), SweptOverlap: at(103), RereadFrom: at(96), Owed: owed(93, 100)}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), SweptOverlap: at(130), Slices: []state.Slice{span3(93, 130, 93)}},
		},
		{
			name: "a sweep has shown the overlap, and something is pending", swept: true,
			feed: state.Feed{BeginsAt: at(0), End: at(100), SweptOverlap: at(103), Slices: []state.Slice{span3(50, 70, 60)}}, end: 130,
			want: state.Feed{
				BeginsAt: at(0), End: at(130), SweptOverlap: at(103), Owed: owed(93, 100),
				Slices: []state.Slice{span3(50, 70, 60), span3(100, 130, 100)},
			},
		},
		{
			name: "no sweep was read to its end yet", swept: true,
			feed: state.Feed{BeginsAt: at(0), End: at(100)}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), Slices: []state.Slice{span3(90, 130, 90)}},
		},
		{
			name: "sweeps are turned off since, while one is owed",
			feed: state.Feed{BeginsAt: at(0), End: at(100), SweptOverlap: at(93), Owed: owed(83, 90)}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), SweptOverlap: at(130), Slices: []state.Slice{span3(83, 130, 83)}},
		},
		{
			name: "a sweep has shown the overlap, and the clock went back", swept: true,
			feed: state.Feed{BeginsAt: at(0), End: at(100), SweptOverlap: at(103)}, end: 95,
			want: state.Feed{BeginsAt: at(0), End: at(100), SweptOverlap: at(103), Owed: owed(93, 100)},
		},
		{
			name: "the first run begins where the feed begins",
			feed: state.Feed{BeginsAt: at(0), End: at(0)}, end: 100,
			want: state.Feed{BeginsAt: at(0), End: at(100), Slices: []state.Slice{span3(0, 100, 0)}},
		},
		{
			name: "nothing pending: the overlap is read again",
			feed: state.Feed{BeginsAt: at(0), End: at(100)}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), Slices: []state.Slice{span3(90, 130, 90)}},
		},
		{
			name: "nothing pending: what was listed young is read again",
			feed: state.Feed{BeginsAt: at(0), End: at(100), RereadFrom: at(40)}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), Slices: []state.Slice{span3(40, 130, 40)}},
		},
		{
			name: "what was listed young within the overlap changes nothing",
			feed: state.Feed{BeginsAt: at(0), End: at(100), RereadFrom: at(95)}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), Slices: []state.Slice{span3(90, 130, 90)}},
		},
		{
			name: "not before the feed begins",
			feed: state.Feed{BeginsAt: at(95), End: at(100), RereadFrom: at(40)}, end: 130,
			want: state.Feed{BeginsAt: at(95), End: at(130), Slices: []state.Slice{span3(95, 130, 95)}},
		},
		{
			name: "something pending: extended without overlap, and the young is kept in mind",
			feed: state.Feed{BeginsAt: at(0), End: at(100), RereadFrom: at(40), Slices: []state.Slice{span3(50, 70, 60)}}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), RereadFrom: at(40), Slices: []state.Slice{span3(50, 70, 60), span3(100, 130, 100)}},
		},
		{
			name: "the last pending slice grows",
			feed: state.Feed{BeginsAt: at(0), End: at(100), Slices: []state.Slice{span3(50, 100, 60)}}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), Slices: []state.Slice{span3(50, 130, 60)}},
		},
		{
			name: "slices that are done are not pending",
			feed: state.Feed{BeginsAt: at(0), End: at(100), Slices: []state.Slice{span3(50, 100, 100)}}, end: 130,
			want: state.Feed{BeginsAt: at(0), End: at(130), Slices: []state.Slice{span3(90, 130, 90)}},
		},
		{
			name: "a clock that went back",
			feed: state.Feed{BeginsAt: at(0), End: at(100)}, end: 95,
			want: state.Feed{BeginsAt: at(0), End: at(100), Slices: []state.Slice{span3(90, 95, 90)}},
		},
		{
			name: "a clock that went back far",
			feed: state.Feed{BeginsAt: at(0), End: at(100), RereadFrom: at(92)}, end: 50,
			want: state.Feed{BeginsAt: at(0), End: at(100), RereadFrom: at(92)},
		},
		{
			name: "a clock that went back while something is pending",
			feed: state.Feed{BeginsAt: at(0), End: at(100), Slices: []state.Slice{span3(50, 100, 60)}}, end: 90,
			want: state.Feed{BeginsAt: at(0), End: at(100), Slices: []state.Slice{span3(50, 100, 60)}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{Overlap: overlap, Settle: 2 * time.Second}
			if c.swept {
				o.UpdatesWindow = time.Hour
			}
			extend(&c.feed, at(c.end), o)
			if diff := cmp.Diff(c.want, c.feed); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTidy(t *testing.T) {
	var many, same []state.Slice
	for i := range 70 {
		many = append(many, span3(10*i, 10*i+10, 10*i+5))
		if i < maxSlices {
			same = append(same, many[i])
		}
	}
	same[maxSlices-1].To = at(700)
	for _, c := range []struct {
		name     string
		in, want []state.Slice
	}{
		{name: "nothing"},
		{"sorted", []state.Slice{span3(50, 60, 55), span3(10, 20, 15)}, []state.Slice{span3(10, 20, 15), span3(50, 60, 55)}},
		{"done ones go", []state.Slice{span3(10, 20, 20), span3(20, 30, 20)}, []state.Slice{span3(20, 30, 20)}},
		{"a neighbour that was not begun joins", []state.Slice{span3(10, 20, 15), span3(20, 30, 20), span3(30, 40, 30)}, []state.Slice{span3(10, 40, 15)}},
		{"one that was begun stays", []state.Slice{span3(10, 20, 15), span3(20, 30, 25)}, []state.Slice{span3(10, 20, 15), span3(20, 30, 25)}},
		{"one that is apart stays", []state.Slice{span3(10, 20, 15), span3(25, 30, 25)}, []state.Slice{span3(10, 20, 15), span3(25, 30, 25)}},
		{"too many: the newest are joined", many, same},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := slices.Clone(c.in)
			if diff := cmp.Diff(c.want, tidy(c.in)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, c.in); diff != "" {
				t.Errorf("what was given changed (-before +after):\n%s", diff)
			}
		})
	}
}

// TestTidyForgetsNoWork: what was pending is pending afterwards, in slices that
// are disjoint and sorted.
func TestTidyForgetsNoWork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in []state.Slice
		next := 0
		for range rapid.IntRange(0, 100).Draw(t, "slices") {
			from := next + rapid.IntRange(0, 1).Draw(t, "apart")
			next = from + rapid.IntRange(1, 3).Draw(t, "length")
			in = append(in, span3(from, next, rapid.IntRange(from, next).Draw(t, "done")))
		}
		out := tidy(in)
		for i, s := range out {
			if !s.DoneUntil.Before(s.To) || s.DoneUntil.Before(s.From) || i > 0 && s.From.Before(out[i-1].To) {
				t.Fatalf("slice %d of %v", i, out)
			}
		}
		for second := range next {
			pending := func(all []state.Slice) bool {
				return slices.ContainsFunc(all, func(s state.Slice) bool { return !at(second).Before(s.DoneUntil) && at(second).Before(s.To) })
			}
			if pending(in) && !pending(out) {
				t.Fatalf("second %d was pending in %v and is not in %v", second, in, out)
			}
		}
	})
}

func TestCutBehind(t *testing.T) {
	for _, c := range []struct {
		name  string
		slice state.Slice
		bound int
		want  state.Slice
		gap   *state.Gap
	}{
		{name: "all of it is younger", slice: span3(10, 30, 20), bound: 20, want: span3(10, 30, 20)},
		{name: "a part", slice: span3(10, 30, 20), bound: 25, want: span3(10, 30, 25), gap: &state.Gap{TimeRange: state.TimeRange{Since: at(20), Until: at(25)}}},
		{name: "all that is left", slice: span3(10, 30, 20), bound: 99, want: span3(10, 30, 30), gap: &state.Gap{TimeRange: state.TimeRange{Since: at(20), Until: at(30)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			gap, ok := cutBefore(&c.slice, at(c.bound))
			if ok != (c.gap != nil) || ok && gap != *c.gap {
				t.Errorf("gap %v %t, want %v", gap, ok, c.gap)
			}
			if diff := cmp.Diff(c.want, c.slice); diff != "" {
				t.Errorf("slice (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddGap(t *testing.T) {
	gap := func(since, until int) state.Gap {
		return state.Gap{TimeRange: state.TimeRange{Since: at(since), Until: at(until)}}
	}
	suspected := func(since, until int) state.Gap {
		return state.Gap{TimeRange: state.TimeRange{Since: at(since), Until: at(until)}, Suspected: true}
	}
	for _, c := range []struct {
		name  string
		gaps  []state.Gap
		added state.Gap
		want  []state.Gap
	}{
		{"the first", nil, gap(1, 2), []state.Gap{gap(1, 2)}},
		{"apart, sorted", []state.Gap{gap(5, 6)}, gap(1, 2), []state.Gap{gap(1, 2), gap(5, 6)}},
		{"touching", []state.Gap{gap(1, 2)}, gap(2, 3), []state.Gap{gap(1, 3)}},
		{"between two", []state.Gap{gap(1, 2), gap(4, 6)}, gap(2, 5), []state.Gap{gap(1, 6)}},
		{"within another", []state.Gap{gap(1, 9)}, gap(2, 5), []state.Gap{gap(1, 9)}},
		{"of another kind", []state.Gap{suspected(1, 3)}, gap(2, 5), []state.Gap{suspected(1, 3), gap(2, 5)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, addGap(c.gaps, c.added)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
