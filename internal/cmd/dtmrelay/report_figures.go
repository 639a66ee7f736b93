package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// figures are what a report says. Alerts are counted by their latest version.
type figures struct {
	Source      string    `json:"source"`
	GeneratedAt time.Time `json:"generated_at"`
	Zone        string    `json:"zone"` // of days and hours

	Alerts   int `json:"alerts"`
	Open     int `json:"open"`
	Closed   int `json:"closed"`
	Dropped  int `json:"dropped"`  // by rules, and not among the alerts
	Unusable int `json:"unusable"` // likewise

	Days       []groupFigure `json:"days"`         // every day from the first to the last, 90 at most
	EarlierDay int           `json:"earlier_days"` // alerts before these
	Types      []groupFigure `json:"types"`
	Monitors   []groupFigure `json:"monitors"`
	OpenByAge  []groupFigure `json:"open_by_age"`

	TriageHours     spread `json:"triage_hours"`
	ClosureHours    spread `json:"closure_hours"`
	LatenessMinutes spread `json:"lateness_minutes"`

	Requests *requestFigures `json:"requests"` // null: not known
}

// groupFigure counts alerts that have something in common.
type groupFigure struct {
	Name       string         `json:"name"`
	Alerts     int            `json:"alerts"`
	Open       int            `json:"open"`
	BySeverity map[string]int `json:"by_severity"`
}

// spread is how long something took.
type spread struct {
	summary
	BySeverity map[string]summary `json:"by_severity"`
	Spans      []groupFigure      `json:"spans"`
}

