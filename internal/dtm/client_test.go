package dtm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sync/semaphore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKey = "0123456789abcdef-key"

// direct is a transport that calls a handler without a network, so that it works
// under synctest's clock.
type direct func(w http.ResponseWriter, r *http.Request)

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// transport is any other function.
type transport func(r *http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Shares as the app makes them.
var (
	liveShare  = Share{Errors: 50, Requests: 1}
	sweepShare = Share{Errors: 35, Requests: 0.9}
	syncShare  = Share{Errors: 20, Requests: 0.9}
)

// keys is a source of one key, and of another after Renew.
type keys struct {
	key, renewed string
	renewals     atomic.Int32
	delay        time.Duration
}

func (k *keys) Key(context.Context) (string, error) { return k.key, nil }

func (k *keys) Renew(context.Context, string) (string, error) {
	k.renewals.Add(1)
	time.Sleep(k.delay)
	return k.renewed, nil
}

// newClient returns a client with much of everything, for what change makes of it.
func newClient(t *testing.T, rt http.RoundTripper, change func(*Options)) *Client {
	t.Helper()
	o := Options{
		BaseURL: "https://gti.example/api/v3", ToolName: "tool", UserAgent: "agent/1", Keys: &keys{key: testKey, renewed: testKey},
		Meter: NewMeter(1000), Concurrency: 10, QPS: 1000, Transport: rt, Rand: func() float64 { return 0.5 },
	}
	if change != nil {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// collect reads a listing to its end, releasing the pages.
func collect(ctx context.Context, s *Session, q Query) (ids []string, err error) {
	for page, err := range s.List(ctx, q) {
		if err != nil {
			return ids, err
		}
		for _, a := range page.Alerts {
			ids = append(ids, a.ID)
		}
		page.Release()
	}
	return ids, nil
}

func writePage(w http.ResponseWriter, next string, ids ...string) {
	if next != "" {
		// The host that the API was recorded with, which must not be asked.
		w.Header().Set("Link", `<https://api.intelligence.mandiant.com/v4/dtm/alerts?page=`+url.QueryEscape(next)+`>; rel="next"`)
	}
	alerts := make([]string, len(ids))
	for i, id := range ids {
		alerts[i] = `{"id":"` + id + `","created_at":"1999-01-02T03:04:05Z"}`
	}
	_, _ = fmt.Fprintf(w, "{\"alerts\":[%s]}\n", strings.Join(alerts, ","))
}

func fail(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"error":{"code":%q,"message":"text"}}`, code)
}

func TestNewNamesEveryProblem(t *testing.T) {
	_, err := New(Options{BaseURL: "http://gti.example", ToolName: "a\nb", UserAgent: "ü", PageLimit: 2, PageMemory: 1})
	for _, want := range []string{"https", "tool name", "user agent", "key", "meter", "concurrency", "requests a second", "page memory"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %q", err, want)
		}
	}
	for base, ok := range map[string]bool{
		"http://127.0.0.1:8080/x": true, "http://[::1]/": true, "http://localhost": true, "https://h/api/v3/": true,
		"http://127.0.0.1.example": false, "https://": false, "https://u@h": false, "https://h?x": false, "ftp://h": false, "": false,
	} {
		if _, err := parseBase(base); (err == nil) != ok {
			t.Errorf("base %q: %v", base, err)
		}
	}
}

func TestListRequests(t *testing.T) {
	var got []url.Values
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.URL.Query())
		if r.Method != http.MethodGet || r.URL.Path != "/api/v3/dtm/alerts" || strings.Contains(r.URL.RawQuery, "+0") {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		if len(r.TransferEncoding) != 0 || r.ContentLength != 0 || r.Header.Get("Content-Length") != "" {
			t.Errorf("a body was announced: %v, %d", r.TransferEncoding, r.ContentLength)
		}
		want := http.Header{
			"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"agent/1"}, "X-Apikey": {testKey}, "X-Tool": {"tool"},
		}
		if diff := cmp.Diff(want, r.Header); diff != "" {
			t.Errorf("headers: -want +got:\n%s", diff)
		}
		switch r.URL.Query().Get("page") {
		case "":
			writePage(w, "a+b/=%41", "1", "2")
		case "a+b/=%41":
			writePage(w, "last", "3")
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer ts.Close()
	tr := newTransport(2)
	defer tr.CloseIdleConnections()
	c := newClient(t, tr, func(o *Options) {
		o.BaseURL = ts.URL + "/api/v3/"
		o.Keys = &keys{key: " " + testKey + "\n"}
	})
	filter, _, err := ParseFilter(`{"status":["new","read"],"alert_type":["Forum Post"],"mscore_gte":0}`)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Date(2026, 1, 2, 4, 4, 5, 67e6, time.FixedZone("", 3600))
	s := c.Session(liveShare)
	ids, err := collect(t.Context(), s, Query{Since: since, Until: since.Add(time.Hour), Size: 25, Refs: true, Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1", "2", "3"}, ids); diff != "" {
		t.Errorf("ids: -want +got:\n%s", diff)
	}
	want := []url.Values{
		{
			"sort": {"created_at"}, "order": {"asc"}, "size": {"25"}, "refs": {"true"}, "monitor_name": {"true"}, "life": {"10m"},
			"since": {"2026-01-02T03:04:05.067Z"}, "until": {"2026-01-02T04:04:05.067Z"},
			"status": {"new", "read"}, "alert_type": {"Forum Post"}, "mscore_gte": {"0"},
		},
		{"page": {"a+b/=%41"}},
		{"page": {"last"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("queries: -want +got:\n%s", diff)
	}
	if st := s.Stats(); st.Requests != 3 || st.Pages != 3 || st.Retries != 0 || st.Bytes == 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestListIsLazy(t *testing.T) {
	var requests int
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
		requests++
		writePage(w, fmt.Sprint(requests), "a")
	}), nil)
	for page, err := range c.Session(liveShare).List(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if page.AskedAt.IsZero() || page.Next != fmt.Sprint(requests) {
			t.Errorf("page %+v after %d requests", page, requests)
		}
		if requests == 2 {
			break
		}
	}
	if requests != 2 {
		t.Errorf("%d requests, want 2", requests)
	}
}

// What may happen to a request, and what the client makes of it on the first
// page of a listing and on a later one.
func TestFailures(t *testing.T) {
	status := func(status int, code string) transport {
		return func(r *http.Request) (*http.Response, error) {
			return direct(func(w http.ResponseWriter, _ *http.Request) { fail(w, status, code) }).RoundTrip(r)
		}
	}
	body := func(text string) transport {
		return func(r *http.Request) (*http.Response, error) {
			return direct(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }).RoundTrip(r)
		}
	}
	cut := func(r *http.Request) (*http.Response, error) {
		resp, err := body(`{"alerts":[`)(r)
		resp.Body = io.NopCloser(io.MultiReader(resp.Body, errReader{io.ErrUnexpectedEOF}))
		return resp, err
	}
	for _, tc := range []struct {
		name         string
		rt           transport
		first, later int // requests for that page
		restart      bool
	}{
		{"network", func(*http.Request) (*http.Response, error) { return nil, errors.New("connection reset") }, 5, 1, true},
		{"silence", func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, 5, 1, true},
		{"body stands still", func(r *http.Request) (*http.Response, error) {
			resp, err := body(`{"alerts":[`)(r)
			resp.Body = io.NopCloser(io.MultiReader(resp.Body, stallReader{r.Context()}))
			return resp, err
		}, 5, 1, true},
		{"cut body", cut, 5, 1, true},
		{"no alerts", body(`{}`), 5, 1, true},
		{"HTML", body(`<html>`), 5, 1, true},
		{"408", status(408, ""), 5, 1, true},
		{"500", status(500, ""), 5, 1, true},
		{"503", status(503, "TransientError"), 5, 1, true},
		{"429", status(429, "TooManyRequestsError"), 5, 5, false},
		{"quota", status(429, "QuotaExceededError"), 1, 1, false},
		{"400", status(400, "InvalidArgumentError"), 1, 1, true},
		{"404", status(404, "NotFoundError"), 1, 1, true},
		{"401", status(401, "WrongCredentialsError"), 1, 1, false},
		{"403", status(403, "ForbiddenError"), 1, 1, false},
		{"304", status(304, ""), 5, 1, true},
		{"206", status(206, ""), 5, 1, true},
		{"redirect elsewhere", func(r *http.Request) (*http.Response, error) {
			return direct(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://evil.example/x?page=1")
				w.WriteHeader(http.StatusFound)
			}).RoundTrip(r)
		}, 1, 1, false},
		{"redirects for ever", func(r *http.Request) (*http.Response, error) {
			return direct(http.RedirectHandler("/again?"+r.URL.RawQuery, http.StatusTemporaryRedirect).ServeHTTP).RoundTrip(r)
		}, 4, 4, false},
	} {
		for _, later := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/later=%t", tc.name, later), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					failed := 0
					meter := NewMeter(1000)
					c := newClient(t, transport(func(r *http.Request) (*http.Response, error) {
						if later && r.URL.Query().Get("page") == "" && r.URL.Path != "/again" {
							return direct(func(w http.ResponseWriter, _ *http.Request) { writePage(w, "token", "a") }).RoundTrip(r)
						}
						failed++
						return tc.rt(r)
					}), func(o *Options) { o.Meter = meter })
					start := time.Now()
					s := c.Session(liveShare)
					_, err := collect(t.Context(), s, Query{})
					if err == nil {
						t.Fatal("no error")
					}
					want := tc.first
					if later {
						want = tc.later
					}
					if failed != want {
						t.Errorf("%d requests, want %d (%v)", failed, want, err)
					}
					var restart *RestartError
					if errors.As(err, &restart) != (later && tc.restart) {
						t.Errorf("error %T: %v", err, err)
					}
					if text := err.Error(); strings.Contains(text, testKey) || strings.Contains(text, "page=") || strings.Contains(text, "sort=") {
						t.Errorf("the error says too much: %s", text)
					}
					requests, _ := meter.Used()
					total := int64(want)
					if later {
						total++
					}
					if st := s.Stats(); requests != total || st.Requests != total {
						t.Errorf("%d requests metered, %d in the stats, want %d", requests, st.Requests, total)
					}
					if passed := time.Since(start); passed > 6*time.Minute {
						t.Errorf("took %v", passed)
					}
				})
			})
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// stallReader sends nothing until its request is cancelled.
type stallReader struct{ ctx context.Context }

func (r stallReader) Read([]byte) (int, error) {
	<-r.ctx.Done()
	return 0, r.ctx.Err()
}

func TestErrorTypes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(3 * time.Hour) // 03:00 UTC
		var answer func(http.ResponseWriter, *http.Request)
		c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }), nil)
		list := func() error {
			_, err := collect(t.Context(), c.Session(liveShare), Query{Size: 100})
			return err
		}
		answer = func(w http.ResponseWriter, _ *http.Request) { fail(w, 429, "QuotaExceededError") }
		var quota *QuotaError
		if err := list(); !errors.As(err, &quota) || quota.RetryAfter != 21*time.Hour {
			t.Errorf("%T %v", err, err)
		}
		answer = func(w http.ResponseWriter, _ *http.Request) { fail(w, 403, "ForbiddenError") }
		var key *KeyError
		if err := list(); !errors.As(err, &key) || key.Status != 403 || !strings.Contains(err.Error(), "entitlement") {
			t.Errorf("%T %v", err, err)
		}
		answer = func(w http.ResponseWriter, _ *http.Request) { fail(w, 400, "InvalidArgumentError") }
		var api *APIError
		if err := list(); !errors.As(err, &api) {
			t.Errorf("%T %v", err, err)
		} else if diff := cmp.Diff(&APIError{Status: 400, Code: "InvalidArgumentError", Message: "text"}, api); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://gti.example/api/v3/dtm/alerts")
			w.WriteHeader(http.StatusMovedPermanently)
		}
		var redirect *RedirectError
		if err := list(); !errors.As(err, &redirect) || redirect.Host != "http://gti.example" {
			t.Errorf("a redirect to another scheme: %T %v", err, err)
		}
	})
}

func TestErrorBodies(t *testing.T) {
	long := strings.Repeat("ü", 600)
	for _, tc := range []struct {
		name, body, code, message string
		own                       bool
	}{
		{"gateway", `{"error":{"code":"WrongCredentialsError","message":"Wrong API key"}}`, "WrongCredentialsError", "Wrong API key", true},
		{"error string", `{"error":"bad since"}`, "", "bad since", false},
		{"message", `{"message":"Not Found"}`, "", "Not Found", true},
		{"HTML", "<!DOCTYPE html><html><head><TITLE>\n502 Bad &amp; worse</TITLE></head><body>x</body></html>", "", "502 Bad & worse", false},
		{"HTML without a title", "<html><body>x</body></html>", "", "", false},
		{"text", "upstream\nfailed\x1b[31m", "", "upstream failed", false},
		{"odd types", `{"error":{"code":5,"message":["x"]},"message":7}`, "", "", false},
		{"other JSON", `[1]`, "", "", false},
		{"a byte order mark", "\ufeff" + `{"message":"Not Found"}`, "", "Not Found", true},
		// What follows may be an alert, with a password in clear text.
		{"an alert, cut off", `{"alerts":[{"id":"x","doc":{"password":"hunter2`, "", "", false},
		{"two documents", `{"message":"no"}{"password":"hunter2"}`, "", "", false},
		{"no JSON for a number", `{"message":"no","took":NaN,"password":"hunter2"}`, "", "", false},
		{"text before an alert", `upstream answered: {"password":"hunter2"}`, "", "upstream answered:", false},
		{"text before a list", `upstream answered: ["hunter2"]`, "", "upstream answered:", false},
		{"UTF-16", "\xff\xfe{\x00\"\x00h\x00u\x00", "", "\ufffd", false},
		{"nothing", "", "", "", false},
		{"key in it", `{"error":{"code":"X","message":"key ` + testKey + ` is wrong"}}`, "X", "key [API key] is wrong", true},
		{"key at the cut", strings.Repeat("x", 507) + testKey, "", strings.Repeat("x", 507) + "[API ", false},
		{"long", `{"error":{"code":"X","message":"` + long + `"}}`, "X", long[:510], true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := newAPIError(&http.Response{StatusCode: http.StatusBadRequest}, []byte(tc.body), testKey)
			want := &APIError{Status: 400, Code: tc.code, Message: tc.message, Foreign: !tc.own, WebPage: strings.HasPrefix(tc.name, "HTML")}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestFinal: of all answers only these say something about what was asked for.
func TestFinal(t *testing.T) {
	const coded, text, html = `{"error":{"code":"%s","message":"m"}}`, `{"message":"m"}`, "<html></html>"
	named := func(code string) string { return fmt.Sprintf(coded, code) }
	for _, tc := range []struct {
		status int
		body   string
		want   bool
	}{
		{404, named("NotFoundError"), true},
		{404, text, true},
		{404, named("TransientError"), false},
		{404, html, false},
		{404, "", false},
		{404, `{"error":"not found"}`, false},
		{404, `{"message":""}`, false},
		{400, named("BadRequestError"), true},
		{400, named("InvalidArgumentError"), true},
		{400, text, true},
		{400, named("NotAvailableYet"), false},
		{400, html, false},
		{422, text, true},
		{422, "unprocessable", false},
		{401, named("WrongCredentialsError"), false},
		{403, named("ForbiddenError"), false},
		{405, text, false},
		{407, text, false},
		{408, text, false},
		{409, named("AlreadyExistsError"), false},
		{421, html, false},
		{423, text, false},
		{424, named("FailedDependencyError"), false},
		{425, text, false},
		{429, named("TooManyRequestsError"), false},
		{451, text, false},
		{500, text, false},
		{999, text, false},
	} {
		if e := newAPIError(&http.Response{StatusCode: tc.status}, []byte(tc.body), testKey); Kind(e).Final() != tc.want {
			t.Errorf("%d %s: final %t", tc.status, tc.body, !tc.want)
		}
	}
}

// TestListOfSomethingElse: an answer of 200 that is no list is none, however it
// begins, and the list is asked for again.
func TestListOfSomethingElse(t *testing.T) {
	const alert = `{"id":"a","created_at":"2025-08-07T10:01:49.199Z"}`
	for _, body := range []string{
		`{"alerts":[],"error":{"code":"TransientError"}}`,
		`{"error":{"code":"TransientError"},"alerts":null}`,
		`{"alerts":[` + alert + `],"error":{"code":"TransientError"}}`,
		`{"alerts":[],"error":"busy"}`,
		`{"alerts":[],"error":false}`,
		`{"alerts":[],"error":{}}`,
		`{"alerts":[],"\u0065rror":{}}`,
		`{"error":{"code":"QuotaExceededError"}}`,
		`{"error":{"code":"WrongCredentialsError"}}`,
		`{"error":null}`,
		`{"message":"busy"}`, `{}`, `null`, `[]`, `[` + alert + `]`, `true`, ``, `<html></html>`, alert,
		`{"alerts":{}}`, `{"alerts":""}`, `{"alerts":false}`, `{"alerts":0}`,
	} {
		for _, size := range []int{100, 1} { // of the least size it may be larger than a page
			for _, pad := range []string{"", strings.Repeat(" ", 64<<10)} {
				t.Run(fmt.Sprintf("%s size %d of %d", body, size, len(pad)), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						requests := 0
						c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
							if requests++; requests == 1 || requests > 2 {
								_, _ = io.WriteString(w, body+pad)
								return
							}
							writePage(w, "2", "a")
						}), func(o *Options) { o.PageLimit, o.PageMemory = 64<<10, 64<<10 })
						ids, err := collect(t.Context(), c.Session(liveShare), Query{Size: size})
						if large := (*PageTooLargeError)(nil); size > 1 && pad != "" && errors.As(err, &large) {
							return
						}
						var restart *RestartError
						var none *NoAnswerError
						if !errors.As(err, &restart) || !errors.As(err, &none) || !none.Answered || requests != 3 || !slices.Equal(ids, []string{"a"}) {
							t.Errorf("%q after %d requests, %v", ids, requests, err)
						}
					})
				})
			}
		}
	}
	for _, body := range []string{`{"alerts":null}`, `{"alerts":[],"error":null}`, `{"error":null,"alerts":null}`, `{"alerts":[],"errors":["x"]}`} {
		c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }), nil)
		if ids, err := collect(t.Context(), c.Session(liveShare), Query{Size: 100}); err != nil || len(ids) > 0 {
			t.Errorf("%s: %q, %v", body, ids, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]time.Duration{
			"7": 7 * time.Second, "0": 0, "-1": 0, "": 0, "soon": 0,
			"1.5": 2 * time.Second, "1.0": time.Second, "0.001": time.Second, "0.0": 0, " 2 ": 2 * time.Second, "007.25": 8 * time.Second,
			"86399.5": 24 * time.Hour, "86400.5": 24 * time.Hour, "99999999999999999999.5": 24 * time.Hour,
			"1e1": 0, ".5": 0, "1.": 0, "1.5.5": 0, "1,5": 0, "+1": 0, "0x1": 0, "1_0": 0, "1.-5": 0, "NaN": 0, "1 5": 0,
			"99999999999999999999": 24 * time.Hour, "90000": 24 * time.Hour,
			time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat): 90 * time.Second,
			time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat):       0,
		} {
			if got := retryAfter(http.Header{"Retry-After": {text}}); got != want {
				t.Errorf("%q: %v, want %v", text, got, want)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
			at = append(at, time.Since(start))
			if len(at) < 5 {
				fail(w, 503, "")
				return
			}
			writePage(w, "", "a")
		}), nil)
		s := c.Session(liveShare)
		if _, err := collect(t.Context(), s, Query{}); err != nil {
			t.Fatal(err)
		}
		ms := time.Millisecond // half of 500, 1000, 2000, 4000
		if diff := cmp.Diff([]time.Duration{0, 250 * ms, 750 * ms, 1750 * ms, 3750 * ms}, at); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if st := s.Stats(); st.Retries != 4 || st.Throttled != 3750*ms || st.Errors != 4 {
			t.Errorf("stats %+v", st)
		}
		if got := c.backoff(20); got != 15*time.Second {
			t.Errorf("capped back-off %v", got)
		}
	})
}

