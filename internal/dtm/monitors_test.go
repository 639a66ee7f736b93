package dtm

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// monitorPages serves pages of the list of monitors by their token, the first under "".
// What is after a | is the token of the next one.
func monitorPages(t *testing.T, pages map[string]string) (http.RoundTripper, *[]string) {
	var asked []string
	return direct(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/api/v3/dtm/monitors" || r.Header.Get("X-Apikey") != testKey {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		asked = append(asked, r.URL.RawQuery)
		body, next, more := strings.Cut(pages[r.URL.Query().Get("page")], "|")
		if more {
			w.Header().Set("Link", `<https://api.intelligence.mandiant.com/v4/dtm/monitors?page=`+next+`>; rel="next"`)
		}
		_, _ = fmt.Fprint(w, body)
	}), &asked
}

func TestMonitors(t *testing.T) {
	list := func(elements ...string) string { return `{"monitors":[` + strings.Join(elements, ",") + "]}\n" }
	one := func(id string) string { return `{"id":"` + id + `","name":"N","enabled":true}` }
	many := make([]string, MaxMonitors+1)
	for i := range many {
		many[i] = one(fmt.Sprint("m", i))
	}
	endless := map[string]string{"": list(one("m0")) + "|1"}
	for i := range 60 {
		endless[fmt.Sprint(i)] = list(one(fmt.Sprint("m", i))) + fmt.Sprint("|", i+1)
	}
	for _, c := range []struct {
		name     string
		pages    map[string]string
		want     string // ids
		some     bool   // there may be others
		requests int
	}{
		{"none", map[string]string{"": list()}, "", false, 1},
		{"null", map[string]string{"": `{"monitors":null}`}, "", false, 1},
		{"one page", map[string]string{"": list(one("a"), one("b"))}, "a b", false, 1},
		{"three pages", map[string]string{"": list(one("a")) + "|1", "1": list(one("b")) + "|2", "2": list(one("c"))}, "a b c", false, 3},
		{"a link on the last page, as in 2023", map[string]string{"": list(one("a")) + "|1", "1": list() + "|2"}, "a", false, 2},
		{"the same page again and again", map[string]string{"": list(one("a")) + "|1", "1": list(one("a")) + "|1"}, "a", false, 2},
		{"nothing but a link", map[string]string{"": list() + "|1", "1": list(one("a"))}, "", true, 1},
		{"a link that can't be followed", map[string]string{"": list(one("a")) + "|"}, "a", true, 1},
		{"without an end", endless, "", true, maxMonitorPages},
		{"too many", map[string]string{"": list(many...)}, "", true, 1},
		{"elements that are no monitors", map[string]string{"": list(one("a"), "1", "null", `"x"`, "[]", "{}", `{"id":7}`, `{"id":"a b"}`, one("b")) + "|1", "1": list(one("c"))}, "a b c", true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			api, asked := monitorPages(t, c.pages)
			got, complete, err := newClient(t, api, nil).Session(Share{Errors: 10, Requests: 1}).Monitors(t.Context())
			if err != nil || complete == c.some || len(*asked) != c.requests || len(got) > MaxMonitors {
				t.Errorf("%d monitors, complete %t, %q: %v", len(got), complete, *asked, err)
			}
			var ids []string
			for _, m := range got {
				ids = append(ids, m.ID)
			}
			if c.want != "" && strings.Join(ids, " ") != c.want {
				t.Errorf("%v, want %s", ids, c.want)
			}
			if (*asked)[0] != "" || c.requests == 3 && (*asked)[2] != "page=2" {
				t.Errorf("asked for %q", *asked)
			}
		})
	}
}

