package dtmsim

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Statuses are the API's values of status.
var Statuses = []string{
	"new", "read", "escalated", "in_progress", "closed",
	"no_action_required", "duplicate", "not_relevant", "tracked_external",
}

// Severities are the API's values of severity.
var Severities = []string{"high", "medium", "low"}

var sortKeys = []string{"created_at", "updated_at", "id", "monitor_id"}

// query is a list request's parameters.
type query struct {
	since, until time.Time // since ≤ created_at < until, whatever the reading; zero is open
	size         int
	refs         bool
	sort         string
	desc         bool
	life         time.Duration
	monitorName  bool

	monitors, statuses, types, tags, matchValues, severities []string
	mscore                                                   *int
	hasAnalysis                                              *bool
	search                                                   [][]string

	tagsAll             bool
	mscoreMissingPasses bool
}

// parameterError is a parameter that the API can't read.
type parameterError struct{ name string }

func (e parameterError) Error() string { return fmt.Sprintf("invalid %s parameter", e.name) }

// parseQuery reads the parameters. Repeated keys are lists, empty values count as
// absent, unknown parameters are ignored.
func parseQuery(v url.Values, o *Options, now time.Time) (query, error) {
	p := parameters{values: v}
	q := query{
		refs:        p.bool("refs", true),
		sort:        p.oneOf("sort", sortKeys, "created_at"),
		desc:        p.oneOf("order", []string{"asc", "desc"}, "desc") == "desc",
		monitorName: p.bool("monitor_name", false),
		life:        min(p.duration("life", o.DefaultLife), o.MaxLife),

		monitors:    p.list("monitor_id", nil),
		statuses:    p.list("status", Statuses),
		types:       p.list("alert_type", nil),
		tags:        p.list("tags", nil),
		matchValues: p.list("match_value", nil),
		severities:  p.list("severity", Severities),
		search:      p.search(),

		tagsAll:             o.TagsAll,
		mscoreMissingPasses: o.MScoreMissingPasses,
	}
	if v.Get("mscore_gte") != "" {
		q.mscore = new(p.int("mscore_gte", 0, 0, 100))
	}
	if v.Get("has_analysis") != "" {
		q.hasAnalysis = new(p.bool("has_analysis", false))
	}

	largest := maxSizeSlim
	if q.refs {
		largest = maxSizeRefs
	}
	if o.MaxSize > 0 {
		largest = min(largest, o.MaxSize)
	}
	bound := 1 << 30
	if o.RejectOversize {
		bound = largest
	}
	q.size = min(p.int("size", defaultSize, 1, bound), largest)

	q.since = p.time("since")
	if o.SinceMaxAge > 0 {
		oldest := millis(now.Add(-o.SinceMaxAge))
		switch {
		case o.SinceTooOld == Clamp && q.since.Before(oldest):
			q.since = oldest
		case !q.since.IsZero() && q.since.Before(oldest):
			p.fail("since")
		}
	}
	if !q.since.IsZero() && o.Since == Exclusive {
		q.since = q.since.Add(time.Millisecond)
	}
	q.until = p.time("until")
	if !q.until.IsZero() && o.Until != Exclusive {
		q.until = q.until.Add(time.Millisecond)
	}
	return q, p.err
}

// matches says whether an alert passes the filter; the bounds are the index's matter.
func (q *query) matches(a *Alert) bool {
	return among(q.monitors, a.MonitorID) &&
		among(q.statuses, a.Status) &&
		among(q.types, a.Type) &&
		among(q.severities, a.Severity) &&
		q.tagsMatch(a) &&
		(len(q.matchValues) == 0 || slices.ContainsFunc(a.MatchValues, func(v string) bool { return slices.Contains(q.matchValues, v) })) &&
		(q.mscore == nil || a.MScore == nil && q.mscoreMissingPasses || a.MScore != nil && *a.MScore >= *q.mscore) &&
		(q.hasAnalysis == nil || a.HasAnalysis == *q.hasAnalysis) &&
		(len(q.search) == 0 || searchMatches(q.search, a))
}

