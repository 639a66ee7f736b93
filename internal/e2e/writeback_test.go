package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// startSync starts an instance of the function SyncStatus.
func (w *world) startSync(env ...string) *process {
	w.t.Helper()
	return w.start(append([]string{"FUNCTION_TARGET=SyncStatus"}, env...)...)
}

// push delivers a message as a push subscription does.
func (p *process) push(id, data string) (int, string) {
	return p.pushAt(id, data, time.Now())
}

func (p *process) pushAt(id, data string, published time.Time) (int, string) {
	p.w.t.Helper()
	envelope, err := json.Marshal(map[string]any{
		"message": map[string]any{
			"data": base64.StdEncoding.EncodeToString([]byte(data)), "messageId": id, "message_id": id,
			"publishTime": published.UTC().Format(time.RFC3339Nano), "attributes": map[string]string{},
		},
		"subscription": "projects/" + p.w.project + "/subscriptions/dtm-status-updates",
	})
	if err != nil {
		p.w.t.Fatal(err)
	}
	status, text := p.do(http.MethodPost, "/", string(envelope))
	return status, string(text)
}

// alert is what GTI has of an alert.
func (w *world) alert(id string) dtmsim.Alert {
	versions := w.sim.Versions(id)
	return versions[len(versions)-1]
}

// last is the newest message of an alert.
func (w *world) last(id string) map[string]string {
	w.sub.mu.Lock()
	defer w.sub.mu.Unlock()
	var newest map[string]string
	for _, copies := range w.sub.alerts {
		if a := copies[0].Attributes; a["alert_id"] == id && (newest == nil || a["updated_at"] > newest["updated_at"]) {
			newest = a
		}
	}
	return newest
}

func (w *world) rejects() []string {
	w.sub.mu.Lock()
	defer w.sub.mu.Unlock()
	var reasons []string
	for _, m := range w.sub.rejects {
		reasons = append(reasons, m.Attributes["reason"])
	}
	return reasons
}

// TestWriteBack: a change that is asked for by a message is written to GTI once,
// and comes back as the relay's own.
func TestWriteBack(t *testing.T) {
	t.Parallel()
	alerts := recent(41, 20)
	w := newWorld(t, dtmsim.Options{}, alerts)
	p, s := w.start(), w.startSync()
	id := alerts[4].ID
	w.sim.Update(id, func(a *dtmsim.Alert) { a.Status, a.Tags = "new", []string{"kept"} })
	w.finish(p)

	message := fmt.Sprintf(`{"alert_id":%q,"status":"closed","add_tags":["soar"],"expect_status":"new","reason":"done","requested_by":"soar@example.com"}`, id)
	published := time.Now()
	if status, text := s.pushAt("m-1", message, published); status != http.StatusOK || !strings.Contains(text, `"written"`) {
		t.Fatalf("%d %s", status, text)
	}
	if a := w.alert(id); a.Status != "closed" || !slices.Equal(a.Tags, []string{"kept", "soar"}) {
		t.Errorf("GTI has %s %v", a.Status, a.Tags)
	}
	runs := w.finish(p)
	if runs[0].StatusChanged != 1 {
		t.Errorf("%+v", runs[0])
	}
	await(t, "the echo", func() bool { return w.last(id)["event"] == "status_changed" })
	if a := w.last(id); a["origin"] != "writeback" || a["previous_status"] != "new" || a["status"] != "closed" {
		t.Errorf("the echo is %v", a)
	}

	// Once more: nothing is sent. And not either after an analyst has changed it.
	patches := func() int { return w.sim.Stats().ByKind[dtmsim.Patch] }
	before := patches()
	if status, text := s.pushAt("m-1", message, published); status != http.StatusOK {
		t.Errorf("delivered again: %d %s", status, text)
	}
	w.sim.Update(id, func(a *dtmsim.Alert) { a.Status = "escalated" })
	if status, text := s.pushAt("m-1", message, published); status != http.StatusOK {
		t.Errorf("delivered again: %d %s", status, text)
	}
	if n := patches() - before; n != 0 || w.alert(id).Status != "escalated" {
		t.Errorf("delivered again, it was written %d times; GTI has %s", n, w.alert(id).Status)
	}
	w.finish(p)
	await(t, "the analyst's change", func() bool { return w.last(id)["status"] == "escalated" })
	if a := w.last(id); a["origin"] != "gti" {
		t.Errorf("the analyst's change is %v", a)
	}

	// The later request wins, in whichever order they come.
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	for i, m := range []string{
		fmt.Sprintf(`{"alert_id":%q,"status":"in_progress","requested_at":%q}`, id, at(0)),
		fmt.Sprintf(`{"alert_id":%q,"status":"read","requested_at":%q}`, id, at(-time.Minute)),
	} {
		if status, text := s.push(fmt.Sprint("m-2", i), m); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
		}
	}
	if a := w.alert(id); a.Status != "in_progress" {
		t.Errorf("GTI has %s", a.Status)
	}
	_, text := p.do(http.MethodGet, "/alerts/"+id, "")
	if !strings.Contains(string(text), `"origin":"writeback"`) || !strings.Contains(string(text), `"intents"`) {
		t.Errorf("the timeline: %s", text)
	}

	// Not as expected, and unknown: to the rejects, and acknowledged.
	for i, m := range []string{
		fmt.Sprintf(`{"alert_id":%q,"status":"closed","expect_status":"new"}`, id),
		`{"alert_id":"nobody-knows-it","status":"closed"}`,
	} {
		if status, text := s.push(fmt.Sprint("m-3", i), m); status != http.StatusOK || !strings.Contains(text, `"rejected"`) {
			t.Errorf("%d %s", status, text)
		}
	}
	await(t, "two rejects", func() bool { return len(w.rejects()) == 2 })
	if a := w.alert(id); a.Status != "in_progress" {
		t.Errorf("GTI has %s", a.Status)
	}
}

