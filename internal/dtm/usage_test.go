package dtm

import (
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

func TestMeterErrorsLeaveTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at a full hour
		m := NewMeter(1000)
		time.Sleep(2 * time.Minute)
		for range 3 {
			m.failed()
		}
		time.Sleep(10 * time.Minute)
		for range 2 {
			m.failed()
		}
		share := Share{Errors: 4, Requests: 1}
		var budget *BudgetError
		if _, err := m.admit(t.Context(), share); !errors.As(err, &budget) {
			t.Fatalf("allowed with 5 of 4 errors: %v", err)
		}
		// The first bucket began at the full hour; without it 2 are left.
		want := &BudgetError{What: "errors", Used: 5, Limit: 4, RetryAfter: 48 * time.Minute}
		if diff := cmp.Diff(want, budget); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		time.Sleep(budget.RetryAfter - time.Second)
		if _, err := m.admit(t.Context(), share); err == nil {
			t.Error("allowed before RetryAfter")
		}
		time.Sleep(time.Second)
		if _, err := m.admit(t.Context(), share); err != nil {
			t.Errorf("not allowed after RetryAfter: %v", err)
		}
	})
}

// TestNoLimitIsNone: the largest number that the configuration takes is more than a float64
// can say exactly.
func TestNoLimitIsNone(t *testing.T) {
	for _, share := range []float64{1, 0.9} {
		if _, err := NewMeter(math.MaxInt).admit(t.Context(), Share{Errors: 50, Requests: share}); err != nil {
			t.Errorf("a share of %v: %v", share, err)
		}
	}
}

func TestMeterRequestsByShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMeter(10)
		for range 6 {
			if _, err := m.admit(t.Context(), liveShare); err != nil {
				t.Fatal(err)
			}
		}
		want := &BudgetError{What: "requests", Used: 6, Limit: 6, RetryAfter: 24 * time.Hour}
		_, err := m.admit(t.Context(), Share{Errors: 35, Requests: 0.6})
		if diff := cmp.Diff(error(want), err); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if requests, _ := m.Used(); requests != 6 {
			t.Errorf("a refused request was counted: %d", requests)
		}
		if _, err := m.admit(t.Context(), liveShare); err != nil {
			t.Errorf("side work stopped the feed: %v", err)
		}
	})
}

// TestErrorsKeepWithinTheShare: requests beside each other don't pass what is left of the
// errors.
func TestErrorsKeepWithinTheShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := dtmsim.New(dtmsim.Options{Key: testKey}, nil)
		sim.AddFault(dtmsim.Fault{Status: 500, Delay: 100 * time.Millisecond})
		meter := NewMeter(1000)
		session := newClient(t, sim.RoundTripper(), func(o *Options) { o.Meter = meter }).Session(Share{Errors: 5, Requests: 1})
		session.setAuthenticated() // or they come one by one until the first good answer
		var asking sync.WaitGroup
		for range 10 {
			asking.Go(func() {
				if _, err := collect(t.Context(), session, Query{Size: 10}); Kind(err) != BudgetSpent {
					t.Errorf("asking ends with %v", err)
				}
			})
		}
		asking.Wait()
		if _, n := meter.Used(); n != 5 || sim.Stats().Errors != 5 {
			t.Errorf("%d errors, GTI counts %d, want 5", n, sim.Stats().Errors)
		}
	})
}

func TestMeterLoadAndTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMeter(1000)
		hour := time.Now().Unix()
		used := func(wantRequests, wantErrors int64) {
			t.Helper()
			if r, e := m.Used(); r != wantRequests || e != wantErrors {
				t.Errorf("used %d and %d, want %d and %d", r, e, wantRequests, wantErrors)
			}
		}
		count := func() {
			t.Helper()
			if _, err := m.admit(t.Context(), liveShare); err != nil {
				t.Fatal(err)
			}
			m.failed()
		}
		count()
		m.Load(map[int64]int64{hour - 3600: 7, hour - 24*3600: 100}, map[int64]int64{hour: 4, hour - 3600: 100})
		used(8, 5) // own counts stay on top, what is too old does not count
		requests, errs := m.Take()
		if diff := cmp.Diff([]map[int64]int64{{hour: 1}, {hour: 1}}, []map[int64]int64{requests, errs}); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		used(8, 5) // taken counts belong to the baseline
		count()
		m.Load(map[int64]int64{hour: 20}, nil)
		used(21, 1)
		if again, _ := m.Take(); again[hour] != 1 {
			t.Errorf("taken again: %v, want what came since", again)
		}
		if again, errs := m.Take(); len(again)+len(errs) != 0 {
			t.Errorf("taken from nothing: %v, %v", again, errs)
		}
		count()
		requests, errs = m.Take()
		m.Return(requests, errs)
		used(22, 2) // as before
		m.Load(map[int64]int64{hour: 21}, nil)
		used(22, 1) // they stay on top: the database has not got them
		if again, errs := m.Take(); again[hour] != 1 || errs[hour] != 1 {
			t.Errorf("taken after they were returned: %v, %v", again, errs)
		}
		time.Sleep(48 * time.Hour)
		m.Return(requests, errs)
		if again, errs := m.Take(); len(again)+len(errs) != 0 {
			t.Errorf("taken when they count no more: %v, %v", again, errs)
		}
	})
}
