package drain

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/secret"
)

// TestListNewest: each alert of the range comes once, whatever goes wrong.
func TestListNewest(t *testing.T) {
	for _, c := range []struct {
		name    string
		options dtmsim.Options
		faults  []dtmsim.Fault
		loose   bool // not in the exact order
	}{
		{name: "nothing goes wrong"},
		{name: "429 and 503", faults: []dtmsim.Fault{{Nth: 2, Status: 429, RetryAfter: "3"}, {Kind: dtmsim.List, Nth: 1, Status: 503}}},
		{name: "tokens break", faults: []dtmsim.Fault{{Kind: dtmsim.Page, Every: 2, ResetAfter: true, Times: 5}}},
		{name: "tokens are all broken", faults: []dtmsim.Fault{{Kind: dtmsim.Page, Status: 404, Times: 40}}},
		{name: "many alerts of one time", options: dtmsim.Options{Ties: dtmsim.TiesShuffled, Coarse: time.Minute}, faults: []dtmsim.Fault{{Kind: dtmsim.Page, Every: 3, ResetAfter: true, Times: 4}}, loose: true},
		{name: "links on last pages", options: dtmsim.Options{LinkOnLastPage: true, LinkOnFullLast: true}},
		{name: "two empty pages", faults: []dtmsim.Fault{{Kind: dtmsim.Page, EmptyPage: dtmsim.EmptyWithheld, Times: 2}}},
		{name: "every other page is empty", faults: []dtmsim.Fault{{Kind: dtmsim.Page, Every: 2, EmptyPage: dtmsim.EmptyWithheld}}},
		{name: "every later page is empty", faults: []dtmsim.Fault{{Kind: dtmsim.Page, EmptyPage: dtmsim.EmptyWithheld}}},
		{name: "an empty page before each", faults: []dtmsim.Fault{{Kind: dtmsim.Page, EmptyPage: dtmsim.EmptyExtra}}},
		{name: "empty pages", faults: []dtmsim.Fault{{Kind: dtmsim.Page, Nth: 3, EmptyPage: dtmsim.EmptyWithheld}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now().UTC()
				since, until := now.Add(-20*time.Hour), now.Add(-2*time.Hour)
				c.options.Key = "key"
				all := dtmsim.Generate(1, 900, now.Add(-24*time.Hour), now, dtmsim.Shape{NoDoc: true})
				server := dtmsim.New(c.options, all)
				for _, f := range c.faults {
					server.AddFault(f)
				}
				var want []string
				for _, a := range slices.SortedFunc(slices.Values(all), func(a, b dtmsim.Alert) int { return b.CreatedAt.Compare(a.CreatedAt) }) {
					if !a.CreatedAt.Before(since) && a.CreatedAt.Before(until) {
						want = append(want, a.ID)
					}
				}
				client, err := dtm.New(dtm.Options{
					BaseURL: "https://dtm.example/api/v3", ToolName: "t", Keys: secret.Static("key"), Meter: dtm.NewMeter(1000),
					Concurrency: 1, QPS: 1000, Transport: server.RoundTripper(),
				})
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				err = ListNewest(t.Context(), client.Session(dtm.Share{Errors: 100, Requests: 1}), dtm.Query{Since: since, Until: until, Size: 100},
					func(alerts []dtm.Alert, _ bool) (bool, error) {
						for _, a := range alerts {
							got = append(got, a.ID)
						}
						return true, nil
					})
				if err != nil {
					t.Fatal(err)
				}
				if c.loose {
					slices.Sort(want)
					slices.Sort(got)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}
