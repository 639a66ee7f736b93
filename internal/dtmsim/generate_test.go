package dtmsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestGenerateIsReproducible(t *testing.T) {
	shape := Typical()
	shape.Malformed = 0.05
	generate := func(seed uint64) (all []string) {
		for _, a := range Generate(seed, 300, past, past.Add(time.Hour), shape) {
			for i := range a.Changes {
				a.UpdatedAt = a.Changes[i].At // functions can't be compared
				a.Changes[i].Apply(&a)
			}
			all = append(all, fmt.Sprint(a.ID, a.CreatedAt, a.UpdatedAt, a.VisibleAt, a.Status, string(a.Body), string(a.Slim), string(a.Raw)))
		}
		return all
	}
	if !slices.Equal(generate(5), generate(5)) {
		t.Error("two runs differ")
	}
	if slices.Equal(generate(5), generate(6)) {
		t.Error("another seed gives the same alerts")
	}
}

// Every body is legal, says what the fields say, and is made up.
func TestGeneratedAlerts(t *testing.T) {
	from, to := past, past.Add(10*time.Minute)
	alerts := Generate(3, 450, from, to, Typical())
	types := map[string]int{}
	ids := map[string]bool{}
	hosts := regexp.MustCompile(`https?:\\?/\\?/([^/\\"]+)`)
	reserved := regexp.MustCompile(`(^|\.)(example|test|example\.(com|net|org))$`)
	trimmed := regexp.MustCompile(`"created_at":\s*"[^"]*\.\d*0Z"`)
	size := 0
	for i, a := range alerts {
		if ids[a.ID] || !regexp.MustCompile(`^[0-9a-v]{20}$`).MatchString(a.ID) {
			t.Fatalf("id %q", a.ID)
		}
		ids[a.ID] = true
		types[a.Type]++
		if a.CreatedAt.Before(from) || !a.CreatedAt.Before(to) || !a.CreatedAt.Equal(millis(a.CreatedAt)) {
			t.Errorf("created_at %v", a.CreatedAt)
		}
		if i > 0 && a.CreatedAt.Before(alerts[i-1].CreatedAt) {
			t.Error("not in the order of created_at")
		}
		want := xid(a.CreatedAt, 0, 0)[:6]
		if a.ID[:6] != want {
			t.Errorf("id %s isn't of %v", a.ID, a.CreatedAt)
		}
		size += len(a.Slim)
		for _, text := range [][]byte{a.Body, a.Slim} {
			got, err := ParseAlert(text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if d := cmp.Diff(a, got, cmpopts.IgnoreFields(Alert{}, "VisibleAt", "MonitorName", "Body", "Slim", "Changes"), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("fields and bytes differ:\n%s\n%s", d, text)
			}
			for _, host := range hosts.FindAllSubmatch(text, -1) {
				if name := string(host[1]); !reserved.MatchString(name) && name != "api.intelligence.mandiant.com" {
					t.Errorf("host %s", name)
				}
			}
			if trimmed.Match(text) {
				t.Errorf("created_at isn't trimmed: %s", text)
			}
		}
		var top map[string]json.RawMessage
		if err := json.Unmarshal(a.Slim, &top); err != nil {
			t.Fatal(err)
		}
		for _, key := range refsMembers {
			if top[key] != nil {
				t.Errorf("%s in the slim form", key)
			}
		}
		if bytes.Contains(top["doc_matches"], []byte("offsets")) {
			t.Error("offsets in the slim form")
		}
	}
	for _, name := range append(slices.Clone(Types), "Deep Fake Video") {
		if types[name] == 0 {
			t.Errorf("no %s", name)
		}
	}
	if mean := size / len(alerts); mean < 1800 || mean > 2400 {
		t.Errorf("an alert has %d bytes on average", mean)
	}
	var bodies []string
	for _, a := range alerts {
		bodies = append(bodies, string(a.Body))
	}
	all := strings.Join(bodies, "\n")
	for _, odd := range []string{`\u0000`, `\ud800 `, `🐲`, "\u202e", `\/`, `\u003c`, `<p>`, "1e2", "0.10", `"doc":null`, "decoy", `sever\u0069ty`, `"tags":null`, "\n  \"", `"severity":"critical"`} {
		if !strings.Contains(all, odd) {
			t.Errorf("%q isn't among the odd content", odd)
		}
	}
}

func TestShape(t *testing.T) {
	const n = 2000
	from, to := past, past.Add(time.Hour)
	count := func(alerts []Alert, is func(Alert) bool) float64 {
		c := 0
		for _, a := range alerts {
			if is(a) {
				c++
			}
		}
		return float64(c) / float64(len(alerts))
	}
	about := func(what string, got, want float64) {
		t.Helper()
		if got < want*0.8 || got > want*1.2 {
			t.Errorf("%s: %.3f, want about %.3f", what, got, want)
		}
	}

	alerts := Generate(1, n, from, to, Shape{Late: 0.1, Rewritten: 0.3, Closed: 0.2, Malformed: 0.1, LateBy: time.Minute})
	about("late", count(alerts, func(a Alert) bool { return a.VisibleAt.After(a.CreatedAt) }), 0.1)
	about("malformed", count(alerts, func(a Alert) bool { return a.Raw != nil }), 0.1)
	about("changed", count(alerts, func(a Alert) bool { return len(a.Changes) > 0 }), (1-0.7*0.8)*0.9)

	tied := Generate(1, n, from, to, Shape{Ties: 0.5})
	moments := map[time.Time]bool{}
	for _, a := range tied {
		moments[a.CreatedAt] = true
	}
	about("moments", float64(len(moments)), n/2)

	burst := Generate(1, n, from, to, Shape{BurstShare: 0.9, BurstSpan: 0.05})
	most := 0.0
	for _, first := range burst {
		end := first.CreatedAt.Add(3 * time.Minute)
		most = max(most, count(burst, func(a Alert) bool { return !a.CreatedAt.Before(first.CreatedAt) && a.CreatedAt.Before(end) }))
	}
	about("in a twentieth of the time", most, 0.9)

	huge := Generate(1, 10, from, to, Shape{Huge: []int{1 << 20}, HugeSlim: []int{3 << 20}})
	largest, largestSlim := 0, 0
	for _, a := range huge {
		if !json.Valid(a.Body) || !json.Valid(a.Slim) {
			t.Error("a huge alert is no JSON")
		}
		if len(a.Slim) < 1<<20 {
			largest = max(largest, len(a.Body))
		}
		largestSlim = max(largestSlim, len(a.Slim))
	}
	about("huge with the document", float64(largest), 1<<20)
	about("huge without it", float64(largestSlim), 3<<20)
}

func TestRewrittenSecondsAfterCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		s := New(Options{}, Generate(1, 100, now, now.Add(time.Second), Shape{Rewritten: 1}))
		c := newDirectClient(t, s)
		summarized := func() int { return strings.Count(c.list("refs=false&size=100").body, `"ai_doc_summary":"This`) }
		time.Sleep(time.Second)
		equal(t, "at first", summarized(), 0)
		time.Sleep(9 * time.Second)
		if got := summarized(); got < 95 { // indented ones are written otherwise
			t.Errorf("rewritten: %d", got)
		}
		visible, err := s.Visible(time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range visible {
			if after := a.UpdatedAt.Sub(a.CreatedAt); after < 2*time.Second || after > 8*time.Second {
				t.Errorf("rewritten after %v", after)
			}
		}
	})
}
