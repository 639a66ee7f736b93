package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

type backfillCmd struct {
	Start  backfillStartCmd  `cmd:"" default:"withargs" help:"Relay a past range."`
	List   backfillListCmd   `cmd:"" help:"List the backfills, the newest first."`
	Show   backfillShowCmd   `cmd:"" help:"Show how far a backfill is."`
	Cancel backfillCancelCmd `cmd:"" help:"Cancel a backfill. What was published stays published."`
}

func (backfillCmd) Help() string {
	return `Relays a past range: what was never published, and newer versions of what was. The same command again goes on with a backfill that is not finished.

"backfill" alone is "backfill start". Its flags, of which "dtmrelay backfill start --help" says more: --url or --data, --since, --until, --republish, --dry-run, --id, --watch, --output, --format, and the filters --monitor-id, --status, --alert-type, --tags, --match-value, --severity, --mscore-gte, --search, --has-analysis.

Examples:

	dtmrelay backfill --since 96h --url https://dtm-relay-abc123-ew.a.run.app --watch
	dtmrelay backfill --since 2026-01-02T00:00:00Z --until 2026-01-05T00:00:00Z --severity high --dry-run
	dtmrelay backfill list
	dtmrelay backfill cancel b-4d1c0b21-20260102T1504Z`
}

// backfillID is an argument.
type backfillID string

const allowedID = "it must be 1 to 128 letters, digits, dots, dashes and underscores, a letter or digit first"

// UnmarshalText reads an id.
func (b *backfillID) UnmarshalText(text []byte) error {
	if *b = backfillID(text); len(text) > 0 && !state.ValidBackfillID(string(text)) {
		return fmt.Errorf("%q is no backfill's id: %s", dtm.Shorten(string(text)), allowedID)
	}
	return nil
}

// followBackfill waits until a backfill is finished, and shows how far it is.
func followBackfill(ctx context.Context, relay relayClient, id backfillID, bar *backfillBar) (last backfillRecord, err error) {
	const patience = 5 // failures in a row: a relay may be deployed anew
	for failed := 0; ; {
		next, err := oneBackfill(ctx, relay, http.MethodGet, id)
		switch {
		case err == nil:
			failed, last = 0, next
			bar.show(last)
			if last.Finished() {
				return last, nil
			}
		case isMissing(err):
			return last, err
		default:
			if failed++; failed == patience {
				return last, err
			}
		}
		select {
		case <-ctx.Done():
			return last, nil
		case <-time.After(watchEvery):
		}
	}
}

func isMissing(err error) bool {
	var p *relayProblem
	return errors.As(err, &p) && p.status == http.StatusNotFound
}

// oneBackfill is GET or DELETE /backfill/{id}.
func oneBackfill(ctx context.Context, relay relayClient, method string, id backfillID) (b backfillRecord, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	answer, err := relay.call(ctx, method, "/backfill/"+url.PathEscape(string(id)), nil, "id")
	if err != nil {
		return b, err
	}
	err = b.read(answer)
	return b, err
}

type backfillPage struct {
	Backfills []backfillRecord
	Next      string
}

// listBackfills is GET /backfill: the newest ones, 1 to 200.
func listBackfills(ctx context.Context, relay relayClient, limit int) (page backfillPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	answer, err := relay.call(ctx, http.MethodGet, "/backfill?limit="+strconv.Itoa(limit), nil, "backfills")
	if err != nil {
		return page, err
	}
	if err = json.Unmarshal(answer, &page); err != nil {
		return page, fmt.Errorf("the relay's list of backfills: %w", err)
	}
	return page, nil
}

type backfillListCmd struct {
	relayFlags
	outputFlags
	Limit int `default:"50" placeholder:"N" help:"How many, 1 to 200 (${default})."`
}

func (backfillListCmd) Help() string {
	return `Examples:

	dtmrelay backfill list
	dtmrelay backfill list --url https://dtm-relay-abc123-ew.a.run.app --format csv`
}

func (c *backfillListCmd) Validate() error {
	problems := []error{c.check()}
	if c.Limit < 1 || c.Limit > 200 {
		problems = append(problems, fmt.Errorf("--limit is %d: it must be 1 to 200", c.Limit))
	}
	return errors.Join(problems...)
}

