package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/e2e/process"
	"dtmrelay.internal/dtmrelay/internal/emulatortest"
	"dtmrelay.internal/dtmrelay/internal/message"
)

const (
	apiKey = "soak-key-0123456789abcdef0123456789abcdef"

	alertsTopic  = "dtm-alerts"
	rejectsTopic = "dtm-rejects"
	statusTopic  = "dtm-status"
)

const (
	every     = time.Minute      // a run, as Cloud Scheduler calls it
	perMinute = 200              // new alerts
	past      = 10 * time.Minute // of alerts are there at the beginning
	faulty    = 3                // each so many runs something goes wrong

	requestsPerDay = 500_000

	sampled = 5 * time.Second
	counted = time.Minute // the ledger

	// patience is how long everything may take to be published and written back after
	// the end: a silent API takes a minute, a lease that is lost another one.
	patience = 10 * time.Minute
)

// world is what the processes talk to, and what is measured.
type world struct {
	*series
	ctx       context.Context
	began     time.Time
	project   string
	firestore string // without a proxy, to count
	sim       *dtmsim.Server
	api       *http.Server
	topics    *pstest.Server
	apiWay    *process.Proxy
	store     *process.Proxy
	topic     *process.Proxy
	out       *process.Output
	functions map[string]*process.Instance // by the prefix of their series
	gauges    map[string]string            // their addresses

	ids    []string
	newest publishedVersions

	pushes   chan push
	unacked  atomic.Int64
	acked    atomic.Int64
	outcomes sync.Map // of runs: *atomic.Int64 by outcome
	faults   int
	over     atomic.Bool // what is left is to become quiet
	work     sync.WaitGroup
}

// soak lets the functions run for so long, and writes what was measured.
func soak(ctx context.Context, dir string, long time.Duration) (s *series, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	program, err := process.Build(ctx, dir, "-tags", "gauge")
	if err != nil {
		return nil, err
	}
	firestore, stop, err := emulatortest.StartFirestore()
	if err != nil {
		return nil, err
	}
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := newWorld(ctx, program, firestore, long)
	if err != nil {
		return nil, err
	}
	err = w.live(long)
	cancel()
	w.close()
	w.work.Wait()
	return w.series, errors.Join(err, w.write(filepath.Join(dir, hourFile)), os.WriteFile(filepath.Join(dir, logFile), w.out.Bytes(), 0o600))
}

func newWorld(ctx context.Context, program, firestore string, long time.Duration) (*world, error) {
	w := &world{
		series: newSeries(), ctx: ctx, began: time.Now(), firestore: firestore, out: new(process.Output),
		project: fmt.Sprintf("soak-%d", time.Now().UnixNano()), pushes: make(chan push, 1000),
		functions: map[string]*process.Instance{}, gauges: map[string]string{},
	}
	// All of them are there from the beginning: none is served before it is created.
	from, to := w.began.Add(-past), w.began.Add(long)
	alerts := dtmsim.Generate(1, int(to.Sub(from).Minutes()*perMinute), from, to, dtmsim.Typical())
	for _, a := range alerts {
		w.ids = append(w.ids, a.ID)
	}
	// The limits are the API's own, but for the requests of a day: with 50,000, sweeps would
	// get rarer and larger in the middle of the hour, when 15 % are used, and what grows from
	// that says nothing of what stays.
	w.sim = dtmsim.New(dtmsim.Options{
		Key: apiKey, Seed: 1, Latency: 100 * time.Millisecond, Jitter: 100 * time.Millisecond, Gzip: true,
		MaxConcurrent: 10, RequestsPerDay: requestsPerDay, ErrorsPerHour: 100, RetryAfter: dtmsim.RetryAfterSeconds,
	}, alerts)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.api = &http.Server{Handler: w.sim, ReadHeaderTimeout: time.Minute}
	go func() { _ = w.api.Serve(l) }() // until it is closed
	w.topics = pstest.NewServer(pstest.ServerReactorOption{FuncName: "Publish", Reactor: w})
	for _, to := range []struct {
		proxy  **process.Proxy
		target string
	}{{&w.apiWay, l.Addr().String()}, {&w.store, firestore}, {&w.topic, w.topics.Addr}} {
		if *to.proxy, err = process.NewProxy(to.target); err != nil {
			return nil, err
		}
	}
	for name, target := range map[string]string{ingest: "Ingest", syncStatus: "SyncStatus"} {
		port, err := emulatortest.Port()
		if err != nil {
			return nil, err
		}
		w.gauges[name] = "http://127.0.0.1:" + port
		w.functions[name] = &process.Instance{Program: program, Out: w.out, Name: target, Env: []string{
			"FUNCTION_TARGET=" + target, "GAUGE_PORT=" + port,
			"GOOGLE_CLOUD_PROJECT=" + w.project, "PUBSUB_TOPIC=" + alertsTopic, "REJECTS_TOPIC=" + rejectsTopic, "STATUS_TOPIC=" + statusTopic,
			"MAX_REQUESTS_PER_DAY=" + strconv.Itoa(requestsPerDay), "GTI_API_KEY=" + apiKey, "GTI_BASE_URL=http://" + w.apiWay.Addr + "/api/v3",
			"FIRESTORE_EMULATOR_HOST=" + w.store.Addr, "PUBSUB_EMULATOR_HOST=" + w.topic.Addr,
			"INITIAL_LOOKBACK=" + (past + 5*time.Minute).String(), // the first run comes later than the alerts
			`RULES=[{"name":"low","when":"alert.severity == 'low'","then":{"tags":["auto"]}}]`,
			"HOME=" + os.TempDir(), "PATH=" + os.Getenv("PATH"),
		}}
	}
	return w, nil
}

