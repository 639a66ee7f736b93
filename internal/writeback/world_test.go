package writeback_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

// world is what is outside of the processes that write back: the API, the
// ledger and the rejects topic.
type world struct {
	api  *dtmsim.Server
	keys *rotatingKeys

	mu       sync.Mutex
	ledger   map[string]filed
	writes   int
	rejected []message.Message
	sent     []string // changes, as JSON
	loads    []string
	adds     int
}

// filed is a record as a database holds it.
type filed struct {
	text    []byte
	version int
}

func newWorld(o dtmsim.Options, alerts ...dtmsim.Alert) *world {
	return &world{api: dtmsim.New(o, alerts), keys: &rotatingKeys{key: "key-1"}, ledger: map[string]filed{}}
}

// alert is a new one in the API, created an hour ago.
func alert(id string, tags ...string) dtmsim.Alert {
	return dtmsim.Alert{ID: id, Status: "new", Tags: tags, CreatedAt: time.Now().Add(-time.Hour)}
}

// rotatingKeys is a secret whose key may be replaced.
type rotatingKeys struct {
	mu     sync.Mutex
	key    string
	broken error
}

func (k *rotatingKeys) Key(context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.key, k.broken
}

func (k *rotatingKeys) Renew(ctx context.Context, _ string) (string, error) { return k.Key(ctx) }

func (k *rotatingKeys) set(key string, broken error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key, k.broken = key, broken
}

func (o *world) record(id string) state.Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.read(id).Record
}

func (o *world) read(id string) state.Entry {
	e := state.Entry{Record: state.Record{ID: id}}
	if f, ok := o.ledger[id]; ok {
		if err := json.Unmarshal(f.text, &e.Record); err != nil {
			panic(err)
		}
		e.Revision = state.Revision(strconv.Itoa(f.version))
	}
	return e
}

func (o *world) write(e state.Entry) error {
	if o.read(e.Record.ID).Revision != e.Revision {
		return state.ErrConflict
	}
	text, err := json.Marshal(e.Record)
	if err != nil {
		panic(err)
	}
	o.writes++
	if bytes.Equal(text, o.ledger[e.Record.ID].text) {
		return nil // Firestore gives no new revision for a write that changes nothing
	}
	o.ledger[e.Record.ID] = filed{text, o.ledger[e.Record.ID].version + 1}
	return nil
}

// edit changes the record of the alert "a" as another writer would.
func (o *world) edit(change func(*state.Record)) { o.editOf("a", change) }

func (o *world) editOf(id string, change func(*state.Record)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.read(id)
	change(&e.Record)
	if err := o.write(e); err != nil {
		panic(err)
	}
}

// now is the alert as the API has it: its status and its tags.
func (o *world) now(id string) string {
	versions := o.api.Versions(id)
	a := versions[len(versions)-1]
	return a.Status + " " + strings.Join(a.Tags, ",")
}

// asked counts the requests to the API by kind.
func (o *world) asked(kind dtmsim.Kind) int {
	n := 0
	for _, r := range o.api.Requests() {
		if r.Kind == kind {
			n++
		}
	}
	return n
}

func (o *world) reasons() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var reasons []string
	for _, m := range o.rejected {
		reasons = append(reasons, m.Attributes["reason"])
	}
	return reasons
}

var errDead = errors.New("the process is dead")

// process is one that writes back. Each call to the world outside is a step.
type process struct {
	*world
	*writeback.Writer

	// dies is the number of the step with which the process dies, counted from 1;
	// late: after the step has been done, else before. 0 is never.
	dies int
	late bool
	// pause is what passes before and after a step.
	pause func(kind string) time.Duration

	steps int
	dead  bool
}

