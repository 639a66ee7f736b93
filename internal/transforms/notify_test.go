package transforms

import (
	"bytes"
	"cmp"
	"encoding/json"
	"html"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/message"
)

const linkTo = "https://advantage.mandiant.com/dtm/alerts/"

// oneLine is what clean in common.js makes of a title.
func oneLine(text string) string {
	if runes := []rune(text); len(runes) > 240 {
		text = string(runes[:240])
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, text))
}

// said are the texts of a notification as a reader sees them.
func said(t testing.TB, to, data string) string {
	t.Helper()
	body := decode(t, data)
	delete(body, "routing_key")
	all := leaves(body)
	slices.Sort(all)
	text := strings.Join(all, "\n")
	if to == "slack" || to == "google_chat" {
		text = html.UnescapeString(text)
	}
	return text
}

func wantTitle(s sample) string {
	if s.title != "" {
		return oneLine(s.title)
	}
	return oneLine(s.alert.Type + ": " + wantMonitor(s))
}

func wantMonitor(s sample) string {
	return oneLine(cmp.Or(s.alert.MonitorName, s.alert.MonitorID))
}

// TestNotifications: whoever is told gets title, type, severity, status, monitor,
// priority, event and link of every type of alert, in both formats, and no other text
// of the alert.
func TestNotifications(t *testing.T) {
	t.Parallel()
	all := samples(t)
	for _, to := range receivers {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			f := loadNotify(t, to)
			for _, s := range all {
				out := f.apply(s.Message)
				if diff := gocmp.Diff(map[string]any{"Content-Type": "application/json"}, out.attributes); diff != "" {
					t.Errorf("%s: attributes become headers (-want +got):\n%s", s.name, diff)
				}
				text := said(t, to, out.data)
				wants := []string{
					wantTitle(s), s.alert.Type, s.alert.Severity, s.alert.Status, wantMonitor(s),
					s.Attributes["event"], linkTo + s.alert.ID,
				}
				if to != "pagerduty" {
					wants = append(wants, s.Attributes["priority"])
				}
				for _, want := range wants {
					if !strings.Contains(text, want) {
						t.Errorf("%s: no %q in %s", s.name, want, out.data)
					}
				}
				shown := strings.Join(wants, "\n")
				for _, secret := range leaves(decode(t, string(s.Data))) {
					secret = strings.TrimSpace(secret)
					if len(secret) > 5 && !strings.Contains(shown, secret) && strings.Contains(text, secret) {
						t.Errorf("%s: %q is in %s", s.name, secret, out.data)
					}
				}
			}
		})
	}
}

// hasContent reports whether a body says something of an alert.
func hasContent(text string) bool {
	return strings.Contains(text, "Paste") && strings.Contains(text, "Brand & Co") && strings.Contains(text, linkTo+"a1")
}

// TestNotificationOfUnreadableData: what can't be read is told of all the same.
func TestNotificationOfUnreadableData(t *testing.T) {
	t.Parallel()
	attributes := map[string]string{
		"alert_id": "a1", "alert_type": "Paste", "severity": "high", "status": "new",
		"priority": "P1", "event": "created", "monitor_name": "Brand & Co",
	}
	for _, to := range receivers {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			f := loadNotify(t, to)
			for _, data := range []string{
				"", " ", "null", "[]", "5", `"title"`, "{", "no JSON", `{"title":null}`, `{"title":5}`,
				`{"title":["a"]}`, `{"title":""}`, `{"title":"\u0000\n"}`, "{\"title\":\"\xff\xfe", `{"alert":{"title":"inner"}}`,
			} {
				out := f.apply(message.Message{Data: []byte(data), Attributes: attributes})
				if text := said(t, to, out.data); !hasContent(text) || !strings.Contains(text, "Paste: Brand & Co") {
					t.Errorf("%q becomes %s", data, out.data)
				}
			}
			// The relay always sets attributes; others may publish to its topic.
			for _, none := range []map[string]string{nil, {}} {
				out := f.apply(message.Message{Data: []byte("?"), Attributes: none})
				if text := said(t, to, out.data); !strings.Contains(text, "DTM alert") || strings.Contains(text, linkTo) {
					t.Errorf("without attributes: %s", out.data)
				}
			}
		})
	}
}

