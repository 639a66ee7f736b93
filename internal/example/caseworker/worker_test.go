package caseworker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/emulatortest"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

func TestMain(m *testing.M) { os.Exit(emulatortest.Main(m)) }

// caseSystem keeps cases in memory. Like a real one it runs an automation after each
// change of a case's state, whoever changed it: here that is noted, to be run by hook.
type caseSystem struct {
	mu      sync.Mutex
	cases   map[string]Case
	calls   []string
	changed []Case
	fails   error
	stored  chan Case // unless nil, gets each case that is stored
}

func (s *caseSystem) Find(_ context.Context, alertID string) (Case, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.cases[alertID]
	if !ok {
		return Case{}, ErrNoCase
	}
	return c, nil
}

func (s *caseSystem) Open(_ context.Context, c Case) error   { return s.store("open", c) }
func (s *caseSystem) Update(_ context.Context, c Case) error { return s.store("update", c) }
func (s *caseSystem) Close(_ context.Context, c Case) error  { return s.store("close", c) }

func (s *caseSystem) store(call string, c Case) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return s.fails
	}
	if s.cases == nil {
		s.cases = map[string]Case{}
	}
	if s.cases[c.AlertID].State != c.State {
		s.changed = append(s.changed, c)
	}
	s.cases[c.AlertID] = c
	s.calls = append(s.calls, call)
	if s.stored != nil {
		s.stored <- c
	}
	return nil
}

// person changes the state of the case in the case system.
func (s *caseSystem) person(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cases["a1"]
	c.State = state
	s.cases["a1"] = c
	s.changed = append(s.changed, c)
}

// hook is the automation: it asks for the status that goes with each changed state.
func (s *caseSystem) hook(ctx context.Context, w *Worker) error {
	s.mu.Lock()
	changed := s.changed
	s.changed = nil
	s.mu.Unlock()
	for _, c := range changed {
		status := map[string]string{"open": "in_progress", "closed": "closed"}[c.State]
		if err := w.SetStatus(ctx, c.AlertID, status, "jane@example.com"); err != nil {
			return err
		}
	}
	return nil
}

var (
	begin     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	published = begin.Add(time.Hour)
)

// version is a message of the relay: the alert's status at so many minutes.
func version(minutes int, status, event, origin string) *pubsub.Message {
	updated := begin.Add(time.Duration(minutes) * time.Minute)
	raw := fmt.Sprintf(`{"id":"a1","created_at":%q,"updated_at":%q,"status":%q,"title":"T%d","severity":"high","doc":{"source_url":"https://h.example/"}}`,
		begin.Format(time.RFC3339), updated.Format(time.RFC3339), status, minutes)
	m := message.FromAlert(dtm.ParseAlert([]byte(raw)), message.Envelope{Format: message.Incident, Event: event, Priority: "P1", Origin: origin})
	return &pubsub.Message{Data: m.Data, Attributes: m.Attributes, PublishTime: published}
}

// world is a worker with what it asked of GTI.
type world struct {
	*testing.T
	worker *Worker
	cases  *caseSystem
	asked  []string
	fails  error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, cases: &caseSystem{}}
	w.worker = &Worker{Cases: w.cases, Publish: func(_ context.Context, data []byte) error {
		if w.fails != nil {
			return w.fails
		}
		w.asked = append(w.asked, string(data))
		return nil
	}}
	return w
}

// handle gives messages to the worker, and runs the case system's automation.
func (w *world) handle(messages ...*pubsub.Message) {
	w.Helper()
	for _, m := range messages {
		if err := w.worker.Handle(w.Context(), m); err != nil {
			w.Fatal(err)
		}
		w.hook()
	}
}

func (w *world) hook() {
	w.Helper()
	if err := w.cases.hook(w.Context(), w.worker); err != nil {
		w.Fatal(err)
	}
}

// is checks the case, what the case system was told, and what was asked of GTI.
func (w *world) is(state, status, calls string, asked ...string) {
	w.Helper()
	c := w.cases.cases["a1"]
	if c.State != state || c.Status != status {
		w.Errorf("the case is %s with status %s, want %s with %s", c.State, c.Status, state, status)
	}
	if got := strings.Join(w.cases.calls, " "); got != calls {
		w.Errorf("calls %q, want %q", got, calls)
	}
	var want []string
	for _, pair := range asked {
		expected, status, _ := strings.Cut(pair, ">")
		want = append(want, fmt.Sprintf(`{"alert_id":"a1","status":%q,"expect_status":%q,"requested_by":"jane@example.com"}`, status, expected))
	}
	if diff := cmp.Diff(want, w.asked); diff != "" {
		w.Errorf("asked of GTI (-want +got)\n%s", diff)
	}
}

