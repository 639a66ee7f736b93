package drain

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// subscriber keeps what the messages say.
type subscriber struct {
	mu   sync.Mutex // workers publish side by side
	took []string
	fail string // the id of an alert whose message fails
}

func (p *subscriber) Publish(_ context.Context, m []message.Message) []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	results := make([]error, len(m))
	for i, m := range m {
		if id := m.Attributes["alert_id"]; id == p.fail && id != "" {
			results[i] = errDown
			continue
		}
		text := m.Attributes["alert_id"] + " " + m.Attributes["event"] + " " + m.Attributes["status"]
		if m.Attributes["refs"] == "false" {
			text += " bare"
		}
		p.took = append(p.took, text)
	}
	return results
}

func (p *subscriber) Reject(_ context.Context, m []message.Message) []error {
	return make([]error, len(m))
}

// TestChangeOfARejectedAlert: of an alert whose first version was rejected the
// live feed sees nothing more. Its change is published by what looks for changes.
func TestChangeOfARejectedAlert(t *testing.T) {
	for _, c := range []struct {
		name      string
		window    time.Duration
		backfills []state.Backfill
		want      []string
	}{
		{
			name: "by the sweep", window: 24 * time.Hour, // and what came late into the overlap
			want: []string{"published status_changed read bare", "unknown created read", "rejected created read"},
		},
		{name: "by the backfill that goes on with it", want: []string{"published status_changed read bare", "rejected created read"}, backfills: []state.Backfill{{ID: "sweep-1", Kind: state.Changes}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				feedWith(t, s, c.backfills...)
				created := time.Now().UTC().Truncate(time.Second).Add(-210 * time.Minute)
				var served []dtmsim.Alert
				for _, id := range []string{"published", "rejected", "unknown"} {
					served = append(served, dtmsim.Alert{
						ID: id, CreatedAt: created,
						Body:    fmt.Appendf(nil, `{"id":%q,"created_at":%q,"status":"new","doc":{}}`, id, created.Format(time.RFC3339)),
						Changes: []dtmsim.Change{{At: time.Now().Add(-time.Minute), Apply: func(a *dtmsim.Alert) { a.Status = "read" }}},
					})
				}
				api := dtmsim.New(dtmsim.Options{}, served)
				results, err := s.WriteRecords(t.Context(), "f", []state.Entry{
					{Record: state.Record{ID: "rejected", CreatedAt: created, FirstSeen: created, HandledVersion: created}},
					{Record: state.Record{
						ID: "published", CreatedAt: created, FirstSeen: created, HandledVersion: created, PublishedVersion: created, Status: "new",
					}},
				})
				if err != nil || results[0] != nil || results[1] != nil {
					t.Fatal(results, err)
				}
				to := &subscriber{}
				r := newRun(t, s, api.RoundTripper(), nil)
				r.Options.UpdatesWindow = c.window
				r.NewProcessor = func(o ledger.Options) Processor {
					return &ledger.Processor{
						Store: s, Publisher: to, Feed: "f", RunID: "r", TTL: 1000 * time.Hour, Options: o,
					}
				}
				report, err := r.Live(t.Context(), "schedule", false)
				if err != nil || report.Outcome != OK {
					t.Errorf("the run ends as %s: %v", report.Outcome, err)
				}
				slices.Sort(to.took)
				slices.Sort(c.want)
				if diff := cmp.Diff(c.want, to.took); diff != "" {
					t.Errorf("published (-want +got):\n%s", diff)
				}
			})
		})
	}
}
