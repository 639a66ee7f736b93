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
	"net/url"
	"os"
	"os/user"
	"regexp"
	"slices"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/publish"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

type alertCmd struct {
	Get     alertGetCmd     `cmd:"" help:"Show an alert as GTI has it, masked."`
	History alertHistoryCmd `cmd:"" help:"Show what a relay has recorded of an alert."`
	Set     alertSetCmd     `cmd:"" help:"Change an alert's status or tags in GTI."`
}

func (alertCmd) Help() string {
	return `Examples:

	dtmrelay alert get dc1t6l1bvrfbdn1uktfg
	dtmrelay alert history dc1t6l1bvrfbdn1uktfg --url https://dtm-relay-abc123-ew.a.run.app
	dtmrelay alert set dc1t6l1bvrfbdn1uktfg --status closed --expect-status in_progress`
}

// alertID is an argument.
type alertID string

// UnmarshalText reads an id.
func (a *alertID) UnmarshalText(text []byte) error {
	if *a = alertID(text); !dtm.ValidID(string(text)) {
		return fmt.Errorf("%q is no alert's id: it must be 1 to 128 letters, digits, _ and -", dtm.Shorten(string(text)))
	}
	return nil
}

type alertGetCmd struct {
	keyFlags
	outputFlags
	ID alertID `arg:"" help:"The alert's id."`
}

func (alertGetCmd) Help() string {
	return `It comes with its document, and REDACT masks it as it masks what is published.

Examples:

	dtmrelay alert get dc1t6l1bvrfbdn1uktfg
	dtmrelay alert get dc1t6l1bvrfbdn1uktfg | jq .doc`
}

func (c *alertGetCmd) Run(ctx context.Context) error {
	ctx, cfg, keys, end, err := c.budgeted(ctx, map[string]string{})
	if err != nil {
		return err
	}
	defer func() { _ = end() }()
	session, err := app.Session(cfg, keys)
	if err != nil {
		return err
	}
	page, err := session.Get(ctx, string(c.ID), true)
	var answered *dtm.APIError
	switch {
	case errors.As(err, &answered) && answered.Status == http.StatusNotFound:
		return fmt.Errorf("GTI has no alert %s that this key may see", c.ID)
	case err != nil:
		return explain(err)
	}
	defer page.Release()
	raw, _, readable := cfg.Redactor.Redact(page.Alerts[0].Raw)
	if !readable {
		return fmt.Errorf("alert %s is not shown, because what is secret in it can't be told: it is no valid JSON", c.ID)
	}
	return printAlert(os.Stdout, c.Format.or(os.Stdout, formatJSON), dtm.ParseAlert(raw))
}

func printAlert(w io.Writer, format outputFormat, a dtm.Alert) error {
	switch format {
	case formatJSON, formatJSONL:
		return printRawJSON(w, format, a.Raw)
	case formatCSV:
		return writeCSV(w, csvColumns, [][]string{csvRow(a)})
	case formatTable:
	}
	now := time.Now()
	details := a.Details()
	tags, _ := a.Tags()
	rows := [][]string{
		{"type", a.Type, ""},
		{"severity", cmp.Or(a.Severity, "-"), ""},
		{"status", a.Status, ""},
		{"score", cmp.Or(a.MScore, "-"), ""},
		{"monitor", cmp.Or(a.MonitorName, a.MonitorID, "-"), ""},
		{"tags", cmp.Or(strings.Join(tags, ", "), "-"), ""},
		{"created", localTime(a.CreatedAt), age(a.CreatedAt, now)},
		{"updated", localTime(a.UpdatedAt), age(a.UpdatedAt, now)},
	}
	if err := printTable(w, []string{"alert", a.ID, "age"}, rows); err != nil {
		return err
	}
	if err := printTexts(w, "title", details.Title, "summary", cmp.Or(details.AISummary, details.Summary), "found at", details.SourceURL); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "all of it: %s alert get %s --format json; what became of it: %[1]s alert history %[2]s\n", self(), a.ID)
	return nil
}

