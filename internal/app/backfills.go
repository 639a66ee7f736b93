package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/strictjson"
)

// A page of the list of backfills.
const (
	listDefault = 50
	listMost    = 200
)

// mostUnfinished is how many backfills that were asked for a feed may have unfinished.
// Each is read in every run, and one that fails costs requests in each. Requests at one
// moment may pass it together by a few.
const mostUnfinished = 50

// backfill is a backfill's record as callers see it.
type backfill struct {
	ID          string            `json:"id"`
	Kind        string            `json:"kind,omitempty"` // audit, changes or matches: of the relay's own
	State       string            `json:"state"`
	Since       time.Time         `json:"since"`
	Until       time.Time         `json:"until"`
	Filter      json.RawMessage   `json:"filter"`
	Republish   bool              `json:"republish"`
	DryRun      bool              `json:"dry_run"`
	RequestedAt time.Time         `json:"requested_at"`
	RequestedBy string            `json:"requested_by"`
	Done        float64           `json:"done"`
	Slices      []state.Slice     `json:"slices"` // pending
	Fetched     int64             `json:"fetched"`
	Published   int64             `json:"published"`
	Suppressed  int64             `json:"suppressed"`
	Dropped     int64             `json:"dropped"`
	Rejected    int64             `json:"rejected"`
	Requests    int64             `json:"requests"`
	Rate        float64           `json:"rate"` // alerts fetched a second, while it was worked
	Refused     []state.TimeRange `json:"refused"`
	ExpectedEnd *time.Time        `json:"expected_end"`
	FinishedAt  *time.Time        `json:"finished_at,omitempty"`
	Error       string            `json:"error"`
	Note        string            `json:"note,omitempty"`

	WouldPublish *int64           `json:"would_publish,omitempty"`
	ByType       map[string]int64 `json:"by_type,omitzero"`
	BySeverity   map[string]int64 `json:"by_severity,omitzero"`
	ByRule       map[string]int64 `json:"by_rule,omitzero"`
}

func show(b state.Backfill, now time.Time) backfill {
	out := backfill{
		ID: b.ID, Kind: b.Kind, State: b.State, Since: b.Since, Until: b.Until, Filter: orNull(b.Filter),
		Republish: b.Republish, DryRun: b.DryRun, RequestedAt: b.RequestedAt, RequestedBy: b.RequestedBy,
		Done: doneShare(b), Slices: append([]state.Slice{}, b.Slices...), Refused: timeRanges(b.Refused),
		Fetched: b.Fetched, Published: b.Published, Suppressed: b.Suppressed, Dropped: b.Dropped, Rejected: b.Rejected,
		Requests: b.Requests, FinishedAt: orAbsent(b.FinishedAt), Error: b.Error,
	}
	if b.WorkedFor > 0 {
		out.Rate = float64(b.Fetched) / b.WorkedFor.Seconds()
	}
	if b.State == state.Running && b.Error == "" && out.Done > 0 {
		end := now.Add(time.Duration(float64(b.WorkedFor) * (1 - out.Done) / out.Done)).UTC().Truncate(time.Millisecond)
		out.ExpectedEnd = &end
	}
	if b.DryRun {
		out.WouldPublish, out.ByType, out.BySeverity, out.ByRule = &b.WouldPublish, counted(b.ByType), counted(b.BySeverity), counted(b.ByRule)
	}
	return out
}

// counted are counts that may all be zero.
func counted(counts map[string]int64) map[string]int64 {
	if counts == nil {
		return map[string]int64{}
	}
	return counts
}

// doneShare is how much of the range is read, 0 to 1.
func doneShare(b state.Backfill) float64 {
	whole := b.Until.Sub(b.Since)
	if b.State == state.Done || whole <= 0 {
		return 1
	}
	left := time.Duration(0)
	for _, s := range b.Slices {
		left += s.To.Sub(s.DoneUntil)
	}
	return 1 - float64(left)/float64(whole)
}

