package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// told is an alert as the test has thought of it.
type told struct {
	id, alertType, severity string
	monitorID, monitor      string
	created                 time.Time
	statuses                []lifeVersion // at different times, the first at created
	relayed                 time.Time     // in whole seconds
	backfill                bool
}

var reportNow = time.Date(2026, 3, 29, 12, 34, 56, 0, time.FixedZone("CEST", 2*60*60))

func drawAlerts(t *rapid.T) []told {
	names := map[string]string{"m1": `Brand <"x">`, "m2": "Same", "m3": "Same", "": ""}
	all := make([]told, rapid.IntRange(0, 30).Draw(t, "alerts"))
	for i := range all {
		back := time.Duration(rapid.Int64Range(0, int64(100*day/time.Millisecond)).Draw(t, "back")) * time.Millisecond
		a := told{
			id:        fmt.Sprintf("a%d", i),
			alertType: rapid.SampledFrom([]string{"Tweet", "Forum Post", "=1+1", "", "<u>Bold</u>"}).Draw(t, "type"),
			severity:  rapid.SampledFrom([]string{"high", "medium", "low", "", "severe"}).Draw(t, "severity"),
			monitorID: rapid.SampledFrom([]string{"m1", "m2", "m3", ""}).Draw(t, "monitor"),
			created:   reportNow.Add(-back).UTC().Truncate(time.Millisecond),
			backfill:  rapid.IntRange(0, 4).Draw(t, "backfill") == 0,
		}
		a.monitor = names[a.monitorID]
		at := a.created
		for range rapid.IntRange(1, 5).Draw(t, "versions") {
			status := rapid.SampledFrom([]string{"new", "new", "read", "in_progress", "closed", "duplicate", "not_relevant"}).Draw(t, "status")
			a.statuses = append(a.statuses, lifeVersion{at, status})
			at = at.Add(time.Duration(rapid.Int64Range(1, int64(10*day/time.Millisecond)).Draw(t, "later")) * time.Millisecond)
			if at.After(reportNow) {
				break
			}
		}
		a.relayed = a.created.Add(time.Second + time.Duration(rapid.Int64Range(0, int64(2*day/time.Second)).Draw(t, "late"))*time.Second).Truncate(time.Second)
		all[i] = a
	}
	return all
}

// truth counts in another way than the report: each figure by itself, from the alerts as
// they were thought of.
type truth struct {
	alerts []told
	// firstRun is the start of the relay's first run.
	firstRun time.Time
}

func (a told) isClosed() bool {
	switch a.statuses[len(a.statuses)-1].status {
	case "closed", "duplicate", "not_relevant":
		return true
	}
	return false
}

func (a told) class() string {
	switch a.severity {
	case "high", "medium", "low":
		return a.severity
	}
	return "other"
}

func (tr truth) count(has func(told) bool) int {
	return len(slices.DeleteFunc(slices.Clone(tr.alerts), func(a told) bool { return !has(a) }))
}

func (tr truth) group(name string, in func(told) bool) groupFigure {
	g := groupFigure{Name: name, Alerts: tr.count(in), BySeverity: map[string]int{}}
	g.Open = tr.count(func(a told) bool { return in(a) && !a.isClosed() })
	for _, severity := range []string{"high", "medium", "low", "other"} {
		if n := tr.count(func(a told) bool { return in(a) && a.class() == severity }); n > 0 {
			g.BySeverity[severity] = n
		}
	}
	return g
}

// took is a duration of some alerts.
type took func(told) (time.Duration, bool)

func toTriage(a told) (time.Duration, bool) {
	for _, s := range a.statuses {
		if s.status != "new" {
			return s.at.Sub(a.created), true
		}
	}
	return 0, false
}

func toClosure(a told) (time.Duration, bool) {
	if !a.isClosed() {
		return 0, false
	}
	closed := a.statuses
	for i := range a.statuses {
		if before := (told{statuses: a.statuses[:i+1]}); !before.isClosed() {
			closed = a.statuses[i+1:]
		}
	}
	return closed[0].at.Sub(a.created), true
}

func (tr truth) late(a told) (time.Duration, bool) {
	return a.relayed.Sub(a.created), !a.backfill && !a.created.Before(tr.firstRun)
}

// summary of those of a severity, of all for an empty one. A percentile is the least
// value that so many are not above.
func (tr truth) summary(f took, unit time.Duration, severity string) summary {
	var values []float64
	for _, a := range tr.alerts {
		if d, ok := f(a); ok && (severity == "" || a.class() == severity) {
			values = append(values, float64(d)/float64(unit))
		}
	}
	least := func(percent int) (best float64) {
		found := false
		for _, v := range values {
			below := 0
			for _, w := range values {
				if w <= v {
					below++
				}
			}
			if below*100 >= percent*len(values) && (!found || v < best) {
				best, found = v, true
			}
		}
		return best
	}
	return summary{Count: len(values), Median: least(50), P90: least(90), Max: least(100)}
}

