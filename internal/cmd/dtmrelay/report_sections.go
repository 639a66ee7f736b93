package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// section is a picture and the tables below it.
type section struct {
	Title, Note string
	Wide        bool // over the whole width of the page
	Picture     *picture
	Tables      []reportTable
}

type reportTable struct {
	Head []string
	Rows [][]string
}

// Long tables are closed at first.
func (t reportTable) Long() bool { return len(t.Rows) > 12 }

// picture is columns with a scale, or bars one below the other.
type picture struct {
	Label   string // what a screen reader says
	Columns bool
	Scale   []string // of columns, from the top down
	Axis    []string // under columns
	Items   []item
	Legend  []string // severities that occur
}

type item struct {
	Label, Value string
	Parts        []part
}

// part is a rectangle, in percent of the picture's width and height.
type part struct {
	Class      string
	X, Y, W, H string
	Title      string
}

// sectionsOf is what is shown of the figures.
func sectionsOf(f figures) []section {
	severities := slices.DeleteFunc(slices.Clone(reportSeverities), func(severity string) bool {
		return !slices.ContainsFunc(f.Types, func(g groupFigure) bool { return g.BySeverity[severity] > 0 })
	})
	days := "By the day on which GTI created them, in " + f.Zone + "."
	if f.EarlierDay > 0 {
		days += fmt.Sprintf(" %d earlier ones are not shown.", f.EarlierDay)
	}
	return []section{
		{
			Title: "Alerts a day", Note: days, Wide: true,
			Picture: columnsOf("Alerts a day by severity", f.Days, severities),
			Tables:  []reportTable{groupTable("day", f.Days, severities, true)},
		},
		barSection("By type", "", "type", f.Types, severities, true),
		barSection("By monitor", "", "monitor", f.Monitors, severities, true),
		barSection("Open alerts by age", "Since GTI created them.", "age", f.OpenByAge, severities, false),
		spreadSection("Hours to triage", "From an alert's creation to the first status that is not new.", f.TriageHours, severities),
		spreadSection("Hours to closure", "From an alert's creation to the status that has closed it, of alerts that are closed now.", f.ClosureHours, severities),
		latenessSection(f, severities),
		requestSection(f),
	}
}

func barSection(title, note, what string, groups []groupFigure, severities []string, open bool) section {
	return section{
		Title: title, Note: note,
		Picture: barsOf(title, groups, severities),
		Tables:  []reportTable{groupTable(what, groups, severities, open)},
	}
}

func spreadSection(title, note string, s spread, severities []string) section {
	if s.Count == 0 {
		return section{Title: title, Note: note + " There is none yet."}
	}
	sec := barSection(title, note, "hours", s.Spans, severities, false)
	sec.Tables = append([]reportTable{summaryTable(s, severities)}, sec.Tables...)
	return sec
}

func latenessSection(f figures, severities []string) section {
	const note = "From an alert's creation to its publishing, in minutes. Alerts that are older than the relay's first run don't count, nor do those of backfills."
	if f.LatenessMinutes.Count == 0 {
		return section{Title: "Lateness", Note: "It is not known of any alert. Messages of the relay or its data (--data) say it, of alerts that are newer than its first run."}
	}
	sec := spreadSection("Lateness", note, f.LatenessMinutes, severities)
	sec.Tables[1].Head[0] = "minutes"
	return sec
}

func requestSection(f figures) section {
	if f.Requests == nil {
		return section{Title: "Requests to GTI", Note: "They are not known: the data of a relay say it (--data)."}
	}
	groups := make([]groupFigure, 0, len(f.Requests.Hours))
	table := reportTable{Head: []string{"hour", "requests"}}
	for _, h := range f.Requests.Hours {
		name := h.Start.Format("01-02 15:04")
		groups = append(groups, groupFigure{Name: name, Alerts: int(h.Requests)})
		table.Rows = append(table.Rows, []string{name, strconv.FormatInt(h.Requests, 10)})
	}
	return section{
		Title:   "Requests to GTI",
		Note:    fmt.Sprintf("%d in the last 24 hours, by the hour; %d error answers within the last one.", f.Requests.Total, f.Requests.ErrorAnswers),
		Picture: columnsOf("Requests an hour", groups, nil),
		Tables:  []reportTable{table},
	}
}