// postBackfill is POST /backfill: it records a backfill, or finds the one that
// the same request means, and works it in the time of this request.
func (a *App) postBackfill(w http.ResponseWriter, r *http.Request) {
	body, p := readBody(w, r)
	if p == nil && body == nil {
		p = &problem{Status: http.StatusBadRequest, Detail: `the body is empty; "since" is needed`}
	}
	if p != nil {
		p.write(w)
		return
	}
	reading, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	found, err := a.parts.Store.Open(reading, a.cfg.Feed, "")
	if err != nil {
		a.unavailable(w, r, err)
		return
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	b, note, p := a.readBackfill(body, found.Feed, now)
	if p != nil {
		p.write(w)
		return
	}
	b.RequestedBy = caller(r)
	if b.DryRun {
		a.dryBackfill(reading, w, r, b, note)
		return
	}
	stored, created, err := a.record(reading, b, found.Feed.Unfinished)
	if err != nil {
		a.notRecorded(w, r, stored, err)
		return
	}
	a.logRequested(r.Context(), stored, b.RequestedBy, !created)
	switch {
	case !stored.Finished():
		stored, note = a.workNow(r.Context(), stored, b.RequestedBy, note)
	case b.ID != "":
		note = "this id's backfill was finished before"
	}
	status := http.StatusOK
	if !stored.Finished() {
		status = http.StatusAccepted
	}
	w.Header().Set("Location", "/backfill/"+stored.ID)
	out := show(stored, time.Now())
	out.Note = note
	answer(w, status, "application/json", out)
}

// notRecorded answers why a backfill is not recorded. stored is the one that has its id.
func (a *App) notRecorded(w http.ResponseWriter, r *http.Request, stored state.Backfill, err error) {
	switch {
	case errors.Is(err, errFull):
		problem{
			Status: http.StatusTooManyRequests,
			Detail: fmt.Sprintf("feed %s has %d unfinished backfills, the most that it may have: wait until runs have finished some, or cancel some with DELETE /backfill/{id} (GET /backfill lists them)",
				a.cfg.Feed, mostUnfinished),
		}.write(w)
	case errors.Is(err, errOther):
		problem{
			Status: http.StatusConflict,
			Detail: fmt.Sprintf("backfill %s has another range, filter or republish (%s to %s, %s, %t): use another id", stored.ID,
				stored.Since.Format(time.RFC3339Nano), stored.Until.Format(time.RFC3339Nano), stored.Filter, stored.Republish),
		}.write(w)
	default:
		a.unavailable(w, r, err)
	}
}

// workNow works a backfill within a request. It returns the backfill as it is stored then,
// and the note with what went wrong.
func (a *App) workNow(ctx context.Context, b state.Backfill, by, note string) (state.Backfill, string) {
	_, failed := a.run(ctx, "backfill", by, b.ID, false)
	// The client may be gone by now, but the record tells what was done.
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTime)
	defer cancel()
	if latest, revision, err := a.parts.Store.Backfill(again, a.cfg.Feed, b.ID); err == nil && revision != "" {
		b = latest
	}
	if failed != nil && !b.Finished() {
		note = strings.TrimPrefix(note+"; it is recorded, but the run that was to work it failed: "+failed.Error(), "; ")
	}
	return b, note
}

// mostWarnings bounds what a note repeats of a filter: a body can name thousands of types.
const mostWarnings = 5