type alertHistoryCmd struct {
	relayFlags
	outputFlags
	ID alertID `arg:"" help:"The alert's id."`
}

func (alertHistoryCmd) Help() string {
	return `When it was first seen, each status with its origin, which versions were published, and what was asked to be written back.

Examples:

	dtmrelay alert history dc1t6l1bvrfbdn1uktfg
	dtmrelay alert history dc1t6l1bvrfbdn1uktfg --url https://dtm-relay-abc123-ew.a.run.app`
}

func (c *alertHistoryCmd) Validate() error { return c.check() }

func (c *alertHistoryCmd) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	relay, closeRelay, err := c.openToRead(ctx)
	if err != nil {
		return err
	}
	answer, err := relay.call(ctx, http.MethodGet, "/alerts/"+url.PathEscape(string(c.ID)), nil, "alert_id")
	err = errors.Join(err, closeRelay())
	if err != nil {
		return err
	}
	return printHistory(os.Stdout, c.Format.or(os.Stdout, formatJSON), answer)
}

// alertHistory is what a table shows of GET /alerts/{id}.
type alertHistory struct {
	ID        string    `json:"alert_id"`
	Type      string    `json:"alert_type"`
	MonitorID string    `json:"monitor_id"`
	CreatedAt time.Time `json:"created_at"`
	FirstSeen time.Time `json:"first_seen"`
	ExpireAt  time.Time `json:"expire_at"`

	Feed, Severity, Priority, Status, Outcome string

	Statuses []state.StatusChange
	Versions []state.AlertVersion
	Intents  []state.Intent
}

// historyColumns are the columns of CSV, with a row for each version. Times are RFC 3339 in UTC.
var historyColumns = []string{"alert_id", "updated_at", "at", "event", "outcome", "reason", "run_id"}

func printHistory(w io.Writer, format outputFormat, text json.RawMessage) error {
	if format == formatJSON || format == formatJSONL {
		return printRawJSON(w, format, text)
	}
	var h alertHistory
	if err := json.Unmarshal(text, &h); err != nil {
		return fmt.Errorf("the relay's record of the alert: %w", err)
	}
	if format == formatCSV {
		var rows [][]string
		for _, v := range h.Versions {
			rows = append(rows, []string{h.ID, utc(v.UpdatedAt), utc(v.At), v.Event, v.Outcome, v.Reason, v.RunID})
		}
		return writeCSV(w, historyColumns, rows)
	}
	return h.print(w, time.Now())
}

func (h alertHistory) print(w io.Writer, now time.Time) error {
	about := [][]string{
		{"feed", h.Feed, ""},
		{"type", cmp.Or(h.Type, "-"), ""},
		{"severity", cmp.Or(h.Severity, "-"), ""},
		{"priority", cmp.Or(h.Priority, "-"), ""},
		{"status", cmp.Or(h.Status, "-"), ""},
		{"monitor", cmp.Or(h.MonitorID, "-"), ""},
		{"created", localTime(h.CreatedAt), age(h.CreatedAt, now)},
		{"first seen", localTime(h.FirstSeen), age(h.FirstSeen, now)},
	}
	var statuses, versions, intents [][]string
	for _, s := range h.Statuses {
		statuses = append(statuses, []string{s.Status, s.Origin, localTime(s.At), age(s.At, now)})
	}
	for _, v := range h.Versions {
		versions = append(versions, []string{localTime(v.UpdatedAt), cmp.Or(v.Event, "-"), v.Outcome, cmp.Or(v.Reason, "-"), age(v.At, now)})
	}
	for _, i := range h.Intents {
		stage := "done"
		if i.Open {
			stage = "open"
		}
		intents = append(intents, []string{i.Field, strings.Join(i.Values, ", "), stage, cmp.Or(i.By, "-"), age(i.At, now)})
	}
	if err := printTable(w, []string{"alert", h.ID, "age"}, about); err != nil {
		return err
	}
	return printTables(
		w,
		table{[]string{"status", "origin", "since", "age"}, statuses},
		table{[]string{"version", "event", "outcome", "reason", "age"}, versions},
		table{[]string{"written back", "value", "state", "by", "age"}, intents},
	)
}

