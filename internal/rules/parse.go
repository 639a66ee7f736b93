package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

const (
	maxNameBytes = 63
	// What a write-back's message may have: see writeback.ParseRequest.
	maxTags     = 100
	maxTagBytes = 256
)

// A count in the expression would be compiled as so many copies, at every cold start.
var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

var priorities = []string{"P1", "P2", "P3", "P4"}

// Parse reads a JSON list of rules; an empty text is the empty list. Conditions are
// not compiled: see Compile. The error names every problem of every rule; with it comes the
// list as far as it could be read.
func Parse(text string) (List, error) {
	read, err := parse(text)
	if err != nil {
		return nil, err
	}
	var list List
	var problems []error
	for _, r := range read {
		list = append(list, r.Rule)
		problems = append(problems, r.problems...)
	}
	return list, errors.Join(problems...)
}

// readRule is a rule as far as it could be read, and what is wrong with it.
type readRule struct {
	Rule
	label    string // how problems name the rule
	problems []error
}

// parse reads a list; the error says that the text holds none.
func parse(text string) ([]readRule, error) {
	if text == "" {
		return nil, nil
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("not valid UTF-8")
	}
	var items []json.RawMessage
	var syntax *json.SyntaxError
	switch err := json.Unmarshal([]byte(text), &items); {
	case errors.As(err, &syntax):
		before := text[:min(int(syntax.Offset), len(text))]
		line := strings.Count(before, "\n") + 1
		column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
		return nil, fmt.Errorf("not valid JSON: line %d, column %d: %w", line, column, err)
	case err != nil || items == nil:
		return nil, errors.New(`not a JSON list of rules such as [{"name":"urgent","when":"alert.severity == 'high'","then":{"priority":"P1"}}]`)
	}
	rules := make([]readRule, len(items))
	numbers := map[string]int{}
	for i, item := range items {
		r := &rules[i]
		*r = parseRule(item, i+1)
		if first, taken := numbers[r.Name]; taken && r.Name != "" {
			r.problems = append(r.problems, fmt.Errorf("rule %d: name is %q, as that of rule %d; allowed: a name of its own", i+1, r.Name, first))
		} else {
			numbers[r.Name] = i + 1
		}
	}
	return rules, nil
}

// parseRule reads one rule of a list, number counted from 1.
func parseRule(item json.RawMessage, number int) readRule {
	r := readRule{label: fmt.Sprintf("rule %d", number)}
	rule, ok := newObject(item, "")
	if !ok {
		rule.addProblem("is not a JSON object with name, when and then")
	} else {
		r.Name = rule.name()
		r.When = rule.condition()
		r.effects(rule)
		rule.unknown()
	}
	if r.Name != "" {
		r.label = fmt.Sprintf("rule %q", r.Name)
	}
	for _, problem := range rule.problems {
		r.problems = append(r.problems, fmt.Errorf("%s: %s", r.label, problem))
	}
	return r
}

// effects reads what a rule does.
func (r *readRule) effects(rule *object) {
	var raw json.RawMessage
	if !rule.decode("then", "a JSON object", &raw) {
		rule.addProblem(`then is missing; allowed: an object such as {"priority":"P1"}`)
		return
	}
	then, ok := newObject(raw, "then.")
	if !ok {
		rule.addProblem("then is not a JSON object")
		return
	}
	r.Priority = then.oneOf("priority", priorities)
	r.Escalate = then.boolean("escalate")
	r.SetStatus = then.oneOf("set_status", dtm.Statuses)
	r.Tags = then.tags("tags")
	r.Drop = then.boolean("drop")
	if stop := then.boolean("stop"); stop != nil {
		r.Stop = *stop
	}
	then.unknown()
	if len(then.problems) == 0 && r.Priority == "" && r.Escalate == nil && r.Drop == nil && r.SetStatus == "" && len(r.Tags) == 0 && !r.Stop {
		then.addProblem("then has no effect; needed: one at least of %s", strings.Join(then.known, ", "))
	}
	rule.problems = append(rule.problems, then.problems...)
}

// object holds what nobody has read yet of a JSON object, and what was wrong with the
// rest.
type object struct {
	path     string // stands before the names of its fields
	left     map[string]json.RawMessage
	known    []string
	problems []string
}