// readBackfill reads what is asked for.
func (a *App) readBackfill(body *strictjson.Object, feed state.Feed, now time.Time) (b state.Backfill, note string, p *problem) {
	before := len(body.Problems())
	since := body.String("since")
	sinceMissing := since == "" && len(body.Problems()) == before
	until := body.String("until")
	_ = body.Bool("suspected") // an element of the gaps in GET /status can be pasted as it is
	var filterText json.RawMessage
	given := body.Decode("filter", "a JSON object as DTM_FILTER takes", &filterText)
	b = state.Backfill{
		Republish: body.Bool("republish"), DryRun: body.Bool("dry_run"), ID: body.String("id"),
		State: state.Pending, RequestedAt: now, Filter: a.cfg.Filter.String(),
	}
	var notes []string
	if given {
		filter, warnings, err := dtm.ParseFilter(string(filterText))
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				body.AddProblem("the field \"filter\": %s", line)
			}
		}
		for _, w := range warnings[:min(len(warnings), mostWarnings)] {
			notes = append(notes, `the field "filter": `+w)
		}
		b.Filter = filter.String()
	}
	if b.ID != "" && !state.ValidBackfillID(b.ID) {
		body.AddProblem("the field \"id\" is %q; allowed: 1 to 128 letters, digits, dots, dashes and underscores, a letter or digit first", dtm.Shorten(b.ID))
	}
	if state.IsRelaysOwn(b.ID) {
		body.AddProblem("the field \"id\" is %q; what begins with \"audit-\" or \"sweep-\" is the relay's own", dtm.Shorten(b.ID))
	}
	if sinceMissing {
		body.AddProblem("the field \"since\" is missing; allowed: an RFC 3339 time, or a duration back from now such as \"72h\"")
	}
	end := a.latestEnd(feed, b.Republish, now)
	var cut bool
	if b.Since, b.Until, cut = readRange(body, since, until, end, now); cut {
		notes = append(notes, fmt.Sprintf("the range was cut at %s: from there on the live feed is responsible", end))
	}
	if p := bodyProblem(body); p != nil {
		return b, "", p
	}
	b.Slices = []state.Slice{{From: b.Since, To: b.Until, DoneUntil: b.Since}}
	text, _ := json.Marshal([]any{since, until, b.Filter, b.Republish}) // strings and a bool always marshal
	sum := sha256.Sum256(text)
	b.Request = hex.EncodeToString(sum[:])
	return b, strings.Join(notes, "; "), nil
}

// rangeEnd is where the range of a backfill ends at the latest: from there on the live feed
// is responsible.
type rangeEnd struct {
	name string
	time.Time
}

func (e rangeEnd) String() string { return e.name + " " + e.Format(time.RFC3339Nano) }

// latestEnd is where a backfill ends at the latest. Between its position and its end the
// live feed has published some alerts and not yet others, in several slices or in a failed
// run's overlap. It brings the others; the first only a backfill publishes again.
func (a *App) latestEnd(feed state.Feed, republish bool, now time.Time) rangeEnd {
	switch {
	case feed.BeginsAt.IsZero():
		return rangeEnd{"the live position", now.Add(-a.cfg.Settle)}
	case republish:
		return rangeEnd{"the live feed's end", feed.End}
	}
	return rangeEnd{"the live position", feed.Position()}
}

// readRange reads the range that is asked for, and cuts it at its latest end.
func readRange(body *strictjson.Object, sinceText, untilText string, end rangeEnd, now time.Time) (since, until time.Time, cut bool) {
	sinceOK, untilOK := false, true
	if sinceText != "" {
		since, sinceOK = readMoment(body, "since", sinceText, now)
	}
	until = end.Time
	if untilText != "" {
		until, untilOK = readMoment(body, "until", untilText, now)
	}
	if !sinceOK || !untilOK {
		return since, until, false
	}
	text := func(t time.Time) string { return t.Format(time.RFC3339Nano) }
	switch {
	case !since.Before(now):
		body.AddProblem("the field \"since\" is %s, which is now or in the future; allowed: a time before %s", text(since), end)
	case !since.Before(until) && untilText != "":
		body.AddProblem("the range is empty or reversed: \"since\" is %s, \"until\" is %s; allowed: a \"since\" before \"until\"", text(since), text(until))
	case !since.Before(end.Time):
		body.AddProblem("the field \"since\" is %s; allowed: a time before %s, from which on the live feed is responsible", text(since), end)
	case until.After(end.Time):
		return since, end.Time, true
	}
	return since, until, false
}

