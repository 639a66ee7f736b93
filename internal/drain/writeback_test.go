package drain_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

// TestWriteback lets write-backs happen beside runs of the feed: delivered twice,
// late, in the wrong order, to two processes at once that crash and whose calls
// fail, while a mirror answers what is published.
func TestWriteback(t *testing.T) {
	n := 600
	if testing.Short() { // with the race detector each takes ten times as long
		n = 60
	}
	check(t, n, writebackHistories)
}

// request is a write-back that somebody asks for.
type request struct {
	Alert  int           // which one
	At     time.Duration // when its message is published
	Before time.Duration // how long before that it was asked for; 0: it doesn't say
	Status string
	Add    []string
	Remove []string
	// Deliveries are when the message is delivered, counted from At.
	Deliveries []time.Duration
}

var writebackHistories = rapid.Custom(func(t *rapid.T) history {
	h := history{
		Server: dtmsim.Options{
			Seed: rapid.Uint64().Draw(t, "seed"), Ties: dtmsim.TiesShuffled, Tokens: dtmsim.Scroll,
			Paging: pick(t, "paging", dtmsim.Snapshot, dtmsim.Offset),
		},
		Feed: drain.Options{
			Workers: 2, PageSize: pick(t, "page size", 2, 10), Refs: rapid.Bool().Draw(t, "refs"),
			Overlap: pick(t, "overlap", 2*time.Minute, 10*time.Minute), Settle: 10 * time.Second,
			InitialLookback: 30 * time.Minute, MaxLookback: 120 * time.Hour, UpdatesWindow: 720 * time.Hour, Budget: 9 * time.Minute,
		},
		PageLimit: 32 << 20, PageMemory: 96 << 20,
		StoreTakes:   pick(t, "store takes", 0, 10*time.Millisecond, 300*time.Millisecond),
		PublishTakes: pick(t, "publish takes", 0, 20*time.Millisecond, 2*time.Second),
		Bare:         pick(t, "bare page", 2, 3, 100),
		WriteTakes:   pick(t, "write takes", 0, 100*time.Millisecond, 2*time.Second),
		Mirror:       pick(t, "mirror", "", "", "tracked_external", "+mirrored"),
		Ordered:      true, Order: rapid.Uint64().Draw(t, "order"),
	}
	millis := func(low, high time.Duration, label string) time.Duration {
		return time.Duration(rapid.Int64Range(low.Milliseconds(), high.Milliseconds()).Draw(t, label)) * time.Millisecond
	}
	begins, runs := time.Duration(0), []time.Duration{}
	troubled := !oneIn(t, 3, "calm")
	for range rapid.IntRange(1, 4).Draw(t, "steps") {
		s := step{After: pick(t, "after", time.Second, 20*time.Second, 70*time.Second, 5*time.Minute)}
		if troubled && oneIn(t, 3, "trouble") {
			drawTrouble(t, &s)
			// A quota that is used up holds up write-backs until the next day.
			s.Troubles = slices.DeleteFunc(s.Troubles, func(t trouble) bool { return t.Where == "get" && t.What == "quota" })
		}
		begins += s.After
		runs = append(runs, begins)
		h.Steps = append(h.Steps, s)
	}
	// near is a moment about when a run works, or any other.
	near := func(label string) time.Duration {
		if rapid.Bool().Draw(t, label) {
			return max(0, rapid.SampledFrom(runs).Draw(t, "run")+millis(-2*time.Second, 5*time.Second, "near"))
		}
		return millis(0, begins+5*time.Minute, "at")
	}
	statuses := []string{"read", "in_progress", "escalated", "closed", "new"}
	tags := []string{"a", "b", "c"}
	for range rapid.IntRange(1, 3).Draw(t, "alerts") {
		a := alert{Created: -millis(0, 40*time.Minute, "created"), Tags: []string{"own"}}
		if rapid.Bool().Draw(t, "tagged") {
			a.Tags = append(a.Tags, "a")
		}
		for range rapid.IntRange(0, 2).Draw(t, "changes") {
			a.Walk = append(a.Walk, walk{After: max(near("during a run")-a.Created, time.Second), Status: pick(t, "status", append(statuses, "")...)})
		}
		h.Alerts = append(h.Alerts, a)
	}
	slices.SortFunc(h.Alerts, func(a, b alert) int { return int(a.Created - b.Created) })
	for range rapid.IntRange(1, 6).Draw(t, "requests") {
		r := request{Alert: rapid.IntRange(0, len(h.Alerts)-1).Draw(t, "alert"), At: near("during a run")}
		if n := len(h.Asks); n > 0 && rapid.Bool().Draw(t, "together") {
			r.Alert, r.At = h.Asks[n-1].Alert, h.Asks[n-1].At+millis(0, 2*h.WriteTakes, "a little later")
		}
		if rapid.Bool().Draw(t, "says when") {
			r.Before = millis(time.Millisecond, time.Minute, "before")
		}
		if rapid.Bool().Draw(t, "sets a status") {
			r.Status = rapid.SampledFrom(statuses).Draw(t, "status")
		}
		if r.Status == "" || rapid.Bool().Draw(t, "tags") {
			one := rapid.SampledFrom(tags).Draw(t, "tag")
			if rapid.IntRange(1, 4).Draw(t, "removes") == 1 {
				r.Remove = []string{one}
			} else {
				r.Add = []string{one}
			}
		}
		for range pick(t, "deliveries", 1, 1, 2, 3) {
			r.Deliveries = append(r.Deliveries, pick(t, "delivered", 0, 0, time.Millisecond, 300*time.Millisecond, 2*time.Second, 20*time.Second, time.Minute, 5*time.Minute))
		}
		h.Asks = append(h.Asks, r)
	}
	for range rapid.IntRange(0, 3).Draw(t, "processes") {
		var s step
		if troubled {
			for range rapid.IntRange(0, 2).Draw(t, "troubles") {
				nth := pick(t, "nth", 1, 1, 2, 3)
				if rapid.Bool().Draw(t, "of the API") {
					s.Troubles = append(s.Troubles, trouble{pick(t, "call", "get", "patch"), nth, pick(t, "what",
						"reset before", "reset after", "truncate", "500", "503 wait", "408", "429", "429 wait", "html", "hang")})
					continue
				}
				s.Troubles = append(s.Troubles, trouble{
					pick(t, "call", "records", "write records", "write records", "open", "usage", "get", "patch"),
					nth, pick(t, "what", "before", "after", "hang before", "hang after"),
				})
			}
			if oneIn(t, 3, "crash") {
				s.Crash, s.CrashBefore = rapid.IntRange(1, 12).Draw(t, "crash at"), rapid.Bool().Draw(t, "crash before")
			}
			if oneIn(t, 4, "late") {
				s.Troubles = slices.DeleteFunc(s.Troubles, func(t trouble) bool { return t.Where == "patch" })
				s.Troubles = append(s.Troubles, trouble{"patch", pick(t, "nth", 1, 1, 2), "lands late"})
			}
			if oneIn(t, 4, "freeze") {
				s.Freeze, s.FreezeBefore = rapid.IntRange(1, 12).Draw(t, "freeze at"), rapid.Bool().Draw(t, "freeze before")
				s.FreezeFor = pick(t, "freeze for", 5*time.Second, 20*time.Second, 2*time.Minute)
			}
		}
		h.Syncs = append(h.Syncs, s)
	}
	return h
})

