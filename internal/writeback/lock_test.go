package writeback

import (
	"context"
	"testing"
)

// TestAlertLocksAreForgotten when nobody has one or waits for it any more, or a
// process would remember each alert that it ever had a message for.
func TestAlertLocksAreForgotten(t *testing.T) {
	var all alertLocks
	give, err := all.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := all.lock(ended, "a"); err == nil {
		t.Error("two have the lock")
	}
	if len(all.locks) != 1 {
		t.Errorf("who has the lock is forgotten: %v", all.locks)
	}
	give()
	if len(all.locks) != 0 {
		t.Errorf("still known: %v", all.locks)
	}
}
