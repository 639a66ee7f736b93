package drain_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const goodKey = "good key"

// Shares as the app makes them.
var (
	liveShare     = dtm.Share{Errors: 50, Requests: 1}
	sweepShare    = dtm.Share{Errors: 35, Requests: 0.9}
	backfillShare = dtm.Share{Errors: 35, Requests: 0.6}
	syncShare     = dtm.Share{Errors: 20, Requests: 0.9}

	syncUnknownShare = dtm.Share{Errors: 10, Requests: 0.9}
)

// world is what is outside of the processes that run the feed: the API, the
// topics, the database, and an observer who knows the truth.
type world struct {
	history
	start time.Time
	api   *dtmsim.Server
	store state.Store
	feed  string
	known []*knownAlert
	byID  map[string]*knownAlert

	mu     sync.Mutex
	broken string // the first law that was broken

	doc state.Feed // as the database holds it
	// reach is the created_at back to which every sweep looked, and audited is when
	// the last audit was asked for.
	reach, audited time.Time
	audits         []audit
	// published is what the instance knows that runs the steps, where it stays warm.
	cache *ledger.Cache

	ledger map[string]state.Record
	// acked counts the messages of the alerts topic by their dedupe_key, rejected
	// those of the rejects topic by their text.
	acked    map[string]int
	told     map[string]bool // alerts of which a message had the document
	rejected map[string]int
	latest   map[string]sent // the newest version of an alert that was sent
	asksOf   map[string]bool // the alerts for which a rule's write-back was asked
	// backfills are those that were asked for, in the order of asked.
	backfills map[string]*backfill
	asked     []string
	// handedOver: a sweep could not end, and the overlap was listed with what is new.
	handedOver bool

	procs []*proc
	backs writebacks
	trace func(call string) // is told each call where the history owns their order
}

// sent is a message of the alerts topic.
type sent struct {
	version time.Time
	status  string
}

func newWorld(h history, store state.Store, feed string) *world {
	w := &world{
		history: h, start: time.Now(), store: store, feed: feed, byID: map[string]*knownAlert{},
		ledger: map[string]state.Record{}, acked: map[string]int{}, told: map[string]bool{}, rejected: map[string]int{}, latest: map[string]sent{},
		asksOf:    map[string]bool{},
		backfills: map[string]*backfill{},
	}
	h.Server.Key = goodKey
	var served []dtmsim.Alert
	for i, a := range h.Alerts {
		served = append(served, a.served(i, w.start))
		tr := newKnownAlert(i, a, w.start)
		w.known = append(w.known, tr)
		w.byID[tr.id] = tr
	}
	w.api = dtmsim.New(h.Server, served)
	return w
}

// live lets the history happen, and then what is left of it without any trouble.
func (w *world) live() string {
	for i, r := range w.Asks {
		w.backs.under.Go(func() { w.request(i, r) })
	}
	for _, s := range w.Steps {
		time.Sleep(s.After)
		w.ask(s.Ask)
		p := w.run(s)
		if s.Cancel > 0 {
			time.AfterFunc(s.Cancel, w.cancel)
		}
		if s.Second > 0 {
			time.Sleep(s.Second)
			w.await(w.run(step{}), 0)
		}
		w.await(p, s.Leave)
	}
	w.end()
	for _, p := range w.procs {
		<-p.done
	}
	return w.broken
}

// await waits for the end of a process, or only for a while when it is one that
// is frozen.
func (w *world) await(p *proc, leave time.Duration) {
	if leave == 0 {
		leave = 3 * time.Hour
	}
	select {
	case <-p.done:
		w.checkRun(p)
	case <-p.died:
	case <-time.After(leave):
		if p.step.Freeze == 0 {
			w.fail("run %s does not end", p.name)
			p.die()
		}
	}
}