func (tr truth) spread(f took, unit time.Duration, names []string, limits []time.Duration) spread {
	s := spread{summary: tr.summary(f, unit, ""), BySeverity: map[string]summary{}}
	for _, severity := range []string{"high", "medium", "low", "other"} {
		if one := tr.summary(f, unit, severity); one.Count > 0 {
			s.BySeverity[severity] = one
		}
	}
	for i, name := range names {
		s.Spans = append(s.Spans, tr.group(name, func(a told) bool {
			d, ok := f(a)
			return ok && (i == 0 || d >= limits[i-1]) && (i == len(limits) || d < limits[i])
		}))
	}
	return s
}

func (tr truth) figures() figures {
	const hour = time.Hour
	everything := func(told) bool { return true }
	f := figures{
		Zone: "CEST", GeneratedAt: reportNow, Alerts: tr.count(everything),
		Open: tr.count(func(a told) bool { return !a.isClosed() }), Closed: tr.count(told.isClosed),
	}
	day := func(t time.Time) string { return t.Add(2 * hour).UTC().Format("2006-01-02") }
	first, last := "9", ""
	for _, a := range tr.alerts {
		first, last = min(first, day(a.created)), max(last, day(a.created))
	}
	f.Days = []groupFigure{}
	for back := 200; back >= 0; back-- {
		name := day(reportNow.Add(-time.Duration(back) * 24 * hour))
		if name >= first && name <= last {
			f.Days = append(f.Days, tr.group(name, func(a told) bool { return day(a.created) == name }))
		}
	}
	f.Days = f.Days[max(0, len(f.Days)-90):]
	if len(f.Days) > 0 {
		f.EarlierDay = tr.count(func(a told) bool { return day(a.created) < f.Days[0].Name })
	}
	for _, name := range []string{"(none)", "<u>Bold</u>", "=1+1", "Forum Post", "Tweet"} {
		f.Types = append(f.Types, tr.group(name, func(a told) bool { return a.alertType == name || a.alertType+name == "(none)" }))
	}
	both := tr.count(func(a told) bool { return a.monitorID == "m2" }) > 0 && tr.count(func(a told) bool { return a.monitorID == "m3" }) > 0
	for _, name := range []string{"(none)", `Brand <"x">`, "Same", "Same (m2)", "Same (m3)"} {
		f.Monitors = append(f.Monitors, tr.group(name, func(a told) bool {
			switch {
			case a.monitorID == "":
				return name == "(none)"
			case both && a.monitor == "Same":
				return name == "Same ("+a.monitorID+")"
			}
			return a.monitor == name
		}))
	}
	for _, list := range []*[]groupFigure{&f.Types, &f.Monitors} {
		*list = slices.DeleteFunc(*list, func(g groupFigure) bool { return g.Alerts == 0 })
		slices.SortStableFunc(*list, func(a, b groupFigure) int { return b.Alerts - a.Alerts })
	}
	f.OpenByAge = tr.spread(func(a told) (time.Duration, bool) { return reportNow.Sub(a.created), !a.isClosed() }, hour,
		[]string{"under 1 hour", "1 to 24 hours", "1 to 3 days", "3 to 7 days", "7 to 30 days", "30 days and more"},
		[]time.Duration{hour, 24 * hour, 72 * hour, 168 * hour, 720 * hour}).Spans
	names := []string{"under 1 hour", "1 to 4 hours", "4 to 24 hours", "1 to 3 days", "3 to 7 days", "7 days and more"}
	limits := []time.Duration{hour, 4 * hour, 24 * hour, 72 * hour, 168 * hour}
	f.TriageHours, f.ClosureHours = tr.spread(toTriage, hour, names, limits), tr.spread(toClosure, hour, names, limits)
	f.LatenessMinutes = tr.spread(tr.late, time.Minute,
		[]string{"under 1 minute", "1 to 5 minutes", "5 to 15 minutes", "15 to 60 minutes", "1 to 24 hours", "24 hours and more"},
		[]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, hour, 24 * hour})
	return f
}

