package app_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestTimelineOfAnAheadVersion shows the time that GTI gave the latest version,
// which is not the one that versions are compared with.
func TestTimelineOfAnAheadVersion(t *testing.T) {
	store := openStore(t)
	created := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	far := created.Add(120 * time.Hour)
	results, err := store.WriteRecords(t.Context(), "default", []state.Entry{{Record: state.Record{
		ID: "a", CreatedAt: created, FirstSeen: created, HandledVersion: created, PublishedVersion: created,
		Versions: []state.AlertVersion{{UpdatedAt: created, Outcome: state.Rejected}, {UpdatedAt: far, Outcome: state.Published}},
	}}})
	if err != nil || results[0] != nil {
		t.Fatal(results, err)
	}
	w := httptest.NewRecorder()
	newIngest(t, store, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/alerts/a", nil))
	var got struct {
		UpdatedAt time.Time `json:"updated_at"`
		Outcome   string    `json:"outcome"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || !got.UpdatedAt.Equal(far) || got.Outcome != state.Published {
		t.Errorf("%s %v", w.Body, err)
	}
}
