package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/redact"
	"dtmrelay.internal/dtmrelay/internal/rules"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// sent remembers the messages of all topics, in their order.
type sent struct {
	messages []message.Message
	to       []string
	fail     string // the topic that is down
}

func (s *sent) take(topic string, messages []message.Message) []error {
	errs := make([]error, len(messages))
	for i, m := range messages {
		if topic == s.fail {
			errs[i] = errDown
			continue
		}
		s.messages, s.to = append(s.messages, m), append(s.to, topic)
	}
	return errs
}

func (s *sent) Publish(_ context.Context, m []message.Message) []error { return s.take("alerts", m) }

func (s *sent) Reject(_ context.Context, m []message.Message) []error { return s.take("rejects", m) }

func (s *sent) Request(_ context.Context, m []message.Message) []error { return s.take("status", m) }

func (s *sent) on(topic string) []message.Message {
	var out []message.Message
	for i, m := range s.messages {
		if s.to[i] == topic {
			out = append(out, m)
		}
	}
	return out
}

func compile(t *testing.T, list string) *rules.Rules {
	t.Helper()
	_, r, err := rules.Compile(list, "default")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newRuleProcessor(t *testing.T, list string) (*ledger.Processor, *memory, *sent) {
	t.Helper()
	p, book, _ := newProcessor()
	topics := &sent{}
	p.Publisher, p.Writebacks, p.Rules = topics, topics, compile(t, list)
	return p, book, topics
}

// alertOf is a usable alert with the status and severity of its JSON.
func alertOf(id, status, severity string, seconds int) dtm.Alert {
	a := version(id, status, seconds)
	a.Severity = severity
	a.Raw = fmt.Appendf(nil, `{"id":%q,"status":%q,"severity":%q}`, id, status, severity)
	return a
}

func process(t *testing.T, p *ledger.Processor, alerts ...dtm.Alert) ledger.Counts {
	t.Helper()
	counts, err := p.Process(t.Context(), alerts, all)
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// TestShortSecrets: a marker beside the same name in the data would say what a short secret
// is. A path that names monitor_name hides it in the attribute, too, however short it is.
func TestShortSecrets(t *testing.T) {
	for list, want := range map[string]string{`["credentials"]`: "vip", `["monitor_name"]`: "[redacted:1-7]"} {
		redactor, _, err := redact.Parse(list)
		if err != nil {
			t.Fatal(err)
		}
		p, _, topics := newRuleProcessor(t, `[{"name":"vip","when":"true","then":{"priority":"P1"}}]`)
		p.Redactor = redactor
		a := version("a", "new", 0)
		a.MonitorName = "vip"
		a.Raw = []byte(`{"id":"a","monitor_name":"vip","doc":{"service_account":{"password":{"plain_text":"vip"}}}}`)
		process(t, p, a)
		m := topics.messages[0]
		if name, rules := m.Attributes["monitor_name"], m.Attributes["rules"]; name != want || rules != "vip" || !strings.Contains(string(m.Data), `"monitor_name":"`+want+`"`) {
			t.Errorf("%s: %v %s", list, m.Attributes, m.Data)
		}
	}
}

func TestWhatIsDroppedTakesNoPlace(t *testing.T) {
	for _, dry := range []bool{false, true} {
		p, _, topics := newRuleProcessor(t, `[{"name":"noise","when":"alert.severity == 'low'","then":{"drop":true}}]`)
		if dry {
			p.DryRun = &ledger.DryRun{}
		}
		page := []dtm.Alert{alertOf("a", "new", "low", 0), alertOf("b", "new", "low", 0), alertOf("c", "new", "high", 0), alertOf("d", "new", "low", 0), alertOf("e", "new", "high", 0), alertOf("f", "new", "low", 0)}
		counts, err := p.Process(t.Context(), page, upTo(1))
		if err != nil || counts.Dropped != 2 || counts.Created != 1 || counts.Handled != 3 {
			t.Errorf("dry run %t: %v, %+v", dry, err, counts)
		}
		if n := len(topics.messages); !dry && n != 1 {
			t.Errorf("%d messages", n)
		}
	}
}

func TestRules(t *testing.T) {
	p, book, topics := newRuleProcessor(t, `[
		{"name":"noise","when":"alert.severity == 'low' && event == 'created'","then":{"drop":true}},
		{"name":"urgent","when":"alert.severity == 'high'","then":{"priority":"P1","escalate":true}},
		{"name":"seen","when":"previous_status == 'new'","then":{"priority":"P4"}}]`)
	counts := process(t, p, alertOf("a", "new", "low", 0), alertOf("b", "new", "high", 0), alertOf("c", "new", "medium", 0))
	if counts.Dropped != 1 || counts.Created != 2 || counts.New() != 3 || counts.Handled != 3 {
		t.Errorf("%+v", counts)
	}
	attributes := func(m message.Message) string {
		a := m.Attributes
		return strings.Join([]string{a["alert_id"], a["event"], a["priority"], a["rules"], a["escalated"]}, " ")
	}
	var got []string
	for _, m := range topics.messages {
		got = append(got, attributes(m))
	}
	if diff := cmp.Diff([]string{"b created P1 urgent true", "c created P2  "}, got); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	dropped := book.records["a"].Record
	if dropped.Known() || len(dropped.Versions) != 1 || dropped.Versions[0].Outcome != state.Dropped || dropped.HandledVersion.IsZero() {
		t.Errorf("the record of the dropped one: %+v", dropped)
	}
	if got := book.records["b"].Record.Priority; got != "P1" {
		t.Errorf("recorded with %s", got)
	}
	// The same version is not asked for again, and a newer one that no rule drops is new.
	if counts := process(t, p, alertOf("a", "new", "low", 0)); counts.Suppressed != 1 {
		t.Errorf("%+v", counts)
	}
	p.Mode = ledger.Changes
	topics.messages = nil
	if counts := process(t, p, alertOf("a", "new", "high", 5), alertOf("c", "read", "medium", 5)); counts.Created != 1 || counts.StatusChanged != 1 {
		t.Errorf("%+v", counts)
	}
	if a, c := attributes(topics.messages[0]), attributes(topics.messages[1]); a != "a created P1 urgent true" || c != "c status_changed P4 seen " {
		t.Errorf("published %q, %q", a, c)
	}
	// A backfill that publishes everything again drops by the rules of today.
	p.Mode, p.BackfillID, p.Rules = ledger.Republish, "b-1", compile(t, `[{"name":"all","when":"true","then":{"drop":true}}]`)
	if counts := process(t, p, alertOf("b", "new", "high", 0)); counts.Dropped != 1 || counts.Published() != 0 {
		t.Errorf("republished: %+v", counts)
	}
}

func TestRuleThatFails(t *testing.T) {
	p, _, topics := newRuleProcessor(t, `[
		{"name":"shouty","when":"alert.raw.title.size() > 3","then":{"drop":true}},
		{"name":"low","when":"true","then":{"priority":"P4"}}]`)
	counts := process(t, p, alertOf("a", "new", "low", 0), alertOf("b", "new", "high", 0))
	if counts.Created != 2 || counts.RulesFailed != 2 || len(counts.Failures) != 1 || counts.Failures["shouty"] == "" {
		t.Errorf("%+v", counts)
	}
	for _, m := range topics.messages {
		if m.Attributes["priority"] != "P2" {
			t.Errorf("%v", m.Attributes)
		}
	}
}

// TestRuleWritebacks: a rule asks once for an alert, when it is new, before it is published.
func TestRuleWritebacks(t *testing.T) {
	p, book, topics := newRuleProcessor(t, `[
		{"name":"noise","when":"alert.severity == 'low'","then":{"drop":true,"set_status":"closed"}},
		{"name":"ours","when":"true","then":{"tags":["auto"]}},
		{"name":"late","when":"event != 'created'","then":{"set_status":"read"}}]`)
	process(t, p, alertOf("a", "new", "low", 0), alertOf("b", "new", "high", 0))
	var got []string
	for _, m := range topics.on("status") {
		got = append(got, string(m.Data))
	}
	want := []string{
		`{"alert_id":"a","status":"closed","expect_status":"new","on_conflict":"skip","requested_by":"rule:noise","reason":"rule noise","feed":"default"}`,
		`{"alert_id":"a","add_tags":["auto"],"on_conflict":"skip","requested_by":"rule:ours","reason":"rule ours","feed":"default"}`,
		`{"alert_id":"b","add_tags":["auto"],"expect_status":"new","on_conflict":"skip","requested_by":"rule:ours","reason":"rule ours","feed":"default"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if want := []string{"status", "status", "status", "alerts"}; !slices.Equal(topics.to, want) {
		t.Errorf("sent to %v", topics.to)
	}
	if r := book.records["a"].Record; len(r.RuleRequests) != 2 || !r.RuleRequests[0].Sent || !r.RuleRequests[1].Sent {
		t.Errorf("recorded: %+v", r.RuleRequests)
	}
	// Neither a change, nor a newer version of a dropped one, asks again; nor does a backfill.
	topics.messages, topics.to = nil, nil
	process(t, p, alertOf("a", "closed", "low", 9), alertOf("b", "read", "high", 9))
	p.Mode, p.BackfillID = ledger.Republish, "b-1"
	process(t, p, alertOf("b", "read", "high", 9))
	if asked := topics.on("status"); len(asked) > 0 {
		t.Errorf("asked again: %s", asked[0].Data)
	}
	// GTI's own statuses are needed to tell an analyst's change. A rule that fails for want
	// of one does not drop either; all else of it applies.
	p.Mode, topics.messages = ledger.Live, nil
	counts := process(t, p, alertOf("c", "odd", "high", 0), alertOf("d", "", "low", 0))
	if counts.Created != 2 || counts.Dropped != 0 || counts.RulesFailed != 3 || len(topics.on("status")) > 0 {
		t.Errorf("%+v", counts)
	}
	for _, m := range topics.on("alerts") {
		if want := map[string]string{"c": "ours", "d": "noise,ours"}[m.Attributes["alert_id"]]; m.Attributes["rules"] != want || m.Attributes["priority"] > "P2" {
			t.Errorf("published with %v", m.Attributes)
		}
	}
}

// TestRuleWritebackAgain: after a failure or a crash the request is repeated as it was, so
// that what an analyst has done meanwhile stands.
func TestRuleWritebackAgain(t *testing.T) {
	for _, down := range []string{"status", "alerts"} {
		t.Run(down+" is down", func(t *testing.T) {
			p, book, topics := newRuleProcessor(t, `[{"name":"up","when":"alert.severity == 'high'","then":{"set_status":"escalated"}}]`)
			topics.fail = down
			counts, err := p.Process(t.Context(), []dtm.Alert{alertOf("a", "new", "high", 0), alertOf("b", "new", "low", 0)}, all)
			if !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			if published := topics.on("alerts"); down == "status" && (counts.Created != 1 || len(published) != 1 || published[0].Attributes["alert_id"] != "b") {
				t.Errorf("%+v, published %v", counts, published)
			}
			if r := book.records["a"].Record; r.Known() || !r.HandledVersion.IsZero() || r.ExpireAt.IsZero() {
				t.Errorf("recorded: %+v", r)
			}
			topics.fail, topics.messages, topics.to = "", nil, nil
			process(t, p, alertOf("a", "closed", "high", 60), alertOf("b", "new", "low", 0))
			asked := topics.on("status")
			if len(asked) != 1 || !strings.Contains(string(asked[0].Data), `"expect_status":"new"`) {
				t.Errorf("asked for %v", asked)
			}
			if published := topics.on("alerts"); len(published) == 0 || published[0].Attributes["status"] != "closed" || published[0].Attributes["alert_id"] != "a" {
				t.Errorf("published %v", published)
			}
		})
	}
}

// TestDryRunOfRules counts, and asks for nothing.
func TestDryRunOfRules(t *testing.T) {
	p, book, topics := newRuleProcessor(t, `[
		{"name":"noise","when":"alert.severity == 'low'","then":{"drop":true,"set_status":"closed"}},
		{"name":"all","when":"true","then":{"priority":"P3"}}]`)
	p.DryRun = &ledger.DryRun{}
	counts := process(t, p, alertOf("a", "new", "low", 0), alertOf("b", "new", "high", 0))
	want := ledger.Counts{
		Handled: 2, Created: 1, Dropped: 1,
		ByType: map[string]int{"Paste": 1}, BySeverity: map[string]int{"high": 1}, ByRule: map[string]int{"noise": 1, "all": 2},
	}
	if diff := cmp.Diff(want, counts, anyOldest); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if len(topics.messages)+len(book.records) > 0 {
		t.Errorf("sent %v, recorded %d", topics.messages, len(book.records))
	}
}

// TestDropsGiveBack: only what is published counts for the limit.
func TestDropsGiveBack(t *testing.T) {
	p, _, _ := newRuleProcessor(t, `[{"name":"noise","when":"alert.severity == 'low'","then":{"drop":true}}]`)
	places := upTo(2)
	counts, err := p.Process(t.Context(), []dtm.Alert{alertOf("a", "new", "low", 0), alertOf("b", "new", "high", 0)}, places)
	if err != nil || counts.Dropped != 1 || places.left != 1 {
		t.Errorf("%+v, %d left, %v", counts, places.left, err)
	}
}

// TestRedaction: nothing leaves unmasked.
func TestRedaction(t *testing.T) {
	p, _, topics := newRuleProcessor(t, `[{"name":"ours","when":"alert.doc.service_account.password.plain_text == 'hunter2hunter2'","then":{"priority":"P1"}}]`)
	redactor, _, err := redact.Parse(`["credentials"]`)
	if err != nil {
		t.Fatal(err)
	}
	p.Redactor = redactor
	leak := version("leak", "new", 0)
	leak.MonitorName = "logins with hunter2hunter2"
	leak.Raw = []byte(`{"id":"leak","doc":{"__type":"compromised_credential","service_account":{"password":{"plain_text":"hunter2hunter2"}}},"title":"hunter2hunter2 was found"}`)
	counts := process(t, p,
		leak, version("plain", "new", 0),
		element(`{"password":"hunter2hunter2"}`), element(`{"password":"hunter2hunter2"`))
	if counts.Created != 2 || counts.Rejected != 2 || counts.Redacted != 2 {
		t.Errorf("%+v", counts)
	}
	for _, m := range topics.messages {
		text := string(m.Data) + fmt.Sprint(m.Attributes)
		if strings.Contains(text, "hunter2") {
			t.Errorf("leaked: %s", text)
		}
		if masked := strings.Contains(string(m.Data), "[redacted:"); masked != (m.Attributes["redacted"] == "true") {
			t.Errorf("%s: %v", m.Data, m.Attributes)
		}
	}
	if a := topics.messages[0].Attributes; a["priority"] != "P1" || a["monitor_name"] != "logins with [redacted:12-15]" {
		t.Errorf("%v", a)
	}
	if data := string(topics.on("rejects")[0].Data); data != `{"password":"[redacted:12-15]"}` {
		t.Errorf("rejected %s", data)
	}
	var digest struct {
		Size   int    `json:"size"`
		SHA256 string `json:"sha256"`
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(topics.on("rejects")[1].Data, &digest); err != nil || digest.Size != 28 || len(digest.SHA256) != 64 || digest.Reason != "unusable: not an object" {
		t.Errorf("%+v %v", digest, err)
	}
}

// TestRulesLoseNothing: whatever rules do, an alert is published unless one that
// matched says drop.
func TestRulesLoseNothing(t *testing.T) {
	conditions := []string{
		"true", "false", "alert.severity == 'low'", "alert.raw.nothing == 1", "alert.doc.x.y == 'z'", "alert.tags[7] == 'x'",
		"1 / (alert.severity == 'high' ? 0 : 1) == 1", "now > alert.created_at", "event == 'created'",
	}
	effects := []string{`{"priority":"P4"}`, `{"drop":true}`, `{"drop":false}`, `{"escalate":true}`, `{"set_status":"closed"}`, `{"tags":["x"]}`, `{"priority":"P1","stop":true}`, `{"drop":true,"set_status":"closed","stop":true}`}
	rapid.Check(t, func(rt *rapid.T) {
		var list []string
		drops := map[string]bool{}
		for i := range rapid.IntRange(0, 5).Draw(rt, "rules") {
			effect := rapid.SampledFrom(effects).Draw(rt, "effect")
			name := fmt.Sprintf("r%d", i)
			drops[name] = strings.Contains(effect, `"drop":true`)
			list = append(list, fmt.Sprintf(`{"name":%q,"when":%q,"then":%s}`, name, rapid.SampledFrom(conditions).Draw(rt, "condition"), effect))
		}
		p, _, topics := newRuleProcessor(t, "["+strings.Join(list, ",")+"]")
		var alerts []dtm.Alert
		for i := range rapid.IntRange(1, 4).Draw(rt, "alerts") {
			alerts = append(alerts, alertOf(fmt.Sprintf("a%d", i), rapid.SampledFrom([]string{"new", "read", "odd"}).Draw(rt, "status"), rapid.SampledFrom([]string{"low", "high", ""}).Draw(rt, "severity"), i))
		}
		p.DryRun = &ledger.DryRun{}
		dry := process(t, p, alerts...)
		p.DryRun = nil
		counts := process(t, p, alerts...)
		matchedDrop := false
		for rule := range dry.ByRule {
			matchedDrop = matchedDrop || drops[rule]
		}
		if counts.Published()+counts.Dropped != len(alerts) || counts.Published() != len(topics.on("alerts")) || counts.Dropped > 0 && !matchedDrop {
			rt.Errorf("%d alerts: %+v, matched %v", len(alerts), counts, dry.ByRule)
		}
		if dry.Published() != counts.Published() || dry.Dropped != counts.Dropped {
			rt.Errorf("a dry run counts %+v, a run %+v", dry, counts)
		}
	})
}

// TestRedactionOfAChange: what was masked in an alert is masked in a later version that
// comes without its document, also when the alert can't be fetched; no other is fetched.
func TestRedactionOfAChange(t *testing.T) {
	const secret = "hunter2hunter2"
	for _, c := range []struct {
		name  string
		err   error
		title string
	}{
		{"with the alert at hand", nil, "[redacted:12-15] was found"},
		{"without", &dtm.PageTooLargeError{}, "[redacted:16+]"},
		{"gone since", &dtm.APIError{Status: 404}, "[redacted:16+]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _, topics := newRuleProcessor(t, `[]`)
			redactor, _, err := redact.Parse(`["credentials"]`)
			if err != nil {
				t.Fatal(err)
			}
			p.Redactor = redactor
			whole := version("leak", "new", 0)
			whole.Raw = []byte(`{"id":"leak","doc":{"service_account":{"password":{"plain_text":"` + secret + `"}}},"title":"` + secret + ` was found"}`)
			whole.HasDoc = true
			process(t, p, whole, version("plain", "new", 0))
			topics.messages, topics.to = nil, nil

			var fetched []string
			p.Mode = ledger.Changes
			p.FetchFull = func(_ context.Context, id string) (dtm.Page, error) {
				fetched = append(fetched, id)
				if c.err != nil {
					return dtm.Page{}, c.err
				}
				return dtm.Page{Alerts: []dtm.Alert{whole}}, nil
			}
			change, other := version("leak", "closed", 9), version("plain", "closed", 9)
			change.Raw = []byte(`{"id":"leak","title":"` + secret + ` was found","topic_matches":[{"topic_id":"t","value":"` + secret + `"}]}`)
			change.HasDoc, other.HasDoc = false, false
			process(t, p, change, other)
			if diff := cmp.Diff([]string{"leak"}, fetched); diff != "" {
				t.Errorf("fetched %s", diff)
			}
			for _, m := range topics.messages {
				if strings.Contains(string(m.Data), secret) {
					t.Errorf("leaked: %s", m.Data)
				}
				if m.Attributes["alert_id"] == "leak" && (m.Attributes["redacted"] != "true" || m.Attributes["refs"] != "false" || !strings.Contains(string(m.Data), `"title":"`+c.title+`"`)) {
					t.Errorf("%v %s", m.Attributes, m.Data)
				}
			}
			if len(topics.messages) != 2 {
				t.Errorf("%d messages", len(topics.messages))
			}
		})
	}
}

// TestRedactionOfWhatAttributesSay: a path hides a member in the attributes and the
// incident, too.
func TestRedactionOfWhatAttributesSay(t *testing.T) {
	for _, format := range []message.Format{message.Raw, message.Incident} {
		p, _, topics := newRuleProcessor(t, `[]`)
		p.Format = format
		redactor, _, err := redact.Parse(`["monitor_id","aggregated_under_id","indicator_mscore","status"]`)
		if err != nil {
			t.Fatal(err)
		}
		p.Redactor = redactor
		whole := func(status string, at int) dtm.Alert {
			a := version("a", status, at)
			a.MonitorID, a.GroupID, a.MScore, a.HasDoc = "monitor-1", "group-1", "77", true
			a.Raw = fmt.Appendf(nil, `{"id":"a","monitor_id":"monitor-1","aggregated_under_id":"group-1","indicator_mscore":77,"status":%q,"severity":"low"}`, status)
			return a
		}
		process(t, p, whole("escalated", 0))
		process(t, p, whole("read", 9))
		for _, m := range topics.messages {
			if text := string(m.Data) + fmt.Sprint(m.Attributes); strings.Contains(text, "monitor-1") || strings.Contains(text, "group-1") || strings.Contains(text, "77") || strings.Contains(text, "escalated") {
				t.Errorf("%s: %s", format, text)
			}
		}
		if len(topics.messages) != 2 || topics.messages[1].Attributes["event"] != ledger.StatusChanged {
			t.Errorf("%s: %v", format, topics.messages)
		}
	}
}

// TestRedactionOfWhatIsNotKnown: a version without its document may be published as it is
// only with the texts that were looked at with the document, and by this REDACT.
func TestRedactionOfWhatIsNotKnown(t *testing.T) {
	const secret = "hunter2hunter2"
	withDoc := func(password, title string) dtm.Alert {
		a := version("a", "new", 0)
		a.Raw = fmt.Appendf(nil, `{"id":"a","doc":{"service_account":{"password":{"plain_text":%q}}},"title":%q,"monitor_name":"Brand"}`, password, title)
		a.HasDoc = true
		return a
	}
	slim := func(title string, at int) dtm.Alert {
		a := version("a", "read", at)
		a.Raw = fmt.Appendf(nil, `{"status":"read","title":%q,"id":"a"}`, title)
		a.HasDoc = false
		return a
	}
	const harmless, found = "nothing known yet", secret + " was found"
	for name, c := range map[string]struct {
		before, after string // REDACT at the first version and at the change
		first         *dtm.Alert
		change        dtm.Alert
		full          dtm.Alert // what the alert is when it is fetched
		err           error     // of fetching
		bare          bool      // the feed has no documents
		fetched       int
		title         string
	}{
		"the same texts":                      {`["credentials"]`, `["credentials"]`, new(withDoc("********", harmless)), slim(harmless, 9), dtm.Alert{}, nil, false, 0, harmless},
		"a secret that came later":            {`["credentials"]`, `["credentials"]`, new(withDoc("********", harmless)), slim(found, 9), withDoc(secret, found), nil, false, 1, "[redacted:12-15] was found"},
		"later, and not to be had":            {`["credentials"]`, `["credentials"]`, new(withDoc("********", harmless)), slim(found, 9), dtm.Alert{}, &dtm.APIError{Status: 503}, false, 1, "[redacted:16+]"},
		"gone since":                          {`["credentials"]`, `["credentials"]`, new(withDoc("********", harmless)), slim(found, 9), dtm.Alert{}, &dtm.APIError{Status: 404}, false, 1, "[redacted:16+]"},
		"masking begins":                      {`[]`, `["credentials"]`, new(withDoc(secret, found)), slim(found, 9), withDoc(secret, found), nil, false, 1, "[redacted:12-15] was found"},
		"another REDACT":                      {`["text"]`, `["text","credentials"]`, new(withDoc(secret, found)), slim(found, 9), withDoc(secret, found), nil, false, 1, "[redacted:12-15] was found"},
		"other texts without a secret":        {`["credentials"]`, `["credentials"]`, new(withDoc("********", harmless)), slim("still nothing", 9), withDoc("********", "still nothing"), nil, false, 1, "still nothing"},
		"a late alert that can't be had":      {`["credentials"]`, `["credentials"]`, nil, slim(found, 9), dtm.Alert{}, &dtm.APIError{Status: 500}, false, 1, "[redacted:16+]"},
		"an older one is fetched":             {`["credentials"]`, `["credentials"]`, nil, slim(found, 9), withDoc(secret, found), nil, false, 1, "[redacted:12-15] was found"},
		"another alert is fetched":            {`["credentials"]`, `["credentials"]`, nil, slim(found, 9), dtm.Alert{ID: "b"}, nil, false, 1, "[redacted:16+]"},
		"an unusable one is fetched":          {`["credentials"]`, `["credentials"]`, new(withDoc("********", harmless)), slim(found, 9), dtm.Alert{ID: "a", Invalid: "x"}, nil, false, 1, "[redacted:16+]"},
		"nothing is masked":                   {`[]`, `[]`, new(withDoc(secret, found)), slim(found+"!", 9), dtm.Alert{}, nil, false, 0, found + "!"},
		"a feed that never has the documents": {`["credentials"]`, `["credentials"]`, new(slim(harmless, 0)), slim(found, 9), dtm.Alert{}, nil, true, 0, found},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, topics := newRuleProcessor(t, `[]`)
			use := func(list string) {
				redactor, _, err := redact.Parse(list)
				if err != nil {
					t.Fatal(err)
				}
				p.Redactor = redactor
			}
			use(c.before)
			if c.first != nil {
				process(t, p, *c.first)
			}
			topics.messages, topics.to = nil, nil
			use(c.after)
			fetched := 0
			if !c.bare {
				p.FetchFull = func(context.Context, string) (dtm.Page, error) {
					fetched++
					if c.err != nil {
						return dtm.Page{}, c.err
					}
					return dtm.Page{Alerts: []dtm.Alert{c.full}}, nil
				}
			}
			process(t, p, c.change)
			if fetched != c.fetched || len(topics.messages) != 1 || !strings.Contains(string(topics.messages[0].Data), fmt.Sprintf(`"title":%q`, c.title)) {
				t.Fatalf("%d fetched, %d messages: %s", fetched, len(topics.messages), topics.messages[0].Data)
			}
			// Then nothing is asked again, where the alert was seen.
			again := c.change
			again.UpdatedAt, again.Status = again.UpdatedAt.Add(time.Minute), "closed"
			process(t, p, again)
			if want := c.fetched + 1; c.fetched > 0 && (c.err != nil || strings.Contains(c.title, "redacted")) && fetched != want {
				t.Errorf("%d fetched, want %d", fetched, want)
			} else if c.fetched > 0 && c.err == nil && c.title == "still nothing" && fetched != c.fetched {
				t.Errorf("%d fetched, want %d", fetched, c.fetched)
			}
			for _, m := range topics.messages {
				if strings.Contains(string(m.Data), secret) && c.after != "[]" && !c.bare {
					t.Errorf("leaked: %s", m.Data)
				}
			}
		})
	}
}
