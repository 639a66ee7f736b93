package writeback_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

// analyst in the place of a message is somebody who changes the alert by hand.
const analyst = "analyst sets new, no tags"

// rule is a message of a rule that closes the alert "a".
func rule(second int) string {
	return requestAt("a", second, `"status":"closed","expect_status":"new","on_conflict":"skip","requested_by":"rule:noise"`)
}

var anySeq = cmpopts.IgnoreFields(state.Echo{}, "Seq", "At")

// answered are the echoes whose version is known. One of an attempt that failed
// may be left beside them until the alert is published next.
func answered(echoes []state.Echo) []state.Echo {
	return slices.DeleteFunc(slices.Clone(echoes), func(e state.Echo) bool { return e.Version.IsZero() })
}

// TestWriteback delivers messages one after the other to the alert "a", which is
// new and has the tags One and two.
func TestWriteback(t *testing.T) {
	for _, c := range []struct {
		name     string
		messages []string
		results  string
		want     string
		patches  int
		reasons  []string
	}{
		{"a status", []string{requestAt("a", 1, `"status":"closed"`)}, "written", "closed One,two", 1, nil},
		{"a status that it has", []string{requestAt("a", 1, `"status":"new"`)}, "already", "new One,two", 0, nil},
		{"more tags", []string{requestAt("a", 1, `"add_tags":["three","TWO","four"]`)}, "written", "new One,two,three,four", 1, nil},
		{"tags that it has", []string{requestAt("a", 1, `"add_tags":["ONE"]`)}, "already", "new One,two", 0, nil},
		{"fewer tags", []string{requestAt("a", 1, `"remove_tags":["one","five"]`)}, "written", "new two", 1, nil},
		{"other tags", []string{requestAt("a", 1, `"tags":["b","a"]`)}, "written", "new b,a", 1, nil},
		{"the same tags", []string{requestAt("a", 1, `"tags":["TWO","one"]`)}, "already", "new One,two", 0, nil},
		{"no tags", []string{requestAt("a", 1, `"tags":[]`)}, "written", "new ", 1, nil},
		{"all at once", []string{requestAt("a", 1, `"status":"read","tags":["b"],"add_tags":["c"],"remove_tags":["one"]`)}, "written", "read b,c", 1, nil},
		{"half of it so", []string{requestAt("a", 1, `"status":"new","add_tags":["c"]`)}, "written", "new One,two,c", 1, nil},

		{
			"a duplicate undoes nothing",
			[]string{requestAt("a", 1, `"status":"closed","add_tags":["c"]`), analyst, requestAt("a", 1, `"status":"closed","add_tags":["c"]`)},
			"written already", "new ", 1, nil,
		},
		{
			"a duplicate of what needed no write",
			[]string{requestAt("a", 1, `"add_tags":["two"]`), analyst, requestAt("a", 1, `"add_tags":["two"]`)},
			"already already", "new ", 0, nil,
		},
		{
			"the later status counts",
			[]string{requestAt("a", 2, `"status":"closed"`), requestAt("a", 1, `"status":"read"`), requestAt("a", 3, `"status":"escalated"`)},
			"written superseded written", "escalated One,two", 2, nil,
		},
		{
			"of two at one moment the one that comes later counts",
			[]string{requestAt("a", 1, `"status":"closed"`), requestAt("a", 1, `"status":"read"`), requestAt("a", 1, `"status":"closed"`)},
			"written written already", "read One,two", 2, nil,
		},
		{
			"the later word on a tag counts",
			[]string{requestAt("a", 2, `"remove_tags":["TWO"]`), requestAt("a", 1, `"add_tags":["two"]`), requestAt("a", 3, `"add_tags":["two"]`)},
			"written superseded written", "new One,two", 2, nil,
		},
		{
			"a list counts for every tag",
			[]string{requestAt("a", 2, `"tags":["b"]`), requestAt("a", 1, `"add_tags":["c"]`), requestAt("a", 1, `"tags":["d"]`), requestAt("a", 3, `"add_tags":["e"]`)},
			"written superseded superseded written", "new b,e", 2, nil,
		},
		{
			"a list that comes late keeps what was said since",
			[]string{requestAt("a", 3, `"add_tags":["c"]`), requestAt("a", 4, `"remove_tags":["d"]`), requestAt("a", 2, `"tags":["d","e"]`)},
			"written already written", "new e,c", 2, nil,
		},
		{
			"a part is superseded",
			[]string{requestAt("a", 2, `"status":"closed"`), requestAt("a", 1, `"status":"read","add_tags":["c"]`)},
			"written written", "closed One,two,c", 2, nil,
		},

		{"as expected", []string{requestAt("a", 1, `"status":"closed","expect_status":"new"`)}, "written", "closed One,two", 1, nil},
		{
			"not as expected",
			[]string{requestAt("a", 1, `"status":"closed","expect_status":"read"`)},
			"rejected", "new One,two", 0,
			[]string{`writeback: the alert's status is "new", and expect_status is "read"`},
		},
		{"not as expected, but so", []string{requestAt("a", 1, `"status":"new","expect_status":"read"`)}, "already", "new One,two", 0, nil},
		{"what was expected is gone by its own doing", []string{
			requestAt("a", 1, `"status":"closed","expect_status":"new"`), requestAt("a", 1, `"status":"closed","expect_status":"new"`),
		}, "written already", "closed One,two", 1, nil},
		{
			"a rejected request supersedes nothing",
			[]string{requestAt("a", 2, `"status":"closed","expect_status":"read"`), requestAt("a", 1, `"status":"escalated"`)},
			"rejected written", "escalated One,two", 1,
			[]string{`writeback: the alert's status is "new", and expect_status is "read"`},
		},
		{"to be skipped, and as expected", []string{rule(1)}, "written", "closed One,two", 1, nil},
		{"to be skipped", []string{requestAt("a", 1, `"status":"closed","expect_status":"read","on_conflict":"skip"`)}, "superseded", "new One,two", 0, nil},
		{"to be skipped, but so", []string{requestAt("a", 1, `"status":"new","expect_status":"read","on_conflict":"skip"`)}, "already", "new One,two", 0, nil},
		{
			"to be rejected",
			[]string{requestAt("a", 1, `"status":"closed","expect_status":"read","on_conflict":"reject"`)},
			"rejected", "new One,two", 0,
			[]string{`writeback: the alert's status is "new", and expect_status is "read"`},
		},
		{
			"a skipped request supersedes nothing",
			[]string{requestAt("a", 2, `"status":"closed","expect_status":"read","on_conflict":"skip"`), requestAt("a", 1, `"status":"escalated"`)},
			"superseded written", "escalated One,two", 1, nil,
		},
		{"a rule's message twice", []string{rule(1), rule(2)}, "written already", "closed One,two", 1, nil},
		{"a rule's message twice, and an analyst between", []string{rule(1), analyst, rule(2)}, "written already", "new ", 1, nil},
		{"a rule's message twice, the later one first", []string{rule(2), analyst, rule(1)}, "written already", "new ", 1, nil},
		{
			"a rule's message twice, and a write-back between",
			[]string{rule(1), requestAt("a", 2, `"status":"new","requested_by":"soar"`), rule(3), rule(4)},
			"written written already already", "new One,two", 2, nil,
		},
		{
			"a rule's message twice, with more",
			[]string{rule(1), analyst, requestAt("a", 2, `"status":"closed","add_tags":["x"],"expect_status":"new","on_conflict":"skip","requested_by":"rule:noise"`)},
			"written written", "new x", 2, nil,
		},
		{
			"a rule's tags twice, and an analyst between",
			[]string{
				requestAt("a", 1, `"add_tags":["x"],"expect_status":"new","on_conflict":"skip","requested_by":"rule:noise"`), analyst,
				requestAt("a", 2, `"add_tags":["x"],"expect_status":"new","on_conflict":"skip","requested_by":"rule:noise"`),
			},
			"written already", "new ", 1, nil,
		},
		{
			"another rule's message",
			[]string{rule(1), analyst, requestAt("a", 2, `"status":"closed","expect_status":"new","on_conflict":"skip","requested_by":"rule:other"`)},
			"written written", "closed ", 2, nil,
		},
		{
			"another message of the rule",
			[]string{rule(1), analyst, requestAt("a", 2, `"status":"read","expect_status":"new","on_conflict":"skip","requested_by":"rule:noise"`)},
			"written written", "read ", 2, nil,
		},
		{
			"once more after something else",
			[]string{rule(1), requestAt("a", 2, `"status":"new","requested_by":"rule:noise"`), rule(3)},
			"written written written", "closed One,two", 3, nil,
		},
		{
			"who doesn't ask to skip is served again",
			[]string{requestAt("a", 1, `"status":"closed","requested_by":"soar"`), analyst, requestAt("a", 2, `"status":"closed","requested_by":"soar"`)},
			"written written", "closed ", 2, nil,
		},
		{
			"so is who asks to skip, but for a rule",
			[]string{
				requestAt("a", 1, `"status":"closed","expect_status":"new","on_conflict":"skip","requested_by":"soar"`), analyst,
				requestAt("a", 2, `"status":"closed","expect_status":"new","on_conflict":"skip","requested_by":"soar"`),
			},
			"written written", "closed ", 2, nil,
		},
		{
			"an alert that is not there",
			[]string{requestAt("b", 1, `"status":"closed"`)},
			"rejected", "new One,two", 0,
			[]string{"writeback: unknown alert"},
		},
		{
			"nonsense",
			[]string{"", "[]", requestAt("a", 1, `"status":"done"`)},
			"rejected rejected rejected", "new One,two", 0,
			[]string{"writeback: the data is not valid JSON", "writeback: the data is not a JSON object", `writeback: status is "done"; allowed: ` + strings.Join(dtm.Statuses, ", ")},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, alert("a", "One", "two"))
				p := o.newProcess()
				var results []string
				for _, m := range c.messages {
					time.Sleep(time.Second)
					if m == analyst {
						o.api.Update("a", func(a *dtmsim.Alert) { a.Status, a.Tags = "new", nil })
						continue
					}
					out, err := p.deliver(t.Context(), m)
					if err != nil {
						t.Fatal(err)
					}
					results = append(results, out.Result)
				}
				if got := strings.Join(results, " "); got != c.results {
					t.Errorf("outcomes %q, want %q", got, c.results)
				}
				if got := o.now("a"); got != c.want {
					t.Errorf("the alert is %q, want %q", got, c.want)
				}
				if got := o.asked(dtmsim.Patch); got != c.patches {
					t.Errorf("%d changes sent, want %d", got, c.patches)
				}
				if diff := cmp.Diff(c.reasons, o.reasons()); diff != "" {
					t.Error(diff)
				}
				for _, w := range o.record("a").Intents {
					if w.Open {
						t.Errorf("%+v is open", w)
					}
				}
			})
		})
	}
}

func TestWritebackLeavesEchoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a", "one"))
		p := o.newProcess()
		deliver := func(m string) {
			t.Helper()
			if _, err := p.deliver(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		version := func() time.Time {
			all := o.api.Versions("a")
			return all[len(all)-1].UpdatedAt
		}
		check := func(want ...state.Echo) {
			t.Helper()
			if diff := cmp.Diff(want, o.record("a").Echoes, anySeq); diff != "" {
				t.Error(diff)
			}
		}
		deliver(requestAt("a", 1, `"status":"closed","tags":[]`))
		first := state.Echo{Version: version(), Status: "closed", Tags: []string{}}
		check(first)
		time.Sleep(time.Minute)
		deliver(requestAt("a", 2, `"add_tags":["x"]`))
		second := state.Echo{Version: version(), Tags: []string{"x"}}
		check(first, second)

		// After an answer that can't be read the alert says which version it is.
		o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, AfterWork: true, Status: 200, Body: "{}", Times: 1})
		deliver(requestAt("a", 3, `"status":"read"`))
		lost := state.Echo{Version: version(), Status: "read"}
		check(first, second, lost)

		// Its echo comes between the write and its record.
		p.pause = func(kind string) time.Duration {
			if kind == "patch" && o.now("a") == "escalated x" {
				o.edit(func(r *state.Record) { r.PublishedVersion, r.Echoes = version(), []state.Echo{first} })
			}
			return 0
		}
		deliver(requestAt("a", 4, `"status":"escalated"`))
		check(first)

		// No more than eight are kept.
		p.pause = func(string) time.Duration { return time.Second }
		for i := range 9 {
			deliver(requestAt("a", 5+i, fmt.Sprintf(`"add_tags":["t%d"]`, i)))
		}
		echoes := o.record("a").Echoes
		if n := len(echoes); n != 8 || !echoes[7].Version.Equal(version()) || slices.ContainsFunc(echoes, func(e state.Echo) bool { return e.Version.Equal(first.Version) }) {
			t.Errorf("%+v", echoes)
		}
		if r := o.record("a"); !r.ExpireAt.Equal(time.Now().UTC().Add(time.Hour - 2*time.Second)) {
			t.Errorf("expires at %v, now is %v", r.ExpireAt, time.Now())
		}
	})
}

// TestWritebackReplacesEchoes: an echo of a status that was never seen, and of which no
// intent is open, is replaced by that of the next status, and by nothing else.
func TestWritebackReplacesEchoes(t *testing.T) {
	for _, c := range []struct {
		name   string
		left   state.Echo
		open   bool // an intent of it
		fields string
		kept   bool
	}{
		{"a status by a status", state.Echo{Status: "read"}, false, `"status":"closed"`, false},
		{"a status by both", state.Echo{Status: "read", Tags: []string{"y"}}, false, `"status":"closed","add_tags":["x"]`, false},
		{"a status by tags", state.Echo{Status: "read"}, false, `"add_tags":["x"]`, true},
		{"tags by a status", state.Echo{Tags: []string{"y"}}, false, `"status":"closed"`, true},
		{"one that may still come", state.Echo{Status: "read"}, true, `"status":"closed"`, true},
		{"one that has come", state.Echo{Status: "read", Version: time.Date(1999, 12, 31, 23, 50, 0, 0, time.UTC)}, false, `"status":"closed"`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, alert("a"))
				c.left.Seq, c.left.At = 1, time.Now().UTC().Add(-time.Minute)
				o.edit(func(r *state.Record) {
					r.IntentSeq, r.Echoes = 1, []state.Echo{c.left}
					// Not of the status, or the message would supersede it.
					r.Intents = []state.Intent{{Field: state.IntentAddTag, Values: []string{"y"}, At: c.left.At, Seq: 1, Open: c.open}}
				})
				if out, err := o.newProcess().deliver(t.Context(), requestAt("a", 1, c.fields)); err != nil || out.Result != "written" {
					t.Fatalf("%+v, %v", out, err)
				}
				echoes := o.record("a").Echoes
				if kept := slices.ContainsFunc(echoes, func(e state.Echo) bool { return cmp.Equal(e, c.left) }); kept != c.kept {
					t.Errorf("kept %t: %+v", kept, echoes)
				}
			})
		})
	}
}

// TestWritebackKeepsTwoEqualEchoes: each write may have made a version, and more than two
// of one message's are not looked for.
func TestWritebackKeepsTwoEqualEchoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, ResetBefore: true, Times: 3})
		for _, want := range []int{1, 2, 2} {
			if _, err := o.newProcess().deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err == nil {
				t.Fatal("no error without a network")
			}
			if echoes := o.record("a").Echoes; len(echoes) != want {
				t.Errorf("%d echoes, want %d: %+v", len(echoes), want, echoes)
			}
		}
	})
}

// TestWritebackAnswers is what follows from the API's answers to a read and to a
// change.
func TestWritebackAnswers(t *testing.T) {
	const m = `"status":"closed"`
	for _, c := range []struct {
		name   string
		fault  dtmsim.Fault
		reason string // of a rejected message, else it comes again
		done   bool   // the change is made all the same
		stays  bool   // nobody knows whether it will be made: the lease is kept
	}{
		{name: "400", fault: dtmsim.Fault{Status: 400}, reason: "writeback: refused by GTI: GTI answered 400 BadRequestError: The API request is invalid or malformed."},
		{name: "404", fault: dtmsim.Fault{Status: 404}, reason: "writeback: unknown alert"},
		{name: "422", fault: dtmsim.Fault{Status: 422, Body: `{"message":"key-1 conflicts"}`}, reason: "writeback: refused by GTI: GTI answered 422: [API key] conflicts"},
		{name: "400, not yet", fault: dtmsim.Fault{Status: 400, Body: dtmsim.ErrorBody("NotAvailableYet", "m")}},
		{name: "400 of a proxy", fault: dtmsim.Fault{Status: 400, HTML: true}, stays: true},
		{name: "404 of a proxy", fault: dtmsim.Fault{Status: 404, HTML: true}, stays: true},
		{name: "407", fault: dtmsim.Fault{Status: 407}},
		{name: "409", fault: dtmsim.Fault{Status: 409}},
		{name: "410", fault: dtmsim.Fault{Status: 410}, reason: "writeback: refused by GTI: GTI answered 410: Gone"},
		{name: "410 of a proxy", fault: dtmsim.Fault{Status: 410, HTML: true}, stays: true},
		{name: "413", fault: dtmsim.Fault{Status: 413}, reason: "writeback: refused by GTI: GTI answered 413: Request Entity Too Large"},
		{name: "421", fault: dtmsim.Fault{Status: 421, HTML: true}, stays: true},
		{name: "423", fault: dtmsim.Fault{Status: 423}},
		{name: "424", fault: dtmsim.Fault{Status: 424}},
		{name: "425", fault: dtmsim.Fault{Status: 425}},
		{name: "200 with an error", fault: dtmsim.Fault{Instead: dtmsim.InsteadError}, stays: true},
		{name: "401", fault: dtmsim.Fault{Status: 401}},
		{name: "403", fault: dtmsim.Fault{Status: 403}},
		{name: "408", fault: dtmsim.Fault{Status: 408}, stays: true},
		{name: "429", fault: dtmsim.Fault{Status: 429}},
		{name: "quota", fault: dtmsim.Fault{Status: 429, Body: dtmsim.QuotaExceeded}},
		{name: "500", fault: dtmsim.Fault{Status: 500}},
		{name: "503", fault: dtmsim.Fault{Status: 503, RetryAfter: "7"}},
		{name: "elsewhere", fault: dtmsim.Fault{Redirect: "https://evil.example/"}},
		{name: "reset", fault: dtmsim.Fault{ResetBefore: true}, stays: true},
		{name: "reset afterwards", fault: dtmsim.Fault{ResetAfter: true}, done: true, stays: true},
		{name: "500 afterwards", fault: dtmsim.Fault{Status: 500, AfterWork: true}, done: true},
		{name: "silence", fault: dtmsim.Fault{Hang: true, AfterWork: true}, done: true, stays: true},
		{name: "502", fault: dtmsim.Fault{Status: 502}, stays: true},
		{name: "504", fault: dtmsim.Fault{Status: 504}, stays: true},
		{name: "a gateway", fault: dtmsim.Fault{Status: 502, HTML: true}, stays: true},
	} {
		for _, kind := range []dtmsim.Kind{dtmsim.Get, dtmsim.Patch} {
			t.Run(c.name+" "+string(kind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := newWorld(dtmsim.Options{}, alert("a"))
					c.fault.Kind, c.fault.Times = kind, 1
					o.api.AddFault(c.fault)
					p := o.newProcess()
					data := requestAt("a", 1, m)
					out, err := p.deliver(t.Context(), data)
					if c.reason != "" {
						if err != nil || out.Result != "rejected" || "writeback: "+out.Reason != c.reason {
							t.Fatalf("%+v, %v", out, err)
						}
						if diff := cmp.Diff([]string{c.reason}, o.reasons()); diff != "" {
							t.Error(diff)
						}
						if got := string(o.rejected[0].Data); got != data {
							t.Errorf("rejected %q", got)
						}
						if r := o.record("a"); len(r.Intents)+len(r.Echoes) != 0 || r.WriteLease != nil {
							t.Errorf("%+v", r)
						}
						return
					}
					if err == nil || len(o.rejected) > 0 {
						t.Fatalf("%+v, %v", out, o.reasons())
					}
					if n := o.asked(kind); n > c.fault.Times || kind == dtmsim.Get && o.asked(dtmsim.Patch) > 0 {
						t.Errorf("%d requests", n)
					}
					if kind == dtmsim.Get && len(o.ledger) > 0 {
						t.Errorf("recorded before the alert was read: %+v", o.record("a"))
					}
					if lease := o.record("a").WriteLease; (lease != nil) != (c.stays && kind == dtmsim.Patch) {
						t.Errorf("the lease afterwards: %+v", lease)
					}
					time.Sleep(24 * time.Hour) // Pub/Sub would come back sooner
					out, err = p.deliver(t.Context(), data)
					want := "written"
					if c.done && kind == dtmsim.Patch {
						want = "already"
					}
					if err != nil || out.Result != want || o.now("a") != "closed " {
						t.Errorf("%+v, %v, alert %q", out, err, o.now("a"))
					}
					versions := o.api.Versions("a")
					echo := state.Echo{Version: versions[len(versions)-1].UpdatedAt, Status: "closed"}
					if diff := cmp.Diff([]state.Echo{echo}, answered(o.record("a").Echoes), anySeq); diff != "" {
						t.Error(diff)
					}
				})
			})
		}
	}
}

