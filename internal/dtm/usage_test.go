package dtm

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
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
		if err := m.admit(share); !errors.As(err, &budget) {
			t.Fatalf("allowed with 5 of 4 errors: %v", err)
		}
		// The first bucket began at the full hour; without it 2 are left.
		want := &BudgetError{What: "errors", Used: 5, Limit: 4, RetryAfter: 48 * time.Minute}
		if diff := cmp.Diff(want, budget); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		time.Sleep(budget.RetryAfter - time.Second)
		if m.admit(share) == nil {
			t.Error("allowed before RetryAfter")
		}
		time.Sleep(time.Second)
		if err := m.admit(share); err != nil {
			t.Errorf("not allowed after RetryAfter: %v", err)
		}
	})
}

func TestMeterRequestsByShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMeter(10)
		for range 6 {
			if err := m.admit(liveShare); err != nil {
				t.Fatal(err)
			}
		}
		want := &BudgetError{What: "requests", Used: 6, Limit: 6, RetryAfter: 24 * time.Hour}
		if diff := cmp.Diff(error(want), m.admit(Share{Errors: 35, Requests: 0.6})); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if requests, _ := m.Used(); requests != 6 {
			t.Errorf("a refused request was counted: %d", requests)
		}
		if err := m.admit(liveShare); err != nil {
			t.Errorf("side work stopped the feed: %v", err)
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
			if err := m.admit(liveShare); err != nil {
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
	})
}
