package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/rules"
	"dtmrelay.internal/dtmrelay/internal/state"
)

type rulesTestCmd struct {
	File   ruleFile `arg:"" help:"File with the JSON list of rules; - is standard input."`
	Alerts string   `placeholder:"FILE" help:"Try them on these alerts: JSON lines as fetch prints them, or of messages as serve --local writes them; - is standard input."`
	Since  *moment  `placeholder:"WHEN" help:"Try them on the alerts that GTI has created since: a duration back from now like 72h, or an RFC 3339 time."`
	Feed   string   `default:"default" env:"FEED" placeholder:"NAME" help:"What the rules read as feed (${default})."`
	keyFlags
	outputFlags
}

func (rulesTestCmd) Help() string {
	return `Shows for each alert which rules match it, what becomes of it (its priority, escalated, dropped, what would be written to GTI) and why, and counts how often each rule matched. Nothing is published or changed. With --since, DTM_FILTER, DTM_REFS and the other variables of the relay hold.

An alert alone counts as a new one, and a later version of it as a change. A message says itself what it was. Rules see what is in the file: where the relay has masked a secret, a rule that looks for it does not match here.

Examples:

	dtmrelay rules test rules.json --since 72h

	dtmrelay fetch --since 24h --all --refs > alerts.jsonl
	dtmrelay rules test rules.json --alerts alerts.jsonl --format csv > tried.csv`
}

func (c *rulesTestCmd) Validate() error {
	var errs []error
	if (c.Alerts == "") == (c.Since == nil) {
		errs = append(errs, errors.New("the alerts come from --alerts FILE or from --since WHEN: name one of them"))
	}
	if now := time.Now(); c.Since != nil && !c.Since.before(now).Before(now) {
		errs = append(errs, errFuture)
	}
	errs = append(errs, checkFeed(c.Feed))
	if c.File == "-" && c.Alerts == "-" {
		errs = append(errs, errors.New("FILE and --alerts are both standard input: name a file for one of them"))
	}
	return errors.Join(errs...)
}

func (c *rulesTestCmd) Run(ctx context.Context) error {
	list, compiled, err := c.File.read(c.Feed)
	if err != nil {
		return err
	}
	trial := newTrial(list, compiled, time.Now().UTC())
	if c.Alerts != "" {
		err = eachFileAlert(c.Alerts, func(a fileAlert) error {
			trial.add(a, a.Alert)
			return ctx.Err()
		})
	} else {
		err = c.fetch(ctx, trial)
	}
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil && len(trial.tried) == 0 {
		return err
	}
	if printErr := c.print(trial); printErr != nil {
		return printErr
	}
	if err != nil {
		return partialError{fmt.Errorf("only %d alerts were tried: %w", len(trial.tried), err)}
	}
	return nil
}

// fetch tries the rules on what GTI has.
func (c *rulesTestCmd) fetch(ctx context.Context, t *trial) error {
	within, cfg, keys, end, err := c.budgeted(ctx, map[string]string{})
	if err != nil {
		return err
	}
	defer func() { _ = end() }() // nothing was written
	api, err := app.Session(cfg, keys)
	if err != nil {
		return err
	}
	query := dtm.Query{
		Since: c.Since.before(t.now).Truncate(time.Millisecond), Size: dtm.PageSize(cfg.Refs), Refs: cfg.Refs, Filter: cfg.Filter,
	}
	err = drain.ListNewest(within, api, query, func(alerts []dtm.Alert, _ bool) (goOn bool, err error) {
		for _, a := range alerts {
			raw, _, readable := cfg.Redactor.Redact(a.Raw)
			if !readable && a.Invalid == "" && a.Digest == nil {
				a.Invalid = "a part of it can't be read, so what is secret in it can't be told"
			}
			t.add(fileAlert{Alert: a}, dtm.ParseAlert(raw))
		}
		return true, nil
	})
	return explain(err)
}

// trial applies rules to alerts as the relay does.
type trial struct {
	list     rules.List
	compiled *rules.Rules
	now      time.Time

	seen     map[string]seenAlert
	tried    []triedAlert
	counts   map[string]*ruleCount
	repeated int  // versions that came before
	masked   bool // an alert's secrets were
}

// seenAlert is what the ledger would hold of an alert.
type seenAlert struct {
	published bool
	status    string   // of the version that was published last
	asked     []string // rules for which something was written back
	versions  map[time.Time]bool
}

