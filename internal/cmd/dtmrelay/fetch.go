package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/redact"
)

type fetchCmd struct {
	filterFlags `embed:""`
	keyFlags    `embed:""`
	outputFlags `embed:""`
	refsFlag    `embed:""`

	Since  moment  `default:"24h" placeholder:"WHEN" help:"Alerts created from then on: a duration back from now, or a time as 2026-01-02T15:04:05Z (${default})."`
	Until  *moment `placeholder:"WHEN" help:"Alerts created before then."`
	Limit  *int    `placeholder:"N" help:"At most so many alerts (100)."`
	All    bool    `help:"All alerts, however many."`
	Output string  `placeholder:"FILE" help:"Write them to this file, which is replaced."`
}

const defaultLimit = 100

func (fetchCmd) Help() string {
	return `Alerts come newest first. On a terminal it shows the first three, and counts all; piped or with --output it writes every alert as a line of JSON, as it came but for what REDACT masks (credentials, if it isn't set). The environment of the relay holds here too: docs/configuration.md. DTM_FILTER filters, and a flag replaces what it has under its name.

When it is interrupted, what was fetched is kept, and the exit code is 3.

Examples:

	export GTI_API_KEY=…
	dtmrelay fetch
	dtmrelay fetch --since 72h --severity high --status new --all > alerts.jsonl
	dtmrelay fetch --since 2026-01-01T00:00:00Z --until 2026-02-01T00:00:00Z --all --output january.csv --format csv`
}

var (
	errFuture     = errors.New("--since must lie in the past")
	errEmptyRange = errors.New("--since is not before --until: there is nothing between them")
)

// Validate names all problems of the flags.
func (c *fetchCmd) Validate() error {
	errs := []error{c.problems(), checkOutput(c.Output)}
	if c.Limit != nil && *c.Limit < 1 {
		errs = append(errs, fmt.Errorf("--limit is %d: it must be 1 or more", *c.Limit))
	}
	if c.Limit != nil && c.All {
		errs = append(errs, errors.New("--limit and --all contradict each other: leave one out"))
	}
	now := time.Now()
	if !c.Since.before(now).Before(now) {
		errs = append(errs, errFuture)
	}
	if c.Until != nil && !c.Since.before(now).Before(c.Until.before(now)) {
		errs = append(errs, errEmptyRange)
	}
	return errors.Join(errs...)
}

// limit is 0 for none.
func (c *fetchCmd) limit() int {
	switch {
	case c.All:
		return 0
	case c.Limit != nil:
		return *c.Limit
	}
	return defaultLimit
}

func (c *fetchCmd) Run(ctx context.Context) error {
	within, cfg, keys, end, err := c.budgeted(ctx, c.refsValue(map[string]string{}))
	if err != nil {
		return err
	}
	defer func() { _ = end() }()
	filter := c.over(cfg.Filter)
	session, err := app.Session(cfg, keys)
	if err != nil {
		return err
	}
	now := time.Now()
	q := dtm.Query{Since: c.Since.before(now).Truncate(time.Millisecond), Refs: cfg.Refs, Filter: filter}
	if c.Until != nil {
		q.Until = c.Until.before(now).Truncate(time.Millisecond)
	}
	q.Size = dtm.PageSize(q.Refs)
	if limit := c.limit(); limit > 0 {
		q.Size = min(q.Size, limit)
	}
	f := &fetch{limit: c.limit(), redactor: cfg.Redactor, open: c.open, out: noWriter{}, counts: map[class]int{}, progress: newProgress(c.mayDraw(), q.Until, q.Since, c.limit())}
	failure := drain.ListNewest(within, session, q, f.page)
	f.progress.end()
	kept := f.out.close()
	if _, atEnd := f.out.(*tableWriter); atEnd && kept != nil {
		f.n = 0 // a table is written at its end
	}
	if kept == nil {
		if err := c.summary(f, failure == nil); err != nil {
			return err
		}
	}
	err = explain(failure)
	if !errors.Is(kept, failure) { // else it is what has ended the listing
		err = errors.Join(err, kept)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && kept == nil:
		return partialError{fmt.Errorf("interrupted after %s: what was fetched is kept", plural(f.n, "alert"))}
	case f.n > 0:
		return partialError{fmt.Errorf("stopped after %s: %w", plural(f.n, "alert"), err)}
	}
	return err
}