func (q *query) tagsMatch(a *Alert) bool {
	if len(q.tags) == 0 {
		return true
	}
	has := func(tag string) bool { return slices.Contains(a.Tags, tag) }
	if q.tagsAll {
		return !slices.ContainsFunc(q.tags, func(tag string) bool { return !has(tag) })
	}
	return slices.ContainsFunc(q.tags, has)
}

func among(allowed []string, value string) bool {
	return len(allowed) == 0 || slices.Contains(allowed, value)
}

// searchMatches looks a search up: one of the groups, every word of it. A word is
// found anywhere in the alert; field:word looks for the word alone.
func searchMatches(groups [][]string, a *Alert) bool {
	text := strings.ToLower(string(a.Body))
	return slices.ContainsFunc(groups, func(words []string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
	})
}

// parameters reads values and keeps the first that can't be read.
type parameters struct {
	values url.Values
	err    error
}

func (p *parameters) fail(name string) {
	if p.err == nil {
		p.err = parameterError{name}
	}
}

func (p *parameters) bool(name string, otherwise bool) bool {
	text := p.values.Get(name)
	if text == "" {
		return otherwise
	}
	// DTM API: True and False, as Python writes them, are accepted too.
	value, err := strconv.ParseBool(text)
	if err != nil {
		p.fail(name)
	}
	return value
}

func (p *parameters) int(name string, otherwise, lowest, highest int) int {
	text := p.values.Get(name)
	if text == "" {
		return otherwise
	}
	value, err := strconv.Atoi(text)
	if err != nil || value < lowest || value > highest {
		p.fail(name)
	}
	return value
}

func (p *parameters) oneOf(name string, allowed []string, otherwise string) string {
	text := p.values.Get(name)
	if text == "" {
		return otherwise
	}
	if !slices.Contains(allowed, text) {
		p.fail(name)
	}
	return text
}

func (p *parameters) list(name string, allowed []string) []string {
	var values []string
	for _, text := range p.values[name] {
		if text == "" {
			continue
		}
		if allowed != nil && !slices.Contains(allowed, text) {
			p.fail(name)
		}
		values = append(values, text)
	}
	return values
}

func (p *parameters) duration(name string, otherwise time.Duration) time.Duration {
	text := p.values.Get(name)
	if text == "" {
		return otherwise
	}
	value, err := time.ParseDuration(text)
	if err != nil || value <= 0 {
		p.fail(name)
	}
	return value
}

func (p *parameters) time(name string) time.Time {
	text := p.values.Get(name)
	if text == "" {
		return time.Time{}
	}
	value, err := time.Parse(time.RFC3339, text)
	if err != nil {
		p.fail(name)
	}
	return millis(value)
}

// search reads the part of Lucene's language that is simulated: words and quoted
// phrases, AND, and OR between them, which is also what stands between two words.
func (p *parameters) search() [][]string {
	text := p.values.Get("search")
	if p.oneOf("search_encoding", []string{"base64"}, "") == "base64" {
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			p.fail("search")
		}
		text = string(decoded)
	}
	var groups [][]string
	and := false
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		var word string
		if text[0] == '"' {
			var closed bool
			word, text, closed = strings.Cut(text[1:], `"`)
			if !closed {
				p.fail("search")
			}
		} else {
			word, text, _ = strings.Cut(text, " ")
			if word == "AND" || word == "OR" {
				and = word == "AND" && len(groups) > 0
				continue
			}
			if _, value, isField := strings.Cut(word, ":"); isField {
				word = value
			}
		}
		word = strings.ToLower(strings.Trim(word, `"`))
		if and {
			groups[len(groups)-1] = append(groups[len(groups)-1], word)
		} else {
			groups = append(groups, []string{word})
		}
		and = false
	}
	return groups
}
