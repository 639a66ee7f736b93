package app_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/secret"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// keyID names the counters of the bench's key: the first 16 hex digits of its SHA-256.
func keyID() string {
	sum := sha256.Sum256([]byte("the-key"))
	return hex.EncodeToString(sum[:8])
}

// bench is an app with everything around it.
type bench struct {
	http.Handler
	api   *dtmsim.Server
	store state.Store
	keys  *keys
	log   *bytes.Buffer

	mu       sync.Mutex
	rejected []message.Message
	refuse   error
}

func (b *bench) Publish(context.Context, []message.Message) []error {
	panic("nothing is published here")
}

func (b *bench) Reject(_ context.Context, m []message.Message) []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse == nil {
		b.rejected = append(b.rejected, m...)
	}
	return []error{b.refuse}
}

type keys struct{ err error }

func (k *keys) Key(context.Context) (string, error) { return "the-key", k.err }

func (k *keys) Renew(ctx context.Context, _ string) (string, error) { return k.Key(ctx) }

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{
		api:  dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{{ID: "a", CreatedAt: time.Now().Add(-time.Hour)}}),
		keys: &keys{}, log: &bytes.Buffer{},
	}
	server := httptest.NewServer(b.api)
	t.Cleanup(server.Close)
	store, err := bolt.OpenNoSync(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b.store = store
	a, err := app.New(config.Config{
		Feed: "default", BaseURL: server.URL + "/api/v3", ToolName: "test", Concurrency: 6, QPS: 1000, RequestsPerDay: 1000, ErrorsPerHour: 100, LedgerTTL: time.Hour,
		Operators: []string{"ana@example.com"}, // who push is not among them: SyncStatus is for run.invoker alone
	}, app.Parts{Store: store, Publisher: b, Keys: b.keys}, slog.New(slog.NewJSONHandler(b.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	b.Handler = a.SyncStatus()
	return b
}

func (b *bench) push(t *testing.T, method, body string) (*httptest.ResponseRecorder, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	b.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/any/path", strings.NewReader(body)))
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("answer %d %q: %v", w.Code, w.Body, err)
	}
	return w, got
}

// envelope is a push request as Pub/Sub sends it.
func envelope(data string) string {
	return fmt.Sprintf(`{"message":{"data":%q,"messageId":"m1","message_id":"m1","attributes":{"x":"y"},"publishTime":%q,"publish_time":%[2]q,"orderingKey":""},`+
		`"subscription":"projects/p/subscriptions/s","deliveryAttempt":3}`,
		base64.StdEncoding.EncodeToString([]byte(data)), time.Now().UTC().Format(time.RFC3339Nano))
}

func TestSyncStatusAnswers(t *testing.T) {
	const closed = `{"alert_id":"a","status":"closed","requested_by":"soar","reason":"hidden words","add_tags":["hidden tag"]}`
	for _, c := range []struct {
		name   string
		method string
		body   string
		fault  dtmsim.Fault
		key    error
		refuse error

		status  int
		outcome string // of a message that is done with
		detail  string // of a problem, or the reason
		after   string // Retry-After
	}{
		{name: "a change", body: envelope(closed), status: 200, outcome: "written"},
		{name: "old spelling", body: `{"message":{"data":"eyJhbGVydF9pZCI6ImEiLCJzdGF0dXMiOiJjbG9zZWQifQ==","message_id":"m1","publish_time":"2026-01-02T03:04:05Z"}}`, status: 200, outcome: "written"},
		{name: "no id, no time", body: `{"message":{"data":"eyJhbGVydF9pZCI6ImEiLCJzdGF0dXMiOiJjbG9zZWQifQ=="}}`, status: 200, outcome: "written"},
		{name: "no change", body: envelope(`{"alert_id":"a","status":"new"}`), status: 200, outcome: "already"},
		{name: "another alert", body: envelope(`{"alert_id":"b","status":"new"}`), status: 200, outcome: "rejected", detail: "unknown alert"},
		{name: "no JSON", body: envelope(`nonsense`), status: 200, outcome: "rejected", detail: "the data is not valid JSON"},
		{name: "no data", body: `{"message":{"attributes":{"a":"b"},"messageId":"m1"}}`, status: 200, outcome: "rejected", detail: "the data is not valid JSON"},
		{name: "another feed", body: envelope(`{"alert_id":"a","status":"new","feed":"x"}`), status: 200, outcome: "rejected", detail: `feed is "x"; this function serves "default"`},
		{name: "10 MB", body: envelope(strings.Repeat("x", 10_000_000)), status: 200, outcome: "rejected", detail: "the data has 10000000 bytes; allowed: 1048576"},

		{name: "GET", method: http.MethodGet, status: 405, detail: "GET is not allowed here; allowed: POST"},
		{name: "nothing", body: "", status: 400, detail: "the body is not valid JSON"},
		{name: "a list", body: "[]", status: 400, detail: `the body is no push request: it is a JSON array`},
		{name: "null", body: "null", status: 400, detail: `the body is no push request: it has no "message"`},
		{name: "no message", body: "{}", status: 400, detail: `the body is no push request: it has no "message"`},
		{name: "a text as message", body: `{"message":"x"}`, status: 400, detail: `the body is no push request: "message" of it is a JSON string`},
		{name: "a list as data", body: `{"message":{"data":[123,125]}}`, status: 400, detail: `the body is no push request: "message.data" of it is a JSON array`},
		{name: "no base64", body: `{"message":{"data":"{}"}}`, status: 400, detail: "the push request's data is not base64"},
		{name: "no time", body: `{"message":{"data":"","publishTime":"now"}}`, status: 400, detail: "the push request's publish time is none"},
		{name: "too large", body: strings.Repeat(" ", 16<<20+1), status: 413, detail: "the body is larger than 16777216 bytes"},

		{name: "500", body: envelope(closed), fault: dtmsim.Fault{Status: 500}, status: 502, detail: "GTI answered 500"},
		{name: "429", body: envelope(closed), fault: dtmsim.Fault{Status: 429, RetryAfter: "70"}, status: 502, detail: "GTI answered 429", after: "70"},
		{name: "quota", body: envelope(closed), fault: dtmsim.Fault{Status: 429, Body: dtmsim.QuotaExceeded, RetryAfter: "70"}, status: 503, detail: "quota is used up", after: "70"},
		{name: "401", body: envelope(closed), fault: dtmsim.Fault{Status: 401}, status: 502, detail: "GTI does not accept the API key"},
		{name: "reset", body: envelope(closed), fault: dtmsim.Fault{ResetBefore: true}, status: 502, detail: "no usable answer"},
		{name: "no key yet", body: envelope(closed), key: secret.ErrMissing, status: 503, detail: "there is no API key"},
		{name: "no rejects topic", body: envelope("x"), refuse: errors.New("down"), status: 503, detail: "rejecting a write-back (the data is not valid JSON): down"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.keys.err, b.refuse = c.key, c.refuse
			if c.fault.Status != 0 || c.fault.ResetBefore {
				b.api.AddFault(c.fault)
			}
			if c.method == "" {
				c.method = http.MethodPost
			}
			w, got := b.push(t, c.method, c.body)
			if w.Code != c.status || w.Header().Get("Retry-After") != c.after {
				t.Errorf("status %d, Retry-After %q, body %v", w.Code, w.Header().Get("Retry-After"), got)
			}
			detail, kind := got["detail"], "application/problem+json"
			if c.outcome != "" {
				detail, kind = got["reason"], "application/json"
			}
			if detail == nil {
				detail = ""
			}
			if text := detail.(string); !strings.Contains(text, c.detail) || got["outcome"] != nil && got["outcome"] != c.outcome || w.Header().Get("Content-Type") != kind {
				t.Errorf("%s %v, want %q %q", w.Header().Get("Content-Type"), got, c.outcome, c.detail)
			}
			if wrong := c.outcome == "rejected"; wrong != (len(b.rejected) == 1) {
				t.Errorf("%d messages in the rejects topic", len(b.rejected))
			}
			log := b.log.String()
			if strings.Contains(log, "hidden") || strings.Contains(log, "the-key") || len(log) > 2000 {
				t.Errorf("log: %s", log)
			}
			if c.method == http.MethodGet {
				return
			}
			level := "WARN"
			if c.outcome != "" && c.outcome != "rejected" {
				level = "INFO"
			}
			if strings.Count(log, "\n") != 1 || !strings.Contains(log, `"level":"`+level+`"`) || !strings.Contains(log, `"event":"writeback"`) {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// TestSyncStatusStops: what is given back because the instance ends is no fault. Where only
// a call has ended, it is one.
func TestSyncStatusStops(t *testing.T) {
	for _, c := range []struct {
		ends          bool
		level, reason string
	}{{true, "INFO", "shutdown"}, {false, "WARN", "error"}} {
		b := newBench(t)
		b.keys.err = context.Canceled
		ctx, cancel := context.WithCancel(t.Context())
		if c.ends {
			cancel()
		}
		w := httptest.NewRecorder()
		b.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/", strings.NewReader(envelope(`{"alert_id":"a","status":"closed"}`))))
		if log := b.log.String(); w.Code/100 != 5 || !strings.Contains(log, `"level":"`+c.level+`"`) || !strings.Contains(log, `"reason":"`+c.reason+`"`) {
			t.Errorf("%d, log: %s", w.Code, log)
		}
		cancel()
	}
}

// TestSyncStatusPauses: after the quota is used up, GTI is not asked for a while. (It
// may be raised before the time that GTI names.)
func TestSyncStatusPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // while it has sockets, its time stands still
		b := newBench(t)
		b.api.AddFault(dtmsim.Fault{Status: 429, Body: dtmsim.QuotaExceeded, RetryAfter: "3600"})
		for i, want := range []string{"3600", "30", "30"} {
			w, got := b.push(t, http.MethodPost, envelope(`{"alert_id":"a","status":"closed"}`))
			if after := w.Header().Get("Retry-After"); w.Code != 503 || after != want {
				t.Errorf("no. %d: %d, Retry-After %s, %v; want %s", i, w.Code, after, got, want)
			}
		}
		if n := b.api.Stats().Requests; n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestSyncStatusCounts: the requests count against the budgets of the key, and
// what others have used of them counts here.
func TestSyncStatusCounts(t *testing.T) {
	b := newBench(t)
	if w, got := b.push(t, http.MethodPost, envelope(`{"alert_id":"a","status":"closed"}`)); w.Code != 200 {
		t.Fatal(w.Code, got)
	}
	id := keyID()
	hour := time.Now().Truncate(state.RequestBucket).Unix()
	found, err := b.store.Open(t.Context(), "default", id)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for _, count := range found.Usage.Requests {
		n += count
	}
	if n != 2 {
		t.Errorf("counted %v", found.Usage)
	}

	for _, c := range []struct {
		name        string
		errors      int64
		known, done bool
	}{
		{"the feed's alert", 19, true, true},
		{"the feed's alert, a fifth is used", 20, true, false},
		{"another alert", 9, false, true},
		{"another alert, a tenth is used", 10, false, false},
	} {
		other := newBench(t)
		usage := state.Usage{Errors: map[int64]int64{time.Now().Truncate(state.ErrorBucket).Unix(): c.errors}, Requests: map[int64]int64{hour: 20}}
		if err := other.store.AddUsage(t.Context(), id, usage, state.Usage{}); err != nil {
			t.Fatal(err)
		}
		if c.known {
			e := state.Entry{Record: state.Record{ID: "a", HandledVersion: time.Now(), ExpireAt: time.Now().Add(time.Hour)}}
			if results, err := other.store.WriteRecords(t.Context(), "default", []state.Entry{e}); err != nil || results[0] != nil {
				t.Fatal(results, err)
			}
		}
		w, got := other.push(t, http.MethodPost, envelope(`{"alert_id":"a","status":"closed"}`))
		if c.done {
			if w.Code != 200 || got["outcome"] != "written" {
				t.Errorf("%s: %d %v", c.name, w.Code, got)
			}
			continue
		}
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(fmt.Sprint(got["detail"]), "budget of errors") {
			t.Errorf("%s: %d %v", c.name, w.Code, got)
		}
		if n := other.api.Stats().Requests; n != 0 {
			t.Errorf("%s: %d requests", c.name, n)
		}
	}
}

// FuzzSyncStatus: whatever is pushed gets an answer, and nothing that is no
// request changes an alert.
func FuzzSyncStatus(f *testing.F) {
	for _, seed := range []string{"", "{}", "null", `{"message":null}`, `{"message":{"data":"e30="}}`, envelope(`{"alert_id":"a"}`), envelope("x")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		b := newBench(t)
		w, got := b.push(t, http.MethodPost, body)
		if w.Code != 200 && w.Code != 400 {
			t.Errorf("%d %v", w.Code, got)
		}
		if strings.Contains(b.log.String(), `"event":"panic"`) {
			t.Error(b.log)
		}
		if diff := cmp.Diff(w.Code == 400, got["outcome"] == nil); diff != "" {
			t.Error(got)
		}
	})
}
