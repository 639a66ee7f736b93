package app_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// bearer is a token as Cloud Run hands it on.
func bearer(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return "Bearer " + encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + ".SIGNATURE_REMOVED_BY_GOOGLE"
}

func of(email string) string {
	return bearer(fmt.Sprintf(`{"aud":"https://relay.example","email":%q,"email_verified":true,"sub":"1"}`, email))
}

const (
	usual  = "Authorization"
	theOne = "X-Serverless-Authorization" // with it nobody has checked the usual one
)

// serveAs sends a request with headers.
func serveAs(t *testing.T, ingest http.Handler, header http.Header, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	for name, values := range header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	w := httptest.NewRecorder()
	ingest.ServeHTTP(w, r)
	return w
}

// TestWhoMay: what each caller may do, and that a forged header opens nothing.
func TestWhoMay(t *testing.T) {
	const operator, viewer, stranger = "ana@example.com", "vic@example.com", "eve@example.com"
	long := "relay-operations-nightshift-01@" + strings.Repeat("b", 60) + ".example.com.iam.gserviceaccount.com"
	nothing := map[string]bool{}
	reads := map[string]bool{"reads": true}
	all := map[string]bool{"reads": true, "writes": true}
	for name, c := range map[string]struct {
		header http.Header
		may    map[string]bool
		says   string // in the refusal of a write
	}{
		"an operator":                           {http.Header{usual: {of(operator)}}, all, ""},
		"an operator, in other letters":         {http.Header{usual: {of("Ana@Example.COM")}}, all, ""},
		"an operator, the scheme in small ones": {http.Header{usual: {strings.Replace(of(operator), "Bearer", "bearer", 1)}}, all, ""},
		"an operator, by the other header":      {http.Header{theOne: {of(operator)}}, all, ""},
		"an operator with a header of the app":  {http.Header{theOne: {of(operator)}, usual: {"Basic eDp5"}}, all, ""},
		"nothing said of the address":           {http.Header{usual: {bearer(`{"email":"ana@example.com"}`)}}, all, ""},
		"an operator with a long address":       {http.Header{usual: {of(long)}}, all, ""},
		"a viewer":                              {http.Header{usual: {of(viewer)}}, reads, "vic@example.com is in VIEWERS"},
		"a viewer, by the other header":         {http.Header{theOne: {of(viewer)}}, reads, "in VIEWERS"},

		"a stranger":                              {http.Header{usual: {of(stranger)}}, nothing, "eve@example.com is neither in OPERATORS nor in VIEWERS"},
		"a stranger who forges the usual header":  {http.Header{theOne: {of(stranger)}, usual: {of(operator)}}, nothing, "eve@example.com"},
		"a viewer who forges the usual header":    {http.Header{theOne: {of(viewer)}, usual: {of(operator)}}, reads, "vic@example.com"},
		"an empty other header beside the usual":  {http.Header{theOne: {""}, usual: {of(operator)}}, nothing, "no identity token"},
		"no token in the other header":            {http.Header{theOne: {"Basic eDp5"}, usual: {of(operator)}}, nothing, "no identity token"},
		"the usual header twice":                  {http.Header{usual: {of(operator), of(stranger)}}, nothing, "no identity token"},
		"the other header twice":                  {http.Header{theOne: {of(stranger), of(operator)}, usual: {of(operator)}}, nothing, "no identity token"},
		"nobody":                                  {nil, nothing, "--include-email"},
		"a header that the platform doesn't know": {http.Header{"X-Forwarded-Email": {operator}, "X-Goog-Authenticated-User-Email": {operator}}, nothing, "no identity token"},
		"an address that nobody has verified":     {http.Header{usual: {bearer(`{"email":"ana@example.com","email_verified":false}`)}}, nothing, "verified"},
		"verified is no boolean":                  {http.Header{usual: {bearer(`{"email":"ana@example.com","email_verified":"true"}`)}}, nothing, "no identity token"},
		"no address":                              {http.Header{usual: {bearer(`{"sub":"ana@example.com"}`)}}, nothing, "no identity token"},
		"an address that is a list":               {http.Header{usual: {bearer(`{"email":["ana@example.com"]}`)}}, nothing, "no identity token"},
		"a sign that is small as k":               {http.Header{usual: {of("\u212aim@example.com")}}, nothing, "no identity token"},
		"white space after the address":           {http.Header{usual: {of(operator + " ")}}, nothing, "no identity token"},
		"a longer address":                        {http.Header{usual: {of(strings.Repeat("x", 300) + operator)}}, nothing, "no identity token"},
		"no JSON":                                 {http.Header{usual: {bearer(`ana@example.com`)}}, nothing, "no identity token"},
		"no base64":                               {http.Header{usual: {"Bearer a.~~~.c"}}, nothing, "no identity token"},
		"two parts":                               {http.Header{usual: {strings.TrimSuffix(of(operator), ".SIGNATURE_REMOVED_BY_GOOGLE")}}, nothing, "no identity token"},
		"an access token":                         {http.Header{usual: {"Bearer ya29.abc"}}, nothing, "no identity token"},
		"Basic":                                   {http.Header{usual: {"Basic " + strings.TrimPrefix(of(operator), "Bearer ")}}, nothing, "no identity token"},
	} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t)
			occupy(t, store)
			ingest := newIngestFor(t, store, http.NotFoundHandler(), []string{operator, "kim@example.com", long}, []string{viewer}, slog.New(slog.DiscardHandler))
			for _, request := range []struct {
				kind, method, path, body string
				want                     int
			}{
				{"reads", http.MethodGet, "/status", "", 200},
				{"reads", http.MethodHead, "/status", "", 200},
				{"reads", http.MethodGet, "/backfill", "", 200},
				{"reads", http.MethodGet, "/backfill/x", "", 404},
				{"reads", http.MethodGet, "/alerts/a", "", 404},
				{"reads", http.MethodGet, "/nothing", "", 404},
				{"writes", http.MethodPost, "/", "", 200},
				{"writes", http.MethodPost, "/", `{"dry_run":1}`, 400},
				{"writes", http.MethodPost, "/backfill", `{"since":"96h","id":"y"}`, 202},
				{"writes", http.MethodDelete, "/backfill/x", "", 404},
				{"writes", http.MethodPut, "/status", "", 405},
			} {
				w := serveAs(t, ingest, c.header, request.method, request.path, request.body)
				if c.may[request.kind] {
					if w.Code != request.want {
						t.Errorf("%s %s: %d %s, want %d", request.method, request.path, w.Code, w.Body, request.want)
					}
					continue
				}
				var p problems
				err := json.Unmarshal(w.Body.Bytes(), &p)
				if w.Code != http.StatusForbidden || err != nil || w.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s %s: %d %s, want 403", request.method, request.path, w.Code, w.Body)
				}
				if request.kind == "writes" && !strings.Contains(p.Detail, c.says) || w.Body.Len() > 1000 {
					t.Errorf("%s %s does not say %q: %s", request.method, request.path, c.says, w.Body)
				}
			}
		})
	}
}