// triedAlert is what rules made of one version of an alert.
type triedAlert struct {
	AlertID   string    `json:"alert_id,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	Type      string    `json:"alert_type,omitempty"`
	Severity  string    `json:"severity,omitempty"`
	Event     string    `json:"event,omitempty"`

	Outcome    string         `json:"outcome"` // published, dropped, rejected
	Priority   string         `json:"priority,omitempty"`
	Escalated  bool           `json:"escalated"`
	Rules      []string       `json:"rules"`
	WriteBacks []triedChange  `json:"write_backs"`
	Failed     []triedFailure `json:"failed"`
	Why        []string       `json:"why"`
}

type triedChange struct {
	Rule   string   `json:"rule"`
	Status string   `json:"status,omitempty"`
	Tags   []string `json:"add_tags,omitempty"`
}

type triedFailure struct {
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
}

type ruleCount struct {
	Name    string `json:"name"`
	Matched int    `json:"matched"`
	Failed  int    `json:"failed"`
}

func newTrial(list rules.List, compiled *rules.Rules, now time.Time) *trial {
	t := &trial{list: list, compiled: compiled, now: now, seen: map[string]seenAlert{}, counts: map[string]*ruleCount{}}
	for _, r := range list {
		t.counts[r.Name] = &ruleCount{Name: r.Name}
	}
	return t
}

// add tries the rules on an alert as it came. shown is what may be shown of it.
func (t *trial) add(a fileAlert, shown dtm.Alert) {
	if a.Invalid != "" || a.Digest != nil {
		t.tried = append(t.tried, triedAlert{
			AlertID: shown.ID, Outcome: state.Rejected, Rules: []string{}, WriteBacks: []triedChange{}, Failed: []triedFailure{},
			Why: []string{"it is no usable alert: " + cmp.Or(a.Invalid, "it is too large")},
		})
		return
	}
	before, known := t.seen[a.ID]
	switch {
	case !known:
		before.versions = map[time.Time]bool{}
	case before.versions[a.UpdatedAt]:
		t.repeated++
		return
	}
	event, previous := a.Attributes["event"], a.Attributes["previous_status"]
	switch {
	case event != "":
	case !before.published:
		event = ledger.Created
	case before.status != a.Status:
		event, previous = ledger.StatusChanged, before.status
	default:
		event = ledger.Updated
	}
	t.masked = t.masked || a.Attributes["redacted"] != ""

	first := event == ledger.Created && !before.published
	result := ledger.Evaluate(t.compiled, a.Alert, event, previous, first, t.now)
	result.WriteBacks = slices.DeleteFunc(result.WriteBacks, func(w rules.WriteBack) bool { return slices.Contains(before.asked, w.Rule) })
	one := triedAlert{
		AlertID: shown.ID, CreatedAt: shown.CreatedAt, Type: shown.Type, Severity: shown.Severity, Event: event,
		Outcome: state.Published, Priority: result.Priority, Escalated: result.Escalate,
		Rules: append([]string{}, result.Matched...), WriteBacks: []triedChange{}, Failed: []triedFailure{},
		Why: t.explain(a.Alert, result, before, first),
	}
	if result.Drop {
		one.Outcome = state.Dropped
	}
	for _, w := range result.WriteBacks {
		one.WriteBacks = append(one.WriteBacks, triedChange{w.Rule, w.Status, w.Tags})
		before.asked = append(before.asked, w.Rule)
	}
	if !result.Drop {
		before.published, before.status = true, a.Status
	}
	before.versions[a.UpdatedAt] = true
	t.seen[a.ID] = before
	for _, name := range result.Matched {
		t.counts[name].Matched++
	}
	for _, f := range result.Failed {
		t.counts[f.Rule].Failed++
		one.Failed = append(one.Failed, triedFailure(f))
	}
	t.tried = append(t.tried, one)
}

// explain says which rule has decided what.
func (t *trial) explain(a dtm.Alert, result rules.Result, before seenAlert, first bool) (why []string) {
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	var priority, escalate, drop, stop string
	var changes []string
	for _, r := range t.list {
		if !slices.Contains(result.Matched, r.Name) {
			continue
		}
		if r.Priority != "" {
			priority = r.Name
		}
		if r.Escalate != nil {
			escalate = r.Name
		}
		if r.Drop != nil {
			drop = r.Name
		}
		if r.WritesBack() {
			changes = append(changes, r.Name)
		}
		if r.Stop {
			stop = r.Name
		}
	}
	wanted := message.Priority(a.Severity)
	switch {
	case result.Drop:
		say("dropped by %s", drop)
	case priority != "":
		say("priority by %s", priority)
		wanted = t.list[slices.IndexFunc(t.list, func(r rules.Rule) bool { return r.Name == priority })].Priority
	case a.Severity == "":
		say("priority %s, because it has no severity", wanted)
	default:
		say("priority %s of its severity", wanted)
	}
	if !result.Drop && wanted > result.Priority {
		say("raised to %s, because a rule failed", result.Priority)
	}
	if !result.Drop && drop != "" {
		say("kept by %s", drop)
	}
	if !result.Drop && escalate != "" {
		say("escalated=%t by %s", result.Escalate, escalate)
	}
	for _, w := range result.WriteBacks {
		if w.Status != "" {
			say("status %s by %s", w.Status, w.Rule)
		}
		if len(w.Tags) > 0 {
			say("tags %s by %s", strings.Join(w.Tags, ", "), w.Rule)
		}
	}
	if len(changes) > 0 && !first {
		say("nothing is written back for %s: the alert is not new", strings.Join(changes, ", "))
	}
	for _, name := range changes {
		if first && slices.Contains(before.asked, name) {
			say("nothing more is written back for %s: it is, once for an alert", name)
		}
	}
	for _, f := range result.Failed {
		say("%s failed: %s", f.Rule, f.Reason)
	}
	if stop != "" {
		say("no rule after %s was looked at", stop)
	}
	return why
}

// became is the outcome in a few words.
func (a triedAlert) became() string {
	words := []string{a.Outcome}
	if a.Outcome == state.Published {
		words = []string{a.Priority}
	}
	if a.Escalated && a.Outcome == state.Published {
		words = append(words, "escalated")
	}
	for _, w := range a.WriteBacks {
		if w.Status != "" {
			words = append(words, "→ "+w.Status)
		}
		for _, tag := range w.Tags {
			words = append(words, "+"+tag)
		}
	}
	return strings.Join(words, " ")
}

// triedColumns are the columns of CSV.
var triedColumns = []string{
	"alert_id", "created_at", "alert_type", "severity", "event", "outcome", "priority", "escalated", "set_status", "add_tags", "rules", "why",
}

func (c *rulesTestCmd) print(t *trial) error {
	w := os.Stdout
	counts := make([]ruleCount, 0, len(t.list))
	countRows := make([][]string, 0, len(t.list))
	for _, r := range t.list {
		n := *t.counts[r.Name]
		counts = append(counts, n)
		countRows = append(countRows, []string{n.Name, strconv.Itoa(n.Matched), strconv.Itoa(n.Failed)})
	}
	countHead := []string{"RULE", "MATCHED", "FAILED"}
	outcomes := map[string]int{state.Published: 0, state.Dropped: 0, state.Rejected: 0}
	for _, a := range t.tried {
		outcomes[a.Outcome]++
	}
	var err error
	switch format := c.Format.or(w, formatJSON); format {
	case formatJSON:
		err = printJSON(w, struct {
			Alerts   []triedAlert   `json:"alerts"`
			Rules    []ruleCount    `json:"rules"`
			Outcomes map[string]int `json:"outcomes"`
			Repeated int            `json:"repeated"`
		}{append([]triedAlert{}, t.tried...), counts, outcomes, t.repeated}, "  ")
	case formatTable:
		head, rows := roomFor(w, 140, []string{"ALERT", "CREATED", "AGE", "TYPE", "SEVERITY", "EVENT", "BECAME", "RULES", "WHY"}, t.rows(format),
			"CREATED", "AGE", "SEVERITY", "EVENT")
		if err = printTable(w, head, rows); err == nil && len(counts) > 0 {
			fmt.Fprintln(w)
			err = printTable(w, countHead, countRows)
		}
	default:
		if err = printAs(w, format, triedColumns, t.rows(format), t.tried); err == nil && len(counts) > 0 {
			err = printTable(os.Stderr, countHead, countRows)
		}
	}
	if err != nil {
		return err
	}
	t.summarize(os.Stderr, outcomes)
	return nil
}

func (t *trial) rows(format outputFormat) [][]string {
	rows := make([][]string, 0, len(t.tried))
	for _, a := range t.tried {
		matched, why := strings.Join(a.Rules, ", "), strings.Join(a.Why, "; ")
		if format == formatTable {
			rows = append(rows, []string{a.AlertID, localTime(a.CreatedAt), age(a.CreatedAt, t.now), a.Type, a.Severity, a.Event, a.became(), matched, why})
			continue
		}
		var status string
		var tags []string
		for _, w := range a.WriteBacks {
			status += w.Status // one at most has it
			tags = append(tags, w.Tags...)
		}
		rows = append(rows, []string{
			a.AlertID, csvTime(a.CreatedAt), a.Type, a.Severity, a.Event, a.Outcome, a.Priority,
			strconv.FormatBool(a.Escalated), status, strings.Join(tags, ", "), matched, why,
		})
	}
	return rows
}

func (t *trial) summarize(w io.Writer, outcomes map[string]int) {
	fmt.Fprintf(w, "%d alerts: %d published, %d dropped, %d rejected", len(t.tried),
		outcomes[state.Published], outcomes[state.Dropped], outcomes[state.Rejected])
	if t.repeated > 0 {
		fmt.Fprintf(w, "; %d repeated lines are left out", t.repeated)
	}
	fmt.Fprintln(w)
	if t.masked {
		fmt.Fprintln(w, "secrets in these messages are masked: a rule that looks for one does not match here")
	}
}