// newProcess starts a process.
func (o *world) newProcess() *process {
	p := &process{world: o, pause: func(string) time.Duration { return 0 }}
	client := o.client()
	p.Writer = writeback.NewWriter(writeback.WriterOptions{
		Ledger: p, Rejects: p, Counter: p, Feed: "default", TTL: time.Hour,
		Session: func() writeback.Session {
			s := client.Session(dtm.Share{Errors: 20, Requests: 0.9}).Once()
			return writeback.Session{Known: &steppedAPI{p, s}, Unknown: &steppedAPI{p, s.Within(dtm.Share{Errors: 10, Requests: 0.9})}}
		},
		KeyID: o.keys.Key,
	})
	return p
}

// client talks to the API.
func (o *world) client() *dtm.Client {
	client, err := dtm.New(dtm.Options{
		BaseURL: "https://gti.example/api/v3", ToolName: "test", UserAgent: "test", Keys: o.keys, Meter: dtm.NewMeter(100_000),
		Concurrency: 10, QPS: 1000, Transport: o.api.RoundTripper(), Rand: func() float64 { return 0.5 },
	})
	if err != nil {
		panic(err)
	}
	return client
}

// step does something outside, unless the process is dead by then.
func (p *process) step(kind string, do func()) error {
	time.Sleep(p.pause(kind))
	p.mu.Lock()
	p.steps++
	now := p.steps == p.dies
	p.dead = p.dead || now && !p.late
	dead := p.dead
	p.mu.Unlock()
	if dead {
		return errDead
	}
	do()
	p.mu.Lock()
	p.dead = p.dead || now
	dead = p.dead
	p.mu.Unlock()
	if dead {
		return errDead
	}
	time.Sleep(p.pause(kind))
	return nil
}

func (p *process) Records(_ context.Context, _ string, ids []string) (entries []state.Entry, err error) {
	err = p.step("read", func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, id := range ids {
			entries = append(entries, p.read(id))
		}
	})
	return entries, err
}

func (p *process) WriteRecords(_ context.Context, _ string, entries []state.Entry) (results []error, err error) {
	err = p.step("write", func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, e := range entries {
			results = append(results, p.write(e))
		}
	})
	return results, err
}

func (p *process) Reject(_ context.Context, messages []message.Message) []error {
	results := make([]error, len(messages))
	results[0] = p.step("reject", func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.rejected = append(p.rejected, messages...)
	})
	return results
}

func (p *process) Load(_ context.Context, keyID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loads = append(p.loads, keyID)
	return nil
}

func (p *process) Add(context.Context, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adds++
}

// steppedAPI is a session whose requests are steps.
type steppedAPI struct {
	p   *process
	api writeback.API
}

func (a *steppedAPI) Get(ctx context.Context, id string, refs bool) (page dtm.Page, err error) {
	if dead := a.p.step("get", func() { page, err = a.api.Get(ctx, id, refs) }); dead != nil {
		return dtm.Page{}, dead
	}
	return page, err
}

func (a *steppedAPI) Update(ctx context.Context, id string, patch dtm.Patch) (changed dtm.Alert, err error) {
	text, err := json.Marshal(patch)
	if err != nil {
		return dtm.Alert{}, err
	}
	dead := a.p.step("patch", func() {
		a.p.mu.Lock()
		a.p.sent = append(a.p.sent, string(text))
		a.p.mu.Unlock()
		changed, err = a.api.Update(ctx, id, patch)
	})
	if dead != nil {
		return dtm.Alert{}, dead
	}
	return changed, err
}

// deliver hands a message over that was published at the given second of the day.
func (p *process) deliver(ctx context.Context, data string) (writeback.Outcome, error) {
	return p.Handle(ctx, writeback.Message{Data: []byte(data), MessageID: "m1", PublishedAt: time.Now()})
}

// requestAt is a message's data: fields of JSON, asked for so many seconds after
// midnight 2000, where synctest's clock begins.
func requestAt(id string, second int, fields string) string {
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(second-3600) * time.Second)
	return fmt.Sprintf(`{"alert_id":%q,"requested_at":%q,%s}`, id, at.Format(time.RFC3339), fields)
}
