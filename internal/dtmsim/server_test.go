package dtmsim

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testKey = "a-key"

// past is a moment for alerts that are there from the beginning.
var past = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return past.Add(time.Duration(ms) * time.Millisecond) }

// row makes n alerts, a00 to a…, one a millisecond.
func row(n int) []Alert {
	alerts := make([]Alert, n)
	for i := range alerts {
		alerts[i] = Alert{ID: fmt.Sprintf("a%02d", i), CreatedAt: at(i)}
	}
	return alerts
}

// reply is an answer as a client reads it.
type reply struct {
	status  int
	header  http.Header
	body    string
	ids     []string
	next    string // the page token in the Link header
	bodyErr error
}

// client asks a server as a client of the API does.
type client struct {
	t    *testing.T
	http *http.Client
	base string
	key  string
}

func newClient(t *testing.T, s *Server) client {
	t.Helper()
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return client{t, web.Client(), web.URL + "/api/v3", testKey}
}

// newDirectClient asks without sockets.
func newDirectClient(t *testing.T, s *Server) client {
	t.Helper()
	return client{t, &http.Client{Transport: s.RoundTripper()}, "http://dtm.example/api/v3", testKey}
}

func (c client) try(method, path, body string) (reply, error) {
	c.t.Helper()
	// A body that can't be read again: net/http would repeat the request by itself.
	once := struct{ io.Reader }{strings.NewReader(body)}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, once)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.key != "" {
		req.Header.Set("x-apikey", c.key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = res.Body.Close() }()
	text, bodyErr := io.ReadAll(res.Body)
	r := reply{status: res.StatusCode, header: res.Header, body: string(text), bodyErr: bodyErr}
	var list struct{ Alerts []json.RawMessage }
	if json.Unmarshal(text, &list) == nil {
		for _, raw := range list.Alerts {
			var a struct{ ID string }
			_ = json.Unmarshal(raw, &a)
			r.ids = append(r.ids, a.ID)
		}
	}
	if _, after, found := strings.Cut(res.Header.Get("Link"), "page="); found {
		r.next, _, _ = strings.Cut(after, ">")
	}
	return r, nil
}