// TestWithoutOperators everybody may do everything that the platform lets in.
func TestWithoutOperators(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	ingest := newIngest(t, store, http.NotFoundHandler())
	for _, header := range []http.Header{nil, {usual: {of("eve@example.com")}}, {usual: {"nonsense"}}, {theOne: {"a", "b"}}} {
		if w := serveAs(t, ingest, header, http.MethodPost, "/", ""); w.Code != http.StatusOK {
			t.Errorf("%v: POST / %d %s", header, w.Code, w.Body)
		}
	}
}

// lines are the log's lines of an event, without what differs each time.
func lines(t *testing.T, log *bytes.Buffer, events ...string) (found []map[string]any) {
	t.Helper()
	for text := range strings.Lines(log.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		for _, event := range events {
			if line["event"] == event {
				delete(line, "time")
				delete(line, "msg")
				found = append(found, line)
			}
		}
	}
	return found
}

// TestTrail: each act is one line that says who, what and which range.
func TestTrail(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	var log bytes.Buffer
	ingest := newIngestFor(t, store, http.NotFoundHandler(), []string{"ana@example.com", "bo@example.com"}, nil, slog.New(slog.NewJSONHandler(&log, nil)))
	const body = `{"since":"2026-01-02T00:00:00Z","until":"2026-01-03T00:00:00Z","id":"x"}`
	const forged = "zoe@example.com"
	for _, c := range []struct {
		by, method, path, body string
		want                   int
	}{
		{"ana@example.com", http.MethodPost, "/backfill", body, 202},
		{"bo@example.com", http.MethodPost, "/backfill", body, 202}, // ana's once more
		{"bo@example.com", http.MethodDelete, "/backfill/x", "", 200},
		{"bo@example.com", http.MethodDelete, "/backfill/x", "", 200}, // cancels nothing
		{"ana@example.com", http.MethodPost, "/backfill", `{"since":"nonsense"}`, 400},
		{"ana@example.com", http.MethodDelete, "/backfill/y", "", 404},
		{"ana@example.com", http.MethodPost, "/backfill", strings.Replace(body, `"x"`, `"d","dry_run":true,"republish":true`, 1), 502},
		{"eve@example.com", http.MethodDelete, "/backfill/x", "", 403},
		{"", http.MethodPost, "/" + strings.Repeat("p", 500), "", 403},
	} {
		header := http.Header{theOne: {of(c.by)}, usual: {of(forged)}}
		if w := serveAs(t, ingest, header, c.method, c.path, c.body); w.Code != c.want {
			t.Fatalf("%s: %s %s: %d %s", c.by, c.method, c.path, w.Code, w.Body)
		}
	}
	// Whose run it is stands in its own line.
	for by, want := range map[string]any{"ana@example.com": "ana@example.com", "": nil} {
		log := bytes.Buffer{}
		ingest := newIngestFor(t, store, http.NotFoundHandler(), nil, nil, slog.New(slog.NewJSONHandler(&log, nil)))
		serveAs(t, ingest, http.Header{theOne: {of(by)}, usual: {of(forged)}}, http.MethodPost, "/", `{"dry_run":true}`)
		if runs := lines(t, &log, "run"); len(runs) != 1 || runs[0]["requested_by"] != want {
			t.Errorf("a run of %q: %v", by, runs)
		}
	}
	since, until := "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"
	requested := func(by, id string, republish, dry, repeated bool) map[string]any {
		return map[string]any{
			"level": "INFO", "event": "backfill_requested", "feed": "default", "backfill": id, "requested_by": by,
			"since": since, "until": until, "republish": republish, "dry_run": dry, "repeated": repeated,
		}
	}
	want := []map[string]any{
		requested("ana@example.com", "x", false, false, false),
		requested("bo@example.com", "x", false, false, true),
		{"level": "INFO", "event": "backfill_cancelled", "feed": "default", "backfill": "x", "requested_by": "bo@example.com", "since": since, "until": until},
		requested("ana@example.com", "d", true, true, false),
		{"level": "WARN", "event": "caller_refused", "feed": "default", "requested_by": "eve@example.com", "method": "DELETE", "path": "/backfill/x"},
		{"level": "WARN", "event": "caller_refused", "feed": "default", "requested_by": "", "method": "POST", "path": "/" + strings.Repeat("p", 99) + "…"},
	}
	if diff := cmp.Diff(want, lines(t, &log, "backfill_requested", "backfill_cancelled", "caller_refused")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if strings.Contains(log.String(), forged) {
		t.Errorf("a forged address is in the log: %s", &log)
	}
	if b, _, err := store.Backfill(t.Context(), "default", "x"); err != nil || b.RequestedBy != "ana@example.com" {
		t.Errorf("the record: %+v, %v", b, err)
	}
}

// TestTooManyUnfinishedBackfills: the relay's own don't count, and those that are there
// can still be asked for.
func TestTooManyUnfinishedBackfills(t *testing.T) {
	store := openStore(t)
	occupy(t, store)
	ingest := newIngest(t, store, http.NotFoundHandler())
	now := time.Now().UTC()
	for _, id := range []string{"audit-2026-01-02", "sweep-20260102T000000.000Z"} {
		own := state.Backfill{ID: id, State: state.Pending, RequestedAt: now, Since: now.Add(-time.Hour), Until: now}
		if err := store.CreateBackfill(t.Context(), "default", own); err != nil {
			t.Fatal(err)
		}
	}
	const unnamed = `{"since":"95h"}`
	first := ask(t, ingest, unnamed)
	for n := range 49 {
		ask(t, ingest, fmt.Sprintf(`{"since":"2026-01-02T00:00:00Z","until":"2026-01-03T00:00:00Z","id":"b%d"}`, n))
	}
	for body, want := range map[string]int{
		`{"since":"2026-01-02T00:00:00Z","until":"2026-01-03T00:00:00Z","id":"b50"}`: http.StatusTooManyRequests,
		`{"since":"94h"}`: http.StatusTooManyRequests,
		`{"since":"2026-01-02T00:00:00Z","until":"2026-01-03T00:00:00Z","id":"b7"}`: http.StatusAccepted,
		`{"since":"96h","id":"b7"}`: http.StatusConflict,
		unnamed:                     http.StatusAccepted,
	} {
		w := serveAs(t, ingest, nil, http.MethodPost, "/backfill", body)
		if w.Code != want {
			t.Errorf("%s: %d %s, want %d", body, w.Code, w.Body, want)
		}
		if want == http.StatusTooManyRequests && (w.Header().Get("Content-Type") != "application/problem+json" ||
			!strings.Contains(w.Body.String(), "50 unfinished backfills") || !strings.Contains(w.Body.String(), "DELETE /backfill/{id}")) {
			t.Errorf("%s: %s", body, w.Body)
		}
	}
	// A place is free again.
	if w := serveAs(t, ingest, nil, http.MethodDelete, "/backfill/b7", ""); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	if id := ask(t, ingest, `{"since":"94h"}`); id == first || id == "" {
		t.Errorf("got %q", id)
	}
	found, err := store.Open(t.Context(), "default", "")
	if n := len(found.Feed.Unfinished); err != nil || n != 52 {
		t.Errorf("%d are unfinished, want 50 and the relay's two: %v", n, err)
	}
	var shown struct{ Backfills []struct{ ID, State string } }
	if err := json.Unmarshal(serveAs(t, ingest, nil, http.MethodGet, "/status", "").Body.Bytes(), &shown); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, b := range shown.Backfills {
		ids = append(ids, b.ID)
		if b.State != state.Pending {
			t.Errorf("/status says of %s: %q", b.ID, b.State)
		}
	}
	if diff := cmp.Diff(found.Feed.Unfinished, ids); diff != "" {
		t.Errorf("unfinished (-), and in /status (+):\n%s", diff)
	}
}
