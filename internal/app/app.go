// Package app puts the parts together: configuration, clients, and the HTTP
// interfaces of the functions Ingest and SyncStatus. It is the only one that knows
// every part.
package app

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/secret"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// Parts are what a deployment puts the app together from: in the cloud
// Firestore, Pub/Sub and Secret Manager, with `serve --local` files.
type Parts struct {
	Store     state.Store
	Publisher ledger.Publisher
	// Writebacks takes what rules want written to GTI; nil: it is written at once.
	Writebacks ledger.WritebackTopic
	Keys       dtm.KeySource
	// OneReader: what is published goes to whoever has this process run the relay. Then a
	// run works no backfill that was asked for but that of its own request, since the
	// alerts of another one belong to somebody else.
	OneReader bool
}

// shares are what each kind of work may use of the key's budgets; syncUnknown is of
// write-backs to alerts that are not in the feed's ledger.
type shares struct{ live, sweep, backfill, sync, syncUnknown dtm.Share }

// sharesOf divides the errors of an hour, after which GTI locks the user out, and the
// requests of a day, so that side work never stops the feed. What live work leaves of
// the errors is for whatever else uses the same user. Nobody but their senders bounds
// how many write-backs come, so they stop before all other work; and those to alerts
// that may not exist, each of which costs an error, before the others.
func sharesOf(errorsPerHour int) shares {
	share := func(percentOfErrors int, ofRequests float64) dtm.Share {
		return dtm.Share{Errors: errorsPerHour * percentOfErrors / 100, Requests: ofRequests}
	}
	return shares{
		live: share(50, 1), sweep: share(35, 0.9), backfill: share(35, 0.6),
		sync: share(20, 0.9), syncUnknown: share(10, 0.9),
	}
}

// App is the function, ready to serve.
type App struct {
	cfg    config.Config
	parts  Parts
	client *dtm.Client
	usage  *drain.UsageCounter
	shares shares
	// cache is what this instance knows of what was published, for all its runs.
	cache  *ledger.Cache
	log    *slog.Logger
	routes http.Handler // of the function Ingest
	sync   http.Handler // of the function SyncStatus
}

// newClient makes the configuration's client of GTI.
func newClient(cfg config.Config, keys dtm.KeySource, meter *dtm.Meter) (*dtm.Client, error) {
	return dtm.New(dtm.Options{
		BaseURL: cfg.BaseURL, ToolName: cfg.ToolName, UserAgent: "dtm-relay/" + observe.Version,
		Keys: keys, Meter: meter, Concurrency: cfg.Concurrency, QPS: cfg.QPS,
	})
}

// Session is a way to GTI for a command that has no state: it may use what live work
// may, and knows only of its own requests.
func Session(cfg config.Config, keys dtm.KeySource) (*dtm.Session, error) {
	client, err := newClient(cfg, keys, dtm.NewMeter(cfg.RequestsPerDay))
	if err != nil {
		return nil, err
	}
	return client.Session(sharesOf(cfg.ErrorsPerHour).live), nil
}

// New puts an app together.
func New(cfg config.Config, parts Parts, log *slog.Logger) (*App, error) {
	meter := dtm.NewMeter(cfg.RequestsPerDay)
	parts.Keys = keySource{parts.Keys}
	client, err := newClient(cfg, parts.Keys, meter)
	if err != nil {
		return nil, err
	}
	a := &App{cfg: cfg, parts: parts, client: client, shares: sharesOf(cfg.ErrorsPerHour), cache: new(ledger.Cache), log: log}
	a.usage = drain.NewUsageCounter(cfg.Feed, parts.Store, meter, log)
	writer := a.newWriter()
	if a.parts.Writebacks == nil {
		a.parts.Writebacks = atOnce{writer}
	}
	a.routes, a.sync = a.handler(), a.syncHandler(writer)
	return a, nil
}

// ServeHTTP answers a request to the function Ingest.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.routes.ServeHTTP(w, r) }

// SyncStatus is the function SyncStatus.
func (a *App) SyncStatus() http.Handler { return a.sync }