// mayDraw reports whether nothing of what is fetched comes between what a bar draws.
func (c *fetchCmd) mayDraw() bool {
	if c.Output == "" && isTerminal(os.Stdout) {
		return c.Format == "" || c.Format == formatTable // these come in the end
	}
	return c.Output != "" || !isPipe(os.Stdout)
}

// open makes what the alerts are written to.
func (c *fetchCmd) open() (alertWriter, error) {
	format := c.Format
	w := io.Writer(os.Stdout)
	end := func() error { return nil }
	switch {
	case c.Output != "":
		format = cmp.Or(format, formatJSONL)
		file, err := openToReplace(c.Output)
		if err != nil {
			return nil, fmt.Errorf("--output: %w", err)
		}
		w, end = file, file.Close
	case format == "" && isTerminal(w):
		return noWriter{}, nil // the summary shows enough
	default:
		format = cmp.Or(format, formatJSONL)
	}
	switch format {
	case formatCSV:
		return &csvWriter{w: w, end: end}, nil
	case formatTable:
		return &tableWriter{w: w, end: end}, nil
	default:
		return &jsonWriter{w: w, list: format == formatJSON, shown: isTerminal(w), end: end}, nil
	}
}

// fetch is what one fetch has found.
type fetch struct {
	limit    int
	redactor *redact.Redactor
	open     func() (alertWriter, error) // nil: it is open
	out      alertWriter
	progress *progress

	n       int
	unshown int // elements that are no alerts, or whose secrets can't be told
	cut     bool
	first   [][]byte
	counts  map[class]int
}

// page takes the alerts of a page, as many as are wanted.
func (f *fetch) page(alerts []dtm.Alert, more bool) (goOn bool, err error) {
	// Not before GTI has answered: a file of before stays when it doesn't.
	if f.open != nil {
		out, err := f.open()
		if err != nil {
			return false, err
		}
		f.open, f.out = nil, out
	}
	for _, a := range alerts {
		if f.limit > 0 && f.n == f.limit {
			f.cut = true
			return false, nil
		}
		raw, _, readable := f.redactor.Redact(a.Raw)
		if a.Invalid != "" || a.Digest != nil || !readable {
			f.unshown++
			continue
		}
		shown := dtm.ParseAlert(raw) // a column is masked as its field is
		if err := f.out.write(shown); err != nil {
			return false, err
		}
		if len(f.first) < showFirst {
			f.first = append(f.first, raw)
		}
		f.counts[class{shown.Type, shown.Severity}]++
		f.n++
		f.progress.show(f.n, a.CreatedAt)
	}
	if f.limit > 0 && f.n == f.limit && more {
		f.cut = true
		return false, nil
	}
	return true, nil
}

// summary shows a person what was fetched, on a terminal, and says on standard error what
// is missing.
func (c *fetchCmd) summary(f *fetch, complete bool) error {
	if c.Format == "" && isTerminal(os.Stdout) {
		if err := f.print(os.Stdout); err != nil {
			return err
		}
	}
	hint := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	if f.unshown > 0 {
		hint("%s left out: too large, or no alert that can be read", plural(f.unshown, "element"))
	}
	switch {
	case !complete:
	case f.cut:
		hint("the limit of %s is reached, and there may be more: --limit N or --all fetches them", plural(f.limit, "alert"))
	case f.n == 0:
		hint("no alerts match: a longer time (--since 168h) or fewer filters may find some")
	}
	if c.Output != "" && f.open == nil && (complete || f.n > 0) {
		hint("%s in %s", plural(f.n, "alert"), c.Output)
	} else if c.Output == "" && c.Format == "" && isTerminal(os.Stdout) && f.n > 0 {
		hint("\nNext:\n  %[1]s fetch --all --output alerts.jsonl   # every alert, a line each\n  %[1]s fetch --format table               # a line each, to read\n  %[1]s poll                               # go on with what is new", self())
	}
	return nil
}

func (f *fetch) print(w io.Writer) error {
	for _, raw := range f.first {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, raw, "", "  "); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\n\n", cleanJSON(pretty.Bytes())); err != nil {
			return err
		}
	}
	if f.n == 0 {
		return nil
	}
	return printCounts(w, f.counts)
}

