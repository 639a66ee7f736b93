package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/publish"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

type pollCmd struct {
	filterFlags `embed:""`
	keyFlags    `embed:""`
	outputFlags `embed:""`
	refsFlag    `embed:""`

	Data     string        `default:"dtmrelay-data" placeholder:"DIR" help:"Where the position, and what became of each alert, are kept (${default})."`
	Interval time.Duration `default:"5m" placeholder:"D" help:"From the beginning of one poll to the next, 1s at least (${default})."`
	Polls    int           `placeholder:"N" help:"End after so many polls; 0 is never (0)."`
	Since    *moment       `placeholder:"WHEN" help:"Where the first poll of all begins: a duration back from now, or a time (24h, or INITIAL_LOOKBACK)."`
	Output   string        `placeholder:"FILE" help:"Append the alerts to this file."`

	Webhook           string `placeholder:"URL" help:"Post each alert as an incident to this address; https, or http on this machine."`
	WebhookHeaderFile string `placeholder:"FILE" help:"Lines as Name: value, for the header of these posts."`
	Exec              string `placeholder:"CMD" help:"Run this command line for each alert, which is on its standard input."`
}

func (pollCmd) Help() string {
	return `The relay on this machine: it shows new and changed alerts only, and goes on where it was when it was ended. Rules, redaction and all else follow the environment: docs/configuration.md.

--webhook and --exec get every alert at least once: in each poll the new ones in the order of created_at, then the changes. One that fails is repeated, and holds up those after it. What a webhook answers with 4xx, such as 401, but not 408, 425 and 429, is not repeated, and is noted in rejects.jsonl. After each poll, status.json tells how it went.

Examples:

	export GTI_API_KEY=…
	dtmrelay poll
	dtmrelay poll --polls 1 --severity high | jq .title
	dtmrelay poll --interval 10m --webhook https://soar.example.com/hook --webhook-header-file header.txt
	dtmrelay poll --exec 'jq -r .title | mail -s "DTM alert" soc@example.com'`
}

// Validate names all problems of the flags.
func (c *pollCmd) Validate() error {
	errs := []error{c.problems()}
	if c.Interval < time.Second {
		errs = append(errs, fmt.Errorf("--interval is %s: it must be 1s or more", c.Interval))
	}
	if c.Polls < 0 {
		errs = append(errs, fmt.Errorf("--polls is %d: it must be 0 or more", c.Polls))
	}
	errs = append(errs, checkOutput(c.Output))
	if c.Webhook != "" {
		errs = append(errs, checkWebhook(c.Webhook))
	}
	if c.WebhookHeaderFile != "" && c.Webhook == "" {
		errs = append(errs, errors.New("--webhook-header-file is for --webhook: add it, or leave this out"))
	}
	if c.Since != nil && !c.Since.before(time.Now()).Before(time.Now()) {
		errs = append(errs, errFuture)
	}
	return errors.Join(errs...)
}

func (c *pollCmd) Run(ctx context.Context) error {
	p := &poller{files: filesIn(c.Data)}
	err := c.open(ctx, p)
	if err == nil {
		err = p.loop(ctx, c.Polls, c.Interval)
	}
	return errors.Join(err, p.close())
}

// poller polls, and shows what it does.
type poller struct {
	app      *app.App
	delivery *delivery
	files    localFiles
	closers  []func() error
}

func (p *poller) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	return errors.Join(errs...)
}