func groupTable(what string, groups []groupFigure, severities []string, open bool) reportTable {
	t := reportTable{Head: []string{what, "alerts"}}
	if open {
		t.Head = append(t.Head, "open")
	}
	t.Head = append(t.Head, severities...)
	for _, g := range groups {
		row := []string{g.Name, strconv.Itoa(g.Alerts)}
		if open {
			row = append(row, strconv.Itoa(g.Open))
		}
		for _, severity := range severities {
			row = append(row, strconv.Itoa(g.BySeverity[severity]))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func summaryTable(s spread, severities []string) reportTable {
	t := reportTable{Head: []string{"severity", "alerts", "median", "90 % within", "most"}}
	row := func(name string, s summary) {
		t.Rows = append(t.Rows, []string{name, strconv.Itoa(s.Count), oneDecimal(s.Median), oneDecimal(s.P90), oneDecimal(s.Max)})
	}
	for _, severity := range severities {
		if s := s.BySeverity[severity]; s.Count > 0 {
			row(severity, s)
		}
	}
	row("all", s.summary)
	return t
}

func oneDecimal(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

func cssPercent(share float64) string { return strconv.FormatFloat(100*share, 'f', 3, 64) + "%" }

// partsOf are a group's counts by severity, or all in one where there are none.
func partsOf(g groupFigure, severities []string) (classes []string, counts []int) {
	if severities == nil {
		return []string{"plain"}, []int{g.Alerts}
	}
	for _, severity := range severities {
		classes, counts = append(classes, severity), append(counts, g.BySeverity[severity])
	}
	return classes, counts
}

func most(groups []groupFigure) int {
	n := 0
	for _, g := range groups {
		n = max(n, g.Alerts)
	}
	return n
}

// columnsOf is a picture of columns; nil of nothing.
func columnsOf(label string, groups []groupFigure, severities []string) *picture {
	if most(groups) == 0 {
		return nil
	}
	top := roundUp(most(groups))
	p := &picture{Label: label, Columns: true, Legend: severities, Scale: []string{strconv.Itoa(top), strconv.Itoa(top / 2), "0"}}
	n := float64(len(groups))
	for i, g := range groups {
		it := item{Label: g.Name}
		sum := 0
		classes, counts := partsOf(g, severities)
		for j, class := range classes {
			count := counts[j]
			if count == 0 {
				continue
			}
			sum += count
			it.Parts = append(it.Parts, part{
				Class: class, Title: fmt.Sprintf("%s: %d %s", g.Name, count, class),
				X: cssPercent((float64(i) + 0.1) / n), W: cssPercent(0.8 / n),
				Y: cssPercent(1 - float64(sum)/float64(top)), H: cssPercent(float64(count) / float64(top)),
			})
		}
		p.Items = append(p.Items, it)
	}
	p.Axis = []string{groups[0].Name}
	if len(groups) > 2 {
		p.Axis = append(p.Axis, groups[len(groups)/2].Name)
	}
	if len(groups) > 1 {
		p.Axis = append(p.Axis, groups[len(groups)-1].Name)
	}
	return p
}

// roundUp is the next number of 2, 4, 10, 20, 40, 100 and so on: its half is whole.
func roundUp(n int) int {
	for unit := 1; ; unit *= 10 {
		for _, step := range []int{2, 4, 10} {
			if n <= step*unit || unit > math.MaxInt32 {
				return step * unit
			}
		}
	}
}

// barsOf is a picture of bars; nil of nothing.
func barsOf(label string, groups []groupFigure, severities []string) *picture {
	longest := most(groups)
	if longest == 0 {
		return nil
	}
	p := &picture{Label: label, Legend: severities}
	for _, g := range groups {
		it := item{Label: g.Name, Value: strconv.Itoa(g.Alerts)}
		sum := 0
		classes, counts := partsOf(g, severities)
		for j, class := range classes {
			if counts[j] == 0 {
				continue
			}
			it.Parts = append(it.Parts, part{
				Class: class, Title: fmt.Sprintf("%s: %d %s", g.Name, counts[j], class),
				X: cssPercent(float64(sum) / float64(longest)), W: cssPercent(float64(counts[j]) / float64(longest)), Y: "0", H: "100%",
			})
			sum += counts[j]
		}
		p.Items = append(p.Items, it)
	}
	return p
}