// TestFiftyWriteBacksAtOnce: two for each of 25 alerts, and what was asked is
// there afterwards, within the limits of the key.
func TestFiftyWriteBacksAtOnce(t *testing.T) {
	t.Parallel()
	alerts := recent(42, 25)
	w := newWorld(t, dtmsim.Options{}, alerts)
	for _, a := range alerts {
		w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Tags = []string{"own"} })
	}
	w.sim.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, Delay: 20 * time.Millisecond})
	// Two instances, as Cloud Run may have.
	instances := []*process{w.startSync(), w.startSync()}
	var pushing sync.WaitGroup
	began := time.Now()
	for i := range 50 {
		pushing.Go(func() {
			id, tag := alerts[i/2].ID, fmt.Sprint("tag-", i%2)
			message := fmt.Sprintf(`{"alert_id":%q,"add_tags":[%q]}`, id, tag)
			published := time.Now()
			// Pub/Sub delivers what was not acknowledged again, for days.
			for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				if status, _ := instances[i%2].pushAt(fmt.Sprint("m-", i), message, published); status == http.StatusOK {
					return
				}
			}
			t.Errorf("message %d was never acknowledged", i)
		})
	}
	pushing.Wait()
	t.Logf("50 write-backs in %s, %d requests", time.Since(began).Round(time.Millisecond), w.sim.Stats().Requests)
	for _, a := range alerts {
		tags := slices.Sorted(slices.Values(w.alert(a.ID).Tags))
		if !slices.Equal(tags, []string{"own", "tag-0", "tag-1"}) {
			t.Errorf("alert %s has the tags %v", a.ID, tags)
		}
	}
	if n := w.rejects(); len(n) > 0 {
		t.Errorf("rejects: %v", n)
	}
	// They count against the same limits as everything else.
	_, text := w.start().do(http.MethodGet, "/status", "")
	var status struct{ Requests struct{ Used int } }
	if err := json.Unmarshal(text, &status); err != nil || status.Requests.Used != w.sim.Stats().Requests {
		t.Errorf("%d requests were sent, and /status says %s", w.sim.Stats().Requests, text)
	}
}

