package dtm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Filter says which alerts the API returns; its empty parts filter nothing.
// The parts have the names of the API's parameters.
type Filter struct {
	MonitorID   []string `json:"monitor_id,omitempty"`
	Status      []string `json:"status,omitempty"`
	AlertType   []string `json:"alert_type,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	MatchValue  []string `json:"match_value,omitempty"`
	Severity    []string `json:"severity,omitempty"`
	MScoreGTE   *int     `json:"mscore_gte,omitempty"` // 0 to 100
	Search      string   `json:"search,omitempty"`     // Lucene syntax
	HasAnalysis *bool    `json:"has_analysis,omitempty"`
}

// Statuses are the statuses that an alert may have (DTM API).
var Statuses = []string{
	"new", "read", "escalated", "in_progress", "closed", "no_action_required",
	"duplicate", "not_relevant", "tracked_external",
}

// Severities are the severities that an alert may have (DTM API), the worst first.
var Severities = []string{"high", "medium", "low"}

var (
	// alertTypes are the ones known in 2026. The API's list grows.
	alertTypes = []string{
		"Compromised Credentials", "Document", "Domain Discovery", "Email", "Forum Post",
		"Message", "Paste", "Shop Listing", "Tweet", "Web Content",
	}
	// relevanceWords are the states and severities of the Relevance System ("My
	// Landscape", threatintelligence.googleapis.com v1beta) that DTM doesn't have.
	relevanceWords = []string{
		"triaged", "resolved", "false_positive", "not_actionable", "benign", "tracked_externally", "critical",
	}
	filterNames = []string{
		"monitor_id", "status", "alert_type", "tags", "match_value", "severity",
		"mscore_gte", "search", "has_analysis",
	}
)

// ParseFilter reads a JSON object with the API's parameter names; an empty text
// is the empty filter. The error holds every problem. A warning is something
// that will be sent as it is but may be a mistake.
func ParseFilter(text string) (f Filter, warnings []string, err error) {
	if text == "" {
		return Filter{}, nil, nil
	}
	if !utf8.ValidString(text) {
		return Filter{}, nil, errors.New("not valid UTF-8")
	}
	top, ok := object([]byte(text))
	if !ok {
		var value json.RawMessage
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return Filter{}, nil, fmt.Errorf("not a JSON object: %w", err)
		}
		return Filter{}, nil, errors.New(`not a JSON object such as {"severity":["high"]}`)
	}
	var problems []error
	seen := map[string]bool{}
	for nameBytes, value := range members(top) {
		name := string(nameBytes)
		if seen[name] {
			problems = append(problems, fmt.Errorf("%s: named more than once", Shorten(name)))
		}
		seen[name] = true
		var err error
		switch name {
		case "monitor_id":
			f.MonitorID, err = stringList(value)
		case "status":
			f.Status, err = enumList(value, Statuses)
		case "alert_type":
			f.AlertType, err = stringList(value)
			for _, t := range f.AlertType {
				if !slices.Contains(alertTypes, t) {
					warnings = append(warnings, fmt.Sprintf("alert_type: %q is none of the types known to this version (%s); it is sent as it is",
						Shorten(t), strings.Join(alertTypes, ", ")))
				}
			}
		case "tags":
			f.Tags, err = stringList(value)
		case "match_value":
			f.MatchValue, err = stringList(value)
		case "severity":
			f.Severity, err = enumList(value, Severities)
		case "mscore_gte":
			f.MScoreGTE, err = score(value)
		case "search":
			if f.Search, ok = stringValue(value); !ok {
				err = fmt.Errorf("is %s, must be a string", kind(value))
			}
		case "has_analysis":
			var b bool
			if err = json.Unmarshal(value, &b); err != nil || value[0] == 'n' {
				err = fmt.Errorf("is %s, must be true or false", kind(value))
			}
			f.HasAnalysis = &b
		default:
			problems = append(problems, fmt.Errorf("%s: unknown name (allowed: %s)", Cut(strconv.Quote(name), 100), strings.Join(filterNames, ", ")))
		}
		for _, err := range Problems(err) {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
	}
	if n := f.size(); len(problems) == 0 && n > maxFilter {
		problems = append(problems, fmt.Errorf("too long: %d bytes as a part of a URL (allowed: %d)", n, maxFilter))
	}
	if len(problems) > 0 {
		return Filter{}, warnings, errors.Join(problems...)
	}
	return f, warnings, nil
}

// maxFilter is how many bytes of a request's URL a filter may take. The API's limit is not
// known; what is longer than any server takes would be refused with every request.
const maxFilter = 32_000

func (f Filter) size() int {
	v := url.Values{}
	f.addTo(v)
	return len(v.Encode())
}

// Problems takes joined errors apart, so that each can be told by itself.
func Problems(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !ok:
		return []error{err}
	}
	var list []error
	for _, e := range joined.Unwrap() {
		list = append(list, Problems(e)...)
	}
	return list
}

func stringList(value []byte) ([]string, error) {
	if value[0] != '[' {
		return nil, fmt.Errorf(`is %s, must be a list of strings such as ["a","b"]`, kind(value))
	}
	var list []string
	var problems []error
	n := 0
	for item := range elements(value) {
		n++
		switch s, ok := stringValue(item); {
		case !ok:
			problems = append(problems, fmt.Errorf("item %d is %s, must be a string", n, kind(item)))
		case strings.TrimSpace(s) == "":
			problems = append(problems, fmt.Errorf("item %d is empty", n))
		default:
			list = append(list, s)
		}
	}
	return normal(list), errors.Join(problems...)
}

func enumList(value []byte, allowed []string) ([]string, error) {
	list, err := stringList(value)
	problems := []error{err}
	for _, s := range list {
		if !slices.Contains(allowed, s) {
			err := fmt.Errorf("unknown value %q (allowed: %s)", Shorten(s), strings.Join(allowed, ", "))
			if slices.Contains(relevanceWords, strings.ToLower(s)) {
				err = fmt.Errorf("%w; it is a word of Google's Relevance System, another product, and DTM has no such value", err)
			}
			problems = append(problems, err)
		}
	}
	return list, errors.Join(problems...)
}

func score(value []byte) (*int, error) {
	var n int
	if !isNumber(value) || json.Unmarshal(value, &n) != nil || n < 0 || n > 100 {
		return nil, errors.New("must be a whole number from 0 to 100")
	}
	return &n, nil
}

// kind names a JSON value's type for an error.
func kind(value []byte) string {
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// normal sorts a list and removes repetitions: neither means anything to the API.
func normal(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// String returns the filter as JSON that ParseFilter reads. Filters that select
// the same have the same text, whatever the order of their lists.
func (f Filter) String() string {
	for _, list := range []*[]string{&f.MonitorID, &f.Status, &f.AlertType, &f.Tags, &f.MatchValue, &f.Severity} {
		*list = normal(*list)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(f); err != nil {
		panic(err) // strings, numbers and booleans can always be written
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// HasMutable reports whether the filter has a part that looks at what can change
// while an alert lives, so that alerts may leave a list while it is read.
func (f Filter) HasMutable() bool {
	return len(f.Status) > 0 || len(f.Tags) > 0 || len(f.Severity) > 0 ||
		f.MScoreGTE != nil || f.Search != "" || f.HasAnalysis != nil
}

// Immutable returns the parts of the filter that look at what stays as it is while
// an alert lives: all that HasMutable doesn't ask about.
func (f Filter) Immutable() Filter {
	return Filter{MonitorID: f.MonitorID, AlertType: f.AlertType, MatchValue: f.MatchValue}
}

// addTo adds the filter's parameters; several values repeat the name (DTM API).
func (f Filter) addTo(v url.Values) {
	for name, list := range map[string][]string{
		"monitor_id": f.MonitorID, "status": f.Status, "alert_type": f.AlertType,
		"tags": f.Tags, "match_value": f.MatchValue, "severity": f.Severity,
	} {
		for _, s := range list {
			v.Add(name, s)
		}
	}
	if f.MScoreGTE != nil {
		v.Set("mscore_gte", strconv.Itoa(*f.MScoreGTE))
	}
	if f.Search != "" {
		v.Set("search", f.Search)
	}
	if f.HasAnalysis != nil {
		v.Set("has_analysis", strconv.FormatBool(*f.HasAnalysis))
	}
}
