package dtmsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Alert is one version of an alert: the fields that the API filters and sorts
// by, and the bytes that it serves. An alert needs an ID and CreatedAt; what
// else is missing gets a plain value when it is added to a server.
type Alert struct {
	ID string
	// CreatedAt is cut to milliseconds. An alert isn't served before it.
	CreatedAt time.Time
	// UpdatedAt is CreatedAt when zero.
	UpdatedAt time.Time
	// Place is the created_at by which lists are sorted, where that isn't CreatedAt:
	// the alert is out of place. Since and until look at CreatedAt all the same.
	Place time.Time
	// VisibleAt is when the alert comes into the index; CreatedAt when zero.
	VisibleAt time.Time

	Type        string // alert_type; Message when empty
	Status      string // new when empty
	Severity    string // absent when empty
	MonitorID   string
	MonitorName string // served with monitor_name=true only
	Tags        []string
	MatchValues []string
	MScore      *int // indicator_mscore; nil is absent
	HasAnalysis bool

	// Body is the alert as served with refs=true, Slim with refs=false. Without
	// a Body both are written from the fields, without a Slim it is Body without
	// doc, labels, topics and the offsets of doc_matches.
	Body, Slim []byte
	// Raw, when set, is served instead of both, verbatim, at CreatedAt's place:
	// for elements that are no usable alerts.
	Raw []byte

	// Changes happen to the alert later, each as a new version. Those that lie in
	// the past when the alert is added have happened already.
	Changes []Change
}

// Change is a later version of an alert: At becomes its updated_at.
type Change struct {
	At time.Time
	// Apply changes fields, or others with Alert.Set; the bytes are written anew
	// from what it changed. It may be called more than once.
	Apply func(*Alert)
}

// ParseAlert reads the fields of an alert out of its JSON, which stays as it is.
func ParseAlert(body []byte) (Alert, error) {
	var f struct {
		ID          string   `json:"id"`
		CreatedAt   string   `json:"created_at"`
		UpdatedAt   string   `json:"updated_at"`
		Type        string   `json:"alert_type"`
		Status      string   `json:"status"`
		Severity    string   `json:"severity"`
		MonitorID   string   `json:"monitor_id"`
		MonitorName string   `json:"monitor_name"`
		Tags        []string `json:"tags"`
		Matches     []struct {
			Value string `json:"value"`
		} `json:"topic_matches"`
		MScore      *float64 `json:"indicator_mscore"`
		HasAnalysis bool     `json:"has_analysis"`
	}
	if err := json.Unmarshal(body, &f); err != nil {
		return Alert{}, fmt.Errorf("reading an alert: %w", err)
	}
	if f.ID == "" {
		return Alert{}, errors.New("reading an alert: it has no id")
	}
	created, err := time.Parse(time.RFC3339, f.CreatedAt)
	if err != nil {
		return Alert{}, fmt.Errorf("reading alert %s: created_at: %w", f.ID, err)
	}
	updated := created
	if f.UpdatedAt != "" {
		if updated, err = time.Parse(time.RFC3339, f.UpdatedAt); err != nil {
			return Alert{}, fmt.Errorf("reading alert %s: updated_at: %w", f.ID, err)
		}
	}
	a := Alert{
		ID: f.ID, CreatedAt: created, UpdatedAt: updated,
		Type: f.Type, Status: f.Status, Severity: f.Severity,
		MonitorID: f.MonitorID, MonitorName: f.MonitorName,
		Tags: f.Tags, HasAnalysis: f.HasAnalysis, Body: body,
	}
	for _, m := range f.Matches {
		a.MatchValues = append(a.MatchValues, m.Value)
	}
	if f.MScore != nil {
		a.MScore = new(int(*f.MScore))
	}
	return a, nil
}

// Element is the alert as an element of a list: with the document or without
// it, and with the monitor's name when that was asked for.
func (a *Alert) Element(refs, monitorName bool) []byte {
	return bytes.Join(a.pieces(nil, refs, monitorName), nil)
}

// Set gives a top-level member of Body and Slim a value; nil removes it. The
// members that come with the document are set in Body only.
func (a *Alert) Set(key string, value any) {
	var text []byte
	if value != nil {
		text = mustJSON(value)
	}
	a.Body = setMember(a.Body, key, text)
	if !slices.Contains(refsMembers, key) {
		a.Slim = setMember(a.Slim, key, text)
	}
}

// pieces appends the element's bytes to dst without copying them.
func (a *Alert) pieces(dst [][]byte, refs, monitorName bool) [][]byte {
	switch {
	case a.Raw != nil:
		return append(dst, a.Raw)
	case !refs && !monitorName:
		return append(dst, a.Slim)
	case !monitorName:
		return append(dst, a.Body)
	}
	text := a.Slim
	if refs {
		text = a.Body
	}
	if a.MonitorName == "" || len(text) == 0 || text[0] != '{' {
		return append(dst, text)
	}
	return append(dst, []byte(`{"monitor_name":`), mustJSON(a.MonitorName), []byte(","), text[1:])
}

// complete fills in what the caller left out.
func (a *Alert) complete() {
	a.CreatedAt = millis(a.CreatedAt)
	if a.UpdatedAt.IsZero() {
		a.UpdatedAt = a.CreatedAt
	}
	a.UpdatedAt = millis(a.UpdatedAt)
	if a.VisibleAt.Before(a.CreatedAt) {
		a.VisibleAt = a.CreatedAt
	}
	if a.Type == "" {
		a.Type = "Message"
	}
	if a.Status == "" {
		a.Status = "new"
	}
	if a.Raw != nil {
		return
	}
	if a.Body == nil {
		a.Body = a.render()
	}
	if a.Slim == nil {
		a.Slim = slim(a.Body)
	}
}

