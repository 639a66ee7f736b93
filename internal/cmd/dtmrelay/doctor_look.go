package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/secret"
)

// doctor collects what was found.
type doctor struct {
	now      func() time.Time
	keyID    string // of the key's counters; empty while there is no key
	findings []finding
}

func (d *doctor) add(check, colour, found, do string) {
	d.findings = append(d.findings, finding{check, colour, clean(found), do})
}

// examineSecret reads the key. Without one false.
func (d *doctor) examineSecret(ctx context.Context, cfg config.Config, keys dtm.KeySource) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	key, err := keys.Key(ctx)
	switch {
	case err == nil && cfg.Key != "":
		return key, true // no secret is asked
	case err == nil:
		d.add("secret", isGreen, cfg.KeySecret+" can be read", "")
		return key, true
	}
	do := "see the message: it says how to add a key"
	if !errors.Is(err, secret.ErrMissing) {
		do = adviceOf(err, "grant roles/secretmanager.secretAccessor on the secret to the function's service account")
	}
	d.add("secret", isRed, err.Error(), do)
	d.add("key", isOpen, "the secret can't be read", "")
	return "", false
}

// examineGTI asks GTI for an alert, the monitors, and what the filter matches.
func (d *doctor) examineGTI(ctx context.Context, api *dtm.Session, cfg config.Config) {
	ctx, cancel := context.WithTimeout(ctx, 2*lookTime)
	defer cancel()
	page, err := firstPage(ctx, api, dtm.Query{Since: d.now().Add(-time.Hour), Size: 1})
	if !d.examineAnswer(err) {
		return
	}
	d.examineClock(page)
	d.examineMonitors(ctx, api, cfg.Filter.MonitorID)
	d.examineFilter(ctx, api, cfg)
}

func firstPage(ctx context.Context, api *dtm.Session, q dtm.Query) (dtm.Page, error) {
	for page, err := range api.List(ctx, q) {
		page.Release()
		return page, err
	}
	return dtm.Page{}, errors.New("GTI gave no page")
}

// examineAnswer says of GTI's first answer what it means for the key, and whether to go on.
func (d *doctor) examineAnswer(err error) bool {
	const accepted = "GTI accepts it"
	var key *dtm.KeyError
	switch kind := dtm.Kind(err); {
	case err == nil:
		d.add("key", isGreen, accepted, "")
		d.add("entitlement", isGreen, "its user may read DTM alerts", "")
		return true
	case kind == dtm.KeyRefused && errors.As(err, &key) && key.Status == http.StatusForbidden:
		d.add("key", isGreen, accepted, "")
		d.add("entitlement", isRed, key.API.Error(), "use the key of a user with a Digital Threat Monitoring entitlement, or ask Google for one")
	case key != nil:
		d.add("key", isRed, key.API.Error(), "copy the key from GTI's console again: into GTI_API_KEY, what --key-file names, or a new version of the secret")
	case kind == dtm.QuotaSpent:
		d.add("key", isGreen, accepted, "")
		d.add("quota", isRed, err.Error(), "wait, or ask Google for more; whatever else uses this user counts too")
	case kind == dtm.Throttled:
		d.add("key", isGreen, accepted, "")
		d.add("quota", isYellow, err.Error(), "try again in a minute; lower MAX_QPS and MAX_CONCURRENCY where other programs use the same user")
	case kind == dtm.NoAnswer:
		d.add("key", isRed, explain(err).Error(), "check the network, its proxy (HTTPS_PROXY) and GTI_BASE_URL")
	default:
		d.add("key", isRed, explain(err).Error(), "try again; if it stays, check GTI_BASE_URL")
	}
	return false
}

const (
	clockOff    = 30 * time.Second
	clockBroken = 5 * time.Minute
)

// examineClock compares this machine's clock with GTI's, which says whole seconds, at some
// moment between the question and the answer. A difference that these explain is none:
// otherwise a slow answer would make a right clock wrong.
func (d *doctor) examineClock(page dtm.Page) {
	if page.Date.IsZero() {
		d.add("clock", isOpen, "GTI does not say its time", "")
		return
	}
	least, most := page.AskedAt.Sub(page.Date.Add(time.Second)), page.ReceivedAt.Sub(page.Date)
	ahead := ((least + most) / 2).Round(time.Second)
	found := fmt.Sprintf("%s fast", ahead)
	switch {
	case least <= 0 && most >= 0:
		ahead, found = 0, "agrees with GTI's"
	case ahead < 0:
		found = fmt.Sprintf("%s slow", -ahead)
	}
	const do = "set this machine's clock, by NTP"
	switch {
	case ahead.Abs() >= clockBroken:
		d.add("clock", isRed, found, do)
	case ahead.Abs() >= clockOff:
		d.add("clock", isYellow, found, do)
	default:
		d.add("clock", isGreen, found, "")
	}
}

