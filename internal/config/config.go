// Package config reads the environment into one checked struct. It reports every
// problem at once, so that an operator doesn't repair a deployment one variable
// at a time.
package config

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/sethvargo/go-envconfig"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/redact"
	"dtmrelay.internal/dtmrelay/internal/rules"
)

// Config is what the environment says, checked: whoever holds one that [Load]
// returned without an error need not check again.
type Config struct {
	Project      string // empty after LoadLocal
	Feed         string
	Topic        string // projects/…/topics/…; empty after LoadLocal
	RejectsTopic string // projects/…/topics/…; empty after LoadLocal
	// StatusTopic is projects/…/topics/…. It is empty after LoadLocal, and where it is
	// not set because no rule needs it.
	StatusTopic string
	Database    string // Firestore database id; empty after LoadLocal

	// KeySecret is projects/…/secrets/…/versions/…; it counts only while Key is empty.
	KeySecret string
	Key       string `json:"-"`

	BaseURL  string // without a slash at its end
	ToolName string
	Filter   dtm.Filter
	Refs     bool
	Rules    *rules.Rules // nil: there are none
	Redactor *redact.Redactor

	MessageFormat string // raw or incident

	// All durations are in whole milliseconds.
	InitialLookback time.Duration
	Overlap         time.Duration
	Settle          time.Duration
	MaxLookback     time.Duration
	LedgerTTL       time.Duration
	UpdatesWindow   time.Duration // 0: no sweep
	AuditWindow     time.Duration // 0: no audit
	MonitorsCheck   time.Duration // 0: the monitors are not looked at

	MaxAlerts      int     // published in one run; 0 is no limit
	Concurrency    int     // list requests at a time, 1 to 10
	QPS            float64 // requests a second
	RequestsPerDay int     // in any 24 hours, by this key
	ErrorsPerHour  int     // answers of 400 and above that GTI takes from this key, 10 to 10,000
	Budget         time.Duration

	// Operators alone may write over HTTP, where there are any; they and Viewers may
	// read. E-mail addresses in small letters, empty after LoadLocal.
	Operators, Viewers []string

	LogLevel slog.Level
	Deployed bool // on Cloud Run, which sets K_SERVICE
}

// environment holds the variables as text. Nothing is parsed by envconfig,
// because it stops at its first error.
type environment struct {
	Project         string `env:"GOOGLE_CLOUD_PROJECT"`
	Feed            string `env:"FEED, default=default"`
	Topic           string `env:"PUBSUB_TOPIC"`
	RejectsTopic    string `env:"REJECTS_TOPIC"`
	StatusTopic     string `env:"STATUS_TOPIC"`
	Database        string `env:"FIRESTORE_DATABASE, default=(default)"`
	KeySecret       string `env:"GTI_API_KEY_SECRET"`
	Key             string `env:"GTI_API_KEY"`
	BaseURL         string `env:"GTI_BASE_URL, default=https://www.virustotal.com/api/v3"`
	ToolName        string `env:"GTI_TOOL_NAME, default=dtm-relay"`
	Filter          string `env:"DTM_FILTER, default={}"`
	Refs            string `env:"DTM_REFS, default=true"`
	Rules           string `env:"RULES, default=[]"`
	Redact          string `env:"REDACT, default=[\"credentials\"]"`
	MessageFormat   string `env:"MESSAGE_FORMAT, default=raw"`
	InitialLookback string `env:"INITIAL_LOOKBACK, default=24h"`
	Overlap         string `env:"OVERLAP, default=10m"`
	Settle          string `env:"SETTLE, default=30s"`
	MaxLookback     string `env:"MAX_LOOKBACK, default=120h"`
	AuditWindow     string `env:"AUDIT_WINDOW"`
	UpdatesWindow   string `env:"UPDATES_WINDOW, default=720h"`
	MonitorsCheck   string `env:"MONITORS_CHECK, default=24h"`
	LedgerTTL       string `env:"LEDGER_TTL, default=4320h"`
	MaxAlerts       string `env:"MAX_ALERTS_PER_RUN, default=0"`
	Concurrency     string `env:"MAX_CONCURRENCY, default=6"`
	QPS             string `env:"MAX_QPS, default=10"`
	RequestsPerDay  string `env:"MAX_REQUESTS_PER_DAY, default=40000"`
	ErrorsPerHour   string `env:"MAX_ERRORS_PER_HOUR, default=100"`
	Budget          string `env:"RUN_BUDGET"`
	Operators       string `env:"OPERATORS, default=[]"`
	Viewers         string `env:"VIEWERS, default=[]"`
	LogLevel        string `env:"LOG_LEVEL, default=info"`

	// Set by the platform.
	Timeout string `env:"CLOUD_RUN_TIMEOUT_SECONDS"`
	Service string `env:"K_SERVICE"`
}

