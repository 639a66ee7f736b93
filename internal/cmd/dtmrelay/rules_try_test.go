package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/rules"
)

// TestVersionsOfATrial: what an alert becomes goes by its versions that were published,
// and each rule has something written back once, as in the function.
func TestVersionsOfATrial(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		versions    [][2]string // severity and status
		want        []string    // event, outcome and rules that write back
	}{
		{
			name: "the first one is dropped",
			rules: `[
				{"name":"d","when":"alert.severity=='low'","then":{"drop":true}},
				{"name":"w","when":"alert.severity=='high'","then":{"set_status":"escalated","tags":["z"]}}]`,
			versions: [][2]string{{"low", "new"}, {"high", "read"}, {"high", "closed"}},
			want:     []string{"created dropped []", "created published [w]", "status_changed published []"},
		},
		{
			name:     "one between is dropped",
			rules:    `[{"name":"d","when":"alert.status=='read'","then":{"drop":true}}]`,
			versions: [][2]string{{"high", "new"}, {"high", "read"}, {"high", "new"}, {"low", "closed"}},
			want:     []string{"created published []", "status_changed dropped []", "updated published []", "status_changed published []"},
		},
		{
			name:     "each is dropped",
			rules:    `[{"name":"d","when":"true","then":{"drop":true,"tags":["z"]}}]`,
			versions: [][2]string{{"low", "new"}, {"high", "read"}},
			want:     []string{"created dropped [d]", "created dropped []"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, compiled, err := rules.Compile(c.rules, "default")
			if err != nil {
				t.Fatal(err)
			}
			trial := newTrial(list, compiled, time.Now())
			for i, v := range c.versions {
				a := dtm.ParseAlert(fmt.Appendf(nil, `{"id":"a","created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:0%d:05Z","severity":%q,"status":%q}`, 4+i, v[0], v[1]))
				trial.add(fileAlert{Alert: a}, a)
			}
			var got []string
			for _, a := range trial.tried {
				names := []string{}
				for _, w := range a.WriteBacks {
					names = append(names, w.Rule)
				}
				got = append(got, fmt.Sprint(a.Event, " ", a.Outcome, " ", names))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
