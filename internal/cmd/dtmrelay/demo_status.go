package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

// What happens to an alert after it was relayed.
const (
	analystStatus = "in_progress" // "escalated" when it is that already
	soarStatus    = "closed"
	soarTag       = "soar-case-1"
)

// statusChange is what a message says of one.
type statusChange struct {
	AlertID   string `json:"alert_id"`
	Event     string `json:"event"`
	Previous  string `json:"previous_status"`
	Status    string `json:"status"`
	Origin    string `json:"origin"`
	DedupeKey string `json:"dedupe_key"`
}

// followAlert lets an analyst change an alert in GTI, and after that a SOAR by a
// message to SyncStatus. It returns what the relay published of it, or an error
// when that is not what it has to be.
func (d *demo) followAlert(ctx context.Context, baseURL string) ([]statusChange, error) {
	api := d.api.server
	api.ClearFaults()
	r, err := d.start(ctx, baseURL)
	if err != nil {
		return nil, err
	}
	defer r.stop()
	found, err := pickAlert(api)
	if err != nil {
		return nil, err
	}
	id, status := found.ID, analystStatus
	if found.Status == status {
		status = "escalated"
	}

	api.Update(id, func(a *dtmsim.Alert) { a.Status = status })
	analysts := statusChange{
		AlertID: id, Event: ledger.StatusChanged, Previous: found.Status, Status: status,
		Origin: state.FromGTI, DedupeKey: latestKey(api, id),
	}
	if err := d.expect(ctx, r, analysts); err != nil {
		return nil, fmt.Errorf("an analyst's change: %w", err)
	}

	if err := r.writeBack(ctx, id); err != nil {
		return nil, fmt.Errorf("a SOAR's change: %w", err)
	}
	if a := latest(api, id); a.Status != soarStatus || !slices.Contains(a.Tags, soarTag) {
		return nil, fmt.Errorf("a SOAR's change: GTI has the status %s and the tags %q, not %s and %s", a.Status, a.Tags, soarStatus, soarTag)
	}
	soars := statusChange{
		AlertID: id, Event: ledger.StatusChanged, Previous: status, Status: soarStatus,
		Origin: state.FromWriteback, DedupeKey: latestKey(api, id),
	}
	if err := d.expect(ctx, r, soars); err != nil {
		return nil, fmt.Errorf("the echo of a SOAR's change: %w", err)
	}
	return []statusChange{analysts, soars}, nil
}

// pickAlert takes an alert that is new, or else any.
func pickAlert(api *dtmsim.Server) (dtmsim.Alert, error) {
	all, err := api.Visible(time.Now(), url.Values{})
	if err != nil {
		return dtmsim.Alert{}, err
	}
	i := slices.IndexFunc(all, func(a dtmsim.Alert) bool { return a.Status == "new" })
	return all[max(0, i)], nil
}

func latest(api *dtmsim.Server, id string) dtmsim.Alert {
	versions := api.Versions(id)
	return versions[len(versions)-1]
}

func latestKey(api *dtmsim.Server, id string) string {
	return message.DedupeKey(id, latest(api, id).UpdatedAt)
}

// expect lets the relay run, which must publish this change and nothing else.
func (d *demo) expect(ctx context.Context, r *relay, want statusChange) error {
	before, err := countLines(d.files.alerts, 0)
	if err != nil {
		return err
	}
	if err := r.relayAll(ctx); err != nil {
		return err
	}
	var got []statusChange
	err = eachLine(d.files.alerts, before.offset, func(text []byte) error {
		var line struct {
			Attributes statusChange `json:"attributes"`
		}
		err := json.Unmarshal(text, &line)
		got = append(got, line.Attributes)
		return err
	})
	if err == nil && !slices.Equal(got, []statusChange{want}) {
		err = fmt.Errorf("the relay published %+v, not %+v; see %s", got, want, d.files.log)
	}
	return err
}

// writeBack pushes a message to SyncStatus as Pub/Sub does.
func (r *relay) writeBack(ctx context.Context, id string) error {
	request, err := json.Marshal(map[string]any{
		"alert_id": id, "status": soarStatus, "add_tags": []string{soarTag}, "requested_by": "the demo's SOAR",
	})
	if err != nil {
		return err
	}
	var answer struct{ Outcome, Reason string }
	if err := r.post(ctx, "/SyncStatus", pushOf(request, time.Now()), &answer); err != nil {
		return err
	}
	if answer.Outcome != writeback.Written {
		return fmt.Errorf("it was %s %s; see %s", answer.Outcome, answer.Reason, r.log.Name())
	}
	return nil
}