// TestWriteBackFaults: what may pass later is left to Pub/Sub's redelivery, and
// what never will goes to the rejects.
func TestWriteBackFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		fault  dtmsim.Fault
		first  int // status of the first delivery
		second int // of the next one, without the fault
		reject string
	}{
		{"429", dtmsim.Fault{Kind: dtmsim.Patch, Status: 429, Times: 1}, 502, 200, ""},
		{"500", dtmsim.Fault{Kind: dtmsim.Patch, Status: 500, Times: 1}, 502, 200, ""},
		{"500 after it was done", dtmsim.Fault{Kind: dtmsim.Patch, Status: 500, AfterWork: true, Times: 1}, 502, 200, ""},
		{"a connection that breaks after it was done", dtmsim.Fault{Kind: dtmsim.Patch, ResetAfter: true, Times: 1}, 0, 200, ""},
		{"500 when it is read", dtmsim.Fault{Kind: dtmsim.Get, Status: 500, Times: 1}, 502, 200, ""},
		{"404", dtmsim.Fault{Kind: dtmsim.Get, Status: 404, Times: 1}, 200, 200, "unknown alert"},
		{"400", dtmsim.Fault{Kind: dtmsim.Patch, Status: 400, Times: 1}, 200, 200, "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			alerts := recent(43, 3)
			w := newWorld(t, dtmsim.Options{}, alerts)
			p, s := w.start(), w.startSync()
			id := alerts[1].ID
			w.sim.Update(id, func(a *dtmsim.Alert) { a.Status = "new" })
			w.finish(p)
			w.sim.AddFault(c.fault)
			message := fmt.Sprintf(`{"alert_id":%q,"status":"closed"}`, id)
			published := time.Now()
			status, text := s.pushAt("m", message, published)
			if c.first > 0 && status != c.first && (c.first < 500 || status < 500) {
				t.Errorf("the first delivery: %d %s", status, text)
			}
			if status >= 300 {
				if status, text = s.pushAt("m", message, published); status != c.second {
					t.Errorf("the second delivery: %d %s", status, text)
				}
			}
			if c.reject == "" {
				if got := w.alert(id).Status; got != "closed" {
					t.Errorf("GTI has %s", got)
				}
				w.finish(p)
				await(t, "the echo", func() bool { return w.last(id)["status"] == "closed" })
				if a := w.last(id); a["origin"] != "writeback" {
					t.Errorf("the echo is %v", a)
				}
				return
			}
			await(t, "the reject", func() bool { return len(w.rejects()) == 1 })
			if got := w.rejects()[0]; !strings.HasPrefix(got, "writeback: ") || !strings.Contains(got, c.reject) {
				t.Errorf("rejected for %q", got)
			}
		})
	}
}

// TestWriteBackWithAWrongKey costs one error, not one for each message.
func TestWriteBackWithAWrongKey(t *testing.T) {
	t.Parallel()
	alerts := recent(44, 10)
	w := newWorld(t, dtmsim.Options{}, alerts)
	s := w.startSync("GTI_API_KEY=wrong-key")
	for i := range 10 {
		if status, text := s.push(fmt.Sprint("m-", i), fmt.Sprintf(`{"alert_id":%q,"status":"closed"}`, alerts[i].ID)); status < 500 {
			t.Errorf("%d %s", status, text)
		}
	}
	if n := w.sim.Stats().Requests; n != 1 {
		t.Errorf("%d requests were sent with a key that is refused", n)
	}
	if len(w.rejects()) > 0 {
		t.Errorf("rejects: %v", w.rejects())
	}
	if !strings.Contains(w.log(), `"reason":"key_refused"`) {
		t.Error("the log does not say that the key was refused")
	}
}

