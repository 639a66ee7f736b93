package config

import (
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sethvargo/go-envconfig"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/redact"
	"dtmrelay.internal/dtmrelay/internal/rules"
)

const noLimit = math.MaxInt

// A pattern is what a value looks like and the most bytes that it has. A count
// in the expression would be compiled as so many copies, at every cold start.
type pattern struct {
	*regexp.Regexp
	most int
}

func (p pattern) MatchString(s string) bool { return len(s) <= p.most && p.Regexp.MatchString(s) }

// IsFeed reports whether a name can be a feed's: a small letter, then up to 62 small
// letters, digits and dashes.
func IsFeed(name string) bool { return feedName.MatchString(name) }

var (
	feedName = pattern{regexp.MustCompile(`^[a-z][a-z0-9-]*$`), 63}
	// A project's id, also one of a domain ("example.com:relay") and the free
	// names that emulators take: what could not stand in a resource name is out.
	projectID = pattern{regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*$`), 100}
	// Pub/Sub's rule for the ids of its resources; they don't begin with "goog".
	topicID     = pattern{regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._~+%-]{2,}$`), 255}
	topicPath   = regexp.MustCompile(`^projects/([^/]*)/topics/([^/]*)$`)
	databaseID  = pattern{regexp.MustCompile(`^(\(default\)|[a-z][a-z0-9-]{2,}[a-z0-9])$`), 63}
	secretPath  = regexp.MustCompile(`^projects/([^/]*)/secrets/([A-Za-z0-9_-]+)(/versions/[A-Za-z0-9_-]+)?$`)
	headerValue = pattern{regexp.MustCompile(`^[!-~]([ -~]*[!-~])?$`), 128}
	apiKey      = regexp.MustCompile(`^[!-~]+$`)
	hostPort    = regexp.MustCompile(`^[^\s/@]+:[0-9]+$`)
	bareNumber  = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
)

// problems collects what is wrong while the fields are read one by one. A field
// that is refused stays zero.
type problems struct {
	errs     []error
	warnings []string
}

func (p *problems) refuse(name, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s: %w", name, fmt.Errorf(format, args...)))
}

func (p *problems) warn(name, text string) {
	p.warnings = append(p.warnings, name+": "+text)
}

// quote shows a value so that a long or binary one doesn't fill the log.
func quote(value string) string {
	const most = 60
	runes := []rune(value)
	if len(runes) > most {
		return strconv.Quote(string(runes[:most])) + "…"
	}
	return strconv.Quote(value)
}

func (p *problems) match(name, value string, allowed pattern, words string) string {
	if !allowed.MatchString(value) {
		p.refuse(name, "%s is not allowed: it must be %s", quote(value), words)
		return ""
	}
	return value
}

func (p *problems) project(value string) string {
	const name = "GOOGLE_CLOUD_PROJECT"
	if value == "" {
		p.refuse(name, "is not set: it must be the id of the Google Cloud project")
		return ""
	}
	return p.match(name, value, projectID, "the id of a Google Cloud project (letters, digits, dashes)")
}

func (p *problems) topic(name, value, project string) string {
	const words = "the id of a Pub/Sub topic (a letter, then 2 to 254 letters, digits and -._~+%%, not beginning with goog), or projects/PROJECT/topics/ID"
	if value == "" {
		p.refuse(name, "is not set: it must be "+words)
		return ""
	}
	id := value
	if path := topicPath.FindStringSubmatch(value); path != nil {
		project, id = path[1], path[2]
		if !projectID.MatchString(project) {
			p.refuse(name, "%s does not name a project: it must be "+words, quote(value))
			return ""
		}
	}
	if !topicID.MatchString(id) || strings.HasPrefix(id, "goog") {
		p.refuse(name, "%s is not allowed: it must be "+words, quote(value))
		return ""
	}
	return "projects/" + project + "/topics/" + id
}

