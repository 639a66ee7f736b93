package writeback

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// Bounds of a write-back's request.
const (
	// maxRequestBytes is several times what a request within the other bounds has.
	maxRequestBytes = 1 << 20
	maxTags         = 100 // in a list
	maxTagBytes     = 256
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
		Tags:    p.tags("tags"), AddTags: p.tags("add_tags"), RemoveTags: p.tags("remove_tags"),
		Expect: p.status("expect_status"),
		At:     p.requestedAt(published),
		By:     p.text("requested_by", maxTextBytes),
	}
	p.text("reason", maxTextBytes) // for those who read the message
	if named := ""; p.decode("feed", "a string", &named) && named != feed {
		p.addProblem("feed is %q; this function serves %q", shorten(named), feed)
	}
	p.unknown()
	if len(p.problems) == 0 {
		p.contradictions(r)
	}
	if len(p.problems) > 0 {
		return Request{AlertID: r.AlertID}, errors.New(strings.Join(p.problems, "; "))
	}
	return r, nil
}

// requestParser holds what nobody has read yet, and what was wrong with the rest.
type requestParser struct {
	left     map[string]json.RawMessage
	known    []string
	problems []string
}

func newRequestParser(data []byte) (*requestParser, error) {
	switch {
	case len(data) > maxRequestBytes:
		return nil, fmt.Errorf("the data has %d bytes; allowed: %d", len(data), maxRequestBytes)
	case !utf8.Valid(data):
		return nil, errors.New("the data is not valid UTF-8")
	case !json.Valid(data):
		return nil, errors.New("the data is not valid JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if open, _ := dec.Token(); open != json.Delim('{') {
		return nil, errors.New("the data is not a JSON object")
	}
	p := &requestParser{left: map[string]json.RawMessage{}}
	for dec.More() {
		// The data is valid JSON: nothing fails here.
		name, _ := dec.Token()
		var value json.RawMessage
		_ = dec.Decode(&value)
		key, _ := name.(string)
		if _, twice := p.left[key]; twice {
			p.addProblem("the field %q is named more than once", shorten(key))
		}
		p.left[key] = value
	}
	return p, nil
}

func (p *requestParser) addProblem(format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf(format, args...))
}

// decode decodes a field into a pointer's target; false when it is absent, null, or
// not what kind says.
func (p *requestParser) decode(name, kind string, into any) bool {
	p.known = append(p.known, name)
	raw, ok := p.left[name]
	delete(p.left, name)
	if !ok || string(raw) == "null" {
		return false
	}
	if json.Unmarshal(raw, into) != nil {
		p.addProblem("%s is not %s", name, kind)
		return false
	}
	return true
}

func (p *requestParser) text(name string, most int) (value string) {
	if p.decode(name, "a string", &value) && len(value) > most {
		p.addProblem("%s has %d bytes; allowed: %d", name, len(value), most)
	}
	return value
}

func (p *requestParser) alertID() string {
	const allowed = "1 to 128 letters, digits, _ and -"
	var id string
	had := len(p.problems)
	switch {
	case p.decode("alert_id", "a string", &id) && dtm.ValidID(id):
		return id
	case id != "":
		p.addProblem("alert_id is %q; allowed: %s", shorten(id), allowed)
	case len(p.problems) == had:
		p.addProblem("alert_id is missing; allowed: %s", allowed)
	}
	return ""
}

func (p *requestParser) status(name string) string {
	var status string
	if p.decode(name, "a string", &status) && !slices.Contains(dtm.Statuses, status) {
		p.addProblem("%s is %q; allowed: %s", name, shorten(status), strings.Join(dtm.Statuses, ", "))
	}
	return status
}

// tags reads a list of tags, each once. An empty list is not nil.
func (p *requestParser) tags(name string) []string {
	var items []*string // null is no tag
	if !p.decode(name, "a list of strings", &items) {
		return nil
	}
	if len(items) > maxTags {
		p.addProblem("%s has %d tags; allowed: %d", name, len(items), maxTags)
		return nil
	}
	tags := []string{}
	for i, item := range items {
		if item == nil {
			p.addProblem("%s[%d] is null; allowed: a string", name, i)
			continue
		}
		tag := *item
		switch {
		case tag == "" || len(tag) > maxTagBytes:
			p.addProblem("%s[%d] has %d bytes; allowed: 1 to %d", name, i, len(tag), maxTagBytes)
		// An escape for half a character is read as U+FFFD.
		case strings.ContainsFunc(tag, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }):
			p.addProblem("%s[%d] holds a control character or half a character", name, i)
		case strings.TrimSpace(tag) != tag:
			p.addProblem("%s[%d] begins or ends with white space", name, i)
		case !holdsTag(tags, tag):
			tags = append(tags, tag)
		}
	}
	return tags
}

// requestedAt is when the request was made: never later than it was published,
// or the clock of one requester would silence all others.
func (p *requestParser) requestedAt(published time.Time) time.Time {
	const allowed = "a time such as 2026-01-02T03:04:05Z (RFC 3339), not before 1970"
	var text string
	if !p.decode("requested_at", "a string", &text) {
		return published
	}
	// RFC 3339, 5.6: T and Z may be small.
	at, err := time.Parse(time.RFC3339, strings.ToUpper(text))
	if err != nil || at.Unix() < 0 {
		p.addProblem("requested_at is %q; allowed: %s", shorten(text), allowed)
		return published
	}
	if at = at.UTC().Truncate(time.Millisecond); at.After(published) {
		return published
	}
	return at
}

func (p *requestParser) unknown() {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(p.left)) {
		names = append(names, fmt.Sprintf("%q", shorten(name)))
	}
	if len(names) > 0 {
		p.addProblem("unknown fields: %s; allowed: %s", strings.Join(names, ", "), strings.Join(p.known, ", "))
	}
}

// contradictions finds what is wrong with the fields together.
func (p *requestParser) contradictions(r Request) {
	if r.Status == "" && r.Tags == nil && len(r.AddTags)+len(r.RemoveTags) == 0 {
		p.addProblem("there is nothing to change: status, tags, add_tags or remove_tags is needed")
	}
	for i, tag := range r.RemoveTags {
		if holdsTag(r.AddTags, tag) || holdsTag(r.Tags, tag) {
			p.addProblem("the tag of remove_tags, no. %d of its different ones, is in tags or add_tags too", i+1)
		}
	}
}

// holdsTag compares as GTI's other clients do, without regard to case.
func holdsTag(tags []string, tag string) bool {
	return slices.ContainsFunc(tags, func(t string) bool { return strings.EqualFold(t, tag) })
}

// shorten keeps a value that is quoted in an error within a line.
func shorten(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