func TestACaseFollowsItsAlert(t *testing.T) {
	w := newWorld(t)
	w.handle(version(0, "new", "created", "gti"))
	w.is("open", "new", "open")
	if diff := cmp.Diff(Case{
		AlertID: "a1", Title: "T0", Severity: "high", Priority: "P1", Link: "https://advantage.mandiant.com/dtm/alerts/a1", URL: "https://h.example/",
		State: "open", Status: "new", Version: begin, DedupeKey: "a1@2026-01-02T03:04:05.000Z",
	}, w.cases.cases["a1"]); diff != "" {
		t.Error(diff)
	}
	w.handle(version(1, "new", "updated", "gti"))
	w.is("open", "new", "open update")
	w.handle(version(2, "not_relevant", "status_changed", "gti"))
	w.is("closed", "not_relevant", "open update close")
	w.handle(version(3, "in_progress", "status_changed", "gti"))
	w.is("open", "in_progress", "open update close update")
}

func TestWhatIsNotNewerChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.handle(version(2, "closed", "status_changed", "gti"))
	w.is("closed", "closed", "open")
	w.handle(version(2, "closed", "status_changed", "gti"), version(1, "new", "created", "gti"))
	w.is("closed", "closed", "open")
}

// TestAVersionThatLiesAhead: it must not silence those that come after it.
func TestAVersionThatLiesAhead(t *testing.T) {
	w := newWorld(t)
	w.handle(version(7*24*60, "new", "created", "gti"))
	later := version(61, "closed", "status_changed", "gti")
	later.PublishTime = published.Add(2 * time.Minute)
	w.handle(later)
	w.is("closed", "closed", "open close")
}

func TestPeoplesDecisionsAreWrittenOnceAndNotEchoed(t *testing.T) {
	w := newWorld(t)
	w.handle(version(0, "new", "created", "gti"))
	w.cases.person("closed")
	w.hook()
	w.hook()
	w.is("closed", "new", "open update", "new>closed")
	t.Log("a version from before the write-back leaves the case closed")
	w.handle(version(1, "new", "updated", "gti"))
	w.is("closed", "new", "open update update", "new>closed")
	w.handle(version(2, "closed", "status_changed", "writeback"))
	w.is("closed", "closed", "open update update update", "new>closed")
	t.Log("an analyst reopens it in GTI")
	w.handle(version(3, "read", "status_changed", "gti"))
	w.is("open", "read", "open update update update update", "new>closed")
}

func TestALateEchoDoesNotUndoALaterDecision(t *testing.T) {
	w := newWorld(t)
	w.handle(version(0, "new", "created", "gti"))
	w.cases.person("closed")
	w.hook()
	w.cases.person("open")
	w.hook()
	w.handle(version(1, "closed", "status_changed", "writeback"))
	if c := w.cases.cases["a1"]; c.State != "open" {
		t.Errorf("the echo of the first decision made it %s", c.State)
	}
	w.handle(version(2, "in_progress", "status_changed", "writeback"))
	w.is("open", "in_progress", "open update update update update", "new>closed", "closed>in_progress")
	if c := w.cases.cases["a1"]; c.Requested != "" {
		t.Errorf("still waits for %s", c.Requested)
	}
}

// TestAnothersWriteback: with two case systems on one feed, the second follows the first.
func TestAnothersWriteback(t *testing.T) {
	w := newWorld(t)
	w.handle(version(0, "new", "created", "gti"), version(1, "closed", "status_changed", "writeback"))
	w.is("closed", "closed", "open close")
}

// TestARefusedWriteback: expect_status was not met, because an analyst was faster.
func TestARefusedWriteback(t *testing.T) {
	w := newWorld(t)
	w.handle(version(0, "new", "created", "gti"))
	w.cases.person("closed")
	w.hook()
	w.handle(version(1, "escalated", "status_changed", "gti"))
	w.is("open", "escalated", "open update update", "new>closed")
}

func TestFailures(t *testing.T) {
	broken := errors.New("broken")
	t.Run("what is not stored is not acknowledged", func(t *testing.T) {
		w := newWorld(t)
		w.cases.fails = broken
		if err := w.worker.Handle(t.Context(), version(0, "new", "created", "gti")); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		w.cases.fails = nil
		w.handle(version(0, "new", "created", "gti"))
		w.is("open", "new", "open")
	})
	t.Run("a request that fails is made again", func(t *testing.T) {
		w := newWorld(t)
		w.handle(version(0, "new", "created", "gti"))
		w.fails = broken
		if err := w.worker.SetStatus(t.Context(), "a1", "closed", "jane@example.com"); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		w.fails = nil
		if err := w.worker.SetStatus(t.Context(), "a1", "closed", "jane@example.com"); err != nil {
			t.Error(err)
		}
		w.is("open", "new", "open update", "new>closed")
	})
	t.Run("no case", func(t *testing.T) {
		w := newWorld(t)
		if err := w.worker.SetStatus(t.Context(), "a1", "closed", "jane"); !errors.Is(err, ErrNoCase) {
			t.Errorf("got %v", err)
		}
	})
	for name, data := range map[string]string{"raw": `{"id":"a1"}`, "no JSON": "\xff", "a later version": `{"schema":"dtmrelay.incident/v2"}`} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.worker.Handle(t.Context(), &pubsub.Message{Data: []byte(data)}); err == nil || len(w.cases.calls) > 0 {
				t.Errorf("taken for an incident: %v, %v", err, w.cases.calls)
			}
		})
	}
}