// TestUnknownInOtherWords: the form of a 404 of GTI's is not known. A request for an alert
// that the feed has not relayed is rejected by any but a web page, and one for an alert
// that it has relayed comes again.
func TestUnknownInOtherWords(t *testing.T) {
	for _, c := range []struct {
		body           string
		html           bool
		relayed, comes bool
	}{
		{body: " "},
		{body: "{}"},
		{body: "404 page not found"},
		{body: `{"error":"no such alert"}`},
		{body: `{"error":{"code":404,"message":"m"}}`},
		{body: `{"error":{"code":"AlertNotFound"}}`},
		{html: true, comes: true},
		{body: `{"error":"no such alert"}`, relayed: true, comes: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, alert("a"))
			if c.relayed {
				o.edit(func(r *state.Record) { r.HandledVersion, r.PublishedVersion = time.Now(), time.Now() })
			}
			o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Get, Status: 404, Body: c.body, HTML: c.html, Times: 1})
			out, err := o.newProcess().deliver(t.Context(), requestAt("a", 1, `"status":"closed"`))
			if comes := err != nil; comes != c.comes || !comes && out.Reason != "unknown alert" {
				t.Errorf("%+v: %+v, %v", c, out, err)
			}
		})
	}
}

// TestWritebackReadsSomethingElse: an answer of 200 that is not the alert says
// nothing about it, and nothing is changed or rejected for it.
func TestWritebackReadsSomethingElse(t *testing.T) {
	for _, what := range []dtmsim.Instead{dtmsim.InsteadError, dtmsim.InsteadNull, dtmsim.InsteadObject, dtmsim.InsteadList, dtmsim.InsteadOther} {
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, alert("a"))
			o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Get, Instead: what, Times: 1})
			p := o.newProcess()
			if out, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err == nil || len(o.rejected) > 0 || o.asked(dtmsim.Patch) > 0 {
				t.Errorf("%s: %+v, rejected %q", what, out, o.reasons())
			}
			if out, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err != nil || out.Result != "written" || o.now("a") != "closed " {
				t.Errorf("%s: %+v, %v, alert %q", what, out, err, o.now("a"))
			}
		})
	}
}

// TestWritebackStopsAtARefusedKey: while the key is refused, or has no quota left,
// it costs one request for each pause, whatever comes, and none once there is
// another key.
func TestWritebackStopsAtARefusedKey(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		testPauses[*dtm.KeyError](t, dtmsim.Options{Key: "key-2"}, dtmsim.Fault{})
	})
	t.Run("without quota", func(t *testing.T) {
		testPauses[*dtm.QuotaError](t, dtmsim.Options{}, dtmsim.Fault{
			Status: 429, Body: dtmsim.QuotaExceeded, When: func(r *http.Request) bool { return r.Header.Get("X-Apikey") == "key-1" },
		})
	})
}

// testPauses lets six messages come each second.
func testPauses[Cause error](t *testing.T, options dtmsim.Options, fault dtmsim.Fault) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(options, alert("a"), alert("b"), alert("c"), alert("d"), alert("e"), alert("f"))
		if fault.When != nil {
			o.api.AddFault(fault)
		}
		for _, id := range []string{"b", "d", "f"} { // the pause is for all, whatever their share
			o.editOf(id, func(rec *state.Record) { rec.HandledVersion = time.Now() })
		}
		p := o.newProcess()
		flood := func() (transient int) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
				wg.Go(func() {
					_, err := p.deliver(t.Context(), requestAt(id, 1, `"status":"closed"`))
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						transient++
					}
				})
			}
			wg.Wait()
			return transient
		}
		began := time.Now()
		var times []time.Duration
		for sent := 0; time.Since(began) < time.Hour; time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) {
			if n := flood(); n != 6 {
				t.Fatalf("%d of 6 come again", n)
			}
			if n := o.asked(dtmsim.Get); n > sent {
				if n > sent+1 {
					t.Fatalf("%d requests with a refused key at once", n-sent)
				}
				sent = n
				times = append(times, time.Since(began).Round(time.Second))
			}
		}
		want := []time.Duration{0, 30 * time.Second, 90 * time.Second, 210 * time.Second, 450 * time.Second, 930 * time.Second, 1530 * time.Second, 2130 * time.Second, 2730 * time.Second, 3330 * time.Second}
		if diff := cmp.Diff(want, times); diff != "" {
			t.Error(diff)
		}
		var paused *writeback.PausedError
		var cause Cause
		if _, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); !errors.As(err, &paused) || !errors.As(err, &cause) || paused.RetryAfter <= 0 || paused.RetryAfter > 10*time.Minute {
			t.Errorf("%v", err)
		}
		o.keys.set("key-2", nil)
		if n := flood(); n != 0 {
			t.Errorf("%d come again with a new key", n)
		}
	})
}

// TestWritebacksToUnknownAlertsStopFirst: who names alerts that don't exist stops
// neither those who name the feed's own nor anybody else.
func TestWritebacksToUnknownAlertsStopFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"), alert("b"), alert("c"), alert("rejected"), alert("asked"))
		p := o.newProcess()
		o.editOf("b", func(rec *state.Record) {
			rec.HandledVersion, rec.PublishedVersion = time.Now(), time.Now().Add(-time.Hour)
		})
		o.editOf("rejected", func(rec *state.Record) { rec.HandledVersion = time.Now() })
		deliver := func(id string) (string, error) {
			out, err := p.deliver(t.Context(), requestAt(id, 1, `"status":"closed"`))
			return out.Result, err
		}
		if result, err := deliver("a"); result != writeback.Written || err != nil {
			t.Errorf("an alert that the feed has not relayed yet: %s, %v", result, err)
		}
		for i := range 10 {
			if result, err := deliver(fmt.Sprintf("none%d", i)); result != writeback.Rejected || err != nil {
				t.Fatalf("no. %d of those that don't exist: %s, %v", i+1, result, err)
			}
		}
		asked := o.asked(dtmsim.Get)
		o.editOf("asked", func(rec *state.Record) { // a record with only an intent
			rec.Intents = []state.Intent{{Field: state.IntentAddTag, Values: []string{"x"}, Seq: 1}}
		})
		for _, id := range []string{"c", "asked", "none10"} {
			_, err := deliver(id)
			budget := (*dtm.BudgetError)(nil)
			if !errors.As(err, &budget) || budget.Limit != 10 || budget.Used != 10 || budget.RetryAfter <= 0 || !strings.Contains(err.Error(), "relayed no alert with this id") {
				t.Errorf("%s: %v", id, err)
			}
		}
		if n := o.asked(dtmsim.Get); n != asked {
			t.Errorf("%d requests beyond the share", n-asked)
		}
		for _, id := range []string{"b", "rejected"} {
			if result, err := deliver(id); result != writeback.Written || err != nil {
				t.Errorf("%s: %s, %v", id, result, err)
			}
		}
		time.Sleep(time.Hour)
		if result, err := deliver("c"); result != writeback.Written || err != nil {
			t.Errorf("an hour later: %s, %v", result, err)
		}
	})
}

// TestWritebackGoesOnAfterTheQuota: it was raised, or a new day has begun. The next
// pause is a short one again.
func TestWritebackGoesOnAfterTheQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		o.api.AddFault(dtmsim.Fault{Status: 429, Body: dtmsim.QuotaExceeded, Times: 2})
		p := o.newProcess()
		deliver := func(n int) error {
			_, err := p.deliver(t.Context(), requestAt("a", n, fmt.Sprintf(`"add_tags":["t%d"]`, n)))
			return err
		}
		for n, pause := range []time.Duration{30 * time.Second, time.Minute} {
			if deliver(n) == nil {
				t.Fatal("no error without a quota")
			}
			var paused *writeback.PausedError
			if err := deliver(n); !errors.As(err, &paused) || paused.RetryAfter != pause {
				t.Errorf("no. %d: %v, want a pause of %v", n, err, pause)
			}
			time.Sleep(pause)
		}
		if err := deliver(3); err != nil {
			t.Error(err)
		}
		o.api.AddFault(dtmsim.Fault{Status: 429, Body: dtmsim.QuotaExceeded, Times: 1})
		if deliver(4) == nil {
			t.Fatal("no error without a quota")
		}
		time.Sleep(30 * time.Second)
		if err := deliver(4); err != nil {
			t.Error(err)
		}
	})
}