// Load reads the configuration of the function, by default from the process's
// environment. White space around a value is cut, and an empty value is an unset
// one. The strings are warnings, each naming its variable; the error joins every
// problem, and never holds the value of GTI_API_KEY.
func Load(ctx context.Context, lookup envconfig.Lookuper) (Config, []string, error) {
	return load(ctx, lookup, true)
}

// LoadLocal is [Load] for a relay with an embedded database and a file: the
// variables that name a Google Cloud project, its topics and its database, and who
// may call the function, are not looked at.
func LoadLocal(ctx context.Context, lookup envconfig.Lookuper) (Config, []string, error) {
	return load(ctx, lookup, false)
}

func load(ctx context.Context, lookup envconfig.Lookuper, cloud bool) (Config, []string, error) {
	if lookup == nil {
		lookup = envconfig.OsLookuper()
	}
	trimmed := envconfig.LookuperFunc(func(name string) (string, bool) {
		value, _ := lookup.Lookup(name)
		value = strings.TrimSpace(value)
		return value, value != ""
	})
	var env environment
	if err := envconfig.ProcessWith(ctx, &envconfig.Config{Target: &env, Lookuper: trimmed}); err != nil {
		return Config{}, nil, fmt.Errorf("reading the environment: %w", err)
	}

	var p problems
	c := Config{
		Feed:     p.match("FEED", env.Feed, feedName, "a small letter, then up to 62 small letters, digits and dashes"),
		Deployed: env.Service != "",
	}
	if cloud {
		c.Project = p.project(env.Project)
		c.Topic = p.topic("PUBSUB_TOPIC", env.Topic, c.Project)
		c.RejectsTopic = p.topic("REJECTS_TOPIC", env.RejectsTopic, c.Project)
		if c.Topic != "" && c.Topic == c.RejectsTopic {
			p.warn("REJECTS_TOPIC", "is the topic of PUBSUB_TOPIC too, so the consumers of alerts also get what could not be published as one")
		}
		c.Database = p.match("FIRESTORE_DATABASE", env.Database, databaseID,
			`"(default)", or 4 to 63 small letters, digits and dashes, beginning with a letter and not ending with a dash`)
		p.access(env, &c)
		p.emulators(lookup, c.Deployed)
	}
	c.KeySecret, c.Key = p.key(env.KeySecret, env.Key, c.Deployed)
	c.BaseURL = p.baseURL(env.BaseURL)
	c.ToolName = p.match("GTI_TOOL_NAME", env.ToolName, headerValue, "up to 128 printable ASCII characters")
	c.Filter = p.filter(env.Filter)
	c.Refs = p.boolean("DTM_REFS", env.Refs)
	c.MessageFormat = p.messageFormat(env.MessageFormat)
	p.durations(env, &c)
	c.MaxAlerts = p.integer("MAX_ALERTS_PER_RUN", env.MaxAlerts, 0, noLimit)
	c.Concurrency = p.integer("MAX_CONCURRENCY", env.Concurrency, 1, 10) // DTM API: 10 requests at a time for one user
	c.QPS = p.qps(env.QPS)
	c.RequestsPerDay = p.integer("MAX_REQUESTS_PER_DAY", env.RequestsPerDay, 1, noLimit)
	// Below 10 the least share of it would be none; above 10,000 it stops nothing.
	c.ErrorsPerHour = p.integer("MAX_ERRORS_PER_HOUR", env.ErrorsPerHour, 10, 10_000)
	c.Budget = p.budget(env.Budget, env.Timeout)
	c.LogLevel = p.level(env.LogLevel)
	c.Redactor = p.redact(env.Redact)
	var writesBack bool
	c.Rules, writesBack = p.rules(env.Rules, c.Feed)
	if cloud {
		c.StatusTopic = p.statusTopic(env.StatusTopic, writesBack, c)
	}

	if len(p.errs) > 0 {
		return Config{}, p.warnings, errors.Join(p.errs...)
	}
	return c, p.warnings, nil
}

// String shows every field but the API key.
func (c Config) String() string {
	if c.Key != "" {
		c.Key = "[hidden]"
	}
	type fields Config // without this method
	return fmt.Sprintf("%+v", fields(c))
}

// GoString is String, so that %#v hides the key too.
func (c Config) GoString() string { return c.String() }

// LogValue is String, so that a log hides the key too.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }
