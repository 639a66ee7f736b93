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
		days   []float64 // from one audit to the next
		// ages are how old an hour of the past is when it is read, in whole days, rounded up.
		ages []int
	}{
		{"the default", 72 * time.Hour, []float64{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{2, 3}},
		{"a longer one", 110 * time.Hour, []float64{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{2, 5}},
		{"two days", 48 * time.Hour, []float64{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{2}},
		{"a day", 24 * time.Hour, []float64{1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{1}},
		{"a day without an audit: the end of the window is read all the same", 72 * time.Hour, []float64{1, 1, 1, 1, 1, 2, 1, 1}, []int{3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{AuditWindow: c.window, Overlap: 10 * time.Minute}
			f := state.Feed{BeginsAt: at(0), End: at(0)}
			hour := at(0).Add(5*day - time.Hour)
			var ages []int
			for _, days := range c.days {
				f.End = f.End.Add(time.Duration(days * float64(day)))
				first, again := auditRanges(&f, o, f.End.Add(-119*time.Hour))
				for i, r := range []state.TimeRange{first, again} {
					if !r.Since.Before(r.Until) {
						continue
					}
					if r.Since.Before(f.BeginsAt) || f.End.Sub(r.Since) > 119*time.Hour {
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

// TestAuditHoles: however irregular the audits are, and if some fail, each goes on where
// the last finished one has ended.
func TestAuditHoles(t *testing.T) {
	o := Options{AuditWindow: 72 * time.Hour, Overlap: 10 * time.Minute}
	f := state.Feed{BeginsAt: at(0), End: at(0)}
	for i, hours := range []float64{24, 26, 22, 24, 24.1, 47, 24, 23, 25, 24, 24} {
		f.End = f.End.Add(time.Duration(hours * float64(time.Hour)))
		first, again := auditRanges(&f, o, f.End.Add(-500*time.Hour))
		if at := f.AuditedAgainUntil; !at.IsZero() && again.Since.After(at) {
			t.Errorf("audit %d reads the end of the window from %s, and the last one has read up to %s", i, again.Since, at)
		}
		if from := later(again.Until, f.AuditedUntil); first.Since.After(later(from, f.BeginsAt)) {
			t.Errorf("audit %d reads from %s for the first time, and what came before is read up to %s", i, first.Since, from)
		}
		for suffix, r := range map[string]state.TimeRange{"": first, againSuffix: again} {
			if i != 4 && i != 7 && r.Since.Before(r.Until) { // those fail
				audited(&f, state.Backfill{ID: "audit" + suffix, Since: r.Since, Until: r.Until}, o)
			}
		}
	}
}

// TestAuditAfterAPause: what the feed's first runs have read is read again at the end of
// the window, also when no run was made for two days before the first audit of that end.
func TestAuditAfterAPause(t *testing.T) {
	o := Options{AuditWindow: 72 * time.Hour, Overlap: 10 * time.Minute}
	f := state.Feed{BeginsAt: at(0), FirstRun: at(0).Add(5 * time.Hour), End: at(0).Add(29 * time.Hour)}
	first, again := auditRanges(&f, o, f.End.Add(-119*time.Hour))
	if again.Since.Before(again.Until) {
		t.Fatalf("the first audit reads again from %s to %s", again.Since, again.Until)
	}
	audited(&f, state.Backfill{ID: "audit", Since: first.Since, Until: first.Until}, o)
	f.End = f.End.Add(45 * time.Hour) // 74 hours after the feed's beginning
	if _, again = auditRanges(&f, o, f.End.Add(-119*time.Hour)); !again.Since.Equal(f.BeginsAt) {
		t.Errorf("it reads again from %s, and the feed begins at %s", again.Since, f.BeginsAt)
	}
}