// TestWritebackWaitsAsLongAsItIsAsked: whoever answers that nothing is to be sent for an
// hour, is not asked again by the messages that come meanwhile.
func TestWritebackWaitsAsLongAsItIsAsked(t *testing.T) {
	for _, html := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, alert("a"))
			o.api.AddFault(dtmsim.Fault{Status: 429, RetryAfter: "3600", HTML: html})
			p := o.newProcess()
			for n := range 6 {
				if _, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err == nil {
					t.Fatal("no error")
				}
				if got := o.asked(dtmsim.Get); got != 1 {
					t.Fatalf("HTML %t: after %d deliveries there were %d requests, want 1", html, n+1, got)
				}
				time.Sleep(time.Minute)
			}
		})
	}
}

// TestWritebackOfAStaleRead: a read that shows the alert as it was before the last change is
// made again, and ends the delivery where it goes on so.
func TestWritebackOfAStaleRead(t *testing.T) {
	for stale, want := range map[int]string{1: "one x y", 3: "one x y", 4: "one x"} {
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, dtmsim.Alert{ID: "a", CreatedAt: time.Now().Add(-time.Hour), Body: []byte(
				`{"id":"a","status":"new","tags":["one"],"created_at":"1999-12-31T23:00:00Z","updated_at":"1999-12-31T23:00:00Z"}`)})
			p := o.newProcess()
			if out, err := p.deliver(t.Context(), requestAt("a", 1, `"add_tags":["x"]`)); err != nil || out.Result != writeback.Written {
				t.Fatal(out, err)
			}
			o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Get, Status: http.StatusOK, Times: stale, Body: `{"id":"a","status":"new","tags":["one"],` +
				`"created_at":"1999-12-31T23:00:00Z","updated_at":"1999-12-31T23:00:00Z"}`})
			_, err := p.deliver(t.Context(), requestAt("a", 2, `"add_tags":["y"]`))
			if failed := err != nil; failed != (stale == 4) {
				t.Errorf("%d stale reads: %v", stale, err)
			}
			if got := strings.TrimPrefix(o.now("a"), "new "); strings.ReplaceAll(got, ",", " ") != want {
				t.Errorf("%d stale reads: the tags are %s, want %s", stale, got, want)
			}
		})
	}
}

// TestWritebackAfterA429: it says that nothing was done, whoever says it. So the next
// delivery has not to wait for the lease's end.
func TestWritebackAfterA429(t *testing.T) {
	for _, html := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, alert("a"))
			o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, Status: 429, HTML: html, Times: 1})
			p := o.newProcess()
			if _, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err == nil {
				t.Fatal("no error")
			}
			time.Sleep(2 * time.Second) // what the client pauses after a 429 is less
			began := time.Now()
			if out, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err != nil || out.Result != writeback.Written {
				t.Fatal(out, err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("HTML %t: it took %v", html, took)
			}
		})
	}
}

// TestWritebackAfterTheSecretFailed: a session that a failed read of the secret
// has ended is not used again.
func TestWritebackAfterTheSecretFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{Key: "key-2"}, alert("a"))
		p := o.newProcess()
		p.pause = func(kind string) time.Duration {
			if kind == "get" {
				o.keys.set("key-1", errors.New("the secret is out of reach"))
			}
			return 0
		}
		if _, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err == nil {
			t.Fatal("no error")
		}
		p.pause = func(string) time.Duration { return 0 }
		o.keys.set("key-2", nil)
		if out, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err != nil || out.Result != "written" {
			t.Errorf("%+v, %v", out, err)
		}
	})
}

// TestWritebackCrash lets a process die at each of its steps, before or after it
// was done. Then the message is delivered again.
func TestWritebackCrash(t *testing.T) {
	for _, c := range []struct {
		name, message, want string
		reject              bool
	}{
		{"a change", requestAt("a", 1, `"status":"closed","add_tags":["x"],"expect_status":"new"`), "closed one,x", false},
		{"nothing to change", requestAt("a", 1, `"status":"new"`), "new one", false},
		{"a rejected one", requestAt("a", 1, `"status":"closed","expect_status":"read"`), "new one", true},
		{"a skipped one", requestAt("a", 1, `"status":"closed","expect_status":"read","on_conflict":"skip"`), "new one", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for step := 1; ; step++ {
				reached := true
				for _, late := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						o := newWorld(dtmsim.Options{}, alert("a", "one"))
						p := o.newProcess()
						p.dies, p.late = step, late
						if _, err := p.deliver(t.Context(), c.message); err == nil {
							reached = p.dead
							if reached {
								t.Errorf("step %d: acknowledged by a dead process", step)
							}
						}
						time.Sleep(10 * time.Second)
						out, err := o.newProcess().deliver(t.Context(), c.message)
						if err != nil || (out.Result == "rejected") != c.reject || o.now("a") != c.want {
							t.Errorf("step %d: %+v, %v, the alert is %q", step, out, err, o.now("a"))
						}
						if n := o.asked(dtmsim.Patch); n > 1 {
							t.Errorf("step %d: %d changes sent", step, n)
						}
						r := o.record("a")
						versions := o.api.Versions("a")
						for _, w := range r.Intents {
							if w.Open {
								t.Errorf("step %d: %+v is open", step, w)
							}
						}
						if len(versions) == 2 {
							want := []state.Echo{{Version: versions[1].UpdatedAt, Status: "closed", Tags: []string{"one", "x"}}}
							if diff := cmp.Diff(want, answered(r.Echoes), anySeq); diff != "" {
								t.Errorf("step %d: %s", step, diff)
							}
						}
					})
				}
				if !reached {
					if step < 3 {
						t.Errorf("only %d steps", step)
					}
					return
				}
			}
		})
	}
}

// TestWritebackOneAtATime: while one process has a change on its way, or stands still
// or is dead since, no other acknowledges anything that this change could undo.
func TestWritebackOneAtATime(t *testing.T) {
	for _, c := range []struct {
		name    string
		pause   time.Duration // before the first change is made, and after it
		dies    bool          // with the change
		results string        // of the second message, of the first one, and when that comes again
		waits   time.Duration // until the second message is done
		patches int
	}{
		{"it is slow", 3 * time.Second, false, "written written already", 6100 * time.Millisecond, 2},
		{"it stands still", 20 * time.Second, false, "already error written", 30 * time.Second, 1},
		{"it dies", 3 * time.Second, true, "written error already", 30 * time.Second, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, alert("a", "own"))
				slow, fast := o.newProcess(), o.newProcess()
				slow.pause = func(kind string) time.Duration {
					if kind == "patch" {
						return c.pause
					}
					return 0
				}
				if c.dies {
					slow.dies, slow.late = 4, true // after read, get and write
				}
				first, second := requestAt("a", 1, `"status":"in_progress","add_tags":["c"]`), requestAt("a", 2, `"remove_tags":["c"]`)
				results := make([]string, 3)
				deliver := func(i int, p *process, data string) {
					out, err := p.deliver(t.Context(), data)
					if results[i] = out.Result; err != nil {
						results[i] = "error"
					}
				}
				began := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() { deliver(1, slow, first) })
				wg.Go(func() {
					time.Sleep(time.Millisecond)
					deliver(0, fast, second)
					if waited := time.Since(began); waited < c.waits || waited > c.waits+2*time.Second {
						t.Errorf("the second is done after %v, want %v", waited, c.waits)
					}
				})
				wg.Wait()
				if got := o.now("a"); strings.Contains(got, "c,") || strings.HasSuffix(got, "c") {
					t.Errorf("when both are answered: %q", got)
				}
				deliver(2, o.newProcess(), first)
				if got := strings.Join(results, " "); got != c.results {
					t.Errorf("outcomes %q, want %q", got, c.results)
				}
				if got := o.now("a"); got != "in_progress own" {
					t.Errorf("in the end: %q", got)
				}
				if got := o.asked(dtmsim.Patch); got != c.patches {
					t.Errorf("%d changes, want %d", got, c.patches)
				}
				if r := o.record("a"); r.WriteLease != nil || slices.ContainsFunc(r.Intents, func(w state.Intent) bool { return w.Open }) {
					t.Errorf("something is left open: %+v", r)
				}
			})
		})
	}
}

// TestWritebackLosesItsLease: a process that stood still after its change, until
// another one has the lease, leaves that one alone, and looks at the alert again.
func TestWritebackLosesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		slow, fast := o.newProcess(), o.newProcess()
		slow.pause = func(kind string) time.Duration {
			if kind == "patch" && o.asked(dtmsim.Patch) == 1 { // once it is made
				return 31 * time.Second
			}
			return 0
		}
		fast.pause = func(kind string) time.Duration {
			if kind == "patch" {
				return 5 * time.Second
			}
			return 0
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(time.Second)
			if out, err := fast.deliver(t.Context(), requestAt("a", 2, `"status":"read"`)); err != nil || out.Result != "written" {
				t.Errorf("the fast one: %+v, %v", out, err)
			}
		})
		wg.Go(func() {
			out, err := slow.deliver(t.Context(), requestAt("a", 1, `"status":"closed","add_tags":["x"]`))
			if err != nil || out.Result != "written" {
				t.Errorf("the slow one: %+v, %v", out, err)
			}
			if waited := time.Since(time.Date(2000, 1, 1, 0, 0, 40, 0, time.UTC)); waited < 0 {
				t.Errorf("it is done %v before the other one", -waited)
			}
		})
		time.Sleep(32 * time.Second)
		synctest.Wait()
		if r := o.record("a"); r.WriteLease == nil || !r.WriteLease.ExpiresAt.Equal(time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC)) {
			t.Errorf("the fast one's lease is %+v", r.WriteLease)
		}
		wg.Wait()
		if r := o.record("a"); o.now("a") != "read x" || o.asked(dtmsim.Patch) != 2 || r.WriteLease != nil {
			t.Errorf("in the end: %q after %d changes, %+v", o.now("a"), o.asked(dtmsim.Patch), r.WriteLease)
		}
	})
}

