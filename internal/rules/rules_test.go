package rules_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/rules"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

// now is two hours after the alerts of these tests were created: a Thursday, noon.
var now = time.Date(2025, 8, 7, 12, 0, 0, 0, time.UTC)

// alert is a usable alert with members besides those that make it one.
func alert(members string) dtm.Alert {
	raw := `{"id":"a1","created_at":"2025-08-07T10:00:00Z","updated_at":"2025-08-07T10:00:05.5Z"`
	if members != "" {
		raw += "," + members
	}
	return dtm.ParseAlert([]byte(raw + "}"))
}

// one is a list of one rule.
func one(when, then string) string {
	text, _ := json.Marshal(when)
	return `[{"name":"r","when":` + string(text) + `,"then":` + then + `}]`
}

func compile(t testing.TB, text string) *rules.Rules {
	t.Helper()
	_, r, err := rules.Compile(text, "default")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestList(t *testing.T) {
	yes, no := true, false
	text := `[
		{"name":"a","when":"true","then":{"priority":"P1","escalate":true,"set_status":"escalated","tags":["x","X","y"],"drop":false,"stop":true}},
		{"name":"0-b","when":"event == ''","then":{"escalate":false}}
	]`
	want := rules.List{
		{Name: "a", When: "true", Priority: "P1", Escalate: &yes, SetStatus: "escalated", Tags: []string{"x", "y"}, Drop: &no, Stop: true},
		{Name: "0-b", When: "event == ''", Escalate: &no},
	}
	got, compiled, err := rules.Compile(text, "default")
	if diff := cmp.Diff(want, got); diff != "" || compiled == nil || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, empty := range []string{"", "[]", " [ ] "} {
		if got, compiled, err := rules.Compile(empty, "default"); len(got) > 0 || compiled != nil || err != nil {
			t.Errorf("%q: %v, %v", empty, got, err)
		}
	}
	// Who asks whether a topic for write-backs is needed learns it beside other problems.
	got, compiled, err = rules.Compile(strings.Replace(text, "event == ''", "event ==", 1), "default")
	if len(got) != 2 || !got.WritesBack() || compiled != nil || err == nil {
		t.Errorf("%v, %v, %v", got, compiled, err)
	}
}

func TestWritesBack(t *testing.T) {
	for then, want := range map[string]bool{
		`{"set_status":"read"}`: true, `{"tags":["a"]}`: true, `{"priority":"P1","tags":[]}`: false, `{"drop":true}`: false,
	} {
		list, _, err := rules.Compile(one("true", then), "default")
		if err != nil || list.WritesBack() != want {
			t.Errorf("%s: %v, %v", then, list.WritesBack(), err)
		}
	}
}

// TestProblems: what is wrong with rules is said all at once.
func TestProblems(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"not JSON", "[\n{\"name\" x}]", "not valid JSON: line 2, column 9: invalid character 'x' after object key"},
		{"no list", `{"name":"a"}`, `not a JSON list of rules such as [{"name":"urgent","when":"alert.severity == 'high'","then":{"priority":"P1"}}]`},
		{"null", `null`, `not a JSON list of rules such as [{"name":"urgent","when":"alert.severity == 'high'","then":{"priority":"P1"}}]`},
		{"not UTF-8", "[\"\xff\"]", "not valid UTF-8"},
		{"no object", `[null, 1]`, "rule 1: is not a JSON object with name, when and then\nrule 2: is not a JSON object with name, when and then"},
		{
			"nothing in it", `[{}]`,
			"rule 1: name is missing; allowed: 1 to 63 small letters, digits and -, the first one no -\n" +
				`rule 1: when is missing; allowed: a CEL expression such as "alert.severity == 'high'", or "true" for every alert` + "\n" +
				`rule 1: then is missing; allowed: an object such as {"priority":"P1"}`,
		},
		{"a blank condition", `[{"name":"a","when":"  ","then":{"stop":true}}]`, `rule "a": when is missing; allowed: a CEL expression such as "alert.severity == 'high'", or "true" for every alert`},
		{"name", `[{"name":"Leaks","when":"true","then":{"stop":true}}]`, `rule 1: name is "Leaks"; allowed: 1 to 63 small letters, digits and -, the first one no -`},
		{"name of another type", `[{"name":7,"when":"true","then":{"stop":true}}]`, `rule 1: name is 7; allowed: 1 to 63 small letters, digits and -, the first one no -`},
		{"name twice", `[{"name":"a","when":"true","then":{"stop":true}},{"name":"a","when":"true","then":{"stop":true}}]`, `rule 2: name is "a", as that of rule 1; allowed: a name of its own`},
		{"when of another type", `[{"name":"a","when":true,"then":{"stop":true}}]`, `rule "a": when is true; allowed: a string with a CEL expression`},
		{"unknown", `[{"name":"a","wen":"true","when":"true","then":{"prioritiy":"P1","stop":true}}]`, `rule "a": then.prioritiy is unknown, the nearest is then.priority; allowed: priority, escalate, set_status, tags, drop, stop` + "\n" + `rule "a": wen is unknown, the nearest is when; allowed: name, when, then`},
		{"twice", `[{"name":"a","when":"true","when":"false","then":{"stop":true}}]`, `rule "a": the field "when" is named more than once`},
		{"no effect", one("true", `{"tags":[],"stop":false}`), `rule "r": then has no effect; needed: one at least of priority, escalate, set_status, tags, drop, stop`},
		{"then of another type", one("true", `"drop"`), `rule "r": then is not a JSON object`},
		{
			"values", one("true", `{"priority":"P5","escalate":"yes","set_status":"resolved","drop":1,"stop":0}`),
			`rule "r": then.priority is "P5"; allowed: P1, P2, P3, P4` + "\n" +
				`rule "r": then.escalate is "yes"; allowed: true or false` + "\n" +
				`rule "r": then.set_status is "resolved"; allowed: new, read, escalated, in_progress, closed, no_action_required, duplicate, not_relevant, tracked_external` + "\n" +
				`rule "r": then.drop is 1; allowed: true or false` + "\n" +
				`rule "r": then.stop is 0; allowed: true or false`,
		},
		{"tags", one("true", `{"tags":["", " a", "b\u0000", null, "\ud800"]}`), `rule "r": then.tags[0] has 0 bytes; allowed: 1 to 256
rule "r": then.tags[1] begins or ends with white space
rule "r": then.tags[2] holds a control character or half a character
rule "r": then.tags[3] is null; allowed: a string
rule "r": then.tags[4] holds a control character or half a character`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, compiled, err := rules.Compile(tc.text, "default")
			if diff := cmp.Diff(tc.want, fmt.Sprint(err)); diff != "" || compiled != nil {
				t.Errorf("%v\n%s", compiled, diff)
			}
		})
	}
}