type alertSetCmd struct {
	keyFlags
	outputFlags
	ID           alertID   `arg:"" help:"The alert's id."`
	Status       dtmStatus `placeholder:"STATUS" help:"Its new status: new, read, escalated, in_progress, closed, no_action_required, duplicate, not_relevant, tracked_external."`
	AddTag       []string  `sep:"none" placeholder:"TAG" help:"A tag to add. May be repeated."`
	RemoveTag    []string  `sep:"none" placeholder:"TAG" help:"A tag to take away. May be repeated."`
	ExpectStatus dtmStatus `placeholder:"STATUS" help:"Change it only while it has this status."`
	Topic        string    `placeholder:"projects/P/topics/T" help:"Publish the request to the topic of SyncStatus, which writes it."`
	Data         string    `placeholder:"DIR" help:"Record it with the relay of this machine in this folder."`
}

func (alertSetCmd) Help() string {
	return `Without --topic it is written at once, with the API key of GTI_API_KEY, --key-file or --key-secret. A relay takes that for somebody's change in GTI (origin gti), but for the one of --data. With --topic the deployed relay writes it, repeats it while GTI can't be reached, and tells its echo (origin writeback); no key is needed, but the right to publish there.

Examples:

	dtmrelay alert set dc1t6l1bvrfbdn1uktfg --status closed --expect-status in_progress
	dtmrelay alert set dc1t6l1bvrfbdn1uktfg --add-tag takedown:done --topic projects/my-project/topics/dtm-status-updates`
}

// dtmStatus is a flag's value.
type dtmStatus string

// UnmarshalText reads one of dtm.Statuses.
func (s *dtmStatus) UnmarshalText(text []byte) error {
	if *s = dtmStatus(text); !slices.Contains(dtm.Statuses, string(text)) {
		return fmt.Errorf("%q is not allowed: it must be one of %s", text, strings.Join(dtm.Statuses, ", "))
	}
	return nil
}

var topicName = regexp.MustCompile(`^projects/([^/]+)/topics/[^/]+$`)

func (c *alertSetCmd) Validate() error {
	var problems []error
	if c.Status == "" && len(c.AddTag)+len(c.RemoveTag) == 0 {
		problems = append(problems, errors.New("there is nothing to change: --status, --add-tag or --remove-tag is needed"))
	} else if c.ID != "" { // else kong says that it is missing
		if _, err := writeback.ParseRequest(c.message(), "", time.Now()); err != nil {
			problems = append(problems, errors.New(asFlags.Replace(err.Error())))
		}
	}
	if c.Topic != "" && !topicName.MatchString(c.Topic) {
		problems = append(problems, fmt.Errorf("--topic is %q: it must be projects/PROJECT/topics/NAME", c.Topic))
	}
	if c.Topic != "" && c.Data != "" {
		problems = append(problems, errors.New("--topic lets a deployed relay write, --data one of this machine: leave one out"))
	}
	return errors.Join(problems...)
}

// asFlags says of a request's fields which flags they are.
var asFlags = strings.NewReplacer(
	"in tags or add_tags too", "an --add-tag too", "add_tags", "--add-tag", "remove_tags", "--remove-tag", "expect_status", "--expect-status",
)

