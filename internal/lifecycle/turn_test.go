package lifecycle

import (
	"context"
	"testing"
)

// TestTurnsAreForgotten when nobody has one or waits for it any more, or a
// process would remember each alert that it ever had a message for.
func TestTurnsAreForgotten(t *testing.T) {
	var all turns
	give, err := all.take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := all.take(ended, "a"); err == nil {
		t.Error("two have the turn")
	}
	if len(all.queue) != 1 {
		t.Errorf("who has the turn is forgotten: %v", all.queue)
	}
	give()
	if len(all.queue) != 0 {
		t.Errorf("still known: %v", all.queue)
	}
}
