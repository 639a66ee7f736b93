package dtm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// simulated has one alert, "a1", with a document and tags.
func simulated(t *testing.T) *dtmsim.Server {
	t.Helper()
	a, err := dtmsim.ParseAlert([]byte(`{"id":"a1","created_at":"1999-08-07T10:01:49.199Z","updated_at":"2025-08-07T10:01:57.5Z",` +
		`"status":"new","tags":["one","two"],"unknown":0.10,"doc":{"__id":"d"}}`))
	if err != nil {
		t.Fatal(err)
	}
	return dtmsim.New(dtmsim.Options{Key: testKey}, []dtmsim.Alert{a})
}

func TestGet(t *testing.T) {
	sim := simulated(t)
	c := newClient(t, sim.RoundTripper(), func(o *Options) { o.PageLimit, o.PageMemory = 1<<20, 1<<20 })
	s := c.Session(liveShare)
	for _, refs := range []bool{true, false} {
		page, err := s.Get(t.Context(), "a1", refs)
		if err != nil {
			t.Fatal(err)
		}
		want := sim.Versions("a1")[0].Element(refs, false)
		if diff := cmp.Diff([]Alert{ParseAlert(want)}, page.Alerts); diff != "" || page.Alerts[0].HasDoc != refs {
			t.Errorf("refs=%t: -want +got:\n%s", refs, diff)
		}
		if page.Next != "" || page.AskedAt.IsZero() {
			t.Errorf("refs=%t: next %q, asked at %v", refs, page.Next, page.AskedAt)
		}
		if c.memory.TryAcquire(1 << 20) {
			t.Error("the alert takes none of the pages' memory")
		}
		page.Release()
		if !c.memory.TryAcquire(1 << 20) {
			t.Fatal("memory is still held")
		}
		c.memory.Release(1 << 20)
		last := sim.Requests()[len(sim.Requests())-1]
		if diff := cmp.Diff(url.Values{"refs": {fmt.Sprint(refs)}}, last.Query); diff != "" || last.Kind != dtmsim.Get {
			t.Errorf("%s: -want +got:\n%s", last.Kind, diff)
		}
	}
	_, err := s.Get(t.Context(), "a2", true)
	if api := (*APIError)(nil); !errors.As(err, &api) || api.Status != http.StatusNotFound {
		t.Errorf("an alert that is not there: %v", err)
	}
	if st := s.Stats(); st.Requests != 3 || st.Pages != 0 || st.Errors != 1 {
		t.Errorf("stats: %+v", st)
	}
}

// others are answers of success that are not alert a1.
var others = []string{
	`{"error":{"code":"NotFoundError"}}`, `{"error":{"code":"TransientError"},"id":"a2"}`, `null`, `{}`, `[]`, `"a1"`,
	`{"id":"a2","created_at":"2025-08-07T10:01:49.199Z"}`, `{"id":1}`, `{"alerts":[{"id":"a1"}]}`, `[{"id":"a1"}]`,
	`{"message":"not found"}`, ``, `<html></html>`, `{"id":"a1",`,
}

// TestGetSomethingElse: an answer of 200 that is not the alert says nothing about it.
func TestGetSomethingElse(t *testing.T) {
	for _, body := range others {
		rt := direct(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body+"\n") })
		s := newClient(t, rt, nil).Session(liveShare).Once()
		var none *NoAnswerError
		if page, err := s.Get(t.Context(), "a1", true); !errors.As(err, &none) || !none.Answered || len(page.Alerts) > 0 {
			t.Errorf("%s: %+v, %v", body, page.Alerts, err)
		}
	}
	// What it has is enough to change it.
	const undated = `{"id":"a1","status":"read","tags":["x"],"created_at":"soon"}`
	rt := direct(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, undated+"\n") })
	page, err := newClient(t, rt, nil).Session(liveShare).Get(t.Context(), "a1", true)
	if err != nil || len(page.Alerts) != 1 {
		t.Fatalf("%+v, %v", page.Alerts, err)
	}
	a := page.Alerts[0]
	if a.Invalid == "" || a.ID != "a1" || a.Status != "read" || !slices.Equal(tagsOf(a), []string{"x"}) || string(a.Raw) != undated {
		t.Errorf("%+v, tags %q", a, tagsOf(a))
	}
}

// TestGetAhead: a version that lies ahead is known for one, however it was fetched.
func TestGetAhead(t *testing.T) {
	for _, c := range []struct {
		updated string
		ahead   bool
	}{{"2026-03-03T09:00:00Z", false}, {"2026-03-03T11:00:00Z", true}} {
		rt := direct(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", "Mon, 02 Mar 2026 10:00:00 GMT")
			_, _ = fmt.Fprintf(w, `{"id":"a1","created_at":"2026-03-02T09:00:00Z","updated_at":%q}`, c.updated)
		})
		page, err := newClient(t, rt, nil).Session(liveShare).Get(t.Context(), "a1", true)
		if err != nil || page.Alerts[0].Ahead != c.ahead {
			t.Errorf("updated at %s: %+v, %v", c.updated, page.Alerts, err)
		}
	}
}

func TestGetLimit(t *testing.T) {
	const limit = 200 << 10
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat(" ", limit+1))
	}), func(o *Options) { o.PageLimit, o.PageMemory = limit, limit })
	_, err := c.Session(liveShare).Get(t.Context(), "a1", true)
	if diff := cmp.Diff(error(&PageTooLargeError{Size: 1, Refs: true, Limit: limit}), err); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !c.memory.TryAcquire(limit) {
		t.Fatal("memory is still held")
	}
	if _, err := c.Session(liveShare).Get(t.Context(), "a1", true); !errors.Is(err, ErrMemory) {
		t.Errorf("without memory: %v", err)
	}
}

func TestUpdate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		patch  Patch
		body   string
		status string
		tags   []string
	}{
		{"status", Patch{Status: new("closed")}, `{"status":"closed"}`, "closed", []string{"one", "two"}},
		{"tags", Patch{Tags: &[]string{"two", "a <b> ü"}}, `{"tags":["two","a \u003cb\u003e ü"]}`, "new", []string{"two", "a <b> ü"}},
		{"both", Patch{Status: new("read"), Tags: &[]string{"x"}}, `{"status":"read","tags":["x"]}`, "read", []string{"x"}},
		{"no tags left", Patch{Tags: &[]string{}}, `{"tags":[]}`, "new", nil},
		{"no list", Patch{Tags: new([]string)}, `{"tags":[]}`, "new", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sim := simulated(t)
			ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || string(body) != tc.body || r.ContentLength != int64(len(tc.body)) || r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("%v, length %d, %v, body %s, want %s", err, r.ContentLength, r.Header, body, tc.body)
				}
				if r.Method != http.MethodPatch || r.RequestURI != "/api/v3/dtm/alerts/a1" {
					t.Errorf("%s %s", r.Method, r.RequestURI)
				}
				r.Body = io.NopCloser(strings.NewReader(string(body)))
				sim.ServeHTTP(w, r)
			}))
			defer ts.Close()
			tr := newTransport(1)
			defer tr.CloseIdleConnections()
			c := newClient(t, tr, func(o *Options) { o.BaseURL = ts.URL + "/api/v3" })
			got, err := c.Session(syncShare).Update(t.Context(), "a1", tc.patch)
			if err != nil {
				t.Fatal(err)
			}
			versions := sim.Versions("a1")
			if len(versions) != 2 {
				t.Fatalf("%d versions, want 2", len(versions))
			}
			if diff := cmp.Diff(ParseAlert(versions[1].Element(false, false)), got); diff != "" || got.HasDoc {
				t.Errorf("answered: -want +got:\n%s", diff)
			}
			if got.Status != tc.status || !slices.Equal(tagsOf(got), tc.tags) || !got.UpdatedAt.Equal(versions[1].UpdatedAt) {
				t.Errorf("status %q, tags %q, updated at %v", got.Status, tagsOf(got), got.UpdatedAt)
			}
		})
	}
}

// TestUpdateSomethingElse: an answer of success that is not the alert doesn't say
// that the change was made; an error in its place says that it wasn't.
func TestUpdateSomethingElse(t *testing.T) {
	for _, body := range others {
		rt := direct(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body+"\n") })
		got, err := newClient(t, rt, nil).Session(syncShare).Once().Update(t.Context(), "a1", Patch{Status: new("closed")})
		var none *NoAnswerError
		if wantErr := strings.Contains(body, "error"); got.ID != "" || errors.As(err, &none) != wantErr || wantErr && !none.Answered || !wantErr && err != nil {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
	}
}

