package dtm

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFilter(t *testing.T) {
	zero, yes := 0, true
	for _, tc := range []struct {
		text  string
		want  Filter
		canon string
	}{
		{"", Filter{}, `{}`},
		{" {} ", Filter{}, `{}`},
		{`{"status":[],"search":""}`, Filter{}, `{}`},
		{
			`{"severity":["low","high","low"],"mscore_gte":0,"has_analysis":true,"search":"a<b & \"c\"","tags":["x y"],"alert_type":["Forum Post"],"monitor_id":["m"],"match_value":["ü"],"status":["new"]}`,
			Filter{
				MonitorID: []string{"m"}, Status: []string{"new"}, AlertType: []string{"Forum Post"}, Tags: []string{"x y"}, MatchValue: []string{"ü"},
				Severity: []string{"high", "low"}, MScoreGTE: &zero, Search: `a<b & "c"`, HasAnalysis: &yes,
			},
			`{"monitor_id":["m"],"status":["new"],"alert_type":["Forum Post"],"tags":["x y"],"match_value":["ü"],"severity":["high","low"],"mscore_gte":0,"search":"a<b & \"c\"","has_analysis":true}`,
		},
	} {
		got, warnings, err := ParseFilter(tc.text)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, %q", tc.text, err, warnings)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tc.text, diff)
		}
		if s := got.String(); s != tc.canon {
			t.Errorf("%s: canonical form %s, want %s", tc.text, s, tc.canon)
		}
	}
}

func TestParseFilterWarnsOfUnknownType(t *testing.T) {
	f, warnings, err := ParseFilter(`{"alert_type":["Hologram","Message"]}`)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], `"Hologram"`) {
		t.Errorf("warnings %q, error %v", warnings, err)
	}
	if diff := cmp.Diff([]string{"Hologram", "Message"}, f.AlertType); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseFilterRefuses(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []string // all in the error
	}{
		{`[]`, []string{"not a JSON object"}},
		{`null`, []string{"not a JSON object"}},
		{`   `, []string{"not a JSON object"}},
		{`{} x`, []string{"not a JSON object"}},
		{`{}{}`, []string{"not a JSON object"}},
		{`{"severity":["high"]`, []string{"not a JSON object"}},
		{"{\"search\":\"\xff\"}", []string{"UTF-8"}},
		{`{"severtiy":["high"]}`, []string{"severtiy", "unknown name", "severity"}},
		{`{"Severity":["high"]}`, []string{"Severity", "unknown name"}},
		{`{"severity":"high"}`, []string{"severity: is a string, must be a list"}},
		{`{"severity":null}`, []string{"severity: is null"}},
		{`{"severity":["critical"]}`, []string{`severity: unknown value "critical"`, "high, medium, low"}},
		{`{"status":["open",1,""]}`, []string{`"open"`, "item 2 is a number", "item 3 is empty", "tracked_external"}},
		{`{"tags":[" "],"monitor_id":[null]}`, []string{"tags: item 1 is empty", "monitor_id: item 1 is null"}},
		{`{"mscore_gte":101}`, []string{"mscore_gte", "0 to 100"}},
		{`{"mscore_gte":-1}`, []string{"mscore_gte"}},
		{`{"mscore_gte":5.5}`, []string{"mscore_gte"}},
		{`{"mscore_gte":"50"}`, []string{"mscore_gte"}},
		{`{"mscore_gte":null}`, []string{"mscore_gte"}},
		{`{"search":["x"]}`, []string{"search: is a list"}},
		{`{"has_analysis":"true"}`, []string{"has_analysis: is a string"}},
		{`{"has_analysis":null}`, []string{"has_analysis: is null"}},
		{`{"search":"` + strings.Repeat("ü", 6000) + `"}`, []string{"too long: 36007 bytes", "allowed: 32000"}},
		{`{"status":["new"],"status":["read"]}`, []string{"status: named more than once"}},
		{`{"since":"x","severity":["hi"],"mscore_gte":1000}`, []string{"since", "severity", "mscore_gte"}},
	} {
		f, _, err := ParseFilter(tc.text)
		if err == nil {
			t.Errorf("%s was accepted as %s", tc.text, f)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q does not say %q", tc.text, err, want)
			}
		}
	}
}

// A value of the Relevance System is a mix-up of two products, not a misspelling.
func TestParseFilterTellsTheRelevanceSystemApart(t *testing.T) {
	const says = "a word of Google's Relevance System"
	for text, want := range map[string]int{
		`{"status":["false_positive","TRIAGED","benign","resolved","not_actionable","tracked_externally"],"severity":["critical"]}`: 7,
		`{"severity":["Critical","high","severe"],"status":["open","New"]}`:                                                         1,
		`{"tags":["triaged"],"severity":["hihg"]}`:                                                                                  0,
	} {
		_, _, err := ParseFilter(text)
		if err == nil {
			t.Errorf("%s was accepted", text)
			continue
		}
		if got := strings.Count(err.Error(), says); got != want {
			t.Errorf("%s: %d of the problems are of the Relevance System, want %d: %v", text, got, want, err)
		}
	}
	for _, status := range Statuses {
		if slices.Contains(relevanceWords, status) {
			t.Errorf("%s is DTM's too", status)
		}
	}
}

// Each part of a filter is either changeable or lasting.
func TestFilterChangeable(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: false, `{"monitor_id":["m"],"alert_type":["Paste"],"match_value":["v"]}`: false,
		`{"status":["new"]}`: true, `{"tags":["t"]}`: true, `{"severity":["low"]}`: true,
		`{"mscore_gte":0}`: true, `{"has_analysis":false}`: true, `{"search":"s"}`: true,
	} {
		f, _, err := ParseFilter(text)
		if err != nil || f.HasMutable() != want {
			t.Errorf("%s: changeable %t, want %t (%v)", text, f.HasMutable(), want, err)
		}
		lasting := text
		if want {
			lasting = `{}`
		}
		if got := f.Immutable().String(); got != lasting {
			t.Errorf("%s: lasting %s, want %s", text, got, lasting)
		}
	}
}

// FuzzFilter: what is accepted is stable as text and whole in the query.
func FuzzFilter(f *testing.F) {
	f.Add(`{"severity":["high"],"mscore_gte":0}`)
	f.Fuzz(func(t *testing.T, text string) {
		filter, _, err := ParseFilter(text)
		if err != nil {
			return
		}
		again, _, err := ParseFilter(filter.String())
		if err != nil {
			t.Fatalf("%s: %v", filter, err)
		}
		if diff := cmp.Diff(filter, again); diff != "" || filter.String() != again.String() {
			t.Fatalf("%s and %s: -first +again:\n%s", filter, again, diff)
		}
		v := url.Values{}
		filter.addTo(v)
		back, err := url.ParseQuery(v.Encode())
		if err != nil {
			t.Fatal(err)
		}
		for name, list := range map[string][]string{"tags": filter.Tags, "status": filter.Status, "match_value": filter.MatchValue} {
			if !slices.Equal(back[name], list) {
				t.Fatalf("%s became %q, want %q", name, back[name], list)
			}
		}
		if back.Get("search") != filter.Search {
			t.Fatalf("search became %q, want %q", back.Get("search"), filter.Search)
		}
	})
}