// A Retry-After holds back the requests of all sessions, also a later page's; but
// not those of a session that is opened later.
func TestRetryAfterHoldsBackAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var refused, other time.Duration
		c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			switch {
			case q.Get("size") == "7":
				other = time.Since(start)
				writePage(w, "", "b")
			case q.Get("page") == "":
				writePage(w, "token", "a")
			case refused == 0:
				time.Sleep(time.Second)
				refused = time.Since(start)
				w.Header().Set("Retry-After", "100")
				fail(w, 429, "TooManyRequestsError")
			default:
				if waited := time.Since(start) - refused; waited != 100*time.Second {
					t.Errorf("the page was asked again after %v", waited)
				}
				writePage(w, "", "c")
			}
		}), nil)
		beside := c.Session(liveShare)
		var wg sync.WaitGroup
		wg.Go(func() {
			ids, err := collect(t.Context(), c.Session(liveShare), Query{})
			if diff := cmp.Diff([]string{"a", "c"}, ids); diff != "" || err != nil {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
		})
		time.Sleep(2 * time.Second)
		if _, err := collect(t.Context(), c.Session(liveShare), Query{Size: 7}); err != nil || other != 2*time.Second {
			t.Errorf("a session that was opened later asked after %v: %v", other, err)
		}
		if _, err := collect(t.Context(), beside, Query{Size: 7}); err != nil || other != 101*time.Second {
			t.Errorf("another session asked after %v: %v", other, err)
		}
		wg.Wait()
	})
}