// message is the write-back's data.
func (c *alertSetCmd) message() []byte {
	by := "dtmrelay alert set"
	if u, err := user.Current(); err == nil {
		by += " by " + strings.ToValidUTF8(u.Username, "?")
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(struct { // strings always encode
		AlertID   string    `json:"alert_id"`
		Status    dtmStatus `json:"status,omitempty"`
		AddTag    []string  `json:"add_tags,omitempty"`
		RemoveTag []string  `json:"remove_tags,omitempty"`
		Expect    dtmStatus `json:"expect_status,omitempty"`
		By        string    `json:"requested_by"`
	}{string(c.ID), c.Status, c.AddTag, c.RemoveTag, c.ExpectStatus, by})
	return bytes.TrimSpace(text.Bytes())
}

func (c *alertSetCmd) Run(ctx context.Context) error {
	var done setOutcome
	var err error
	if c.Topic != "" {
		done, err = c.publish(ctx)
	} else {
		done, err = c.write(ctx)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("interrupted; whether the alert was changed, this shows: %s alert get %s", self(), c.ID)
	case err != nil:
		return err
	}
	return done.print(os.Stdout, c.Format.or(os.Stdout, formatJSON))
}

// setOutcome is what became of a change: what SyncStatus answers, or "published".
type setOutcome struct {
	Outcome string `json:"outcome"`
	AlertID string `json:"alert_id"`
	Reason  string `json:"reason,omitempty"`
	Topic   string `json:"topic,omitempty"`
}

// setColumns are the columns of CSV.
var setColumns = []string{"alert_id", "outcome", "topic"}

func (o setOutcome) print(w io.Writer, format outputFormat) error {
	if o.Outcome == writeback.Rejected {
		return fmt.Errorf("alert %s is not changed: %s", o.AlertID, clean(asFlags.Replace(o.Reason)))
	}
	switch format {
	case formatCSV:
		return writeCSV(w, setColumns, [][]string{{o.AlertID, o.Outcome, o.Topic}})
	case formatTable:
		return printTable(w, []string{"alert", "outcome"}, [][]string{{o.AlertID, o.Outcome}})
	case formatJSON, formatJSONL:
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return printRawJSON(w, format, text)
}

// publish sends the request to the deployed relay.
func (c *alertSetCmd) publish(ctx context.Context) (setOutcome, error) {
	client, err := publish.NewClient(ctx, topicName.FindStringSubmatch(c.Topic)[1])
	if err != nil {
		return setOutcome{}, err
	}
	sent := publish.New(client, c.Topic, c.Topic, c.Topic).Request(ctx, []message.Message{{Data: c.message()}})
	if err := errors.Join(sent[0], client.Close()); err != nil {
		return setOutcome{}, err
	}
	return setOutcome{Outcome: "published", AlertID: string(c.ID), Topic: c.Topic}, nil
}

// write lets the relay of this process write it: over the files of --data, or over
// files that are gone afterwards.
func (c *alertSetCmd) write(ctx context.Context) (done setOutcome, err error) {
	cfg, keys, end, err := c.local(ctx, nil)
	if err != nil {
		return done, err
	}
	defer func() { _ = end() }()
	files := filesIn(c.Data)
	if c.Data == "" {
		dir, err := os.MkdirTemp("", "dtmrelay-set-")
		if err != nil {
			return done, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		files = filesIn(dir)
	} else if err := files.havePosition(); err != nil {
		return done, err
	}
	relay, closeRelay, err := openFiles(ctx, bolt.Open, files, cfg, keys, nothingPublished{})
	if err != nil {
		return done, err
	}
	answer, err := relay.send(ctx, relay.push, http.MethodPost, "/", pushOf(c.message(), time.Now()), "outcome")
	err = errors.Join(err, closeRelay())
	if err != nil {
		return done, err
	}
	err = json.Unmarshal(answer, &done)
	return done, err
}

// pushOf is a message as Pub/Sub pushes it.
func pushOf(data []byte, now time.Time) any {
	return map[string]any{
		"message":      map[string]any{"data": data, "messageId": now.UTC().Format("20060102T150405.000000000"), "publishTime": now.UTC()},
		"subscription": "dtmrelay",
	}
}
