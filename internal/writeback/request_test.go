package writeback_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/writeback"
)

var day = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func TestParseRequest(t *testing.T) {
	published := day.Add(time.Hour + 1234567*time.Nanosecond)
	at := published.Truncate(time.Millisecond)
	for _, c := range []struct {
		name, data string
		want       writeback.Request
	}{
		{"a status", `{"alert_id":"d_-1","status":"closed"}`, writeback.Request{AlertID: "d_-1", Status: "closed", At: at}},
		{
			"everything", ` {"alert_id":"a","status":"closed","tags":["x","X","y"],"add_tags":["z"],"remove_tags":["q","Q"],` +
				`"expect_status":"new","reason":"why","feed":"default","requested_at":"2026-03-02T01:30:00.1239+01:00","requested_by":"soar"} `,
			writeback.Request{
				AlertID: "a", Status: "closed", Tags: []string{"x", "y"}, AddTags: []string{"z"}, RemoveTags: []string{"q"},
				Expect: "new", At: day.Add(30*time.Minute + 123*time.Millisecond), By: "soar",
			},
		},
		{"to be skipped", `{"alert_id":"a","status":"closed","expect_status":"new","on_conflict":"skip"}`, writeback.Request{AlertID: "a", Status: "closed", Expect: "new", Skip: true, At: at}},
		{"to be rejected", `{"alert_id":"a","status":"closed","on_conflict":"reject"}`, writeback.Request{AlertID: "a", Status: "closed", At: at}},
		{"no word on conflicts", `{"alert_id":"a","status":"closed","on_conflict":null}`, writeback.Request{AlertID: "a", Status: "closed", At: at}},
		{"no tags clear the list", `{"alert_id":"a","tags":[]}`, writeback.Request{AlertID: "a", Tags: []string{}, At: at}},
		{"null is absent", `{"alert_id":"a","status":"new","tags":null,"add_tags":null,"expect_status":null,"requested_at":null,"feed":null,"requested_by":null}`, writeback.Request{AlertID: "a", Status: "new", At: at}},
		{"a time in small letters", `{"alert_id":"a","status":"new","requested_at":"2026-03-02t00:30:00z"}`, writeback.Request{AlertID: "a", Status: "new", At: day.Add(30 * time.Minute)}},
		{"a time ahead", `{"alert_id":"a","status":"new","requested_at":"2026-03-02T01:00:01.235Z"}`, writeback.Request{AlertID: "a", Status: "new", At: at}},
		{"the longest", `{"alert_id":"` + strings.Repeat("a", 128) + `","add_tags":["` + strings.Repeat("ü", 128) + `"],"reason":"` + strings.Repeat("r", 10_000) + `"}`, writeback.Request{AlertID: strings.Repeat("a", 128), AddTags: []string{strings.Repeat("ü", 128)}, At: at}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := writeback.ParseRequest([]byte(c.data), "default", published)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRequestNamesEveryProblem(t *testing.T) {
	many, _ := json.Marshal(strings.Split(strings.Repeat("x,", 100)+"y", ","))
	for _, c := range []struct {
		name, data string
		want       []string // of which each is a problem
		id         string
	}{
		{"nothing", "", []string{"not valid JSON"}, ""},
		{"no JSON", "{", []string{"not valid JSON"}, ""},
		{"two objects", "{}{}", []string{"not valid JSON"}, ""},
		{"null", "null", []string{"not a JSON object"}, ""},
		{"a list", "[]", []string{"not a JSON object"}, ""},
		{"no UTF-8", "{\"alert_id\":\"\xff\"}", []string{"not valid UTF-8"}, ""},
		{"too large", `{"alert_id":"a","status":"new"` + strings.Repeat(" ", 1<<20) + "}", []string{"1048607 bytes; allowed: 1048576"}, ""},
		{"an empty object", "{}", []string{"alert_id is missing"}, ""},
		{"nothing to change", `{"alert_id":"a","add_tags":[],"remove_tags":[],"expect_status":"new"}`, []string{"nothing to change"}, "a"},
		{"a path as id", `{"alert_id":"../a","status":"new"}`, []string{`alert_id is "../a"; allowed: 1 to 128 letters`}, ""},
		{"a long id", `{"alert_id":"` + strings.Repeat("a", 129) + `","status":"new"}`, []string{`a…"; allowed: 1 to 128`}, ""},
		{"an empty id", `{"alert_id":"","status":"new"}`, []string{"alert_id is missing"}, ""},
		{
			"many at once", `{"alert_id":7,"status":"done","tags":"x","add_tags":[1],"remove_tags":[null],"expect_status":"","feed":"other","requested_at":"now","requested_by":{},"reason":[],"state":1,"note":2}`,
			[]string{
				"alert_id is not a string", `status is "done"; allowed: new, read`, "tags is not a list of strings", "add_tags is not a list of strings",
				"remove_tags[0] is null", `expect_status is ""; allowed`, `feed is "other"; this function serves "default"`,
				`requested_at is "now"; allowed: a time such as`, "requested_by is not a string", "reason is not a string", `unknown fields: "note", "state"; allowed: alert_id, status`,
			},
			"",
		},
		{"no RFC 3339", `{"alert_id":"a","status":"new","requested_at":"2026-01-02T1:02:03Z"}`, []string{`requested_at is "2026-01-02T1:02:03Z"; allowed: a time such as`}, "a"},
		{"twice", `{"alert_id":"a","status":"new","status":"closed"}`, []string{`"status" is named more than once`}, "a"},
		{"another conflict", `{"alert_id":"a","status":"new","on_conflict":"ignore"}`, []string{`on_conflict is "ignore"; allowed: reject, skip`}, "a"},
		{"an empty conflict", `{"alert_id":"a","status":"new","on_conflict":""}`, []string{`on_conflict is ""; allowed: reject, skip`}, "a"},
		{"a conflict that is none", `{"alert_id":"a","status":"new","on_conflict":true}`, []string{"on_conflict is not a string"}, "a"},
		{"no feed", `{"alert_id":"a","status":"new","feed":""}`, []string{`feed is ""`}, "a"},
		{"before time began", `{"alert_id":"a","status":"new","requested_at":"1969-12-31T23:59:59Z"}`, []string{"requested_at"}, "a"},
		{"too many tags", `{"alert_id":"a","tags":` + string(many) + `}`, []string{"tags has 101 tags; allowed: 100"}, "a"},
		{
			"bad tags", `{"alert_id":"a","tags":[""," x","x\n","` + strings.Repeat("x", 257) + `","\ud800","\u0085"]}`,
			[]string{"tags[0] has 0 bytes", "tags[1] begins", "tags[2] holds", "tags[3] has 257 bytes; allowed: 1 to 256", "tags[4] holds", "tags[5] holds"},
			"a",
		},
		{"a long text", `{"alert_id":"a","status":"new","requested_by":"` + strings.Repeat("r", 1025) + `"}`, []string{"requested_by has 1025 bytes; allowed: 1024"}, "a"},
		{"added and removed", `{"alert_id":"a","add_tags":["x"],"remove_tags":["y","X"]}`, []string{"no. 2 of its different ones"}, "a"},
		{"set and removed", `{"alert_id":"a","tags":["x"],"remove_tags":["x"]}`, []string{"no. 1 of its different ones"}, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := writeback.ParseRequest([]byte(c.data), "default", day)
			if err == nil {
				t.Fatalf("no error, but %+v", r)
			}
			if diff := cmp.Diff(writeback.Request{AlertID: c.id}, r); diff != "" {
				t.Error(diff)
			}
			problems := strings.Split(err.Error(), "; ")
			found := 0
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %q", want, err)
				}
			}
			for _, p := range problems {
				if !strings.HasPrefix(p, "allowed:") && !strings.HasPrefix(p, "this function") {
					found++
				}
			}
			if found != len(c.want) {
				t.Errorf("%d problems in %q, want %d", found, err, len(c.want))
			}
		})
	}
}