func (w *world) close() {
	for _, i := range w.functions {
		i.Close()
	}
	for _, p := range []*process.Proxy{w.apiWay, w.store, w.topic} {
		p.Close()
	}
	_ = w.api.Close()
	_ = w.topics.Close()
}

// live lets the time pass, and then waits until all is done.
func (w *world) live(long time.Duration) error {
	for _, i := range w.functions {
		if _, err := i.Ready(w.ctx); err != nil {
			return err
		}
	}
	// Two at a time, as a push subscription delivers to an instance that answers slowly.
	for range 2 {
		w.work.Go(w.deliver)
	}
	sampling, stop := context.WithCancel(w.ctx)
	w.work.Go(func() { w.repeat(sampling, sampled, w.sample) })
	w.work.Go(func() { w.repeat(sampling, counted, w.count) })
	timed, cancel := context.WithTimeout(w.ctx, long)
	defer cancel()
	n := 0
	w.repeat(timed, every, func() {
		if n%faulty == faulty-1 {
			w.inflict(n / faulty)
		}
		n++
		w.work.Go(w.run)
	})
	w.calm()
	stop()
	end := time.Now()
	w.over.Store(true)
	for {
		w.run()
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		all, missing := visible(w.sim, &w.newest, w.ids, end)
		if late := time.Since(end) > patience; late || missing == 0 && w.unacked.Load() == 0 {
			w.conclude(all, missing)
			return nil
		}
		w.pause(10 * time.Second)
	}
}

// conclude notes what there is one value of.
func (w *world) conclude(all, missing int) {
	at := time.Since(w.began)
	w.add(created, at, float64(all))
	w.add(published, at, float64(w.newest.messages()))
	w.add(lost, at, float64(missing))
	w.add(done, at, float64(w.acked.Load()))
	w.add(undone, at, float64(w.unacked.Load()))
	w.add(faults, at, float64(w.faults))
	w.add(refused, at, float64(w.sim.Stats().Errors))
	over := bytes.Count(w.out.Bytes(), []byte(`"event":"panic"`))
	for _, i := range w.functions {
		over += len(i.Ended)
	}
	w.add(ended, at, float64(over))
	w.outcomes.Range(func(outcome, n any) bool {
		w.add(runs+outcome.(string), at, float64(n.(*atomic.Int64).Load()))
		return true
	})
}

// repeat does something now and then again and again, at even distances.
func (w *world) repeat(ctx context.Context, each time.Duration, do func()) {
	ticks := time.NewTicker(each)
	defer ticks.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-ticks.C:
		case <-ctx.Done():
		}
	}
}

func (w *world) pause(d time.Duration) {
	select {
	case <-w.ctx.Done():
	case <-time.After(d):
	}
}

// run calls Ingest.
func (w *world) run() {
	status, answer, err := w.functions[ingest].Post(w.ctx, "")
	if w.ctx.Err() != nil {
		return
	}
	var report struct {
		Outcome  string `json:"outcome"`
		Requests int64  `json:"requests"`
	}
	outcome := "without an answer"
	if err == nil && json.Unmarshal(answer, &report) == nil && report.Outcome != "" {
		outcome = report.Outcome
	}
	n, _ := w.outcomes.LoadOrStore(outcome, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	if status == http.StatusOK && outcome == "ok" && !w.over.Load() {
		w.add(requests, time.Since(w.began), float64(report.Requests))
	}
}

// React is the topics' Publish. What comes is counted and not kept: an hour of it would
// not fit into the memory.
func (w *world) React(req any) (handled bool, ret any, err error) {
	publish, ok := req.(*pubsubpb.PublishRequest)
	if !ok {
		return false, nil, fmt.Errorf("a %T is no request to publish", req)
	}
	answer := &pubsubpb.PublishResponse{}
	for _, m := range publish.GetMessages() {
		id := w.newest.id()
		answer.MessageIds = append(answer.MessageIds, id)
		switch {
		case strings.HasSuffix(publish.GetTopic(), "/"+alertsTopic):
			w.newest.note(m.GetAttributes()["alert_id"], m.GetAttributes()["updated_at"])
		case strings.HasSuffix(publish.GetTopic(), "/"+statusTopic):
			w.unacked.Add(1)
			w.work.Go(func() {
				select {
				case w.pushes <- push{id, m.GetData(), time.Now()}:
				case <-w.ctx.Done():
				}
			})
		}
	}
	return true, answer, nil
}

// publishedVersions are the newest versions that were published.
type publishedVersions struct {
	mu      sync.Mutex
	given   int
	count   int
	updated map[string]string
}

// id returns the id of a message.
func (p *publishedVersions) id() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given++
	return strconv.Itoa(p.given)
}

func (p *publishedVersions) note(id, updated string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.updated == nil {
		p.updated = map[string]string{}
	}
	p.count++
	if p.updated[id] < updated {
		p.updated[strings.Clone(id)] = strings.Clone(updated) // parts of the relay's memory are not kept
	}
}

func (p *publishedVersions) messages() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func (p *publishedVersions) has(id, updated string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.updated[id] >= updated
}

// visible counts the alerts that were in the index at the end, and those of them of which
// no version was published that is at least as new as the newest one of then.
func visible(sim *dtmsim.Server, newest *publishedVersions, ids []string, end time.Time) (all, missing int) {
	for _, id := range ids {
		versions := slices.DeleteFunc(sim.Versions(id), func(a dtmsim.Alert) bool { return a.UpdatedAt.After(end) || a.VisibleAt.After(end) })
		if len(versions) == 0 {
			continue
		}
		all++
		if !newest.has(id, message.Time(versions[len(versions)-1].UpdatedAt)) {
			missing++
		}
	}
	return all, missing
}
