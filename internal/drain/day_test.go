package drain_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// BenchmarkDay counts what a day costs, for the table in docs/cost.md: requests,
// documents, messages, bytes, how long the function is at work, and how soon half of the
// alerts are out. It is a day after the feed has settled, with the default windows, sweep
// and audit. floor is how many requests a day needs in which everything is listed once:
// new alerts with their document, changes without, and by two audits. 100,000 alerts take
// four minutes and 14 GB:
//
//	go test ./internal/drain -run '^$' -bench Day -benchtime 1x -timeout 2h
func BenchmarkDay(b *testing.B) {
	for _, d := range []*day{
		{alerts: 0, every: 5 * time.Minute, refs: true},
		{alerts: 0, every: time.Minute, refs: true},
		{alerts: 1000, every: 5 * time.Minute, refs: true},
		{alerts: 10_000, every: 5 * time.Minute, refs: true},
		{alerts: 10_000, every: 5 * time.Minute},
		{alerts: 10_000, every: 15 * time.Minute, refs: true},
		{alerts: 20_000, every: time.Minute, refs: true},
		{alerts: 100_000, every: 5 * time.Minute, refs: true},
		{alerts: 100_000, every: 5 * time.Minute},
		{alerts: 100_000, every: 5 * time.Minute, cold: true},
		{alerts: 250_000, every: 5 * time.Minute, refs: true, small: true},
	} {
		b.Run(fmt.Sprintf("alerts=%d/every=%s/refs=%t/cold=%t", d.alerts, d.every, d.refs, d.cold), func(b *testing.B) {
			for range b.N {
				d.measure(b)
			}
		})
	}
}

// What a call takes: assumptions. Only the time at work depends on them.
const (
	pageTakes     = 500 * time.Millisecond // a list request to the API
	documentsTake = 10 * time.Millisecond  // a call to Firestore
	publishTakes  = 30 * time.Millisecond  // a call to Pub/Sub
)

// day is a day of a feed whose alerts come evenly, and change their status when
// they are six hours and two days old.
type day struct {
	alerts int // new ones
	every  time.Duration
	refs   bool
	cold   bool // each run is another instance's
	small  bool // documents are left out, which would not fit into memory

	cache  *ledger.Cache
	api    *dtmsim.Server
	client *dtm.Client
	meter  *dtm.Meter
	keys   int // how many were in use
	store  *countingStore
	topic  countingTopic
	log    *slog.Logger
	logged countingWriter

	requests, looked int64
	listed, swept    int64 // requests of the live feed, and of sweeps
	atWork           time.Duration
}