// readMoment reads an RFC 3339 time, or a duration back from now.
func readMoment(body *strictjson.Object, name, text string, now time.Time) (time.Time, bool) {
	if t, ok := dtm.ParseTime(text); ok && t.Year() >= 1970 && t.Year() < 10000 {
		return t, true
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 && now.Add(-d).Year() >= 1970 {
		return now.Add(-d).Truncate(time.Millisecond), true
	}
	body.AddProblem("the field %q is %q; allowed: an RFC 3339 time such as \"2026-01-02T03:04:05Z\", or a duration back from now such as \"72h\"", name, dtm.Shorten(text))
	return time.Time{}, false
}

// logRequested writes who asked for a backfill: its record says so only until it expires,
// and only of the first who asked. repeated: the request meant one that was there.
func (a *App) logRequested(ctx context.Context, b state.Backfill, by string, repeated bool) {
	a.log.InfoContext(ctx, "a backfill was requested", "event", "backfill_requested", "feed", a.cfg.Feed, "backfill", b.ID, "requested_by", by,
		"since", b.Since, "until", b.Until, "republish", b.Republish, "dry_run", b.DryRun, "repeated", repeated)
}

var (
	// errOther means that the id belongs to a backfill of another range or filter.
	errOther = errors.New("the id belongs to another backfill")
	// errFull means that there are too many unfinished backfills for a new one.
	errFull = errors.New("there are too many unfinished backfills")
)

// record stores a new backfill, or returns the one that is meant: by its id, or
// without one by the text of the request, as long as it is unfinished. unfinished
// are the ids of the feed's.
func (a *App) record(ctx context.Context, b state.Backfill, unfinished []string) (stored state.Backfill, created bool, err error) {
	asked := slices.DeleteFunc(slices.Clone(unfinished), state.IsRelaysOwn)
	full := len(asked) >= mostUnfinished
	if b.ID != "" {
		var revision state.Revision
		if full {
			stored, revision, err = a.parts.Store.Backfill(ctx, a.cfg.Feed, b.ID)
		} else {
			stored, revision, err = a.createOrRead(ctx, b)
		}
		switch {
		case err != nil:
		case full && revision == "":
			err = errFull
		case !same(stored, b):
			err = errOther
		}
		return stored, revision == "", err
	}
	plain := "b-" + b.Request[:8]
	meant := func(stored state.Backfill) bool { return stored.Request == b.Request && !stored.Finished() }
	for _, id := range unfinished {
		if !strings.HasPrefix(id, plain) {
			continue
		}
		stored, _, err := a.parts.Store.Backfill(ctx, a.cfg.Feed, id)
		if err != nil || meant(stored) {
			return stored, false, err
		}
	}
	if full {
		return b, false, errFull
	}
	// Equal requests at the same moment meet in one record, whichever processes get them,
	// unless a minute ends between them.
	plain += "-" + b.RequestedAt.Format("20060102T1504Z")
	b.ID = plain
	for n := 2; ; n++ {
		stored, revision, err := a.createOrRead(ctx, b)
		if err != nil || meant(stored) {
			return stored, revision == "", err
		}
		b.ID = fmt.Sprintf("%s-%d", plain, n) // one is finished already
	}
}

// createOrRead stores a new backfill, or returns the one that has its id, with
// its revision, which a new one doesn't have.
func (a *App) createOrRead(ctx context.Context, b state.Backfill) (state.Backfill, state.Revision, error) {
	err := a.parts.Store.CreateBackfill(ctx, a.cfg.Feed, b)
	if !errors.Is(err, state.ErrConflict) {
		return b, "", err
	}
	stored, revision, err := a.parts.Store.Backfill(ctx, a.cfg.Feed, b.ID)
	if err == nil && revision == "" {
		err = fmt.Errorf("backfill %s was deleted while it was read", b.ID)
	}
	return stored, revision, err
}

// same reports whether two requests with one id mean the same.
func same(stored, asked state.Backfill) bool {
	return stored.Request == asked.Request ||
		stored.Since.Equal(asked.Since) && stored.Until.Equal(asked.Until) && stored.Filter == asked.Filter && stored.Republish == asked.Republish
}

// dryBackfill counts what a backfill would publish.
func (a *App) dryBackfill(reading context.Context, w http.ResponseWriter, r *http.Request, b state.Backfill, note string) {
	if b.ID == "" {
		b.ID = "b-" + b.Request[:8]
	} else {
		stored, revision, err := a.parts.Store.Backfill(reading, a.cfg.Feed, b.ID)
		if err == nil && revision != "" && !same(stored, b) {
			err = errOther
		}
		if err != nil {
			a.notRecorded(w, r, stored, err)
			return
		}
	}
	a.logRequested(r.Context(), b, b.RequestedBy, false)
	b, err := a.runner().DryBackfill(r.Context(), b)
	status := http.StatusOK
	if err != nil {
		status = failed(w, err)
		a.log.ErrorContext(r.Context(), "a dry backfill failed", "event", "backfill", "backfill", b.ID, "error", err.Error())
	}
	out := show(b, time.Now())
	out.Note = note
	answer(w, status, "application/json", out)
}

// getBackfill is GET /backfill/{id}.
func (a *App) getBackfill(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	if b, _, ok := a.findBackfill(ctx, w, r); ok {
		answer(w, http.StatusOK, "application/json", show(b, time.Now()))
	}
}

func (a *App) findBackfill(ctx context.Context, w http.ResponseWriter, r *http.Request) (state.Backfill, state.Revision, bool) {
	id := r.PathValue("id")
	missing := problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("feed %s has no backfill %q", a.cfg.Feed, dtm.Shorten(id))}
	if !state.ValidBackfillID(id) {
		missing.write(w)
		return state.Backfill{}, "", false
	}
	b, revision, err := a.parts.Store.Backfill(ctx, a.cfg.Feed, id)
	switch {
	case err != nil:
		a.unavailable(w, r, err)
		return state.Backfill{}, "", false
	case revision == "":
		missing.write(w)
		return state.Backfill{}, "", false
	}
	return b, revision, true
}

