package config

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sethvargo/go-envconfig"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// least is the smallest environment that Load accepts.
var least = map[string]string{
	"GOOGLE_CLOUD_PROJECT": "my-project",
	"PUBSUB_TOPIC":         "dtm-alerts",
	"REJECTS_TOPIC":        "dtm-rejects",
	"GTI_API_KEY_SECRET":   "projects/my-project/secrets/gti-api-key",
}

// with returns the smallest environment with changes: pairs of name and value.
func with(pairs ...string) map[string]string {
	env := maps.Clone(least)
	for pair := range slices.Chunk(pairs, 2) {
		env[pair[0]] = pair[1]
	}
	return env
}

func defaults() Config {
	return Config{
		Project:         "my-project",
		Feed:            "default",
		Topic:           "projects/my-project/topics/dtm-alerts",
		RejectsTopic:    "projects/my-project/topics/dtm-rejects",
		Database:        "(default)",
		KeySecret:       "projects/my-project/secrets/gti-api-key/versions/latest",
		BaseURL:         "https://www.virustotal.com/api/v3",
		ToolName:        "dtm-relay",
		Refs:            true,
		MessageFormat:   "raw",
		InitialLookback: 24 * time.Hour,
		Overlap:         10 * time.Minute,
		Settle:          30 * time.Second,
		MaxLookback:     120 * time.Hour,
		UpdatesWindow:   720 * time.Hour,
		MonitorsCheck:   24 * time.Hour,
		AuditWindow:     72 * time.Hour,
		LedgerTTL:       4320 * time.Hour,
		Concurrency:     6,
		QPS:             10,
		RequestsPerDay:  40000,
		ErrorsPerHour:   100,
		Budget:          9 * time.Minute,
		LogLevel:        slog.LevelInfo,
	}
}

