package drain

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestAuditRanges lets audits be asked for and finish day after day. Every hour is read at
// an age of about a day, and once more at the end of the window.
func TestAuditRanges(t *testing.T) {
	for _, c := range []struct {
		name   string
		window time.Duration
		days   []int // from one audit to the next
		// ages are how old an hour of the past is when it is read, in whole days, rounded up.
		ages []int
	}{
		{"the default", 72 * time.Hour, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{2, 3}},
		{"a longer one", 110 * time.Hour, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{2, 5}},
		{"two days", 48 * time.Hour, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{2}},
		{"a day", 24 * time.Hour, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{1}},
		{"a day without an audit: the end of the window is read all the same", 72 * time.Hour, []int{1, 1, 1, 1, 1, 2, 1, 1}, []int{3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{AuditWindow: c.window, Overlap: 10 * time.Minute}
			f := state.Feed{BeginsAt: at(0), End: at(0)}
			hour := at(0).Add(5*day - time.Hour)
			var ages []int
			for _, days := range c.days {
				f.End = f.End.Add(time.Duration(days) * day)
				first, again := auditRanges(&f, o)
				for i, r := range []state.TimeRange{first, again} {
					if !r.Since.Before(r.Until) {
						continue
					}
					if r.Since.Before(f.BeginsAt) || f.End.Sub(r.Since) > c.window {
						t.Errorf("at %s an audit reads from %s", f.End, r.Since)
					}
					if !hour.Before(r.Since) && hour.Before(r.Until) {
						ages = append(ages, int((f.End.Sub(hour)+day-1)/day))
					}
					audited(&f, state.Backfill{ID: "audit" + []string{"", againSuffix}[i], Since: r.Since, Until: r.Until}, o)
				}
			}
			if diff := cmp.Diff(c.ages, ages); diff != "" {
				t.Errorf("read at the age of days (-want +got):\n%s", diff)
			}
		})
	}
}
