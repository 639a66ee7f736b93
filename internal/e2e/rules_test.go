package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

const rulesOfTest = `[
	{"name":"noise","when":"alert.severity == 'low'","then":{"drop":true,"set_status":"not_relevant"}},
	{"name":"urgent","when":"alert.severity == 'high'","then":{"priority":"P1","escalate":true,"tags":["auto"]}}]`

// requested are the write-backs that rules have asked for so far.
func (w *world) requested() []*pubsub.Message {
	w.sub.mu.Lock()
	defer w.sub.mu.Unlock()
	return slices.Clone(w.sub.status)
}

// TestRules: what rules drop is not published, what they want is written to GTI, and
// what comes of that is not taken for somebody else's change.
func TestRules(t *testing.T) {
	t.Parallel()
	alerts := recent(61, 60)
	w := newWorld(t, dtmsim.Options{}, alerts)
	p, s := w.start("RULES="+rulesOfTest, "STATUS_TOPIC=dtm-status"), w.startSync()
	severity, stood := map[string]string{}, map[string]string{}
	want := map[string]int{}
	for _, a := range alerts {
		var seen struct{ ID, Severity, Status string }
		if err := json.Unmarshal(a.Element(false, true), &seen); err != nil {
			t.Fatal(err)
		}
		severity[seen.ID], stood[seen.ID] = seen.Severity, seen.Status
		want[seen.Severity]++
	}
	if want["low"] == 0 || want["high"] == 0 {
		t.Fatalf("severities %v", want)
	}
	runs := w.finish(p)
	if r := runs[0]; r.Dropped != want["low"] || r.Published != len(alerts)-want["low"] {
		t.Errorf("dropped %d, published %d of %v", r.Dropped, r.Published, want)
	}
	await(t, "the rules' requests", func() bool { return len(w.requested()) == want["low"]+want["high"] })
	for i, m := range w.requested() {
		var req map[string]any
		if err := json.Unmarshal(m.Data, &req); err != nil {
			t.Fatal(err)
		}
		id, _ := req["alert_id"].(string)
		rule := map[string]string{"low": "noise", "high": "urgent"}[severity[id]]
		if req["requested_by"] != "rule:"+rule || req["on_conflict"] != "skip" || req["expect_status"] != stood[id] || req["feed"] != "default" {
			t.Errorf("%s", m.Data)
		}
		// An analyst was faster with every third one of the noise.
		analyst := rule == "noise" && i%3 == 0
		if analyst {
			w.sim.Update(id, func(a *dtmsim.Alert) {
				a.Status = map[bool]string{true: "read", false: "escalated"}[a.Status == "escalated"]
			})
		}
		status, text := s.push(fmt.Sprint("m-", i), string(m.Data))
		if status != http.StatusOK || analyst != strings.Contains(text, "superseded") {
			t.Errorf("%d %s", status, text)
		}
		switch a := w.alert(id); {
		case analyst && a.Status == "not_relevant", rule == "noise" && !analyst && a.Status != "not_relevant":
			t.Errorf("GTI has %s of %s", a.Status, id)
		case rule == "urgent" && !slices.Contains(a.Tags, "auto"):
			t.Errorf("GTI has the tags %v of %s", a.Tags, id)
		}
	}
	if reasons := w.rejects(); len(reasons) > 0 {
		t.Errorf("rejected: %v", reasons)
	}
	w.finish(p)
	if n := len(w.requested()); n != want["low"]+want["high"] {
		t.Errorf("%d requests after the second run", n)
	}
	await(t, "the echoes", func() bool {
		for id, s := range severity {
			if s == "high" && w.last(id)["origin"] != "writeback" {
				return false
			}
		}
		return true
	})
	for id, s := range severity {
		switch a := w.last(id); {
		case (s == "low") != (a == nil):
			t.Errorf("%s of severity %q: %v", id, s, a)
		case s == "high" && (a["priority"] != "P1" || a["escalated"] != "true" || a["rules"] != "urgent" || a["origin"] != "writeback"):
			t.Errorf("%s: %v", id, a)
		}
	}
}

// TestRedaction: by default no password leaves.
func TestRedaction(t *testing.T) {
	t.Parallel()
	alerts := recent(62, 80)
	w := newWorld(t, dtmsim.Options{}, alerts)
	runs := w.finish(w.start("REDACT=", "DTM_REFS=true"))
	await(t, "all alerts", func() bool { return int(w.sub.total.Load()) == len(alerts) })
	if runs[0].Redacted == 0 {
		t.Fatal("nothing was masked")
	}
	masked := 0
	w.sub.mu.Lock()
	defer w.sub.mu.Unlock()
	for _, copies := range w.sub.alerts {
		m := copies[0]
		i := slices.IndexFunc(alerts, func(a dtmsim.Alert) bool { return a.ID == m.Attributes["alert_id"] })
		came := string(alerts[i].Element(true, true))
		if redacted := m.Attributes["redacted"] == "true"; redacted != (came != string(m.Data)) {
			t.Errorf("redacted %t: %s", redacted, m.Data)
		} else if redacted {
			masked++
		}
		for _, secret := range passwords(t, alerts[i].Element(true, true)) {
			if strings.Contains(string(m.Data), secret) || strings.Contains(fmt.Sprint(m.Attributes), secret) {
				t.Errorf("%q is in a message of %s", secret, m.Attributes["alert_id"])
			}
		}
	}
	if masked != runs[0].Redacted {
		t.Errorf("%d messages are masked, and the report says %d", masked, runs[0].Redacted)
	}
}

// passwords are the strings of six characters and more that stand below a password or a
// card's number.
func passwords(t *testing.T, element []byte) []string {
	t.Helper()
	var value any
	if err := json.Unmarshal(element, &value); err != nil {
		t.Fatal(err)
	}
	var found []string
	var look func(v any, secret bool)
	look = func(v any, secret bool) {
		switch v := v.(type) {
		case map[string]any:
			for name, value := range v {
				look(value, secret || name == "password" || name == "number")
			}
		case []any:
			for _, value := range v {
				look(value, secret)
			}
		case string:
			if secret && len(v) >= 6 && v != "********" {
				found = append(found, v)
			}
		}
	}
	look(value, false)
	return found
}