func TestWaitsThatDontFit(t *testing.T) {
	limited := func(seconds string) direct {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("page") == "" && r.URL.Query().Get("size") == "" {
				writePage(w, "token", "a")
				return
			}
			w.Header().Set("Retry-After", seconds)
			fail(w, 429, "")
		}
	}
	t.Run("deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, limited("60"), nil)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			var wait *WaitError
			if _, err := collect(ctx, c.Session(liveShare), Query{}); !errors.As(err, &wait) || wait.Wait != time.Minute {
				t.Errorf("%T %v", err, err)
			}
			if time.Since(start) != 0 {
				t.Errorf("slept %v", time.Since(start))
			}
		})
	})
	t.Run("page life", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, limited("600"), nil)
			start := time.Now()
			var restart *RestartError
			if _, err := collect(t.Context(), c.Session(liveShare), Query{}); !errors.As(err, &restart) {
				t.Errorf("%T %v", err, err)
			}
			if time.Since(start) != 0 {
				t.Errorf("slept %v before the restart", time.Since(start))
			}
			if _, err := collect(t.Context(), c.Session(liveShare), Query{}); !errors.As(err, &restart) {
				t.Errorf("%T %v", err, err)
			}
			if time.Since(start) != 10*time.Minute {
				t.Errorf("the new listing waited %v", time.Since(start))
			}
		})
	})
	t.Run("a slow consumer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			requests := 0
			c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
				requests++
				writePage(w, "token", "a")
			}), nil)
			var restart *RestartError
			for _, err := range c.Session(liveShare).List(t.Context(), Query{}) {
				if err == nil {
					time.Sleep(10 * time.Minute)
				} else if !errors.As(err, &restart) {
					t.Error(err)
				}
			}
			if requests != 1 || restart == nil {
				t.Errorf("%d requests, %v", requests, restart)
			}
		})
	})
	t.Run("rate", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, limited("1"), func(o *Options) { o.QPS = 0.01 })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			// Our own limit is no reason by itself: it ends as the run does.
			if _, err := collect(ctx, c.Session(liveShare), Query{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
				t.Errorf("%T %v after %v", err, err, time.Since(start))
			}
		})
	})
}

