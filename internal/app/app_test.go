package app

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// TestShares: a part of an error is none.
func TestShares(t *testing.T) {
	for _, tc := range []struct{ errors, live, side, sync, unknown int }{
		{100, 50, 35, 20, 10},
		{10, 5, 3, 2, 1},
		{99, 49, 34, 19, 9},
		{10_000, 5000, 3500, 2000, 1000},
	} {
		want := shares{
			live: dtm.Share{Errors: tc.live, Requests: 1}, sweep: dtm.Share{Errors: tc.side, Requests: 0.9},
			backfill: dtm.Share{Errors: tc.side, Requests: 0.6}, sync: dtm.Share{Errors: tc.sync, Requests: 0.9},
			syncUnknown: dtm.Share{Errors: tc.unknown, Requests: 0.9},
		}
		if diff := cmp.Diff(want, sharesOf(tc.errors), cmp.AllowUnexported(shares{})); diff != "" {
			t.Errorf("of %d errors (-want +got):\n%s", tc.errors, diff)
		}
	}
}
