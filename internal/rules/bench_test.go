package rules

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// BenchmarkEvaluate applies 100 rules to an alert of 2 KB, decoding it each time. The
// floor is decoding it with encoding/json.
func BenchmarkEvaluate(b *testing.B) {
	raw := `{"id":"d2a7j39s70qdphllj1rg","monitor_id":"d08auehgkipgjt1puc9g","topic_matches":[{"topic_id":"42286db4-1625-4d7c-8504-b73b6f9c8b17","value":"Example","term":"example","offsets":[0,8]},{"topic_id":"doc_type:message","value":"message"}],` +
		`"label_matches":[],"doc_matches":[{"match_path":"body","locations":[{"value":"full"},{"value":"access"}]}],"tags":["brand"],"created_at":"2025-08-07T10:01:49.199Z","updated_at":"2025-08-07T10:01:57.581Z",` +
		`"status":"new","alert_type":"Message","alert_summary":"` + strings.Repeat("words and ", 60) + `","title":"Found topic \"example\" on a channel","email_sent_at":"","indicator_mscore":50,"severity":"low","confidence":0.25,` +
		`"aggregated_under_id":"d1s8gd3ebpgs73aqhfc0","has_analysis":false,"ai_doc_summary":"` + strings.Repeat("summary of it ", 40) + `","similarity_score":0.94,"severity_reasoning":{"rule":""},` +
		`"confidence_reasoning":{"version":"","response_count":0,"malicious_count":0,"benign_count":0,"confidence_count":null,"explanation":null},"ignore":false,"monitor_version":1}`
	conditions := []string{
		`alert.severity == 'high'`,
		`alert.alert_type == 'Compromised Credentials' && alert.severity == 'high'`,
		`alert.indicator_mscore >= 70 && event == 'created'`,
		`alert.monitor_id == 'm%d' || alert.monitor_name.startsWith('brand %d')`,
		`'takedown:%d' in alert.tags`,
		`alert.title.lowerAscii().contains('exam%d')`,
		`alert.topic_matches.exists(m, m.value == 'Example %d')`,
		`has(alert.doc.body) && alert.doc.body.contains('x%d')`,
		`alert.alert_type in ['Paste', 'Forum Post', 'Message'] && alert.confidence > 0.9`,
		`now - alert.created_at < duration('%dm')`,
	}
	type rule = map[string]any
	var list []rule
	for i := range 100 {
		list = append(list, rule{"name": fmt.Sprint("r", i), "when": strings.ReplaceAll(conditions[i%len(conditions)], "%d", fmt.Sprint(i+1)), "then": rule{"priority": "P1"}})
	}
	text, _ := json.Marshal(list)
	_, rules, err := Compile(string(text), "default")
	if err != nil {
		b.Fatal(err)
	}
	a := dtm.ParseAlert([]byte(raw))
	now := time.Date(2025, 8, 7, 10, 5, 0, 0, time.UTC)
	measure := func(f func()) float64 {
		before := processorTime()
		for range b.N {
			f()
		}
		return float64((processorTime() - before).Nanoseconds()) / 1e3 / float64(b.N)
	}
	b.ReportAllocs()
	floor := measure(func() {
		var all map[string]any
		_ = json.Unmarshal([]byte(raw), &all)
	})
	took := measure(func() {
		if result := rules.Evaluate(a, "created", "", true, now); len(result.Failed) > 0 {
			b.Fatal(result.Failed)
		}
	})
	b.ReportMetric(took, "cpu-µs/alert")
	b.ReportMetric(floor, "cpu-µs/floor")
	b.ReportMetric(took/floor, "ratio")
}

// processorTime is what this process has used: on a machine that others use too, the
// clock says more of them.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
