package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

var (
	dayLong = flag.Duration("day", 2*time.Hour, "how long the simulated day is")
	dayDir  = flag.String("dir", "", "where the simulated day's samples are written")
)

// TestMain counts the memory by where it was allocated, from the beginning on.
func TestMain(m *testing.M) {
	runtime.MemProfileRate = 512
	flag.Parse()
	os.Exit(m.Run())
}

// TestDay: the engine works through a day of alerts, with faults of the API and a quota
// that others use up, and nothing grows.
func TestDay(t *testing.T) {
	d := &day{long: *dayLong}
	if testing.Short() {
		d.long = min(d.long, time.Hour)
	}
	s := d.simulate(t)
	for _, problem := range s.verdict() {
		t.Error(problem)
	}
	t.Logf("\n%s", s.table())
	if *dayDir == "" {
		return
	}
	if err := os.MkdirAll(*dayDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.write(filepath.Join(*dayDir, dayFile)); err != nil {
		t.Fatal(err)
	}
}

// TestLeaks: what each run keeps is found, and so is an alert that doesn't come.
func TestLeaks(t *testing.T) {
	d := &day{long: 2 * time.Hour, topic: versionsTopic{swallow: 50}}
	if testing.Short() {
		d.long = time.Hour
	}
	var kept [][]byte
	d.leak = func() {
		kept = append(kept, make([]byte, 64<<10))
		go func() { <-d.over }()
		d.more++ // a listing of a range that is never done with
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { f.Close() })
	}
	var got []string
	for _, problem := range d.simulate(t).verdict() {
		got = append(got, strings.Join(strings.Fields(problem.Error())[:2], " "))
	}
	if diff := cmp.Diff([]string{"files grows", "goroutines grows", "heap grows", "requests grows", "lost: 1"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	runtime.KeepAlive(kept)
}

const (
	dayPast      = 3 * time.Hour
	dayPerMinute = 7 // 10,000 a day
	dayFaulty    = 10
	daySampled   = 10 * time.Minute
	// From so far on, and for so long, others have used up the key's quota.
	quotaFrom, quotaFor = 0.4, 1. / 72
)

// day is a feed whose alerts come evenly, and are worked through once a minute.
type day struct {
	long time.Duration
	leak func()        // with each run
	more int64         // requests that a run makes besides
	over chan struct{} // closed at the end

	*series
	began  time.Time
	sim    *dtmsim.Server
	ids    []string
	client *dtm.Client
	meter  *dtm.Meter
	store  *countingStore
	topic  versionsTopic
	cache  *ledger.Cache
	runs   map[string]int
	faults int
}

func (d *day) simulate(t *testing.T) *series {
	t.Helper()
	db, err := bolt.OpenNoSync(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	d.series, d.store, d.cache, d.runs = newSeries(), &countingStore{Store: db}, new(ledger.Cache), map[string]int{}
	synctest.Test(t, d.live)
	return d.series
}

func (d *day) live(t *testing.T) {
	d.began, d.over = time.Now(), make(chan struct{})
	defer close(d.over)
	from, to := d.began.Add(-dayPast), d.began.Add(d.long)
	shape := dtmsim.Typical()
	shape.Closed, shape.ClosedWithin = 0.3, 2*time.Hour
	alerts := dtmsim.Generate(1, int(to.Sub(from).Minutes()*dayPerMinute), from, to, shape)
	for _, a := range alerts {
		d.ids = append(d.ids, a.ID)
	}
	d.sim = dtmsim.New(dtmsim.Options{
		Key: apiKey, Seed: 1, Latency: 500 * time.Millisecond, MaxConcurrent: 10, RequestsPerDay: 50_000, ErrorsPerHour: 100,
		RetryAfter: dtmsim.RetryAfterSeconds, LogSize: 1, // it would keep parts of the relay's requests
	}, alerts)
	d.meter = dtm.NewMeter(40_000)
	var err error
	d.client, err = dtm.New(dtm.Options{
		BaseURL: "https://dtm.example/api/v3", ToolName: "test", UserAgent: "test", Keys: key{}, Meter: d.meter,
		Concurrency: 6, QPS: 10, Transport: d.sim.RoundTripper(), Rand: func() float64 { return 0.5 },
	})
	if err != nil {
		t.Fatal(err)
	}
	for past := ""; past != drain.OK; {
		past = d.run(t)
	}
	sampled := time.Duration(0)
	for n := 0; time.Since(d.began) < d.long; n++ {
		d.sim.ClearFaults()
		switch at := time.Since(d.began) - time.Duration(quotaFrom*float64(d.long)); {
		case at >= 0 && at < time.Duration(quotaFor*float64(d.long)):
			d.sim.AddFault(dtmsim.Fault{Status: 429, Body: dtmsim.QuotaExceeded})
		case n%dayFaulty == dayFaulty-1:
			all := apiFaults()
			d.sim.AddFault(all[d.faults%len(all)])
			d.faults++
		}
		d.run(t)
		if d.leak != nil {
			d.leak()
		}
		if at := time.Since(d.began); at >= sampled {
			d.sample(t)
			sampled = at.Truncate(daySampled) + daySampled
		}
		time.Sleep(time.Until(d.began.Add(time.Since(d.began).Truncate(every) + every)))
	}
	d.sim.ClearFaults()
	end := time.Now()
	all, missing := visible(d.sim, &d.topic.newest, d.ids, end)
	for ; missing > 0 && time.Since(end) < patience; all, missing = visible(d.sim, &d.topic.newest, d.ids, end) {
		time.Sleep(every)
		d.run(t)
	}
	d.conclude(all, missing)
}

func (d *day) conclude(all, missing int) {
	at := time.Since(d.began)
	d.add(created, at, float64(all))
	d.add(published, at, float64(d.topic.newest.messages()))
	d.add(lost, at, float64(missing))
	d.add(faults, at, float64(d.faults))
	d.add(refused, at, float64(d.sim.Stats().Errors))
	for outcome, n := range d.runs {
		d.add(runs+outcome, at, float64(n))
	}
}

// run runs the feed as the function does (internal/app).
func (d *day) run(t *testing.T) string {
	id := "run-" + strconv.Itoa(int(time.Since(d.began).Seconds()))
	runner := &drain.Runner{
		Feed: "default", RunID: id, Store: d.store, Log: slog.New(slog.DiscardHandler),
		Usage:   drain.NewUsageCounter("default", d.store, d.meter, slog.New(slog.DiscardHandler)),
		KeyID:   func(context.Context) (string, error) { return "key", nil },
		LiveAPI: d.client.Session(dtm.Share{Errors: 50, Requests: 1}), SweepAPI: d.client.Session(dtm.Share{Errors: 35, Requests: 0.9}),
		BackfillAPI: d.client.Session(dtm.Share{Errors: 35, Requests: 0.6}),
		Options: drain.Options{
			Workers: 6, PageSize: dtm.PageSize(true), Refs: true, Overlap: 10 * time.Minute, Settle: 30 * time.Second,
			InitialLookback: dayPast, MaxLookback: 120 * time.Hour, UpdatesWindow: 720 * time.Hour, AuditWindow: 72 * time.Hour,
			RequestsPerDay: 40_000, Budget: 8*time.Minute + 30*time.Second,
		},
		Cache: d.cache,
		NewProcessor: func(o ledger.Options) drain.Processor {
			return &ledger.Processor{
				Store: d.store, Publisher: &d.topic, Feed: "default", RunID: id, TTL: 4320 * time.Hour, Cache: d.cache, Options: o,
			}
		},
	}
	report, _ := runner.Live(t.Context(), "schedule", false) // a fault makes it fail
	d.runs[report.Outcome]++
	if report.Outcome == drain.OK && time.Since(d.began) < d.long {
		d.add(requests, time.Since(d.began), float64(report.Requests+d.more))
	}
	return report.Outcome
}

func (d *day) sample(t *testing.T) {
	t.Helper()
	synctest.Wait()
	at := time.Since(d.began)
	inUse, remembered := relayHeap()
	d.add(heap, at, inUse)
	d.add(cache, at, remembered)
	d.add(goroutines, at, float64(runtime.NumGoroutine()))
	d.add(records, at, float64(d.store.count()))
	open, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	d.add(files, at, float64(len(open)))
}

// worlds are where memory is allocated that is not the relay's: the API's alerts, the
// embedded database, which no function links, and what the test notes.
var worlds = []string{"/internal/dtmsim.", "/internal/state/bolt.", "/cmd/soak.(*publishedVersions)", "/cmd/soak.(*series)", "/cmd/soak.(*day)"}

// relayHeap is how many bytes are in use after a collection: but for the world's and the
// cache's, and the cache's. In a simulated day all are in one process, so that the memory
// is told apart by the innermost of the module's functions that has allocated it.
func relayHeap() (inUse, remembered float64) {
	// A profile is that of the end of the collection before the last one.
	runtime.GC()
	runtime.GC()
	profile := make([]runtime.MemProfileRecord, 1000)
	for {
		n, ok := runtime.MemProfile(profile, false)
		if ok {
			profile = profile[:n]
			break
		}
		profile = make([]runtime.MemProfileRecord, n+1000)
	}
	for i := range profile {
		r := &profile[i]
		// Of small objects few are sampled; the same scale is in runtime/pprof.
		size := float64(r.InUseBytes()) / float64(r.InUseObjects())
		bytes := float64(r.InUseBytes()) / (1 - math.Exp(-size/float64(runtime.MemProfileRate)))
		by := allocator(r.Stack())
		switch {
		case strings.Contains(by, "/internal/ledger.(*Cache)"):
			remembered += bytes
		case !slices.ContainsFunc(worlds, func(w string) bool { return strings.Contains(by, w) }):
			inUse += bytes
		}
	}
	return inUse, remembered
}

// allocator is the innermost function of this module in a stack.
func allocator(stack []uintptr) string {
	for frames := runtime.CallersFrames(stack); ; {
		f, more := frames.Next()
		if strings.Contains(f.Function, "dtmrelay/internal/") {
			return f.Function
		}
		if !more {
			return ""
		}
	}
}

type key struct{}

func (key) Key(context.Context) (string, error)           { return apiKey, nil }
func (key) Renew(context.Context, string) (string, error) { return apiKey, nil }

// countingStore counts the records.
type countingStore struct {
	state.Store

	mu      sync.Mutex
	records int
}

func (s *countingStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records
}

func (s *countingStore) WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error) {
	errs, err := s.Store.WriteRecords(ctx, feed, entries)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range errs {
		if errs[i] == nil && entries[i].Revision == "" {
			s.records++
		}
	}
	return errs, err
}

// versionsTopic acknowledges everything.
type versionsTopic struct {
	newest  publishedVersions
	swallow int // the alert of so many messages is never there
	gone    string
}

func (v *versionsTopic) Publish(_ context.Context, all []message.Message) []error {
	for _, m := range all {
		id := m.Attributes["alert_id"]
		if v.newest.messages() == v.swallow-1 && v.gone == "" {
			v.gone = id
		}
		if id != v.gone || id == "" {
			v.newest.note(id, m.Attributes["updated_at"])
		}
	}
	return make([]error, len(all))
}

func (v *versionsTopic) Reject(_ context.Context, all []message.Message) []error {
	errs := make([]error, len(all))
	for i := range errs {
		errs[i] = fmt.Errorf("alert %s is rejected", all[i].Attributes["alert_id"])
	}
	return errs
}
