package drain

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestTheReportCounts: every error answer of the run, and what the key has used, by
// whomever.
func TestTheReportCounts(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		feedWith(t, s)
		others := state.Usage{
			Requests: map[int64]int64{time.Now().Truncate(state.RequestBucket).Unix(): 70},
			Errors:   map[int64]int64{time.Now().Truncate(state.ErrorBucket).Unix(): 3},
		}
		if err := s.AddUsage(t.Context(), "k", others, state.Usage{}); err != nil {
			t.Fatal(err)
		}
		answers := []int{http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusServiceUnavailable}
		r := newRun(t, s, wire(func(*http.Request) reply {
			if len(answers) == 0 {
				return alertsOf()
			}
			status := answers[0]
			answers = answers[1:]
			return reply{status: status}
		}), &topic{})
		r.Version = "1.2.3"
		report, err := r.Live(t.Context(), "schedule", false)
		if err != nil || report.Version != "1.2.3" || report.Requests < 4 || report.Retries != 3 || report.ErrorAnswers != 3 ||
			report.Requests24h != 70+report.Requests || report.Errors1h != 6 {
			t.Errorf("%v: %+v", err, report)
		}
		found, err := s.Open(t.Context(), "f", "k")
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(found.Feed.LastRun)); diff != "" {
			t.Errorf("the stored report (-answered +stored):\n%s", diff)
		}
	})
}

// TestTheReportsOrder: who reads the line finds its fields in the order in which they
// are documented.
func TestTheReportsOrder(t *testing.T) {
	documented, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?m)^\{"version":.*"run_id":.*\}$`).Find(documented)
	text, err := json.Marshal(Report{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names(t, example), names(t, text)); diff != "" {
		t.Errorf("(-docs/http.md +report):\n%s", diff)
	}
}

// names are the names of a flat JSON object, in their order.
func names(t *testing.T, object []byte) (list []string) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(object))
	for i := 0; ; i++ { // "{", then names and values in turn
		token, err := dec.Token()
		switch {
		case err != nil:
			t.Fatalf("%v in %s", err, object)
		case token == json.Delim('}'):
			return list
		case i%2 == 1:
			list = append(list, token.(string))
		}
	}
}