// run starts a process that runs the feed.
func (w *world) run(s step) *proc {
	p := &proc{
		world: w, step: s, name: fmt.Sprintf("run-%d", len(w.procs)+1), key: goodKey, began: time.Now(),
		died: make(chan struct{}), done: make(chan struct{}), seen: map[string]int{}, versions: map[string]time.Time{}, sent: map[string]bool{},
		before: w.api.Stats(),
	}
	if s.WrongKey {
		p.key = "wrong key"
	}
	for _, o := range w.procs {
		select {
		case <-o.done:
		default:
			o.together, p.together = true, true
		}
	}
	w.mu.Lock()
	p.swept = w.doc.SweptOverlap
	w.mu.Unlock()
	w.procs = append(w.procs, p)
	w.api.ClearFaults()
	for _, t := range s.Troubles {
		if p.together && t.What == "withheld" {
			continue // one that is withheld from both is taken for empty (a known limit)
		}
		if f, ok := apiFault(t); ok {
			w.api.AddFault(f)
		}
	}
	cache := w.knows(s)
	meter, client := p.client()
	p.live, p.sweeps = client.Session(liveShare), client.Session(sweepShare)
	runner := &drain.Runner{
		Feed: w.feed, Options: w.Feed, RunID: p.name, Store: database{p}, Log: slog.New(slog.DiscardHandler),
		Usage:   drain.NewUsageCounter(w.feed, database{p}, meter, slog.New(slog.DiscardHandler)),
		LiveAPI: alternating{p.live, p, true}, SweepAPI: alternating{p.sweeps, p, true},
		BackfillAPI: alternating{client.Session(backfillShare), p, false},
		KeyID:       func(context.Context) (string, error) { return w.feed + "-key", nil },
		Now:         func() time.Time { return time.Now().Add(s.Skew) },
		Cache:       cache,
		NewProcessor: func(o ledger.Options) drain.Processor {
			return &ledger.Processor{
				Store: database{p}, Publisher: topics{p, o.BackfillID == ""}, Feed: w.feed, RunID: p.name, TTL: 1000 * time.Hour,
				Cache: cache, Options: o, Rules: w.rules(), Writebacks: requests{p}, Redactor: w.redactor(),
			}
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	if s.Shutdown > 0 {
		time.AfterFunc(s.Shutdown, stop)
	}
	go func() {
		defer stop()
		defer close(p.done)
		p.report, p.err = runner.Live(ctx, "schedule", s.DryRun)
		p.took, p.after = time.Since(p.began), w.api.Stats()
	}()
	return p
}

// knows is what the process of a step knows to be published: all that the processes
// before it knew, unless one of them has crashed or stood still. Then it is another
// instance, which knows less than the ledger.
func (w *world) knows(s step) *ledger.Cache {
	if !w.Warm || w.cache == nil {
		w.cache = new(ledger.Cache)
	}
	known := w.cache
	if s.Crash+s.Freeze > 0 {
		w.cache = nil
	}
	return known
}

// client is the process's client of the API.
func (p *proc) client() (*dtm.Meter, *dtm.Client) {
	meter := dtm.NewMeter(40_000)
	client, err := dtm.New(dtm.Options{
		BaseURL: "https://dtm.example/api/v3", ToolName: "test", UserAgent: "test", Keys: p, Meter: meter,
		Concurrency: p.Feed.Workers, QPS: 1000, Transport: p, Rand: func() float64 { return 0.5 },
		PageLimit: p.PageLimit, PageMemory: p.PageMemory,
	})
	if err != nil {
		panic(err)
	}
	return meter, client
}

// proc is a process: all its calls to the world go through external.
type proc struct {
	*world
	step  step
	name  string
	key   string
	began time.Time

	report drain.Report
	err    error
	took   time.Duration
	writes bool // it does write-backs, and runs no feed
	live   *dtm.Session
	sweeps *dtm.Session
	stored state.Feed // what it wrote last
	// The API's counts when it began and when it ended.
	before, after dtmsim.Stats

	done chan struct{} // its run has ended
	died chan struct{} // it has crashed: nothing it does has an effect any more

	// The following are guarded by the world's lock.
	calls    int
	alike    map[string]int // calls by their process, kind and subject
	seen     map[string]int // calls by their kind
	thaw     time.Time      // it is frozen until then
	leased   time.Time      // when the last write of the feed's document that took effect was sent
	versions map[string]time.Time
	sent     map[string]bool // what it published, for whom
	liveAt   time.Time       // when it last listed or published for the live feed
	messages int
	rejects  int
	together bool            // another process ran at the same time
	slices   []state.Slice   // what it began with
	swept    time.Time       // the last sweep before it began that has read the overlap
	bare     map[string]bool // page tokens of listings without documents
}

var (
	errDead  = errors.New("the process is dead")
	errFault = errors.New("unavailable (on purpose)")
)

func (p *proc) isDead() bool {
	select {
	case <-p.died:
		return true
	default:
		return false
	}
}

func (p *proc) die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isDead() {
		close(p.died)
	}
}

// external is a call to the world outside of the process. It takes its time,
// with its effect in the middle; effect is told of a trouble that is its own.
func (p *proc) external(ctx context.Context, where string, takes time.Duration, effect func(trouble string) error) error {
	if err := p.yield(ctx, where); err != nil {
		return err
	}
	p.mu.Lock()
	p.calls++
	call := p.calls
	p.seen[where]++
	what := ""
	for _, t := range p.step.Troubles {
		if t.Where == where && t.Nth == p.seen[where] {
			what = t.What
		}
	}
	p.mu.Unlock()
	freeze := func(before bool) {
		if call == p.step.Freeze && before == p.step.FreezeBefore {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.thaw = time.Now().Add(p.step.FreezeFor)
		}
	}
	freeze(true)
	resume := func() time.Duration {
		if !p.Ordered {
			return 0
		}
		return p.offset(fmt.Sprint("resume ", p.name, call))
	}

	if err := p.pass(ctx, takes/2, resume); err != nil {
		return err
	}
	if call == p.step.Crash && p.step.CrashBefore {
		p.die()
		return errDead
	}
	switch what {
	case "before":
		return errFault
	case "hang before":
		return p.hang(ctx)
	}
	err := effect(what)
	if call == p.step.Crash {
		p.die()
		return errDead
	}
	switch what {
	case "after":
		return errFault
	case "hang after":
		return p.hang(ctx)
	}
	freeze(false)
	if gone := p.pass(ctx, takes/2, resume); gone != nil {
		return gone
	}
	return err
}

// aboutKey is under which a context says what a call is about.
type aboutKey struct{}

// about adds to what the calls with a context are about.
func about(ctx context.Context, what ...string) context.Context {
	if before, ok := ctx.Value(aboutKey{}).(string); ok {
		what = append([]string{before}, what...)
	}
	return context.WithValue(ctx, aboutKey{}, strings.Join(what, " "))
}

// yield is where the history decides which of several goroutines goes first: each
// call waits for a part of a millisecond that depends on the history, the process
// and what the call is about, so that no two come at one instant, where the
// scheduler would decide. Calls that are alike in all of that are interchangeable.
func (p *proc) yield(ctx context.Context, where string) error {
	if !p.Ordered {
		return nil
	}
	what, _ := ctx.Value(aboutKey{}).(string)
	what = p.name + " " + where + " " + what
	p.mu.Lock()
	if p.alike == nil {
		p.alike = map[string]int{}
	}
	p.alike[what]++
	what = fmt.Sprint(what, " ", p.alike[what])
	p.mu.Unlock()
	err := p.pass(ctx, p.offset(what), func() time.Duration { return p.offset("resume " + what) })
	if err == nil && p.trace != nil {
		p.trace(fmt.Sprint(time.Since(p.start), " ", what))
	}
	return err
}

// offset is the part of a millisecond that the history has drawn for something.
func (h history) offset(what string) time.Duration {
	sum := fnv.New64a()
	_, _ = fmt.Fprint(sum, h.Order, " ", what)
	// The low bits of the sum alone know little of its first bytes.
	mixed := rand.New(rand.NewPCG(h.Order, sum.Sum64()))
	return 1 + time.Duration(mixed.Int64N(999_999))
}

// pass lets time go by, and more of it while the process is frozen: then until
// resume after it goes on, which is drawn only where it is needed.
func (p *proc) pass(ctx context.Context, d time.Duration, resume func() time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.died:
		}
	}
	for {
		if p.isDead() {
			return errDead
		}
		p.mu.Lock()
		thaw := p.thaw
		p.mu.Unlock()
		if time.Until(thaw) <= 0 {
			return nil
		}
		// All that stood still goes on, but not all at one instant.
		select {
		case <-time.After(time.Until(thaw) + resume()):
		case <-p.died:
		}
	}
}