// TestTheGateOpensInTime: who asks while it is closed, and can't wait so long, does
// not close it anew.
func TestTheGateOpensInTime(t *testing.T) {
	for _, once := range []bool{true, false} {
		t.Run(fmt.Sprintf("once=%t", once), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
					if time.Since(start) < time.Minute {
						w.Header().Set("Retry-After", "60")
						fail(w, 429, "TooManyRequestsError")
						return
					}
					writePage(w, "", "a")
				}), nil)
				s := c.Session(liveShare)
				if once {
					s = s.Once()
				}
				ask := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					_, err := collect(ctx, s, Query{})
					return err
				}
				first := ask()
				for range 5 {
					time.Sleep(10 * time.Second)
					err := ask()
					left := time.Minute - time.Since(start)
					want := &WaitError{Wait: left, Cause: &APIError{Status: 429, Code: "TooManyRequestsError", Message: "text", RetryAfter: time.Minute}}
					if Kind(err) != Wait || RetryAfter(err) != left || !strings.HasSuffix(err.Error(), want.Error()) ||
						strings.Count(err.Error(), "may be sent") != 1 {
						t.Errorf("after %v: %v", time.Since(start), err)
					}
				}
				time.Sleep(10 * time.Second)
				if err := ask(); err != nil || s.Stats().Requests != 2 {
					t.Errorf("first %v, then after %v and %d requests: %v", first, time.Since(start), s.Stats().Requests, err)
				}
			})
		})
	}
}