// FuzzParseRequest: what is accepted keeps every bound that it promises.
func FuzzParseRequest(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"alert_id":"a","status":"closed","expect_status":"new"}`, `{"alert_id":"a","tags":["secret tag","x"],"requested_at":"2026-01-02T03:04:05Z"}`,
		`{"alert_id":"a","add_tags":["secret tag"],"remove_tags":["SECRET tag"],"feed":"default"}`, `{"alert_id":"a","tags":["secret tag\n"],"x":{"y":[1]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := writeback.ParseRequest(data, "default", day)
		if err != nil {
			return
		}
		if r.AlertID == "" || r.At.After(day) || r.At.Year() < 1970 || r.At.Nanosecond()%1e6 != 0 || len(r.By) > 1024 {
			t.Errorf("%+v", r)
		}
		if r.Status == "" && r.Tags == nil && len(r.AddTags)+len(r.RemoveTags) == 0 {
			t.Errorf("nothing to change: %+v", r)
		}
		for _, list := range [][]string{r.Tags, r.AddTags, r.RemoveTags} {
			for i, tag := range list {
				if tag == "" || len(tag) > 256 || !utf8.ValidString(tag) || strings.TrimSpace(tag) != tag {
					t.Errorf("tag %q", tag)
				}
				for _, other := range list[:i] {
					if strings.EqualFold(tag, other) {
						t.Errorf("%q twice", tag)
					}
				}
			}
		}
	})
}