// TestProblemsOfConditions: all that is wrong is named, with the place.
func TestProblemsOfConditions(t *testing.T) {
	for _, tc := range []struct{ when, want string }{
		{"alert.severty == 'high'", `line 1, column 6: alert has no field "severty" known to this version, the nearest is severity; what the API added since is in alert.raw`},
		{"event == 'created' &&\n  alert.moniter_id == ''", `line 2, column 8: alert has no field "moniter_id" known to this version, the nearest is monitor_id; what the API added since is in alert.raw`},
		{"alrt.severity == 'high'", `line 1, column 1: undeclared reference to 'alrt' (did you mean 'alert'?)`},
		{"alert.severity", `line 1, column 1: gives string; allowed: a boolean, such as from ==`},
		{"alert.analysis", `line 1, column 1: gives dyn; allowed: a boolean, such as from ==`},
		{"alert.severity > 3", `line 1, column 16: found no matching overload for '_>_' applied to '(string, int)'`},
		{"alert.indicator_mscore == 70", `line 1, column 24: found no matching overload for '_==_' applied to '(double, int)'; an alert's numbers are doubles: write 70.0 for 70`},
		{"alert.title.matches('(')", `line 1, column 21: the text for matches is no regular expression; allowed: one of RE2, such as ^acme-[0-9]+$`},
		{"now > timestamp('yesterday')", "line 1, column 17: the text for timestamp is no time; allowed: a time such as 2026-01-02T03:04:05Z"},
		{"now - alert.created_at > duration('1day')", "line 1, column 35: the text for duration is no duration; allowed: numbers with a unit, such as 90s, 15m or 24h, up to 2562047h"},
		{"now - alert.created_at > duration('9999999h')", "line 1, column 35: the text for duration is no duration; allowed: numbers with a unit, such as 90s, 15m or 24h, up to 2562047h"},
		{strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300), "parts of it are nested too deeply; allowed: 250 levels"},
		{"true" + strings.Repeat(" ", 100_000), "it is too long; allowed: 100000 characters"},
		{"now.getHours('Europe/Berln') > 8", `line 1, column 14: there is no time zone "Europe/Berln"; allowed: a name such as Europe/Berlin, or +02:00`},
		{"now.getHours('+99:99') > 8", `line 1, column 14: there is no time zone "+99:99"; allowed: a name such as Europe/Berlin, or +02:00`},
		{"now.getMinutes('x:y') > 8", `line 1, column 16: there is no time zone "x:y"; allowed: a name such as Europe/Berlin, or +02:00`},
		{"alert == alert", `line 1, column 7: the alert is no value of its own; allowed: its fields, such as alert.id`},
		{"alert.id == '' || alert in [alert]", `line 1, column 25: the alert is no value of its own; allowed: its fields, such as alert.id`},
		{"dtmrelay.Alert{id: 'x'}.id == 'x'", `line 1, column 15: the alert is no value of its own; allowed: its fields, such as alert.id`},
		{"event ==", "line 1, column 9: Syntax error: mismatched input '<EOF>'"},
		{strings.Repeat("[0,1,2,3,4,5,6,7,8,9].map(x, ", 7) + "1" + strings.Repeat(")", 7) + " != []", "line 1, column 1: costs "},
	} {
		t.Run(tc.when[:min(len(tc.when), 40)], func(t *testing.T) {
			_, compiled, err := rules.Compile(one(tc.when, `{"drop":true}`), "default")
			if err == nil || compiled != nil || !strings.HasPrefix(err.Error(), `rule "r": when: `+tc.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestAllProblems: problems of both kinds come together, in the order of the rules.
func TestAllProblems(t *testing.T) {
	_, _, err := rules.Compile(`[
		{"name":"a","when":"alert.nam == ''","then":{"priority":"P9"}},
		{"when":"1 + ","then":{"drop":true}},
		{"name":"c","when":"alert.id == 1 || alert.status == 2","then":{"drop":true}}
	]`, "default")
	var got []string
	for line := range strings.Lines(fmt.Sprint(err)) {
		parts := strings.SplitN(line, ":", 4)
		got = append(got, strings.TrimSpace(strings.Join(parts[:min(len(parts), 3)], ":")))
	}
	want := []string{
		`rule "a": then.priority is "P9"; allowed: P1, P2, P3, P4`,
		`rule "a": when: line 1, column 6`,
		`rule 2: name is missing; allowed: 1 to 63 small letters, digits and -, the first one no -`,
		`rule 2: when: line 1, column 5`,
		`rule "c": when: line 1, column 10`,
		`rule "c": when: line 1, column 31`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// TestTagsAsWriteBacks: a rule may add what a write-back may.
func TestTagsAsWriteBacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tags := rapid.SliceOfN(rapid.OneOf(rapid.StringN(0, 5, -1), rapid.SampledFrom([]string{"", "a ", "\u00a0b", "\x7f", "\ufffd", "ok", strings.Repeat("x", 256), strings.Repeat("x", 257)})), 1, 102).Draw(t, "tags")
		list, _ := json.Marshal(tags)
		_, _, rule := rules.Compile(one("true", `{"tags":`+string(list)+`}`), "default")
		_, request := writeback.ParseRequest([]byte(`{"alert_id":"a","add_tags":`+string(list)+`}`), "default", now)
		if (rule == nil) != (request == nil) {
			t.Fatalf("rule: %v\nwrite-back: %v", rule, request)
		}
	})
}

// TestPriority: what an alert gets without a rule, and what rules make of it.
func TestPriority(t *testing.T) {
	for severity, want := range map[string]string{"critical": "P1", "high": "P1", "medium": "P2", "low": "P3", "": "P2", "High": "P2", "info": "P2"} {
		a := alert(`"severity":"` + severity + `"`)
		for _, r := range []*rules.Rules{nil, compile(t, ""), compile(t, "[]"), compile(t, one("false", `{"priority":"P4"}`))} {
			if diff := cmp.Diff(rules.Result{Priority: want}, r.Evaluate(a, "created", "", true, now)); diff != "" {
				t.Errorf("%q: %s", severity, diff)
			}
		}
		if got := compile(t, one("true", `{"priority":"P4"}`)).Evaluate(a, "created", "", true, now); got.Priority != "P4" {
			t.Errorf("%q: %v", severity, got)
		}
	}
}

// TestEvaluate: the effects of several rules together.
func TestEvaluate(t *testing.T) {
	rule := func(name, when, then string) string {
		return fmt.Sprintf(`{"name":%q,"when":%q,"then":%s}`, name, when, then)
	}
	const fails = "alert.doc.body == ''" // there is no document
	failed := []rules.Failure{{Rule: "bad", Reason: "it reads what the alert does not have: ask with has() first"}}
	for _, tc := range []struct {
		name  string
		rules []string
		want  rules.Result
	}{
		{"every one that matches applies", []string{
			rule("a", "true", `{"priority":"P4"}`), rule("b", "false", `{"drop":true}`), rule("c", "true", `{"escalate":true}`),
		}, rules.Result{Priority: "P4", Escalate: true, Matched: []string{"a", "c"}}},
		{"later ones override", []string{
			rule("a", "true", `{"priority":"P4","drop":true,"escalate":true}`), rule("b", "true", `{"priority":"P2","drop":false,"escalate":false}`),
		}, rules.Result{Priority: "P2", Matched: []string{"a", "b"}}},
		{"what a rule doesn't name stays", []string{
			rule("a", "true", `{"priority":"P1","drop":true,"escalate":true}`), rule("b", "true", `{"stop":true}`),
		}, rules.Result{Priority: "P1", Drop: true, Escalate: true, Matched: []string{"a", "b"}}},
		{"stop ends it", []string{
			rule("a", "true", `{"priority":"P1","stop":true}`), rule("b", "true", `{"drop":true}`), rule("bad", fails, `{"drop":true}`),
		}, rules.Result{Priority: "P1", Matched: []string{"a"}}},
		{
			"stop of one that doesn't match",
			[]string{rule("a", "false", `{"stop":true}`), rule("b", "true", `{"drop":true}`)},
			rules.Result{Priority: "P3", Drop: true, Matched: []string{"b"}},
		},
		{
			"drop with a write-back",
			[]string{rule("a", "true", `{"drop":true,"set_status":"closed","tags":["noise"]}`)},
			rules.Result{Priority: "P3", Drop: true, Matched: []string{"a"}, WriteBacks: []rules.WriteBack{{Rule: "a", Status: "closed", Tags: []string{"noise"}}}},
		},
		{"the last status counts, tags are added", []string{
			rule("a", "true", `{"set_status":"read","tags":["x"]}`), rule("b", "true", `{"set_status":"read"}`),
			rule("c", "true", `{"tags":["y"]}`), rule("d", "true", `{"set_status":"closed"}`),
		}, rules.Result{Priority: "P3", Matched: []string{"a", "b", "c", "d"}, WriteBacks: []rules.WriteBack{{Rule: "a", Tags: []string{"x"}}, {Rule: "c", Tags: []string{"y"}}, {Rule: "d", Status: "closed"}}}},
		{
			"a failing one never drops",
			[]string{rule("bad", fails, `{"drop":true,"set_status":"closed"}`)},
			rules.Result{Priority: "P2", Failed: failed},
		},
		{
			"a failing one doesn't stop",
			[]string{rule("bad", fails, `{"stop":true}`), rule("b", "true", `{"escalate":true}`)},
			rules.Result{Priority: "P2", Escalate: true, Matched: []string{"b"}, Failed: failed},
		},
		{
			"nor is it lowered by a later one",
			[]string{rule("bad", fails, `{"stop":true}`), rule("b", "true", `{"priority":"P4"}`)},
			rules.Result{Priority: "P2", Matched: []string{"b"}, Failed: failed},
		},
		{
			"P1 stays",
			[]string{rule("bad", fails, `{"stop":true}`), rule("b", "true", `{"priority":"P1"}`)},
			rules.Result{Priority: "P1", Matched: []string{"b"}, Failed: failed},
		},
		{
			"another one's drop stays",
			[]string{rule("a", "true", `{"drop":true}`), rule("bad", fails, `{"priority":"P1"}`)},
			rules.Result{Priority: "P2", Drop: true, Matched: []string{"a"}, Failed: failed},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := compile(t, "["+strings.Join(tc.rules, ",")+"]")
			if diff := cmp.Diff(tc.want, r.Evaluate(alert(`"severity":"low"`), "created", "", true, now)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestConditions: what expressions see.
func TestConditions(t *testing.T) {
	const full = `"severity":"high","status":"new","alert_type":"Message","indicator_mscore":70,"confidence":0.5,"tags":["a","b"],"has_analysis":true,` +
		`"topic_matches":[{"topic_id":"doc_type:message","value":"message"}],"doc":{"__type":"message","body":"Hello","n":3,"deep":{"a":[1,{"b":"c"}]}},` +
		`"analysis":"text","brand_new":{"x":1},"severity_reasoning":null`
	const fails = "fails"
	for _, tc := range []struct {
		members, when string
		want          any // a boolean, or fails
	}{
		// The zero values.
		{"", `alert.severity == 'high'`, false},
		{"", `alert.severity == '' && alert.title == '' && alert.monitor_name == ''`, true},
		{"", `alert.indicator_mscore == 0.0 && alert.confidence == 0.0 && !alert.has_analysis && !alert.ignore`, true},
		{"", `alert.tags == [] && alert.topics.size() == 0 && !alert.topic_matches.exists(m, m.value == 'x')`, true},
		{"", `!has(alert.doc) && !has(alert.doc.body) && !has(alert.severity) && !has(alert.tags)`, true},
		{`"severity":null,"doc":null,"tags":null`, `!has(alert.severity) && alert.severity == '' && !has(alert.doc) && alert.tags == []`, true},
		// The rest.
		{"", `alert.analysis == 'text'`, fails},
		{"", `has(alert.analysis) && alert.analysis == 'text'`, false},
		{full, `has(alert.analysis) && alert.analysis == 'text'`, true},
		{full, `has(alert.severity_reasoning)`, false},
		{full, `has(alert.raw.brand_new) && alert.raw.brand_new.x == 1 && alert.raw.severity == 'high'`, true},
		{"", `has(alert.raw.brand_new)`, false},
		// Numbers.
		{full, `alert.indicator_mscore >= 70 && alert.indicator_mscore > 69.5 && 70 <= alert.indicator_mscore && alert.indicator_mscore == 70.0`, true},
		{full, `alert.indicator_mscore > 70`, false},
		{`"indicator_mscore":70.5`, `alert.indicator_mscore > 70`, true},
		{`"indicator_mscore":7e1`, `alert.indicator_mscore >= 70`, true},
		{`"indicator_mscore":1e999`, `alert.indicator_mscore >= 70`, fails},
		{full, `alert.doc.n == 3 && alert.doc.n > 2.5 && alert.doc.n >= 3`, true},
		// Documents.
		{full, `alert.doc.body.contains('ell') && alert.doc.deep.a[1].b == 'c'`, true},
		{full, `alert.doc.?deep.?a.hasValue() && alert.doc.?shop.?name.orValue('none') == 'none'`, true},
		{full, `has(alert.doc.shop.name)`, fails},
		{full, `alert.doc.n.contains('3')`, fails},
		{full, `alert.doc.__type == 'message'`, true},
		// Texts.
		{full, `alert.alert_type.lowerAscii() == 'message' && alert.alert_type.matches('^Mess') && alert.tags.join('+') == 'a+b'`, true},
		{`"title":"M\u00fcller \"x\""`, `alert.title == 'Müller "x"' && alert.title.size() == 10`, true},
		{"\"title\":\"\xff\\ud800\"", `alert.title == '\uFFFD\uFFFD'`, true},
		// Times.
		{"", `now - alert.created_at == duration('2h') && alert.updated_at > alert.created_at`, true},
		{"", `timestamp(alert.created_at) == timestamp('2025-08-07T10:00:00Z') && string(alert.updated_at) == '2025-08-07T10:00:05.5Z'`, true},
		{"", `now.getHours('Europe/Berlin') == 14 && now.getHours() == 12 && now.getDayOfWeek() == 4 && now.getHours('+01:00') == 13`, true},
		{"", `has(alert.created_at) && has(alert.updated_at)`, true},
		// The other variables.
		{"", `event == 'status_changed' && previous_status == 'new' && feed == 'default'`, true},
		// Another type than the API documents.
		{`"severity":3`, `alert.severity == 'high'`, fails},
		{`"tags":["a",1]`, `'a' in alert.tags`, fails},
		{`"tags":"a"`, `'a' in alert.tags`, fails},
		{`"indicator_mscore":"70"`, `alert.indicator_mscore > 60`, fails},
		{`"doc":[]`, `has(alert.doc.body)`, fails},
		{`"has_analysis":"true"`, `alert.has_analysis`, fails},
		{`"meets_password_policy":"true"`, `alert.meets_password_policy in [true, 'true']`, true},
		{`"severity":3`, `alert.status == ''`, true},
		// Of several members of one name the last counts.
		{`"severity":"low","severity":"high"`, `alert.severity == 'high' && alert.raw.severity == 'high'`, true},
		{`"Severity":"low"`, `alert.severity == ''`, true},
		// The alert as a value of its own is nothing to compute with. A comparison of it is told at once.
		{full, `[alert].exists(a, a.severity == 'high')`, fails},
	} {
		t.Run(tc.when, func(t *testing.T) {
			result := compile(t, one(tc.when, `{"escalate":true}`)).Evaluate(alert(tc.members), "status_changed", "new", true, now)
			var got any = result.Escalate
			if len(result.Failed) > 0 {
				got = fails
			}
			if got != tc.want {
				t.Errorf("got %v, want %v: %v", got, tc.want, result)
			}
		})
	}
}

// TestUnusable: a part of an alert doesn't pass for the alert.
func TestUnusable(t *testing.T) {
	r := compile(t, one("true", `{"drop":true}`))
	for name, a := range map[string]dtm.Alert{
		"not held":  {Raw: []byte(`{"id":"a","doc":{"bo`), ID: "a", Severity: "low", Digest: &dtm.Digest{}},
		"no JSON":   dtm.ParseAlert([]byte(`{"id":`)),
		"no object": dtm.ParseAlert([]byte(`[]`)),
	} {
		if got := r.Evaluate(a, "created", "", true, now); got.Drop || got.Priority != "P2" || len(got.Failed) != 1 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestCostLimit: a condition that is too much for one alert fails for it alone.
func TestCostLimit(t *testing.T) {
	skipShort(t)
	const when = `alert.topics.exists(a, alert.topics.exists(b, a.value + b.value == 'xy'))`
	r := compile(t, one(when, `{"drop":true}`))
	topics := func(n int) string {
		return `"severity":"low","topics":[` + strings.TrimSuffix(strings.Repeat(`{"value":"z"},`, n), ",") + "]"
	}
	if got := r.Evaluate(alert(topics(10)), "created", "", true, now); len(got.Failed) > 0 {
		t.Errorf("10 topics: %v", got)
	}
	want := rules.Result{Priority: "P2", Failed: []rules.Failure{{Rule: "r", Reason: "it costs more than the limit"}}}
	if diff := cmp.Diff(want, r.Evaluate(alert(topics(3000)), "created", "", true, now)); diff != "" {
		t.Error(diff)
	}
	// This one can't be too much for a small alert, so its cost is only counted for others.
	tags := func(n int) string {
		return `"severity":"low","tags":[` + strings.TrimSuffix(strings.Repeat(`"z",`, n), ",") + "]"
	}
	r = compile(t, one(`alert.tags.exists(tag, tag == 'x')`, `{"drop":true}`))
	if got := r.Evaluate(alert(tags(10_000)), "created", "", true, now); len(got.Failed) > 0 {
		t.Errorf("10,000 tags: %v", got)
	}
	if diff := cmp.Diff(want, r.Evaluate(alert(tags(500_000)), "created", "", true, now)); diff != "" {
		t.Error(diff)
	}
	// A search through a large document is not too much.
	body := `"doc":{"body":"` + strings.Repeat("words and ", 100_000) + `login"}`
	for _, when := range []string{`alert.doc.body.matches('(?i)\\b(login|password)\\b')`, `alert.doc.body.contains('login')`, `alert.doc.body.lowerAscii().contains('login')`} {
		if got := compile(t, one(when, `{"escalate":true}`)).Evaluate(alert(body), "created", "", true, now); !got.Escalate {
			t.Errorf("%s: %v", when, got)
		}
	}
}

// skipShort leaves large alerts out where the race detector makes them take many times as
// long: a rule is evaluated in one goroutine.
func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped with -short: go test ./internal/rules")
	}
}

// TestNoTextOfAlerts: a failure doesn't quote the alert.
func TestNoTextOfAlerts(t *testing.T) {
	for _, when := range []string{
		`timestamp(alert.title) < now`, `duration(alert.title) < duration('1h')`, `int(alert.title) > 1`, `alert.title.matches('(' + alert.title)`,
		`{'a': true}[alert.title]`, `now.getHours(alert.title) > 1`, `alert.title.charAt(-1) == ''`, `alert.doc.secret.x == 1`,
	} {
		r := compile(t, one(when, `{"drop":true}`))
		got := r.Evaluate(alert(`"title":"secret","doc":{"secret":"secret"}`), "created", "", true, now)
		if len(got.Failed) != 1 || strings.Contains(fmt.Sprint(got), "secret") {
			t.Errorf("%s: %v", when, got)
		}
	}
}

// TestTogether: one Rules serves several goroutines.
func TestTogether(t *testing.T) {
	r := compile(t, `[{"name":"a","when":"alert.doc.body == 1","then":{"drop":true}},
		{"name":"b","when":"alert.title.contains('x') && alert.topics.exists(t, t.value.contains('x'))","then":{"escalate":true}},
		{"name":"c","when":"alert.topics.exists(t, t.value > 1)","then":{"drop":true}}]`)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				got := r.Evaluate(alert(`"title":"x","topics":[{"value":"x"}]`), "created", "", true, now)
				if !got.Escalate || len(got.Failed) != 2 {
					t.Errorf("%v", got)
				}
			}
		})
	}
	all.Wait()
}

// TestLaws: a failing rule never drops, and what follows a rule that stops, or fails,
// changes nothing that it should not.
func TestLaws(t *testing.T) {
	conditions := map[string]string{"true": "alert.id == 'a1'", "false": "event == 'updated'", "fail": "alert.doc.body == ''"}
	thens := []string{`{"priority":"P4"}`, `{"priority":"P1"}`, `{"drop":true}`, `{"drop":false}`, `{"stop":true}`, `{"drop":true,"stop":true}`, `{"escalate":true}`, `{"set_status":"closed"}`, `{"set_status":"read","tags":["x"]}`}
	a := alert(`"severity":"low"`)
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.SliceOfN(rapid.SampledFrom([]string{"true", "false", "fail"}), 1, 6).Draw(t, "kinds")
		var list, succeeding, reached []string
		stopped := false
		for i, kind := range kinds {
			then := rapid.SampledFrom(thens).Draw(t, "then")
			text := fmt.Sprintf(`{"name":"r%d","when":%q,"then":%s}`, i, conditions[kind], then)
			list = append(list, text)
			if kind != "fail" {
				succeeding = append(succeeding, text)
			}
			if !stopped {
				reached = append(reached, text)
			}
			stopped = stopped || kind == "true" && strings.Contains(then, "stop")
		}
		evaluate := func(list []string) rules.Result {
			_, r, err := rules.Compile("["+strings.Join(list, ",")+"]", "default")
			if err != nil {
				t.Fatal(err)
			}
			return r.Evaluate(a, "created", "", true, now)
		}
		got := evaluate(list)
		if diff := cmp.Diff(evaluate(reached), got); diff != "" {
			t.Fatalf("rules after one that stopped: %s", diff)
		}
		without := evaluate(succeeding)
		if len(got.Failed) > 0 && without.Priority > "P2" {
			without.Priority = "P2"
		}
		without.Failed = got.Failed
		if diff := cmp.Diff(without, got); diff != "" {
			t.Fatalf("rules that failed: %s", diff)
		}
	})
}

// book is a set of rules that reads much of an alert, each as an operator would.
const book = `[
	{"name":"types","when":"alert.alert_type in ['Message', 'Paste'] && alert.indicator_mscore >= 50","then":{"priority":"P1"}},
	{"name":"body","when":"alert.doc.?body.orValue('').contains('password')","then":{"escalate":true}},
	{"name":"topics","when":"alert.topics.exists(t, t.type == 'email_address' && t.value.endsWith('@example.com'))","then":{"tags":["mail"]}},
	{"name":"matches","when":"alert.topic_matches.exists(m, m.value == 'message') || alert.doc_matches.size() > 3 || alert.label_matches.exists(m, has(m.value))","then":{"tags":["matched"]}},
	{"name":"texts","when":"(alert.title + alert.alert_summary + alert.ai_doc_summary).lowerAscii().matches('leak(ed)?')","then":{"escalate":true}},
	{"name":"ages","when":"now - alert.created_at > duration('720h') || alert.updated_at < alert.created_at","then":{"priority":"P4"}},
	{"name":"ids","when":"alert.id != '' && alert.monitor_id != alert.aggregated_under_id && alert.monitor_version >= 0 && !('x' in alert.tags)","then":{"tags":["seen"]}},
	{"name":"rest","when":"has(alert.confidence_reasoning) && has(alert.severity_reasoning) && has(alert.raw.id) && !alert.ignore && alert.similarity_score <= 1 && alert.confidence <= 1","then":{"escalate":true}}
]`

// TestSamples: rules that are written with care fail for no alert that is known.
func TestSamples(t *testing.T) {
	files, _ := filepath.Glob("../../../shared/samples/recorded/*.json")
	if len(files) == 0 {
		t.Log("no recorded samples beside the project: only the synthetic one is read")
	}
	r := compile(t, book)
	n := 0
	for _, file := range append(files, "../dtm/testdata/all_types_refs_true.json") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var page struct{ Alerts []json.RawMessage }
		if err := json.Unmarshal(text, &page); err != nil {
			t.Fatal(err)
		}
		if page.Alerts == nil {
			page.Alerts = []json.RawMessage{text}
		}
		for _, raw := range page.Alerts {
			a := dtm.ParseAlert(raw)
			if a.Invalid != "" {
				t.Fatalf("%s: %s", file, a.Invalid)
			}
			n++
			if got := r.Evaluate(a, "created", "", true, now); len(got.Failed) > 0 || len(got.Matched) == 0 {
				t.Errorf("%s: %s: %v", file, a.ID, got)
			}
		}
	}
	if n < 7 {
		t.Errorf("%d alerts", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(book)
	f.Add(one("alert.severty == 1 &&\n now.getHours('x') > 1", `{"tags":["a"],"priority":"P1"}`))
	f.Add(`[{"name":"a","name":1,"when":"\ud800"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		list, r, err := rules.Compile(text, "default")
		if (r != nil) != (err == nil && len(list) > 0) {
			t.Errorf("%d rules, compiled: %t: %v", len(list), r != nil, err)
		}
		r.Evaluate(alert(""), "created", "", true, now)
	})
}

func FuzzEvaluate(f *testing.F) {
	f.Add([]byte(`{"id":"a","created_at":"2025-08-07T10:00:00Z","severity":"low","topics":[{"type":"email_address","value":"x"}],"doc":{"body":"x"}}`))
	f.Add([]byte(`{"id":"a","created_at":"2025-08-07T10:00:00Z","severity":3,"tags":[null],"topics":{},"doc":[],"title":"\ud800","topics":[1,[],{"type":{}}]}`))
	f.Add([]byte(`{"id":"a","created_at":"2025-08-07T10:00:00Z","doc":` + strings.Repeat(`{"body":[`, 4000) + strings.Repeat(`]}`, 4000) + `}`))
	f.Add([]byte(`[`))
	r := compile(f, book)
	dropping := compile(f, strings.NewReplacer(`"then":{`, `"then":{"drop":true,"stop":true,`).Replace(book))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, a := range []dtm.Alert{dtm.ParseAlert(raw), {Raw: raw, ID: "a"}} {
			got := r.Evaluate(a, "created", "", true, now)
			if len(got.Failed) > 0 && got.Priority > "P2" {
				t.Errorf("%v", got)
			}
			for _, failure := range got.Failed {
				for _, name := range got.Matched {
					if failure.Rule == name {
						t.Errorf("%s matched and failed", name)
					}
				}
			}
			if got := dropping.Evaluate(a, "created", "", true, now); got.Drop != (len(got.Matched) > 0) {
				t.Errorf("%v", got)
			}
		}
	})
}
