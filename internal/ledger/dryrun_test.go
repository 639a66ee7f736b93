package ledger_test

import (
	"fmt"
	"maps"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
)

// TestADryRunCountsAsARun, whatever the ledger holds, and whatever is listed again.
func TestADryRunCountsAsARun(t *testing.T) {
	const rules = `[{"name":"noise","when":"alert.severity == 'low'","then":{"drop":true}},{"name":"closed","when":"previous_status == 'closed'","then":{"drop":true}}]`
	rapid.Check(t, func(rt *rapid.T) {
		page := func() (alerts []dtm.Alert) {
			for range rapid.IntRange(1, 5).Draw(rt, "alerts") {
				id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "id")
				if rapid.IntRange(0, 9).Draw(rt, "invalid") == 0 {
					alerts = append(alerts, element(id))
					continue
				}
				a := alertOf(id, rapid.SampledFrom([]string{"new", "read", "closed"}).Draw(rt, "status"),
					rapid.SampledFrom([]string{"low", "high"}).Draw(rt, "severity"), rapid.IntRange(0, 3).Draw(rt, "version")*dayLong)
				a.Ahead = a.UpdatedAt.After(day.Add(dayLong*time.Second)) && rapid.Bool().Draw(rt, "ahead")
				alerts = append(alerts, a)
			}
			return alerts
		}
		p, book, topic := newRuleProcessor(t, rules)
		modes := []ledger.Mode{ledger.Live, ledger.Backfill, ledger.Republish}
		for range rapid.IntRange(0, 3).Draw(rt, "pages before") {
			p.Mode, p.BackfillID = rapid.SampledFrom(modes).Draw(rt, "mode before"), "b0"
			process(t, p, page()...)
		}
		dry, copied, _ := newRuleProcessor(t, rules)
		copied.records = maps.Clone(book.records)
		dry.DryRun = &ledger.DryRun{}
		// A run may sweep after it has listed. A backfill has one mode.
		modes = [][]ledger.Mode{{ledger.Live, ledger.Changes, ledger.Matches}, {ledger.Backfill}, {ledger.Republish}}[rapid.IntRange(0, 2).Draw(rt, "kind")]
		id := rapid.SampledFrom([]string{"b0", "b1"}).Draw(rt, "backfill")
		isFeeds := rapid.Bool().Draw(rt, "is the feed's")
		for i := range rapid.IntRange(1, 6).Draw(rt, "pages") {
			mode := rapid.SampledFrom(modes).Draw(rt, "mode")
			for _, p := range []*ledger.Processor{p, dry} {
				p.Mode, p.BackfillID, p.IsFeeds = mode, id, func(dtm.Alert) bool { return isFeeds }
			}
			alerts, sent := page(), len(topic.messages)
			counts, would := process(t, p, alerts...), process(t, dry, alerts...)
			types := 0
			for _, n := range would.ByType {
				types += n
			}
			if published := len(topic.messages) - sent - counts.Rejected; types != published {
				rt.Fatalf("page %d: a dry run counts %d by their type, a run publishes %d", i, types, published)
			}
			would.ByType, would.BySeverity, would.ByRule = nil, nil, nil
			if diff := cmp.Diff(counts, would); diff != "" {
				rt.Fatalf("page %d, mode %d, %+v (-run +dry run):\n%s", i, mode, alerts, diff)
			}
		}
	})
}

// TestADryRunTakesLittleMemory: it may count a million alerts, in a function's memory.
func TestADryRunTakesLittleMemory(t *testing.T) {
	const n, perAlert = 100_000, 120
	p, _, _ := newProcessor()
	p.DryRun = &ledger.DryRun{}
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := held()
	for i := 0; i < n; i += 100 {
		alerts := make([]dtm.Alert, 100)
		for j := range alerts {
			alerts[j] = version(fmt.Sprintf("alert-%014d", i+j), string([]byte("new")), 0)
		}
		process(t, p, alerts...)
	}
	got := (held() - before) / n
	t.Logf("%d bytes an alert", got)
	if got > perAlert {
		t.Errorf("%d bytes an alert, want %d at most", got, perAlert)
	}
	runtime.KeepAlive(p)
}