func (c client) get(path string) reply {
	c.t.Helper()
	r, err := c.try(http.MethodGet, path, "")
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

func (c client) list(params string) reply {
	c.t.Helper()
	return c.get("/dtm/alerts?" + params)
}

func (c client) page(token string) reply { c.t.Helper(); return c.list("page=" + token) }

// all follows the links to their end, at most so many pages.
func (c client) all(params string, pages int) []string {
	c.t.Helper()
	r := c.list(params)
	ids := r.ids
	for ; r.next != "" && pages > 1; pages-- {
		r = c.page(r.next)
		ids = append(ids, r.ids...)
	}
	return ids
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestKey(t *testing.T) {
	s := New(Options{Key: testKey}, row(1))
	c := newClient(t, s)
	for _, tt := range []struct {
		name, key string
		status    int
		code      string
	}{
		{"right", testKey, 200, ""},
		{"wrong", "another", 401, "WrongCredentialsError"},
		{"missing", "", 401, "AuthenticationRequiredError"},
	} {
		c.key = tt.key
		r := c.list("")
		if r.status != tt.status || !strings.Contains(r.body, tt.code) {
			t.Errorf("%s: got %d %s", tt.name, r.status, r.body)
		}
	}
	s.SetKey("rotated")
	c.key = "rotated"
	equal(t, "rotated key", c.list("").status, 200)
	c.key = testKey
	equal(t, "old key", c.list("").status, 401)
}

func TestListParameters(t *testing.T) {
	alerts := row(130)
	alerts[3].Type, alerts[4].Type = "Forum Post", "Paste"
	alerts[5].Status, alerts[6].Status = "read", "closed"
	alerts[7].Severity, alerts[8].Severity = "high", "low"
	alerts[9].MonitorID, alerts[9].MonitorName = "m1", "M & Co"
	alerts[10].Tags, alerts[11].Tags = []string{"x", "y"}, []string{"y"}
	alerts[12].MatchValues = []string{"needle"}
	alerts[13].MScore, alerts[14].MScore = new(0), new(60)
	alerts[15].HasAnalysis = true
	alerts[16].UpdatedAt = at(100_000)
	c := newClient(t, New(Options{}, alerts))

	for params, want := range map[string]int{
		"":                                   10,
		"size=20":                            20,
		"size=1000":                          25,
		"refs=false&size=100":                100,
		"refs=False&size=1000":               100,
		"search=&status=&since=&mscore_gte=": 10,
		"unknown=1":                          10,
		"since=2026-03-02T11:00:00Z":         0,
	} {
		equal(t, params, len(c.list(params).ids), want)
	}
	for params, want := range map[string][]string{
		"size=2":                   {"a129", "a128"},
		"size=2&order=asc":         {"a00", "a01"},
		"size=1&sort=updated_at":   {"a16"},
		"size=2&sort=id&order=asc": {"a00", "a01"},
		"size=1&sort=monitor_id":   {"a09"},
		"order=asc&alert_type=Forum+Post&alert_type=Paste": {"a03", "a04"},
		"order=asc&status=read&status=closed":              {"a05", "a06"},
		"order=asc&severity=high&severity=low":             {"a07", "a08"},
		"monitor_id=m1":                                    {"a09"},
		"order=asc&tags=x&tags=y":                          {"a10", "a11"},
		"match_value=needle":                               {"a12"},
		"order=asc&mscore_gte=0":                           {"a13", "a14"},
		"mscore_gte=50":                                    {"a14"},
		"has_analysis=true":                                {"a15"},
		"search=NEEDLE":                                    {"a12"},
		"search=a12+AND+needle":                            {"a12"},
		"order=asc&search=needle+OR+%22forum+post%22":      {"a03", "a12"},
		"search=bmVlZGxl&search_encoding=base64":           {"a12"},
		"status=closed&severity=high":                      nil,
	} {
		equal(t, params, c.list(params).ids, want)
	}
	for _, params := range []string{
		"size=0", "size=x", "order=up", "sort=title", "since=yesterday", "until=2026-03-02",
		"since=2026-03-02T10:00:00+00:00", // the + is a space
		"status=gone", "severity=grave", "mscore_gte=101", "refs=maybe", "life=soon", "life=-1m", "has_analysis=2",
	} {
		r := c.list(params)
		if r.status != 400 || !strings.HasPrefix(r.body, `{"message":"invalid `) {
			t.Errorf("%s: got %d %s", params, r.status, r.body)
		}
	}
	if body := c.list("monitor_id=m1&monitor_name=true").body; !strings.Contains(body, `"monitor_name":"M \u0026 Co"`) {
		t.Errorf("monitor_name=true: got %s", body)
	}
	if body := c.list("monitor_id=m1").body; strings.Contains(body, "monitor_name") {
		t.Errorf("without monitor_name: got %s", body)
	}
}

func TestReadings(t *testing.T) {
	bounds := "order=asc&since=" + at(2).Format(time.RFC3339Nano) + "&until=" + at(4).Format(time.RFC3339Nano)
	tied := row(4)
	for i := range tied {
		tied[i].CreatedAt = past
	}
	tagged := row(2)
	tagged[0].Tags, tagged[1].Tags = []string{"x", "y"}, []string{"y"}
	for _, tt := range []struct {
		name    string
		options Options
		alerts  []Alert
		params  string
		want    []string
	}{
		{"both inclusive", Options{}, row(9), bounds, []string{"a02", "a03", "a04"}},
		{"since exclusive", Options{Since: Exclusive}, row(9), bounds, []string{"a03", "a04"}},
		{"until exclusive", Options{Until: Exclusive}, row(9), bounds, []string{"a02", "a03"}},
		{"both exclusive", Options{Since: Exclusive, Until: Exclusive}, row(9), bounds, []string{"a03"}},
		{"ties by id", Options{}, tied, "order=asc", []string{"a00", "a01", "a02", "a03"}},
		{"ties by id, descending", Options{}, tied, "", []string{"a03", "a02", "a01", "a00"}},
		{"ties reversed", Options{Ties: TiesReverse}, tied, "order=asc", []string{"a03", "a02", "a01", "a00"}},
		{"tags are alternatives", Options{}, tagged, "order=asc&tags=x&tags=y", []string{"a00", "a01"}},
		{"tags are all needed", Options{TagsAll: true}, tagged, "order=asc&tags=x&tags=y", []string{"a00"}},
		{"no score fails mscore_gte", Options{}, row(1), "mscore_gte=0", nil},
		{"no score passes mscore_gte", Options{MScoreMissingPasses: true}, row(1), "mscore_gte=0", []string{"a00"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			equal(t, "ids", newDirectClient(t, New(tt.options, tt.alerts)).list(tt.params).ids, tt.want)
		})
	}

	t.Run("oversize", func(t *testing.T) {
		equal(t, "status", newDirectClient(t, New(Options{RejectOversize: true}, nil)).list("size=26").status, 400)
	})
	t.Run("shuffled ties", func(t *testing.T) {
		many := row(40)
		for i := range many {
			many[i].CreatedAt = past
		}
		c := newDirectClient(t, New(Options{Ties: TiesShuffled}, many))
		first, second := c.all("order=asc", 10), c.all("order=asc", 10)
		if cmp.Equal(first, second) {
			t.Error("two listings have the same order")
		}
		seen := map[string]bool{}
		for _, id := range first {
			seen[id] = true
		}
		equal(t, "alerts in one listing", len(seen), 40)
	})
	t.Run("since too old", func(t *testing.T) {
		now := time.Now()
		alerts := []Alert{{ID: "old", CreatedAt: now.Add(-48 * time.Hour)}, {ID: "young", CreatedAt: now.Add(-time.Hour)}}
		params := "order=asc&since=" + url.QueryEscape(now.Add(-72*time.Hour).Format(time.RFC3339))
		reject := newDirectClient(t, New(Options{SinceMaxAge: 24 * time.Hour}, alerts))
		equal(t, "rejected", reject.list(params).status, 400)
		clamp := newDirectClient(t, New(Options{SinceMaxAge: 24 * time.Hour, SinceTooOld: Clamp}, alerts))
		equal(t, "clamped", clamp.list(params).ids, []string{"young"})
	})
	t.Run("empty", func(t *testing.T) {
		for style, want := range map[EmptyStyle]string{EmptyArray: "200 {\"alerts\":[]}\n", EmptyNull: "200 {\"alerts\":null}\n", EmptyNoContent: "204 "} {
			r := newClient(t, New(Options{Empty: style}, nil)).list("")
			equal(t, string(style), fmt.Sprintf("%d %s", r.status, r.body), want)
		}
	})
}

func TestAnswerLooksAsRecorded(t *testing.T) {
	web := httptest.NewServer(New(Options{Gzip: true}, row(30)))
	defer web.Close()
	for _, encoding := range []string{"identity", "gzip"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, web.URL+"/api/v3/dtm/alerts", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-ApiKey", testKey)
		req.Header.Set("Accept-Encoding", encoding)
		res, err := web.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		equal(t, "content type", res.Header.Get("Content-Type"), "application/json; charset=UTF-8")
		equal(t, "transfer encoding", res.TransferEncoding, []string{"chunked"})
		if gzipped := strings.HasPrefix(string(body), "\x1f\x8b"); gzipped != (encoding == "gzip") {
			t.Errorf("%s: gzipped is %v", encoding, gzipped)
		}
		if encoding == "identity" && !strings.HasSuffix(string(body), "]}\n") {
			t.Errorf("the body ends with %q", body[len(body)-5:])
		}
	}
}

func TestSingleAlerts(t *testing.T) {
	body := []byte(`{ "id":"real", "doc":{"__type":"message"}, "created_at":"2026-03-02T10:00:00.5Z","updated_at":"2026-03-02T10:00:00.5Z",` +
		`"doc_matches":[{"match_path":"body","locations":[{"offsets":[0,8],"value":"full"}]}],"status":"new","tags":["a"],"unknown":0.10,"labels":[],"topics":[] }`)
	a, err := ParseAlert(body)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{}, []Alert{a})
	c := newClient(t, s)

	r := c.get("/dtm/alerts/real")
	equal(t, "bytes", r.body, string(body)+"\n")
	want := `{ "id":"real", "created_at":"2026-03-02T10:00:00.5Z","updated_at":"2026-03-02T10:00:00.5Z",` +
		`"doc_matches":[{"match_path":"body","locations":[{"value":"full"}]}],"status":"new","tags":["a"],"unknown":0.10 }`
	equal(t, "bytes without refs", c.get("/dtm/alerts/real?refs=false").body, want+"\n")
	equal(t, "unknown id", c.get("/dtm/alerts/other").status, 404)

	r, err = c.try(http.MethodPatch, "/dtm/alerts/real", `{"status":"closed","tags":["b"]}`)
	if err != nil {
		t.Fatal(err)
	}
	if r.status != 200 || strings.Contains(r.body, `"doc":`) || !strings.Contains(r.body, `"tags":["b"]`) || !strings.Contains(r.body, `"status":"closed"`) {
		t.Errorf("PATCH answered %d %s", r.status, r.body)
	}
	patched, err := ParseAlert([]byte(c.get("/dtm/alerts/real").body))
	if err != nil {
		t.Fatal(err)
	}
	if !patched.UpdatedAt.After(a.UpdatedAt) || patched.Status != "closed" {
		t.Errorf("after PATCH the alert is %s", patched.Body)
	}
	for body, want := range map[string]int{`{"status":"done"}`: 400, `{`: 400} {
		r, err := c.try(http.MethodPatch, "/dtm/alerts/real", body)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "PATCH "+body, r.status, want)
	}
	r, err = c.try(http.MethodPost, "/dtm/alerts/bulk", `{"patch":[{"id":"real","status":"read"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "bulk", fmt.Sprintf("%d %q", r.status, r.body), `200 ""`)
	equal(t, "status after bulk", s.Versions("real")[2].Status, "read")

	equal(t, "method", func() int { r, _ := c.try(http.MethodDelete, "/dtm/alerts", ""); return r.status }(), 405)
	equal(t, "path", c.get("/dtm/elsewhere").status, 404)
	s.Add(Alert{ID: "m", CreatedAt: past, MonitorID: "m1", MonitorName: "One"})
	equal(t, "monitors", c.get("/dtm/monitors").body, `{"monitors":[{"id":"m1","name":"One","enabled":true,"disabled_code":"","disabled_reason":""}]}`+"\n")
}

func TestUpdateKeepsBytesAndFieldsTogether(t *testing.T) {
	s := New(Options{}, Generate(1, 200, past, past.Add(time.Hour), Shape{}))
	visible, err := s.Visible(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, before := range visible {
		if !s.Update(before.ID, func(a *Alert) {
			a.Status, a.Severity, a.Tags = "escalated", "medium", []string{"new"}
			a.Set("ai_doc_summary", "text\n")
			a.Set("labels", nil)
		}) {
			t.Fatalf("%s is not there", before.ID)
		}
		versions := s.Versions(before.ID)
		after := versions[len(versions)-1]
		for _, text := range [][]byte{after.Body, after.Slim} {
			got, err := ParseAlert(text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if got.Status != "escalated" || got.Severity != "medium" || !cmp.Equal(got.Tags, []string{"new"}) ||
				!got.UpdatedAt.Equal(after.UpdatedAt) || !got.UpdatedAt.After(before.UpdatedAt) || got.ID != before.ID ||
				!strings.Contains(string(text), `"ai_doc_summary":"text\n"`) || strings.Contains(string(text), `"labels":`) {
				t.Fatalf("the bytes don't agree with the fields:\n%s", text)
			}
		}
	}
	equal(t, "unknown", s.Update("unknown", func(*Alert) {}), false)
}

func TestRequestsAndStats(t *testing.T) {
	s := New(Options{LogSize: 2}, row(30))
	c := newDirectClient(t, s)
	c.all("size=20&status=new", 9)
	c.get("/dtm/alerts/none")
	stats := s.Stats()
	equal(t, "stats", stats, Stats{
		Requests: 3, ByKind: map[Kind]int{List: 1, Page: 1, Get: 1}, ByStatus: map[int]int{200: 2, 404: 1},
		Errors: 1, Pages: 2, Alerts: 30, MaxConcurrent: 1, KeyByHost: map[string]int{"dtm.example": 3},
	})
	log := s.Requests()
	equal(t, "kept requests", len(log), 2)
	equal(t, "kinds", []Kind{log[0].Kind, log[1].Kind}, []Kind{Page, Get})
	for _, r := range log {
		if r.Header.Get("x-apikey") != "" || r.Key == "" || r.Key == testKey {
			t.Errorf("the key in the log is %q, %q", r.Header.Get("x-apikey"), r.Key)
		}
	}
}