// writebacks is what the observer knows of them.
type writebacks struct {
	under   sync.WaitGroup // messages that are not acknowledged
	procs   [2]*writing
	started int
	posts   []*post
	written map[string][]time.Time // the updated_at of what changes of the relay made, by the alerts' ids
}

// post is a message of the topic of write-backs.
type post struct {
	request
	id    string // of the alert
	at    time.Time
	data  []byte
	first time.Time // when it was published
	acked time.Time // first
}

// writing is a process that does write-backs.
type writing struct {
	*proc
	writer *writeback.Writer
}

// process is one of two instances, started anew when it has crashed.
func (w *world) process(i int) *writing {
	w.mu.Lock()
	defer w.mu.Unlock()
	i %= len(w.backs.procs)
	if p := w.backs.procs[i]; p != nil && !p.isDead() {
		return p
	}
	p := &writing{proc: &proc{
		world: w, key: goodKey, name: fmt.Sprintf("sync-%d", w.backs.started+1), began: time.Now(), writes: true,
		died: make(chan struct{}), done: make(chan struct{}), seen: map[string]int{},
	}}
	if n := w.backs.started; n < len(w.Syncs) {
		p.step = w.Syncs[n]
	}
	w.backs.started++
	w.backs.procs[i] = p
	for _, t := range p.step.Troubles {
		if f, ok := apiFault(t); ok {
			w.api.AddFault(f)
		}
	}
	meter, client := p.client()
	p.writer = writeback.NewWriter(writeback.WriterOptions{
		Ledger: database{p.proc}, Rejects: topics{proc: p.proc}, Feed: w.feed, TTL: 1000 * time.Hour,
		Session: func() writeback.Session {
			s := client.Session(syncShare).Once()
			return writeback.Session{Known: s, Unknown: s.Within(syncUnknownShare)}
		},
		KeyID:   func(context.Context) (string, error) { return w.feed + "-key", nil },
		Counter: usage{p.proc, meter},
	})
	return p
}

