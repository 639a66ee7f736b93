package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/publish"
)

// delivery is the publisher of a poll. It brings each alert to everywhere it is wanted,
// one after the other, in the order of created_at.
type delivery struct {
	*publish.Rejects
	// stopping ends with Ctrl-C: what is under way then is delivered again.
	stopping context.Context //nolint:containedctx // the engine's context lives longer
	webhook  *webhook        // nil: none
	exec     string          // a command for each alert; empty: none
	out      *alertPrinter
	// incidents: the messages are incidents, for the webhook or by MESSAGE_FORMAT. Only by
	// that they are shown, too; else it is the alerts in them.
	incidents, showIncidents bool

	mu       sync.Mutex
	sent     int
	progress *progress // of the poll; nil: nothing was sent yet
	before   int       // sent in earlier polls
	closed   error     // the output takes nothing more
}

// Publish delivers the alerts. One that fails holds up those after it.
func (d *delivery) Publish(ctx context.Context, messages []message.Message) []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.stopping, cancel)()
	order := make([]int, len(messages))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return strings.Compare(messages[a].Attributes["created_at"], messages[b].Attributes["created_at"])
	})
	errs := make([]error, len(messages))
	var failed error
	for _, i := range order {
		if failed != nil {
			errs[i] = failed
			continue
		}
		errs[i] = d.deliver(ctx, messages[i])
		switch {
		case errs[i] == nil:
			d.sent++
			d.show(messages[i])
		case errors.Is(errs[i], message.ErrRefused):
			fmt.Fprintf(os.Stderr, "dtmrelay: alert %s: %s\n", clean(messages[i].Attributes["alert_id"]), clean(errs[i].Error()))
		default:
			failed = errs[i]
		}
	}
	// What nobody has seen must not count as delivered.
	rows := len(d.out.rows)
	if err := d.out.printRows(); err != nil {
		d.closed = err
		d.sent -= rows
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// show shows how far a poll has come, except between alerts.
func (d *delivery) show(m message.Message) {
	if isTerminal(d.out.w) || isPipe(d.out.w) {
		return
	}
	at, err := time.Parse(time.RFC3339, m.Attributes["created_at"])
	if err != nil {
		return
	}
	if d.progress == nil {
		d.progress, d.before = newProgress(true, at, time.Time{}, 0), d.sent-1
	}
	d.progress.show(d.sent-d.before, at)
}

// end ends what is shown of a poll.
func (d *delivery) end() error {
	if d.progress != nil {
		d.progress.end()
		d.progress = nil
	}
	return d.out.end()
}

func (d *delivery) deliver(ctx context.Context, m message.Message) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var refused error
	if d.webhook != nil {
		if err := d.webhook.deliver(ctx, m); errors.Is(err, message.ErrRefused) {
			refused = err
		} else if err != nil {
			return err
		}
	}
	line, alert, err := lineOf(m, d.incidents, d.showIncidents)
	if err != nil {
		return err
	}
	if d.exec != "" {
		if err := runWith(ctx, d.exec, line); err != nil {
			return err
		}
	}
	if err := d.out.alert(line, alert, m.Attributes); err != nil {
		d.closed = err
		return err
	}
	return refused
}

// lineOf is the line that shows a message, and the alert in it. incidents: the messages are
// incidents, and only with showIncidents the line is one, too.
func lineOf(m message.Message, incidents, showIncidents bool) (line, alert []byte, err error) {
	alert = m.Data
	if incidents {
		var incident struct {
			Alert json.RawMessage `json:"alert"`
		}
		if err := json.Unmarshal(alert, &incident); err != nil {
			return nil, nil, fmt.Errorf("taking the alert out of its incident: %w", err)
		}
		alert = incident.Alert
	}
	shown := alert
	if showIncidents {
		shown = m.Data
	}
	line, err = compactJSON(shown)
	return append(line, '\n'), alert, err
}

// runWith runs a command line with an alert on its standard input.
func runWith(ctx context.Context, line string, data []byte) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", line) //nolint:gosec // G204: it is the user's command
	cmd.Stdin = bytes.NewReader(data)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.WaitDelay = time.Second
	endGroup := inGroup(cmd)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GTI_API_KEY=") })
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		endGroup()
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("the command of --exec failed: %w", err)
	}
	return nil
}

// alertPrinter shows the alerts of a poll, or of a backfill, as they come: lines, or for
// people a table.
type alertPrinter struct {
	w      io.Writer
	path   string // of w; empty: it is standard output
	format outputFormat
	headed bool // of CSV, or of the table of this poll

	rows   [][]string // that are not printed yet
	counts map[class]int
	n      int
}

// openPrinter prints to standard output, or adds to the file at path, unless that is empty.
func openPrinter(format outputFormat, path string) (*alertPrinter, error) {
	out := &alertPrinter{w: os.Stdout, path: path, format: format.or(os.Stdout, formatJSONL), counts: map[class]int{}}
	if out.format == formatJSON || format == "" && path != "" {
		out.format = formatJSONL // a list would have no end
	}
	if path == "" {
		return out, nil
	}
	file, err := openToAppend(path, out.format)
	if err != nil {
		return nil, fmt.Errorf("--output: %w", err)
	}
	if err := out.writeTo(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return out, nil
}

// writeTo writes to a file from now on.
func (p *alertPrinter) writeTo(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	p.w, p.headed = file, info.Size() > 0
	return nil
}

// begin begins a poll.
func (p *alertPrinter) begin() error {
	if p.path == "" {
		return nil
	}
	before := p.w.(*os.File)
	file, err := reopened(before, p.path, p.format)
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	if file == before {
		return nil
	}
	return p.writeTo(file)
}

// close closes the file.
func (p *alertPrinter) close() error {
	if p.path == "" {
		return nil
	}
	return p.w.(*os.File).Close()
}

// countedFrom is from how many alerts of one poll on they are counted below its table.
const countedFrom = 20

// alert shows one: its line of JSON, or what a row says of it.
func (p *alertPrinter) alert(line, alert []byte, attributes map[string]string) error {
	if p.format == formatJSONL {
		if isTerminal(p.w) {
			line = cleanJSON(line)
		}
		_, err := p.w.Write(line)
		return err
	}
	a := dtm.ParseAlert(alert)
	if p.format == formatCSV {
		if !p.headed {
			if err := writeRow(p.w, append([]string{"event"}, csvColumns...)); err != nil {
				return err
			}
			p.headed = true
		}
		return writeRow(p.w, append([]string{attributes["event"]}, csvRow(a)...))
	}
	p.n++
	p.counts[class{a.Type, a.Severity}]++
	switch event := attributes["event"]; event {
	case ledger.Created:
	case ledger.StatusChanged:
		a.Status = attributes["previous_status"] + " → " + a.Status
	default:
		a.Status += " (" + event + ")"
	}
	p.rows = append(p.rows, tableRow(a, time.Now()))
	return nil
}

// printRows prints the rows of a table that are not printed yet.
func (p *alertPrinter) printRows() error {
	if len(p.rows) == 0 {
		return nil
	}
	err := printAlertTable(p.w, p.rows, !p.headed)
	p.rows, p.headed = nil, true
	return err
}

// end ends the table of a poll.
func (p *alertPrinter) end() error {
	if p.n == 0 {
		return nil
	}
	n, counts := p.n, p.counts
	p.headed, p.counts, p.n = false, map[class]int{}, 0
	if n < countedFrom {
		return nil
	}
	fmt.Fprintf(p.w, "%s:\n", plural(n, "alert"))
	return printCounts(p.w, counts)
}