// runner makes what runs the feed once.
func (a *App) runner() *drain.Runner {
	id := runID(time.Now())
	return &drain.Runner{
		Version: observe.Version, Feed: a.cfg.Feed, RunID: id, KeyID: a.keyID, Store: a.parts.Store, Usage: a.usage, Log: a.log,
		LiveAPI: a.client.Session(a.shares.live), SweepAPI: a.client.Session(a.shares.sweep), BackfillAPI: a.client.Session(a.shares.backfill),
		MonitorsAPI: a.client.Session(a.shares.sweep).Once(),
		Options: drain.Options{
			Workers: a.cfg.Concurrency, PageSize: dtm.PageSize(a.cfg.Refs), Refs: a.cfg.Refs, Filter: a.cfg.Filter,
			Overlap: a.cfg.Overlap, Settle: a.cfg.Settle,
			InitialLookback: a.cfg.InitialLookback, MaxLookback: a.cfg.MaxLookback,
			UpdatesWindow: a.cfg.UpdatesWindow, AuditWindow: a.cfg.AuditWindow, MonitorsCheck: a.cfg.MonitorsCheck,
			MaxAlerts: a.cfg.MaxAlerts, RequestsPerDay: a.cfg.RequestsPerDay, Budget: a.cfg.Budget,
		},
		Cache: a.cache,
		NewProcessor: func(o ledger.Options) drain.Processor {
			return &ledger.Processor{
				Store: a.parts.Store, Publisher: a.parts.Publisher, Writebacks: a.parts.Writebacks, Feed: a.cfg.Feed, RunID: id,
				TTL: a.cfg.LedgerTTL, Rules: a.cfg.Rules, Redactor: a.cfg.Redactor, Format: message.Format(a.cfg.MessageFormat),
				Cache: a.cache, Options: o,
			}
		},
	}
}

// Run runs the feed once and logs the report. trigger and by are what the report says of
// why, and of who asked for it. The error is the one in the report, nil where ctx, a budget
// or a cap has stopped the run.
func (a *App) Run(ctx context.Context, trigger, by string, dryRun bool) (drain.Report, error) {
	return a.run(ctx, trigger, by, "", dryRun)
}

// run is Run for a request for a backfill; empty: for none.
func (a *App) run(ctx context.Context, trigger, by, backfill string, dryRun bool) (drain.Report, error) {
	runner := a.runner()
	runner.RequestedBy = by
	if a.parts.OneReader {
		runner.WorksBackfill = func(id string) bool { return id == backfill }
	}
	report, err := runner.Live(ctx, trigger, dryRun)
	level := slog.LevelInfo
	if report.Outcome == drain.Failed {
		level = slog.LevelError
	}
	observe.LogRun(ctx, a.log, level, report)
	var panicked *observe.Panic
	if errors.As(err, &panicked) {
		observe.LogPanic(ctx, a.log, panicked)
	}
	return report, err
}

// keyID names the API key's counters.
func (a *App) keyID(ctx context.Context) (string, error) {
	key, err := a.parts.Keys.Key(ctx)
	if err != nil {
		return "", err
	}
	return KeyID(key), nil
}

// keySource says of a key that is missing what a run ends with, when it begins and when
// the key it has used is refused.
type keySource struct{ dtm.KeySource }

func (k keySource) Key(ctx context.Context) (string, error) {
	key, err := k.KeySource.Key(ctx)
	return key, keyMissing(err)
}

func (k keySource) Renew(ctx context.Context, refused string) (string, error) {
	key, err := k.KeySource.Renew(ctx, refused)
	return key, keyMissing(err)
}

func keyMissing(err error) error {
	if errors.Is(err, secret.ErrMissing) {
		return fmt.Errorf("%w: %w", drain.ErrKeyMissing, err)
	}
	return err
}

// KeyID names the counters of an API key in the database: the first 16 hex digits of the
// key's SHA-256.
func KeyID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:8])
}

// ErrorStop is at how many error answers within an hour live work stops, where GTI allows
// so many.
func ErrorStop(errorsPerHour int) int { return sharesOf(errorsPerHour).live.Errors }

// runID names a run: when it began, and something random.
func runID(now time.Time) string {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	return now.UTC().Format("20060102T150405Z-") + hex.EncodeToString(random)
}