func (c *backfillListCmd) Run(ctx context.Context) error {
	relay, closeRelay, err := c.openToRead(ctx)
	if err != nil {
		return err
	}
	page, err := listBackfills(ctx, relay, c.Limit)
	err = errors.Join(err, closeRelay())
	if err != nil {
		return err
	}
	if err := page.print(os.Stdout, c.Format.or(os.Stdout, formatJSONL)); err != nil {
		return err
	}
	if page.Next != "" {
		fmt.Fprintln(os.Stderr, "there are more: --limit takes up to 200")
	}
	return nil
}

func (p backfillPage) print(w io.Writer, format outputFormat) error {
	now := time.Now()
	var rows [][]string
	switch format {
	case formatCSV:
		for _, b := range p.Backfills {
			rows = append(rows, b.row())
		}
		return writeCSV(w, backfillColumns, rows)
	case formatTable:
		for _, b := range p.Backfills {
			rows = append(rows, []string{
				b.ID, b.State, percent(b.Done), localTime(b.Since), localTime(b.Until), strconv.FormatInt(b.Published, 10), age(b.RequestedAt, now),
			})
		}
		head, rows := roomFor(w, 110, []string{"backfill", "state", "done", "since", "until", "published", "requested"}, rows, "requested")
		return printTable(w, head, rows)
	case formatJSON:
		all := []json.RawMessage{}
		for _, b := range p.Backfills {
			all = append(all, b.text)
		}
		text, err := json.Marshal(all)
		if err != nil {
			return err
		}
		return printRawJSON(w, format, text)
	case formatJSONL:
	}
	for _, b := range p.Backfills {
		if err := printRawJSON(w, format, b.text); err != nil {
			return err
		}
	}
	return nil
}

type backfillShowCmd struct {
	relayFlags
	outputFlags
	ID    backfillID `arg:"" help:"The backfill's id."`
	Watch bool       `help:"Of a deployed relay: wait until it is finished."`
}

func (backfillShowCmd) Help() string {
	return `Examples:

	dtmrelay backfill show b-4d1c0b21-20260102T1504Z
	dtmrelay backfill show november --url https://dtm-relay-abc123-ew.a.run.app --watch`
}

func (c *backfillShowCmd) Validate() error {
	problems := []error{c.check()}
	if c.Watch && c.URL == "" {
		problems = append(problems, errors.New("--watch is for a deployed relay: one of this machine works a backfill only while \"backfill\" or \"serve --local\" runs"))
	}
	return errors.Join(problems...)
}

func (c *backfillShowCmd) Run(ctx context.Context) error {
	relay, closeRelay, err := c.openToRead(ctx)
	if err != nil {
		return err
	}
	var b backfillRecord
	if c.Watch {
		bar := newBackfillBar(os.Stderr)
		b, err = followBackfill(ctx, relay, c.ID, bar)
		bar.end()
	} else {
		b, err = oneBackfill(ctx, relay, http.MethodGet, c.ID)
	}
	err = errors.Join(err, closeRelay())
	if err != nil {
		return err
	}
	if c.Watch && ctx.Err() != nil {
		return c.interruptedWaiting(string(c.ID))
	}
	if err := b.print(os.Stdout, c.Format.or(os.Stdout, formatJSON)); err != nil || !c.Watch {
		return err
	}
	return b.failure()
}

type backfillCancelCmd struct {
	relayFlags
	outputFlags
	ID backfillID `arg:"" help:"The backfill's id."`
}

func (backfillCancelCmd) Help() string {
	return `Whoever works it stops within seconds. One that is finished stays as it is.

Examples:

	dtmrelay backfill cancel b-4d1c0b21-20260102T1504Z
	dtmrelay backfill cancel november --url https://dtm-relay-abc123-ew.a.run.app`
}

func (c *backfillCancelCmd) Validate() error { return c.check() }

func (c *backfillCancelCmd) Run(ctx context.Context) error {
	relay, closeRelay, err := c.open(ctx)
	if err != nil {
		return err
	}
	b, err := oneBackfill(ctx, relay, http.MethodDelete, c.ID)
	err = errors.Join(err, closeRelay())
	if err != nil {
		return err
	}
	if err := b.print(os.Stdout, c.Format.or(os.Stdout, formatJSON)); err != nil {
		return err
	}
	if b.State != state.Cancelled {
		return fmt.Errorf("backfill %s is %s already", b.ID, b.State)
	}
	return nil
}
