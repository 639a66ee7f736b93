package dtmsim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// both runs a test over a connection and without one: what a client sees is the same.
func both(t *testing.T, name string, o Options, alerts []Alert, test func(*testing.T, *Server, client)) {
	t.Helper()
	t.Run(name+" over HTTP", func(t *testing.T) { s := New(o, alerts); test(t, s, newClient(t, s)) })
	t.Run(name+" direct", func(t *testing.T) { s := New(o, alerts); test(t, s, newDirectClient(t, s)) })
}

func TestAnswerFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fault  Fault
		status int
		body   string // part of it
		header string // Retry-After or Location
	}{
		{"500", Fault{Status: 500}, 500, `{"message":"Internal Server Error"}`, ""},
		{"503", Fault{Status: 503, RetryAfter: "7"}, 503, "TransientError", "7"},
		{"429", Fault{Status: 429, RetryAfter: "Mon, 02 Mar 2026 10:00:00 GMT"}, 429, "TooManyRequestsError", "Mon, 02 Mar 2026 10:00:00 GMT"},
		{"quota", Fault{Status: 429, Body: QuotaExceeded}, 429, "QuotaExceededError", ""},
		{"403", Fault{Status: 403}, 403, "ForbiddenError", ""},
		{"own body", Fault{Status: 200, Body: `{"alerts":[{]}`}, 200, `{"alerts":[{]}`, ""},
		{"proxy", Fault{Status: 502, HTML: true}, 502, "<!DOCTYPE html>", ""},
		{"captive portal", Fault{HTML: true}, 200, "<!DOCTYPE html>", ""},
		{"redirect", Fault{Redirect: "http://127.0.0.1:1/dtm/alerts"}, 302, "", "http://127.0.0.1:1/dtm/alerts"},
	} {
		both(t, tt.name, Options{}, row(30), func(t *testing.T, s *Server, c client) {
			t.Helper()
			c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			tt.fault.Times = 1
			s.AddFault(tt.fault)
			r := c.list("")
			equal(t, "status", r.status, tt.status)
			if !strings.Contains(r.body, tt.body) {
				t.Errorf("the body is %s", r.body)
			}
			equal(t, "header", r.header.Get("Retry-After")+r.header.Get("Location"), tt.header)
			if html := strings.HasPrefix(r.header.Get("Content-Type"), "text/html"); html != tt.fault.HTML {
				t.Errorf("content type %s", r.header.Get("Content-Type"))
			}
			equal(t, "afterwards", len(c.list("").ids), 10)
		})
	}
}

func TestConnectionFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault Fault
		used  bool // the token is used up
	}{
		{"reset before", Fault{ResetBefore: true}, false},
		{"reset after", Fault{ResetAfter: true}, true},
		{"status before", Fault{Status: 502}, false},
		{"status after", Fault{Status: 502, AfterWork: true}, true},
		{"truncated", Fault{Truncate: 100}, true},
		{"truncated at the end", Fault{Truncate: 1 << 30}, true},
	} {
		both(t, tt.name, Options{}, row(30), func(t *testing.T, s *Server, c client) {
			t.Helper()
			tt.fault.Kind, tt.fault.Times = Page, 1
			s.AddFault(tt.fault)
			next := c.list("").next
			r, err := c.try(http.MethodGet, "/dtm/alerts?page="+next, "")
			switch {
			case tt.fault.ResetBefore || tt.fault.ResetAfter:
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %v", err)
				}
			case err != nil:
				t.Fatal(err)
			case tt.fault.Truncate > 0:
				if !errors.Is(r.bodyErr, io.ErrUnexpectedEOF) || r.body == "" || len(r.body) > tt.fault.Truncate {
					t.Errorf("got %d bytes, %v", len(r.body), r.bodyErr)
				}
			}
			equal(t, "used up", c.page(next).status == 404, tt.used)
		})
	}
}

func TestLostAnswerOfAScrollSkipsAPage(t *testing.T) {
	both(t, "scroll", Options{Tokens: Scroll}, row(40), func(t *testing.T, s *Server, c client) {
		t.Helper()
		s.AddFault(Fault{Kind: Page, Nth: 1, ResetAfter: true})
		first := c.list("order=asc")
		if _, err := c.try(http.MethodGet, "/dtm/alerts?page="+first.next, ""); err == nil {
			t.Fatal("no error")
		}
		equal(t, "page", c.page(first.next).ids, ids(20, 30))
	})
}

func TestPageFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault Fault
		want  []string // pages, until there is no Link
	}{
		{"withheld", Fault{EmptyPage: EmptyWithheld}, []string{"a00,a01", "", "a04"}},
		{"extra", Fault{EmptyPage: EmptyExtra}, []string{"a00,a01", "", "a02,a03", "a04"}},
		{"null", Fault{NullAlerts: true}, []string{"a00,a01", "", "a02,a03", "a04"}},
		{"disorder", Fault{Disorder: true}, []string{"a00,a01", "a03,a02", "a04"}},
		{"malformed", Fault{MalformedElement: "42"}, []string{"a00,a01", "a02,a03,", "a04"}},
		{"repeated token", Fault{RepeatToken: true}, []string{"a00,a01", "a02,a03", "a04"}},
	} {
		for _, mode := range []TokenMode{Once, Scroll, Many} {
			for _, paging := range []PagingMode{Snapshot, Offset} {
				both(t, fmt.Sprintf("%s %s %s", tt.name, mode, paging), Options{Tokens: mode, Paging: paging}, row(5), func(t *testing.T, s *Server, c client) {
					t.Helper()
					tt.fault.Kind, tt.fault.Nth = Page, 1
					s.AddFault(tt.fault)
					r := c.list("order=asc&size=2")
					got, tokens := []string{strings.Join(r.ids, ",")}, []string{r.next}
					for r.next != "" {
						r = c.page(r.next)
						got, tokens = append(got, strings.Join(r.ids, ",")), append(tokens, r.next)
					}
					equal(t, "pages", got, tt.want)
					equal(t, "token repeated", tokens[0] == tokens[1], tt.fault.RepeatToken)
				})
			}
		}
	}
	both(t, "foreign host", Options{}, row(30), func(t *testing.T, s *Server, c client) {
		t.Helper()
		s.AddFault(Fault{ForeignLinkHost: "https://evil.example/x"})
		if link := c.list("").header.Get("Link"); !strings.HasPrefix(link, "<https://evil.example/x/dtm/alerts?page=") {
			t.Errorf("the link is %s", link)
		}
	})
}

func TestMalformedElements(t *testing.T) {
	for _, element := range MalformedElements() {
		s := New(Options{}, append(row(2), Alert{ID: "raw", CreatedAt: at(1), Raw: []byte(element)}))
		s.AddFault(Fault{Nth: 2, MalformedElement: element})
		c := newDirectClient(t, s)
		for range 2 {
			r := c.list("order=asc")
			if !json.Valid([]byte(r.body)) || !strings.Contains(r.body, ","+element) {
				t.Errorf("element %s in %s", element, r.body)
			}
		}
	}
}

func TestBrokenElements(t *testing.T) {
	for _, element := range BrokenElements() {
		s := New(Options{}, row(2))
		s.AddFault(Fault{MalformedElement: element})
		r := newDirectClient(t, s).list("order=asc")
		if json.Valid([]byte(r.body)) || json.Valid([]byte(`{"alerts":[`+element+"]}")) || !strings.Contains(r.body, ","+element) {
			t.Errorf("element %.100q in %.300q", element, r.body)
		}
	}
}

func TestFaultRules(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault Fault
		want  string // x for each of six lists that it hits
	}{
		{"all", Fault{}, "xxxxxx"},
		{"other kind", Fault{Kind: Page}, "......"},
		{"times", Fault{Times: 2}, "xx...."},
		{"nth", Fault{Nth: 3}, "..x..."},
		{"every", Fault{Every: 2}, ".x.x.x"},
		{"every, times", Fault{Every: 2, Times: 2}, ".x.x.."},
		{"never by chance", Fault{Chance: 1e-12}, "......"},
		{"by predicate", Fault{When: func(r *http.Request) bool { return r.URL.Query().Get("size") == "4" }}, "....x."},
	} {
		s := New(Options{}, nil)
		tt.fault.Status = 500
		s.AddFault(tt.fault)
		c := newDirectClient(t, s)
		got := []byte("......")
		for i := range 6 {
			if c.list(fmt.Sprintf("size=%d", i)).status == 500 {
				got[i] = 'x'
			}
		}
		equal(t, tt.name, string(got), tt.want)
	}

	half := func(seed uint64) (hits []bool) {
		s := New(Options{Seed: seed}, nil)
		s.AddFault(Fault{Chance: 0.5, Status: 500})
		c := newDirectClient(t, s)
		for range 64 {
			hits = append(hits, c.list("").status == 500)
		}
		return hits
	}
	equal(t, "the same seed", half(7), half(7))
	if fmt.Sprint(half(7)) == fmt.Sprint(half(8)) {
		t.Error("two seeds hit the same requests")
	}

	s := New(Options{}, nil)
	s.AddFault(Fault{Status: 500, Times: 1})
	s.AddFault(Fault{Status: 502})
	c := newDirectClient(t, s)
	equal(t, "first rule", c.list("").status, 500)
	equal(t, "second rule", c.list("").status, 502)
	s.ClearFaults()
	equal(t, "no rule", c.list("").status, 200)
	equal(t, "faults counted", s.Stats().Faults, 2)
}

