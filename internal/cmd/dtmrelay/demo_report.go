package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// demoResult is what a demo did.
type demoResult struct {
	files demoFiles
	world world

	before, after content
	requests      int
	rateLimited   int // answers of 429
	cut           int // requests without an answer
	killed        bool
	killedAt      int // lines written until then
	took          time.Duration
	password      string         // that of after.example, as GTI has it
	changes       []statusChange // of an alert after it was relayed
}

func (r *demoResult) nothingNew() bool { return r.after.lines == r.before.lines && r.after.lost == 0 }

func (r *demoResult) printJSON(w io.Writer) error {
	type killed struct {
		After int `json:"after"`
	}
	summary := struct {
		Alerts           int                       `json:"alerts"`
		Published        int                       `json:"published"` // different alerts in the file
		New              int                       `json:"new"`       // of these, by this run
		Repeated         int                       `json:"repeated"`
		Lost             int                       `json:"lost"`
		Masked           int                       `json:"masked"` // different alerts with a secret masked
		Requests         int                       `json:"requests"`
		Seconds          float64                   `json:"seconds"`
		RateLimited      int                       `json:"rate_limited"`
		LostConnections  int                       `json:"lost_connections"`
		Killed           *killed                   `json:"killed"`
		ByTypeBySeverity map[string]map[string]int `json:"by_type_by_severity"`
		StatusChanges    []statusChange            `json:"status_changes"`
		AlertsFile       string                    `json:"alerts_file"`
	}{
		Alerts: r.world.Alerts, Published: r.after.versions, New: r.after.versions - r.before.versions,
		Repeated: r.after.repeated(), Lost: r.after.lost, Masked: r.after.masked, Requests: r.requests,
		Seconds:     float64(r.took.Milliseconds()) / 1000,
		RateLimited: r.rateLimited, LostConnections: r.cut,
		ByTypeBySeverity: map[string]map[string]int{}, StatusChanges: r.changes, AlertsFile: r.files.alerts,
	}
	if r.killed {
		summary.Killed = &killed{After: r.killedAt}
	}
	for c, n := range r.after.classes {
		row := summary.ByTypeBySeverity[orNone(c.alertType)]
		if row == nil {
			row = map[string]int{}
			summary.ByTypeBySeverity[orNone(c.alertType)] = row
		}
		row[orNone(c.severity)] += n.published
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(summary)
}

func (r *demoResult) print(w io.Writer) error {
	var out bytes.Buffer
	// The alerts are long: what matters is on the screen at the end.
	if !r.nothingNew() {
		if err := r.firstAlerts(&out); err != nil {
			return err
		}
	}
	r.story(&out)
	r.table(&out)
	r.whatNext(&out)
	_, err := w.Write(out.Bytes())
	return err
}

// story says what happened, a line each.
func (r *demoResult) story(w io.Writer) {
	if r.nothingNew() {
		fmt.Fprintf(w, "nothing new: all %d alerts were relayed before\n", r.world.Alerts)
		return
	}
	if r.before.lines > 0 {
		fmt.Fprintf(w, "gone on:          %d of %d alerts were in the file from before\n", r.world.Alerts-r.before.lost, r.world.Alerts)
	}
	if r.rateLimited > 0 {
		fmt.Fprintln(w, "rate limit:       the API answered 429; the relay waited the second that it asked for")
	}
	if r.cut > 0 {
		fmt.Fprintln(w, "lost connection:  an answer was lost on its way; the relay listed again from where it was")
	}
	if r.killed {
		fmt.Fprintf(w, "killed:           the relay's process got a SIGKILL after %d alerts\n", r.killedAt)
		fmt.Fprintln(w, "went on:          a new process took over and relayed the rest")
	}
	if n := r.after.repeated() - r.before.repeated(); n > 0 {
		fmt.Fprintf(w, "repeated:         %d alerts, by the same dedupe_key: the old process had not recorded them yet\n", n)
	}
	if r.after.masked > 0 {
		fmt.Fprintf(w, "masked:           secrets in %d alerts, such as passwords and payment cards\n", r.after.masked)
	}
	if r.password != "" {
		fmt.Fprintf(w, "  a password:     %q in the simulator, %q in the file\n", r.password, r.after.example.password)
	}
	if len(r.changes) == 2 {
		analysts, soars := r.changes[0], r.changes[1]
		fmt.Fprintf(w, "analyst:          set an alert from %s to %s in GTI; published as %s, origin=%s\n",
			analysts.Previous, analysts.Status, analysts.Event, analysts.Origin)
		fmt.Fprintf(w, "SOAR:             asked for %s and a tag; GTI has both, and the echo is marked origin=%s\n", soars.Status, soars.Origin)
	}
}

func (r *demoResult) table(w io.Writer) {
	severities := r.severities()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, cells ...string) {
		fmt.Fprintf(t, "%s\t%s\t\n", name, strings.Join(cells, "\t"))
	}
	line := func(name string, is func(class) bool) {
		var cells []string
		var all counts
		for _, severity := range severities {
			n := r.count(func(c class) bool { return is(c) && orNone(c.severity) == severity })
			cells = append(cells, strconv.Itoa(n.published))
			all.published += n.published
			all.repeated += n.repeated
		}
		row(name, append(cells, strconv.Itoa(all.published), strconv.Itoa(all.repeated))...)
	}

	fmt.Fprintln(w)
	row("", append(slices.Clone(severities), "published", "repeated")...)
	for _, alertType := range r.types() {
		line(alertType, func(c class) bool { return orNone(c.alertType) == alertType })
	}
	line("total", func(class) bool { return true })
	_ = t.Flush() // a buffer takes all
	fmt.Fprintf(w, "\nlost: %d of %d alerts (each looked up in the file, byte for byte%s)\n", r.after.lost, r.world.Alerts, r.butMasked())
	fmt.Fprintf(w, "%d requests to the API, %.1f seconds\n", r.requests, r.took.Seconds())
}