// usage counts the requests of a process that does write-backs.
type usage struct {
	p     *proc
	meter *dtm.Meter
}

func (u usage) Load(ctx context.Context, keyID string) error {
	found, err := database{u.p}.Open(ctx, u.p.feed, keyID)
	if err == nil {
		u.meter.Load(found.Usage.Requests, found.Usage.Errors)
	}
	return err
}

func (u usage) Add(ctx context.Context, keyID string) {
	var add state.Usage
	add.Requests, add.Errors = u.meter.Take()
	_ = database{u.p}.AddUsage(ctx, keyID, add, state.Usage{})
}

// landLate is a change whose connection breaks, and which GTI makes all the same, up
// to 15 s later.
func (p *proc) landLate(r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	after := 15_000 * p.offset("late "+p.name)
	// It meets the trouble of another process, too: nobody waits then.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), after+time.Millisecond)
	late := r.Clone(ctx)
	late.Body = io.NopCloser(bytes.NewReader(body))
	go func() {
		defer cancel()
		time.Sleep(after)
		defer p.patched(late.URL.Path, time.Now())
		if answer, err := p.api.RoundTripper().RoundTrip(late); err == nil {
			_ = answer.Body.Close()
		}
	}()
	return errFault
}

// patched notes which version a change of the relay made, if it did.
func (p *proc) patched(urlPath string, asked time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := path.Base(urlPath)
	versions := p.api.Versions(id)
	newest := versions[len(versions)-1].UpdatedAt
	if newest.Before(asked.Truncate(time.Millisecond)) {
		return
	}
	// Law: nothing is sent when all that was asked for is acknowledged.
	if !slices.ContainsFunc(p.backs.posts, func(m *post) bool { return m.id == id && m.acked.IsZero() }) {
		p.fail("%s changes %s, of which everything is done", p.name, id)
	}
	if p.backs.written == nil {
		p.backs.written = map[string][]time.Time{}
	}
	p.backs.written[id] = append(p.backs.written[id], newest)
}

// request publishes a write-back when its time has come, and delivers it until it
// is acknowledged as often as it is delivered.
func (w *world) request(i int, r request) {
	time.Sleep(r.At + w.offset(fmt.Sprint("request ", i)))
	m := &post{request: r, id: id(r.Alert), first: time.Now()}
	w.publish(m, i)
}

// publish delivers a message.
func (w *world) publish(m *post, i int) {
	m.at = m.first.UTC().Truncate(time.Millisecond).Add(-m.Before)
	body := map[string]any{"alert_id": m.id}
	if m.Before > 0 {
		body["requested_at"] = m.at.Format(time.RFC3339Nano)
	}
	if m.Status != "" {
		body["status"] = m.Status
	}
	if len(m.Add) > 0 {
		body["add_tags"] = m.Add
	}
	if len(m.Remove) > 0 {
		body["remove_tags"] = m.Remove
	}
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	m.data = data
	w.mu.Lock()
	w.backs.posts = append(w.backs.posts, m)
	w.mu.Unlock()
	var all sync.WaitGroup
	for n, after := range m.Deliveries {
		all.Go(func() {
			name := fmt.Sprint("delivery ", n, " of ", m.id, " ", m.Status, m.Add, m.Remove, " at ", m.first)
			time.Sleep(after + w.offset(name))
			w.deliver(m, name, i+n)
		})
	}
	all.Wait()
}

