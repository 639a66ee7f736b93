package drain_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// apiFault is a trouble that the simulator makes.
func apiFault(t trouble) (dtmsim.Fault, bool) {
	f := dtmsim.Fault{Kind: dtmsim.Kind(t.Where), Nth: t.Nth}
	switch f.Kind {
	case dtmsim.List, dtmsim.Page, dtmsim.Get, dtmsim.Patch:
	default:
		return f, false
	}
	switch t.What {
	case "reset before":
		f.ResetBefore = true
	case "reset after":
		f.ResetAfter = true
	case "truncate":
		f.Truncate = 10
	case "500":
		f.Status = 500
	case "503 wait":
		f.Status, f.RetryAfter = 503, "30"
	case "408":
		f.Status, f.AfterWork = 408, true
	case "429":
		f.Status = 429
	case "429 wait":
		f.Status, f.RetryAfter = 429, "45"
	case "html":
		f.HTML, f.AfterWork = true, true
	case "hang":
		f.Hang = true
	case "quota":
		f.Status, f.Body = 429, dtmsim.QuotaExceeded
	case "withheld":
		f.EmptyPage = dtmsim.EmptyWithheld
	case "extra":
		f.EmptyPage = dtmsim.EmptyExtra
	case "null":
		f.NullAlerts = true
	case "repeat":
		f.RepeatToken = true
	case "disorder":
		f.Disorder = true
	case "again":
		f.Again = true
	case "endless":
		n := 0
		f.Again, f.Nth = true, 0
		f.When = func(*http.Request) bool { n++; return n >= t.Nth }
	default:
		what, ok := strings.CutPrefix(t.What, "instead ")
		f.Instead, f.AfterWork = dtmsim.Instead(what), true
		return f, ok
	}
	return f, true
}

// RoundTrip is the network between a process and the API.
func (p *proc) RoundTrip(r *http.Request) (*http.Response, error) {
	where, query := "list", r.URL.Query()
	size := p.Feed.PageSize // that was asked for
	switch {
	case r.Method == http.MethodPatch:
		where = "patch"
	case !strings.HasSuffix(r.URL.Path, "/alerts"):
		where = "get"
	case query.Has("page"):
		where = "page"
		if p.isBare(query.Get("page")) {
			size = dtm.PageSize(false)
		}
	case query.Get("refs") == "false" && query.Get("size") == "100":
		size = dtm.PageSize(false)
		// The API may put less on a page than it is asked for.
		query.Set("size", strconv.Itoa(p.Bare))
		r.URL.RawQuery = query.Encode()
	}
	var answer *http.Response
	takes := time.Duration(0)
	if p.writes {
		takes = p.WriteTakes
	}
	err := p.external(about(r.Context(), r.URL.String()), where, takes, func(trouble string) (err error) {
		if r.Context().Err() != nil { // net/http doesn't even send it
			return context.Cause(r.Context())
		}
		if where == "patch" && trouble == "lands late" {
			return p.landLate(r)
		}
		if where == "patch" {
			defer p.patched(r.URL.Path, time.Now())
		}
		answer, err = p.api.RoundTripper().RoundTrip(r) //nolint:bodyclose // the client closes it
		if err == nil && size == dtm.PageSize(false) {
			p.noteBare(answer.Header)
		}
		if err != nil || trouble != "unlink" || answer.StatusCode != 200 {
			return err
		}
		return unlink(answer, size)
	})
	if err != nil {
		if answer != nil {
			_ = answer.Body.Close()
		}
		return nil, err
	}
	return answer, nil
}

// nextToken is the token of a next link.
var nextToken = regexp.MustCompile(`page=([0-9a-v]+)`)

// noteBare remembers that a token goes on with a listing without documents, of
// which a page holds less than was asked for.
func (p *proc) noteBare(header http.Header) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bare == nil {
		p.bare = map[string]bool{}
	}
	for _, link := range header.Values("Link") {
		for _, token := range nextToken.FindAllStringSubmatch(link, -1) {
			p.bare[token[1]] = true
		}
	}
}

func (p *proc) isBare(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bare[token]
}

// unlink takes the next link away from a page that is full.
func unlink(answer *http.Response, size int) error {
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	var list struct{ Alerts []json.RawMessage }
	if err := json.Unmarshal(body, &list); err == nil && len(list.Alerts) >= size {
		answer.Header.Del("Link")
	}
	return nil
}

// database is a process's client of the database.
type database struct{ *proc }

func (d database) Open(ctx context.Context, feed, keyID string) (found state.Snapshot, err error) {
	err = d.external(ctx, "open", d.StoreTakes, func(string) (err error) {
		found, err = d.store.Open(context.Background(), feed, keyID)
		return err
	})
	return found, err
}

func (d database) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (next state.Revision, err error) {
	asked := time.Now()
	err = d.external(ctx, "write feed", d.StoreTakes, func(string) (err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if next, err = d.store.WriteFeed(context.Background(), feed, f, v); err == nil {
			d.checkFeed(d.proc, f)
			d.doc, d.stored, d.leased = f, f, asked
		}
		return err
	})
	return next, err
}

