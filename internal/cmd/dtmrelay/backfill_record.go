package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

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
func (b backfillRecord) Finished() bool { return state.Backfill{State: b.State}.Finished() }

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
			for _, name := range slices.SortedFunc(maps.Keys(counts), compareSeverities) {
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