// examineMonitors looks for monitors that find nothing any more. With monitors in the
// filter only those count.
func (d *doctor) examineMonitors(ctx context.Context, api *dtm.Session, wanted []string) {
	const enable = "in GTI's console make the monitor narrower and enable it again: it finds nothing until then"
	list, complete, err := api.Monitors(ctx)
	if err != nil {
		d.add("monitors", isYellow, "they can't be looked at: "+err.Error(), "look in GTI's console whether one is disabled")
		return
	}
	enabled, disabled := 0, 0
	known := map[string]bool{}
	for _, m := range list {
		known[m.ID] = true
		if len(wanted) > 0 && !slices.Contains(wanted, m.ID) {
			continue
		}
		if m.Enabled {
			enabled++
			continue
		}
		disabled++
		d.add("monitors", isRed, strings.TrimSpace(fmt.Sprintf("%s (%s) is disabled: %s %s", m.Name, m.ID, m.DisabledCode, m.DisabledReason)), enable)
	}
	for _, id := range wanted {
		if complete && !known[id] {
			disabled++
			d.add("monitors", isRed, id+" of DTM_FILTER does not exist", "take it out of DTM_FILTER, or name the one that replaced it")
		}
	}
	switch {
	case enabled+disabled == 0:
		d.add("monitors", isYellow, "there are none", "make a monitor in GTI's console: without one there are no alerts")
	case disabled == 0:
		d.add("monitors", isGreen, fmt.Sprintf("%d enabled", enabled), "")
	}
}

// examineFilter looks whether the filter matches anything that GTI still lists.
func (d *doctor) examineFilter(ctx context.Context, api *dtm.Session, cfg config.Config) {
	text := cfg.Filter.String()
	page, err := firstPage(ctx, api, dtm.Query{Since: d.now().Add(-cfg.MaxLookback), Size: 1, Filter: cfg.Filter})
	switch {
	case dtm.Kind(err).Final():
		d.add("filter", isRed, "GTI refuses "+text+": "+err.Error(), "repair DTM_FILTER")
	case err != nil:
		d.add("filter", isYellow, explain(err).Error(), "try again")
	case len(page.Alerts) == 0:
		d.add("filter", isYellow, fmt.Sprintf("%s matches no alert of the last %s", text, cfg.MaxLookback), "if alerts were expected, make DTM_FILTER wider, or look at the monitors")
	default:
		d.add("filter", isGreen, text+" matches alerts", "")
	}
}

// topicAdmin is what doctor needs of the client of Pub/Sub's topics.
type topicAdmin interface {
	GetTopic(ctx context.Context, req *pubsubpb.GetTopicRequest, opts ...gax.CallOption) (*pubsubpb.Topic, error)
	TestIamPermissions(ctx context.Context, req *iampb.TestIamPermissionsRequest, opts ...gax.CallOption) (*iampb.TestIamPermissionsResponse, error)
}

// examineTopics looks whether the topics exist, and whether one may publish to them. Who
// may publish need not be allowed to look at a topic.
func (d *doctor) examineTopics(ctx context.Context, admin topicAdmin, cfg config.Config) {
	for _, t := range []struct{ variable, name string }{
		{"PUBSUB_TOPIC", cfg.Topic}, {"REJECTS_TOPIC", cfg.RejectsTopic}, {"STATUS_TOPIC", cfg.StatusTopic},
	} {
		if t.name != "" {
			d.examineTopic(ctx, admin, t.variable, t.name)
		}
	}
}

const (
	publishPermission = "pubsub.topics.publish"
	publisherRole     = "roles/pubsub.publisher"
)

func (d *doctor) examineTopic(ctx context.Context, admin topicAdmin, variable, name string) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	_, getErr := admin.GetTopic(ctx, &pubsubpb.GetTopicRequest{Topic: name})
	if status.Code(getErr) == codes.NotFound {
		d.add("topics", isRed, name+" does not exist", "terraform apply makes it; or set "+variable+" to one that exists")
		return
	}
	granted, permErr := admin.TestIamPermissions(ctx, &iampb.TestIamPermissionsRequest{Resource: name, Permissions: []string{publishPermission}})
	mayPublish := slices.Contains(granted.GetPermissions(), publishPermission)
	switch {
	case getErr == nil:
		d.add("topics", isGreen, name+" exists", "")
	case status.Code(getErr) == codes.PermissionDenied && mayPublish:
		d.add("topics", isGreen, name+" takes messages", "")
	case status.Code(getErr) == codes.PermissionDenied:
		d.add("topics", isOpen, name+" may not be looked at", "")
	default:
		d.add("topics", isRed, name+": "+getErr.Error(), adviceOf(getErr, "try again"))
		return
	}
	switch {
	case mayPublish:
		d.add("permissions", isGreen, publishPermission+" on "+name, "")
	case os.Getenv("PUBSUB_EMULATOR_HOST") != "" && permErr != nil:
		d.add("permissions", isGreen, "the emulator asks for none on "+name, "")
	case permErr != nil:
		d.add("permissions", isRed, name+": "+permErr.Error(), adviceOf(permErr, "grant "+publisherRole+" on the topic to the function's service account"))
	default:
		d.add("permissions", isRed, publishPermission+" is missing on "+name, "grant "+publisherRole+" on the topic to the function's service account; doctor shows the permissions of whoever runs it")
	}
}

// adviceOf is what to do about an error of Google Cloud; otherwise what this thing needs.
func adviceOf(err error, otherwise string) string {
	switch code := status.Code(err); {
	case code == codes.Unauthenticated:
		return howToSignIn
	case code == codes.Unavailable, code == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded):
		return "check the network, and that an emulator which a variable names is running"
	}
	return otherwise
}

func adviceFirestore(project, database string) string {
	if database == "" {
		return "check who may read and write it; only if it is damaged, move it away: the next run begins at INITIAL_LOOKBACK, and repeats alerts"
	}
	return fmt.Sprintf("terraform apply makes the database %s of project %s, and grants the functions what they need there", database, project)
}