// deleteBackfill is DELETE /backfill/{id}: who works it stops within a page.
func (a *App) deleteBackfill(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	for range state.Tries { // who works it writes to it once a second
		b, revision, ok := a.findBackfill(ctx, w, r)
		if !ok {
			return
		}
		if !b.Finished() {
			now := time.Now().UTC().Truncate(time.Millisecond)
			b.State, b.FinishedAt, b.ExpireAt = state.Cancelled, now, now.Add(drain.KeepFinished)
			_, err := a.parts.Store.WriteBackfill(ctx, a.cfg.Feed, b, revision)
			if errors.Is(err, state.ErrConflict) {
				continue
			}
			if err != nil {
				a.unavailable(w, r, err)
				return
			}
			a.log.InfoContext(r.Context(), "a backfill was cancelled", "event", "backfill_cancelled", "feed", a.cfg.Feed, "backfill", b.ID,
				"requested_by", caller(r), "since", b.Since, "until", b.Until)
		}
		answer(w, http.StatusOK, "application/json", show(b, time.Now()))
		return
	}
	problem{Status: http.StatusServiceUnavailable, Detail: "the backfill is being written to all the time: try again"}.write(w)
}

// listBackfills is GET /backfill: the newest first, ?limit= of them from ?next= on.
func (a *App) listBackfills(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		problem{Status: http.StatusBadRequest, Detail: fmt.Sprintf("the query can't be read: %s", dtm.Shorten(err.Error()))}.write(w)
		return
	}
	limit := listDefault
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > listMost {
			problem{Status: http.StatusBadRequest, Detail: fmt.Sprintf("limit is %q; allowed: 1 to %d", dtm.Shorten(text), listMost)}.write(w)
			return
		}
		limit = n
	}
	found, next, err := a.parts.Store.Backfills(ctx, a.cfg.Feed, query.Get("next"), limit)
	switch {
	case errors.Is(err, state.ErrCursor):
		problem{Status: http.StatusBadRequest, Detail: "next is none that this list gave out"}.write(w)
		return
	case err != nil:
		a.unavailable(w, r, err)
		return
	}
	out := struct {
		Backfills []backfill `json:"backfills"`
		Next      string     `json:"next,omitempty"`
	}{Backfills: []backfill{}, Next: next}
	for _, b := range found {
		out.Backfills = append(out.Backfills, show(b, time.Now()))
	}
	answer(w, http.StatusOK, "application/json", out)
}