func TestLoadAccepts(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want func(*Config) // what differs from the defaults
	}{
		{"the least", least, func(*Config) {}},
		{"empty is unset", with("FEED", "", "OVERLAP", "  ", "DTM_FILTER", "\t"), func(*Config) {}},
		{"white space around", with("FEED", " emea\n", "MAX_QPS", " 2.5 "), func(c *Config) { c.Feed, c.QPS = "emea", 2.5 }},
		{"full topic names", with("PUBSUB_TOPIC", "projects/other/topics/a.b~c+d%e_f-g"), func(c *Config) {
			c.Topic = "projects/other/topics/a.b~c+d%e_f-g"
		}},
		{"a project of a domain", with("GOOGLE_CLOUD_PROJECT", "example.com:relay"), func(c *Config) {
			c.Project = "example.com:relay"
			c.Topic = "projects/example.com:relay/topics/dtm-alerts"
			c.RejectsTopic = "projects/example.com:relay/topics/dtm-rejects"
		}},
		{"a database", with("FIRESTORE_DATABASE", "dtm-relay"), func(c *Config) { c.Database = "dtm-relay" }},
		{"a pinned key", with("GTI_API_KEY_SECRET", "projects/123/secrets/k/versions/7"), func(c *Config) {
			c.KeySecret = "projects/123/secrets/k/versions/7"
		}},
		{"a key of one's own", with("GTI_API_KEY_SECRET", "", "GTI_API_KEY", " 0123abcd\n"), func(c *Config) {
			c.KeySecret, c.Key = "", "0123abcd"
		}},
		{"deployed", with("K_SERVICE", "dtm-ingest", "CLOUD_RUN_TIMEOUT_SECONDS", "540"), func(c *Config) {
			c.Deployed, c.Budget = true, 510*time.Second
		}},
		{"a short timeout", with("CLOUD_RUN_TIMEOUT_SECONDS", "30"), func(c *Config) { c.Budget = 15 * time.Second }},
		{"a very short timeout", with("CLOUD_RUN_TIMEOUT_SECONDS", "1"), func(c *Config) { c.Budget = 500 * time.Millisecond }},
		{"the longest budget", with("CLOUD_RUN_TIMEOUT_SECONDS", "540", "RUN_BUDGET", "530s"), func(c *Config) { c.Budget = 530 * time.Second }},
		{"a budget without a timeout", with("RUN_BUDGET", "2h"), func(c *Config) { c.Budget = 2 * time.Hour }},
		{"the simulator", with("GTI_BASE_URL", "http://127.1.2.3:8080/api/v3//"), func(c *Config) {
			c.BaseURL = "http://127.1.2.3:8080/api/v3"
		}},
		{"the simulator by name", with("GTI_BASE_URL", "http://localhost:8080"), func(c *Config) { c.BaseURL = "http://localhost:8080" }},
		{"the simulator by IPv6", with("GTI_BASE_URL", "http://[::1]:8080/"), func(c *Config) { c.BaseURL = "http://[::1]:8080" }},
		{"the simulator in capitals", with("GTI_BASE_URL", "HTTP://LOCALHOST:8089/"), func(c *Config) { c.BaseURL = "http://LOCALHOST:8089" }},
		{"the last port", with("GTI_BASE_URL", "https://h:65535/"), func(c *Config) { c.BaseURL = "https://h:65535" }},
		{"a filter", with("DTM_FILTER", `{"severity":["high"]}`), func(c *Config) { c.Filter = dtm.Filter{Severity: []string{"high"}} }},
		{"no documents", with("DTM_REFS", "false"), func(c *Config) { c.Refs = false }},
		{"no overlap and no settling", with("OVERLAP", "0", "SETTLE", "0s", "INITIAL_LOOKBACK", "1ms"), func(c *Config) {
			c.Overlap, c.Settle, c.InitialLookback = 0, 0, time.Millisecond
		}},
		{"tight spans", with("MAX_LOOKBACK", "10m31s", "AUDIT_WINDOW", "10m30.999s", "LEDGER_TTL", "10m31s", "UPDATES_WINDOW", "10m30.999s"), func(c *Config) {
			c.MaxLookback, c.AuditWindow = 631*time.Second, 630_999*time.Millisecond
			c.LedgerTTL, c.UpdatesWindow = 631*time.Second, 630_999*time.Millisecond
		}},
		{"no sweep and no audit", with("UPDATES_WINDOW", "0", "AUDIT_WINDOW", "0s", "LEDGER_TTL", "1h"), func(c *Config) {
			c.UpdatesWindow, c.AuditWindow, c.LedgerTTL = 0, 0, time.Hour
		}},
		{"monitors each minute", with("MONITORS_CHECK", "1m"), func(c *Config) { c.MonitorsCheck = time.Minute }},
		{"monitors never", with("MONITORS_CHECK", "0"), func(c *Config) { c.MonitorsCheck = 0 }},
		{"the default audit fits into a shorter look-back", with("MAX_LOOKBACK", "50h"), func(c *Config) {
			c.MaxLookback, c.AuditWindow = 50*time.Hour, 30*time.Hour
		}},
		{"limits", with("MAX_ALERTS_PER_RUN", "5", "MAX_CONCURRENCY", "10", "MAX_QPS", "1000", "MAX_REQUESTS_PER_DAY", "1", "MAX_ERRORS_PER_HOUR", "10"), func(c *Config) {
			c.MaxAlerts, c.Concurrency, c.QPS, c.RequestsPerDay, c.ErrorsPerHour = 5, 10, 1000, 1, 10
		}},
		{"the most errors", with("MAX_ERRORS_PER_HOUR", "10000"), func(c *Config) { c.ErrorsPerHour = 10_000 }},
		{"incidents", with("MESSAGE_FORMAT", "incident"), func(c *Config) { c.MessageFormat = "incident" }},
		{"a topic for rules that there aren't", with("STATUS_TOPIC", "dtm-status-updates"), func(c *Config) {
			c.StatusTopic = "projects/my-project/topics/dtm-status-updates"
		}},
		{"operators", with("OPERATORS", `["Ana@Example.com","dtm-relay-scheduler@p.iam.gserviceaccount.com"]`), func(c *Config) {
			c.Operators = []string{"ana@example.com", "dtm-relay-scheduler@p.iam.gserviceaccount.com"}
		}},
		{"operators and viewers", with("OPERATORS", ` [ "a+b@x.example" ]`, "VIEWERS", `["o'neill@x-y.example","a+b@x.example"]`), func(c *Config) {
			c.Operators, c.Viewers = []string{"a+b@x.example"}, []string{"o'neill@x-y.example", "a+b@x.example"}
		}},
		{"nobody named", with("OPERATORS", "[ ]", "VIEWERS", "[]"), func(*Config) {}},
		{"emulators", with("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1", "PUBSUB_EMULATOR_HOST", "127.0.0.1:2", "SECRETMANAGER_EMULATOR_HOST", "127.0.0.1:3"), func(*Config) {}},
		{"no emulator in a deployed function", with("K_SERVICE", "dtm-ingest", "FIRESTORE_EMULATOR_HOST", ""), func(c *Config) { c.Deployed = true }},
		{"a log level", with("LOG_LEVEL", "WARN"), func(c *Config) { c.LogLevel = slog.LevelWarn }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, warnings, err := Load(t.Context(), envconfig.MapLookuper(tt.env))
			if err != nil || len(warnings) > 0 {
				t.Fatalf("warnings %q, error %v", warnings, err)
			}
			want := defaults()
			tt.want(&want)
			if diff := cmp.Diff(want, got, parsed); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

type noKeys struct{ dtm.KeySource }

// TestTheClientTakesTheBaseURL: one rule says where the key may go unencrypted.
func TestTheClientTakesTheBaseURL(t *testing.T) {
	accepted := 0
	for _, host := range []string{
		"localhost", "LOCALHOST:8089", "LocalHost", "127.0.0.1:8089", "127.0.0.2", "[::1]:80", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
		"[::1%25lo]", "localhost.", "0.0.0.0", "10.0.0.1", "[::]", "h", "H:8089",
	} {
		for _, scheme := range []string{"http://", "https://"} {
			c, _, err := Load(t.Context(), envconfig.MapLookuper(with("GTI_BASE_URL", scheme+host+"/api/v3")))
			if err != nil {
				continue
			}
			accepted++
			_, err = dtm.New(dtm.Options{BaseURL: c.BaseURL, ToolName: "t", UserAgent: "t", Keys: noKeys{}, Meter: dtm.NewMeter(1), Concurrency: 1, QPS: 1})
			if err != nil {
				t.Errorf("%s%s: the configuration takes it, the client does not: %v", scheme, host, err)
			}
		}
	}
	if accepted < 20 {
		t.Errorf("only %d were accepted", accepted)
	}
}

// parsed compares what is parsed by other packages, which test that.
var parsed = cmpopts.IgnoreFields(Config{}, "Rules", "Redactor")

// TestLoadRules: all problems of the rules stand beside those of other variables.
func TestLoadRules(t *testing.T) {
	env := with("RULES", `[{"name":"a","when":"true","then":{}},{"name":"a","when":"1","then":{"set_status":"closed"}}]`, "REDACT", `["a..b",1]`)
	_, _, err := Load(t.Context(), envconfig.MapLookuper(env))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"STATUS_TOPIC: is not set, and a rule", "RULES: rule \"a\"", "RULES: rule 2", "REDACT: element 1", "REDACT: element 2"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
	rule := `[{"name":"noise","when":"alert.severity == 'low'","then":{"drop":true,"set_status":"closed"}}]`
	c, warnings, err := Load(t.Context(), envconfig.MapLookuper(with("RULES", rule, "STATUS_TOPIC", "dtm-status", "REDACT", `["no.such.field"]`)))
	if err != nil || c.StatusTopic != "projects/my-project/topics/dtm-status" || len(warnings) != 1 || !strings.HasPrefix(warnings[0], "REDACT: ") {
		t.Fatalf("%v, warnings %q, topic %q", err, warnings, c.StatusTopic)
	}
	if got := c.Rules.Evaluate(dtm.Alert{Raw: []byte(`{"severity":"low"}`), Severity: "low"}, "created", "", true, time.Now()); !got.Drop {
		t.Errorf("%+v", got)
	}
	if c, _, err := LoadLocal(t.Context(), envconfig.MapLookuper(with("RULES", rule))); err != nil || c.Rules == nil {
		t.Errorf("local: %v", err)
	}
	if c, _, err := Load(t.Context(), envconfig.MapLookuper(with())); err != nil || c.Rules != nil {
		t.Errorf("no rules: %v, %v", c.Rules, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	long := strings.Repeat("x", 5000)
	tests := []struct {
		variable string
		value    string
		say      string // what the message must say beside the variable's name
		and      []string
	}{
		{"GOOGLE_CLOUD_PROJECT", "", "not set", nil},
		{"GOOGLE_CLOUD_PROJECT", "a/b", `"a/b"`, nil},
		{"GOOGLE_CLOUD_PROJECT", "a b", `"a b"`, nil},
		{"FEED", "Emea", `"Emea"`, nil},
		{"FEED", "1st", `"1st"`, nil},
		{"FEED", "a/b", `"a/b"`, nil},
		{"FEED", "a" + long, `xxx"…`, nil},
		{"PUBSUB_TOPIC", "", "not set", nil},
		{"PUBSUB_TOPIC", "ab", `"ab"`, nil},
		{"PUBSUB_TOPIC", "1topic", `"1topic"`, nil},
		{"PUBSUB_TOPIC", "google-topic", "goog", nil},
		{"PUBSUB_TOPIC", "projects/p/subscriptions/s", "projects/PROJECT/topics/ID", nil},
		{"PUBSUB_TOPIC", "projects//topics/abc", "project", nil},
		{"PUBSUB_TOPIC", "projects/p/topics/abc/d", "projects/PROJECT/topics/ID", nil},
		{"REJECTS_TOPIC", "", "not set", nil},
		{"REJECTS_TOPIC", "töpic", "töpic", nil},
		{"FIRESTORE_DATABASE", "abc", "4 to 63", nil},
		{"FIRESTORE_DATABASE", "(other)", "(default)", nil},
		{"GTI_API_KEY_SECRET", "", "GTI_API_KEY", nil},
		{"GTI_API_KEY_SECRET", "", "not set", []string{"K_SERVICE", "dtm-ingest"}},
		{"GTI_API_KEY_SECRET", "projects/p/secrets/a b", "projects/PROJECT/secrets/NAME", nil},
		{"GTI_API_KEY_SECRET", "projects/p/secrets/s/versions/", "/versions/latest", nil},
		{"GTI_API_KEY_SECRET", "gti-api-key", "projects/PROJECT/secrets/NAME", nil},
		{"GTI_API_KEY", "0123456789abcdef", "GTI_API_KEY_SECRET", []string{"K_SERVICE", "dtm-ingest"}},
		{"GTI_API_KEY", "0123 4567", "ASCII", nil},
		{"GTI_BASE_URL", "www.virustotal.com/api/v3", "https://", nil},
		{"GTI_BASE_URL", "http://www.virustotal.com/api/v3", "unencrypted", nil},
		{"GTI_BASE_URL", "http://localhost.example.com/", "unencrypted", nil},
		{"GTI_BASE_URL", "http://128.0.0.1/", "unencrypted", nil},
		{"GTI_BASE_URL", "ftp://127.0.0.1/", "scheme", nil},
		{"GTI_BASE_URL", "https://", "host", nil},
		{"GTI_BASE_URL", "https://:443/", "host", nil},
		{"GTI_BASE_URL", "https://h:port/", "host", nil},
		{"GTI_BASE_URL", "https://user:pass@h/", "user name", nil},
		{"GTI_BASE_URL", "https://h/?", "query", nil},
		{"GTI_BASE_URL", "https://h/#f", "fragment", nil},
		{"GTI_BASE_URL", "https://h:99999/", "1 to 65535", nil},
		{"GTI_BASE_URL", "https://h:0/", "1 to 65535", nil},
		{"GTI_BASE_URL", "https://h:" + strings.Repeat("9", 5000), "1 to 65535", nil},
		{"GTI_BASE_URL", "http://[::1%25lo]:80/", "unencrypted", nil},
		{"GTI_TOOL_NAME", "dtm\nrelay", `\n`, nil},
		{"GTI_TOOL_NAME", strings.Repeat("x", 129), "128", nil},
		{"DTM_FILTER", `{"severity":["terrible"]}`, "terrible", nil},
		{"DTM_FILTER", `{"status":["false_positive"]}`, "Relevance System", nil},
		{"DTM_FILTER", `[]`, "object", nil},
		{"DTM_REFS", "maybe", "true or false", nil},
		{"INITIAL_LOOKBACK", "24", `"24h"`, nil},
		{"INITIAL_LOOKBACK", "30s", "SETTLE", nil},
		{"INITIAL_LOOKBACK", "0", "SETTLE", []string{"SETTLE", "0"}},
		{"OVERLAP", "-1m", "negative", nil},
		{"OVERLAP", "1ns", "millisecond", nil},
		{"OVERLAP", "ten minutes", "Go duration", nil},
		{"SETTLE", "1.5", `"1.5h"`, nil},
		{"MAX_LOOKBACK", "10m", "more than 10m", []string{"OVERLAP", "0"}},
		{"MAX_LOOKBACK", "1h", "OVERLAP", []string{"OVERLAP", "59m", "SETTLE", "1m"}},
		{"LEDGER_TTL", "10m30s", "OVERLAP", []string{"UPDATES_WINDOW", "0"}},
		{"LEDGER_TTL", "0", "OVERLAP", []string{"OVERLAP", "0", "SETTLE", "0", "UPDATES_WINDOW", "0"}},
		{"LEDGER_TTL", "720h", "UPDATES_WINDOW", nil},
		{"LEDGER_TTL", "719h", "UPDATES_WINDOW", nil},
		{"UPDATES_WINDOW", "30d", "Go duration", nil},
		{"AUDIT_WINDOW", "120h", "MAX_LOOKBACK", nil},
		{"AUDIT_WINDOW", "72h", "MAX_LOOKBACK", []string{"MAX_LOOKBACK", "72h"}},
		{"AUDIT_WINDOW", "-1h", "negative", nil},
		{"MONITORS_CHECK", "24", `"24h"`, nil},
		{"MONITORS_CHECK", "daily", "Go duration", nil},
		{"MAX_ALERTS_PER_RUN", "-1", "0 or more", nil},
		{"MAX_CONCURRENCY", "0", "from 1 to 10", nil},
		{"MAX_CONCURRENCY", "11", "from 1 to 10", nil},
		{"MAX_CONCURRENCY", "2.5", "from 1 to 10", nil},
		{"MAX_QPS", "0", "more than 0", nil},
		{"MAX_QPS", "NaN", "more than 0", nil},
		{"MAX_QPS", "+Inf", "1000", nil},
		{"MAX_QPS", "1000.1", "1000", nil},
		{"MAX_REQUESTS_PER_DAY", "0", "1 or more", nil},
		{"MAX_REQUESTS_PER_DAY", "99999999999999999999", "1 or more", nil},
		{"MAX_ERRORS_PER_HOUR", "9", "from 10 to 10000", nil},
		{"MAX_ERRORS_PER_HOUR", "10001", "from 10 to 10000", nil},
		{"MAX_ERRORS_PER_HOUR", "50 %", "from 10 to 10000", nil},
		{"RUN_BUDGET", "0s", "more than 0", nil},
		{"RUN_BUDGET", "9", `"9h"`, nil},
		{"RUN_BUDGET", "531s", "at most 8m50s", []string{"CLOUD_RUN_TIMEOUT_SECONDS", "540"}},
		{"CLOUD_RUN_TIMEOUT_SECONDS", "9m", "whole number", nil},
		{"CLOUD_RUN_TIMEOUT_SECONDS", "0", "whole number", nil},
		{"OPERATORS", `ana@example.com`, `"ana@example.com" is not a JSON list`, nil},
		{"OPERATORS", `null`, `not a JSON list`, nil},
		{"OPERATORS", `{"a":"ana@example.com"}`, `not a JSON list`, nil},
		{"OPERATORS", `["` + long, `xxx"…`, nil},
		{"OPERATORS", `["ana@example.com","user:bo@example.com"]`, `element 2, "user:bo@example.com": it must be the e-mail address`, nil},
		{"OPERATORS", `["ana@example.com",7]`, `element 2, "7"`, nil},
		{"OPERATORS", `[null]`, `element 1, ""`, nil},
		{"OPERATORS", `["ana"]`, `element 1, "ana"`, nil},
		{"OPERATORS", `["ana@example"]`, `element 1, "ana@example"`, nil},
		{"OPERATORS", `["@example.com"]`, `element 1, "@example.com"`, nil},
		{"OPERATORS", `["ana@bo@example.com"]`, `element 1, "ana@bo@example.com"`, nil},
		{"OPERATORS", `["ana @example.com"]`, `element 1, "ana @example.com"`, nil},
		{"OPERATORS", `["an\u212a@example.com"]`, `element 1`, nil}, // its small letter is k
		{"OPERATORS", `["` + long + `@example.com"]`, `element 1, "xxx`, nil},
		{"VIEWERS", `["ana@example.com"]`, "OPERATORS is not", nil},
		{"VIEWERS", `["ana"]`, `element 1, "ana"`, nil},
		{"VIEWERS", `["ana@example.com"]`, "OPERATORS is not", []string{"OPERATORS", "[ ]"}},
		{"FIRESTORE_EMULATOR_HOST", "127.0.0.1:1", "remove this variable", []string{"K_SERVICE", "dtm-ingest"}},
		{"FIRESTORE_EMULATOR_HOST", " ", "remove this variable", []string{"K_SERVICE", "dtm-ingest"}},
		{"FIRESTORE_EMULATOR_HOST", " 127.0.0.1:1", "without white space", nil},
		{"FIRESTORE_EMULATOR_HOST", "http://127.0.0.1:1/", "the emulator's host and port", nil},
		{"PUBSUB_EMULATOR_HOST", "http://127.0.0.1:1", "the emulator's host and port", nil},
		{"SECRETMANAGER_EMULATOR_HOST", "127.0.0.1:1\n", "without white space", nil},
		{"PUBSUB_EMULATOR_HOST", "127.0.0.1:1", "remove this variable", []string{"K_SERVICE", "dtm-ingest"}},
		{"SECRETMANAGER_EMULATOR_HOST", "127.0.0.1:1", "remove this variable", []string{"K_SERVICE", "dtm-ingest"}},
		{"MESSAGE_FORMAT", "Incident", `"Incident" is not allowed: it must be raw (the alert as it came) or incident`, nil},
		{"REDACT", `["passwords[.x"]`, `element 1, "passwords[.x"`, nil},
		{"REDACT", `credentials`, "not a JSON list", nil},
		{"RULES", `[{"name":"a","when":"true","then":{"drop":true},"unless":1}]`, `unless is unknown`, nil},
		{"RULES", `[{"name":"a","when":"alert.severty == 'high'","then":{"drop":true}}]`, "severity", nil},
		{"RULES", `[{"name":"a","when":"alert.severity","then":{"drop":true}}]`, "bool", nil},
		{"STATUS_TOPIC", "", "a rule sets a status or tags", []string{"RULES", `[{"name":"a","when":"true","then":{"tags":["x"]}}]`}},
		{"STATUS_TOPIC", "x", "the id of a Pub/Sub topic", nil},
		{"STATUS_TOPIC", "dtm-alerts", "feeds SyncStatus", nil},
		{"STATUS_TOPIC", "dtm-rejects", "feeds SyncStatus", nil},
		{"LOG_LEVEL", "loud", "debug, info, warn or error", nil},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s=%.20s", tt.variable, tt.value), func(t *testing.T) {
			env := with(append(tt.and, tt.variable, tt.value)...)
			c, _, err := Load(t.Context(), envconfig.MapLookuper(env))
			if err == nil {
				t.Fatalf("accepted: %v", c)
			}
			text := err.Error()
			if !strings.HasPrefix(text, tt.variable+": ") || strings.Count(text, "\n") > 0 {
				t.Errorf("not one problem of %s: %s", tt.variable, text)
			}
			if !strings.Contains(text, tt.say) {
				t.Errorf("the message does not say %q: %s", tt.say, text)
			}
			if len(text) > 500 {
				t.Errorf("the message has %d bytes: %s", len(text), text)
			}
			if diff := cmp.Diff(Config{}, c); diff != "" {
				t.Errorf("a configuration beside the error: %s", diff)
			}
		})
	}
}

func TestLongSpansDoNotOverflow(t *testing.T) {
	_, _, err := Load(t.Context(), envconfig.MapLookuper(with("OVERLAP", "2562047h", "SETTLE", "2562047h", "INITIAL_LOOKBACK", "2562047h1m")))
	if err == nil || !strings.Contains(err.Error(), "MAX_LOOKBACK") || !strings.Contains(err.Error(), "LEDGER_TTL") {
		t.Errorf("error %v, want MAX_LOOKBACK and LEDGER_TTL to be too short", err)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	env := map[string]string{
		"GOOGLE_CLOUD_PROJECT": "a/b", "FEED": "!", "PUBSUB_TOPIC": "!", "FIRESTORE_DATABASE": "!",
		"GTI_API_KEY_SECRET": "!", "GTI_API_KEY": "! !", "GTI_BASE_URL": "!", "GTI_TOOL_NAME": "ü",
		"DTM_FILTER": `{"severity":["a"],"nonsense":1}`, "DTM_REFS": "!", "INITIAL_LOOKBACK": "!", "OVERLAP": "!", "SETTLE": "!",
		"MAX_LOOKBACK": "!", "LEDGER_TTL": "!", "AUDIT_WINDOW": "!", "UPDATES_WINDOW": "!", "MONITORS_CHECK": "!", "MAX_ALERTS_PER_RUN": "!", "MAX_CONCURRENCY": "!", "MAX_QPS": "!",
		"MAX_REQUESTS_PER_DAY": "!", "MAX_ERRORS_PER_HOUR": "!", "RUN_BUDGET": "!", "CLOUD_RUN_TIMEOUT_SECONDS": "!", "LOG_LEVEL": "!",
		"MESSAGE_FORMAT": "!", "REDACT": "!", "RULES": "!", "OPERATORS": `["!","a@example.com","?"]`, "VIEWERS": "!",
		// REJECTS_TOPIC isn't set.
	}
	_, _, err := Load(t.Context(), envconfig.MapLookuper(env))
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	count := map[string]int{}
	for _, line := range lines {
		name, _, _ := strings.Cut(line, ":")
		count[name]++
	}
	want := map[string]int{"REJECTS_TOPIC": 1}
	for name := range env {
		want[name] = 1
	}
	want["DTM_FILTER"], want["OPERATORS"] = 2, 2
	if diff := cmp.Diff(want, count); diff != "" {
		t.Errorf("problems by variable (-want +got)\n%s\n%v", diff, err)
	}
}

func TestLoadLocalNeedsNoCloud(t *testing.T) {
	env := map[string]string{"GTI_API_KEY": "0123abcd", "PUBSUB_TOPIC": "not used, so not looked at", "OPERATORS": `["ana@example.com"]`, "VIEWERS": "not looked at"}
	got, _, err := LoadLocal(t.Context(), envconfig.MapLookuper(env))
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Project, want.Topic, want.RejectsTopic, want.Database, want.KeySecret, want.Key = "", "", "", "", "", "0123abcd"
	if diff := cmp.Diff(want, got, parsed); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, _, err := LoadLocal(t.Context(), envconfig.MapLookuper(nil)); err == nil || !strings.Contains(err.Error(), "GTI_API_KEY") {
		t.Errorf("without a key: %v", err)
	}
}

func TestLoadReadsTheProcess(t *testing.T) {
	for name, value := range with("FEED", "from-the-process") {
		t.Setenv(name, value)
	}
	if c, _, err := Load(t.Context(), nil); err != nil || c.Feed != "from-the-process" {
		t.Errorf("feed %q, error %v", c.Feed, err)
	}
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		env  map[string]string
		want string
	}{
		{with("REJECTS_TOPIC", "projects/my-project/topics/dtm-alerts"), "REJECTS_TOPIC: "},
		{with("GTI_API_KEY", "0123abcd"), "GTI_API_KEY_SECRET: "},
		{with("DTM_FILTER", `{"alert_type":["Something New"]}`), "DTM_FILTER: "},
		{with("UPDATES_WINDOW", "24h", "LEDGER_TTL", "72h"), "LEDGER_TTL: 72h0m0s is not more than AUDIT_WINDOW (72h0m0s): "},
	}
	for _, tt := range tests {
		_, warnings, err := Load(t.Context(), envconfig.MapLookuper(tt.env))
		if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], tt.want) {
			t.Errorf("want one warning %q, got %q, error %v", tt.want, warnings, err)
		}
	}
}

