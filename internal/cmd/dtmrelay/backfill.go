package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
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

type backfillStartCmd struct {
	relayFlags
	outputFlags
	keyFlags
	filterFlags

	Since     *moment `required:"" placeholder:"WHEN" help:"Where the range of created_at begins: a time (RFC 3339), or a duration back from now such as 96h."`
	Until     *moment `placeholder:"WHEN" help:"Where it ends, in the same forms (the live position, at which it ends at the latest)."`
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

func (c *backfillStartCmd) Run() error {
	ctx, stop := commandContext()
	defer stop()
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

// backfillRecord is what is shown of a backfill.
type backfillRecord struct {
	text json.RawMessage // as the relay answered it

	ID, Kind, State                                             string
	Since, Until                                                time.Time
	Filter                                                      json.RawMessage
	Republish                                                   bool
	DryRun                                                      bool      `json:"dry_run"`
	RequestedAt                                                 time.Time `json:"requested_at"`
	RequestedBy                                                 string    `json:"requested_by"`
	Done                                                        float64
	Fetched, Published, Suppressed, Dropped, Rejected, Requests int64
	Rate                                                        float64
	Refused                                                     []state.TimeRange
	ExpectedEnd                                                 time.Time `json:"expected_end"`
	FinishedAt                                                  time.Time `json:"finished_at"`
	Error, Note                                                 string
	WouldPublish                                                int64            `json:"would_publish"`
	ByType                                                      map[string]int64 `json:"by_type"`
	BySeverity                                                  map[string]int64 `json:"by_severity"`
}

func (b *backfillRecord) read(text json.RawMessage) error {
	type fields backfillRecord // without its methods
	if err := json.Unmarshal(text, (*fields)(b)); err != nil || b.ID == "" {
		return fmt.Errorf("the relay's answer is no backfill: %s", clean(dtm.Shorten(string(text))))
	}
	b.text = text
	return nil
}

// UnmarshalJSON keeps the text.
func (b *backfillRecord) UnmarshalJSON(text []byte) error { return b.read(slices.Clone(text)) }

// Finished reports whether nothing more becomes of it.
func (b backfillRecord) Finished() bool {
	return b.State == state.Done || b.State == state.Cancelled || b.State == state.Failed
}

func (b backfillRecord) why() string {
	return cmp.Or(b.Error, b.Note, "nothing more can be done now")
}

// because is why it stands still, for the end of a sentence; empty where nothing says so.
func (b backfillRecord) because() string {
	if said := cmp.Or(b.Error, b.Note); said != "" {
		return ": " + clean(said)
	}
	return ""
}

// failure is an error where a backfill ended, but not by being done.
func (b backfillRecord) failure() error {
	switch b.State {
	case state.Failed:
		return fmt.Errorf("backfill %s failed: %s", b.ID, clean(b.why()))
	case state.Cancelled:
		return fmt.Errorf("backfill %s was cancelled", b.ID)
	}
	return nil
}

// backfillColumns are the columns of CSV. Times are RFC 3339 in UTC, done is 0 to 1.
var backfillColumns = []string{
	"id", "kind", "state", "since", "until", "filter", "republish", "dry_run", "requested_at", "requested_by", "done",
	"fetched", "published", "suppressed", "dropped", "rejected", "requests", "expected_end", "finished_at", "error",
}

func (b backfillRecord) row() []string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return []string{
		b.ID, b.Kind, b.State, utc(b.Since), utc(b.Until), string(b.Filter), strconv.FormatBool(b.Republish), strconv.FormatBool(b.DryRun),
		utc(b.RequestedAt), b.RequestedBy, strconv.FormatFloat(b.Done, 'f', -1, 64),
		number(b.Fetched), number(b.Published), number(b.Suppressed), number(b.Dropped), number(b.Rejected), number(b.Requests),
		utc(b.ExpectedEnd), utc(b.FinishedAt), b.Error,
	}
}

func (b backfillRecord) print(w io.Writer, format outputFormat) error {
	switch format {
	case formatCSV:
		return writeCSV(w, backfillColumns, [][]string{b.row()})
	case formatTable:
		return b.printTable(w, time.Now())
	case formatJSON, formatJSONL:
	}
	return printRawJSON(w, format, b.text)
}

func (b backfillRecord) printTable(w io.Writer, now time.Time) error {
	rows := [][]string{
		{"state", b.State, ""},
		{"since", localTime(b.Since), age(b.Since, now)},
		{"until", localTime(b.Until), age(b.Until, now)},
		{"filter", string(b.Filter), ""},
		{"done", percent(b.Done), ""},
		{"alerts", fmt.Sprintf("%d fetched, %d published, %d known, %d dropped, %d rejected", b.Fetched, b.Published, b.Suppressed, b.Dropped, b.Rejected), ""},
		{"requests", strconv.FormatInt(b.Requests, 10), ""},
	}
	add := func(name, value, when string) {
		if value != "" {
			rows = append(rows, []string{name, value, when})
		}
	}
	if b.DryRun {
		add("would publish", strconv.FormatInt(b.WouldPublish, 10), "")
		for _, counts := range []map[string]int64{b.ByType, b.BySeverity} {
			for _, name := range slices.Sorted(maps.Keys(counts)) {
				add("  "+name, strconv.FormatInt(counts[name], 10), "")
			}
		}
	}
	if !b.ExpectedEnd.IsZero() {
		add("expected end", localTime(b.ExpectedEnd), age(b.ExpectedEnd, now))
	}
	if !b.FinishedAt.IsZero() {
		add("finished", localTime(b.FinishedAt), age(b.FinishedAt, now))
	}
	for _, r := range b.Refused {
		add("refused", localTime(r.Since)+" to "+localTime(r.Until), "")
	}
	if err := printTable(w, []string{"backfill", b.ID, "age"}, rows); err != nil {
		return err
	}
	return printTexts(w, "error", b.Error, "note", b.Note)
}

// printTexts prints names with texts that are too long for a table, but for empty ones.
func printTexts(w io.Writer, namesAndTexts ...string) error {
	for pair := range slices.Chunk(namesAndTexts, 2) {
		if pair[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", pair[0], clean(pair[1])); err != nil {
			return err
		}
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

func (c *backfillListCmd) Run() error {
	ctx, stop := commandContext()
	defer stop()
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

func (c *backfillShowCmd) Run() error {
	ctx, stop := commandContext()
	defer stop()
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

func (c *backfillCancelCmd) Run() error {
	ctx, stop := commandContext()
	defer stop()
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