func (r *demoResult) butMasked() string {
	if r.after.masked == 0 {
		return ""
	}
	return ", but for what is masked"
}

func (r *demoResult) count(is func(class) bool) counts {
	var sum counts
	for c, n := range r.after.classes {
		if is(c) {
			sum.published += n.published
			sum.repeated += n.repeated
		}
	}
	return sum
}

func (r *demoResult) types() []string {
	all := map[string]bool{}
	for c := range r.after.classes {
		all[orNone(c.alertType)] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// severities are those that occur, in the order of compareSeverities.
func (r *demoResult) severities() []string {
	all := map[string]bool{}
	for c := range r.after.classes {
		all[orNone(c.severity)] = true
	}
	return slices.SortedFunc(maps.Keys(all), compareSeverities)
}

// compareSeverities puts the worst first, as a report does, then unknown ones, and none last.
func compareSeverities(a, b string) int {
	rank := func(s string) int {
		switch i := slices.Index(reportSeverities, s); {
		case i >= 0:
			return i
		case s == orNone(""):
			return len(reportSeverities) + 1
		}
		return len(reportSeverities)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
}

func orNone(s string) string { return cmp.Or(s, "(none)") }

func (r *demoResult) firstAlerts(w io.Writer) error {
	fmt.Fprintf(w, "The first alerts of %s:\n\n", r.files.alerts)
	for _, alert := range r.after.first {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, alert, "", "  "); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n\n", &pretty)
	}
	return nil
}

func (r *demoResult) whatNext(w io.Writer) {
	fmt.Fprintf(w, `
Files in %s:
  alerts.jsonl  the messages, a line each
  state.db      the position, and what became of each alert
  relay.log     the relay's log

Next:
  # again, on the same files: nothing is published twice
  %[2]s demo --dir %[1]s
  # the simulator alone, with all its switches
  %[2]s sim --help
  # the real API, into ./dtmrelay-data; then: curl -X POST http://127.0.0.1:8080/
  GTI_API_KEY=… %[2]s serve --local
  # everything that can be set: docs/configuration.md
`, r.files.dir, self())
}