// TestWritebackSendsNothingLate: a process that stood still between its record and its
// change, until another one had the lease, sends nothing.
func TestWritebackSendsNothingLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a", "own"))
		slow, fast := o.newProcess(), o.newProcess()
		slow.pause = func(kind string) time.Duration {
			if kind == "write" && o.record("a").WriteLease != nil {
				return 31 * time.Second
			}
			return 0
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if out, err := slow.deliver(t.Context(), requestAt("a", 1, `"add_tags":["c"]`)); err == nil {
				t.Errorf("the slow one is acknowledged: %+v", out)
			}
		})
		wg.Go(func() {
			time.Sleep(time.Second)
			if out, err := fast.deliver(t.Context(), requestAt("a", 2, `"add_tags":["d"]`)); err != nil || out.Result != "written" {
				t.Errorf("the fast one: %+v, %v", out, err)
			}
		})
		wg.Wait()
		if got := o.now("a"); got != "new own,d" || o.asked(dtmsim.Patch) != 1 {
			t.Errorf("the alert is %q after %d changes, want only the fast one's", got, o.asked(dtmsim.Patch))
		}
		if r := o.record("a"); r.WriteLease != nil {
			t.Errorf("there is still a lease: %+v", r.WriteLease)
		}
	})
}

// TestWritebackHasOneVerdict: of two deliveries of a message that are at work at once, and
// read different alerts, one alone decides whether it is written or rejected.
func TestWritebackHasOneVerdict(t *testing.T) {
	type delivered struct {
		at     time.Duration // when its delivery comes
		kind   string        // of the steps before and after which it pauses
		pauses time.Duration
		want   string
	}
	for _, c := range []struct {
		name          string
		onConflict    string
		analyst       time.Duration // when somebody sets the status to read
		refused       bool          // by GTI: the first change that is sent
		first, second delivered
		status        string
		reasons       int
	}{
		{
			"rejected before the change begins", "reject", 500 * time.Millisecond, false,
			delivered{0, "write", 2 * time.Second, "rejected"},
			delivered{time.Second, "", 0, "rejected"},
			"read ", 2,
		},
		{
			"skipped before the change begins", "skip", 500 * time.Millisecond, false,
			delivered{0, "write", 2 * time.Second, "superseded"},
			delivered{time.Second, "", 0, "superseded"},
			"read ", 0,
		},
		{
			"not as expected after the change has begun", "reject", 2 * time.Second, false,
			delivered{0, "get", 5 * time.Second, "already"},
			delivered{time.Second, "patch", 6 * time.Second, "written"},
			"closed ", 0,
		},
		{
			"not as expected after the change is done", "reject", 2 * time.Second, false,
			delivered{0, "get", 5 * time.Second, "already"},
			delivered{time.Second, "", 0, "written"},
			"read ", 0,
		},
		{
			"refused by GTI after the lease was lost", "reject", time.Hour, true,
			delivered{0, "patched", 31 * time.Second, "already"},
			delivered{time.Second, "patch", 2 * time.Second, "written"},
			"closed ", 0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, alert("a"))
				// As one that was written when LEDGER_TTL was longer.
				o.edit(func(r *state.Record) { r.ExpireAt = time.Now().Add(48 * time.Hour) })
				if c.refused {
					o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, Status: 400, Times: 1})
				}
				data := requestAt("a", 1, fmt.Sprintf(`"status":"closed","expect_status":"new","on_conflict":%q`, c.onConflict))
				var wg sync.WaitGroup
				for _, d := range []delivered{c.first, c.second} {
					wg.Go(func() {
						time.Sleep(d.at)
						p := o.newProcess()
						p.pause = func(kind string) time.Duration {
							if kind == d.kind || kind == "patch" && d.kind == "patched" && o.asked(dtmsim.Patch) == 1 {
								return d.pauses
							}
							return 0
						}
						if out, err := p.deliver(t.Context(), data); err != nil || out.Result != d.want {
							t.Errorf("the delivery of %v: %+v, %v, want %s", d.at, out, err, d.want)
						}
					})
				}
				time.Sleep(c.analyst)
				if !c.refused {
					o.api.Update("a", func(a *dtmsim.Alert) { a.Status = "read" })
				}
				wg.Wait()
				if got := o.now("a"); got != c.status || len(o.rejected) != c.reasons {
					t.Errorf("the alert is %q, want %q; rejected: %q", got, c.status, o.reasons())
				}
				if r := o.record("a"); r.WriteLease != nil || slices.ContainsFunc(r.Intents, func(in state.Intent) bool { return in.Open }) {
					t.Errorf("something is left open: %+v", r)
				}
			})
		})
	}
}

// TestWritebackUndoesNoAnalyst: a message whose change was lost, and which a later one
// supersedes, changes nothing when it comes again, whatever the alert is by then.
func TestWritebackUndoesNoAnalyst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, ResetBefore: true, Times: 1})
		p := o.newProcess()
		lost := requestAt("a", 1, `"status":"read"`)
		if _, err := p.deliver(t.Context(), lost); err == nil {
			t.Fatal("no error without a network")
		}
		for i, want := range []string{"written", "already"} {
			if out, err := p.deliver(t.Context(), requestAt("a", 2+i, `"status":"in_progress"`)); err != nil || out.Result != want {
				t.Fatalf("%+v, %v", out, err)
			}
		}
		time.Sleep(time.Second)
		o.api.Update("a", func(a *dtmsim.Alert) { a.Status = "read" }) // as the lost message wanted
		sent := o.asked(dtmsim.Patch)
		for range 2 {
			if out, err := p.deliver(t.Context(), lost); err != nil || out.Result != "superseded" {
				t.Errorf("%+v, %v", out, err)
			}
		}
		if got := o.asked(dtmsim.Patch) - sent; got != 0 || o.now("a") != "read " {
			t.Errorf("%d changes more, the alert is %q", got, o.now("a"))
		}
	})
}

// TestWritebackRefusedForgetsNothing: a later request that GTI refuses leaves the record of
// the one before it, so that a duplicate of that one undoes no analyst.
func TestWritebackRefusedForgetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		p := o.newProcess()
		first := requestAt("a", 1, `"status":"read"`)
		for _, step := range []struct{ data, want string }{
			{first, "written"},
			{requestAt("a", 2, `"status":"closed"`), "rejected"},
			{first, "already"},
		} {
			if step.want == "rejected" {
				o.api.Update("a", func(a *dtmsim.Alert) { a.Status = "new" })
				o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, Status: 400, Times: 1})
			}
			if out, err := p.deliver(t.Context(), step.data); err != nil || out.Result != step.want {
				t.Errorf("%+v, %v, want %s", out, err, step.want)
			}
		}
		if got := o.now("a"); got != "new " {
			t.Errorf("the alert is %q, and the analyst had set new", got)
		}
	})
}

// TestWritebackAwaitsTheLaterRequest: while a later request is open, the earlier one comes
// again: only a request that GTI takes supersedes another.
func TestWritebackAwaitsTheLaterRequest(t *testing.T) {
	for _, c := range []struct {
		name    string
		fault   dtmsim.Fault // of the second delivery of the later request
		results string       // of the later request, and then of the earlier one
		want    string
	}{
		{"which GTI takes", dtmsim.Fault{}, "written superseded", "closed "},
		{"which GTI refuses", dtmsim.Fault{Status: 400}, "rejected written", "read "},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, alert("a"))
				p := o.newProcess()
				earlier, later := requestAt("a", 1, `"status":"read"`), requestAt("a", 2, `"status":"closed"`)
				o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, ResetBefore: true, Times: 1})
				if out, err := p.deliver(t.Context(), later); err == nil {
					t.Fatalf("no error without a network: %+v", out)
				}
				if out, err := p.deliver(t.Context(), earlier); err == nil {
					t.Errorf("acknowledged while the later one is open: %+v", out)
				}
				if n := o.asked(dtmsim.Patch); n != 1 {
					t.Errorf("%d changes sent, want 1", n)
				}
				if c.fault.Status != 0 {
					c.fault.Kind, c.fault.Times = dtmsim.Patch, 1
					o.api.AddFault(c.fault)
				}
				var results []string
				for _, data := range []string{later, earlier} {
					out, err := p.deliver(t.Context(), data)
					if err != nil {
						t.Fatal(err)
					}
					results = append(results, out.Result)
				}
				if got := strings.Join(results, " "); got != c.results || o.now("a") != c.want {
					t.Errorf("outcomes %q, want %q; the alert is %q, want %q", got, c.results, o.now("a"), c.want)
				}
			})
		})
	}
}

// TestWritebackOfARuleAgain: a rule's message whose change was lost does not stand for the
// one that is published after it.
func TestWritebackOfARuleAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, ResetBefore: true, Times: 1})
		p := o.newProcess()
		if out, err := p.deliver(t.Context(), rule(1)); err == nil {
			t.Fatalf("no error without a network: %+v", out)
		}
		for i, want := range []string{"written", "superseded"} {
			if out, err := p.deliver(t.Context(), rule(2-i)); err != nil || out.Result != want || o.now("a") != "closed " {
				t.Errorf("%+v, %v, want %s; the alert is %q", out, err, want, o.now("a"))
			}
		}
	})
}

