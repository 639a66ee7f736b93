package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

func TestFault(t *testing.T) {
	tests := map[string]struct {
		text string
		want dtmsim.Fault
	}{
		"status":      {"status=503,every=7", dtmsim.Fault{Status: 503, Every: 7}},
		"spaces":      {"kind=page, nth=3, truncate=900", dtmsim.Fault{Kind: dtmsim.Page, Nth: 3, Truncate: 900}},
		"chance":      {"chance=0.25,times=2,status=429,retry-after=1", dtmsim.Fault{Chance: .25, Times: 2, Status: http.StatusTooManyRequests, RetryAfter: "1"}},
		"before":      {"reset=before", dtmsim.Fault{ResetBefore: true}},
		"after":       {"reset=after", dtmsim.Fault{ResetAfter: true}},
		"silence":     {"hang,truncate=10", dtmsim.Fault{Hang: true, Truncate: 10}},
		"instead":     {"kind=get,instead=other", dtmsim.Fault{Kind: dtmsim.Get, Instead: dtmsim.InsteadOther}},
		"ignored":     {"ignore-change", dtmsim.Fault{IgnoreChange: true}},
		"after work":  {"html,after-work", dtmsim.Fault{HTML: true, AfterWork: true}},
		"redirect":    {"redirect=https://other.example/a?b=c", dtmsim.Fault{Redirect: "https://other.example/a?b=c"}},
		"slow":        {"delay=2s,slow=100", dtmsim.Fault{Delay: 2 * time.Second, Slow: 100}},
		"empty page":  {"empty-page=extra", dtmsim.Fault{EmptyPage: dtmsim.EmptyExtra}},
		"page's form": {"null-alerts,repeat-token,again,disorder", dtmsim.Fault{NullAlerts: true, RepeatToken: true, Again: true, Disorder: true}},
		"malformed":   {"malformed=1", dtmsim.Fault{MalformedElement: dtmsim.MalformedElements()[0]}},
		"broken":      {"kind=list,broken=3", dtmsim.Fault{Kind: dtmsim.List, MalformedElement: dtmsim.BrokenElements()[2]}},
		"link":        {"link-host=https://other.example/v4", dtmsim.Fault{ForeignLinkHost: "https://other.example/v4"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var f fault
			if err := f.UnmarshalText([]byte(test.text)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, f.Fault, cmpopts.IgnoreFields(dtmsim.Fault{}, "When")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.text, diff)
			}
		})
	}
}

func TestFaultRefused(t *testing.T) {
	tests := map[string]string{
		"":                     "none of the words",
		"status=503,":          "none of the words",
		"every=7":              "not what happens",
		"status":               "from 200 to 999",
		"status=99":            "from 200 to 999",
		"hang=1":               "takes no value",
		"kind=all,hang":        "one of [list page",
		"nth=0,hang":           "from 1 to",
		"chance=2,hang":        "at most 1",
		"chance=NaN,hang":      "at most 1",
		"delay=2":              "a duration",
		"reset":                "one of [before after]",
		"retry-after":          "needs a value",
		"malformed=1000000000": "from 1 to",
		"broken=9":             "from 1 to 8",
	}
	for text, want := range tests {
		var f fault
		if err := f.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v; want one with %q", text, err, want)
		}
	}
}

// Every word that the help names is one.
func TestFaultHelp(t *testing.T) {
	words := regexp.MustCompile(`(?m)^\t([a-z-]+)`).FindAllStringSubmatch(faultHelp, -1)
	if len(words) < 20 {
		t.Fatalf("the help has %d words", len(words))
	}
	for _, word := range words {
		var f fault
		condition, _ := f.condition(word[1], "")
		effect, _ := f.effect(word[1], "")
		if condition == effect {
			t.Errorf("%s is in the help: condition %t, effect %t", word[1], condition, effect)
		}
	}
}