// TestPoisonousWriteBacks go to the rejects with what is wrong and the original,
// and GTI hears nothing of them. What is no push message is no write-back at all.
func TestPoisonousWriteBacks(t *testing.T) {
	t.Parallel()
	alerts := recent(45, 2)
	w := newWorld(t, dtmsim.Options{}, alerts)
	s := w.startSync()
	id := alerts[0].ID
	large := `{"alert_id":"` + strings.Repeat("x", 9_900_000) + `"}`
	for i, c := range []struct{ data, say string }{
		{``, "JSON"},
		{`closed`, "JSON"},
		{`["closed"]`, "object"},
		{`{"alert_id":"` + id + `","status":"closed","colour":"red"}`, "colour"},
		{`{"alert_id":"` + id + `","status":"gone"}`, "gone"},
		{`{"alert_id":"../monitors","status":"closed"}`, "alert_id"},
		{`{"status":"closed"}`, "alert_id"},
		{`{"alert_id":"` + id + `"}`, "nothing"},
		{`{"alert_id":"` + id + `","add_tags":["a"],"remove_tags":["A"]}`, "remove_tags"},
		{`{"alert_id":"` + id + `","status":"closed","feed":"other"}`, "feed"},
		{`{"alert_id":"` + id + `","status":"closed","requested_at":"yesterday"}`, "requested_at"},
		{large, "bytes"},
	} {
		if status, text := s.push(fmt.Sprint("m-", i), c.data); status != http.StatusOK || !strings.Contains(text, `"rejected"`) {
			t.Errorf("%.60s: %d %s", c.data, status, text)
		}
		await(t, "the reject", func() bool { return len(w.rejects()) == i+1 })
		w.sub.mu.Lock()
		m := w.sub.rejects[i]
		w.sub.mu.Unlock()
		if !strings.HasPrefix(m.Attributes["reason"], "writeback: ") || !strings.Contains(m.Attributes["reason"], c.say) {
			t.Errorf("%.60s: rejected for %q, want %q", c.data, m.Attributes["reason"], c.say)
		}
		switch {
		case len(c.data) < 9_000_000 && string(m.Data) != c.data:
			t.Errorf("%.60s: the original is %.60s", c.data, m.Data)
		case len(c.data) > 9_000_000 && (len(m.Data) != 64<<10 || m.Attributes["size"] != fmt.Sprint(len(c.data)) || m.Attributes["truncated"] != "true" || m.Attributes["sha256"] == ""):
			t.Errorf("a large one: %d bytes, %v", len(m.Data), m.Attributes)
		}
	}
	for _, body := range []string{"", "{}", "[]", `{"message":7}`, `{"message":{"data":"!"}}`, `{"message":{"data":7}}`, "\x00"} {
		if status, text := s.do(http.MethodPost, "/any/path", body); status != http.StatusBadRequest {
			t.Errorf("%q: %d %s", body, status, text)
		}
	}
	if status, _ := s.do(http.MethodGet, "/", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", status)
	}
	if n := w.sim.Stats().Requests; n != 0 {
		t.Errorf("GTI was asked %d times", n)
	}
	// And the next one is done as if nothing had been.
	if status, text := s.push("m", `{"alert_id":"`+id+`","add_tags":["a"]}`); status != http.StatusOK || !strings.Contains(text, `"written"`) {
		t.Errorf("%d %s", status, text)
	}
}

// broken has alerts that are new and a message for each that closes it. What
// was not acknowledged is delivered again, and ends right.
type broken struct {
	*world
	ingest    *process
	alerts    []dtmsim.Alert
	published time.Time
}

func newBroken(t *testing.T) *broken {
	alerts := recent(46, 3)
	w := newWorld(t, dtmsim.Options{}, alerts)
	p := w.start()
	for _, a := range alerts {
		w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Status = "new" })
	}
	w.finish(p)
	return &broken{world: w, ingest: p, alerts: alerts, published: time.Now()}
}

func (b *broken) deliver(s *process, i int) (int, string) {
	return s.pushAt(fmt.Sprint("m-", i), fmt.Sprintf(`{"alert_id":%q,"status":"closed"}`, b.alerts[i].ID), b.published)
}

// under delivers the message and waits until its change is under way.
func (b *broken) under(s *process, i int) (answered chan int) {
	answered = make(chan int, 1)
	patches := b.sim.Stats().ByKind[dtmsim.Patch]
	go func() {
		status, _ := b.deliver(s, i)
		answered <- status
	}()
	await(b.t, "the change to be under way", func() bool { return b.sim.Stats().ByKind[dtmsim.Patch] > patches })
	return answered
}