// TestWritebackOfOneMoment: of two requests of one moment the one that came later
// counts, and a duplicate of the other one doesn't pass for it, though its first
// delivery was lost.
func TestWritebackOfOneMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		p := o.newProcess()
		p.dies = 4 // before its change is sent
		first := requestAt("a", 1, `"status":"in_progress"`)
		if _, err := p.deliver(t.Context(), first); err == nil {
			t.Fatal("the process lives")
		}
		p = o.newProcess()
		if out, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"read"`)); err != nil || out.Result != "written" {
			t.Fatalf("%+v, %v", out, err)
		}
		for _, want := range []string{"superseded", "already"} {
			if out, err := p.deliver(t.Context(), first); err != nil || out.Result != want || o.now("a") != "read " {
				t.Errorf("%+v, %v, the alert is %q", out, err, o.now("a"))
			}
		}
	})
}

// TestWritebackWaits is how long a message waits for the lease of another process.
func TestWritebackWaits(t *testing.T) {
	for _, c := range []struct {
		name string
		left time.Duration // until the lease ends
		want time.Duration
	}{
		{"it has ended", -time.Millisecond, 0},
		{"it ends", 7 * time.Second, 7 * time.Second},
		{"of a clock that was ahead", 5 * 24 * time.Hour, 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, alert("a"))
				o.edit(func(r *state.Record) { r.WriteLease = &state.Lease{Owner: "x", ExpiresAt: time.Now().Add(c.left)} })
				began := time.Now()
				out, err := o.newProcess().deliver(t.Context(), requestAt("a", 1, `"status":"closed"`))
				if waited := time.Since(began); err != nil || out.Result != "written" || waited != c.want {
					t.Errorf("%+v, %v, after %v, want %v", out, err, waited, c.want)
				}
				if r := o.record("a"); r.WriteLease != nil {
					t.Errorf("there is still a lease: %+v", r.WriteLease)
				}
			})
		})
	}

	t.Run("always another one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, alert("a"))
			p := o.newProcess()
			p.pause = func(string) time.Duration {
				o.edit(func(r *state.Record) {
					r.WriteLease = &state.Lease{Owner: "x", ExpiresAt: time.Now().Add(20 * time.Second)}
				})
				return time.Second
			}
			began := time.Now()
			out, err := p.deliver(t.Context(), requestAt("a", 1, `"status":"closed"`))
			if waited := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || waited < time.Minute || waited > 65*time.Second {
				t.Errorf("%+v, %v after %v", out, err, waited)
			}
			if n := o.asked(dtmsim.Get); n > 0 {
				t.Errorf("%d requests", n)
			}
		})
	})

	t.Run("until the instance ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, alert("a"))
			o.edit(func(r *state.Record) { r.WriteLease = &state.Lease{Owner: "x", ExpiresAt: time.Now().Add(time.Minute)} })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if out, err := o.newProcess().deliver(ctx, requestAt("a", 1, `"status":"closed"`)); !errors.Is(err, context.DeadlineExceeded) || o.asked(dtmsim.Get) > 0 {
				t.Errorf("%+v, %v", out, err)
			}
		})
	})
}

// TestWritebackIsSeenToBeDone: an answer of success that doesn't show the change is
// believed only when the alert does.
func TestWritebackIsSeenToBeDone(t *testing.T) {
	for _, body := range []string{`{}`, `null`, `[]`, `{"error":{"code":"TransientError"}}`, `<html>`, `{"id":"a","status":"new","created_at":"2000-01-01T00:00:00Z"}`} {
		for _, done := range []bool{false, true} {
			for _, change := range []struct{ request, now string }{
				{`"status":"closed"`, "closed x"},
				{`"remove_tags":["x"]`, "new "},
				{`"add_tags":["y"],"remove_tags":["x"]`, "new y"},
				{`"tags":[]`, "new "},
			} {
				t.Run(fmt.Sprintf("%s, %s, done %v", change.request, body, done), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						o := newWorld(dtmsim.Options{}, alert("a", "x"))
						o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, Status: 200, Body: body, AfterWork: done, Times: 1})
						p := o.newProcess()
						data := requestAt("a", 1, change.request)
						out, err := p.deliver(t.Context(), data)
						if !done && err == nil {
							t.Errorf("nothing was changed: %+v", out)
						}
						if err != nil {
							time.Sleep(10 * time.Second)
							_, err = p.deliver(t.Context(), data)
						}
						if err != nil || o.now("a") != change.now || len(o.rejected) > 0 {
							t.Errorf("%v, the alert is %q, %v", err, o.now("a"), o.reasons())
						}
					})
				})
			}
		}
	}
}

// TestWritebackKeepsWhatItCantRead: a change of tags replaces the alert's list, so that
// what is not understood of it would be deleted. The rest of the alert is not named.
func TestWritebackKeepsWhatItCantRead(t *testing.T) {
	const refused = "the alert's tags in GTI can't all be read, and a change of its tags would delete the others"
	long := strings.Repeat("x", 5000)
	for _, c := range []struct {
		name   string
		fields string // of the alert
		ask    string
		patch  string // what is sent; empty: nothing
		reason string
	}{
		{"a number", `"tags":["a",1]`, `"add_tags":["b"]`, "", refused},
		{"an object", `"tags":["a",{"name":"b"}]`, `"remove_tags":["a"]`, "", refused},
		{"a tag to be removed that may be what can't be read", `"tags":["a",{"name":"b"}]`, `"remove_tags":["b"]`, "", refused},
		{"a list that may be there", `"tags":["a",1]`, `"tags":["a"]`, "", refused},
		{"null", `"tags":[null,"a"]`, `"add_tags":["b"]`, "", refused},
		{"half a character", `"tags":["a\ud800"]`, `"add_tags":["b"]`, "", refused},
		{"no list", `"tags":{"a":true}`, `"add_tags":["b"]`, "", refused},
		{"two lists", `"tags":["a"],"tags":[]`, `"add_tags":["b"]`, "", refused},
		{"another list in its place", `"tags":["a",1]`, `"tags":["c"]`, "", refused},
		{"with a status", `"tags":["a",1]`, `"status":"closed","add_tags":["b"]`, "", refused},
		{"a tag that is there", `"tags":["a",1]`, `"add_tags":["A"]`, "", ""},
		{"a status alone", `"tags":["a",1]`, `"status":"closed"`, `{"status":"closed"}`, ""},
		{"a status and a tag that is there", `"tags":["a",1]`, `"status":"closed","add_tags":["a"]`, `{"status":"closed"}`, ""},
		{"none", `"x":1`, `"add_tags":["b"]`, `{"tags":["b"]}`, ""},
		{"null in its place", `"tags":null`, `"add_tags":["b"]`, `{"tags":["b"]}`, ""},
		{"a status that nobody knows", `"status":"frozen","tags":[]`, `"add_tags":["b"]`, `{"tags":["b"]}`, ""},
		{"a status that is none", `"status":7,"tags":[]`, `"add_tags":["b"]`, `{"tags":["b"]}`, ""},
		{"a status that is none, and one is expected", `"status":7`, `"status":"closed","expect_status":"new"`, "", `the alert's status is "", and expect_status is "new"`},
		{
			"tags that no request could name", `"tags":["a","A","a"," b ","","` + long + `","c\n"]`, `"add_tags":["d"]`,
			`{"tags":["a","A","a"," b ","","` + long + `","c\n","d"]}`, "",
		},
		{"one of them goes", `"tags":["b","a","A"," b "]`, `"remove_tags":["a"]`, `{"tags":["b"," b "]}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, dtmsim.Alert{
					ID: "a", CreatedAt: time.Now().Add(-time.Hour), Body: []byte(`{"id":"a","created_at":"1999-12-31T23:00:00Z",` + c.fields + `}`),
				})
				out, err := o.newProcess().deliver(t.Context(), requestAt("a", 1, c.ask))
				if err != nil || out.Reason != c.reason || (out.Result == "rejected") != (c.reason != "") {
					t.Errorf("%+v, %v", out, err)
				}
				if got := strings.Join(o.sent, " "); got != c.patch {
					t.Errorf("sent %.200s, want %.200s", got, c.patch)
				}
			})
		})
	}
}

// TestWritebackKeepsTheLatestIntents: of too many the oldest that are completed go
// first, and what is open stays as long as possible.
func TestWritebackKeepsTheLatestIntents(t *testing.T) {
	for _, c := range []struct {
		name    string
		tag, by int  // bytes of each intent
		open    bool // all are
		kept    int  // of 250, but for the one that is delivered
	}{
		{"many", 10, 0, false, 199},
		{"many that are open", 10, 0, true, 199},
		{"large", 4096, 0, false, 64},
		{"large that are open", 4096, 0, true, 64},
		{"large by who asked", 10, 4086, false, 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, alert("a"))
				long := time.Now().Add(-48 * time.Hour) // nobody writes them along
				o.edit(func(r *state.Record) {
					r.IntentSeq = 250
					for seq := r.IntentSeq; seq > 0; seq-- {
						tag := fmt.Sprint(seq, strings.Repeat("x", c.tag))[:c.tag]
						r.Intents = append(r.Intents, state.Intent{
							Field: state.IntentAddTag, Values: []string{tag}, At: long, By: strings.Repeat("y", c.by), Seq: seq, Open: c.open || seq == 1,
						})
					}
				})
				if out, err := o.newProcess().deliver(t.Context(), requestAt("a", 1, `"status":"closed"`)); err != nil || out.Result != "written" {
					t.Fatalf("%+v, %v", out, err)
				}
				var got, want []int64
				for _, w := range o.record("a").Intents {
					got = append(got, w.Seq)
				}
				slices.Sort(got)
				if !c.open {
					want, c.kept = append(want, 1), c.kept-1
				}
				for seq := 251 - c.kept; seq <= 251; seq++ {
					want = append(want, int64(seq))
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("kept (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestWritebackRecordIsBounded: with the largest requests, of which none can be
// written, a database still takes the record. When they can, all are completed.
func TestWritebackRecordIsBounded(t *testing.T) {
	if testing.Short() { // with the race detector it takes many times as long, and one delivery follows another
		t.Skip("skipped with -short: go test ./internal/writeback")
	}
	const requests = 41
	list := func(begin string, n int) string {
		var tags []string
		for i := range n {
			name := fmt.Sprintf("%s-%d-", begin, i)
			tags = append(tags, fmt.Sprintf("%q", name+strings.Repeat("x", 256-len(name))))
		}
		return "[" + strings.Join(tags, ",") + "]"
	}
	message := func(n int) string {
		fields := `"tags":` + list(fmt.Sprint("set", n), 100)
		switch {
		case n == 0:
			fields = `"status":"closed"`
		case n%5 == 0: // the most intents beside which others are kept
			fields += `,"add_tags":` + list(fmt.Sprint("add", n), 100) + `,"remove_tags":` + list(fmt.Sprint("remove", n), 90)
		}
		return requestAt("a", n, fmt.Sprintf(`%s,"requested_by":%q`, fields, strings.Repeat("y", 1024)))
	}
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		check := func() {
			t.Helper()
			// 240 KB are left for the alert's other fields, its statuses and versions.
			if size := len(o.ledger["a"].text); size > 1<<20-240_000 {
				t.Errorf("the record has %d bytes", size)
			}
			tagBytes := 0
			for _, e := range o.record("a").Echoes {
				tagBytes += len(strings.Join(e.Tags, ""))
				if e.Seq == 1 && e.Tags != nil {
					t.Errorf("an echo of a status alone has tags: %+v", e)
				}
			}
			if tagBytes > 128<<10 {
				t.Errorf("the echoes hold %d bytes of tags", tagBytes)
			}
		}
		o.api.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, ResetBefore: true, Times: requests})
		for n := range requests {
			if _, err := o.newProcess().deliver(t.Context(), message(n)); err == nil {
				t.Fatal("no error without a network")
			}
			check()
			time.Sleep(time.Minute)
		}
		for n := range requests {
			if _, err := o.newProcess().deliver(t.Context(), message(n)); err != nil {
				t.Fatal(err)
			}
			check()
		}
		versions := o.api.Versions("a")
		last := versions[len(versions)-1]
		if last.Status != "closed" || len(last.Tags) != 200 || !strings.HasPrefix(last.Tags[0], fmt.Sprintf("set%d-0-", requests-1)) {
			t.Errorf("%s with %d tags: %.99q", last.Status, len(last.Tags), last.Tags)
		}
		for _, w := range o.record("a").Intents {
			if w.Open {
				t.Errorf("%s %.20q is open", w.Field, w.Values)
			}
		}
	})
}

// TestWritebackOfManyTags: an alert may have got more tags elsewhere than an echo
// can hold. It is known by its version all the same.
func TestWritebackOfManyTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tags []string
		for i := range 2000 {
			tags = append(tags, fmt.Sprint(i, strings.Repeat("x", 250)))
		}
		o := newWorld(dtmsim.Options{}, alert("a", tags...))
		if _, err := o.newProcess().deliver(t.Context(), requestAt("a", 1, `"add_tags":["y"]`)); err != nil {
			t.Fatal(err)
		}
		versions := o.api.Versions("a")
		if n := len(versions[len(versions)-1].Tags); n != 2001 {
			t.Errorf("%d tags", n)
		}
		want := []state.Echo{{Version: versions[len(versions)-1].UpdatedAt, Tags: []string{}}}
		if diff := cmp.Diff(want, o.record("a").Echoes, anySeq); diff != "" {
			t.Error(diff)
		}
	})
}

// TestWritebackLeavesOthersAlone: what another message has begun is left to it. GTI
// may refuse that one, and would refuse ours with it.
func TestWritebackLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		o.edit(func(r *state.Record) {
			r.IntentSeq = 1
			r.Intents = []state.Intent{{Field: state.IntentAddTag, Values: []string{"poison"}, At: time.Now().Add(-time.Minute), Seq: 1, Open: true}}
		})
		out, err := o.newProcess().deliver(t.Context(), requestAt("a", 3599, `"add_tags":["good"]`))
		if err != nil || out.Result != "written" || o.now("a") != "new good" || len(o.rejected) > 0 {
			t.Errorf("%+v, %v, %q, %v", out, err, o.now("a"), o.reasons())
		}
		r := o.record("a")
		if len(r.Intents) != 2 || !r.Intents[0].Open || r.Intents[1].Open || len(r.Echoes) != 1 || r.Echoes[0].Version.IsZero() {
			t.Errorf("%+v", r)
		}
	})
}

func TestWritebackKeepsAtMost200Intents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{}, alert("a"))
		p := o.newProcess()
		for i := range 21 {
			tags := make([]string, 10)
			for j := range tags {
				tags[j] = fmt.Sprintf(`"t%d"`, 10*i+j)
			}
			if _, err := p.deliver(t.Context(), requestAt("a", i, `"add_tags":[`+strings.Join(tags, ",")+`]`)); err != nil {
				t.Fatal(err)
			}
		}
		r := o.record("a")
		if len(r.Intents) != 200 || r.Intents[0].Values[0] != "t10" || r.IntentSeq != 21 {
			t.Errorf("%d intents from %v on, of %d messages", len(r.Intents), r.Intents[0], r.IntentSeq)
		}
		if got := strings.Count(o.now("a"), "t"); got != 210 {
			t.Errorf("%d tags", got)
		}
	})
}

// TestWritebackRejects is what the rejects topic gets, and what follows when it
// gets nothing.
func TestWritebackRejects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newWorld(dtmsim.Options{})
		p := o.newProcess()
		data := requestAt("a", 1, `"x":1`)
		p.dies = 1
		if out, err := p.deliver(t.Context(), data); err == nil {
			t.Errorf("acknowledged: %+v", out)
		}
		p = o.newProcess()
		if _, err := p.deliver(t.Context(), data); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"reason": `writeback: unknown fields: "x"; allowed: alert_id, status, tags, add_tags, remove_tags, expect_status, on_conflict, requested_at, requested_by, reason, feed`,
			"feed":   "default", "schema": "dtmrelay/v1", "message_id": "m1", "alert_id": "a",
		}
		if diff := cmp.Diff(want, o.rejected[0].Attributes); diff != "" {
			t.Error(diff)
		}
		if got := string(o.rejected[0].Data); got != data {
			t.Errorf("rejected %q", got)
		}
		if o.asked(dtmsim.Get)+len(o.ledger)+len(o.loads) > 0 {
			t.Error("something was sent or written for it")
		}
	})
}

// TestWritebackLimits: few messages at a time talk to GTI, one at a time of an
// alert, and all of them are done in the end.
func TestWritebackLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const alerts, each = 10, 5
		var list []dtmsim.Alert
		for i := range alerts {
			list = append(list, alert(fmt.Sprint("a", i)))
		}
		o := newWorld(dtmsim.Options{}, list...)
		p := o.newProcess()
		p.pause = func(kind string) time.Duration {
			if kind == "get" || kind == "patch" {
				return time.Second
			}
			return 0
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		var failed error
		for i := range alerts * each {
			wg.Go(func() {
				_, err := p.deliver(t.Context(), requestAt(fmt.Sprint("a", i%alerts), i, fmt.Sprintf(`"add_tags":["t%d"]`, i)))
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = err
				}
			})
		}
		began := time.Now()
		wg.Wait()
		if failed != nil {
			t.Fatal(failed)
		}
		// Each takes four seconds, and four go at a time.
		if took, want := time.Since(began), (alerts*each+3)/4*4*time.Second; took != want {
			t.Errorf("took %v, want %v", took, want)
		}
		for i := range alerts {
			if got := strings.Count(o.now(fmt.Sprint("a", i)), "t"); got != each {
				t.Errorf("alert %d has %d tags", i, got)
			}
		}
		if o.asked(dtmsim.Get) != alerts*each || o.asked(dtmsim.Patch) != alerts*each {
			t.Errorf("%d reads, %d changes", o.asked(dtmsim.Get), o.asked(dtmsim.Patch))
		}
	})
}

// TestWritebackWaitsWithoutASlot: messages that lose their alert to another process, and
// wait for its lease, hold up no message for another alert.
func TestWritebackWaitsWithoutASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const others = 4 // as many as talk to GTI at a time
		list := []dtmsim.Alert{alert("free")}
		for i := range others {
			list = append(list, alert(fmt.Sprint("a", i)))
		}
		o := newWorld(dtmsim.Options{}, list...)
		p := o.newProcess()
		p.pause = func(kind string) time.Duration {
			if kind == "get" {
				return 2 * time.Second
			}
			return 0
		}
		deliver := func(id string) {
			if out, err := p.deliver(t.Context(), requestAt(id, 1, `"status":"closed"`)); err != nil || out.Result != "written" {
				t.Errorf("%s: %+v, %v", id, out, err)
			}
		}
		began := time.Now()
		var wg sync.WaitGroup
		for i := range others {
			wg.Go(func() { deliver(fmt.Sprint("a", i)) })
		}
		time.Sleep(time.Second) // all of them have a slot by now
		o.mu.Lock()
		for i := range others {
			e := o.read(fmt.Sprint("a", i))
			e.Record.WriteLease = &state.Lease{Owner: "x", ExpiresAt: began.Add(20 * time.Second)}
			if err := o.write(e); err != nil {
				t.Error(err)
			}
		}
		o.mu.Unlock()
		deliver("free")
		// The four read their alerts for four seconds, and so does it.
		if took := time.Since(began); took != 8*time.Second {
			t.Errorf("the other alert is done after %v, want 8s", took)
		}
		wg.Wait()
		if took := time.Since(began); took != 24*time.Second {
			t.Errorf("all are done after %v, want 24s", took)
		}
	})
}

// TestWritebackIsFinishedWhenTheInstanceEnds: what has begun is finished, what
// waits comes again.
func TestWritebackIsFinishedWhenTheInstanceEnds(t *testing.T) {
	for _, pause := range []time.Duration{time.Second, 5 * time.Second} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newWorld(dtmsim.Options{}, alert("a"))
				p := o.newProcess()
				p.pause = func(kind string) time.Duration {
					if kind == "patch" {
						return pause
					}
					return 0
				}
				ctx, cancel := context.WithCancel(t.Context())
				var results [2]error
				var wg sync.WaitGroup
				for i := range results {
					wg.Go(func() {
						time.Sleep(time.Duration(i) * time.Millisecond)
						_, results[i] = p.deliver(ctx, requestAt("a", i, fmt.Sprintf(`"add_tags":["t%d"]`, i)))
					})
				}
				time.Sleep(10 * time.Millisecond)
				cancel()
				wg.Wait()
				if !errors.Is(results[1], context.Canceled) {
					t.Errorf("the one that waits: %v", results[1])
				}
				if results[0] != nil || o.now("a") != "new t0" {
					t.Errorf("the one under way: %v, %q", results[0], o.now("a"))
				}
			})
		})
	}
}

// TestWritebackModel lets messages be delivered twice, late, in the wrong order
// and to two processes that are slow in every step and die. In the end the alert
// is as if each message had been done once, in the order in which they were asked.
func TestWritebackModel(t *testing.T) {
	tags := []string{"a", "A", "b", "c"}
	rapid.Check(t, func(r *rapid.T) {
		type request struct {
			fields  string
			apply   func(status string, tags map[string]bool) string
			At      int
			Process int
			After   int // milliseconds
			Twice   bool
			Dies    int
			Late    bool
		}
		n := rapid.IntRange(1, 5).Draw(r, "requests")
		order := rapid.Permutation(slices.Collect(func(yield func(int) bool) {
			for i := range n {
				if !yield(i) {
					return
				}
			}
		})).Draw(r, "asked in the order")
		var requests []request
		for i := range n {
			q := request{
				At: order[i], Process: rapid.IntRange(0, 1).Draw(r, "process"), After: rapid.IntRange(0, 30).Draw(r, "after"),
				Twice: rapid.Bool().Draw(r, "twice"), Dies: rapid.IntRange(0, 8).Draw(r, "dies at step"), Late: rapid.Bool().Draw(r, "late"),
			}
			tag := rapid.SampledFrom(tags).Draw(r, "tag")
			status := rapid.SampledFrom(dtm.Statuses[:4]).Draw(r, "status")
			folded := strings.ToLower(tag)
			switch kind := rapid.IntRange(0, 4).Draw(r, "kind"); kind {
			case 0:
				q.fields = fmt.Sprintf(`"status":%q`, status)
				q.apply = func(string, map[string]bool) string { return status }
			case 1:
				q.fields = fmt.Sprintf(`"add_tags":[%q]`, tag)
				q.apply = func(s string, m map[string]bool) string { m[folded] = true; return s }
			case 2:
				q.fields = fmt.Sprintf(`"remove_tags":[%q]`, tag)
				q.apply = func(s string, m map[string]bool) string { delete(m, folded); return s }
			case 3:
				q.fields = fmt.Sprintf(`"tags":[%q]`, tag)
				q.apply = func(s string, m map[string]bool) string { clear(m); m[folded] = true; return s }
			default:
				q.fields = fmt.Sprintf(`"status":%q,"add_tags":[%q]`, status, tag)
				q.apply = func(_ string, m map[string]bool) string { m[folded] = true; return status }
			}
			requests = append(requests, q)
		}
		pauses := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 40).Draw(r, "pauses")

		var broken string
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, alert("x", "c"))
			var mu sync.Mutex
			next := 0
			pause := func(string) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				next++
				return time.Duration(pauses[next%len(pauses)]) * time.Millisecond
			}
			processes := []*process{o.newProcess(), o.newProcess()}
			for _, p := range processes {
				p.pause = pause
			}
			deliver := func(q request) {
				data := requestAt("x", q.At, q.fields)
				mu.Lock()
				p := processes[q.Process]
				mu.Unlock()
				if q.Dies > 0 {
					o.mu.Lock()
					if p.dies == 0 {
						p.dies, p.late = p.steps+q.Dies, q.Late
					}
					o.mu.Unlock()
				}
				for range 20 {
					_, err := p.deliver(t.Context(), data)
					if err == nil {
						return
					}
					time.Sleep(10 * time.Second)
					mu.Lock()
					o.mu.Lock()
					dead := p.dead
					o.mu.Unlock()
					if dead && processes[q.Process] == p {
						processes[q.Process] = o.newProcess()
						processes[q.Process].pause = pause
					}
					p = processes[q.Process]
					mu.Unlock()
				}
				mu.Lock()
				broken = "a message is never done: " + data
				mu.Unlock()
			}
			var wg sync.WaitGroup
			for _, q := range requests {
				wg.Go(func() {
					time.Sleep(time.Duration(q.After) * time.Millisecond)
					deliver(q)
				})
				if q.Twice {
					again := q
					again.Process, again.Dies = 1-q.Process, 0
					wg.Go(func() {
						time.Sleep(time.Duration(again.After+5) * time.Millisecond)
						deliver(again)
					})
				}
			}
			wg.Wait()
			if broken != "" {
				return
			}
			status, want := "new", map[string]bool{"c": true}
			for at := range n {
				status = requests[slices.Index(order, at)].apply(status, want)
			}
			got := strings.Fields(strings.ReplaceAll(o.now("x"), ",", " "))
			has := map[string]bool{}
			for _, tag := range got[1:] {
				has[strings.ToLower(tag)] = true
			}
			record := o.record("x")
			if got[0] != status || !cmp.Equal(has, want) {
				broken = fmt.Sprintf("the alert is %v, want %s %v; %+v", got, status, want, record)
			}
			for _, w := range record.Intents {
				if w.Open {
					broken = fmt.Sprintf("open: %+v", record)
				}
			}
		})
		if broken != "" {
			r.Fatal(broken)
		}
	})
}

// TestWritebackOfARuleModel: one rule's message comes several times, published at
// different moments, to processes that die. Once one of them is acknowledged as
// done, an analyst sets the status back: nothing that comes later changes that.
func TestWritebackOfARuleModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		type copied struct {
			At, After, Dies int
			Late            bool
		}
		copies := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) copied {
			return copied{
				At:    2 * rapid.IntRange(0, 3).Draw(r, "asked at"),
				After: rapid.SampledFrom([]int{0, 5, 20, 60_000}).Draw(r, "after"),
				Dies:  rapid.IntRange(0, 8).Draw(r, "dies at step"), Late: rapid.Bool().Draw(r, "late"),
			}
		}), 2, 4).Draw(r, "copies")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 40).Draw(r, "pauses")
		soar := rapid.Bool().Draw(r, "the analyst works in the SOAR")

		var broken string
		synctest.Test(t, func(t *testing.T) {
			o := newWorld(dtmsim.Options{}, alert("a"))
			midnight := time.Now()
			var mu sync.Mutex
			next, sent := 0, -1
			pause := func(string) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				next++
				return time.Duration(pauses[next%len(pauses)]) * time.Millisecond
			}
			changes := func() int {
				o.mu.Lock()
				defer o.mu.Unlock()
				return len(o.sent)
			}
			setBack := func() {
				mu.Lock()
				defer mu.Unlock()
				if sent >= 0 {
					return
				}
				if soar {
					// Later than what was done, and perhaps earlier than what is still to come.
					done := o.record("a").Intents
					after := int(done[len(done)-1].At.Sub(midnight).Seconds()) + 3600
					if out, err := o.newProcess().deliver(t.Context(), requestAt("a", after+1, `"status":"new","requested_by":"soar"`)); err != nil || out.Result != "written" {
						broken = fmt.Sprintf("the analyst: %+v, %v", out, err)
					}
				} else {
					o.api.Update("a", func(a *dtmsim.Alert) { a.Status = "new" })
				}
				sent = changes()
			}
			var wg sync.WaitGroup
			for _, c := range copies {
				wg.Go(func() {
					time.Sleep(time.Duration(c.After) * time.Millisecond)
					p := o.newProcess()
					p.pause, p.dies, p.late = pause, c.Dies, c.Late
					for {
						out, err := p.deliver(t.Context(), rule(c.At))
						if err == nil {
							if out.Result == "written" || out.Result == "already" {
								setBack()
							}
							return
						}
						time.Sleep(10 * time.Second)
						p = o.newProcess()
						p.pause = pause
					}
				})
			}
			wg.Wait()
			if broken == "" && (sent < 0 || changes() != sent || o.now("a") != "new ") {
				broken = fmt.Sprintf("%v sent, %d of them before the analyst, the alert is %q, %+v", o.sent, sent, o.now("a"), o.record("a"))
			}
			for _, in := range o.record("a").Intents {
				if in.Open {
					broken = fmt.Sprintf("open: %+v", o.record("a"))
				}
			}
		})
		if broken != "" {
			r.Fatal(broken)
		}
	})
}