// summary has percentiles by the nearest rank; all are 0 of nothing.
type summary struct {
	Count  int     `json:"count"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	Max    float64 `json:"max"`
}

type requestFigures struct {
	Hours        []hourFigure `json:"hours"` // the last 24, the latest last
	Total        int64        `json:"total"`
	ErrorAnswers int64        `json:"error_answers_1h"`
}

type hourFigure struct {
	Start    time.Time `json:"start"`
	Requests int64     `json:"requests"`
}

const (
	mostDays     = 90
	mostMonitors = 20
)

// Severities in the order of a report. What is none of DTM's counts as other.
const otherSeverity = "other"

var reportSeverities = []string{"critical", "high", "medium", "low", otherSeverity}

func severityOf(a *lifetime) string {
	if slices.Contains(reportSeverities, a.severity) {
		return a.severity
	}
	return otherSeverity
}

// A bound is the end of a span of time, and the span's name.
type bound struct {
	name  string
	until time.Duration
}

const forEver = time.Duration(math.MaxInt64)

const day = 24 * time.Hour

var (
	ageBounds = []bound{
		{"under 1 hour", time.Hour},
		{"1 to 24 hours", day},
		{"1 to 3 days", 3 * day},
		{"3 to 7 days", 7 * day},
		{"7 to 30 days", 30 * day},
		{"30 days and more", forEver},
	}
	handlingBounds = []bound{
		{"under 1 hour", time.Hour},
		{"1 to 4 hours", 4 * time.Hour},
		{"4 to 24 hours", day},
		{"1 to 3 days", 3 * day},
		{"3 to 7 days", 7 * day},
		{"7 days and more", forEver},
	}
	latenessBounds = []bound{
		{"under 1 minute", time.Minute},
		{"1 to 5 minutes", 5 * time.Minute},
		{"5 to 15 minutes", 15 * time.Minute},
		{"15 to 60 minutes", time.Hour},
		{"1 to 24 hours", day},
		{"24 hours and more", forEver},
	}
)

// groups counts alerts by a name.
type groups map[string]*groupFigure

func (g groups) add(name string, a *lifetime) {
	f := g[name]
	if f == nil {
		f = &groupFigure{Name: name, BySeverity: map[string]int{}}
		g[name] = f
	}
	f.Alerts++
	if !a.closed() {
		f.Open++
	}
	f.BySeverity[severityOf(a)]++
}

// largest are the groups with the most alerts first, and the others as one.
func (g groups) largest(most int) []groupFigure {
	all := g.named(slices.SortedFunc(maps.Keys(g), func(a, b string) int {
		return cmp.Or(g[b].Alerts-g[a].Alerts, strings.Compare(a, b))
	}))
	if len(all) <= most {
		return all
	}
	rest := groupFigure{Name: fmt.Sprintf("%d others", len(all)-most), BySeverity: map[string]int{}}
	for _, f := range all[most:] {
		rest.Alerts += f.Alerts
		rest.Open += f.Open
		for severity, n := range f.BySeverity {
			rest.BySeverity[severity] += n
		}
	}
	return append(all[:most:most], rest)
}

// named are the groups of these names, in their order; one that has no alerts is empty.
func (g groups) named(names []string) []groupFigure {
	list := make([]groupFigure, 0, len(names))
	for _, name := range names {
		if f := g[name]; f != nil {
			list = append(list, *f)
		} else {
			list = append(list, groupFigure{Name: name, BySeverity: map[string]int{}})
		}
	}
	return list
}

func (g groups) inBounds(bounds []bound) []groupFigure {
	var names []string
	for _, b := range bounds {
		names = append(names, b.name)
	}
	return g.named(names)
}

func spanOf(d time.Duration, bounds []bound) string {
	for _, b := range bounds {
		if d < b.until {
			return b.name
		}
	}
	return bounds[len(bounds)-1].name
}

const dayForm = "2006-01-02"

// figuresOf counts. Days and hours are those of now's zone.
func figuresOf(r *records, now time.Time) figures {
	f := figures{
		Source: r.source, GeneratedAt: now.Truncate(time.Second), Zone: now.Format("MST"),
		Alerts: len(r.alerts), Dropped: r.dropped, Unusable: r.unusable,
	}
	days, types, monitors, ages := groups{}, groups{}, groups{}, groups{}
	triage, closure, lateness := newSpreads(time.Hour, handlingBounds), newSpreads(time.Hour, handlingBounds), newSpreads(time.Minute, latenessBounds)
	names := monitorNames(r)
	for _, a := range r.alerts {
		days.add(a.createdAt.In(now.Location()).Format(dayForm), a)
		types.add(cmp.Or(clean(a.alertType), "(none)"), a)
		monitors.add(names[a.monitorID], a)
		if a.closed() {
			f.Closed++
			closure.add(a.closedAt.Sub(a.createdAt), a)
		} else {
			f.Open++
			ages.add(spanOf(now.Sub(a.createdAt), ageBounds), a)
		}
		if !a.triagedAt.IsZero() {
			triage.add(a.triagedAt.Sub(a.createdAt), a)
		}
		if !a.relayedAt.IsZero() && !a.backfilled && !a.createdAt.Before(r.firstRun) {
			lateness.add(a.relayedAt.Sub(a.createdAt), a)
		}
	}
	f.Days, f.EarlierDay = lastDays(days)
	f.Types, f.Monitors = types.largest(len(types)), monitors.largest(mostMonitors)
	f.OpenByAge = ages.inBounds(ageBounds)
	f.TriageHours, f.ClosureHours, f.LatenessMinutes = triage.end(), closure.end(), lateness.end()
	if r.usage != nil {
		f.Requests = requestsOf(*r.usage, now)
	}
	return f
}

// monitorNames says how a report calls each monitor: two may have one name.
func monitorNames(r *records) map[string]string {
	names := map[string]string{}
	for _, a := range r.alerts {
		if name := clean(a.monitor); name != "" || names[a.monitorID] == "" {
			names[a.monitorID] = max(names[a.monitorID], name)
		}
	}
	holders := map[string]int{}
	for _, name := range names {
		holders[name]++
	}
	for id, name := range names {
		switch shown := clean(id); {
		case name == "":
			names[id] = cmp.Or(shown, "(none)")
		case holders[name] > 1:
			names[id] = name + " (" + shown + ")"
		}
	}
	return names
}

// lastDays are all days up to the last one that has alerts, and how many alerts are
// before these.
func lastDays(days groups) (list []groupFigure, earlier int) {
	if len(days) == 0 {
		return []groupFigure{}, 0
	}
	sorted := slices.Sorted(maps.Keys(days))
	last, err := time.Parse(dayForm, sorted[len(sorted)-1])
	if err != nil {
		return days.named(sorted), 0 // a year of more than four digits
	}
	var names []string
	for d := last; len(names) < mostDays && d.Format(dayForm) >= sorted[0]; d = d.AddDate(0, 0, -1) {
		names = append(names, d.Format(dayForm))
	}
	slices.Reverse(names)
	for name, f := range days {
		if name < names[0] {
			earlier += f.Alerts
		}
	}
	return days.named(names), earlier
}

// spreads gathers durations.
type spreads struct {
	unit   time.Duration
	bounds []bound
	all    []float64
	by     map[string][]float64
	spans  groups
}

func newSpreads(unit time.Duration, bounds []bound) *spreads {
	return &spreads{unit: unit, bounds: bounds, by: map[string][]float64{}, spans: groups{}}
}

// add takes clocks that differ for the same moment.
func (s *spreads) add(d time.Duration, a *lifetime) {
	d = max(0, d)
	value := float64(d) / float64(s.unit)
	s.all = append(s.all, value)
	s.by[severityOf(a)] = append(s.by[severityOf(a)], value)
	s.spans.add(spanOf(d, s.bounds), a)
}

func (s *spreads) end() spread {
	out := spread{summary: summaryOf(s.all), BySeverity: map[string]summary{}, Spans: s.spans.inBounds(s.bounds)}
	for severity, values := range s.by {
		out.BySeverity[severity] = summaryOf(values)
	}
	return out
}

func summaryOf(values []float64) summary {
	if len(values) == 0 {
		return summary{}
	}
	slices.Sort(values)
	rank := func(share float64) float64 {
		return values[int(math.Ceil(share*float64(len(values))))-1]
	}
	return summary{len(values), rank(0.5), rank(0.9), values[len(values)-1]}
}

func requestsOf(usage state.Usage, now time.Time) *requestFigures {
	f := &requestFigures{}
	latest := now.Truncate(state.RequestBucket)
	for i := state.RequestBuckets - 1; i >= 0; i-- {
		start := latest.Add(-time.Duration(i) * state.RequestBucket)
		n := usage.Requests[start.Unix()]
		f.Hours = append(f.Hours, hourFigure{start, n})
		f.Total += n
	}
	for i := range state.ErrorBuckets {
		f.ErrorAnswers += usage.Errors[now.Truncate(state.ErrorBucket).Add(-time.Duration(i)*state.ErrorBucket).Unix()]
	}
	return f
}