// open puts the relay of this machine together. What it has opened is p's to close, also
// after an error.
func (c *pollCmd) open(ctx context.Context, p *poller) error {
	cfg, keys, end, err := c.local(ctx, c.values())
	if err != nil {
		return err
	}
	p.closers = append(p.closers, end)
	if c.Since != nil {
		if cfg.InitialLookback = time.Since(c.Since.before(time.Now())).Round(time.Millisecond); cfg.InitialLookback <= cfg.Settle {
			return usagef("--since is %s back: it must be more than SETTLE (%s), the newest alerts that each poll leaves for the next", cfg.InitialLookback, cfg.Settle)
		}
	}
	cfg.Filter = c.over(cfg.Filter)
	d := &delivery{stopping: ctx, exec: c.Exec, showIncidents: cfg.MessageFormat == string(message.Incident)}
	if c.Webhook != "" {
		if d.webhook, err = newWebhook(c.Webhook, c.WebhookHeaderFile); err != nil {
			return err
		}
		cfg.MessageFormat = string(message.Incident)
	}
	d.incidents = cfg.MessageFormat == string(message.Incident)
	if c.Webhook != "" || c.Exec != "" {
		cfg.Concurrency = 1 // several workers read several parts of the time at once
	}
	if err := os.MkdirAll(p.files.dir, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	lost := p.files.lostPosition()
	store, err := bolt.Open(p.files.state)
	if err != nil {
		return fmt.Errorf("%w (--data takes another folder)", err)
	}
	p.closers = append(p.closers, store.Close)
	if !lost.IsZero() {
		fmt.Fprintf(os.Stderr, "dtmrelay: %s had read up to %s, and its %s is gone or empty: it begins again %s back (--since or INITIAL_LOOKBACK), and repeats alerts\n",
			p.files.dir, localTime(lost), filepath.Base(p.files.state), cfg.InitialLookback)
	}
	// Not before the state is this process's: another poll may be writing to the file.
	if d.out, err = openPrinter(c.Format, c.Output); err != nil {
		return err
	}
	p.closers = append(p.closers, d.out.close)
	if c.Since != nil {
		if err := sayWhereItGoesOn(ctx, store, cfg.Feed, p.files.dir); err != nil {
			return err
		}
	}
	if d.Rejects, err = publish.OpenRejects(p.files.rejects); err != nil {
		return err
	}
	p.closers = append(p.closers, d.Close)
	p.delivery = d
	p.app, err = newLocal(cfg, app.Parts{Store: store, Publisher: d, Keys: keys, OneReader: true})
	return err
}

// sayWhereItGoesOn says that --since is without effect where there is a position.
func sayWhereItGoesOn(ctx context.Context, store state.Store, feed, dir string) error {
	found, err := store.Open(ctx, feed, "")
	if err != nil {
		return err
	}
	if !found.Feed.BeginsAt.IsZero() {
		fmt.Fprintf(os.Stderr, "dtmrelay: --since is for the first poll of all, and %s has read up to %s: for what was before, there is %s backfill --since WHEN --data %[1]s\n",
			dir, localTime(found.Feed.Position()), self())
	}
	return nil
}

// values are the variables that flags replace.
func (c *pollCmd) values() map[string]string {
	values := map[string]string{}
	if c.Since != nil {
		values["INITIAL_LOOKBACK"] = ""
	}
	// No platform cuts a poll off, and what a slow receiver has taken of a page must be
	// recorded within the run.
	if variable("RUN_BUDGET") == "" {
		values["RUN_BUDGET"] = "1h"
	}
	return c.refsValue(values)
}

// newLocal is an app whose warnings and errors are lines for people.
func newLocal(cfg config.Config, parts app.Parts) (*app.App, error) {
	mask := observe.NewKeyMask(os.Stderr)
	parts.Keys = app.MaskKeys(parts.Keys, mask)
	return app.New(cfg, parts, slog.New(plainHandler{w: mask}))
}

// plainHandler writes warnings and errors as lines for people. The line of a run is left
// out: the command says itself what it did.
type plainHandler struct {
	w    io.Writer
	with []slog.Attr // of every line
}

func (plainHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (h plainHandler) Handle(_ context.Context, r slog.Record) error {
	text := "dtmrelay: " + r.Message
	attrs := slices.Clone(h.with)
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for _, a := range attrs {
		switch {
		case a.Key == "event" && a.Value.String() == "run":
			return nil
		case a.Key == "event", a.Key == "feed", a.Key == "run_id": // there is only one
		default:
			text += fmt.Sprintf(" %s=%s", a.Key, a.Value)
		}
	}
	_, err := io.WriteString(h.w, clean(text)+"\n")
	return err
}

func (h plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return plainHandler{h.w, slices.Concat(h.with, attrs)}
}
func (h plainHandler) WithGroup(string) slog.Handler { return h }

// loop polls until it is told to stop.
func (p *poller) loop(ctx context.Context, polls int, interval time.Duration) error {
	for n := 1; ; n++ {
		next := time.Now().Add(interval)
		wait, err := p.poll(ctx, n == polls)
		if err != nil || n == polls || ctx.Err() != nil {
			return err
		}
		if wait > 0 {
			next = time.Now().Add(max(time.Until(next), wait))
		}
		if (n == 1 || wait > 0) && isTerminal(os.Stderr) {
			fmt.Fprintf(os.Stderr, "next poll at %s; Ctrl-C ends, and %s poll goes on from %s\n", localTime(next), self(), p.files.dir)
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// poll polls once. An error is one to end with: a failure that may pass is shown, unless
// it is the last poll's. wait is what GTI asks for before the next, 0 for nothing.
func (p *poller) poll(ctx context.Context, last bool) (wait time.Duration, err error) {
	if err := p.delivery.out.begin(); err != nil {
		return 0, err
	}
	before := p.delivery.sent
	report, failure := p.app.Run(ctx, "cli", "", false)
	alerts := p.delivery.sent - before
	if err := p.delivery.end(); err != nil {
		return 0, unwrittenAfter(err, alerts)
	}
	unkept := p.keepStatus(context.WithoutCancel(ctx))
	wait, err = p.outcome(ctx, report, failure, alerts, last)
	switch {
	case unkept == nil:
	case err != nil:
		err = errors.Join(err, unkept)
	case last:
		err = stopped(unkept, alerts)
	default:
		fmt.Fprintf(os.Stderr, "dtmrelay: %s; the next poll tries again\n", clean(oneLine(unkept)))
	}
	return wait, err
}

// outcome says how a poll went that has delivered so many alerts. Its results are poll's.
func (p *poller) outcome(ctx context.Context, report drain.Report, failure error, alerts int, last bool) (wait time.Duration, err error) {
	switch kind := dtm.Kind(failure); {
	case p.delivery.closed != nil:
		return 0, unwrittenAfter(p.delivery.closed, alerts)
	case ctx.Err() != nil && (failure != nil || report.Outcome == drain.Partial):
		return 0, partialError{fmt.Errorf("interrupted after %s: the next poll goes on there", plural(p.delivery.sent, "alert"))}
	case failure == nil && last && report.Outcome == drain.Partial && report.StopReason != drain.StopCap:
		return 0, partialError{errors.New(pollSummary(report))}
	case failure == nil:
		fmt.Fprintln(os.Stderr, pollSummary(report))
		return report.Wait, nil
	case last, kind == dtm.KeyRefused, kind == dtm.NoKey:
		return 0, stopped(failure, alerts)
	}
	fmt.Fprintf(os.Stderr, "dtmrelay: %s; the next poll tries again\n", clean(oneLine(explain(failure))))
	return dtm.RetryAfter(failure), nil
}

// unwrittenAfter is the error of a poll whose output takes nothing more after so many
// alerts. That nobody reads on is no error.
func unwrittenAfter(err error, alerts int) error {
	if isReaderGone(err) {
		return err
	}
	return stopped(err, alerts)
}

// stopped is the error of a last poll that has delivered so many alerts.
func stopped(err error, alerts int) error {
	err = errors.New(oneLine(explain(err)))
	if alerts > 0 {
		return partialError{fmt.Errorf("stopped after %s: %w", plural(alerts, "alert"), err)}
	}
	return err
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// pollSummary says what a poll did, in a line.
func pollSummary(r drain.Report) string {
	parts := []string{fmt.Sprintf("%d new, %d changed", r.Created, r.Updated+r.StatusChanged)}
	for _, more := range []struct {
		n    int64
		what string
	}{{r.Dropped, "dropped by rules"}, {r.Rejected, "rejected (rejects.jsonl)"}} {
		if more.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", more.n, more.what))
		}
	}
	if r.Outcome == drain.Partial {
		why := r.StopReason
		if r.WaitCause != "" {
			why = fmt.Sprintf("wait until %s: %s", localTime(r.FinishedAt.Add(r.Wait)), clean(r.WaitCause))
		}
		parts = append(parts, "the rest with the next poll ("+why+")")
	}
	return fmt.Sprintf("%s  %s; %s", localTime(r.FinishedAt), strings.Join(parts, ", "), plural(int(r.Requests), "request"))
}

// keepStatus writes status.json, which others read while this process has the state.
func (p *poller) keepStatus(ctx context.Context) error {
	text, err := p.app.Status(ctx)
	path := filepath.Join(p.files.dir, statusFile)
	if err == nil {
		err = os.WriteFile(path+".new", append(text, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("%s is not of this poll: %w", statusFile, err)
	}
	return nil
}
