package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

type backfillStartCmd struct {
	relayFlags
	outputFlags
	keyFlags
	filterFlags

	Since     *moment `required:"" placeholder:"WHEN" help:"Where the range of created_at begins: a time (RFC 3339), or a duration back from now such as 96h."`
	Until     *moment `placeholder:"WHEN" help:"Where it ends, in the same forms (at the latest at the live position, with --republish at the live feed's end)."`
	Republish bool    `help:"Publish also what was published before, to every subscriber."`
	DryRun    bool    `help:"Only count."`
	ID        string  `name:"id" placeholder:"NAME" help:"A name of your own: 1 to 128 letters, digits, dots, dashes and underscores, a letter or digit first."`
	Watch     bool    `help:"Of a deployed relay: wait until it is finished."`
	Output    string  `placeholder:"FILE" help:"Of a relay of this machine: add the alerts to a file, not to standard output."`

	request backfillRequest // of the flags
}

func (backfillStartCmd) Help() string {
	return `A deployed relay publishes to its topic. It works the backfill while this command waits, and goes on in its later runs; --watch waits for the end.

A relay of this machine (--data) works it here, and what is new is relayed on the way, as by a poll. The alerts are on standard output or in --output, in the formats of poll. It needs the API key: GTI_API_KEY, --key-file or --key-secret.

Examples:

	dtmrelay backfill --since 96h --url https://dtm-relay-abc123-ew.a.run.app --watch
	dtmrelay backfill --since 96h --severity high --dry-run
	dtmrelay backfill --since 96h --output alerts.jsonl`
}

func (c *backfillStartCmd) Validate() error {
	problems := []error{c.check(), c.problems(), checkOutput(c.Output)}
	if c.ID != "" && !state.ValidBackfillID(c.ID) {
		problems = append(problems, fmt.Errorf("--id is %q: %s", c.ID, allowedID))
	}
	if state.IsRelaysOwn(c.ID) {
		problems = append(problems, fmt.Errorf("--id is %q: what begins with audit- or sweep- is the relay's own", dtm.Shorten(c.ID)))
	}
	if c.URL != "" && c.Output != "" {
		problems = append(problems, errors.New("--output is for a relay of this machine: a deployed one publishes to its topic"))
	}
	if c.Since == nil {
		return errors.Join(problems...) // kong says that it is missing
	}
	now := time.Now()
	if !c.Since.before(now).Before(now) {
		problems = append(problems, errFuture)
	}
	if c.Until != nil && !c.Since.before(now).Before(c.Until.before(now)) {
		problems = append(problems, errEmptyRange)
	}
	if filter := c.over(dtm.Filter{}); filter.String() != "{}" {
		c.request.Filter = json.RawMessage(filter.String())
	}
	c.request.Since, c.request.Republish, c.request.DryRun, c.request.ID = c.Since.text(), c.Republish, c.DryRun, c.ID
	if c.Until != nil {
		c.request.Until = c.Until.text()
	}
	return errors.Join(problems...)
}

// text is the same for the same moment, as the relay takes it.
func (m moment) text() string {
	if m.at.IsZero() {
		return m.ago.String()
	}
	return m.at.UTC().Format(time.RFC3339Nano)
}

// backfillRequest is the body of POST /backfill.
type backfillRequest struct {
	Since     string          `json:"since"`
	Until     string          `json:"until,omitempty"`
	Filter    json.RawMessage `json:"filter,omitempty"`
	Republish bool            `json:"republish,omitempty"`
	DryRun    bool            `json:"dry_run,omitempty"`
	ID        string          `json:"id,omitempty"`
}

func (c *backfillStartCmd) Run(ctx context.Context) error {
	if c.URL != "" {
		relay, err := c.remote(ctx)
		if err != nil {
			return err
		}
		return c.startRemote(ctx, relay, c.request)
	}
	return c.startLocal(ctx, c.request)
}

// startRemote asks a deployed relay, and follows it with --watch.
func (c *backfillStartCmd) startRemote(ctx context.Context, relay relayClient, request backfillRequest) error {
	bar := newBackfillBar(os.Stderr)
	last, err := c.post(ctx, relay, request, bar)
	if err == nil && c.Watch && !request.DryRun && !last.Finished() {
		last, err = followBackfill(ctx, relay, backfillID(last.ID), bar)
	}
	bar.end()
	if ctx.Err() != nil {
		return c.interrupted(last)
	}
	if err != nil {
		return err
	}
	if err := last.print(os.Stdout, c.Format.or(os.Stdout, formatJSON)); err != nil {
		return err
	}
	if !request.DryRun && !last.Finished() {
		fmt.Fprintf(os.Stderr, "not finished: the relay's next runs go on with it; to see how far it is: %s backfill show %s%s --watch\n", self(), last.ID, c.words())
	}
	return last.failure()
}

func (c *backfillStartCmd) interrupted(last backfillRecord) error {
	if last.ID == "" || c.DryRun {
		return partialError{errors.New("interrupted")}
	}
	return c.interruptedWaiting(last.ID)
}

// interruptedWaiting is the error of who waits for a deployed relay's backfill.
func (f relayFlags) interruptedWaiting(id string) error {
	return partialError{fmt.Errorf("interrupted; the relay's next runs go on with it, but for: %s backfill cancel %s%s", self(), id, f.words())}
}