// TestTheGateOpensInTimeForATokenToo: a page that is closed out beyond its life does
// not close the gate anew either.
func TestTheGateOpensInTimeForATokenToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var start time.Time
		c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Query().Get("size") == "7" && start.IsZero():
				start = time.Now()
				w.Header().Set("Retry-After", "660")
				fail(w, 429, "TooManyRequestsError")
			case r.URL.Query().Get("size") == "7":
				writePage(w, "", "b")
			default:
				writePage(w, "token", "a")
			}
		}), nil)
		s := c.Session(liveShare)
		for page, err := range s.List(t.Context(), Query{}) {
			if err != nil {
				if Kind(err) != TokenSpent || strings.Count(err.Error(), "start again") != 1 {
					t.Error(err)
				}
				break
			}
			page.Release()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if _, err := collect(ctx, s, Query{Size: 7}); Kind(err) != Wait {
				t.Error(err)
			}
			cancel()
			time.Sleep(2 * time.Minute)
		}
		if _, err := collect(t.Context(), s, Query{Size: 7}); err != nil || time.Since(start) != 11*time.Minute {
			t.Errorf("asked after %v: %v", time.Since(start), err)
		}
	})
}

func TestRateAndConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, requests atomic.Int32
		c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			running.Add(-1)
			writePage(w, "", "a")
		}), func(o *Options) { o.Concurrency, o.QPS = 3, 2 })
		start := time.Now()
		s := c.Session(liveShare)
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				if _, err := collect(t.Context(), s, Query{}); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(900 * time.Millisecond)
		if requests.Load() != 1 {
			t.Errorf("%d requests before the first answer", requests.Load())
		}
		wg.Wait()
		if most.Load() > 3 || time.Since(start) < 5500*time.Millisecond || time.Since(start) > 8*time.Second {
			t.Errorf("%d at a time, %v in all", most.Load(), time.Since(start))
		}
		if s.Stats().Throttled == 0 {
			t.Error("no wait was counted")
		}
	})
}

func TestCancelEndsAtOnce(t *testing.T) {
	why := errors.New("lease lost")
	for name, rt := range map[string]direct{
		"request": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"wait": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			fail(w, 429, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				start := time.Now()
				time.AfterFunc(time.Second, func() { cancel(why) })
				s := newClient(t, rt, nil).Session(liveShare)
				if _, err := collect(ctx, s, Query{}); !errors.Is(err, why) {
					t.Errorf("%T %v", err, err)
				}
				if _, err := collect(ctx, s, Query{}); !errors.Is(err, why) {
					t.Errorf("%T %v", err, err)
				}
				if time.Since(start) != time.Second || s.Stats().Requests != 1 {
					t.Errorf("%v, %+v", time.Since(start), s.Stats())
				}
			})
		})
	}
}