func (d database) Records(ctx context.Context, feed string, ids []string) (entries []state.Entry, err error) {
	err = d.external(about(ctx, ids...), "records", d.StoreTakes, func(string) (err error) {
		entries, err = d.store.Records(context.Background(), feed, ids)
		return err
	})
	return entries, err
}

func (d database) WriteRecords(ctx context.Context, feed string, entries []state.Entry) (results []error, err error) {
	d.checkLease(d.proc, "writes to the ledger")
	err = d.external(about(ctx, entries[0].Record.ID), "write records", d.StoreTakes, func(trouble string) (err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if trouble == "concurrent write" {
			if err := d.writeConcurrently(feed, entries[0].Record.ID); err != nil {
				return err
			}
		}
		results, err = d.store.WriteRecords(context.Background(), feed, entries)
		for i, e := range entries {
			if err == nil && results[i] == nil {
				d.ledger[e.Record.ID] = e.Record
				if b := d.backfills[e.Record.Backfill]; b != nil {
					b.recorded[e.Record.ID] = e.Record.HandledVersion
				}
			}
		}
		return err
	})
	return results, err
}

// writeConcurrently changes a record as another writer does, who says nothing about
// versions.
func (w *world) writeConcurrently(feed, id string) error {
	entries, err := w.store.Records(context.Background(), feed, []string{id})
	if err != nil {
		return err
	}
	_, err = w.store.WriteRecords(context.Background(), feed, entries)
	return err
}

func (d database) AddUsage(ctx context.Context, keyID string, add, old state.Usage) error {
	return d.external(ctx, "usage", d.StoreTakes, func(string) error {
		return d.store.AddUsage(context.Background(), keyID, add, old)
	})
}

// storeFor bounds a call to the database, as the client of Firestore does.
const storeFor = 20 * time.Second

func (d database) Backfill(ctx context.Context, feed, id string) (b state.Backfill, v state.Revision, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeFor)
	defer cancel()
	err = d.external(about(ctx, id), "backfill", d.StoreTakes, func(string) (err error) {
		b, v, err = d.store.Backfill(context.Background(), feed, id)
		return err
	})
	return b, v, err
}

func (d database) CreateBackfill(ctx context.Context, feed string, b state.Backfill) error {
	d.checkLease(d.proc, "asks for a backfill")
	return d.external(about(ctx, b.ID), "create backfill", d.StoreTakes, func(string) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		err := d.store.CreateBackfill(context.Background(), feed, b)
		if err == nil {
			d.checkAsked(d.proc, b)
			d.handedOver = d.handedOver || strings.HasPrefix(b.ID, "sweep-")
		}
		return err
	})
}

func (d database) WriteBackfill(ctx context.Context, feed string, b state.Backfill, v state.Revision) (next state.Revision, err error) {
	d.checkLease(d.proc, "writes a backfill")
	ctx, cancel := context.WithTimeout(ctx, storeFor)
	defer cancel()
	err = d.external(about(ctx, b.ID), "write backfill", d.StoreTakes, func(string) (err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if next, err = d.store.WriteBackfill(context.Background(), feed, b, v); err == nil {
			d.checkBackfill(d.proc, b)
		}
		return err
	})
	return next, err
}

// topics are a process's client of the two topics.
type topics struct {
	*proc
	live bool // what is sent is the live feed's
}

// publishFor bounds a call to a topic.
const publishFor = 15 * time.Second

func (t topics) Publish(ctx context.Context, messages []message.Message) []error {
	return t.send(ctx, "publish", messages, func(m message.Message) error {
		if t.byID[m.Attributes["alert_id"]].Refused {
			return fmt.Errorf("publishing: %w", message.ErrRefused)
		}
		t.checkMessage(t.proc, m)
		return nil
	})
}

func (t topics) Reject(ctx context.Context, messages []message.Message) []error {
	return t.send(ctx, "reject", messages, func(m message.Message) error {
		if t.writes {
			t.fail("%s rejects a write-back: %v", t.name, m.Attributes)
			return nil
		}
		t.checkReject(t.proc, m)
		return nil
	})
}

func (t topics) send(ctx context.Context, where string, messages []message.Message, take func(message.Message) error) []error {
	t.checkLease(t.proc, "publishes")
	ctx, cancel := context.WithTimeout(ctx, publishFor)
	defer cancel()
	results := make([]error, len(messages))
	err := t.external(about(ctx, messages[0].Attributes["dedupe_key"]+messages[0].Attributes["alert_id"]), where, t.PublishTakes, func(trouble string) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		for i, m := range messages {
			switch {
			case i%2 == 0 && trouble == "some":
				results[i] = errFault
			case i%2 == 0 && trouble == "some lost":
				if results[i] = take(m); results[i] == nil {
					results[i] = errFault
				}
			default:
				results[i] = take(m)
			}
		}
		return nil
	})
	if t.live {
		t.listsFor(true)
	}
	if err != nil {
		for i := range results {
			results[i] = err
		}
	}
	return results
}
