package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/e2e/process"
)

// apiKey is looked for in everything that leaves the processes.
const apiKey = "chaos-key-0123456789abcdef0123456789abcdef"

// The topics of the function.
const (
	alertsTopic  = "dtm-alerts"
	rejectsTopic = "dtm-rejects"
	statusTopic  = "dtm-status"
)

// autoTag is what the rule adds to alerts of low severity.
const autoTag = "auto"

// patience is how long a run may take after its faults: two leases of a minute, a
// silent connection, and the work.
const patience = 5 * time.Minute

// world is everything of a run.
type world struct {
	plan
	rng     *rand.Rand // what happens; used by one goroutine
	project string
	sim     *dtmsim.Server
	server  *http.Server
	topics  *pstest.Server
	api     *process.Proxy
	store   *process.Proxy
	topic   *process.Proxy
	out     *process.Output
	ingest  []*process.Instance
	sync    []*process.Instance

	initial []dtmsim.Alert
	mu      sync.Mutex
	ids     []string // of all alerts

	requests []*request // for write-backs
	work     sync.WaitGroup
	unacked  atomic.Int64
	runs     atomic.Int64
	pushes   atomic.Int64
	failed   atomic.Pointer[error]
}

// newWorld starts what the function talks to. firestore is the emulator's address.
func newWorld(p plan, program, firestore string) (w *world, err error) {
	w = &world{plan: p, rng: rand.New(rand.NewPCG(p.seed, 2)), out: new(process.Output)}
	w.project = fmt.Sprintf("chaos-%d-%d", p.seed, time.Now().UnixNano())
	now := time.Now().Add(p.gti.Clock)
	w.initial = dtmsim.Generate(p.seed, p.alerts, now.Add(-20*time.Hour), now.Add(-5*time.Minute), dtmsim.Shape{Size: 600, NoDoc: true, Ties: 0.2})
	for _, a := range w.initial {
		w.ids = append(w.ids, a.ID)
	}
	w.sim = dtmsim.New(p.gti, w.initial)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.server = &http.Server{Handler: w.sim, ReadHeaderTimeout: time.Minute}
	go func() { _ = w.server.Serve(l) }() // until it is closed
	w.topics = pstest.NewServer()
	for _, name := range []string{alertsTopic, rejectsTopic, statusTopic} {
		if _, err := w.topics.GServer.CreateTopic(context.Background(), &pubsubpb.Topic{Name: w.topicName(name)}); err != nil {
			return nil, err
		}
	}
	for _, to := range []struct {
		proxy  **process.Proxy
		target string
	}{{&w.api, l.Addr().String()}, {&w.store, firestore}, {&w.topic, w.topics.Addr}} {
		if *to.proxy, err = process.NewProxy(to.target); err != nil {
			return nil, err
		}
	}
	env := []string{
		"GOOGLE_CLOUD_PROJECT=" + w.project, "PUBSUB_TOPIC=" + alertsTopic, "REJECTS_TOPIC=" + rejectsTopic, "STATUS_TOPIC=" + statusTopic,
		"GTI_API_KEY=" + apiKey, "GTI_BASE_URL=http://" + w.api.Addr + "/api/v3",
		"FIRESTORE_EMULATOR_HOST=" + w.store.Addr, "PUBSUB_EMULATOR_HOST=" + w.topic.Addr,
		"DTM_REFS=false", "REDACT=[]", "SETTLE=500ms", "MAX_QPS=1000", "MAX_CONCURRENCY=3", "MAX_ERRORS_PER_HOUR=10000", "RUN_BUDGET=40s",
		`RULES=[{"name":"low","when":"alert.severity == 'low'","then":{"tags":["` + autoTag + `"]}}]`,
		"HOME=" + os.TempDir(), "PATH=" + os.Getenv("PATH"),
	}
	for n := range p.instances {
		w.ingest = append(w.ingest, &process.Instance{Program: program, Env: append(slices.Clone(env), "FUNCTION_TARGET=Ingest"), Out: w.out, Name: fmt.Sprint("Ingest ", n)})
		w.sync = append(w.sync, &process.Instance{Program: program, Env: append(slices.Clone(env), "FUNCTION_TARGET=SyncStatus"), Out: w.out, Name: fmt.Sprint("SyncStatus ", n)})
	}
	w.drawRequests()
	return w, nil
}

func (w *world) topicName(id string) string { return "projects/" + w.project + "/topics/" + id }

func (w *world) all() []*process.Instance { return slices.Concat(w.ingest, w.sync) }

func (w *world) close() {
	for _, i := range w.all() {
		i.Signal(syscall.SIGCONT)
		i.Close()
	}
	for _, p := range []*process.Proxy{w.api, w.store, w.topic} {
		p.Close()
	}
	_ = w.server.Close()
	_ = w.topics.Close()
}