func TestKeyIsRenewedOnce(t *testing.T) {
	for _, tc := range []struct {
		name, renewed  string
		wantOK         bool
		requests, errs int64
	}{
		{"rotated", "new-key\n", true, 7, 1},
		{"the same", testKey, false, 1, 1},
		{"another bad one", "bad", false, 2, 2},
		{"gone", "", false, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := &keys{key: testKey, renewed: tc.renewed, delay: time.Second}
				meter := NewMeter(1000)
				c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Millisecond)
					if r.Header.Get("X-Apikey") != "new-key" {
						fail(w, 401, "WrongCredentialsError")
						return
					}
					writePage(w, "", "a")
				}), func(o *Options) { o.Keys, o.Meter = source, meter })
				s := c.Session(liveShare)
				var wg sync.WaitGroup
				for range 6 {
					wg.Go(func() {
						_, err := collect(t.Context(), s, Query{})
						var key *KeyError
						if tc.wantOK != (err == nil) || !tc.wantOK && !errors.As(err, &key) {
							t.Errorf("%T %v", err, err)
						}
					})
				}
				wg.Wait()
				if n := source.renewals.Load(); n != 1 {
					t.Errorf("renewed %d times", n)
				}
				if requests, errs := meter.Used(); requests != tc.requests || errs != tc.errs {
					t.Errorf("%d requests and %d errors, want %d and %d", requests, errs, tc.requests, tc.errs)
				}
			})
		})
	}
}

// TestKeyIsReplacedAtTheLastAttempt: no attempt is left for the new key. The run ends
// by the refused one, and says that there is nothing to store.
func TestKeyIsReplacedAtTheLastAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
			requests++
			switch {
			case requests < 5:
				fail(w, 503, "TransientError")
			case r.Header.Get("X-Apikey") == testKey:
				fail(w, 401, "WrongCredentialsError")
			default:
				writePage(w, "", "a")
			}
		}), func(o *Options) { o.Keys = &keys{key: testKey, renewed: "new-key"} })
		s := c.Session(liveShare)
		_, err := collect(t.Context(), s, Query{})
		const want = "gave up after 5 attempts: GTI does not accept the API key, and the secret holds another one by now, which is used from here on: " +
			"GTI answered 401 WrongCredentialsError: text"
		if Kind(err) != KeyRefused || err.Error() != want || requests != 5 {
			t.Errorf("%v %v after %d requests", Kind(err), err, requests)
		}
		if ids, err := collect(t.Context(), s, Query{}); err != nil || !slices.Equal(ids, []string{"a"}) {
			t.Errorf("with the new key: %v, %v", ids, err)
		}
	})
}

// TestKeyIsReplacedWithinAListing: a token is the user's whose key asked for the page
// before, and no other key asks with it.
func TestKeyIsReplacedWithinAListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := 0
		c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Query().Get("page") == "":
				writePage(w, "token", "a")
			case r.Header.Get("X-Apikey") == testKey:
				tokens++
				fail(w, 401, "WrongCredentialsError")
			default:
				tokens++
				writePage(w, "", "b")
			}
		}), func(o *Options) { o.Keys = &keys{key: testKey, renewed: "new-key"} })
		ids, err := collect(t.Context(), c.Session(liveShare), Query{})
		if restart := (*RestartError)(nil); !errors.As(err, &restart) || tokens != 1 || len(ids) != 1 {
			t.Errorf("%v, %v, %d requests with the token", ids, err, tokens)
		}
	})
}

// Requests that were under way when the key was withdrawn ask for one renewal.
func TestKeyWithdrawnInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &keys{key: testKey, renewed: "new-key", delay: time.Second}
		start := time.Now()
		c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
			asked := time.Now()
			time.Sleep(time.Second)
			if !asked.Equal(start) && r.Header.Get("X-Apikey") == testKey {
				fail(w, 401, "WrongCredentialsError")
				return
			}
			writePage(w, "", "a")
		}), func(o *Options) { o.Keys = source })
		s := c.Session(liveShare)
		if _, err := collect(t.Context(), s, Query{}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if _, err := collect(t.Context(), s, Query{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := source.renewals.Load(); n != 1 || s.Stats().Errors != 6 {
			t.Errorf("renewed %d times after %d errors", n, s.Stats().Errors)
		}
	})
}

func TestBudgetStopsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter := NewMeter(1000)
		requests := 0
		c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
			requests++
			fail(w, 500, "")
		}), func(o *Options) { o.Meter = meter })
		var budget *BudgetError
		if _, err := collect(t.Context(), c.Session(Share{Errors: 3, Requests: 1}), Query{}); !errors.As(err, &budget) {
			t.Errorf("%T %v", err, err)
		}
		if requests != 3 {
			t.Errorf("%d requests, want 3", requests)
		}
	})
}

func TestRedirectTarget(t *testing.T) {
	from, err := url.Parse("https://gti.example/api/v3/dtm/alerts?size=1")
	if err != nil {
		t.Fatal(err)
	}
	for location, want := range map[string]string{ // the target, or the host that is refused
		"/x?size=1":                        "https://gti.example/x?size=1",
		"https://GTI.example:443/x?size=1": "https://GTI.example:443/x?size=1",
		"//gti.example/x?size=1":           "https://gti.example/x?size=1",
		"/x?y=1":                           "https://gti.example",
		"/x":                               "https://gti.example",
		"https://gti.example:8443/x":       "https://gti.example:8443",
		"http://gti.example/x":             "http://gti.example",
		"//evil.example/x?page=1":          "https://evil.example",
		"https://gti.example.evil/":        "https://gti.example.evil",
		"https://gti.example@evil/":        "https://evil",
		// All of these ask for the same, so that nothing but the place is against them.
		"https://evil.example/x?size=1":     "https://evil.example",
		"https://gti.example:8443/x?size=1": "https://gti.example:8443",
		"http://gti.example/x?size=1":       "http://gti.example",
		"https://" + testKey + ".x/":        "https://[API key].x",
		"https://%zz/?page=1":               "",
	} {
		got := ""
		to, err := follow(request{}, from, &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {location}}}, testKey)
		var refused *RedirectError
		switch {
		case errors.As(err, &refused):
			got = refused.Host
		case err == nil:
			got = to.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", location, got, want)
		}
	}
}