// A client that goes gets its context's error, and everything ends.
func TestTimeFaults(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options Options
		fault   Fault
		took    time.Duration // of the whole answer; negative: it never comes
		inBody  bool          // it is the body that never comes
	}{
		{"latency", Options{Latency: 100 * time.Millisecond}, Fault{Nth: 9}, 100 * time.Millisecond, false},
		{"delay", Options{Latency: 100 * time.Millisecond}, Fault{Delay: time.Second}, 1100 * time.Millisecond, false},
		{"slow", Options{}, Fault{Slow: 100}, 140 * time.Millisecond, false}, // 14 bytes
		{"hang", Options{}, Fault{Hang: true}, -1, false},
		{"hang after work", Options{}, Fault{Hang: true, AfterWork: true}, -1, false},
		{"silent body", Options{}, Fault{Hang: true, Truncate: 5}, -1, true},
		{"longer than the client waits", Options{}, Fault{Delay: time.Hour}, -1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(tt.options, nil)
				s.AddFault(tt.fault)
				c := newDirectClient(t, s)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin := time.Now()
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/dtm/alerts", http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("x-apikey", testKey)
				res, err := c.http.Do(req)
				equal(t, "no answer", err != nil, tt.took < 0 && !tt.inBody)
				if err == nil {
					var body []byte
					body, err = io.ReadAll(res.Body)
					_ = res.Body.Close()
					if tt.took >= 0 {
						equal(t, "body", string(body), "{\"alerts\":[]}\n")
					}
				}
				if tt.took < 0 {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v", err)
					}
					tt.took = time.Minute
				}
				equal(t, "time", time.Since(begin), tt.took)
			})
		})
	}
}

func TestHangOverHTTPEndsWithTheClient(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault Fault
		comes int // bytes that come before the silence
	}{
		{"no answer", Fault{Hang: true}, 0},
		{"silent body", Fault{Hang: true, Truncate: 7}, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.comes == 0 {
				// The client goes once its request is there.
				tt.fault.When = func(*http.Request) bool { cancel(); return true }
			}
			s := New(Options{}, row(30))
			s.AddFault(tt.fault)
			c := newClient(t, s) // at its end the web server waits for the handlers
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/dtm/alerts", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("x-apikey", testKey)
			res, err := c.http.Do(req)
			if err == nil {
				defer func() { _ = res.Body.Close() }()
				some := make([]byte, tt.comes)
				if _, err := io.ReadFull(res.Body, some); err != nil {
					t.Fatal(err)
				}
				cancel()
				_, err = res.Body.Read(make([]byte, 1))
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the body ended with %v", err)
				}
				return
			}
			if tt.comes > 0 || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestInstead(t *testing.T) {
	for _, tt := range []struct {
		what         Instead
		list, single string
	}{
		{InsteadError, `{"alerts":[],"error":{"code":"TransientError"`, `{"error":{"code":"TransientError"`},
		{InsteadNull, "null", "null"},
		{InsteadObject, "{}", "{}"},
		{InsteadList, "[]", "[]"},
		{InsteadOther, `{"id":"another"`, `{"id":"another"`},
	} {
		s := New(Options{}, row(2))
		s.AddFault(Fault{Instead: tt.what})
		c := newDirectClient(t, s)
		for what, want := range map[string]string{"/dtm/alerts": tt.list, "/dtm/alerts/a00": tt.single} {
			if r := c.get(what); r.status != http.StatusOK || !json.Valid([]byte(r.body)) || !strings.HasPrefix(r.body, want) {
				t.Errorf("%s of %s: %d %s", tt.what, what, r.status, r.body)
			}
		}
	}
}

func TestIgnoreChange(t *testing.T) {
	s := New(Options{}, row(1))
	s.AddFault(Fault{IgnoreChange: true})
	r, err := newDirectClient(t, s).try(http.MethodPatch, "/dtm/alerts/a00", `{"status":"closed"}`)
	if err != nil {
		t.Fatal(err)
	}
	if want := string(s.Versions("a00")[0].Element(false, false)) + "\n"; r.status != http.StatusOK || r.body != want || len(s.Versions("a00")) != 1 {
		t.Errorf("%d %s, %d versions", r.status, r.body, len(s.Versions("a00")))
	}
}