// run lets things happen and go wrong, waits until all is quiet, and checks.
func (w *world) run(ctx context.Context) (result, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, i := range w.all() {
		if _, err := i.Ready(ctx); err != nil {
			return result{}, err
		}
	}
	stormy, over := context.WithCancel(ctx)
	defer over()
	scheduled, calm := context.WithCancel(ctx)
	defer calm()
	var storm, faults sync.WaitGroup
	for _, f := range w.faults {
		faults.Go(func() { w.inflict(ctx, stormy, f) })
	}
	for _, i := range w.ingest {
		storm.Go(func() { w.schedule(scheduled, i) })
	}
	for _, r := range w.requests {
		w.deliver(ctx, r)
	}
	w.work.Go(func() { w.forward(ctx) })
	w.live(ctx)
	over()
	faults.Wait()
	calm()
	storm.Wait()
	quiet := w.settle(ctx)
	cancel()
	w.work.Wait()
	if err := w.failed.Load(); err != nil {
		return result{}, *err
	}
	e := w.evidence()
	r := result{
		Seed: w.seed, Faults: w.names(), Seconds: time.Since(began).Seconds(),
		Runs: int(w.runs.Load()), Pushes: int(w.pushes.Load()),
	}
	for _, i := range w.all() {
		r.Killed += int(i.Signals.Load())
		i.Close()
		e.ended = append(e.ended, i.Ended...)
	}
	e.output = w.out.Bytes()
	r.verdict = check(e)
	if !quiet {
		r.problem("not at rest %s after the faults", patience)
	}
	return r, nil
}

// fail ends the run for a reason that is this program's.
func (w *world) fail(err error) { w.failed.CompareAndSwap(nil, &err) }

// schedule calls an instance of Ingest as the scheduler does, but for its long pauses.
func (w *world) schedule(ctx context.Context, i *process.Instance) {
	for n := 1; ctx.Err() == nil; n++ {
		w.ingestOnce(context.WithoutCancel(ctx), i)
		pause(ctx, time.Duration(min(n, 10))*100*time.Millisecond)
	}
}

// ingestOnce makes a run and reports whether it ended well.
func (w *world) ingestOnce(ctx context.Context, i *process.Instance) bool {
	w.runs.Add(1)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, answer, err := i.Post(ctx, "")
	if err != nil && ctx.Err() == nil {
		w.fail(err)
	}
	var report struct{ Outcome string }
	return status == http.StatusOK && json.Unmarshal(answer, &report) == nil && report.Outcome == "ok"
}

// inflict makes a fault happen, at its moment or when the storm is over, and ends it.
func (w *world) inflict(ctx, stormy context.Context, f fault) {
	m := []*process.Proxy{w.api, w.store, w.topic}[f.network].Moment(f.pieces)
	select {
	case <-m.Reached:
	case <-stormy.Done():
	}
	// One function, or both at once.
	hit := [][]*process.Instance{w.ingest[:1], w.sync[:1], {w.ingest[0], w.sync[0]}}[f.flavour]
	each := func(do func(*process.Instance)) {
		for _, i := range hit {
			do(i)
		}
	}
	switch f.kind {
	case kill:
		each(func(i *process.Instance) { i.Signal(syscall.SIGKILL) })
	case terminate:
		each(func(i *process.Instance) { i.Signal(syscall.SIGTERM) })
	case freeze, longFreeze:
		each(func(i *process.Instance) { i.Signal(syscall.SIGSTOP) })
	default:
	}
	close(m.Begun)
	switch f.kind {
	case kill, terminate, two:
	case freeze, longFreeze:
		pause(ctx, f.lasts)
		each(func(i *process.Instance) { i.Signal(syscall.SIGCONT) })
	case clockJump, clockFar:
		each(func(i *process.Instance) { i.Jump(f.seconds) })
		pause(ctx, f.lasts)
		each(func(i *process.Instance) { i.Jump(0) })
	case apiCut:
		w.upset(ctx, f, []dtmsim.Fault{{ResetBefore: true, Chance: 0.3}, {ResetAfter: true, Chance: 0.3}, {Truncate: 200, Chance: 0.3}}[f.flavour])
	case apiErrors:
		w.upset(ctx, f, []dtmsim.Fault{
			{Status: 429, RetryAfter: "1", Chance: 0.4}, {Status: 503, Chance: 0.4}, {Status: 500, AfterWork: true, Chance: 0.4},
		}[f.flavour])
	case apiSlow:
		w.upset(ctx, f, []dtmsim.Fault{{Delay: 300 * time.Millisecond}, {Slow: 4000}, {Delay: time.Second, Chance: 0.3}}[f.flavour])
	case apiSilent:
		w.disturb(ctx, f, w.api, process.Silent)
	case storeSlow:
		w.disturb(ctx, f, w.store, process.Slow)
	case storeCut:
		w.cut(ctx, f, w.store)
	case storeSilent:
		w.disturb(ctx, f, w.store, process.Silent)
	case storeRefuses:
		w.disturb(ctx, f, w.store, process.Refuses)
	case topicSlow:
		w.disturb(ctx, f, w.topic, process.Slow)
	case topicCut:
		w.cut(ctx, f, w.topic)
	case topicSilent:
		w.disturb(ctx, f, w.topic, process.Silent)
	case topicRefuses:
		w.disturb(ctx, f, w.topic, process.Refuses)
	}
}

