package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/strictjson"
)

const maxNameBytes = 63

// A count in the expression would be compiled as so many copies, at every cold start.
var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

var priorities = []string{"P1", "P2", "P3", "P4"}

// readRule is a rule as far as it could be read, and what is wrong with it.
type readRule struct {
	Rule
	label    string // how problems name the rule
	problems []error
}

// parse reads a list without looking into the conditions. The error says that the text
// holds no list.
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
		rule.AddProblem("is not a JSON object with name, when and then")
	} else {
		r.Name = rule.name()
		r.When = rule.condition()
		r.effects(rule)
		rule.addUnknown()
	}
	if r.Name != "" {
		r.label = fmt.Sprintf("rule %q", r.Name)
	}
	for _, problem := range rule.Problems() {
		r.problems = append(r.problems, fmt.Errorf("%s: %s", r.label, problem))
	}
	return r
}

// effects reads what a rule does.
func (r *readRule) effects(rule object) {
	var raw json.RawMessage
	if !rule.Decode("then", "a JSON object", &raw) {
		rule.AddProblem(`then is missing; allowed: an object such as {"priority":"P1"}`)
		return
	}
	then, ok := newObject(raw, "then.")
	if !ok {
		rule.AddProblem("then is not a JSON object")
		return
	}
	r.Priority = then.oneOf("priority", priorities)
	r.Escalate = then.boolean("escalate")
	r.SetStatus = then.oneOf("set_status", dtm.Statuses)
	r.Tags = then.Tags("tags")
	r.Drop = then.boolean("drop")
	r.Stop = then.Bool("stop")
	then.addUnknown()
	if len(then.Problems()) == 0 && r.Priority == "" && r.Escalate == nil && r.Drop == nil && r.SetStatus == "" && len(r.Tags) == 0 && !r.Stop {
		then.AddProblem("then has no effect; needed: one at least of %s", strings.Join(then.Known(), ", "))
	}
	for _, problem := range then.Problems() {
		rule.AddProblem("%s", problem)
	}
}

// object is a rule, or what is in its then, of which the fields are being read.
type object struct{ *strictjson.Object }

// newObject reads valid JSON; false when it is no object.
func newObject(raw json.RawMessage, path string) (object, bool) {
	o, err := strictjson.Parse(raw)
	if err != nil {
		return object{&strictjson.Object{}}, false
	}
	o.Path = path
	o.Mismatch = func(name, allowed string, value json.RawMessage) string {
		return fmt.Sprintf("%s is %s; allowed: %s", name, dtm.Shorten(string(value)), allowed)
	}
	o.AddRepeated()
	return object{o}, true
}

func (o object) name() string {
	const allowed = "1 to 63 small letters, digits and -, the first one no -"
	var name string
	had := len(o.Problems())
	switch {
	case o.Decode("name", allowed, &name) && len(name) <= maxNameBytes && validName.MatchString(name):
		return name
	case name != "":
		o.AddProblem("name is %q; allowed: %s", dtm.Shorten(name), allowed)
	case len(o.Problems()) == had:
		o.AddProblem("name is missing; allowed: %s", allowed)
	}
	return ""
}

func (o object) condition() (when string) {
	had := len(o.Problems())
	if o.Decode("when", "a string with a CEL expression", &when); strings.TrimSpace(when) == "" && len(o.Problems()) == had {
		o.AddProblem(`when is missing; allowed: a CEL expression such as "alert.severity == 'high'", or "true" for every alert`)
		return ""
	}
	return when
}

func (o object) oneOf(name string, allowed []string) (value string) {
	if o.Decode(name, strings.Join(allowed, ", "), &value) && !slices.Contains(allowed, value) {
		o.AddProblem("%s%s is %q; allowed: %s", o.Path, name, dtm.Shorten(value), strings.Join(allowed, ", "))
		return ""
	}
	return value
}

// boolean is nil for a field that is absent.
func (o object) boolean(name string) *bool {
	var value bool
	if !o.Decode(name, "true or false", &value) {
		return nil
	}
	return &value
}

// addUnknown adds a problem for each field that was not decoded.
func (o object) addUnknown() {
	for _, name := range o.Unknown() {
		o.AddProblem("%s%s is unknown, the nearest is %s%s; allowed: %s",
			o.Path, dtm.Shorten(name), o.Path, nearest(name, o.Known()), strings.Join(o.Known(), ", "))
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
