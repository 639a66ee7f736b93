package redact

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// benchAlert is an alert of about size bytes: without a document for 2 KB, as a listing
// without refs has it, and with document and topics beyond. secret, unless empty, stands in
// the document's password and in a text.
func benchAlert(size int, secret string) []byte {
	doc := ""
	if secret != "" || size > 4<<10 {
		doc = `"doc":{"__id":"2fa475ce-5fb1-4c7e-a9b8-b872ec8477fa","__type":"account_discovery","source":"ccmp","timestamp":"2025-08-07T09:01:49Z","ingested":"2025-08-07T10:01:39Z",` +
			`"service_account":{"login":"alice@example.com","password":{"plain_text":"` + secret + `"},"profile":{"contact":{"email":"alice@example.com","email_domain":"example.com"}},"service":{"name":"sso.example.com"}},` +
			`"body":"BODY"},"topics":[TOPICS],`
	}
	head := `{"id":"d2a7j39s70qdphllj1rg","monitor_id":"d08auehgkipgjt1puc9g","monitor_name":"Brands",` + doc +
		`"topic_matches":[{"topic_id":"42286db4-1625-4d7c-8504-b73b6f9c8b17","value":"Example","term":"example","offsets":[0,8]},{"topic_id":"doc_type:message","value":"message"}],"label_matches":[],"doc_matches":[{"match_path":"body","locations":[{"value":"full"},{"value":"access"}]}],"tags":[],"created_at":"2025-08-07T10:01:49.199Z","updated_at":"2025-08-07T10:01:57.581Z","labels_url":"https://api.example.com/v4/dtm/docs/message/2fa475ce-5fb1-4c7e-a9b8-b872ec8477fa/labels","status":"new","alert_type":"Message","title":"Found topic \"example\" posted by actor \"A \"","email_sent_at":"","indicator_mscore":50,"severity":"low","confidence":0.2565609101122806,"has_analysis":false,"similarity_score":0.9489247,"ignore":false,"monitor_version":1,"ai_doc_summary":"SUMMARY ` + secret + `"}`
	fill := func(place string, bytes int) {
		const prose = `Selling access to a widget factory, \"ask\" in private 🐲. `
		head = strings.Replace(head, place, strings.Repeat(prose, max(0, bytes)/len(prose)), 1)
	}
	var topics []string
	if size > 4<<10 {
		for i := range size * 6 / 10 / 260 {
			topics = append(topics, fmt.Sprintf(`{"id":"b329b61f-530d-43a3-a718-%012d","type":"organization","value":"Example %d","extractor":"analysis-pipeline.nerprocessor-nerenglish-gpu","extractor_version":"4-0-1","confidence":100,"entity_locations":[{"element_path":"body","offsets":[%d,9]}]}`, i, i, i))
		}
		head = strings.Replace(head, "TOPICS", strings.Join(topics, ","), 1)
		fill("BODY", size-len(head))
	}
	head = strings.Replace(head, "TOPICS", "", 1)
	fill("SUMMARY", size-len(head))
	return []byte(head)
}

// BenchmarkRedact masks an alert. The floor is json.Valid of the same bytes.
func BenchmarkRedact(b *testing.B) {
	redactor := func(list string) *Redactor {
		r, _, err := Parse(list)
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	credentials := redactor(`["credentials"]`)
	run := func(name string, r *Redactor, raw []byte) {
		b.Run(name, func(b *testing.B) {
			measure := func(valid func() bool) float64 {
				before := processorTime()
				for range b.N {
					if !valid() {
						b.Fatal("not valid")
					}
				}
				return float64((processorTime() - before).Nanoseconds()) / 1e3 / float64(b.N)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			took := measure(func() bool { _, _, valid := r.Redact(raw); return valid })
			b.StopTimer()
			floor := measure(func() bool { return json.Valid(raw) })
			b.ReportMetric(took, "cpu-µs/alert")
			b.ReportMetric(floor, "cpu-µs/floor")
			b.ReportMetric(took/floor, "ratio")
		})
	}
	run("2KB", credentials, benchAlert(2<<10, ""))
	run("2KB-password", credentials, benchAlert(2<<10, "correct horse"))
	run("15KB-document", credentials, benchAlert(15<<10, ""))
	run("15KB-document-password", credentials, benchAlert(15<<10, "correct horse"))
	run("15KB-text", redactor(`["credentials","text","topics[].value","doc.*.login"]`), benchAlert(15<<10, "correct horse"))
	run("1MB-document-password", credentials, benchAlert(1<<20, "correct horse"))
	// What somebody could post to hold up the feed.
	run("1MB-10000-secrets", credentials, hostileAlert(10_000, func(i int) string { return fmt.Sprintf("secret %06d%s", i, strings.Repeat("x", 60)) }))
	run("1MB-secrets-of-one-letter", credentials, hostileAlert(1300, func(i int) string { return strings.Repeat("a", 6+i) }))
}

// processorTime is what this process has used: on a machine that others use too, the
// clock says more of them.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func hostileAlert(n int, secret func(i int) string) []byte {
	var b bytes.Buffer
	b.WriteString(`{"doc":{"passwords":[`)
	for i := range n {
		fmt.Fprintf(&b, `"%s",`, secret(i))
	}
	b.WriteString(`""],"body":"`)
	for i := 0; b.Len() < 2<<20; i++ {
		b.WriteString(secret(i % n)[:6+i%3])
		b.WriteString(strings.Repeat("a", 1000))
	}
	b.WriteString(`"}}`)
	return b.Bytes()
}
