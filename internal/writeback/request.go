package writeback

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/strictjson"
)

// Bounds of a write-back's request.
const (
	// maxRequestBytes is several times what a request within the other bounds has.
	maxRequestBytes = 1 << 20
	maxTextBytes    = 1024 // reason, requested_by
)

// Request is a change of an alert that somebody wants to be written to GTI.
type Request struct {
	AlertID string
	Status  string // empty: leave it as it is
	// Tags replaces the whole list; nil: leave it as it is.
	Tags       []string
	AddTags    []string
	RemoveTags []string
	// Expect is the status without which nothing is to be written; empty: any.
	Expect string
	// Skip: when the alert has another status than Expect, or By is a rule that was served
	// with the same before, nothing is written and nothing rejected.
	Skip bool
	// At is when it was asked for, in whole milliseconds: of two requests for one
	// field the later one counts.
	At time.Time
	By string
}

// ParseRequest reads the data of a write-back message that was published at a
// time and came to the function of a feed. The error names every problem, and
// quotes neither tags nor free text. The request's AlertID is set with an error
// too, when it is valid.
func ParseRequest(data []byte, feed string, published time.Time) (Request, error) {
	published = published.UTC().Truncate(time.Millisecond)
	p, err := newRequestParser(data)
	if err != nil {
		return Request{}, err
	}
	r := Request{
		AlertID: p.alertID(),
		Status:  p.status("status"),
		Tags:    p.Tags("tags"), AddTags: p.Tags("add_tags"), RemoveTags: p.Tags("remove_tags"),
		Expect: p.status("expect_status"),
		Skip:   p.onConflict() == conflictSkip,
		At:     p.requestedAt(published),
		By:     p.text("requested_by", maxTextBytes),
	}
	p.text("reason", maxRequestBytes) // for those who read the message
	if named := ""; p.Decode("feed", "a string", &named) && named != feed {
		p.AddProblem("feed is %q; this function serves %q", dtm.Shorten(named), feed)
	}
	p.unknown()
	if len(p.Problems()) == 0 {
		p.contradictions(r)
	}
	if len(p.Problems()) > 0 {
		return Request{AlertID: r.AlertID}, errors.New(strings.Join(p.Problems(), "; "))
	}
	return r, nil
}

// requestParser is a request of which the fields are being read.
type requestParser struct{ *strictjson.Object }

func newRequestParser(data []byte) (requestParser, error) {
	switch {
	case len(data) > maxRequestBytes:
		return requestParser{}, fmt.Errorf("the data has %d bytes; allowed: %d", len(data), maxRequestBytes)
	case !utf8.Valid(data):
		return requestParser{}, errors.New("the data is not valid UTF-8")
	}
	o, err := strictjson.Parse(data)
	if err != nil {
		return requestParser{}, fmt.Errorf("the data is %w", err)
	}
	o.Mismatch = func(name, allowed string, _ json.RawMessage) string { return name + " is not " + allowed }
	o.AddRepeated()
	return requestParser{o}, nil
}

func (p requestParser) text(name string, most int) (value string) {
	if p.Decode(name, "a string", &value) && len(value) > most {
		p.AddProblem("%s has %d bytes; allowed: %d", name, len(value), most)
	}
	return value
}

func (p requestParser) alertID() string {
	const allowed = "1 to 128 letters, digits, _ and -"
	var id string
	had := len(p.Problems())
	switch {
	case p.Decode("alert_id", "a string", &id) && dtm.ValidID(id):
		return id
	case id != "":
		p.AddProblem("alert_id is %q; allowed: %s", dtm.Shorten(id), allowed)
	case len(p.Problems()) == had:
		p.AddProblem("alert_id is missing; allowed: %s", allowed)
	}
	return ""
}

func (p requestParser) status(name string) string {
	var status string
	if p.Decode(name, "a string", &status) && !slices.Contains(dtm.Statuses, status) {
		p.AddProblem("%s is %q; allowed: %s", name, dtm.Shorten(status), strings.Join(dtm.Statuses, ", "))
	}
	return status
}

// byRule begins the requested_by of what rules ask for.
const byRule = "rule:"

// What on_conflict allows.
const (
	conflictReject = "reject"
	conflictSkip   = "skip"
)

func (p requestParser) onConflict() string {
	value := conflictReject
	if p.Decode("on_conflict", "a string", &value) && value != conflictReject && value != conflictSkip {
		p.AddProblem("on_conflict is %q; allowed: %s, %s", dtm.Shorten(value), conflictReject, conflictSkip)
	}
	return value
}

// requestedAt is when the request was made: never later than it was published,
// or the clock of one requester would silence all others.
func (p requestParser) requestedAt(published time.Time) time.Time {
	const allowed = "a time such as 2026-01-02T03:04:05Z (RFC 3339), not before 1970"
	var text string
	if !p.Decode("requested_at", "a string", &text) {
		return published
	}
	at, ok := dtm.ParseTime(text)
	if !ok || at.Unix() < 0 {
		p.AddProblem("requested_at is %q; allowed: %s", dtm.Shorten(text), allowed)
		return published
	}
	if at.After(published) {
		return published
	}
	return at
}

func (p requestParser) unknown() {
	names := p.Unknown()
	if len(names) == 0 {
		return
	}
	for i, name := range names {
		names[i] = strconv.Quote(dtm.Shorten(name))
	}
	p.AddProblem("unknown fields: %s; allowed: %s", strings.Join(names, ", "), strings.Join(p.Known(), ", "))
}

// contradictions finds what is wrong with the fields together.
func (p requestParser) contradictions(r Request) {
	if r.Status == "" && r.Tags == nil && len(r.AddTags)+len(r.RemoveTags) == 0 {
		p.AddProblem("there is nothing to change: status, tags, add_tags or remove_tags is needed")
	}
	for i, tag := range r.RemoveTags {
		if holdsTag(r.AddTags, tag) || holdsTag(r.Tags, tag) {
			p.AddProblem("the tag of remove_tags, no. %d of its different ones, is in tags or add_tags too", i+1)
		}
	}
}

// holdsTag compares as GTI's other clients do, without regard to case.
func holdsTag(tags []string, tag string) bool {
	return slices.ContainsFunc(tags, func(t string) bool { return strings.EqualFold(t, tag) })
}

// RuleMessage asks for what a rule of the operator's wants of an alert: a status, tags to
// add, or both. expect is the status without which nothing is to be written; then the
// alert was changed meanwhile, which is no error. An empty one stands for any.
func RuleMessage(alertID, rule, status string, tags []string, expect, feed string) message.Message {
	// Strings always marshal.
	data, _ := json.Marshal(struct {
		AlertID     string   `json:"alert_id"`
		Status      string   `json:"status,omitempty"`
		AddTags     []string `json:"add_tags,omitempty"`
		Expect      string   `json:"expect_status,omitempty"`
		OnConflict  string   `json:"on_conflict"`
		RequestedBy string   `json:"requested_by"`
		Reason      string   `json:"reason"`
		Feed        string   `json:"feed"`
	}{alertID, status, tags, expect, conflictSkip, byRule + rule, "rule " + rule, feed})
	return message.Message{Data: data}
}