func TestMonitorFields(t *testing.T) {
	for _, c := range []struct {
		element string
		want    Monitor
	}{
		{`{"id":"a","name":"A","enabled":true,"disabled_code":"","disabled_reason":""}`, Monitor{ID: "a", Name: "A", Enabled: true}},
		{`{"id":"a","name":"A","enabled":false,"disabled_code":"c","disabled_reason":"r"}`, Monitor{ID: "a", Name: "A", DisabledCode: "c", DisabledReason: "r"}},
		{`{"id":"a","enabled":false,"disabled_code":7,"disabled_reason":{"x":1},"name":null}`, Monitor{ID: "a"}},
		// Only false is off.
		{`{"id":"a"}`, Monitor{ID: "a", Enabled: true}},
		{`{"id":"a","enabled":null}`, Monitor{ID: "a", Enabled: true}},
		{`{"id":"a","enabled":"false"}`, Monitor{ID: "a", Enabled: true}},
		{`{"id":"a","Enabled":false,"ID":"b"}`, Monitor{ID: "a", Enabled: true}},
		{`{"id":"a","name":"two\nlines\u0000 and \ud800"}`, Monitor{ID: "a", Name: "two lines and \uFFFD", Enabled: true}},
		{`{"doc_condition":{"id":"no","enabled":false},"id":"a"}`, Monitor{ID: "a", Enabled: true}},
	} {
		got, ok := monitorOf([]byte(c.element), "")
		if diff := cmp.Diff(c.want, got); !ok || diff != "" {
			t.Errorf("%s: %t (-want +got)\n%s", c.element, ok, diff)
		}
	}
	long := strings.Repeat("ü", 300)
	m, _ := monitorOf([]byte(`{"id":"a","name":"`+long+`","disabled_code":"`+long+`","disabled_reason":"`+long+`"}`), "")
	if len(m.Name) > 100 || len(m.DisabledCode) > 50 || len(m.DisabledReason) > 200 || !utf8.ValidString(m.Name+m.DisabledCode+m.DisabledReason) || m.Name == "" {
		t.Errorf("%+v", m)
	}
}

// TestMonitorsOfSomethingElse: nothing follows from an answer that is no list.
func TestMonitorsOfSomethingElse(t *testing.T) {
	for _, body := range []string{
		"", "null", "[]", "7", "{}", `{"alerts":[]}`, `{"monitors":{}}`, `{"monitors":"x"}`, `{"monitors":[]`, `{"monitors":[],"monitors":[]}`,
		`{"monitors":[],"error":{"code":"TransientError"}}`, `{"error":{"code":"TransientError"},"monitors":[]}`, "<html>", `{"monitors":[{"id":"a"},]}`,
	} {
		api, _ := monitorPages(t, map[string]string{"": body})
		s := newClient(t, api, nil).Session(Share{Errors: 10, Requests: 1}).Once()
		got, _, err := s.Monitors(t.Context())
		if Kind(err) != Unreadable || got != nil || s.Stats().Requests != 1 {
			t.Errorf("%s: %d requests, %v, %v", body, s.Stats().Requests, got, err)
		}
	}
}

// TestMonitorsRefused: each costs one request, and a page's memory is given back.
func TestMonitorsRefused(t *testing.T) {
	for status, want := range map[int]struct {
		code string
		kind ErrorKind
	}{
		403: {"ForbiddenError", KeyRefused}, 404: {"NotFoundError", NotFound}, 405: {"", Refused}, 400: {"BadRequestError", BadRequest}, 500: {"", Unavailable},
	} {
		c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) { fail(w, status, want.code) }), nil)
		s := c.Session(Share{Errors: 10, Requests: 1}).Once()
		if _, _, err := s.Monitors(t.Context()); Kind(err) != want.kind || s.Stats().Requests != 1 {
			t.Errorf("%d: %d requests, %v", status, s.Stats().Requests, err)
		}
		if !c.memory.TryAcquire(defaultPageMemory) {
			t.Errorf("%d: memory is kept", status)
		}
	}
}

func FuzzMonitors(f *testing.F) {
	f.Add([]byte(`{"monitors":[{"id":"a","name":"A","enabled":false,"disabled_code":"c","disabled_reason":"r"},1,null]}`))
	f.Add([]byte(`{"monitors":null,"error":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, _, err := readMonitors(body, "")
		for _, m := range list {
			if err != nil || !ValidID(m.ID) || len(m.Name) > 100 {
				t.Errorf("%+v: %v", m, err)
			}
		}
		again, _, _ := readMonitors(body, "")
		if diff := cmp.Diff(list, again, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestMonitorsWithoutKey: who answers may send the key back.
func TestMonitorsWithoutKey(t *testing.T) {
	m, _ := monitorOf([]byte(`{"id":"a","name":"n `+testKey+`","disabled_code":"`+testKey+`","disabled_reason":"for `+testKey+`"}`), testKey)
	if text := fmt.Sprint(m); strings.Contains(text, testKey) || !strings.Contains(text, "for [API key]") {
		t.Error(text)
	}
}