// TestAnyOrder: whatever comes twice or out of order, the case ends as its latest version.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		statuses := rapid.SliceOfN(rapid.SampledFrom(dtm.Statuses), 1, 8).Draw(rt, "statuses")
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(statuses)-1), 0, 20).Draw(rt, "deliveries") {
			w.handle(version(i, statuses[i], "updated", rapid.SampledFrom([]string{"gti", "writeback"}).Draw(rt, "origin")))
		}
		last := len(statuses) - 1
		w.handle(version(last, statuses[last], "updated", "gti"))
		c := w.cases.cases["a1"]
		if c.Status != statuses[last] || c.State != message.State(c.Status) || c.Title != fmt.Sprintf("T%d", last) || len(w.asked) > 0 {
			rt.Fatalf("the case is %+v, asked %q", c, w.asked)
		}
	})
}

func TestAgainstTheEmulator(t *testing.T) {
	t.Setenv("PUBSUB_EMULATOR_HOST", emulatortest.PubSub(t))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client := newClient(ctx, t)
	alerts, alertsSub := newTopic(ctx, t, client, "alerts")
	statuses, statusesSub := newTopic(ctx, t, client, "statuses")

	cases := &caseSystem{stored: make(chan Case, 10)}
	asked := 0 // under the worker's lock
	w := &Worker{Cases: cases, Publish: func(ctx context.Context, data []byte) error {
		asked++
		_, err := statuses.Publish(ctx, &pubsub.Message{Data: data}).Get(ctx)
		return err
	}}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.Run(running, alertsSub, slog.New(slog.DiscardHandler)) }()

	send := func(m *pubsub.Message) {
		t.Helper()
		if _, err := alerts.Publish(ctx, &pubsub.Message{Data: m.Data, Attributes: m.Attributes}).Get(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stored := func() Case {
		t.Helper()
		select {
		case c := <-cases.stored:
			return c
		case <-ctx.Done():
			t.Fatal("nothing was stored")
			return Case{}
		}
	}
	hook := func() {
		t.Helper()
		if err := cases.hook(ctx, w); err != nil {
			t.Fatal(err)
		}
	}

	send(version(0, "new", "created", "gti"))
	if c := stored(); c.State != "open" || c.Title != "T0" {
		t.Errorf("opened as %+v", c)
	}
	hook()
	send(version(0, "new", "created", "gti")) // twice
	send(version(1, "new", "updated", "gti"))
	if c := stored(); c.Title != "T1" {
		t.Errorf("updated to %+v", c)
	}
	cases.person("closed")
	hook()
	if c := stored(); c.Requested != "closed" {
		t.Errorf("asked for as %+v", c)
	}
	send(version(2, "closed", "status_changed", "writeback"))
	if c := stored(); c.State != "closed" || c.Status != "closed" || c.Requested != "" {
		t.Errorf("after the echo %+v", c)
	}
	hook()
	send(version(3, "read", "status_changed", "gti"))
	if c := stored(); c.State != "open" {
		t.Errorf("reopened as %+v", c)
	}
	hook()
	cases.person("closed")
	hook()
	stored()
	stop()
	if err := <-done; err != nil {
		t.Errorf("the worker ended with %v", err)
	}

	// What SyncStatus gets: both decisions, and no answer to an incident.
	if asked != 2 {
		t.Errorf("%d requests, want 2", asked)
	}
	var mu sync.Mutex
	got := map[string]string{} // the status that is asked for, by the one that is expected
	receiving, enough := context.WithCancel(ctx)
	defer enough()
	if err := statusesSub.Receive(receiving, func(_ context.Context, m *pubsub.Message) {
		mu.Lock()
		defer mu.Unlock()
		m.Ack()
		request, err := writeback.ParseRequest(m.Data, "default", time.Now())
		if err != nil {
			t.Errorf("SyncStatus refuses %s: %v", m.Data, err)
		}
		if got[request.Expect] = request.Status; len(got) == asked {
			enough()
		}
	}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"new": "closed", "read": "closed"}, got); diff != "" {
		t.Errorf("asked of GTI (-want +got)\n%s", diff)
	}
}
