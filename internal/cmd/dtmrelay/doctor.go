package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/sethvargo/go-envconfig"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/publish"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
	"dtmrelay.internal/dtmrelay/internal/state/firestore"
)

type doctorCmd struct {
	Data string `placeholder:"DIR" help:"Look at the relay of this machine that keeps its data there, in place of a deployed one."`
	keyFlags
	outputFlags
}

func (doctorCmd) Help() string {
	return `Looks whether everything is there that the relay needs, and says what to do about what isn't: the configuration, the API key and its entitlement, what is left of its budgets, the monitors, the filter, the clock, and of a deployed relay the secret, topics, database and permissions. Nothing is changed. It sends up to three requests to GTI, and one more for each page of monitors.

The configuration is that of the environment. For a deployed relay set the variables that the function has, and run it as the function's service account, because it shows the permissions of whoever runs it. To log in as that account you need roles/iam.serviceAccountTokenCreator on it. The exit code is 1 when anything is red.

Examples:

	dtmrelay doctor --data dtmrelay-data

	# a deployed relay: also FEED, DTM_FILTER and the limits, where you have set them, and
	# STATUS_TOPIC, where a rule writes back
	gcloud auth application-default login --impersonate-service-account=dtm-relay-ingest@my-project.iam.gserviceaccount.com
	export GOOGLE_CLOUD_PROJECT=my-project PUBSUB_TOPIC=dtm-alerts REJECTS_TOPIC=dtm-rejects FIRESTORE_DATABASE=dtm-relay
	export GTI_API_KEY_SECRET=projects/my-project/secrets/dtm-relay-gti-api-key
	dtmrelay doctor --format json`
}

func (c *doctorCmd) Validate() error { return c.checkKeys() }

// Colours of a finding.
const (
	isGreen  = "green"
	isYellow = "yellow"
	isRed    = "red"
	isOpen   = "unknown" // something else has to be repaired first
)

// finding is what doctor says of one thing.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"` // green, yellow, red, unknown
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what to do about it
}

// findingColumns are the columns of the table and of CSV.
var findingColumns = []string{"state", "check", "found", "do"}

func (c *doctorCmd) Run(ctx context.Context) error {
	d := &doctor{now: time.Now}
	c.examine(ctx, d)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	rows := make([][]string, 0, len(d.findings))
	red := 0
	for _, f := range d.findings {
		rows = append(rows, []string{f.State, f.Check, f.Found, f.Do})
		if f.State == isRed {
			red++
		}
	}
	format := c.Format.or(os.Stdout, formatJSON)
	if err := printAs(os.Stdout, format, findingColumns, rows, d.findings); err != nil {
		return err
	}
	if isTerminal(os.Stdout) && format == formatTable {
		d.advise(os.Stderr)
	}
	if red > 0 {
		return fmt.Errorf("%d of %d checks are red", red, len(d.findings))
	}
	return nil
}

// advise repeats what to do, which the width of a terminal may have cut off.
func (d *doctor) advise(w *os.File) {
	for _, f := range d.findings {
		if f.Do != "" {
			fmt.Fprintf(w, "\n%s: %s\n  %s\n", f.Check, clean(f.Found), clean(f.Do))
		}
	}
}

// examine looks at everything, as far as the configuration can be read.
func (c *doctorCmd) examine(ctx context.Context, d *doctor) {
	load := config.Load
	if c.Data != "" {
		load = config.LoadLocal
	}
	env, err := c.environment(nil)
	noKey := errors.Is(err, errNoKey)
	if noKey {
		// The rest can be looked at without one.
		d.add("key", isRed, "there is none", errNoKey.Error())
		env, err = withStandIn, nil
	}
	if err != nil {
		d.add("key", isRed, err.Error(), "name a file that can be read")
		return
	}
	cfg, warnings, err := load(ctx, env)
	if err != nil {
		for _, problem := range strings.Split(err.Error(), "\n") {
			d.add("configuration", isRed, problem, "set the variable as docs/configuration.md says; nothing else can be looked at before")
		}
		return
	}
	for _, w := range warnings {
		if noKey && strings.HasPrefix(w, "GTI_API_KEY") {
			continue // about the one that stands in for it
		}
		d.add("configuration", isYellow, w, "set it otherwise if this is not meant")
	}
	if len(warnings) == 0 {
		d.add("configuration", isGreen, "feed "+cfg.Feed, "")
	}
	if !noKey {
		c.examineKey(ctx, d, cfg)
	}
	if c.Data != "" {
		d.examineFolder(ctx, c.Data, cfg)
		return
	}
	examineCloud(ctx, d, cfg)
}

// withStandIn is the environment with something in the place of the key.
var withStandIn = envconfig.LookuperFunc(func(name string) (string, bool) {
	if name == "GTI_API_KEY" {
		return "none", true
	}
	return os.LookupEnv(name)
})

// examineKey looks at the key, and with it at GTI.
func (c *doctorCmd) examineKey(ctx context.Context, d *doctor, cfg config.Config) {
	keys, end, err := app.Keys(ctx, cfg)
	if err != nil {
		d.add("secret", isRed, err.Error(), howToSignIn)
		return
	}
	defer func() { _ = end() }() // nothing was written
	if key, ok := d.examineSecret(ctx, cfg, keys); ok {
		d.keyID = app.KeyID(key)
		cfg.RequestsPerDay = doctorRequests
		api, err := app.Session(cfg, keys)
		if err != nil {
			d.add("key", isRed, err.Error(), "repair the configuration")
			return
		}
		d.examineGTI(ctx, api.Once(), cfg)
	}
}