// key checks both ways to name the API key. Neither value is shown: of the
// secret's name only what begins like one, since a key may have been pasted there.
func (p *problems) key(secret, key string, deployed bool) (string, string) {
	const words = "projects/PROJECT/secrets/NAME, with /versions/latest or /versions/NUMBER after it if one likes"
	switch {
	case secret == "" && key == "" && deployed:
		p.refuse("GTI_API_KEY_SECRET", "is not set: it must be "+words)
	case secret == "" && key == "":
		p.refuse("GTI_API_KEY_SECRET", "is not set: it must be %s; or set GTI_API_KEY to the key itself, for local use", words)
	}
	if key != "" {
		switch {
		case deployed:
			p.refuse("GTI_API_KEY", "a deployed function does not take the key from its environment, where everyone who may look at the service reads it: "+
				"put it into Secret Manager, set GTI_API_KEY_SECRET to "+words+", and remove this variable")
		case !apiKey.MatchString(key):
			p.refuse("GTI_API_KEY", "the value (not shown) is not allowed: it must be printable ASCII without spaces")
		}
		if secret != "" && !deployed {
			p.warn("GTI_API_KEY_SECRET", "is not used, because GTI_API_KEY is set")
		}
	}
	if secret == "" {
		return "", key
	}
	path := secretPath.FindStringSubmatch(secret)
	switch {
	case path == nil && !strings.HasPrefix(secret, "projects/"):
		p.refuse("GTI_API_KEY_SECRET", "the value (not shown, it may be a key) does not begin with projects/: it must be "+words)
	case path == nil || !projectID.MatchString(path[1]) || len(path[2]) > 255:
		p.refuse("GTI_API_KEY_SECRET", "%s is not allowed: it must be "+words, quote(secret))
	case path[3] == "":
		secret += "/versions/latest"
	}
	return secret, key
}

// emulators refuses what would send a deployed function's state and alerts to an
// emulator, which asks nobody for rights and keeps nothing. Else the clients read these
// variables themselves, white space included, and try for long what is no address.
func (p *problems) emulators(lookup envconfig.Lookuper, deployed bool) {
	for _, name := range []string{"FIRESTORE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST", "SECRETMANAGER_EMULATOR_HOST"} {
		value, _ := lookup.Lookup(name)
		address := value
		if name != "PUBSUB_EMULATOR_HOST" { // whose client takes no scheme
			address = strings.TrimPrefix(value, "http://")
		}
		switch {
		case value == "":
		case deployed:
			p.refuse(name, "is %s, and a deployed function (K_SERVICE is set) does not work with an emulator: remove this variable", quote(value))
		case !hostPort.MatchString(address):
			p.refuse(name, "%s is not allowed: it must be the emulator's host and port, such as 127.0.0.1:8080, without white space", quote(value))
		}
	}
}