// TestNoMarkup: whatever stands in a title or a monitor's name, it makes no mention,
// no link and no tag.
func TestNoMarkup(t *testing.T) {
	t.Parallel()
	functions := map[string]function{}
	for _, to := range receivers {
		functions[to] = loadNotify(t, to)
	}
	title := rapid.OneOf(rapid.String(), rapid.StringMatching(`(<!channel>|<https://evil\.test\|x>|<users/all>|&lt;|\*|<b>|</b>|"|\\|\x{1f432}|a| ){0,400}`))
	rapid.Check(t, func(r *rapid.T) {
		text := title.Draw(r, "title")
		m := message.Message{
			Data:       jsonTitle(r, text),
			Attributes: map[string]string{"alert_id": "a1", "priority": "P1", "event": "created", "monitor_name": title.Draw(r, "monitor")},
		}
		for to, f := range functions {
			out := f.apply(m)
			body := decode(t, out.data)
			if !utf8.ValidString(out.data) || strings.ContainsRune(out.data, 0) {
				r.Fatalf("%s: not valid UTF-8: %q", to, out.data)
			}
			for _, leaf := range leaves(body) {
				rest := leaf
				switch to {
				case "slack":
					rest = strings.Replace(rest, "<"+linkTo+"a1|Open in DTM>", "", 1)
				case "google_chat":
					rest = strings.NewReplacer("<b>", "", "</b>", "").Replace(rest)
					if strings.Count(leaf, "<b>") > 1 {
						r.Fatalf("%s: a tag in %q", to, leaf)
					}
				default:
					continue // these take no markup
				}
				if strings.ContainsAny(rest, "<>") {
					r.Fatalf("%s: markup in %q", to, leaf)
				}
				if strings.Contains(regexp.MustCompile(`&(amp|lt|gt);`).ReplaceAllString(rest, ""), "&") {
					r.Fatalf("%s: a bare & in %q", to, leaf)
				}
			}
		}
	})
}

func jsonTitle(t *rapid.T, title string) []byte {
	data, err := json.Marshal(map[string]string{"title": title})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestLongestText: Slack refuses a text of more than 3,000 characters, PagerDuty a
// summary of more than 1,024.
func TestLongestText(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("&", 1024)
	attributes := map[string]string{"alert_id": strings.Repeat("a", 128)}
	for _, name := range []string{"alert_type", "severity", "status", "priority", "event", "monitor_name"} {
		attributes[name] = long
	}
	for to, bound := range map[string]int{"slack": 3000, "pagerduty": 1024, "google_chat": 3000} {
		out := loadNotify(t, to).apply(message.Message{Data: []byte(`{"title":"` + long + `"}`), Attributes: attributes})
		for _, leaf := range leaves(decode(t, out.data)) {
			if n := utf8.RuneCountInString(leaf); n > bound {
				t.Errorf("%s: a text of %d characters, and %d are taken", to, n, bound)
			}
		}
	}
}

// TestHalfCharacters: a title cut or written in the middle of a character is whole.
func TestHalfCharacters(t *testing.T) {
	t.Parallel()
	f := loadNotify(t, "webhook")
	for title, want := range map[string]string{
		`\ud83d`:                       "\ufffd",
		`a\udc32b`:                     "a\ufffdb",
		`\ud83d\udc32`:                 "🐲",
		strings.Repeat("🐲", 241):       strings.Repeat("🐲", 240),
		"x" + strings.Repeat("🐲", 240): "x" + strings.Repeat("🐲", 239),
		`one\u2028two\u202ethree`:      "one two three",
	} {
		out := f.apply(message.Message{Data: []byte(`{"title":"` + title + `"}`)})
		if got := decode(t, out.data)["title"]; got != want {
			t.Errorf("%s becomes %q, want %q", title, got, want)
		}
	}
}

func TestPagerDuty(t *testing.T) {
	f := loadNotify(t, "pagerduty")
	type event struct{ action, key, severity any }
	for name, test := range map[string]struct {
		attributes map[string]string
		want       event
	}{
		"new":                {map[string]string{"alert_id": "a1", "status": "new", "priority": "P1"}, event{"trigger", "a1", "critical"}},
		"P2":                 {map[string]string{"alert_id": "a1", "status": "escalated", "priority": "P2"}, event{"trigger", "a1", "error"}},
		"P3":                 {map[string]string{"alert_id": "a1", "status": "read", "priority": "P3"}, event{"trigger", "a1", "warning"}},
		"P4":                 {map[string]string{"alert_id": "a1", "status": "in_progress", "priority": "P4"}, event{"trigger", "a1", "info"}},
		"no priority":        {map[string]string{"alert_id": "a1"}, event{"trigger", "a1", "error"}},
		"closed":             {map[string]string{"alert_id": "a1", "status": "closed", "priority": "P1"}, event{"resolve", "a1", "critical"}},
		"no action required": {map[string]string{"alert_id": "a1", "status": "no_action_required", "priority": "P1"}, event{"resolve", "a1", "critical"}},
		"duplicate":          {map[string]string{"alert_id": "a1", "status": "duplicate", "priority": "P1"}, event{"resolve", "a1", "critical"}},
		"not relevant":       {map[string]string{"alert_id": "a1", "status": "not_relevant", "priority": "P1"}, event{"resolve", "a1", "critical"}},
		"tracked elsewhere":  {map[string]string{"alert_id": "a1", "status": "tracked_external", "priority": "P1"}, event{"resolve", "a1", "critical"}},
		// PagerDuty resolves nothing without a key.
		"closed, no id": {map[string]string{"status": "closed", "priority": "P1"}, event{"trigger", nil, "critical"}},
	} {
		t.Run(name, func(t *testing.T) {
			body := decode(t, f.apply(message.Message{Data: []byte(`{"title":"T"}`), Attributes: test.attributes}).data)
			payload, _ := body["payload"].(map[string]any)
			got := event{body["event_action"], body["dedup_key"], payload["severity"]}
			if got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			if body["routing_key"] != routingKey || payload["source"] != "dtm" || payload["summary"] == "" {
				t.Errorf("what PagerDuty requires is not there: %v", body)
			}
		})
	}
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	out := loadNotify(t, "webhook").apply(message.Message{Data: []byte(`{"title":"T","doc":{"body":"b"}}`), Attributes: map[string]string{
		"alert_id": "a1", "alert_type": "Paste", "status": "new", "priority": "P2", "event": "created", "monitor_id": "m1", "run_id": "r",
	}})
	want := map[string]any{
		"id": "a1", "title": "T", "type": "Paste", "status": "new", "priority": "P2", "event": "created", "monitor": "m1", "link": linkTo + "a1",
	}
	if diff := gocmp.Diff(want, decode(t, out.data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDefaultFilter: by default people are told of new alerts of P1. The emulator
// takes every filter and heeds none, pstest does both as Pub/Sub.
func TestDefaultFilter(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(terraform + "variables.tf")
	if err != nil {
		t.Fatal(err)
	}
	_, notify, _ := bytes.Cut(text, []byte(`variable "notify"`))
	found := regexp.MustCompile(`filter\s+= optional\(string, ("(?:[^"\\]|\\.)*")\)`).FindSubmatch(notify)
	if found == nil {
		t.Fatal("no default filter in variable notify")
	}
	filter, err := strconv.Unquote(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	if err := pstest.ValidateFilter(filter); err != nil {
		t.Fatalf("%s: %v", filter, err)
	}

	server := pstest.NewServer()
	t.Cleanup(func() { server.Close() })
	conn, err := grpc.NewClient(server.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client, err := pubsub.NewClient(t.Context(), "p", option.WithGRPCConn(conn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	const topic, subscription = "projects/p/topics/dtm-alerts", "projects/p/subscriptions/dtm-alerts-notify-x"
	if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: subscription, Topic: topic, Filter: filter}); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	for _, s := range samples(t) {
		server.Publish(topic, s.Data, s.Attributes)
		if s.Attributes["priority"] == "P1" && s.Attributes["event"] == "created" {
			want[s.Attributes["dedupe_key"]]++
		}
	}
	pulled, err := client.SubscriptionAdminClient.Pull(t.Context(), &pubsubpb.PullRequest{Subscription: subscription, MaxMessages: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, m := range pulled.GetReceivedMessages() {
		got[m.GetMessage().GetAttributes()["dedupe_key"]]++
	}
	if diff := gocmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("what %s lets through of %d (-want +got):\n%s", filter, len(want), diff)
	}
}
