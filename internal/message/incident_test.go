package message

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// checker holds incidents to the published schema. Closed to further members, so that
// a new one can't be forgotten there.
func checker(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile("../../docs/schemas/incident-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	root := doc.(map[string]any)
	root["additionalProperties"] = false
	root["properties"].(map[string]any)["monitor"].(map[string]any)["additionalProperties"] = false
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("incident.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("incident.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var incidentEnvelope = Envelope{Format: Incident, Event: "created", Priority: "P2", Origin: "gti", Feed: "default", RunID: "r1"}

// check holds the incident of an alert to the schema, and looks for the alert's bytes in it.
func check(s *jsonschema.Schema, a dtm.Alert) error {
	m := FromAlert(a, incidentEnvelope)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(m.Data))
	if err != nil {
		return fmt.Errorf("no JSON: %w: %.200q", err, m.Data)
	}
	if err := s.Validate(value); err != nil {
		return fmt.Errorf("%w: %.500q", err, m.Data)
	}
	if !bytes.HasSuffix(m.Data, slices.Concat([]byte(`,"alert":`), a.Raw, []byte("}"))) {
		return fmt.Errorf("the alert's bytes are not in %.500q", m.Data)
	}
	e := incidentEnvelope
	e.Format = Raw
	if raw := FromAlert(a, e).Attributes; !maps.Equal(raw, m.Attributes) {
		return fmt.Errorf("the attributes differ from those of the other format: %s", cmp.Diff(raw, m.Attributes))
	}
	return nil
}

func read(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var got map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // an alert may hold one that no float64 is
	if err := dec.Decode(&got); err != nil {
		t.Fatalf("%v: %.200q", err, data)
	}
	return got
}

func TestIncident(t *testing.T) {
	raw := `{"id":"d2a7j39s70qdphllj1rg","monitor_id":"d08aue","monitor_name":"Brand <names>","alert_type":"Web Content",` +
		`"severity":"high","status":"not_relevant","title":" Found \"a\u0026b\" ","alert_summary":"text","ai_doc_summary":"It mentions it.\n",` +
		`"tags":["vip","","é"],"indicator_mscore":50.5,"aggregated_under_id":"d1s8gd","created_at":"2025-08-07T10:01:49.2Z",` +
		`"updated_at":"2025-08-07T10:01:57Z","doc":{"inet_location":{"url":"https:\/\/blog.example\/1?a=1&b=2"}} }`
	m := FromAlert(dtm.ParseAlert([]byte(raw)), Envelope{Format: Incident, Event: "updated", Priority: "P1"})
	want := `{"schema":"dtmrelay.incident/v1","source":"dtm","event":"updated","dedupe_key":"d2a7j39s70qdphllj1rg@2025-08-07T10:01:57.000Z",` +
		`"title":"Found \"a&b\"","summary":"It mentions it.","severity":"high","severity_score":51,"priority":"P1","state":"closed",` +
		`"status":"not_relevant","type":"Web Content","url":"https://blog.example/1?a=1&b=2",` +
		`"link":"https://advantage.mandiant.com/dtm/alerts/d2a7j39s70qdphllj1rg","group_id":"d1s8gd",` +
		`"monitor":{"id":"d08aue","name":"Brand <names>"},"tags":["vip","é"],` +
		`"created_at":"2025-08-07T10:01:49.200Z","updated_at":"2025-08-07T10:01:57.000Z","alert":` + raw + `}`
	if diff := cmp.Diff(want, string(m.Data)); diff != "" {
		t.Error(diff)
	}
}

func TestIncidentOfAlmostNothing(t *testing.T) {
	raw := `{"id":"a","created_at":"2025-08-07T10:01:49Z"}`
	m := FromAlert(dtm.ParseAlert([]byte(raw)), incidentEnvelope)
	want := `{"schema":"dtmrelay.incident/v1","source":"dtm","event":"created","dedupe_key":"a@2025-08-07T10:01:49.000Z","title":"Alert: a",` +
		`"severity_score":50,"priority":"P2","state":"open","link":"https://advantage.mandiant.com/dtm/alerts/a","tags":[],` +
		`"created_at":"2025-08-07T10:01:49.000Z","updated_at":"2025-08-07T10:01:49.000Z","alert":` + raw + `}`
	if diff := cmp.Diff(want, string(m.Data)); diff != "" {
		t.Error(diff)
	}
}

func TestIncidentFields(t *testing.T) {
	long := strings.Repeat("€", 10_000)
	s := checker(t)
	for _, c := range []struct {
		name, members string // of the alert, beside id and created_at
		field         string
		want          any // nil: absent
	}{
		{"no title, a monitor's name", `"alert_type":"Paste","monitor_id":"m","monitor_name":"Brand"`, "title", "Paste: Brand"},
		{"no title, a monitor's id", `"alert_type":"Paste","monitor_id":"m","title":" "`, "title", "Paste: m"},
		{"a title of another type", `"alert_type":"Paste","title":{"a":1}`, "title", "Paste: a"},
		{"a long title", `"title":"` + long + `"`, "title", strings.Repeat("€", 341)},
		{"the alert's summary", `"alert_summary":"s","ai_doc_summary":" \n"`, "summary", "s"},
		{"no AI summary", `"alert_summary":"s","ai_doc_summary":null`, "summary", "s"},
		{"no summary", `"alert_summary":""`, "summary", nil},
		{"a long summary", `"ai_doc_summary":"` + long + `"`, "summary", strings.Repeat("€", 5461)},
		{"score as a power", `"indicator_mscore":1e2,"severity":"low"`, "severity_score", json.Number("100")},
		{"score of nothing", `"indicator_mscore":0,"severity":"high"`, "severity_score", json.Number("0")},
		{"negative score", `"indicator_mscore":-1,"severity":"high"`, "severity_score", json.Number("80")},
		{"negative nothing", `"indicator_mscore":-0.0,"severity":"high"`, "severity_score", json.Number("0")},
		{"score too high", `"indicator_mscore":100.4,"severity":"low"`, "severity_score", json.Number("20")},
		{"score beyond all numbers", `"indicator_mscore":1e999,"severity":"critical"`, "severity_score", json.Number("100")},
		{"score as text", `"indicator_mscore":"7","severity":"medium"`, "severity_score", json.Number("50")},
		{"no score, unknown severity", `"severity":"LOW"`, "severity_score", json.Number("50")},
		{"unknown status", `"status":"Closed"`, "state", "open"},
		{"a status of another type", `"status":["closed"]`, "status", nil},
		{"no monitor", `"monitor_name":"Brand"`, "monitor", nil},
		{"a monitor without a name", `"monitor_id":"m","monitor_name":""`, "monitor", map[string]any{"id": "m"}},
		{"tags of all kinds", `"tags":["a",7,null,"\ud800",""]`, "tags", []any{"a", "\uFFFD"}},
		{"tags of another type", `"tags":"a"`, "tags", []any{}},
		{"an address of a paste", `"doc":{"source_location":{"url":"http://paste.example/1"}}`, "url", "http://paste.example/1"},
		{"an address of a leak", `"doc":{"source_url":"https://t.example/1","service_account":{"service":{"inet_location":{"url":"https://sso.example/"}}}}`, "url", "https://t.example/1"},
		{"an address of a shop", `"doc":{"listing_url":{"url":"https://shop.example/1"}}`, "url", "https://shop.example/1"},
		{"an address of a channel", `"doc":{"channel":{"channel_url":"https://t.example/c"}}`, "url", "https://t.example/c"},
		{"the first address counts", `"doc":{"source_url":"https://b.example/","inet_location":{"url":"https://a.example/"}}`, "url", "https://a.example/"},
		{"an empty address does not", `"doc":{"source_url":"https://b.example/","inet_location":{"url":""}}`, "url", "https://b.example/"},
		{"a script", `"doc":{"source_url":"javascript:alert(1)"}`, "url", nil},
		{"no host", `"doc":{"source_url":"https:///x"}`, "url", nil},
		{"a script", `"doc":{"source_url":"javascript://h.example/%0Aalert(1)"}`, "url", nil},
		{"no address for a browser", `"doc":{"source_url":"ftp://h.example/x"}`, "url", nil},
		{"a long address", `"doc":{"source_url":"https://h.example/` + long + `"}`, "url", nil},
		{"an address with half a character", `"doc":{"source_url":"https://h.example/` + "\xff" + `"}`, "url", "https://h.example/\uFFFD"},
		{"an address of another type", `"doc":{"inet_location":["url"],"source_url":7,"channel":null}`, "url", nil},
		{"no document", `"doc":null`, "url", nil},
		{"names are exact", `"ID":"b","Title":"t","Doc":{"source_url":"https://h.example/"}`, "title", "Alert: a"},
		{"a wrong type after a right one", `"title":"t","title":1,"status":"closed","status":null`, "title", "Alert: a"},
		{"an escaped name", `"\u0074itle":"t","doc":{"source\u005furl":"https://h.example/"}`, "url", "https://h.example/"},
		{"an unreadable updated_at", `"updated_at":"soon"`, "updated_at", "2025-08-07T10:01:49.000Z"},
		{"a decoy in the document", `"status":"new","doc":{"id":"b","status":"closed","title":"t"}`, "state", "open"},
		{"half a character", `"title":"lone \ud800 surrogate"`, "title", "lone \uFFFD surrogate"},
		{"NUL", `"title":"before\u0000after"`, "title", "before\x00after"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := dtm.ParseAlert([]byte(`{"id":"a","created_at":"2025-08-07T10:01:49Z",` + c.members + `}`))
			if a.Invalid != "" {
				t.Fatal(a.Invalid)
			}
			if err := check(s, a); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(c.want, read(t, FromAlert(a, incidentEnvelope).Data)[c.field]); diff != "" {
				t.Errorf("%s (-want +got)\n%s", c.field, diff)
			}
		})
	}
}

func TestState(t *testing.T) {
	closed := []string{"closed", "no_action_required", "duplicate", "not_relevant", "tracked_external"}
	for _, status := range append(slices.Clone(dtm.Statuses), "", "resolved") {
		want := "open"
		if slices.Contains(closed, status) {
			want = "closed"
		}
		if got := State(status); got != want {
			t.Errorf("State(%q) = %s", status, got)
		}
	}
}

// TestSchemaRejects: a schema that takes everything would prove nothing.
func TestSchemaRejects(t *testing.T) {
	s := checker(t)
	whole := `{"id":"a","created_at":"2025-08-07T10:01:49Z","updated_at":"2025-08-07T10:01:50Z","monitor_id":"m","monitor_name":"n","title":"t",` +
		`"alert_summary":"s","severity":"low","status":"closed","alert_type":"Paste","aggregated_under_id":"g","tags":["x"],"doc":{"source_url":"https://h.example/"}}`
	good := read(t, FromAlert(dtm.ParseAlert([]byte(whole)), incidentEnvelope).Data)
	if err := s.Validate(good); err != nil {
		t.Fatal(err)
	}
	schema := read(t, must(os.ReadFile("../../docs/schemas/incident-v1.json")))
	if diff := cmp.Diff(slices.Sorted(maps.Keys(schema["properties"].(map[string]any))), slices.Sorted(maps.Keys(good))); diff != "" {
		t.Errorf("this incident has not all that the schema knows (-schema +incident)\n%s", diff)
	}
	for name, change := range map[string]func(map[string]any){
		"another schema":       func(m map[string]any) { m["schema"] = "dtmrelay.incident/v2" },
		"another source":       func(m map[string]any) { m["source"] = "rs" },
		"unknown event":        func(m map[string]any) { m["event"] = "deleted" },
		"key without a time":   func(m map[string]any) { m["dedupe_key"] = "a" },
		"empty title":          func(m map[string]any) { m["title"] = "" },
		"empty summary":        func(m map[string]any) { m["summary"] = "" },
		"severity of a number": func(m map[string]any) { m["severity"] = 3.0 },
		"score of a fraction":  func(m map[string]any) { m["severity_score"] = 50.5 },
		"score too high":       func(m map[string]any) { m["severity_score"] = 101.0 },
		"unknown priority":     func(m map[string]any) { m["priority"] = "P5" },
		"closed, but open":     func(m map[string]any) { m["state"] = "open" },
		"open, but closed":     func(m map[string]any) { m["status"] = "new" },
		"closed of nothing":    func(m map[string]any) { delete(m, "status") },
		"type of null":         func(m map[string]any) { m["type"] = nil },
		"script":               func(m map[string]any) { m["url"] = "javascript:alert(1)" },
		"link elsewhere":       func(m map[string]any) { m["link"] = "https://advantage.mandiant.com.example/dtm/alerts/a" },
		"empty group":          func(m map[string]any) { m["group_id"] = "" },
		"monitor of no id":     func(m map[string]any) { delete(m["monitor"].(map[string]any), "id") },
		"tags of null":         func(m map[string]any) { m["tags"] = nil },
		"tag of a number":      func(m map[string]any) { m["tags"] = []any{1.0} },
		"trimmed time":         func(m map[string]any) { m["created_at"] = "2025-08-07T10:01:49Z" },
		"thirteenth month":     func(m map[string]any) { m["updated_at"] = "2025-13-07T10:01:49.000Z" },
		"alert as text":        func(m map[string]any) { m["alert"] = whole },
		"alert of no id":       func(m map[string]any) { m["alert"] = map[string]any{"created_at": "x"} },
	} {
		bad := read(t, must(json.Marshal(good)))
		change(bad)
		if s.Validate(bad) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, required := range schema["required"].([]any) {
		bad := maps.Clone(good)
		delete(bad, required.(string))
		if s.Validate(bad) == nil {
			t.Errorf("without %s: accepted", required)
		}
	}
}

// TestDocumentedIncident: the example of docs/incidents.md is one.
func TestDocumentedIncident(t *testing.T) {
	text := string(must(os.ReadFile("../../docs/incidents.md")))
	_, text, _ = strings.Cut(text, "```json\n")
	text, _, ok := strings.Cut(text, "\n```")
	text = strings.Replace(text, `{…}`, `{"id":"d2a7j39s70qdphllj1rg","created_at":"2025-08-07T10:01:49.2Z"}`, 1)
	in := read(t, []byte(text))
	if err := checker(t).Validate(in); !ok || err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	schema := read(t, must(os.ReadFile("../../docs/schemas/incident-v1.json")))
	if diff := cmp.Diff(slices.Sorted(maps.Keys(schema["properties"].(map[string]any))), slices.Sorted(maps.Keys(in))); diff != "" {
		t.Errorf("the example has not all that the schema knows (-schema +example)\n%s", diff)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestSamplesAsIncidents reads the samples of internal/dtm, and real traffic where it
// is on this machine.
func TestSamplesAsIncidents(t *testing.T) {
	s := checker(t)
	paths := []string{"../dtm/testdata/all_types_refs_true.json"}
	recorded, err := filepath.Glob("../../../shared/samples/recorded/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(recorded) == 0 {
		t.Log("no recorded samples on this machine")
	}
	alerts := 0
	for _, path := range append(paths, recorded...) {
		body, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%v: it is a part of the source", err)
		} else if err != nil {
			t.Fatal(err)
		}
		var list struct{ Alerts []json.RawMessage }
		if err := json.Unmarshal(body, &list); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if list.Alerts == nil {
			list.Alerts = []json.RawMessage{body}
		}
		for _, raw := range list.Alerts {
			a := dtm.ParseAlert(raw)
			if a.Invalid != "" {
				t.Errorf("%s: %s", path, a.Invalid)
				continue
			}
			alerts++
			if err := check(s, a); err != nil {
				t.Errorf("%s: %s: %v", path, a.ID, err)
			}
		}
	}
	if alerts < 7 {
		t.Errorf("%d alerts looked at", alerts)
	}
}

func TestGeneratedAlertsAsIncidents(t *testing.T) {
	t.Parallel() // it takes the longest
	s := checker(t)
	const n = 10_000
	from := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	shape := dtmsim.Typical()
	shape.Malformed = 0.02
	usable, urls, summaries := 0, 0, 0
	for _, g := range dtmsim.Generate(7, n, from, from.Add(24*time.Hour), shape) {
		raw := g.Raw
		if raw == nil {
			raw = g.Element(true, true)
		}
		a := dtm.ParseAlert(raw)
		if a.Invalid != "" {
			continue // it goes to the rejects
		}
		usable++
		if err := check(s, a); err != nil {
			t.Fatalf("%s: %v", a.ID, err)
		}
		in := read(t, FromAlert(a, incidentEnvelope).Data)
		if in["url"] != nil {
			urls++
		}
		if in["summary"] != nil {
			summaries++
		}
	}
	if usable < n*9/10 || urls < n/3 || summaries < n*9/10 {
		t.Errorf("of %d alerts %d are usable, %d have an address and %d a summary", n, usable, urls, summaries)
	}
}

// TestForeignValuesAsIncidents: whatever stands in a field, the incident fits the schema.
func TestForeignValuesAsIncidents(t *testing.T) {
	s := checker(t)
	names := []string{
		"alert_type", "status", "severity", "monitor_id", "monitor_name", "title", "alert_summary", "ai_doc_summary",
		"indicator_mscore", "aggregated_under_id", "tags", "updated_at", "doc", "topics",
	}
	text := rapid.OneOf(
		rapid.StringN(0, 40, -1),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) string { return string(b) }),
		rapid.Just(strings.Repeat("\x01€", 20_000)),
		rapid.Just("https://h.example/"),
	)
	quoted := rapid.Custom(func(t *rapid.T) string {
		v := text.Draw(t, "text")
		if !utf8.ValidString(v) && rapid.Bool().Draw(t, "as it is") {
			return `"` + strings.NewReplacer(`"`, "", `\`, "").Replace(strings.Map(func(r rune) rune {
				if r < ' ' {
					return -1
				}
				return r
			}, v)) + "\xff\"" // valid to encoding/json all the same
		}
		return string(must(json.Marshal(v)))
	})
	value := rapid.OneOf(
		quoted,
		rapid.SampledFrom([]string{
			"null", "true", "0", "-1", "1e400", "99.5", "123456789012345678901234567890", "{}", "[]", `"\ud800"`, `[null,1,"a",["b"]]`,
			`{"inet_location":{"url":"https://h.example/"}}`, `{"source_url":{"url":1}}`, `{"channel":[]}`, `["` + strings.Repeat(`a","`, 300) + `"]`,
		}),
		rapid.Map(quoted, func(v string) string { return "[" + v + "," + v + "]" }),
		rapid.Map(quoted, func(v string) string { return `{"source_url":` + v + `}` }),
	)
	rapid.Check(t, func(t *rapid.T) {
		raw := `{"id":"a","created_at":"2025-08-07T10:01:49Z"`
		for _, name := range rapid.SliceOfN(rapid.SampledFrom(names), 0, 20).Draw(t, "names") {
			raw += `,"` + name + `":` + value.Draw(t, name)
		}
		a := dtm.ParseAlert([]byte(raw + "}"))
		if a.Invalid != "" {
			t.Fatalf("%s: %q", a.Invalid, raw)
		}
		if err := check(s, a); err != nil {
			t.Fatal(err)
		}
	})
}