func (d *day) measure(b *testing.B) {
	b.Helper()
	db, err := bolt.OpenNoSync(filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	d.store = &countingStore{Store: db}
	// A bubble needs a test, which a benchmark isn't.
	all := func(string, string) (bool, error) { return true, nil }
	if !testing.RunTests(all, []testing.InternalTest{{Name: "day", F: func(t *testing.T) { synctest.Test(t, d.live) }}}) {
		b.Fatal("the day went wrong")
	}
	b.ReportMetric(float64(d.requests), "requests")
	b.ReportMetric(float64(d.listed), "requests-live")
	b.ReportMetric(float64(d.swept), "requests-sweep")
	b.ReportMetric(float64(d.floor()), "floor")
	b.ReportMetric(float64(d.looked), "alerts-read")
	b.ReportMetric(float64(d.store.reads), "documents-read")
	b.ReportMetric(float64(d.store.reads)/float64(max(1, d.alerts)), "documents-read/alert")
	b.ReportMetric(float64(d.store.writes), "documents-written")
	b.ReportMetric(float64(d.topic.messages), "messages")
	b.ReportMetric(float64(d.topic.bytes)/1e6, "MB-published")
	b.ReportMetric(float64(d.logged)/1e6, "MB-logged")
	b.ReportMetric(d.atWork.Seconds(), "s-at-work")
	if n := len(d.topic.ages); n > 0 {
		b.ReportMetric(d.every.Seconds()/2, "s-floor") // half of a run's interval
		slices.Sort(d.topic.ages)
		b.ReportMetric(d.topic.ages[n/2].Seconds(), "s-half-are-out")
	}
	b.ReportMetric(0, "ns/op") // of the simulation
}

// floor is how many requests list everything once.
func (d *day) floor() int {
	runs := int(24 * time.Hour / d.every)
	live := max(runs, d.alerts/dtm.PageSize(d.refs))
	return live + max(runs, 2*d.alerts/dtm.PageSize(false)) + 2*d.alerts/dtm.PageSize(false)
}

// settling is how long before the day the feed begins. It reads the past then, and all of
// it once more with its first sweep; the key of the past's requests is another one.
const settling = 3 * time.Hour

func (d *day) live(t *testing.T) {
	began := time.Now() // midnight
	start := began.Add(settling)
	alerts := d.generate(start)
	d.api = dtmsim.New(dtmsim.Options{Key: goodKey, Latency: pageTakes}, alerts)
	d.log = observe.NewLogger(&d.logged, slog.LevelInfo, "project")
	d.connect(t)
	d.run(t, 0)
	d.connect(t)

	ages := []struct {
		age    time.Duration
		status string
		next   int
	}{{6 * time.Hour, "in_progress", 0}, {48 * time.Hour, "closed", 0}}
	for i := range ages {
		ages[i].next, _ = slices.BinarySearchFunc(alerts, began.Add(-ages[i].age), func(a dtmsim.Alert, at time.Time) int { return a.CreatedAt.Compare(at) })
	}
	for at := began.Add(d.every); !at.After(start.Add(24 * time.Hour)); at = at.Add(d.every) {
		if at.Equal(start.Add(d.every)) {
			d.store.reads, d.store.writes, d.topic, d.logged = 0, 0, countingTopic{}, 0
			d.requests, d.looked, d.atWork, d.listed, d.swept = 0, 0, 0, 0, 0
		}
		time.Sleep(time.Until(at.Add(-d.every / 2)))
		for i := range ages {
			for a := &ages[i]; a.next < len(alerts) && alerts[a.next].CreatedAt.Add(a.age).Before(time.Now()); a.next++ {
				d.api.Update(alerts[a.next].ID, func(alert *dtmsim.Alert) { alert.Status = a.status })
			}
		}
		time.Sleep(time.Until(at))
		d.run(t, int(at.Sub(began)/d.every))
	}
	if want := int64(3 * d.alerts); d.topic.messages < want*95/100 || d.topic.messages > want*105/100 {
		t.Errorf("%d messages: about %d alerts are new, and as many change at either age", d.topic.messages, d.alerts)
	}
}

// connect makes a client whose key has used nothing yet.
func (d *day) connect(t *testing.T) {
	d.keys++
	var err error
	d.meter = dtm.NewMeter(1 << 30)
	d.client, err = dtm.New(dtm.Options{
		BaseURL: "https://dtm.example/api/v3", ToolName: "test", UserAgent: "test", Keys: &proc{key: goodKey}, Meter: d.meter,
		Concurrency: 6, QPS: 10, Transport: d.api.RoundTripper(), Rand: rand.Float64,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// generate invents three days of the past and the day itself: alerts of 2 KB, and
// of 8 KB with their document.
func (d *day) generate(start time.Time) []dtmsim.Alert {
	shape := dtmsim.Shape{NoDoc: !d.refs || d.small}
	if d.refs && !d.small {
		shape.Huge = slices.Repeat([]int{8000}, 4*d.alerts)
	}
	return dtmsim.Generate(1, 4*d.alerts, start.Add(-72*time.Hour), start.Add(24*time.Hour), shape)
}

// run runs the feed as the function does (internal/app).
func (d *day) run(t *testing.T, i int) {
	id := fmt.Sprintf("run-%d", i)
	if d.cache == nil || d.cold {
		d.cache = new(ledger.Cache)
	}
	runner := &drain.Runner{
		Feed: "default", RunID: id, Store: d.store, Log: d.log,
		Usage:   drain.NewUsageCounter("default", d.store, d.meter, d.log),
		KeyID:   func(context.Context) (string, error) { return fmt.Sprint("key-", d.keys), nil },
		LiveAPI: d.client.Session(liveShare), SweepAPI: d.client.Session(sweepShare), BackfillAPI: d.client.Session(backfillShare),
		Options: drain.Options{
			Workers: 6, PageSize: dtm.PageSize(d.refs), Refs: d.refs, Overlap: 10 * time.Minute, Settle: 30 * time.Second,
			InitialLookback: 72 * time.Hour, MaxLookback: 120 * time.Hour, UpdatesWindow: 720 * time.Hour, AuditWindow: 72 * time.Hour, RequestsPerDay: 40_000,
			Budget: 8*time.Minute + 30*time.Second,
		},
		Cache: d.cache,
		NewProcessor: func(o ledger.Options) drain.Processor {
			return &ledger.Processor{
				Store: d.store, Publisher: &d.topic, Feed: "default", RunID: id, TTL: 4320 * time.Hour,
				Cache: d.cache, Options: o,
			}
		},
	}
	for {
		report, err := runner.Live(t.Context(), "schedule", false)
		observe.LogRun(t.Context(), d.log, slog.LevelInfo, report)
		if err != nil {
			t.Fatal(err)
		}
		d.requests += report.Requests
		d.listed += runner.LiveAPI.Stats().Requests
		d.swept += runner.SweepAPI.Stats().Requests
		d.looked += report.Fetched
		d.atWork += time.Duration(report.DurationMS) * time.Millisecond
		if i > 0 || report.Outcome == drain.OK {
			return
		}
	}
}

// countingStore counts documents as Firestore bills them: a read also for one
// that doesn't exist (internal/state/firestore says which documents a call has).
type countingStore struct {
	state.Store

	mu            sync.Mutex
	reads, writes int64
}

func (s *countingStore) count(reads, writes int) {
	time.Sleep(documentsTake)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads += int64(reads)
	s.writes += int64(writes)
}

func (s *countingStore) Open(ctx context.Context, feed, keyID string) (state.Snapshot, error) {
	documents := 3
	if keyID == "" {
		documents = 2
	}
	s.count(documents, 0)
	return s.Store.Open(ctx, feed, keyID)
}

func (s *countingStore) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (state.Revision, error) {
	s.count(0, 1)
	return s.Store.WriteFeed(ctx, feed, f, v)
}

func (s *countingStore) Records(ctx context.Context, feed string, ids []string) ([]state.Entry, error) {
	s.count(len(ids), 0)
	return s.Store.Records(ctx, feed, ids)
}

func (s *countingStore) WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error) {
	s.count(0, len(entries))
	return s.Store.WriteRecords(ctx, feed, entries)
}

func (s *countingStore) AddUsage(ctx context.Context, keyID string, add, old state.Usage) error {
	s.count(0, 1)
	return s.Store.AddUsage(ctx, keyID, add, old)
}

func (s *countingStore) CreateBackfill(ctx context.Context, feed string, b state.Backfill) error {
	s.count(0, 2)
	return s.Store.CreateBackfill(ctx, feed, b)
}

func (s *countingStore) Backfill(ctx context.Context, feed, id string) (state.Backfill, state.Revision, error) {
	s.count(1, 0)
	return s.Store.Backfill(ctx, feed, id)
}

func (s *countingStore) WriteBackfill(ctx context.Context, feed string, b state.Backfill, v state.Revision) (state.Revision, error) {
	documents := 1
	if b.Finished() {
		documents = 2
	}
	s.count(0, documents)
	return s.Store.WriteBackfill(ctx, feed, b, v)
}

// countingTopic counts messages and their bytes, and acknowledges them.
type countingTopic struct {
	mu              sync.Mutex
	messages, bytes int64
	ages            []time.Duration // of the new alerts when they are out
}

func (c *countingTopic) Publish(_ context.Context, all []message.Message) []error {
	time.Sleep(publishTakes)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range all {
		c.messages++
		c.bytes += int64(m.Size())
		if created, err := time.Parse(time.RFC3339, m.Attributes["created_at"]); err == nil && m.Attributes["event"] == ledger.Created {
			c.ages = append(c.ages, time.Since(created))
		}
	}
	return make([]error, len(all))
}

func (c *countingTopic) Reject(ctx context.Context, all []message.Message) []error {
	return c.Publish(ctx, all)
}

// countingWriter counts bytes.
type countingWriter int64

func (c *countingWriter) Write(p []byte) (int, error) {
	*c += countingWriter(len(p))
	return len(p), nil
}
