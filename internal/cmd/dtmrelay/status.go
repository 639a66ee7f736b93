package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

type statusCmd struct {
	relayFlags
	outputFlags
	Watch bool `help:"Show it again every few seconds, until Ctrl-C."`
}

func (statusCmd) Help() string {
	return `Shows where a relay stands: up to when every alert is published, what the last run did, what is left of the key's budgets, and what needs somebody. Beside a running poll it shows what the last poll left in its folder, with its age.

A deployed relay is asked with an identity token of the usual credentials (GOOGLE_APPLICATION_CREDENTIALS, the machine's own account, or "gcloud auth application-default login --impersonate-service-account=ACCOUNT"). As JSON it is the answer of GET /status.

Examples:

	dtmrelay status
	dtmrelay status --url https://dtm-relay-abc123-ew.a.run.app --watch
	dtmrelay status --data /var/lib/dtmrelay | jq .lag_seconds`
}

func (c *statusCmd) Validate() error { return c.check() }

// watchEvery is how often --watch looks.
const watchEvery = 5 * time.Second

func (c *statusCmd) Run(ctx context.Context) error {
	for seen := false; ; {
		text, err := c.read(ctx)
		if err == nil {
			if c.Watch && takesEscapes(os.Stdout) {
				fmt.Print("\x1b[H\x1b[2J")
			}
			err = c.print(os.Stdout, text)
		}
		if c.Watch && ctx.Err() != nil {
			return nil //nolint:nilerr // Ctrl-C is how it ends
		}
		switch {
		case err != nil && c.Watch && seen: // it answered before: a relay that is deployed again is away for a moment
			fmt.Fprintln(os.Stderr, "dtmrelay: "+clean(oneLine(err)))
		case err != nil || !c.Watch:
			return err
		default:
			seen = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

// statusFile is what poll leaves in its folder after each poll.
const statusFile = "status.json"

// read is the answer of GET /status.
func (c *statusCmd) read(ctx context.Context) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	relay, closeRelay, err := c.openBy(ctx, openUnlessInUse)
	if c.URL == "" && errors.Is(err, bolt.ErrInUse) {
		return c.lastPoll(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	answer, err := relay.call(ctx, http.MethodGet, "/status", nil, "feed")
	return answer, errors.Join(err, closeRelay())
}

// lastPoll is the status after the last poll of the process that has the files open.
func (c *statusCmd) lastPoll(ctx context.Context, inUse error) (json.RawMessage, error) {
	cfg, err := keylessConfig(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(c.folder(), statusFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; it has not left %s yet (poll does after each poll; serve --local answers GET /status: --url http://127.0.0.1:8080)", inUse, path)
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		return nil, fmt.Errorf("%s is not JSON", path)
	}
	var s struct{ Feed string }
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Feed != cfg.Feed {
		return nil, fmt.Errorf("%w; its %s is of feed %q, and FEED is %q: set FEED to that of the process, or end it first", inUse, path, s.Feed, cfg.Feed)
	}
	fmt.Fprintf(os.Stderr, "a relay is at work on %s; this is from %s, %s\n", c.folder(), localTime(info.ModTime()), age(info.ModTime(), time.Now()))
	return text, nil
}

// readTime bounds a request that does no work at the relay. A function that starts
// first takes a few seconds.
const readTime = 60 * time.Second

// relayStatus is what a table shows of GET /status.
type relayStatus struct {
	Version, Feed string
	Position      time.Time
	BeginsAt      time.Time `json:"begins_at"`
	Lease         *state.Lease
	LastRun       *drain.Report `json:"last_run"`
	LastSweep     time.Time     `json:"last_sweep"`
	LastAudit     time.Time     `json:"last_audit"`
	Requests      budget
	Errors        budget
	Filter        json.RawMessage
	FilterSince   time.Time         `json:"filter_since"`
	FilterPast    []state.TimeRange `json:"filter_past"`
	Gaps          []state.Gap
	Monitors      *struct {
		CheckedAt time.Time `json:"checked_at"`
		Enabled   int
		Disabled  []state.DisabledMonitor
	}
	Backfills []struct {
		ID, State string
		Done      float64
	}
}

type budget struct {
	Used, Limit int64
	Window      string
}

func (b budget) String() string { return fmt.Sprintf("%d of %d in %s", b.Used, b.Limit, b.Window) }

func (c *statusCmd) print(w io.Writer, text json.RawMessage) error {
	format := c.Format.or(w, formatJSON)
	if format == formatJSON || format == formatJSONL {
		return printRawJSON(w, format, text)
	}
	var s relayStatus
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("the relay's status: %w", err)
	}
	now := time.Now()
	if format == formatCSV {
		return writeCSV(w, statusColumns, [][]string{s.row()})
	}
	if err := printTable(w, []string{"feed", s.Feed, "age"}, s.rows(now)); err != nil {
		return err
	}
	if s.LastRun != nil {
		if err := printTexts(w, "error", s.LastRun.Error); err != nil {
			return err
		}
	}
	if err := s.printProblems(w, now); err != nil {
		return err
	}
	s.hint(os.Stderr, c.words())
	return nil
}

// printRawJSON prints JSON as it came, for a terminal indented and without what would
// control it.
func printRawJSON(w io.Writer, format outputFormat, text json.RawMessage) error {
	line, err := compactJSON(text)
	if err == nil && format == formatJSON && isTerminal(w) {
		line, err = indentJSON(line)
	}
	if err != nil {
		return err
	}
	if isTerminal(w) {
		line = cleanJSON(line)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// rows are the table's: what, value, age.
func (s relayStatus) rows(now time.Time) [][]string {
	moment := func(name string, t time.Time) []string { return []string{name, localTime(t), age(t, now)} }
	rows := [][]string{
		moment("position", s.Position),
		moment("begins at", s.BeginsAt),
	}
	if run := s.LastRun; run != nil {
		rows = append(rows, []string{
			"last run", fmt.Sprintf("%s (%s), %d published of %d", run.Outcome, run.StopReason, run.Published, run.Fetched), age(run.FinishedAt, now),
		})
	}
	if s.Lease != nil {
		rows = append(rows, []string{"at work", "run " + s.Lease.Owner, ""})
	}
	rows = append(
		rows,
		moment("last sweep", s.LastSweep),
		moment("last audit", s.LastAudit),
		[]string{"requests", s.Requests.String(), ""},
		[]string{"errors", s.Errors.String(), ""},
		[]string{"filter", string(s.Filter), age(s.FilterSince, now)},
	)
	if s.Monitors != nil {
		rows = append(rows, []string{
			"monitors", fmt.Sprintf("%d enabled, %d disabled", s.Monitors.Enabled, len(s.Monitors.Disabled)), age(s.Monitors.CheckedAt, now),
		})
	}
	return append(rows, []string{"version", s.Version, ""})
}

// printProblems prints what is not as it should be, and what is not finished.
func (s relayStatus) printProblems(w io.Writer, now time.Time) error {
	var gaps, disabled, backfills [][]string
	for _, g := range s.Gaps {
		kind := "not read"
		if g.Suspected {
			kind = "suspected"
		}
		gaps = append(gaps, []string{kind, localTime(g.Since), localTime(g.Until)})
	}
	if s.Monitors != nil {
		for _, m := range s.Monitors.Disabled {
			disabled = append(disabled, []string{m.ID, m.Name, "disabled", cmp.Or(m.Code, "-"), age(m.Since, now)})
		}
	}
	for _, b := range s.Backfills {
		backfills = append(backfills, []string{b.ID, b.State, percent(b.Done)})
	}
	return printTables(
		w,
		table{[]string{"gap", "since", "until"}, gaps},
		table{[]string{"monitor", "name", "state", "code", "since"}, disabled},
		table{[]string{"backfill", "state", "done"}, backfills},
	)
}

type table struct {
	head []string
	rows [][]string
}

// printTables prints those that have rows, with a line before each.
func printTables(w io.Writer, tables ...table) error {
	for _, t := range tables {
		if len(t.rows) == 0 {
			continue
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := printTable(w, t.head, t.rows); err != nil {
			return err
		}
	}
	return nil
}

// hint says what to do next; which are the flags that choose the relay.
func (s relayStatus) hint(w io.Writer, which string) {
	switch {
	case s.Position.IsZero():
		fmt.Fprintln(w, "there was no run yet")
	case len(s.Gaps) > 0:
		fmt.Fprintf(w, "to read a gap: %s backfill%s --since %s --until %s\n", self(), which, s.Gaps[0].Since.Format(time.RFC3339Nano), s.Gaps[0].Until.Format(time.RFC3339Nano))
	case len(s.FilterPast) > 0:
		fmt.Fprintf(w, "the filter was changed; to read the past with it: %s backfill%s --since %s --until %s\n",
			self(), which, s.FilterPast[0].Since.Format(time.RFC3339Nano), s.FilterPast[0].Until.Format(time.RFC3339Nano))
	case s.Monitors != nil && len(s.Monitors.Disabled) > 0:
		fmt.Fprintln(w, "a disabled monitor finds nothing: enable it in GTI, or make it narrower first")
	}
}

// statusColumns are the columns of CSV. Times are RFC 3339 in UTC.
var statusColumns = []string{
	"feed", "version", "position", "begins_at", "last_run", "outcome", "stop_reason", "published", "requests", "requests_limit", "errors", "errors_limit",
	"gaps", "monitors_disabled", "backfills",
}

func (s relayStatus) row() []string {
	run := drain.Report{}
	if s.LastRun != nil {
		run = *s.LastRun
	}
	disabled := 0
	if s.Monitors != nil {
		disabled = len(s.Monitors.Disabled)
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return []string{
		s.Feed, s.Version, utc(s.Position), utc(s.BeginsAt), utc(run.FinishedAt), run.Outcome, run.StopReason, number(run.Published),
		number(s.Requests.Used), number(s.Requests.Limit), number(s.Errors.Used), number(s.Errors.Limit),
		strconv.Itoa(len(s.Gaps)), strconv.Itoa(disabled), strconv.Itoa(len(s.Backfills)),
	}
}

// utc is a moment for a program; empty stands for none.
func utc(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func percent(share float64) string { return fmt.Sprintf("%.0f%%", 100*share) }

func compactJSON(text []byte) ([]byte, error) {
	var out bytes.Buffer
	err := json.Compact(&out, text)
	return out.Bytes(), err
}

func indentJSON(text []byte) ([]byte, error) {
	var out bytes.Buffer
	err := json.Indent(&out, text, "", "  ")
	return out.Bytes(), err
}
