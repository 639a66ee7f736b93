package app

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/secret"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// unwell is an API that answers everything with 500.
type unwell struct{}

func (unwell) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusInternalServerError, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// TestMeterCountsAsItIsStored: dtm and state know nothing of each other, and the meter that
// the one has counts in the buckets that the other keeps. Else requests would be missing
// from the budgets, or stay in them.
func TestMeterCountsAsItIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(7*time.Hour + 38*time.Minute) // to where buckets of other lengths begin at other times
		now := time.Now()
		hour, fiveMinutes := now.Truncate(state.RequestBucket), now.Truncate(state.ErrorBucket)
		meter := dtm.NewMeter(1000)
		client, err := dtm.New(dtm.Options{
			BaseURL: "https://gti.example/api/v3", ToolName: "t", UserAgent: "t", Keys: secret.Static("key"), Meter: meter,
			Concurrency: 1, QPS: 100, Transport: unwell{},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Session(sharesOf(250).live).Once().Get(t.Context(), "a", false); err == nil {
			t.Fatal("a 500 is no error")
		}
		var counted state.Usage
		counted.Requests, counted.Errors = meter.Take()
		want := state.Usage{Requests: map[int64]int64{hour.Unix(): 1}, Errors: map[int64]int64{fiveMinutes.Unix(): 1}}
		if diff := cmp.Diff(want, counted); diff != "" {
			t.Errorf("a request is counted in another bucket than it is stored in (-want +got)\n%s", diff)
		}

		stored := state.Usage{Requests: map[int64]int64{}, Errors: map[int64]int64{}}
		for i := range 100 {
			stored.Requests[hour.Add(-time.Duration(i)*state.RequestBucket).Unix()] = 1
			stored.Errors[fiveMinutes.Add(-time.Duration(i)*state.ErrorBucket).Unix()] = 1
		}
		meter.Load(stored.Requests, stored.Errors)
		requests, failures := meter.Used()
		outdated := stored.Outdated(now)
		if left := len(stored.Requests) - len(outdated.Requests); int(requests) != left || left != state.RequestBuckets {
			t.Errorf("the meter counts %d hours, %d are kept", requests, left)
		}
		if left := len(stored.Errors) - len(outdated.Errors); int(failures) != left || left != state.ErrorBuckets {
			t.Errorf("the meter counts %d times five minutes, %d are kept", failures, left)
		}
	})
}
