package app

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// timeline is the body of GET /alerts/{id}.
type timeline struct {
	AlertID   string               `json:"alert_id"`
	Feed      string               `json:"feed"`
	AlertType string               `json:"alert_type,omitempty"`
	Severity  string               `json:"severity,omitempty"`
	MonitorID string               `json:"monitor_id,omitempty"`
	Priority  string               `json:"priority,omitempty"`
	Status    string               `json:"status,omitempty"`
	Outcome   string               `json:"outcome,omitempty"` // of the latest version
	CreatedAt *time.Time           `json:"created_at,omitempty"`
	UpdatedAt *time.Time           `json:"updated_at,omitempty"` // of the latest version
	FirstSeen *time.Time           `json:"first_seen"`           // null: only a write-back was asked for
	Statuses  []state.StatusChange `json:"statuses"`
	Versions  []state.AlertVersion `json:"versions"`
	Intents   []state.Intent       `json:"intents,omitempty"` // the latest request for each field and tag, those whose sender asks once, and all that are open
	ExpireAt  time.Time            `json:"expire_at"`
}

// getAlert is GET /alerts/{id}.
func (a *App) getAlert(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	id := r.PathValue("id")
	if !dtm.ValidID(id) {
		problem{Status: http.StatusNotFound, Detail: "an alert's id has 1 to 128 letters, digits, _ and -"}.write(w)
		return
	}
	entries, err := a.parts.Store.Records(ctx, a.cfg.Feed, []string{id})
	if err != nil {
		a.unavailable(w, r, fmt.Errorf("reading alert %s: %w", id, err))
		return
	}
	rec := entries[0].Record
	if rec.FirstSeen.IsZero() && len(rec.Intents) == 0 {
		problem{Status: http.StatusNotFound, Detail: "feed " + a.cfg.Feed + " has no alert " + id}.write(w)
		return
	}
	t := timeline{
		AlertID: rec.ID, Feed: a.cfg.Feed, AlertType: rec.Type, Severity: rec.Severity, MonitorID: rec.MonitorID,
		Priority: rec.Priority, Status: rec.Status, FirstSeen: orAbsent(rec.FirstSeen), Intents: rec.Intents, ExpireAt: rec.ExpireAt,
		Statuses: append([]state.StatusChange{}, rec.Statuses...), Versions: append([]state.AlertVersion{}, rec.Versions...),
		CreatedAt: orAbsent(rec.CreatedAt),
	}
	if n := len(rec.Versions); n > 0 {
		t.Outcome, t.UpdatedAt = rec.Versions[n-1].Outcome, orAbsent(rec.Versions[n-1].UpdatedAt)
	}
	answer(w, http.StatusOK, "application/json", t)
}