// deliver delivers a message until it is acknowledged.
func (w *world) deliver(m *post, name string, to int) {
	for try := range 40 {
		p := w.process(to)
		type result struct {
			out writeback.Outcome
			err error
		}
		w.mu.Lock()
		settled, before := !m.acked.IsZero(), p.seen["get"]+p.seen["patch"]
		w.mu.Unlock()
		done := make(chan result, 1)
		ctx, cancel := context.WithTimeout(about(context.Background(), name), 10*time.Minute)
		go func() {
			out, err := p.writer.Handle(ctx, writeback.Message{Data: m.data, MessageID: "1", PublishedAt: m.first})
			done <- result{out, err}
		}()
		select {
		case r := <-done:
			cancel()
			if r.err == nil && !p.isDead() {
				w.mu.Lock()
				if m.acked.IsZero() {
					m.acked = time.Now()
				}
				// Law: what is done is not asked of the API again.
				if after := p.seen["get"] + p.seen["patch"]; settled && after > before && len(w.Asks) == 1 && w.Mirror == "" && len(m.Deliveries) == 2 {
					w.fail("%s does again what was done, with %d requests", p.name, after-before)
				}
				w.mu.Unlock()
				return
			}
		case <-p.died:
			cancel()
		}
		// What a process had under way when it died comes again at different moments.
		time.Sleep(min(10*time.Second<<min(try, 6), 600*time.Second) + w.offset(fmt.Sprint(name, " ", try)))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail("the write-back %s is never done", m.data)
}

// checkOrigin checks where a published version is said to come from, and answers
// it as a mirror does. The lock is held.
func (w *world) checkOrigin(p *proc, a *knownAlert, m message.Message) {
	origin := m.Attributes["origin"]
	version, _ := time.Parse(time.RFC3339, m.Attributes["updated_at"])
	written := w.backs.written[a.id]
	// Law: no echo is published as news from GTI. What nobody has seen yet is news,
	// whoever has changed it before, as is a status that the relay found when it
	// wrote something else.
	news := m.Attributes["event"] == ledger.Created || m.Attributes["event"] == ledger.StatusChanged && w.found(a, version)
	if w.calm() && !news && origin != state.FromWriteback && slices.ContainsFunc(written, version.Equal) {
		w.fail("%s publishes %s, which the relay wrote, as news: %v after %+v", p.name, m.Attributes["dedupe_key"], m.Attributes, w.ledger[a.id])
	}
	// Law: and no news as an echo: since the version before, the relay has written.
	// (Where nobody knows whether it has, what it wants is taken for it; and for two
	// minutes after it, as it may have done it twice.)
	before := w.ledger[a.id].PublishedVersion
	open := slices.ContainsFunc(w.ledger[a.id].Intents, func(w state.Intent) bool { return w.Open })
	failed := slices.ContainsFunc(w.Syncs, func(s step) bool { return s.Crash+s.Freeze > 0 || len(s.Troubles) > 0 })
	if !open && !failed && origin != state.FromGTI && w.alone() && !slices.ContainsFunc(written, func(v time.Time) bool { return v.After(before.Add(-2*time.Minute)) && !v.After(version) }) {
		w.fail("%s publishes %v as an echo, and what the relay wrote is %v, after %+v", p.name, m.Attributes, written, w.ledger[a.id])
	}
	if w.Mirror == "" || origin == state.FromWriteback || w.broken != "" {
		return
	}
	answer := &post{request: request{Status: w.Mirror, Deliveries: []time.Duration{time.Second}}, id: a.id, first: time.Now()}
	if tag, ok := strings.CutPrefix(w.Mirror, "+"); ok {
		answer.Status, answer.Add = "", []string{tag}
	}
	calls := p.calls
	w.backs.under.Go(func() { w.publish(answer, calls) })
}

// found reports whether an alert had its status before a version.
func (w *world) found(a *knownAlert, version time.Time) bool {
	versions := w.api.Versions(a.id)
	for i, v := range versions {
		if v.UpdatedAt.Equal(version) {
			return i > 0 && versions[i-1].Status == v.Status
		}
	}
	return false
}

// settle runs the feed until no more write-backs come of it.
func (w *world) settle() {
	if len(w.Asks) == 0 {
		return
	}
	for range 6 {
		w.backs.under.Wait()
		time.Sleep(state.LeaseFor)
		w.mu.Lock()
		posts := len(w.backs.posts)
		w.mu.Unlock()
		if !w.drained() {
			return
		}
		w.backs.under.Wait()
		w.mu.Lock()
		more := len(w.backs.posts) > posts
		w.mu.Unlock()
		if !more {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail("the mirror and the relay answer each other without end")
}

// checkWritten checks what the API has in the end.
func (w *world) checkWritten() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.Asks) == 0 {
		return
	}
	for _, a := range w.known {
		versions := w.api.Versions(a.served)
		last := versions[len(versions)-1]
		// Law: a tag is there, or not, as was last asked for.
		asked := map[string]map[bool]time.Time{}
		note := func(tag string, there bool, at time.Time) {
			if asked[tag] == nil {
				asked[tag] = map[bool]time.Time{}
			}
			asked[tag][there] = later(asked[tag][there], at)
		}
		for _, tag := range a.Tags {
			note(tag, true, time.Unix(0, 0))
		}
		var status *post
		tied := false
		settled := time.Time{}
		for _, m := range w.backs.posts {
			if m.id != a.id {
				continue
			}
			for _, tag := range m.Add {
				note(tag, true, m.at)
			}
			for _, tag := range m.Remove {
				note(tag, false, m.at)
			}
			switch {
			case m.Status == "":
			case status == nil || m.at.After(status.at):
				status, tied = m, false
				settled = m.acked
			case m.at.Equal(status.at) && m.Status != status.Status:
				tied = true
			}
		}
		for tag, when := range asked {
			there := slices.Contains(last.Tags, tag)
			if when[there].Before(when[!there]) {
				w.fail("%s has in the end the tags %v, and %s was asked for last at %s (to be there), %s (not to be)", a.id, last.Tags, tag, when[true], when[false])
			}
		}
		for _, tag := range last.Tags {
			if asked[tag] == nil {
				w.fail("%s has in the end the tags %v, and nobody asked for %s", a.id, last.Tags, tag)
			}
		}

		// Law: of two requests for the status the later one counts, unless an analyst
		// has set it since; and no message undoes what an analyst did later.
		if status == nil || tied {
			continue
		}
		var analyst time.Time
		set := ""
		for _, c := range a.changes() {
			if c.Status != "" {
				analyst, set = a.created.Add(c.After), c.Status
			}
		}
		switch {
		case analyst.IsZero() || analyst.Before(status.at.Add(-time.Millisecond)) && analyst.Before(status.first):
			if last.Status != status.Status {
				w.fail("%s is %s in the end, and was asked to be %s at %s", a.id, last.Status, status.Status, status.at)
			}
		case !settled.IsZero() && analyst.After(settled.Add(time.Millisecond)):
			if last.Status != set {
				w.fail("%s is %s in the end, and an analyst made it %s at %s, after the last request was done at %s", a.id, last.Status, set, analyst, settled)
			}
		}
	}
}

// TestOrderIsDrawn: a history is the same each time that it happens, call by call,
// so that one that breaks a law can be looked at.
func TestOrderIsDrawn(t *testing.T) {
	store, err := bolt.OpenNoSync(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	seeds := 40
	if testing.Short() { // with the race detector each takes ten times as long
		seeds = 8
	}
	for call, of := range map[string]*rapid.Generator[history]{" patch ": writebackHistories, " page ": histories} {
		calls := 0
		for seed := range seeds {
			h := of.Example(seed)
			// A run that stood still wakes with its lease lost and its first request due at one
			// instant: whether that is still counted, no draw decides.
			frozen := slices.ContainsFunc(h.Steps, func(s step) bool { return s.Freeze > 0 })
			var lives [2][]string
			for i := range lives {
				synctest.Test(t, func(*testing.T) {
					w := newWorld(h, store, fmt.Sprintf("feed-%s-%d-%d", strings.TrimSpace(call), seed, i))
					var mu sync.Mutex
					w.trace = func(call string) {
						if frozen && strings.Contains(call, " usage ") {
							return
						}
						mu.Lock()
						defer mu.Unlock()
						lives[i] = append(lives[i], call)
					}
					w.live()
				})
			}
			if diff := cmp.Diff(lives[0], lives[1]); diff != "" {
				t.Errorf("history %d happened in another way the second time:\n%s", seed, diff)
			}
			calls += strings.Count(strings.Join(lives[0], "\n"), call)
		}
		if calls == 0 {
			t.Errorf("there is no call%sat all", call)
		}
	}
}