// endsRight delivers all messages again.
func (b *broken) endsRight(s *process) {
	for i, a := range b.alerts {
		if status, text := b.deliver(s, i); status != http.StatusOK {
			b.t.Errorf("delivered again: %d %s", status, text)
		}
		if got := b.alert(a.ID).Status; got != "closed" {
			b.t.Errorf("GTI has %s", got)
		}
	}
	b.finish(b.ingest)
	await(b.t, "the echoes", func() bool {
		return !slices.ContainsFunc(b.alerts, func(a dtmsim.Alert) bool { return b.last(a.ID)["status"] != "closed" })
	})
	for _, a := range b.alerts {
		if m := b.last(a.ID); m["origin"] != "writeback" {
			b.t.Errorf("the echo is %v", m)
		}
	}
}

// TestABrokenPublisher: whoever asks for changes of alerts that the feed hasn't seen uses
// up a tenth of the errors that GTI allows, and stops neither other write-backs nor the feed.
func TestABrokenPublisher(t *testing.T) {
	t.Parallel()
	alerts := recent(46, 40)
	w := newWorld(t, dtmsim.Options{}, alerts)
	w.env["MAX_ERRORS_PER_HOUR"] = "30"
	p, s := w.start(), w.startSync()
	w.finish(p)
	for i := range 6 {
		status, text := s.push(fmt.Sprint("m-", i), fmt.Sprintf(`{"alert_id":"nobody-knows-%d","status":"closed"}`, i))
		switch {
		case i < 3 && (status != http.StatusOK || !strings.Contains(text, "unknown alert")):
			t.Errorf("no. %d: %d %s", i, status, text)
		case i >= 3 && (status != http.StatusServiceUnavailable || !strings.Contains(text, "budget of errors")):
			t.Errorf("no. %d: %d %s", i, status, text)
		}
	}
	if status, text := s.push("m-known", fmt.Sprintf(`{"alert_id":%q,"status":"closed"}`, alerts[0].ID)); status != http.StatusOK || !strings.Contains(text, `"written"`) {
		t.Errorf("a change of an alert of the feed: %d %s", status, text)
	}
	if status, r := p.post(""); status != http.StatusOK || r.Outcome != "ok" {
		t.Errorf("the feed: %d %+v", status, r)
	}
	if n := w.sim.Stats().ByStatus[http.StatusNotFound]; n != 3 {
		t.Errorf("GTI answered 404 %d times, want 3", n)
	}
}

// TestWriteBackBroken: an instance is killed in the middle of a change, or told to end.
func TestWriteBackBroken(t *testing.T) {
	t.Parallel()
	b := newBroken(t)
	b.sim.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, AfterWork: true, Hang: true, Times: 1})
	s := b.startSync()
	answered := b.under(s, 0)
	s.kill()
	if status := <-answered; status != 0 {
		t.Errorf("a killed instance answered %d", status)
	}

	// After SIGTERM a message has six seconds. On a machine that stands still for as long
	// it is given up rightly, and another one shows what was to be seen.
	for i, status := 1, 0; status != http.StatusOK; i++ {
		s = b.startSync()
		b.sim.AddFault(dtmsim.Fault{Kind: dtmsim.Patch, Delay: 500 * time.Millisecond, Times: 1})
		answered = b.under(s, i)
		told := time.Now()
		s.signal(syscall.SIGTERM)
		status = <-answered
		if status != http.StatusOK && (time.Since(told) < 6*time.Second || i == len(b.alerts)-1) {
			t.Errorf("told to end, it answered %d", status)
			break
		}
	}
	b.endsRight(b.startSync())
}

func TestWriteBackWithoutItsDatabase(t *testing.T) {
	t.Parallel()
	onlyLong(t, "it waits for the database, half a minute")
	b := newBroken(t)
	s := b.startSync()
	b.store.set(cut)
	if status, text := b.deliver(s, 2); status < 500 {
		t.Errorf("without its database: %d %s", status, text)
	}
	b.store.set(passes)
	b.endsRight(s)
}