func (p *problems) baseURL(value string) string {
	const name, words = "GTI_BASE_URL", "https://HOST/PATH (http only for localhost, 127.0.0.0/8 and ::1)"
	// What follows can hold secrets, so such a value is not shown.
	if strings.ContainsAny(value, "?#") {
		p.refuse(name, "the value (not shown) has a query or a fragment: it must be "+words)
		return ""
	}
	if strings.Contains(value, "@") {
		p.refuse(name, "the value (not shown) has a user name or an @: it must be "+words)
		return ""
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Hostname() == "":
		p.refuse(name, "%s is not a URL with a host: it must be %s", quote(value), words)
	case u.Scheme == "http" && !dtm.Loopback(u.Hostname()):
		p.refuse(name, "%s would send the API key unencrypted: it must be %s", quote(value), words)
	case u.Scheme != "https" && u.Scheme != "http":
		p.refuse(name, "%s has the scheme %s: it must be %s", quote(value), quote(u.Scheme), words)
	case !validPort(u.Port()):
		p.refuse(name, "%s has the port %s: it must be 1 to 65535, or none", quote(value), quote(u.Port()))
	default:
		return strings.TrimRight(u.String(), "/")
	}
	return ""
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

func (p *problems) filter(value string) dtm.Filter {
	f, warnings, err := dtm.ParseFilter(value)
	if !p.all("DTM_FILTER", warnings, err) {
		return dtm.Filter{}
	}
	return f
}

// redact reads what is to be masked. With an error nothing may be published.
func (p *problems) redact(value string) *redact.Redactor {
	r, warnings, err := redact.Parse(value)
	p.all("REDACT", warnings, err)
	return r
}

// rules reads and compiles the rules. writesBack: one of them sets a status or tags.
func (p *problems) rules(value, feed string) (compiled *rules.Rules, writesBack bool) {
	list, compiled, err := rules.Compile(value, feed)
	p.all("RULES", nil, err)
	return compiled, list.WritesBack()
}

// statusTopic checks the topic that rules send their write-backs to.
func (p *problems) statusTopic(value string, needed bool, c Config) string {
	const name = "STATUS_TOPIC"
	if value == "" {
		if needed {
			p.refuse(name, "is not set, and a rule sets a status or tags: it must be the topic that feeds SyncStatus")
		}
		return ""
	}
	topic := p.topic(name, value, c.Project)
	if topic != "" && (topic == c.Topic || topic == c.RejectsTopic) {
		p.refuse(name, "%s is the topic of alerts or of rejects too: it must be the topic that feeds SyncStatus", quote(value))
	}
	return topic
}

// all notes the warnings about a variable and every problem of it, and reports whether
// there was none.
func (p *problems) all(name string, warnings []string, err error) bool {
	for _, w := range warnings {
		p.warn(name, w)
	}
	for _, problem := range dtm.Problems(err) {
		p.refuse(name, "%w", problem)
	}
	return err == nil
}

func (p *problems) boolean(name, value string) bool {
	b, err := strconv.ParseBool(value)
	if err != nil {
		p.refuse(name, "%s is not allowed: it must be true or false", quote(value))
	}
	return b
}

func (p *problems) messageFormat(value string) string {
	if value != "raw" && value != "incident" {
		p.refuse("MESSAGE_FORMAT", "%s is not allowed: it must be raw (the alert as it came) or incident", quote(value))
	}
	return value
}

// durations reads the durations and how they must stand to each other.
func (p *problems) durations(env environment, c *Config) {
	var okInitial, okOverlap, okSettle, okMax, okTTL, okUpdates bool
	c.InitialLookback, okInitial = p.duration("INITIAL_LOOKBACK", env.InitialLookback)
	c.Overlap, okOverlap = p.duration("OVERLAP", env.Overlap)
	c.Settle, okSettle = p.duration("SETTLE", env.Settle)
	c.MaxLookback, okMax = p.duration("MAX_LOOKBACK", env.MaxLookback)
	c.LedgerTTL, okTTL = p.duration("LEDGER_TTL", env.LedgerTTL)
	c.UpdatesWindow, okUpdates = p.duration("UPDATES_WINDOW", env.UpdatesWindow)
	c.MonitorsCheck, _ = p.duration("MONITORS_CHECK", env.MonitorsCheck)

	// The first run reads from INITIAL_LOOKBACK to SETTLE before now.
	if okInitial && okSettle && c.InitialLookback <= c.Settle {
		p.refuse("INITIAL_LOOKBACK", "%s is not more than SETTLE (%s), so the first run would have nothing to read: it must be more",
			c.InitialLookback, c.Settle)
	}
	// A gap is begun 10 minutes inside of MAX_LOOKBACK, so that the bound doesn't pass it while it is asked for.
	const inside = 10 * time.Minute
	if okMax && c.MaxLookback <= inside {
		p.refuse("MAX_LOOKBACK", "%s is too short: it must be more than %s", c.MaxLookback, inside)
		okMax = false
	}
	c.AuditWindow = p.auditWindow(env.AuditWindow, c.MaxLookback, okMax)
	// A change of an alert whose record is gone would look like nothing.
	if okTTL && okUpdates && c.UpdatesWindow > 0 && c.LedgerTTL <= c.UpdatesWindow {
		p.refuse("LEDGER_TTL", "%s is not more than UPDATES_WINDOW (%s), so that an alert's record would be deleted while its changes are still watched for: it must be more",
			c.LedgerTTL, c.UpdatesWindow)
		okTTL = false
	}
	if okTTL && c.AuditWindow > 0 && c.LedgerTTL <= c.AuditWindow {
		p.warn("LEDGER_TTL", fmt.Sprintf("%s is not more than AUDIT_WINDOW (%s): an alert whose record is deleted before the last audit has read it is published once more",
			c.LedgerTTL, c.AuditWindow))
	}
	if !okOverlap || !okSettle {
		return
	}
	// Subtracted, because a sum of long durations overflows. A position is that far back even when nothing is late.
	if okMax && c.Overlap >= c.MaxLookback-c.Settle {
		p.refuse("MAX_LOOKBACK", "%s is not more than OVERLAP (%s) and SETTLE (%s) together: it must be more",
			c.MaxLookback, c.Overlap, c.Settle)
	}
	// A record that is gone before its alert is re-read would let the alert be published again.
	if okTTL && c.Overlap >= c.LedgerTTL-c.Settle {
		p.refuse("LEDGER_TTL", "%s is not more than OVERLAP (%s) and SETTLE (%s) together, so alerts would be published again and again: it must be more",
			c.LedgerTTL, c.Overlap, c.Settle)
	}
}

// auditWindow is by default as much as fits well into MAX_LOOKBACK, up to three days.
func (p *problems) auditWindow(value string, maxLookback time.Duration, okMax bool) time.Duration {
	if value == "" {
		return min(72*time.Hour, maxLookback/5*3).Truncate(time.Millisecond)
	}
	d, ok := p.duration("AUDIT_WINDOW", value)
	if ok && okMax && d >= maxLookback {
		p.refuse("AUDIT_WINDOW", "%s is not less than MAX_LOOKBACK (%s), as far back as GTI is known to answer: it must be less, or 0 for no audit", d, maxLookback)
		return 0
	}
	return d
}

func (p *problems) duration(name, value string) (time.Duration, bool) {
	const words = "it must be a Go duration of 0 or more, like 90s, 10m or 24h"
	d, err := time.ParseDuration(value)
	switch {
	case err != nil && bareNumber.MatchString(value):
		p.refuse(name, `%s has no unit: write for example "%sh" for hours`, quote(value), value[:min(len(value), 12)])
	case err != nil:
		p.refuse(name, "%s is not a duration: "+words, quote(value))
	case d < 0:
		p.refuse(name, "%s is negative: "+words, quote(value))
	case d%time.Millisecond != 0: // positions are in whole milliseconds
		p.refuse(name, "%s is finer than a millisecond: "+words, quote(value))
	default:
		return d, true
	}
	return 0, false
}

func (p *problems) integer(name, value string, least, most int) int {
	n, err := strconv.Atoi(value)
	if err == nil && least <= n && n <= most {
		return n
	}
	if most == noLimit {
		p.refuse(name, "%s is not allowed: it must be a whole number of %d or more", quote(value), least)
	} else {
		p.refuse(name, "%s is not allowed: it must be a whole number from %d to %d", quote(value), least, most)
	}
	return 0
}

func (p *problems) qps(value string) float64 {
	const most = 1000
	q, err := strconv.ParseFloat(value, 64)
	if err != nil || !(q > 0 && q <= most) { // also refuses NaN
		p.refuse("MAX_QPS", "%s is not allowed: it must be a number of requests a second, more than 0 and at most %d; fractions are allowed", quote(value), most)
		return 0
	}
	return q
}

// budget keeps a run inside the request's time limit, after which the platform
// cuts it off.
func (p *problems) budget(value, timeout string) time.Duration {
	const (
		unlimited = 9 * time.Minute
		reserve   = 30 * time.Second // to store the position and answer, by default
		least     = 10 * time.Second // the same, at least
		day       = 24 * 60 * 60     // far above what Cloud Run allows
	)
	var limit time.Duration
	if timeout != "" {
		limit = time.Duration(p.integer("CLOUD_RUN_TIMEOUT_SECONDS", timeout, 1, day)) * time.Second
	}
	if value == "" {
		switch {
		case limit == 0:
			return unlimited
		case limit <= reserve:
			return limit / 2
		}
		return limit - reserve
	}

	d, ok := p.duration("RUN_BUDGET", value)
	if !ok {
		return 0
	}
	if d == 0 {
		p.refuse("RUN_BUDGET", "%s leaves no time to run: it must be a Go duration of more than 0, like 9m", quote(value))
		return 0
	}
	// Where a default of half the limit is more, that much is allowed too.
	if most := max(limit-least, limit/2); limit > 0 && d > most {
		p.refuse("RUN_BUDGET", "%s is too long for the request timeout of %s (CLOUD_RUN_TIMEOUT_SECONDS): it must be at most %s, so that a run has time to end before the platform cuts it off",
			d, limit, most)
	}
	return d
}

func (p *problems) level(value string) slog.Level {
	switch strings.ToLower(value) {
	case "debug":
		return slog.LevelDebug
	case "info":
		return slog.LevelInfo
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	p.refuse("LOG_LEVEL", "%s is not allowed: it must be debug, info, warn or error", quote(value))
	return 0
}