var sameFigures = cmp.Options{
	cmp.AllowUnexported(spread{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(figures{}, "Source", "Requests"),
}

// lines are the messages of an alert, in one of the forms that a file may have.
func (a told) lines(t *rapid.T) (lines []string) {
	for i, s := range a.statuses {
		alert := map[string]any{
			"id": a.id, "alert_type": a.alertType, "severity": a.severity, "monitor_id": a.monitorID, "monitor_name": a.monitor,
			"status": s.status, "created_at": a.created, "updated_at": s.at,
		}
		relayed := a.relayed
		if i > 0 && s.at.After(relayed) {
			relayed = s.at.Add(time.Minute)
		}
		attributes := map[string]string{"run_id": relayed.Format("20060102T150405Z-") + "0123abcd"}
		if a.backfill {
			attributes["backfill"] = "b1"
		}
		data := any(alert)
		if rapid.Bool().Draw(t, "incident") {
			data = map[string]any{"schema": "dtmrelay.incident/v1", "severity": "none", "alert": alert}
		}
		text, err := json.Marshal(map[string]any{"attributes": attributes, "data": data})
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 2).Draw(t, "times") {
			lines = append(lines, string(text))
		}
	}
	return lines
}

// The figures of a report on files are the truth, in whatever order the lines are, and
// however often each is there.
func TestReportOnFiles(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		tr := truth{alerts: drawAlerts(t)}
		var lines []string
		for _, a := range tr.alerts {
			lines = append(lines, a.lines(t)...)
			if tr.firstRun.IsZero() || a.relayed.Before(tr.firstRun) {
				tr.firstRun = a.relayed
			}
		}
		lines = rapid.Permutation(lines).Draw(t, "lines")
		cut := rapid.IntRange(0, len(lines)).Draw(t, "first file")
		var paths []string
		for i, part := range [][]string{lines[:cut], lines[cut:]} {
			path := filepath.Join(dir, fmt.Sprintf("%d.jsonl", i))
			if err := os.WriteFile(path, []byte(strings.Join(part, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
		r, err := readFiles(t.Context(), paths, reportNow)
		if err != nil {
			t.Fatal(err)
		}
		got, want := figuresOf(r, reportNow), tr.figures()
		if diff := cmp.Diff(want, got, sameFigures); diff != "" {
			t.Fatalf("figures (-want +got):\n%s", diff)
		}
		if got.Requests != nil {
			t.Fatal("files know of requests")
		}
		checkPage(t, got, want)
	})
}

// The figures of a report on a relay's data are the truth, and the requests those that
// the relay has counted.
func TestReportOnData(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		folder := filepath.Join(dir, fmt.Sprint(n))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		tr := truth{alerts: drawAlerts(t), firstRun: reportNow.Add(-50 * day)}
		store, err := bolt.OpenNoSync(filepath.Join(folder, "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		feed := state.Feed{FirstRun: tr.firstRun, BeginsAt: tr.firstRun, KeyID: "k", Monitors: state.Monitors{
			Enabled:  []state.Monitor{{ID: "m1", Name: `Brand <"x">`}, {ID: "m2", Name: "Same"}},
			Disabled: []state.DisabledMonitor{{Monitor: state.Monitor{ID: "m3", Name: "Same"}}},
		}}
		_, err = store.WriteFeed(t.Context(), "default", feed, "")
		if err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(day)
		entries := []state.Entry{
			{Record: state.Record{ID: "x-0", ExpireAt: later, FirstSeen: reportNow}},
			{Record: state.Record{ID: "dropped", CreatedAt: reportNow, ExpireAt: later, Versions: []state.AlertVersion{{Outcome: state.Dropped}}}},
		}
		for _, a := range tr.alerts {
			rec := state.Record{
				ID: a.id, Type: a.alertType, Severity: a.severity, MonitorID: a.monitorID, CreatedAt: a.created, FirstSeen: a.relayed,
				PublishedVersion: a.statuses[len(a.statuses)-1].at, ExpireAt: later,
			}
			if a.backfill {
				rec.Backfill = "b1"
			}
			for _, s := range a.statuses {
				if rec.Status != s.status {
					rec.Statuses = append(rec.Statuses, state.StatusChange{Status: s.status, At: s.at})
				}
				rec.Status = s.status
				rec.Versions = append(rec.Versions, state.AlertVersion{UpdatedAt: s.at, At: s.at, Outcome: state.Published})
			}
			entries = append(entries, state.Entry{Record: rec})
		}
		if _, err := store.WriteRecords(t.Context(), "default", entries); err != nil {
			t.Fatal(err)
		}
		hour := func(back int) int64 {
			return reportNow.Truncate(time.Hour).Add(-time.Duration(back) * time.Hour).Unix()
		}
		usage := state.Usage{
			Requests: map[int64]int64{hour(0): 3, hour(23): 5, hour(24): 1000},
			Errors:   map[int64]int64{reportNow.Truncate(5 * time.Minute).Unix(): 2, hour(2): 7},
		}
		if err := store.AddUsage(t.Context(), "k", usage, state.Usage{}); err != nil {
			t.Fatal(err)
		}
		// The relay has the file open meanwhile.
		defer store.Close()
		r, err := readState(t.Context(), folder, "default")
		if err != nil {
			t.Fatal(err)
		}
		got, want := figuresOf(r, reportNow), tr.figures()
		want.Dropped, want.Unusable = 1, 1
		if diff := cmp.Diff(want, got, sameFigures); diff != "" {
			t.Fatalf("figures (-want +got):\n%s", diff)
		}
		requests := got.Requests
		if requests.Total != 8 || requests.ErrorAnswers != 2 || len(requests.Hours) != 24 || requests.Hours[0].Requests != 5 || requests.Hours[23].Requests != 3 {
			t.Fatalf("requests: %+v", requests)
		}
		checkPage(t, got, want)
	})
}

var (
	sectionOf = regexp.MustCompile(`(?s)<h2>([^<]*)</h2>(.*?)</section>`)
	tableOf   = regexp.MustCompile(`(?s)<tbody>(.*?)</tbody>`)
	rowOf     = regexp.MustCompile(`<tr>(.*?)</tr>`)
	cellOf    = regexp.MustCompile(`<td>(.*?)</td>`)
	// What would ask somebody for something, or run.
	asks = regexp.MustCompile(`(?i)<script|<link|<img|<iframe|<object|<u>|https?:|//[a-z]|\bsrc=|\bhref=|url\(|@import|javascript:|\bon[a-z]+=`)
)

// TestMonitorNames: an id that a terminal may not show is shown without what it may not.
func TestMonitorNames(t *testing.T) {
	r := &records{alerts: map[string]*lifetime{}}
	want := map[string]string{}
	for id, name := range map[string][2]string{
		"": {"", "(none)"}, "m1\x1b": {"", "m1"}, "\x1b": {"", "(none)"}, "m2": {"One", "One"}, "m3\x1b": {"Same", "Same (m3)"}, "m4": {"Same", "Same (m4)"},
	} {
		r.alerts[id] = &lifetime{monitorID: id, monitor: name[0]}
		want[id] = name[1]
	}
	if diff := cmp.Diff(want, monitorNames(r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// checkPage reads the tables of the HTML again, and compares them with the truth.
func checkPage(t *rapid.T, got, want figures) {
	page, err := htmlOf(got)
	if err != nil {
		t.Fatal(err)
	}
	if found := asks.Find(page); found != nil {
		t.Fatalf("the page has %q", found)
	}
	cells := map[string][]string{} // the name and the number of alerts of each row
	for _, s := range sectionOf.FindAllStringSubmatch(string(page), -1) {
		tables := tableOf.FindAllStringSubmatch(s[2], -1)
		if len(tables) == 0 {
			continue
		}
		for _, row := range rowOf.FindAllStringSubmatch(tables[len(tables)-1][1], -1) {
			c := cellOf.FindAllStringSubmatch(row[1], -1)
			cells[s[1]] = append(cells[s[1]], html.UnescapeString(c[0][1])+"="+c[1][1])
		}
	}
	for title, groups := range map[string][]groupFigure{
		"Alerts a day": want.Days, "By type": want.Types, "By monitor": want.Monitors, "Open alerts by age": want.OpenByAge,
		"Hours to triage": want.TriageHours.Spans, "Hours to closure": want.ClosureHours.Spans, "Lateness": want.LatenessMinutes.Spans,
	} {
		var rows []string
		for _, g := range groups {
			rows = append(rows, fmt.Sprintf("%s=%d", g.Name, g.Alerts))
		}
		if cells[title] == nil && most(groups) == 0 {
			continue // a sentence says that there is nothing
		}
		if diff := cmp.Diff(rows, cells[title]); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", title, diff)
		}
	}
}

// TestPrintSectionsCountsWhatIsNoAlert beside the alerts, as the file for a browser does.
func TestPrintSectionsCountsWhatIsNoAlert(t *testing.T) {
	for _, c := range []struct {
		dropped, unusable int
		want              string
	}{
		{0, 0, "3 alerts in x: 2 open, 1 closed"},
		{7, 0, "3 alerts in x: 2 open, 1 closed, 7 dropped by rules"},
		{0, 5, "3 alerts in x: 2 open, 1 closed, 5 not usable"},
		{7, 5, "3 alerts in x: 2 open, 1 closed, 7 dropped by rules, 5 not usable"},
	} {
		var out bytes.Buffer
		if err := printSections(&out, figures{Source: "x", Alerts: 3, Open: 2, Closed: 1, Dropped: c.dropped, Unusable: c.unusable}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Split(out.String(), "\n")[1]; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