// newObject reads valid JSON; false when it is no object.
func newObject(raw json.RawMessage, path string) (*object, bool) {
	o := &object{path: path, left: map[string]json.RawMessage{}}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if open, _ := dec.Token(); open != json.Delim('{') {
		return o, false
	}
	for dec.More() {
		// The JSON is valid: nothing fails here.
		token, _ := dec.Token()
		var value json.RawMessage
		_ = dec.Decode(&value)
		name, _ := token.(string)
		if _, twice := o.left[name]; twice {
			o.addProblem("%s%s is there more than once", path, shorten(name))
		}
		o.left[name] = value
	}
	return o, true
}

func (o *object) addProblem(format string, args ...any) {
	o.problems = append(o.problems, fmt.Sprintf(format, args...))
}

// decode decodes a field into a pointer's target; false when it is absent, null, or
// not what kind says.
func (o *object) decode(name, kind string, into any) bool {
	o.known = append(o.known, name)
	raw, ok := o.left[name]
	delete(o.left, name)
	if !ok || string(raw) == "null" {
		return false
	}
	if json.Unmarshal(raw, into) != nil {
		o.addProblem("%s%s is %s; allowed: %s", o.path, name, shorten(string(raw)), kind)
		return false
	}
	return true
}

func (o *object) name() string {
	const allowed = "1 to 63 small letters, digits and -, the first one no -"
	var name string
	had := len(o.problems)
	switch {
	case o.decode("name", allowed, &name) && len(name) <= maxNameBytes && validName.MatchString(name):
		return name
	case name != "":
		o.addProblem("name is %q; allowed: %s", shorten(name), allowed)
	case len(o.problems) == had:
		o.addProblem("name is missing; allowed: %s", allowed)
	}
	return ""
}

func (o *object) condition() (when string) {
	had := len(o.problems)
	if o.decode("when", "a string with a CEL expression", &when); strings.TrimSpace(when) == "" && len(o.problems) == had {
		o.addProblem(`when is missing; allowed: a CEL expression such as "alert.severity == 'high'", or "true" for every alert`)
		return ""
	}
	return when
}

func (o *object) oneOf(name string, allowed []string) (value string) {
	if o.decode(name, strings.Join(allowed, ", "), &value) && !slices.Contains(allowed, value) {
		o.addProblem("%s%s is %q; allowed: %s", o.path, name, shorten(value), strings.Join(allowed, ", "))
		return ""
	}
	return value
}

// boolean is nil for a field that is absent.
func (o *object) boolean(name string) *bool {
	var value bool
	if !o.decode(name, "true or false", &value) {
		return nil
	}
	return &value
}

// tags reads a list of tags, each once, within the bounds of a write-back's.
func (o *object) tags(name string) (tags []string) {
	var items []*string // null is no tag
	if !o.decode(name, "a list of strings", &items) {
		return nil
	}
	if len(items) > maxTags {
		o.addProblem("%s%s has %d tags; allowed: %d", o.path, name, len(items), maxTags)
		return nil
	}
	for i, item := range items {
		if item == nil {
			o.addProblem("%s%s[%d] is null; allowed: a string", o.path, name, i)
			continue
		}
		tag := *item
		switch {
		case tag == "" || len(tag) > maxTagBytes:
			o.addProblem("%s%s[%d] has %d bytes; allowed: 1 to %d", o.path, name, i, len(tag), maxTagBytes)
		// An escape for half a character is read as U+FFFD.
		case strings.ContainsFunc(tag, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }):
			o.addProblem("%s%s[%d] holds a control character or half a character", o.path, name, i)
		case strings.TrimSpace(tag) != tag:
			o.addProblem("%s%s[%d] begins or ends with white space", o.path, name, i)
		// GTI's other clients compare tags without regard to case.
		case !slices.ContainsFunc(tags, func(t string) bool { return strings.EqualFold(t, tag) }):
			tags = append(tags, tag)
		}
	}
	return tags
}

// unknown finds the fields that nobody has read.
func (o *object) unknown() {
	for _, name := range slices.Sorted(maps.Keys(o.left)) {
		o.addProblem("%s%s is unknown, the nearest is %s%s; allowed: %s",
			o.path, shorten(name), o.path, nearest(name, o.known), strings.Join(o.known, ", "))
	}
}

// nearest is the known name that the unknown one was most likely meant to be: the one
// that takes the fewest changes of a letter, or that holds it as a part.
func nearest(name string, known []string) string {
	name = strings.ToLower(name)
	changes := func(to string) int {
		if len(name) > 2 && strings.Contains(to, name) {
			return 1
		}
		return distance(name, to)
	}
	return slices.MinFunc(known, func(a, b string) int { return changes(a) - changes(b) })
}

// distance counts the bytes to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	a = a[:min(len(a), 100)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// shorten keeps a value that is quoted in an error within a line.
func shorten(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