// A key must not get out by way of an error, whichever variable it was put into.
func TestNoKeyInErrors(t *testing.T) {
	const key = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
	for name, env := range map[string]map[string]string{
		"malformed":          with("GTI_API_KEY", key+" "+key),
		"not ASCII":          with("GTI_API_KEY", key+"ü"),
		"deployed":           with("GTI_API_KEY", key, "K_SERVICE", "s"),
		"in the wrong place": with("GTI_API_KEY_SECRET", key),
		"in the URL":         with("GTI_BASE_URL", "https://h/?x-apikey="+key),
		"as the user":        with("GTI_BASE_URL", "https://"+key+"@h/"),
		"in a broken URL":    with("GTI_BASE_URL", "https://"+key+"@h:port/"),
		"with other faults":  with("GTI_API_KEY", key, "K_SERVICE", "s", "FEED", "!", "OVERLAP", "!"),
	} {
		_, warnings, err := Load(t.Context(), envconfig.MapLookuper(env))
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if strings.Contains(fmt.Sprint(warnings, err), key) {
			t.Errorf("%s: the error holds the key: %v", name, err)
		}
	}
}

func TestNoKeyInPrintedConfig(t *testing.T) {
	const key = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
	c, _, err := Load(t.Context(), envconfig.MapLookuper(with("GTI_API_KEY", key)))
	if err != nil || c.Key != key {
		t.Fatalf("key %q, error %v", c.Key, err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("started", "config", c, "pointer", &c, "list", []Config{c})
	for _, text := range []string{log.String(), fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s %q", c, &c, c, c, c)} {
		if strings.Contains(text, key) {
			t.Errorf("holds the key: %s", text)
		}
		if !strings.Contains(text, "dtm-alerts") {
			t.Errorf("does not show the configuration: %s", text)
		}
	}
}

// FuzzLoad begins with the corpus in testdata. Whatever the environment holds, Load doesn't panic; a refusal names
// a variable; what is accepted keeps what the other packages rely on.
func FuzzLoad(f *testing.F) {
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2, name3, value3 string) {
		env := with(name1, value1, name2, value2, name3, value3)
		c, _, err := Load(t.Context(), envconfig.MapLookuper(env))
		if err != nil {
			if cmp.Diff(Config{}, c) != "" {
				t.Errorf("a configuration beside the error %v", err)
			}
			name, _, ok := strings.Cut(err.Error(), ": ")
			if !ok || name == "" || strings.ToUpper(name) != name {
				t.Errorf("the error does not begin with a variable: %v", err)
			}
			return
		}
		u, err := url.Parse(c.BaseURL)
		for what, ok := range map[string]bool{
			"topics are full names":          topicPath.MatchString(c.Topic) && topicPath.MatchString(c.RejectsTopic),
			"a key or where to find it":      c.Key != "" || strings.Contains(c.KeySecret, "/versions/"),
			"no key in a deployed function":  c.Key == "" || !c.Deployed,
			"no viewer without an operator":  len(c.Viewers) == 0 || len(c.Operators) > 0,
			"addresses in small letters":     fmt.Sprint(c.Operators, c.Viewers) == strings.ToLower(fmt.Sprint(c.Operators, c.Viewers)),
			"no slash at the URL's end":      !strings.HasSuffix(c.BaseURL, "/"),
			"https but for loopback":         err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && dtm.Loopback(u.Hostname())),
			"nothing after the path":         err == nil && u.User == nil && u.RawQuery == "" && !strings.ContainsAny(c.BaseURL, "?#"),
			"the first run has work":         c.InitialLookback > c.Settle,
			"no negative span":               c.Overlap >= 0 && c.Settle >= 0,
			"overlap within the look-back":   c.MaxLookback > 10*time.Minute && c.MaxLookback-c.Settle > c.Overlap,
			"records outlive the overlap":    c.LedgerTTL-c.Settle > c.Overlap,
			"whole milliseconds":             (c.InitialLookback%time.Millisecond)+(c.Overlap%time.Millisecond)+(c.Settle%time.Millisecond) == 0,
			"limits":                         c.MaxAlerts >= 0 && c.RequestsPerDay >= 1 && c.ErrorsPerHour >= 10 && c.ErrorsPerHour <= 10_000 && c.Concurrency >= 1 && c.Concurrency <= 10,
			"a rate":                         c.QPS > 0 && c.QPS <= 1000 && !math.IsNaN(c.QPS),
			"time to run":                    c.Budget > 0,
			"a tool name fit for a header":   !strings.ContainsAny(c.ToolName, "\r\n\x00") && c.ToolName != "",
			"a feed name fit for a document": feedName.MatchString(c.Feed),
		} {
			if !ok {
				t.Errorf("not kept: %s: %v", what, c)
			}
		}
		// What was accepted is in its normal form: read again, it says the same.
		again, _, err := Load(t.Context(), envconfig.MapLookuper(with(
			"GOOGLE_CLOUD_PROJECT", c.Project, "PUBSUB_TOPIC", c.Topic, "REJECTS_TOPIC", c.RejectsTopic,
			"GTI_BASE_URL", c.BaseURL, "GTI_API_KEY", c.Key, "GTI_API_KEY_SECRET", c.KeySecret)))
		if err != nil {
			t.Fatalf("the normal form is refused: %v", err)
		}
		got := []string{again.Project, again.Topic, again.RejectsTopic, again.BaseURL, again.Key, again.KeySecret}
		want := []string{c.Project, c.Topic, c.RejectsTopic, c.BaseURL, c.Key, c.KeySecret}
		if diff := cmp.Diff(want, got, parsed); diff != "" {
			t.Errorf("the normal form changed (-want +got)\n%s", diff)
		}
	})
}