// startLocal works the backfill in this process, until it is finished or stopped.
func (c *backfillStartCmd) startLocal(ctx context.Context, request backfillRequest) error {
	cfg, keys, end, err := c.local(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = end() }()
	files := filesIn(c.folder())
	if err := files.havePosition(); err != nil {
		return err
	}
	format := c.Format
	if c.Output != "" && format == formatTable { // that is for what became of the backfill
		format = formatJSONL
	}
	store, err := bolt.Open(files.state)
	if err != nil {
		return err
	}
	// Not before the state is this process's: a poll may be writing to these files.
	out, err := openAlertLines(format, c.Output, cfg.MessageFormat == string(message.Incident), files)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	relay, err := relayOver(ctx, store, cfg, keys, out)
	if err != nil {
		return errors.Join(err, out.close(), store.Close())
	}
	last, err := c.work(ctx, relay, request)
	written, failure := out.ended()
	err = errors.Join(failure, err, out.close(), store.Close())
	switch {
	case isReaderGone(err) && last.ID != "" && !last.Finished():
		return partialError{errors.New("the reader of standard output is gone; " + c.goesOn(last))}
	case err != nil && written > 0:
		return partialError{fmt.Errorf("stopped after %s: %w", plural(written, "alert"), err)}
	case err != nil:
		return err
	}
	// Standard output is for the alerts, where they have no file of their own.
	summary := os.Stdout
	format = c.Format.or(summary, formatJSON)
	if c.Output == "" && !request.DryRun {
		summary, format = os.Stderr, formatTable
	}
	if err := last.print(summary, format); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil && request.DryRun:
		return partialError{errors.New("interrupted")}
	case ctx.Err() != nil:
		return partialError{errors.New("interrupted; " + c.goesOn(last))}
	}
	return c.ended(last, written)
}

// ended is the error of a backfill of this machine that nothing has interrupted, and that
// has written so many alerts.
func (c *backfillStartCmd) ended(last backfillRecord, written int) error {
	failure := last.failure()
	switch {
	case failure != nil && written > 0:
		return partialError{fmt.Errorf("stopped after %s: %w", plural(written, "alert"), failure)}
	case last.Finished():
		return failure
	case last.Fetched > 0, written > 0:
		return partialError{errors.New("it is not finished" + last.because() + "; " + c.goesOn(last))}
	}
	return errors.New("it is not begun" + last.because() + "; " + c.goesOn(last))
}

// goesOn says what becomes of a backfill of this machine that is not finished.
func (c *backfillStartCmd) goesOn(last backfillRecord) string {
	return fmt.Sprintf("the same command goes on with it; to give it up: %s backfill cancel %s%s", self(), last.ID, c.words())
}

// work asks the relay of this process again as long as that brings the backfill on: a
// run ends at its budget.
func (c *backfillStartCmd) work(ctx context.Context, relay relayClient, request backfillRequest) (backfillRecord, error) {
	bar := newBackfillBar(os.Stderr)
	bar.lines = c.Output == "" && (isTerminal(os.Stdout) || isPipe(os.Stdout)) // a bar would run into the alerts
	defer bar.end()
	for before := (backfillRecord{}); ; {
		last, err := c.post(ctx, relay, request, bar)
		stopped := last.Done <= before.Done && last.Requests <= before.Requests
		if err != nil || request.DryRun || last.Finished() || stopped || ctx.Err() != nil || last.Note != "" && last.Error != "" {
			return last, err
		}
		before = last
	}
}

// post is POST /backfill. While the relay is at work, the bar shows how far it is.
func (c *backfillStartCmd) post(ctx context.Context, relay relayClient, request backfillRequest, bar *backfillBar) (last backfillRecord, err error) {
	looking, stop := context.WithCancel(ctx)
	looked := make(chan backfillRecord, 1)
	go func() { looked <- c.look(looking, relay, request, bar) }()
	answer, err := relay.call(ctx, http.MethodPost, "/backfill", request, "id")
	stop()
	seen := <-looked
	if err != nil {
		return seen, err
	}
	err = last.read(answer)
	return last, err
}

// lookEvery is how often the relay is asked how far it is.
const lookEvery = 2 * time.Second

// look shows how far the backfill is that a request means, until ctx ends, and returns
// what it saw last of it. It is found in the list, as the relay answers with its id only
// in the end.
func (c *backfillStartCmd) look(ctx context.Context, relay relayClient, request backfillRequest, bar *backfillBar) (last backfillRecord) {
	if request.DryRun {
		return backfillRecord{} // it is not recorded
	}
	for tick := time.NewTicker(lookEvery); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return last
		case <-tick.C:
		}
		// What can't be seen now may be seen later, and the answer comes anyway.
		page, err := listBackfills(ctx, relay, 200)
		if i := slices.IndexFunc(page.Backfills, request.means); err == nil && i >= 0 {
			last = page.Backfills[i]
			bar.show(last)
		}
	}
}

// means reports whether a backfill is the one of this request. A duration counts back
// from when the backfill was asked for.
func (r backfillRequest) means(b backfillRecord) bool {
	if r.ID != "" {
		return b.ID == r.ID
	}
	var since moment
	err := since.UnmarshalText([]byte(r.Since))
	return err == nil && b.Kind == "" && !b.Finished() && b.Republish == r.Republish &&
		b.Since.Equal(since.before(b.RequestedAt).Truncate(time.Millisecond)) && (r.Filter == nil || string(r.Filter) == string(b.Filter))
}