// upset makes the API itself go wrong.
func (w *world) upset(ctx context.Context, f fault, wrong dtmsim.Fault) {
	w.sim.AddFault(wrong)
	pause(ctx, f.lasts)
	w.sim.ClearFaults()
}

// disturb makes a network go wrong. When it is well again, the connections that were
// open go on, or those of a silent one are cut.
func (w *world) disturb(ctx context.Context, f fault, p *process.Proxy, m process.Mode) {
	p.Set(m)
	pause(ctx, f.lasts)
	if f.flavour == 0 && m != process.Slow {
		p.Cut()
	}
	p.Set(process.Passes)
}

// cut cuts connections again and again.
func (w *world) cut(ctx context.Context, f fault, p *process.Proxy) {
	for end := time.Now().Add(f.lasts); time.Now().Before(end); pause(ctx, 70*time.Millisecond) {
		p.Cut()
	}
}

// live lets alerts come, late ones and ties among them, and analysts change some, for
// as long as the storm takes.
func (w *world) live(ctx context.Context) {
	began := time.Now()
	before := began.Add(w.gti.Clock - time.Minute)
	at := time.Duration(0)
	for n := 0; ; n++ {
		if at += between(w.rng, 50*time.Millisecond, 250*time.Millisecond); at >= w.storm {
			return
		}
		pause(ctx, time.Until(began.Add(at)))
		now := time.Now().Add(w.gti.Clock)
		a := dtmsim.Alert{ID: fmt.Sprintf("later-%d-%d", w.seed, n), CreatedAt: now, Severity: dtmsim.Severities[w.rng.IntN(len(dtmsim.Severities))]}
		switch w.rng.IntN(4) {
		case 0: // comes into the index late
			a.CreatedAt = now.Add(-between(w.rng, time.Second, 3*time.Minute))
		case 1: // shares its moment with the one before
			a.CreatedAt = before
		case 2:
		default:
			id := w.analysts()[w.rng.IntN(len(w.analysts()))]
			status := dtmsim.Statuses[w.rng.IntN(len(dtmsim.Statuses))]
			w.sim.Update(id, func(a *dtmsim.Alert) { a.Status = status })
			continue
		}
		before = a.CreatedAt
		w.sim.Add(a)
		w.mu.Lock()
		w.ids = append(w.ids, a.ID)
		w.mu.Unlock()
	}
}

// settle ends all faults and calls Ingest until everything is done and published. It
// reports whether that was so in time.
func (w *world) settle(ctx context.Context) bool {
	again := sync.OnceFunc(func() { w.redeliver(ctx) })
	for ; ctx.Err() == nil && w.failed.Load() == nil; pause(ctx, 300*time.Millisecond) {
		if w.unacked.Load() > 0 {
			// Runs go on meanwhile: what rules ask for depends on them.
			w.ingestOnce(ctx, w.ingest[0])
			continue
		}
		again()
		if w.unacked.Load() > 0 || !w.ingestOnce(ctx, w.ingest[0]) {
			continue
		}
		if e := w.evidence(); w.unacked.Load() == 0 && w.asked() && len(missing(e.truth, e.messages)) == 0 {
			return true
		}
	}
	return false
}

// evidence is what was published, and what GTI had.
func (w *world) evidence() evidence {
	e := evidence{faults: w.names(), truth: map[string][]dtmsim.Alert{}, wants: w.wants()}
	w.mu.Lock()
	ids := slices.Clone(w.ids)
	w.mu.Unlock()
	for _, id := range ids {
		e.truth[id] = w.sim.Versions(id)
	}
	for _, m := range w.topics.Messages() {
		p := published{data: m.Data, attributes: m.Attributes}
		switch {
		case strings.HasSuffix(m.Topic, "/"+alertsTopic):
			e.messages = append(e.messages, p)
		case strings.HasSuffix(m.Topic, "/"+rejectsTopic):
			e.rejects = append(e.rejects, p)
		}
	}
	for _, r := range w.requests {
		if !r.acked.Load() {
			e.unacked = append(e.unacked, r.id)
		}
	}
	return e
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