// TestRedirectedError: what another place says of a request is not GTI's word.
func TestRedirectedError(t *testing.T) {
	c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/maintenance" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"message":"Not Found"}`)
			return
		}
		http.Redirect(w, r, "/maintenance?"+r.URL.RawQuery, http.StatusFound)
	}), nil)
	_, err := c.Session(liveShare).Get(t.Context(), "a1", false)
	if api := (*APIError)(nil); !errors.As(err, &api) || Kind(err).Final() {
		t.Errorf("final: %v", err)
	}
}

// TestCauseOfSilence: why there is no answer is what its reader can do something about. The
// key is none of it.
func TestCauseOfSilence(t *testing.T) {
	for _, lingers := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, transport(func(*http.Request) (*http.Response, error) {
				return nil, errors.New("connect: connection refused after " + testKey)
			}), nil)
			c.lingers = lingers
			_, err := collect(t.Context(), c.Session(liveShare), Query{})
			if err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), testKey) {
				t.Errorf("lingering %t: %v", lingers, err)
			}
		})
	}
}

func TestRedirectOnTheSameHost(t *testing.T) {
	meter := NewMeter(1000)
	c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v3/dtm/alerts" {
			w.Header().Set("Location", "https://u:p@GTI.example:443/moved?"+r.URL.RawQuery)
			w.WriteHeader(http.StatusPermanentRedirect)
			return
		}
		if r.URL.Path != "/moved" || r.URL.Query().Get("size") != "25" || r.URL.User != nil {
			t.Errorf("redirected to %s", r.URL)
		}
		writePage(w, "", "a")
	}), func(o *Options) { o.Meter = meter })
	ids, err := collect(t.Context(), c.Session(liveShare), Query{Size: 25})
	if requests, _ := meter.Used(); err != nil || len(ids) != 1 || requests != 2 {
		t.Errorf("%v, %v, %d requests", ids, err, requests)
	}
}

// The page that brings an unusable link counts; only then the listing is over.
func TestUnusableNextIsNotTheEnd(t *testing.T) {
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", `<https://h/?size=1>; rel="next"`)
		writePage(w, "", "a")
	}), nil)
	ids, err := collect(t.Context(), c.Session(liveShare), Query{})
	var restart *RestartError
	if len(ids) != 1 || !errors.As(err, &restart) {
		t.Errorf("%v, %v", ids, err)
	}
}

