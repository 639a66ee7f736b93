package message

import (
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

const (
	source = "dtm"
	schema = "dtmrelay/v1"

	// Pub/Sub takes attribute values of at most 1,024 bytes
	// (https://cloud.google.com/pubsub/quotas, "Resource limits").
	maxValueBytes = 1024
)

// Format is what the data of an alert's message is. The attributes are the same in
// both.
type Format string

// Formats of the data.
const (
	Raw      Format = "raw"      // the alert as it came; the zero value counts as this
	Incident Format = "incident" // what a case system needs, with the alert in it
)

// Envelope is what the relay knows about an alert besides the alert itself.
// Empty fields leave their attribute out.
type Envelope struct {
	Format         Format
	Event          string // created, updated or status_changed
	PreviousStatus string // of a status_changed
	Priority       string // P1 to P4
	Origin         string // gti, or writeback for the echo of our own change
	Feed           string
	RunID          string
	Backfill       string // id of the backfill that published it
	Rules          string // names of the rules that matched, joined by commas
	Escalated      bool   // a rule said so
	Redacted       bool   // something in the data is masked
	Truncated      bool   // doc, topics and labels were left out for their size, here (Fit) or by whoever listed it
}

// FromAlert is the message of a usable alert, with the attributes to filter and
// route by. Its data are the alert's bytes as received, not copied, or the incident
// around them. It may be too large for Pub/Sub: see Fit.
func FromAlert(a dtm.Alert, e Envelope) Message {
	refs, truncated := "", ""
	if !a.HasDoc {
		refs = "false"
	}
	if e.Truncated {
		truncated = "true"
	}
	data := []byte(a.Raw)
	if e.Format == Incident {
		data = incidentOf(a, e)
	}
	return Message{Data: data, Attributes: attributes(
		"source", source,
		"alert_id", a.ID,
		"alert_type", a.Type,
		"severity", a.Severity,
		"status", a.Status,
		"monitor_id", a.MonitorID,
		"monitor_name", a.MonitorName,
		"group_id", a.GroupID,
		"created_at", Time(a.CreatedAt),
		"updated_at", Time(a.UpdatedAt),
		"mscore", a.MScore,
		"event", e.Event,
		"previous_status", e.PreviousStatus,
		"priority", e.Priority,
		"feed", e.Feed,
		"run_id", e.RunID,
		"backfill", e.Backfill,
		"origin", e.Origin,
		"rules", e.Rules,
		"escalated", whenTrue(e.Escalated),
		"redacted", whenTrue(e.Redacted),
		"refs", refs,
		"truncated", truncated,
		"schema", schema,
		"dedupe_key", DedupeKey(a.ID, a.UpdatedAt),
	)}
}

func whenTrue(b bool) string {
	if b {
		return "true"
	}
	return ""
}

// attributes makes the map of alternating names and values, without the empty
// ones: Pub/Sub's filters can then ask whether an attribute is there.
func attributes(pairs ...string) map[string]string {
	m := make(map[string]string, len(pairs)/2)
	for pair := range slices.Chunk(pairs, 2) {
		if v := Cut(pair[1]); v != "" {
			m[pair[0]] = v
		}
	}
	return m
}

// DedupeKey names one version of one alert, the same whoever publishes it and
// however often.
func DedupeKey(id string, updatedAt time.Time) string {
	return id + "@" + Time(updatedAt)
}

// Time writes t as all attributes have it: RFC 3339 in UTC with exactly three
// fraction digits, so that times can be compared as strings. (The API drops
// trailing zeros, so its own can't.)
func Time(t time.Time) string {
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