// examineFolder looks at the data of a relay of this machine.
func (d *doctor) examineFolder(ctx context.Context, dir string, cfg config.Config) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		d.add("data", isYellow, dir+" does not exist", "poll and serve --local make it; if it should be there, --data names another folder")
		return
	case err != nil || !info.IsDir():
		d.add("data", isRed, dir+" is no folder that can be read", "name the folder that poll or serve --local has")
		return
	case info.Mode().Perm()&0o077 != 0:
		d.add("permissions", isYellow, fmt.Sprintf("%s is open to others (%s)", dir, info.Mode().Perm()), "alerts may hold passwords: chmod 700 "+dir)
	default:
		d.add("permissions", isGreen, dir+" is its owner's alone", "")
	}
	files := filesIn(dir)
	for _, path := range []string{files.state, files.alerts, files.rejects} {
		file, err := os.OpenFile(path, os.O_WRONLY, 0) // changes nothing
		if err == nil {
			err = file.Close()
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			d.add("permissions", isRed, "it can't be written: "+err.Error(), "make it a file of the user that the relay runs as, and run this as that user: chmod u+w "+path)
		}
	}
	if lost := files.lostPosition(); !lost.IsZero() {
		d.add("data", isYellow, fmt.Sprintf("%s is gone or empty, and the last poll had read up to %s", files.state, localTime(lost)),
			"put it back from a backup, or else the next poll begins again at INITIAL_LOOKBACK and repeats alerts")
		return
	}
	if _, err := os.Stat(files.state); errors.Is(err, os.ErrNotExist) {
		d.add("data", isYellow, "there is no "+files.state, "poll and serve --local make it; if it should be there, --data names another folder")
		return
	}
	store, err := bolt.OpenCopy(files.state)
	if err != nil {
		do := "if the file is damaged, move it away: the next run begins at INITIAL_LOOKBACK, and repeats alerts"
		switch {
		case errors.Is(err, bolt.ErrNoRoom):
			do = "set TMPDIR to a folder with room for a copy of the file, which stays as it is"
		case errors.Is(err, bolt.ErrInUse):
			do = "run this again in a minute"
		case errors.Is(err, fs.ErrPermission):
			do = "run this as the user that the relay runs as, who must be able to read and write the file"
		}
		d.add("data", isRed, err.Error(), do)
		return
	}
	defer func() { _ = store.Close() }() // it is a copy
	d.examineState(ctx, "data", store, cfg, "")
}

// examineCloud looks at what a deployed relay has.
func examineCloud(ctx context.Context, d *doctor, cfg config.Config) {
	pubsub, err := publish.NewClient(ctx, cfg.Project)
	if err != nil {
		d.add("topics", isRed, err.Error(), howToSignIn)
	} else {
		d.examineTopics(ctx, pubsub.TopicAdminClient, cfg)
		_ = pubsub.Close() // nothing was published
	}
	store, err := firestore.New(ctx, cfg.Project, cfg.Database)
	if err != nil {
		d.add("firestore", isRed, err.Error(), howToSignIn)
		return
	}
	d.examineState(ctx, "firestore", store, cfg, cfg.Database)
	_ = store.Close() // nothing was written
}

const howToSignIn = "sign in with gcloud auth application-default login, as the function's service account by --impersonate-service-account"

// stateReader reads what the relay remembers (state.Store).
type stateReader interface {
	Open(ctx context.Context, feed, keyID string) (state.Snapshot, error)
}

// doctorRequests is more than doctor asks GTI for, also with many monitors. It looks also
// when the relay's own requests of the day are used up.
const doctorRequests = 100

// lookTime bounds one look: a client of Google Cloud repeats until its context ends.
const lookTime = 15 * time.Second

// examineState reads the feed's document, and what the key has used.
func (d *doctor) examineState(ctx context.Context, check string, store stateReader, cfg config.Config, database string) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	found, err := store.Open(ctx, cfg.Feed, d.keyID)
	if err == nil && d.keyID == "" && found.Feed.KeyID != "" {
		found, err = store.Open(ctx, cfg.Feed, found.Feed.KeyID)
	}
	if err != nil {
		d.add(check, isRed, err.Error(), adviceOf(err, adviceFirestore(cfg.Project, database)))
		d.add("quota", isOpen, "what the key has used is in the database", "")
		return
	}
	if found.Feed.BeginsAt.IsZero() {
		d.add(check, isGreen, "feed "+cfg.Feed+" has not run yet", "")
	} else {
		position := found.Feed.Position()
		d.add(check, isGreen, fmt.Sprintf("feed %s has read up to %s (%s)", cfg.Feed, localTime(position), age(position, d.now())), "")
	}
	d.examineUsage(found.Usage, cfg)
}

// examineUsage compares what the key has used with where the relay stops.
func (d *doctor) examineUsage(usage state.Usage, cfg config.Config) {
	meter := dtm.NewMeter(cfg.RequestsPerDay)
	meter.Load(usage.Requests, usage.Errors)
	requests, failures := meter.Used()
	budget := func(what, window, advice string, used int64, limit int) {
		colour, do := isGreen, ""
		switch {
		case used >= int64(limit):
			colour, do = isRed, advice
		case used >= int64(limit)*8/10:
			colour, do = isYellow, advice
		}
		d.add("quota", colour, fmt.Sprintf("%d of %d %s within %s", used, limit, what, window), do)
	}
	budget("requests", "24 hours", "wait, run less often, or raise MAX_REQUESTS_PER_DAY where GTI allows the key more", requests, cfg.RequestsPerDay)
	budget("error answers", "one hour", "look into the log for what GTI refuses: at the limit the relay stops, so that GTI does not lock the user out",
		failures, app.ErrorStop(cfg.ErrorsPerHour))
}