// printCounts prints a table of counts, a row for each type and a column for each
// severity.
func printCounts(w io.Writer, counts map[class]int) error {
	types, severities := map[string]int{}, map[string]int{}
	for c, n := range counts {
		types[orNone(c.alertType)] += n
		severities[orNone(c.severity)] += n
	}
	columns := slices.SortedFunc(maps.Keys(severities), compareSeverities)
	head := append([]string{"TYPE"}, columns...)
	var rows [][]string
	row := func(name string, count func(severity string) int) {
		cells, sum := []string{name}, 0
		for _, severity := range columns {
			n := count(severity)
			cells, sum = append(cells, strconv.Itoa(n)), sum+n
		}
		rows = append(rows, append(cells, strconv.Itoa(sum)))
	}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		row(name, func(severity string) (sum int) {
			for c, n := range counts {
				if orNone(c.alertType) == name && orNone(c.severity) == severity {
					sum += n
				}
			}
			return sum
		})
	}
	row("total", func(severity string) int { return severities[severity] })
	return printTable(w, append(head, "total"), rows)
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// alertWriter takes alerts that may be shown, and writes each at once, but for a table's:
// nobody waits for the last one, and the end of the process loses none.
type alertWriter interface {
	write(a dtm.Alert) error
	close() error
}

type noWriter struct{}

func (noWriter) write(dtm.Alert) error { return nil }
func (noWriter) close() error          { return nil }

// jsonWriter writes alerts as they came, less the white space between JSON's tokens: a
// line each, or as one list.
type jsonWriter struct {
	w     io.Writer
	list  bool
	shown bool // on a terminal
	n     int
	end   func() error
}

func (j *jsonWriter) write(a dtm.Alert) error {
	var line bytes.Buffer
	if j.list {
		line.WriteString([]string{"[\n", ",\n"}[min(j.n, 1)])
	}
	if err := json.Compact(&line, a.Raw); err != nil {
		return err
	}
	if !j.list {
		line.WriteByte('\n')
	}
	j.n++
	text := line.Bytes()
	if j.shown {
		text = cleanJSON(text)
	}
	_, err := j.w.Write(text)
	return err
}

func (j *jsonWriter) close() (err error) {
	if j.list {
		_, err = io.WriteString(j.w, []string{"[]\n", "\n]\n"}[min(j.n, 1)])
	}
	return errors.Join(err, j.end())
}

// csvWriter writes a row for each alert.
type csvWriter struct {
	w      io.Writer
	headed bool
	end    func() error
}

func (c *csvWriter) write(a dtm.Alert) error {
	if err := c.head(); err != nil {
		return err
	}
	return writeRow(c.w, csvRow(a))
}

func (c *csvWriter) head() error {
	if c.headed {
		return nil
	}
	c.headed = true
	return writeRow(c.w, csvColumns)
}

func (c *csvWriter) close() error { return errors.Join(c.head(), c.end()) }

// tableWriter writes a row for each alert, for people. How wide its columns are shows at
// the end.
type tableWriter struct {
	w    io.Writer
	rows [][]string
	end  func() error
}

func (t *tableWriter) write(a dtm.Alert) error {
	t.rows = append(t.rows, tableRow(a, time.Now()))
	return nil
}

func (t *tableWriter) close() error {
	return errors.Join(printAlertTable(t.w, t.rows, true), t.end())
}

var csvColumns = []string{"id", "created_at", "updated_at", "alert_type", "severity", "status", "monitor_id", "monitor_name", "mscore", "tags", "title"}

func csvRow(a dtm.Alert) []string {
	tags, _ := a.Tags()
	return []string{
		a.ID, csvTime(a.CreatedAt), csvTime(a.UpdatedAt), a.Type, a.Severity, a.Status,
		a.MonitorID, a.MonitorName, a.MScore, strings.Join(tags, "; "), a.Details().Title,
	}
}

// csvTime is empty where there is no time.
func csvTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return message.Time(t)
}

var tableColumns = []string{"CREATED", "AGE", "SEVERITY", "STATUS", "TYPE", "TITLE", "ID"}

func printAlertTable(w io.Writer, rows [][]string, withHead bool) error {
	head, rows := roomFor(w, 120, tableColumns, rows, "TYPE")
	return printRows(w, head, rows, withHead)
}

func tableRow(a dtm.Alert, now time.Time) []string {
	created := "-"
	if !a.CreatedAt.IsZero() {
		created = a.CreatedAt.Local().Format("01-02 15:04")
	}
	return []string{
		created, strings.TrimSuffix(age(a.CreatedAt, now), " ago"), a.Severity, a.Status, a.Type, a.Details().Title, a.ID,
	}
}