// TestCreatedAhead: no listing will ever come to what was created years ahead.
func TestCreatedAhead(t *testing.T) {
	ahead := func(d time.Duration) string { return time.Now().UTC().Add(d).Format(time.RFC3339) }
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"alerts":[{"id":"a","created_at":%q},{"id":"b","created_at":%q},{"id":"c","created_at":"9999-12-31T23:59:59Z"}]}`,
			ahead(23*time.Hour), ahead(25*time.Hour))
	}), nil)
	var faults []string
	for page, err := range c.Session(liveShare).List(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Alerts {
			faults = append(faults, a.Invalid)
			if len(a.Raw) == 0 {
				t.Error("an alert has lost its bytes")
			}
		}
	}
	const fault = "its created_at lies in the future"
	if diff := cmp.Diff([]string{"", fault, fault}, faults); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestListedAhead: a version that lies ahead is known for one in a list, too. Taken for the
// newest, it would hide all that come after it.
func TestListedAhead(t *testing.T) {
	now := time.Now().UTC()
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
		created, after := now.Format(time.RFC3339), func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
		_, _ = fmt.Fprintf(w, `{"alerts":[{"id":"a","created_at":%q,"updated_at":%q},{"id":"b","created_at":%[1]q,"updated_at":%[3]q}]}`,
			created, after(23*time.Hour), after(25*time.Hour))
	}), nil)
	var ahead []bool
	for page, err := range c.Session(liveShare).List(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Alerts {
			ahead = append(ahead, a.Ahead)
		}
	}
	if diff := cmp.Diff([]bool{false, true}, ahead); diff != "" {
		t.Errorf("ahead (-want +got):\n%s", diff)
	}
}

// TestCreatedAheadOfBothClocks: the fault is an alert's only when its time lies ahead of
// whichever clock is later, ours or the API's.
func TestCreatedAheadOfBothClocks(t *testing.T) {
	for _, tc := range []struct{ api, created time.Duration }{
		{48 * time.Hour, 71 * time.Hour},
		{-48 * time.Hour, 23 * time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			now := time.Now().UTC()
			c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", now.Add(tc.api).Format(http.TimeFormat))
				_, _ = fmt.Fprintf(w, `{"alerts":[{"id":"a","created_at":%q},{"id":"b","created_at":%q}]}`,
					now.Add(tc.created).Format(time.RFC3339), now.Add(tc.created+2*time.Hour).Format(time.RFC3339))
			}), nil)
			for page, err := range c.Session(liveShare).List(t.Context(), Query{}) {
				if err != nil {
					t.Fatal(err)
				}
				if !page.Date.Equal(now.Add(tc.api)) {
					t.Errorf("the API's clock says %v", page.Date)
				}
				if a, b := page.Alerts[0], page.Alerts[1]; a.Invalid != "" || b.Invalid == "" {
					t.Errorf("the API's clock is %v ahead: %q and %q", tc.api, a.Invalid, b.Invalid)
				}
			}
		})
	}
}

// TestPageMemoryIsShared: a page's share grows as far as there is memory, and gives
// back what it shrinks by.
func TestPageMemoryIsShared(t *testing.T) {
	pool := semaphore.NewWeighted(10)
	left := func(want int64) {
		t.Helper()
		if !pool.TryAcquire(want) {
			t.Fatalf("less than %d are left", want)
		}
		if pool.TryAcquire(1) {
			t.Fatalf("more than %d are left", want)
		}
		pool.Release(want)
	}
	m := &pageMemory{pool: pool}
	for _, step := range []struct {
		size, left int64
		ok         bool
	}{{4, 6, true}, {4, 6, true}, {10, 0, true}, {11, 0, false}, {3, 7, true}, {11, 7, false}, {0, 10, true}} {
		if ok := m.resize(step.size); ok != step.ok {
			t.Errorf("resize(%d) = %t", step.size, ok)
		}
		left(step.left)
	}
}

func TestPageLimit(t *testing.T) {
	const limit = 200 << 10
	page := testPage(60, 2<<10) // about 120 KiB
	pad := func(n int) string { return string(page) + strings.Repeat(" ", n-len(page)) }
	size := 0
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, pad(size)) }),
		func(o *Options) { o.PageLimit, o.PageMemory = limit, 2*limit })
	for _, alone := range []bool{false, true} {
		q := Query{Size: 60, Refs: true, Alone: alone}
		size = limit
		if ids, err := collect(t.Context(), c.Session(liveShare), q); err != nil || len(ids) != 60 {
			t.Errorf("a page of exactly the limit: %d, %v", len(ids), err)
		}
		size = limit + 1
		_, err := collect(t.Context(), c.Session(liveShare), q)
		if diff := cmp.Diff(error(&PageTooLargeError{Size: 60, Refs: true, Limit: limit}), err); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if !c.memory.TryAcquire(2 * limit) {
			t.Fatal("memory is still held")
		}
		c.memory.Release(2 * limit)
	}
}

func TestPageMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 256 << 10
		page := testPage(100, 2<<10) // takes 256 KiB
		broken := false
		c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
			if broken {
				page = page[:len(page)-5]
			}
			_, _ = w.Write(page)
		}), func(o *Options) { o.PageLimit, o.PageMemory = limit, limit+100<<10 })
		s := c.Session(liveShare)
		first := func(q Query) (Page, error) {
			for page, err := range s.List(t.Context(), q) {
				return page, err
			}
			return Page{}, nil
		}
		held, err := first(Query{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first(Query{}); !errors.Is(err, ErrMemory) {
			t.Fatalf("beside a held page: %v", err)
		}
		start := time.Now()
		time.AfterFunc(time.Minute, held.Release)
		alone, err := first(Query{Alone: true})
		if err != nil || time.Since(start) != time.Minute {
			t.Fatalf("alone: %v after %v", err, time.Since(start))
		}
		twice := alone // two copies of a page are still one share
		alone.Release()
		alone.Release()
		twice.Release()
		broken = true
		for _, alone := range []bool{false, true} {
			if _, err := first(Query{Alone: alone}); err == nil {
				t.Error("a cut page was accepted")
			}
		}
		if !c.memory.TryAcquire(limit + 100<<10) {
			t.Error("memory is still held")
		}
	})
}

// A small page asked for alone gives back what it did not need.
func TestAloneGivesBack(t *testing.T) {
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) { writePage(w, "", "a") }),
		func(o *Options) { o.PageLimit, o.PageMemory = 1<<20, 1<<20 })
	for page, err := range c.Session(liveShare).List(t.Context(), Query{Alone: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if !c.memory.TryAcquire(1<<20 - firstBuffer) {
			t.Error("the whole page's memory is held")
		}
		page.Release()
	}
}

// A page's bytes stay as they were while later pages are read.
func TestAlertsOutliveTheirPage(t *testing.T) {
	n := 0
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 4 {
			writePage(w, fmt.Sprint(n), fmt.Sprint("alert-", n))
			return
		}
		writePage(w, "")
	}), nil)
	var raws []string
	var kept []Alert
	for page, err := range c.Session(liveShare).List(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Alerts {
			kept, raws = append(kept, a), append(raws, string(a.Raw))
		}
		page.Release()
	}
	for i, a := range kept {
		if string(a.Raw) != raws[i] {
			t.Errorf("alert %d became %s", i, a.Raw)
		}
	}
	if len(kept) != 3 {
		t.Errorf("%d alerts", len(kept))
	}
}

// A server that closes the connection under a page request must see the token
// once: net/http repeats an ordinary GET on a reused connection by itself.
func TestTokenIsSentOnce(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tokens, lists atomic.Int32
	var wg sync.WaitGroup
	serve := func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.URL.Query().Has("page") {
				tokens.Add(1)
				return
			}
			lists.Add(1)
			const body = `{"alerts":[]}`
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nLink: </?page=x>; rel=next\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(conn) })
		}
	})
	tr := newTransport(1)
	c := newClient(t, tr, func(o *Options) { o.BaseURL = "http://" + ln.Addr().String() })
	_, err = collect(t.Context(), c.Session(liveShare), Query{})
	var restart *RestartError
	if !errors.As(err, &restart) || tokens.Load() != 1 || lists.Load() != 1 {
		t.Errorf("%v; %d token and %d list requests", err, tokens.Load(), lists.Load())
	}
	tr.CloseIdleConnections()
	_ = ln.Close()
	wg.Wait()
}

// The bytes that a server sees of a request: no body, no length, no encoding.
func TestRequestOnTheWire(t *testing.T) {
	client, server := net.Pipe()
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return client, nil },
	}
	got := make(chan string, 1)
	go func() {
		defer func() { _ = server.Close() }()
		var text strings.Builder
		r := bufio.NewReader(server)
		for {
			line, err := r.ReadString('\n')
			text.WriteString(line)
			if err != nil || line == "\r\n" {
				break
			}
		}
		got <- text.String()
		_, _ = io.WriteString(server, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	}()
	c := newClient(t, tr, func(o *Options) { o.BaseURL = "http://127.0.0.1" })
	if _, err := collect(t.Context(), c.Session(liveShare), Query{}); err != nil {
		t.Fatal(err)
	}
	text := strings.ToLower(<-got)
	if !strings.HasPrefix(text, "get /dtm/alerts?") || strings.Contains(text, "content-length") || strings.Contains(text, "transfer-encoding") {
		t.Errorf("sent:\n%s", text)
	}
}