// TestUpdateWithoutAUsableAnswer: the change may have been made, so it is not sent again.
func TestUpdateWithoutAUsableAnswer(t *testing.T) {
	const usable = `{"id":"a1","created_at":"2025-08-07T10:01:49.199Z"}`
	for name, rt := range map[string]direct{
		"empty":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"accepted":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) },
		"HTML":       func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html></html>") },
		"no id":      func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"status":"closed"}`) },
		"another's id": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Replace(usable, "a1", "a2", 1))
		},
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat(" ", maxChanged)+usable)
		},
	} {
		s := newClient(t, rt, nil).Session(syncShare)
		got, err := s.Update(t.Context(), "a1", Patch{Status: new("closed")})
		if diff := cmp.Diff(Alert{}, got); err != nil || diff != "" || s.Stats().Requests != 1 {
			t.Errorf("%s: %v, %d requests, -want +got:\n%s", name, err, s.Stats().Requests, diff)
		}
	}
	t.Run("lost", func(t *testing.T) {
		for _, f := range []dtmsim.Fault{{Truncate: 10}, {Truncate: 10, Hang: true}} {
			synctest.Test(t, func(t *testing.T) {
				sim := simulated(t)
				sim.AddFault(f)
				got, err := newClient(t, sim.RoundTripper(), nil).Session(syncShare).Update(t.Context(), "a1", Patch{Status: new("closed")})
				if err != nil || got.ID != "" || len(sim.Versions("a1")) != 2 {
					t.Errorf("%+v, %v, %d versions", got, err, len(sim.Versions("a1")))
				}
			})
		}
	})
}

// What may happen to a request for one alert, and how often it is then sent by a
// session, and by one that sends once.
func TestFailuresOfOneAlert(t *testing.T) {
	api := func(status int) func(error) bool {
		return func(err error) bool {
			var e *APIError
			return errors.As(err, &e) && e.Status == status
		}
	}
	is := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	for _, tc := range []struct {
		name       string
		fault      dtmsim.Fault
		many, once int
		want       func(error) bool
	}{
		{"reset", dtmsim.Fault{ResetBefore: true}, 5, 1, is(new(*NoAnswerError))},
		{"reset after the work", dtmsim.Fault{ResetAfter: true}, 5, 1, is(new(*NoAnswerError))},
		{"silence", dtmsim.Fault{Hang: true}, 5, 1, is(new(*NoAnswerError))},
		{"408", dtmsim.Fault{Status: 408}, 5, 1, api(408)},
		{"429", dtmsim.Fault{Status: 429}, 5, 1, api(429)},
		{"500", dtmsim.Fault{Status: 500}, 5, 1, api(500)},
		{"503 after the work", dtmsim.Fault{Status: 503, AfterWork: true}, 5, 1, api(503)},
		{"400", dtmsim.Fault{Status: 400}, 1, 1, api(400)},
		{"404", dtmsim.Fault{Status: 404}, 1, 1, api(404)},
		{"409", dtmsim.Fault{Status: 409}, 1, 1, api(409)},
		{"412", dtmsim.Fault{Status: 412}, 1, 1, api(412)},
		{"422", dtmsim.Fault{Status: 422}, 1, 1, api(422)},
		{"quota", dtmsim.Fault{Status: 429, Body: dtmsim.QuotaExceeded}, 1, 1, is(new(*QuotaError))},
		{"401", dtmsim.Fault{Status: 401}, 1, 1, is(new(*KeyError))},
		{"403", dtmsim.Fault{Status: 403}, 1, 1, is(new(*KeyError))},
		{"redirect elsewhere", dtmsim.Fault{Status: 308, Redirect: "https://evil.example/x?page=1"}, 1, 1, is(new(*RedirectError))},
		{"redirects for ever", dtmsim.Fault{Status: 307, Redirect: "/api/v3/dtm/alerts/a1?refs=true"}, 4, 4, is(new(*RedirectError))},
	} {
		for what, do := range map[string]func(context.Context, *Session) error{
			"get": func(ctx context.Context, s *Session) error {
				_, err := s.Get(ctx, "a1", true)
				return err
			},
			"update": func(ctx context.Context, s *Session) error {
				_, err := s.Update(ctx, "a1", Patch{Status: new("closed")})
				return err
			},
		} {
			for _, once := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/once=%t", tc.name, what, once), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						sim := simulated(t)
						sim.AddFault(tc.fault)
						meter := NewMeter(1000)
						c := newClient(t, sim.RoundTripper(), func(o *Options) { o.Meter = meter })
						s, want := c.Session(liveShare), tc.many
						if once {
							s, want = s.Once(), tc.once
						}
						err := do(t.Context(), s)
						if err == nil || !tc.want(err) {
							t.Errorf("error %T: %v", err, err)
						}
						if requests, _ := meter.Used(); requests != int64(want) || sim.Stats().Requests != want {
							t.Errorf("%d requests metered, %d sent, want %d", requests, sim.Stats().Requests, want)
						}
						if text := err.Error(); strings.Contains(text, testKey) || strings.Contains(text, "refs=") || strings.Contains(text, "page=") {
							t.Errorf("the error says too much: %s", text)
						}
						if silent := (*NoAnswerError)(nil); errors.As(err, &silent) && !strings.Contains(err.Error(), "gti.example/api/v3/dtm/alerts/a1:") {
							t.Errorf("the error does not name what was asked: %v", err)
						}
						if !c.memory.TryAcquire(defaultPageMemory) {
							t.Error("memory is still held")
						}
						before := sim.Stats().Requests
						var key *KeyError
						var quota *QuotaError
						ended := errors.As(err, &key) || errors.As(err, &quota)
						if err := do(t.Context(), s); err == nil || ended != (sim.Stats().Requests == before) {
							t.Errorf("after %v the session answers %v with %d more requests", err, err, sim.Stats().Requests-before)
						}
					})
				})
			}
		}
	}
}

// A failure that passes is not one, and a change that was made twice was made.
func TestUpdateIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulated(t)
		sim.AddFault(dtmsim.Fault{Status: 500, AfterWork: true, Times: 2})
		s := newClient(t, sim.RoundTripper(), nil).Session(liveShare)
		got, err := s.Update(t.Context(), "a1", Patch{Tags: &[]string{"x"}})
		if err != nil || !slices.Equal(tagsOf(got), []string{"x"}) || s.Stats().Retries != 2 {
			t.Errorf("%+v, %v, %+v", got, err, s.Stats())
		}
	})
}

// The secret is read again also in a session that sends once, and then the
// request goes out with what it holds.
func TestOnceRenewsTheKey(t *testing.T) {
	for _, tc := range []struct {
		renewed  string
		requests int
		ok       bool
	}{{testKey, 2, true}, {"bad", 2, false}, {"old-key", 1, false}} {
		sim := simulated(t)
		c := newClient(t, sim.RoundTripper(), func(o *Options) { o.Keys = &keys{key: "old-key", renewed: tc.renewed} })
		_, err := c.Session(syncShare).Once().Update(t.Context(), "a1", Patch{Status: new("closed")})
		var key *KeyError
		if tc.ok != (err == nil) || !tc.ok && !errors.As(err, &key) || sim.Stats().Requests != tc.requests {
			t.Errorf("%s: %v after %d requests, want %d", tc.renewed, err, sim.Stats().Requests, tc.requests)
		}
	}
}

// A change goes where a redirect on the same host leads when it stays a change
// there, and nowhere else.
func TestRedirectOfAChange(t *testing.T) {
	for status, want := range map[int]error{
		301: &RedirectError{Host: "https://gti.example", Status: 301, Why: whyChange},
		302: &RedirectError{Host: "https://gti.example", Status: 302, Why: whyChange},
		303: &RedirectError{Host: "https://gti.example", Status: 303, Why: whyChange},
		307: nil,
		308: nil,
	} {
		moved := 0
		c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/moved" {
				http.Redirect(w, r, "/moved", status)
				return
			}
			moved++
			if body, _ := io.ReadAll(r.Body); r.Method != http.MethodPatch || string(body) != `{"status":"closed"}` {
				t.Errorf("%d: %s with %s", status, r.Method, body)
			}
		}), nil)
		_, err := c.Session(syncShare).Update(t.Context(), "a1", Patch{Status: new("closed")})
		if diff := cmp.Diff(want, err); diff != "" || (moved == 1) != (want == nil) {
			t.Errorf("%d, sent on %d times: -want +got:\n%s", status, moved, diff)
		}
	}
}

func TestBadIDIsNotSent(t *testing.T) {
	c := newClient(t, transport(func(r *http.Request) (*http.Response, error) {
		t.Errorf("sent to %s", r.URL)
		return nil, io.EOF
	}), nil)
	for _, id := range []string{"", ".", "..", "a/b", "a?b", "%2e", "a b", "ü", strings.Repeat("a", 129)} {
		_, getErr := c.Session(liveShare).Get(t.Context(), id, true)
		_, updateErr := c.Session(liveShare).Update(t.Context(), id, Patch{})
		if getErr == nil || updateErr == nil {
			t.Errorf("%q was accepted: %v, %v", id, getErr, updateErr)
		}
	}
}

func TestOtherOrdersChangeTheOrderAlone(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	q := Query{Since: since, Until: since.Add(time.Hour), Size: 100, Filter: Filter{MonitorID: []string{"m"}}}
	c := newClient(t, nil, nil)
	want := c.listing(q)
	for sort, change := range map[string]func(*Query){
		"updated_at": func(q *Query) { q.Order = UpdatedFirst },
		"created_at": func(q *Query) { q.Order = NewestFirst },
	} {
		other := q
		change(&other)
		got, query := c.listing(other), want.target.Query()
		query.Set("sort", sort)
		query.Set("order", "desc")
		if diff := cmp.Diff(query, got.target.Query()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", sort, diff)
		}
	}
}

func tagsOf(a Alert) []string {
	tags, _ := a.Tags()
	return tags
}

func TestTags(t *testing.T) {
	const head = `{"id":"a","created_at":"2025-08-07T10:01:49.199Z"`
	type tags struct {
		Tags []string
		All  bool
	}
	for rest, want := range map[string]tags{
		`}`:                                 {nil, true},
		`,"tags":[]}`:                       {nil, true},
		`,"tags":null}`:                     {nil, true},
		`,"tags":"a"}`:                      {nil, false},
		`,"tags":false}`:                    {nil, false},
		`,"tags":{"a":"b"}}`:                {nil, false},
		`, "tags" : [ "b" , "a","b","B"]}`:  {[]string{"b", "a", "b", "B"}, true},
		`,"tags":[" a ","","\u0000<"]}`:     {[]string{" a ", "", "\x00<"}, true},
		`,"tags":["\u00fc\n",1,"<"]}`:       {[]string{"ü\n", "<"}, false},
		`,"tags":["a",null]}`:               {[]string{"a"}, false},
		`,"tags":[["x"]]}`:                  {nil, false},
		`,"tags":[{"a":"b"},"a"]}`:          {[]string{"a"}, false},
		`,"tags":["a\ud83d"]}`:              {[]string{"a\ufffd"}, false},
		`,"tags":["a\ud83d\ude00"]}`:        {[]string{"a\U0001f600"}, true},
		`,"tags":["a"],"tags":["b"]}`:       {[]string{"b"}, false},
		`,"tags":null,"tags":["b"]}`:        {[]string{"b"}, false},
		`,"Tags":["a"],"doc":{"tags":[1]}}`: {nil, true},
		`,"\u0074ags":["a"]}` + "\n":        {[]string{"a"}, true},
	} {
		a := ParseAlert([]byte(head + rest))
		var got tags
		got.Tags, got.All = a.Tags()
		if diff := cmp.Diff(want, got); diff != "" || a.Invalid != "" {
			t.Errorf("%s: %q, -want +got:\n%s", rest, a.Invalid, diff)
		}
	}
	for _, a := range []Alert{{}, ParseAlert([]byte(`{"tags":["a"]}`)), {Raw: []byte(`{"tags":["a"`)}, {Raw: []byte(`["tags"]`)}, {Raw: []byte(`{"tags":["a"]}`), Digest: &Digest{}}} {
		if tags, all := a.Tags(); tags != nil || all && (a.Digest != nil || a.Invalid != "") {
			t.Errorf("%s has the tags %q, all: %v", a.Raw, tags, all)
		}
	}
}
