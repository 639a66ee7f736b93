package message

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

const (
	incidentSchema = "dtmrelay.incident/v1"
	consoleURL     = "https://advantage.mandiant.com/dtm/alerts/"

	// Bounds of what an incident repeats of its alert, so that a foreign value of
	// megabytes is not in it twice. What else is text is cut as an attribute is.
	maxSummaryBytes = 16 << 10
	maxURLBytes     = 2048
	maxTags         = 100
)

// incident is the data of a message in the format Incident, less the alert:
// docs/schemas/incident-v1.json. What is optional is absent rather than empty.
type incident struct {
	Schema        string   `json:"schema"`
	Source        string   `json:"source"`
	Event         string   `json:"event"`
	DedupeKey     string   `json:"dedupe_key"`
	Title         string   `json:"title"`
	Summary       string   `json:"summary,omitempty"`
	Severity      string   `json:"severity,omitempty"`
	SeverityScore int      `json:"severity_score"`
	Priority      string   `json:"priority"`
	State         string   `json:"state"`
	Status        string   `json:"status,omitempty"`
	Type          string   `json:"type,omitempty"`
	URL           string   `json:"url,omitempty"`
	Link          string   `json:"link"`
	GroupID       string   `json:"group_id,omitempty"`
	Monitor       *monitor `json:"monitor,omitempty"`
	Tags          []string `json:"tags"`
	CreatedAt     string   `json:"created_at"`
	UpdatedAt     string   `json:"updated_at"`
}

type monitor struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
}

// incidentOf is the incident of a usable alert. It holds the alert's bytes as they
// came: encoding/json would write them anew.
func incidentOf(a dtm.Alert, e Envelope) []byte {
	d := a.Details()
	in := incident{
		Schema: incidentSchema, Source: source, Event: e.Event, DedupeKey: DedupeKey(a.ID, a.UpdatedAt),
		Title:    title(a, d),
		Summary:  dtm.Cut(cmp.Or(strings.TrimSpace(d.AISummary), strings.TrimSpace(d.Summary)), maxSummaryBytes),
		Severity: Cut(a.Severity), SeverityScore: severityScore(a), Priority: e.Priority,
		State: State(a.Status), Status: Cut(a.Status), Type: Cut(a.Type),
		URL: webAddress(d.SourceURL), Link: consoleURL + a.ID, GroupID: Cut(a.GroupID),
		Tags: tags(a), CreatedAt: Time(a.CreatedAt), UpdatedAt: Time(a.UpdatedAt),
	}
	if a.MonitorID != "" {
		in.Monitor = &monitor{ID: Cut(a.MonitorID), Name: Cut(a.MonitorName)}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(in)                                 // strings and numbers always marshal
	head := bytes.TrimSuffix(b.Bytes(), []byte("}\n")) // the object goes on
	const member = `,"alert":`
	data := make([]byte, 0, len(head)+len(member)+len(a.Raw)+1)
	data = append(data, head...)
	data = append(data, member...)
	data = append(data, a.Raw...)
	return append(data, '}')
}

// State is closed for the statuses that end an alert's work here, else open: also for
// one that is missing or unknown, so that nothing is closed by mistake.
func State(status string) string {
	switch status {
	case "closed", "no_action_required", "duplicate", "not_relevant", "tracked_external":
		return "closed"
	default:
		return "open"
	}
}

// title is never empty.
func title(a dtm.Alert, d dtm.Details) string {
	if t := strings.TrimSpace(d.Title); t != "" {
		return Cut(t)
	}
	return Cut(cmp.Or(a.Type, "Alert") + ": " + cmp.Or(a.MonitorName, a.MonitorID, a.ID))
}

// severityScore is a whole number from 0 to 100: the indicator's score, or what
// stands for the severity when there is none that is such a number.
func severityScore(a dtm.Alert) int {
	if score, err := strconv.ParseFloat(a.MScore, 64); err == nil && score >= 0 && score <= 100 {
		return int(math.Round(score))
	}
	switch a.Severity {
	case "critical":
		return 100
	case "high":
		return 80
	case "low":
		return 20
	default: // medium, and missing or unknown: never silently low
		return 50
	}
}

// webAddress is text where it is an address for a browser, else empty: receivers make
// links of it, and a cut one would lead elsewhere.
func webAddress(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || len(text) > maxURLBytes || !utf8.ValidString(text) {
		return ""
	}
	return text
}

// tags is never nil.
func tags(a dtm.Alert) []string {
	all, _ := a.Tags()
	out := []string{}
	for _, tag := range all {
		if tag = Cut(tag); tag != "" && len(out) < maxTags {
			out = append(out, tag)
		}
	}
	return out
}