func (p *proc) hang(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.died:
		return errDead
	}
}

// Key and Renew are the secret's.
func (p *proc) Key(context.Context) (string, error) { return p.key, nil }

func (p *proc) Renew(context.Context, string) (string, error) {
	if p.step.WrongKey {
		return "another wrong key", nil
	}
	return p.key, nil
}

// quietly runs the feed without any trouble.
func (w *world) quietly() *proc {
	p := w.run(step{})
	w.await(p, 0)
	return p
}

// end runs the feed without any trouble until nothing is pending, once more for
// what has to be read again, and then with nothing new.
func (w *world) end() {
	last := time.Now()
	for _, a := range w.known {
		last = later(last, a.created) // none that comes too late is in the overlap of the last run
		if a.Late < w.Feed.Overlap {
			last = later(last, a.visible)
		}
		if w.Feed.UpdatesWindow > 0 {
			last = later(last, a.newest)
		}
	}
	time.Sleep(time.Until(last) + w.Feed.Settle + time.Second)
	for _, p := range w.procs {
		<-p.done
		if p.step.Freeze > 0 {
			w.checkRun(p)
		}
	}
	time.Sleep(max(state.LeaseFor, w.Feed.Overlap)) // the next sweep reads the overlap
	w.settle()
	for range 2 {
		if !w.drained() {
			return
		}
	}
	w.checkEnd()
	w.checkWritten()
	w.checkCurrent()
	w.audit()

	time.Sleep(2*w.Feed.Overlap + w.Feed.Settle)
	if !w.drained() {
		return
	}
	// What is owed from before UPDATES_WINDOW is listed by a run, and by another one after
	// each that finds enough there to end early.
	for n := 0; n <= len(w.known) && !w.doc.Owed.Since.IsZero(); n++ {
		if !w.drained() {
			return
		}
	}
	time.Sleep(time.Minute)
	w.checkQuiet(w.quietly())
	w.repeat()
	w.refilter()
}

// drained runs the feed without any trouble until nothing is pending.
func (w *world) drained() bool {
	for range 20 + (6+2*len(w.asked))*len(w.known) {
		if w.quietly().report.Outcome == drain.OK {
			return true
		}
		time.Sleep(time.Second)
	}
	p := w.procs[len(w.procs)-1]
	w.fail("without any trouble the feed is never read to its end: %s %s %v", p.report.Outcome, p.report.StopReason, p.err)
	return false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
