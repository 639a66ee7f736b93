package drain

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestOrder: the position follows what is in order, and passes nothing that is
// still to come.
func TestOrder(t *testing.T) {
	type pages [][]float64 // created_at in seconds
	for _, c := range []struct {
		name  string
		pages pages
		at    []float64 // the position after each page
		out   int       // alerts out of place
	}{
		{"in order: all but the last alert", pages{{1, 2, 3}, {4, 5}}, []float64{2, 4}, 0},
		{"many of one moment", pages{{1, 1, 1}, {1, 1, 2}}, []float64{1, 1}, 0},
		{"one alert a page", pages{{1}, {2}, {3}}, []float64{0, 1, 2}, 0},
		{"one far ahead", pages{{1, 2, 3600, 3, 4}, {5, 6}}, []float64{3, 5}, 1},
		{"one far ahead, at the end of its page", pages{{1, 2, 3600}, {3, 4}, {5}}, []float64{2, 3, 4}, 0},
		{"one far ahead, alone on its page", pages{{1}, {2}, {3600}, {3}, {4}, {5}}, []float64{0, 1, 2, 2, 3, 4}, 0},
		{"one from before the listing", pages{{100, -3600, 101, 102}, {103, 104}}, []float64{101, 103}, 1},
		{"one from far before its place", pages{{100, 200, 300}, {400, 110, 500, 600}}, []float64{100, 400}, 1},
		{"two far ahead", pages{{1, 2}, {3600, 3700}, {3, 4}, {5, 6}}, []float64{1, 2, 3, 5}, 0},
		{"sorted to the second", pages{{1.9, 1.1, 2.5}, {3.2, 3.1, 4}}, []float64{0.1, 2.1}, 2},
		{"two alerts 5 ms the wrong way round", pages{{1, 2.005, 2}}, []float64{0}, 1},
		{"turned around", pages{{400, 300, 200, 100}, {500, 600, 700}}, []float64{0, 0}, 3},
		{"in no order, for long", pages{{900, 100, 800, 200}, {700, 300, 600, 400}}, []float64{0, 0}, 4},
		{"nothing at all", pages{{}, {1, 2}}, []float64{0, 1}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			moment := func(s float64) time.Time { return sec(0).Add(time.Duration(s*1000) * time.Millisecond) }
			o := orderFrom(sec(0))
			out := 0
			for i, p := range c.pages {
				times := make([]time.Time, len(p))
				for j, s := range p {
					times[j] = moment(s)
				}
				for _, off := range o.add(times) {
					if off > 0 {
						out++
					}
				}
				if got := o.position(); !got.Equal(moment(c.at[i])) && c.at[i] > 0 || got.After(moment(c.at[i])) {
					t.Errorf("after page %d the position is %v, want %v s", i+1, got.Sub(sec(0)), c.at[i])
				}
			}
			if out != c.out {
				t.Errorf("%d alerts are out of place, want %d", out, c.out)
			}
		})
	}
}

// TestOrderPassesNothing: whatever one or two alerts of a listing in order are moved
// elsewhere, after no page does the position pass an alert of a later page, but these.
func TestOrderPassesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 25).Draw(t, "page size")
		gap := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour}).Draw(t, "gap")
		var list []time.Time
		at := sec(0)
		for range rapid.IntRange(0, 80).Draw(t, "alerts") {
			at = at.Add(time.Duration(rapid.Int64Range(0, int64(gap)).Draw(t, "apart")).Truncate(ms))
			list = append(list, at)
		}
		// One alert stands anywhere else, or two neighbours later than their place.
		moved, n := -1, rapid.IntRange(0, 2).Draw(t, "out of place")
		switch {
		case n == 1 && len(list) > 1:
			from, to := rapid.IntRange(0, len(list)-1).Draw(t, "from"), rapid.IntRange(0, len(list)-2).Draw(t, "to")
			one := list[from]
			list = slices.Insert(slices.Delete(list, from, from+1), to, one)
			moved = to
		case n == 2 && len(list) > 3:
			from := rapid.IntRange(2, len(list)-2).Draw(t, "from")
			to := rapid.IntRange(0, from-1).Draw(t, "to")
			if list[from].Sub(list[to]) <= time.Minute {
				return // so close, they may be in order
			}
			two := slices.Clone(list[from : from+2])
			list = slices.Insert(slices.Delete(list, from, from+2), to, two...)
			moved = to
		}
		o := orderFrom(sec(0))
		for from := 0; from < len(list); from += size {
			to := min(from+size, len(list))
			o.add(list[from:to])
			for i := to; i < len(list); i++ {
				if o.position().After(list[i]) && (moved < 0 || i < moved || i >= moved+n) {
					t.Fatalf("after %v the position is %v, and %v comes later", list[from:to], o.position(), list[i])
				}
			}
		}
		// Law: what is in order moves it.
		if last := len(list) - 2 - o.few(); moved < 0 && last > 0 && o.position().Before(list[last-1]) {
			t.Fatalf("after %v the position is %v", list, o.position())
		}
	})
}
