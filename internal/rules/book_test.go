package rules_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/rules"
)

// TestBook runs the rules of the rule book against alerts for which they are meant,
// and others.
func TestBook(t *testing.T) {
	text, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	const credentials = `"alert_type":"Compromised Credentials","doc":{"__type":"account_discovery","service_account":{"login":"a","profile":{"contact":{"email":"a@x","email_domain":"%s"}}}}`
	night, sunday := time.Date(2025, 8, 7, 19, 0, 0, 0, time.UTC), time.Date(2025, 8, 10, 10, 0, 0, 0, time.UTC)
	cases := map[string][]struct {
		members string
		at      time.Time // now, unless set
		want    []string
	}{
		"leaked-passwords": {
			{members: `"alert_type":"Compromised Credentials","severity":"high"`, want: []string{"leaked-passwords"}},
			{members: `"alert_type":"Compromised Credentials","severity":"low"`},
			{members: `"severity":"high"`},
		},
		"lookalike-domain": {
			{members: `"alert_type":"Domain Discovery","severity":"medium"`, want: []string{"lookalike-domain"}},
			{members: `"alert_type":"Domain Discovery","severity":"high","doc":{"rr":[{"type":"A"},{"type":"MX"}]}`, want: []string{"lookalike-domain", "lookalike-with-mail"}},
			{members: `"alert_type":"Domain Discovery","doc":{"rr":[{"type":"A"}]}`},
			{members: `"alert_type":"Paste","severity":"high"`},
		},
		"malware-talk": {
			{members: `"alert_type":"Paste","indicator_mscore":80,"title":"New Stealer logs"`, want: []string{"malware-talk"}},
			{members: `"alert_type":"Paste","indicator_mscore":80,"ai_doc_summary":"It is ransomware.\n"`, want: []string{"malware-talk"}},
			{members: `"alert_type":"Paste","indicator_mscore":80,"title":"stealers' guild"`},
			{members: `"alert_type":"Paste","indicator_mscore":60,"title":"stealer"`},
			{members: `"alert_type":"Paste","title":"stealer"`},
		},
		"brand-named": {
			{members: `"topic_matches":[{"value":"x"},{"value":"Example Bank"}]`, want: []string{"brand-named"}},
			{members: `"topic_matches":[{"value":"Example Bank"}],"doc":{"body":"Cashout methods"}`, want: []string{"brand-named", "brand-abused"}},
			{members: `"topic_matches":[{"value":"example"}],"doc":{"body":"cashout"}`},
			{members: ``},
		},
		"leaked-employee": {
			{members: fmt.Sprintf(credentials, "Example.com"), want: []string{"leaked-employee"}},
			{members: fmt.Sprintf(credentials, "example.org")},
			{members: `"alert_type":"Compromised Credentials"`},
			{members: `"alert_type":"Compromised Credentials","doc":{"service_account":{}}`},
		},
		"noise": {
			{members: `"monitor_id":"d08auehgkipgjt1puc9g","severity":"low","indicator_mscore":10`, want: []string{"noise"}},
			{members: `"monitor_id":"d08auehgkipgjt1puc9g","severity":"low"`},
			{members: `"monitor_id":"d08auehgkipgjt1puc9g","indicator_mscore":10`},
			{members: `"monitor_id":"other","severity":"low","indicator_mscore":10`},
		},
		"nobody-in": {
			{members: `"severity":"low"`, at: night, want: []string{"nobody-in"}},
			{members: `"severity":"low"`, at: sunday, want: []string{"nobody-in"}},
			{members: `"severity":"high"`, at: night},
			{members: `"severity":"low"`},
		},
	}

	var seen []string
	for _, example := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(text, -1) {
		list, _, err := rules.Compile(string(example[1]), "default")
		if err != nil {
			t.Fatal(err)
		}
		first := list[0].Name
		seen = append(seen, first)
		r := compile(t, string(example[1]))
		for _, tc := range cases[first] {
			at := tc.at
			if at.IsZero() {
				at = now
			}
			got := r.Evaluate(alert(tc.members), "created", "", true, at)
			if diff := cmp.Diff(tc.want, got.Matched); diff != "" || len(got.Failed) > 0 {
				t.Errorf("%s, %s: %v\n%s", first, tc.members, got.Failed, diff)
			}
		}
	}
	if len(seen) != len(cases) {
		t.Errorf("the book has examples %v", seen)
	}
	for name := range cases {
		if !slices.Contains(seen, name) {
			t.Errorf("the book has no example that begins with %s", name)
		}
	}

	recipes := regexp.MustCompile("(?m)^\\| [^|`]+ \\| `(.+)` \\| `(\\{.+\\})` \\|$").FindAllSubmatch(text, -1)
	if len(recipes) != 5 {
		t.Errorf("%d recipes in the table", len(recipes))
	}
	for _, recipe := range recipes {
		compile(t, one(string(recipe[1]), string(recipe[2])))
	}
}

// TestBookErrors: the problems in the book are what the relay says.
func TestBookErrors(t *testing.T) {
	text, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(text), "```text\n")
	shown, _, _ = strings.Cut(shown, "\n```")
	list, _ := json.Marshal([]map[string]any{
		{"name": "brand", "when": "alert.severty == 'high'", "then": map[string]any{"prioritiy": "P1"}},
		{"name": "night", "when": "now.getHours('Europe/Berln') < 8", "then": map[string]any{"priority": "P4"}},
	})
	_, _, err = rules.Compile(string(list), "default")
	if diff := cmp.Diff(shown, fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}
}