// next is the version that follows a at the given time.
func (a *Alert) next(at time.Time, change func(*Alert)) Alert {
	n := *a
	n.Tags = slices.Clone(a.Tags)
	n.MatchValues = slices.Clone(a.MatchValues)
	n.UpdatedAt = millis(at)
	if !n.UpdatedAt.After(a.UpdatedAt) {
		// Each version has its own updated_at, also of two within a millisecond.
		n.UpdatedAt = a.UpdatedAt.Add(time.Millisecond)
	}
	change(&n)
	if n.Raw != nil {
		return n
	}
	if !bytes.Equal(n.Body, a.Body) && bytes.Equal(n.Slim, a.Slim) {
		n.Slim = slim(n.Body)
	}
	before := a.members()
	for i, m := range n.members() {
		if !bytes.Equal(m.value, before[i].value) {
			n.Body = setMember(n.Body, m.key, m.value)
			n.Slim = setMember(n.Slim, m.key, m.value)
		}
	}
	return n
}

// keyValue is a member of an object; a nil value is an absent one.
type keyValue struct {
	key   string
	value []byte
}

// members are the fields as members of the alert's object, always the same ones
// in the same order.
func (a *Alert) members() []keyValue {
	optional := func(s string) []byte {
		if s == "" {
			return nil
		}
		return mustJSON(s)
	}
	var score []byte
	if a.MScore != nil {
		score = strconv.AppendInt(nil, int64(*a.MScore), 10)
	}
	tags := a.Tags
	if tags == nil {
		tags = []string{}
	}
	matches := []byte("[]")
	if len(a.MatchValues) > 0 {
		type match struct {
			TopicID string `json:"topic_id"`
			Value   string `json:"value"`
		}
		list := make([]match, len(a.MatchValues))
		for i, v := range a.MatchValues {
			list[i] = match{TopicID: "doc_type:message", Value: v}
		}
		matches = mustJSON(list)
	}
	return []keyValue{
		{"id", mustJSON(a.ID)},
		{"monitor_id", optional(a.MonitorID)},
		{"topic_matches", matches},
		{"tags", mustJSON(tags)},
		{"created_at", timeJSON(a.CreatedAt)},
		{"updated_at", timeJSON(a.UpdatedAt)},
		{"status", mustJSON(a.Status)},
		{"alert_type", mustJSON(a.Type)},
		{"indicator_mscore", score},
		{"severity", optional(a.Severity)},
		{"has_analysis", strconv.AppendBool(nil, a.HasAnalysis)},
	}
}

func (a *Alert) render() []byte {
	return appendObject(nil, a.members())
}

func appendObject(dst []byte, members []keyValue) []byte {
	dst = append(dst, '{')
	first := true
	for _, m := range members {
		if m.value == nil {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, m.key...)
		dst = append(dst, '"', ':')
		dst = append(dst, m.value...)
	}
	return append(dst, '}')
}

// refsMembers come with refs=true only.
var refsMembers = []string{"doc", "labels", "topics"}

var offsets = regexp.MustCompile(`"offsets":\s*\[[0-9,\s]*\]\s*,?\s*`)

// slim is an alert without what refs=false leaves out.
func slim(body []byte) []byte {
	for _, key := range refsMembers {
		body = setMember(body, key, nil)
	}
	for _, m := range objectMembers(body) {
		if m.key == "doc_matches" {
			return setMember(body, m.key, offsets.ReplaceAll(body[m.value:m.end], nil))
		}
	}
	return body
}

// place is where a member stands in its object.
type place struct {
	key               string
	start, value, end int
}

// objectMembers finds the members of an object; none when it isn't one.
func objectMembers(object []byte) []place {
	dec := json.NewDecoder(bytes.NewReader(object))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	var found []place
	for dec.More() {
		from := int(dec.InputOffset())
		start := from + bytes.IndexByte(object[from:], '"')
		key, err := dec.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil
		}
		end := int(dec.InputOffset())
		name, _ := key.(string)
		found = append(found, place{key: name, start: start, value: end - len(value), end: end})
	}
	return found
}

// setMember returns a copy of an object with a member set, or removed when value
// is nil; every other byte stays as it was. What isn't an object is returned as is.
func setMember(object []byte, key string, value []byte) []byte {
	found := objectMembers(object)
	i := slices.IndexFunc(found, func(p place) bool { return p.key == key })
	switch {
	case i >= 0 && value != nil:
		return splice(object, found[i].value, found[i].end, value)
	case i > 0:
		return splice(object, found[i-1].end, found[i].end, nil)
	case i == 0 && len(found) > 1:
		return splice(object, found[0].start, found[1].start, nil)
	case i == 0:
		return splice(object, found[0].start, found[0].end, nil)
	case value == nil || len(found) == 0:
		return object
	}
	last := found[len(found)-1].end
	return splice(object, last, last, slices.Concat([]byte(`,"`), []byte(key), []byte(`":`), value))
}

func splice(text []byte, from, to int, with []byte) []byte {
	return slices.Concat(text[:from], with, text[to:])
}

// timeJSON writes a time as the API does: milliseconds, trailing zeros trimmed.
func timeJSON(t time.Time) []byte {
	text := append(make([]byte, 0, len(time.RFC3339Nano)+2), '"')
	text = t.UTC().AppendFormat(text, time.RFC3339Nano)
	return append(text, '"')
}

func millis(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// mustJSON encodes values of this package's own making.
func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("dtmsim: %v", err))
	}
	return text
}
