package dtm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseAlert(t *testing.T) {
	created := time.Date(2025, 8, 7, 10, 1, 49, 199e6, time.UTC)
	for _, tc := range []struct {
		name, raw string
		want      Alert // Raw is filled in
	}{
		{
			"everything",
			`{"id":"d2a7j39s70qdphllj1rg","monitor_id":"m1","monitor_name":"Müller","created_at":"2025-08-07T10:01:49.199Z","updated_at":"2025-08-07T10:01:57.5Z","status":"new","alert_type":"Message","indicator_mscore":50,"severity":"low","aggregated_under_id":"b1","doc":{"id":"not this"}}`,
			Alert{
				ID: "d2a7j39s70qdphllj1rg", MonitorID: "m1", MonitorName: "Müller", Type: "Message", Status: "new", Severity: "low", MScore: "50", GroupID: "b1", HasDoc: true,
				CreatedAt: created, UpdatedAt: time.Date(2025, 8, 7, 10, 1, 57, 5e8, time.UTC),
			},
		},
		{"no updated_at", `{"id":"a","created_at":"2025-08-07T10:01:49.199Z"}`, Alert{ID: "a", CreatedAt: created, UpdatedAt: created, Undated: true}},
		{"unreadable updated_at", `{"id":"a","created_at":"2025-08-07T10:01:49.199Z","updated_at":"soon"}`, Alert{ID: "a", CreatedAt: created, UpdatedAt: created, Undated: true}},
		{
			"wrong types count as absent", `{"id":"a","created_at":"2025-08-07T10:01:49.199Z","status":1,"severity":null,"alert_type":["x"],"indicator_mscore":"50","monitor_id":{},"monitor_name":true,"aggregated_under_id":7,"doc":null}`,
			Alert{ID: "a", CreatedAt: created, UpdatedAt: created, Undated: true},
		},
		{
			"a wrong type after a right one", `{"id":"a","created_at":"2025-08-07T10:01:49.199Z","status":"new","status":1,"indicator_mscore":1,"indicator_mscore":null,"doc":{},"doc":[]}`,
			Alert{ID: "a", CreatedAt: created, UpdatedAt: created, Undated: true},
		},
		{
			"names are exact", `{"id":"a","ID":"b","Id":"c","created_at":"2025-08-07T10:01:49.199Z","CREATED_AT":"x","Status":"closed"}`,
			Alert{ID: "a", CreatedAt: created, UpdatedAt: created, Undated: true},
		},
		{"escapes in a name", `{"\u0069d":"a","created_at":"2025-08-07T10:01:49.199Z"}`, Alert{ID: "a", CreatedAt: created, UpdatedAt: created, Undated: true}},
		{"score as written", `{"id":"a","created_at":"2025-08-07T10:01:49.199Z","indicator_mscore":5.0e1}`, Alert{ID: "a", CreatedAt: created, UpdatedAt: created, Undated: true, MScore: "5.0e1"}},
		{"space around", " {\"id\" : \"a\" ,\n\"created_at\":\t\"2025-08-07T10:01:49.199Z\"}\r\n", Alert{ID: "a", CreatedAt: created, UpdatedAt: created, Undated: true}},
		{"empty object", `{}`, Alert{Invalid: "no id of 1 to 128 letters, digits, _ and -"}},
		{"null", `null`, Alert{Invalid: "not an object"}},
		{"array", `[{"id":"a"}]`, Alert{Invalid: "not an object"}},
		{"not JSON", `{"id":`, Alert{Invalid: "not valid JSON", Unreadable: true}},
		{"empty", ``, Alert{Invalid: "not valid JSON", Unreadable: true}},
		{"path in the id", `{"id":"a/b","created_at":"2025-08-07T10:01:49.199Z"}`, Alert{Invalid: "no id of 1 to 128 letters, digits, _ and -"}},
		{"long id", `{"id":"` + strings.Repeat("a", 129) + `","created_at":"2025-08-07T10:01:49.199Z"}`, Alert{Invalid: "no id of 1 to 128 letters, digits, _ and -"}},
		{"no created_at", `{"id":"a","status":"new"}`, Alert{ID: "a", Status: "new", Invalid: "no created_at that is an RFC 3339 time"}},
		{"created_at is a number", `{"id":"a","created_at":1754560909}`, Alert{ID: "a", Invalid: "no created_at that is an RFC 3339 time"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Raw = json.RawMessage(tc.raw)
			if diff := cmp.Diff(tc.want, ParseAlert([]byte(tc.raw))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"2025-08-07T10:01:49.199Z":        "2025-08-07T10:01:49.199Z",
		"2025-08-07T10:01:45.97Z":         "2025-08-07T10:01:45.970Z",
		"2025-05-19T10:25:27Z":            "2025-05-19T10:25:27.000Z",
		"2025-05-19T10:25:27.123999999Z":  "2025-05-19T10:25:27.123Z",
		"2025-05-19T10:25:27.5+02:00":     "2025-05-19T08:25:27.500Z",
		"2025-05-19t10:25:27.5z":          "2025-05-19T10:25:27.500Z",
		"2025-05-19t10:25:27Z":            "2025-05-19T10:25:27.000Z",
		"2025-05-19T10:25:27z":            "2025-05-19T10:25:27.000Z",
		"2025-05-19t10:25:27.5+02:00":     "2025-05-19T08:25:27.500Z",
		"2025-05-19x10:25:27Z":            "",
		"0001-01-01T00:00:00Z":            "",
		"1970-01-01T00:00:00Z":            "",
		"1971-01-01T00:00:00Z":            "1971-01-01T00:00:00.000Z",
		"9999-12-31T23:59:59.9999Z":       "9999-12-31T23:59:59.999Z",
		"0000-12-31T23:59:59Z":            "",
		"0001-01-01T00:00:00+01:00":       "",
		"9999-12-31T23:59:59-01:00":       "",
		"2025-05-19T10:25:27.1234567890Z": "2025-05-19T10:25:27.123Z",
		"2025-05-19T10:25:27+23:59":       "2025-05-18T10:26:27.000Z",
		"2025-05-19T10:25:27+24:00":       "",
		"2025-05-19T10:25:27-00:60":       "",
		"2025-05-19T10:25:27,5Z":          "",
		"2025-05-19T1:25:27Z":             "",
		"2025-05-19 10:25:27Z":            "",
		"2025-05-19T10:25:27":             "",
		"2025-13-19T10:25:27Z":            "",
		"":                                "",
	} {
		got, ok := parseTime(text)
		if ok != (want != "") || ok && (got.Format(queryTime) != want || got.Location() != time.UTC) {
			t.Errorf("parseTime(%q) = %v, %t, want %q", text, got, ok, want)
		}
	}
}

func TestDecodePage(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		want       []string // Raw of each
		wantErr    string
	}{
		{"two with space between", "{ \"x\":[1], \"alerts\" : [ {\"id\":\"a\" } ,\n{}\t] }\n", []string{`{"id":"a" }`, `{}`}, ""},
		{"elements of all types", `{"alerts":[1,-1.5e3,"a,]\"",null,true,[[]],{"a":{"b":"}"}}]}`, []string{`1`, `-1.5e3`, `"a,]\""`, `null`, `true`, `[[]]`, `{"a":{"b":"}"}}`}, ""},
		{"empty", `{"alerts":[]}`, nil, ""},
		{"null", `{"alerts":null}`, nil, ""},
		{"no alerts", `{"Alerts":[]}`, nil, `no "alerts"`},
		{"twice", `{"alerts":[],"alerts":[1]}`, nil, `more than one "alerts"`},
		{"object", `{"alerts":{}}`, nil, "not a list"},
		{"list", `[]`, nil, "not a JSON object"},
		{"trailing garbage", `{"alerts":[]}{}`, nil, "not valid JSON"},
		{"cut", `{"alerts":[{"id":"a"}`, nil, "not valid JSON"},
		{"nothing", ``, nil, "not a JSON object"},
		{"HTML", `<html></html>`, nil, "not a JSON object"},
		{"millions of elements", `{"alerts":[0` + strings.Repeat(",0", maxElements) + `]}`, nil, "more than 10000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			alerts, err := decodePage([]byte(tc.body), false)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error %v, want %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range alerts {
				got = append(got, string(a.Raw))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// An append to one alert's bytes must not reach into the next.
func TestDecodePageClipsCapacity(t *testing.T) {
	body := []byte(`{"alerts":[{"id":"a"},{"id":"b"}]}`)
	alerts, err := decodePage(body, false)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(alerts[0].Raw, "xxxxxxxx"...)
	if got := string(alerts[1].Raw); got != `{"id":"b"}` {
		t.Errorf("the second alert is now %s", got)
	}
}

func TestSamples(t *testing.T) {
	files, err := filepath.Glob("../../../shared/samples/recorded/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Log("no recorded samples beside the project: only the synthetic one is read")
	}
	for _, file := range append(files, "testdata/all_types_refs_true.json") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var envelope struct {
				Alerts []json.RawMessage `json:"alerts"`
			}
			if err := json.Unmarshal(body, &envelope); err != nil {
				t.Fatal(err)
			}
			if envelope.Alerts == nil { // a single alert
				body = slicesJoin(`{"alerts":[`, string(bytes.TrimSpace(body)), `]}`)
				envelope.Alerts = []json.RawMessage{body[len(`{"alerts":[`) : len(body)-2]}
			}
			alerts, err := decodePage(body, false)
			if err != nil {
				t.Fatal(err)
			}
			if len(alerts) != len(envelope.Alerts) {
				t.Fatalf("%d alerts, want %d", len(alerts), len(envelope.Alerts))
			}
			for i, a := range alerts {
				if !bytes.Equal(a.Raw, envelope.Alerts[i]) {
					t.Errorf("alert %d is not the bytes that came", i)
				}
				if a.Invalid != "" {
					t.Errorf("alert %d: %s", i, a.Invalid)
				}
				var want struct {
					ID       string          `json:"id"`
					Type     string          `json:"alert_type"`
					Severity string          `json:"severity"`
					Score    json.Number     `json:"indicator_mscore"`
					Doc      json.RawMessage `json:"doc"`
				}
				if err := json.Unmarshal(a.Raw, &want); err != nil {
					t.Fatal(err)
				}
				got := []any{a.ID, a.Type, a.Severity, a.MScore, a.HasDoc}
				if diff := cmp.Diff([]any{want.ID, want.Type, want.Severity, want.Score.String(), len(want.Doc) > 4}, got); diff != "" {
					t.Errorf("alert %d: -want +got:\n%s", i, diff)
				}
			}
		})
	}
}

func slicesJoin(parts ...string) []byte { return []byte(strings.Join(parts, "")) }

// FuzzPage compares the scanner with encoding/json.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`{"alerts":[{"id":"a","created_at":"2025-08-07T10:01:49.199Z"},1,"x",null]}`))
	f.Add([]byte(`{"alerts":[{"id":"a","x":NaN},{"id":"b","created_at":"2025-08-07T10:01:49.199Z"},,{"id":"c","created_at":"2025-08-07T10:01:49Z"} 1]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ParseAlert(body)
		_, _ = readOversized(bytes.NewReader(body), maxOversized)
		before := bytes.Clone(body)
		alerts, err := decodePage(body, false)
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		var top map[string]json.RawMessage
		var list []json.RawMessage
		wantErr := json.Unmarshal(body, &top)
		if wantErr == nil {
			raw, ok := top["alerts"]
			wantErr = json.Unmarshal(raw, &list)
			if !ok || top == nil {
				wantErr = fmt.Errorf("no alerts")
			}
		}
		if err != nil {
			if wantErr == nil && !strings.Contains(err.Error(), "more than") {
				t.Fatalf("refused: %v", err)
			}
			return
		}
		if wantErr != nil {
			compareBroken(t, body, alerts, wantErr)
			return
		}
		if len(alerts) != len(list) {
			t.Fatalf("%d alerts, want %d", len(alerts), len(list))
		}
		for i, a := range alerts {
			if !bytes.Equal(a.Raw, list[i]) {
				t.Fatalf("alert %d: %s, want %s", i, a.Raw, list[i])
			}
			comparePicked(t, a)
		}
		compareOversized(t, body, alerts)
	})
}

// compareBroken checks what was read of a list with elements that are no JSON: all
// is in its place, and the others are as encoding/json reads them.
func compareBroken(t *testing.T, body []byte, alerts []Alert, broken error) {
	t.Helper()
	if json.Valid(body) {
		t.Fatalf("accepted, but encoding/json says %v", broken)
	}
	rest := body
	for _, a := range alerts {
		at := bytes.Index(rest, a.Raw)
		if at < 0 || len(a.Raw) == 0 {
			t.Fatalf("%s is not in the rest of the body", a.Raw)
		}
		rest = rest[at+len(a.Raw):]
		if a.Unreadable {
			if a.Invalid != invalidJSON || a.ID != "" {
				t.Fatalf("unreadable, and with %+v", a)
			}
			continue
		}
		if !json.Valid(a.Raw) {
			t.Fatalf("not valid JSON: %s", a.Raw)
		}
		comparePicked(t, a)
	}
}

// comparePicked checks an alert's fields against a map of encoding/json, whose
// names are exact and whose last value wins as well.
func comparePicked(t *testing.T, a Alert) {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(a.Raw, &fields); err != nil || fields == nil {
		if a.Invalid != "not an object" {
			t.Fatalf("fault %q of %s", a.Invalid, a.Raw)
		}
		return
	}
	text := func(name string) string {
		var s string
		if json.Unmarshal(fields[name], &s) != nil {
			return ""
		}
		return s
	}
	created, ok := parseTime(text("created_at"))
	if usable := ok && regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`).MatchString(text("id")); usable != (a.Invalid == "") {
		t.Fatalf("fault %q of %s", a.Invalid, a.Raw)
	}
	if a.Invalid != "" {
		return
	}
	updated, dated := parseTime(text("updated_at"))
	if !dated {
		updated = created
	}
	want := Alert{
		Raw: a.Raw, ID: text("id"), Type: text("alert_type"), Status: text("status"), Severity: text("severity"),
		MonitorID: text("monitor_id"), MonitorName: text("monitor_name"), CreatedAt: created, UpdatedAt: updated,
		Undated: !dated,
	}
	var score any
	d := json.NewDecoder(bytes.NewReader(fields["indicator_mscore"]))
	d.UseNumber()
	if d.Decode(&score) == nil {
		if n, ok := score.(json.Number); ok {
			want.MScore = n.String()
		}
	}
	var doc map[string]json.RawMessage
	want.HasDoc = json.Unmarshal(fields["doc"], &doc) == nil && doc != nil
	if diff := cmp.Diff(want, a); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	var items []any
	var tags []string
	if json.Unmarshal(fields["tags"], &items) == nil {
		for _, item := range items {
			if tag, ok := item.(string); ok {
				tags = append(tags, tag)
			}
		}
	}
	got, _ := a.Tags()
	if diff := cmp.Diff(tags, got); diff != "" {
		t.Fatalf("tags: -want +got:\n%s", diff)
	}
}

func FuzzTime(f *testing.F) {
	f.Add("2025-08-07T10:01:49.199Z")
	form := regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$`)
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := parseTime(text)
		loose, err := time.Parse(time.RFC3339, strings.ToUpper(text))
		if !ok {
			if y := loose.UTC().Year(); err == nil && form.MatchString(text) && y > 1970 && y <= 9999 {
				t.Fatalf("%q was refused", text)
			}
			return
		}
		if err != nil || !form.MatchString(text) {
			t.Fatalf("%q was accepted", text)
		}
		if d := loose.Sub(got); d < 0 || d >= time.Millisecond || got.Nanosecond()%1e6 != 0 || got.Location() != time.UTC {
			t.Fatalf("%q became %v", text, got)
		}
		again, ok := parseTime(got.Format(queryTime))
		if !ok || !again.Equal(got) {
			t.Fatalf("%v was read back as %v", got, again)
		}
	})
}

// BenchmarkDecodePage reports the processor time of one alert of 2 KB. The
// budget of the whole function is 80 µs, of which decoding may take 11 to 21.
func BenchmarkDecodePage(b *testing.B) {
	const perPage, size = 100, 2 << 10
	body := testPage(perPage, size)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		alerts, err := decodePage(body, false)
		if err != nil || len(alerts) != perPage || alerts[0].Invalid != "" {
			b.Fatal(err, len(alerts))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*perPage), "ns/alert")
}

// testPage makes a page of alerts like the recorded ones without a document.
func testPage(n, size int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"alerts":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		head := fmt.Sprintf(`{"id":"d2a7j39s70qdph%06d","monitor_id":"d08auehgkipgjt1puc9g","monitor_name":"Brands","topic_matches":[{"topic_id":"42286db4-1625-4d7c-8504-b73b6f9c8b17","value":"Example","term":"example","offsets":[0,8]},{"topic_id":"doc_type:message","value":"message"}],"label_matches":[],"doc_matches":[{"match_path":"body","locations":[{"value":"full"},{"value":"access"}]}],"tags":[],"created_at":"2025-08-07T10:01:49.199Z","updated_at":"2025-08-07T10:01:57.581Z","labels_url":"https://api.example.com/v4/dtm/docs/message/2fa475ce-5fb1-4c7e-a9b8-b872ec8477fa/labels","status":"new","alert_type":"Message","title":"Found topic \"example\" posted by actor \"A \"","email_sent_at":"","indicator_mscore":50,"severity":"low","confidence":0.2565609101122806,"has_analysis":false,"similarity_score":0.9489247,"ignore":false,"monitor_version":1,"ai_doc_summary":"`, i)
		b.WriteString(head)
		const text = "This message advertises services – and more of them.\\n "
		for b.Len() < 11+(i+1)*size-len(text) {
			b.WriteString(text)
		}
		b.WriteString(`"}`)
	}
	b.WriteString("]}\n")
	return b.Bytes()
}

func TestMembers(t *testing.T) {
	const usable = `{"id":"a","created_at":"2025-08-07T10:01:49Z","x":[1, 2],"\u0078":null}`
	cut := ParseAlert([]byte(usable))
	cut.Digest = &Digest{}
	for _, tc := range []struct {
		name string
		of   Alert
		want []string
	}{
		{"usable", ParseAlert([]byte(" " + usable + "\n")), []string{`id "a"`, `created_at "2025-08-07T10:01:49Z"`, `x [1, 2]`, `x null`}},
		{"not held", cut, nil},
		{"invalid", ParseAlert([]byte(`{"id":"a"}`)), nil},
		{"none", Alert{}, nil},
	} {
		var got []string
		for name, value := range tc.of.Members() {
			got = append(got, string(name)+" "+string(value))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}
