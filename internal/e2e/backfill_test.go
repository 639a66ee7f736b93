package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// record is what the tests read of a backfill's record.
type record struct {
	ID           string    `json:"id"`
	State        string    `json:"state"`
	Since        time.Time `json:"since"`
	Until        time.Time `json:"until"`
	Done         float64   `json:"done"`
	Published    int       `json:"published"`
	Suppressed   int       `json:"suppressed"`
	Requests     int       `json:"requests"`
	WouldPublish int       `json:"would_publish"`
	Error        string    `json:"error"`
	Note         string    `json:"note"`
	Refused      []struct{ Since, Until time.Time }
	ByType       map[string]int `json:"by_type"`
}

func (p *process) backfill(method, path, body string) (int, record) {
	status, text := p.do(method, "/backfill"+path, body)
	var r record
	if status != 0 {
		if err := json.Unmarshal(text, &r); err != nil {
			p.w.t.Errorf("%s /backfill%s: %d %s", method, path, status, text)
		}
	}
	return status, r
}

// past makes alerts of the days before the first run's look-back.
func past(seed uint64, n int) []dtmsim.Alert {
	now := time.Now().UTC()
	return dtmsim.Generate(seed, n, now.Add(-100*time.Hour), now.Add(-26*time.Hour), dtmsim.Shape{NoDoc: true, Ties: 0.05})
}

func TestBackfill(t *testing.T) {
	t.Parallel()
	alerts := past(30, 1200)
	w := newWorld(t, dtmsim.Options{Latency: 5 * time.Millisecond}, alerts)
	p := w.start()
	if _, r := p.post(""); r.Outcome != "ok" || r.Published != 0 {
		t.Fatalf("the live run: %+v", r)
	}

	status, b := p.backfill(http.MethodPost, "", `{"since":"110h","dry_run":true}`)
	if status != http.StatusOK || b.WouldPublish != len(alerts) || len(b.ByType) < 8 {
		t.Errorf("dry run: %d %+v", status, b)
	}
	if _, text := p.do(http.MethodGet, "/backfill", ""); !strings.Contains(string(text), `"backfills":[]`) {
		t.Errorf("the dry run left a trace: %s", text)
	}

	status, b = p.backfill(http.MethodPost, "", `{"since":"110h"}`)
	if status != http.StatusOK || b.State != "done" || b.Done != 1 || b.Published != len(alerts) {
		t.Errorf("backfill: %d %+v", status, b)
	}
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
	first := b.ID
	// The same text is a new backfill once the first is finished, and publishes nothing.
	if status, b = p.backfill(http.MethodPost, "", `{"since":"110h"}`); status != http.StatusOK || b.ID == first || b.Published != 0 || b.State != "done" {
		t.Errorf("the same again: %d %+v", status, b)
	}
	status, b = p.backfill(http.MethodPost, "", `{"since":"110h","republish":true,"id":"for-the-siem"}`)
	if status != http.StatusOK || b.ID != "for-the-siem" || b.Published != len(alerts) {
		t.Errorf("republish: %d %+v", status, b)
	}
	await(t, "everything once more", func() bool { return int(w.sub.total.Load()) >= 2*len(alerts) })
	if repeated := w.check(alerts); repeated != len(alerts) {
		t.Errorf("%d alerts came once more, want all %d", repeated, len(alerts))
	}
	w.sub.mu.Lock()
	for key, copies := range w.sub.alerts {
		ids := map[string]bool{}
		for _, m := range copies {
			ids[m.Attributes["backfill"]] = true
			if m.Attributes["event"] != "created" {
				t.Errorf("%s: event %s", key, m.Attributes["event"])
			}
		}
		if !ids[first] || !ids["for-the-siem"] {
			t.Fatalf("%s has the backfills %v", key, ids)
		}
	}
	w.sub.mu.Unlock()
	// Its id stands for it, also afterwards.
	if status, b = p.backfill(http.MethodPost, "", `{"since":"110h","republish":true,"id":"for-the-siem"}`); status != http.StatusOK || b.Published != len(alerts) {
		t.Errorf("the same id: %d %+v", status, b)
	}
	if status, _ = p.backfill(http.MethodPost, "", `{"since":"50h","id":"for-the-siem"}`); status != http.StatusConflict {
		t.Errorf("another range under that id: %d", status)
	}
	if status, b = p.backfill(http.MethodGet, "/for-the-siem", ""); status != http.StatusOK || b.State != "done" {
		t.Errorf("GET: %d %+v", status, b)
	}
	if status, _ = p.backfill(http.MethodGet, "/unknown", ""); status != http.StatusNotFound {
		t.Errorf("GET of an unknown one: %d", status)
	}
	var list struct {
		Backfills []record
		Next      string
	}
	seen := map[string]bool{}
	for next := ""; ; {
		_, text := p.do(http.MethodGet, "/backfill?limit=2&next="+next, "")
		list.Next = ""
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		for _, b := range list.Backfills {
			seen[b.ID] = true
		}
		if next = list.Next; next == "" {
			break
		}
	}
	if len(seen) != 3 {
		t.Errorf("listed %v, want 3 backfills", seen)
	}
}

func TestBackfillBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dtmsim.Options{}, nil)
	p := w.start()
	for _, c := range []struct {
		body string
		want int
		says []string
	}{
		{``, 400, []string{"since"}},
		{`{}`, 400, []string{"since"}},
		{`{"since":"yesterday"}`, 400, []string{"since", "72h"}},
		{`{"since":"-5h"}`, 400, []string{"since"}},
		{`{"since":72}`, 400, []string{"since", "string"}},
		{`{"since":"2h","until":"3h"}`, 400, []string{"reversed"}},
		{`{"since":"2h","until":"2h"}`, 400, []string{"empty"}},
		{`{"since":"2999-01-01T00:00:00Z"}`, 400, []string{"future"}},
		{`{"since":"1s"}`, 400, []string{"live position"}},
		{`{"since":"nope","until":"never","id":"a/b","filter":{"x":1,"severity":["odd"]},"zzz":1}`, 400, []string{"since", "until", "a/b", "filter", "severity", "zzz"}},
		{`{"since":"5h","republish":"yes"}`, 400, []string{"republish"}},
		{`{"since":"5h"`, 400, []string{"JSON"}},
		{`["5h"]`, 400, []string{"object"}},
		{`{"since":"5h","id":"` + strings.Repeat("x", 200) + `"}`, 400, []string{"id"}},
		{`{"since":"5h","id":"` + strings.Repeat("x", 1<<20) + `"}`, 413, nil},
	} {
		status, text := p.do(http.MethodPost, "/backfill", c.body)
		if status != c.want {
			t.Errorf("%.60s: %d %s, want %d", c.body, status, text, c.want)
		}
		for _, s := range c.says {
			if !strings.Contains(string(text), s) {
				t.Errorf("%.60s: %s does not say %q", c.body, text, s)
			}
		}
	}
	if _, text := p.do(http.MethodGet, "/backfill", ""); !strings.Contains(string(text), `"backfills":[]`) {
		t.Errorf("something was stored: %s", text)
	}
	if n := w.sim.Stats().Requests; n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestEqualBackfillsAtTheSameMoment(t *testing.T) {
	t.Parallel()
	alerts := past(31, 600)
	w := newWorld(t, dtmsim.Options{Latency: 20 * time.Millisecond}, alerts)
	gate := w.after(0) // a request that comes after the first one's end would mean another backfill
	processes := []*process{w.start(), w.start()}
	var calls sync.WaitGroup
	ids := make(chan string, 8)
	for i := range 8 {
		calls.Go(func() {
			status, b := processes[i%2].backfill(http.MethodPost, "", `{"since":"2026-01-01T00:00:00Z","until":"30h"}`)
			if status != http.StatusOK && status != http.StatusAccepted {
				t.Errorf("answered %d", status)
			}
			ids <- b.ID
		})
	}
	distinct := map[string]bool{}
	for range 7 {
		distinct[<-ids] = true
	}
	gate.open()
	calls.Wait()
	distinct[<-ids] = true
	if len(distinct) != 1 {
		t.Errorf("one text, backfills %v", distinct)
	}
}

func TestBackfillKilledAndOutOfTime(t *testing.T) {
	t.Parallel()
	alerts := past(32, 3000)
	w := newWorld(t, dtmsim.Options{Latency: 50 * time.Millisecond}, alerts)
	const body = `{"since":"110h","id":"all"}`
	gate := w.after(9)
	p := w.start("RUN_BUDGET=2s", "MAX_CONCURRENCY=2")
	status, b := p.backfill(http.MethodPost, "", body)
	// A slow machine may need the budget for what comes before the backfill.
	if status != http.StatusAccepted || b.State != "running" && b.State != "pending" || b.Done >= 1 {
		t.Errorf("out of time: %d %+v", status, b)
	}
	gate.open()
	p.kill()

	gate = w.after(6)
	p = w.start("MAX_CONCURRENCY=2")
	stopped := make(chan record, 1)
	go func() {
		status, b := p.backfill(http.MethodPost, "", body)
		if status != http.StatusAccepted {
			t.Errorf("told to stop, it answers %d", status)
		}
		stopped <- b
	}()
	w.published(gate)
	p.signal(syscall.SIGTERM)
	if b = <-stopped; b.State != "running" || b.Published == 0 || b.Done >= 1 {
		t.Errorf("told to stop: %+v", b)
	}
	<-p.done
	gate.open()

	for i, run := range []func(*process){
		func(p *process) { p.post("") }, // a live run works it too
		func(p *process) { p.backfill(http.MethodPost, "", body) },
	} {
		gate = w.after(4 + 3*i)
		p = w.start("MAX_CONCURRENCY=2")
		done := make(chan struct{})
		go func() {
			defer close(done)
			run(p)
		}()
		w.published(gate)
		p.kill()
		<-done
		gate.open()
		w.endLease()
	}
	p = w.start()
	await(t, "the backfill to be done", func() bool {
		_, b = p.backfill(http.MethodPost, "", body)
		return b.State == "done"
	})
	repeated := w.check(alerts)
	t.Logf("%d messages repeated", repeated)
	if repeated > 400 {
		t.Errorf("%d messages repeated; at most the pages under way at the kills may", repeated)
	}
}

func TestBackfillCancelled(t *testing.T) {
	t.Parallel()
	alerts := past(33, 3000)
	w := newWorld(t, dtmsim.Options{}, alerts)
	gate := w.after(6)
	p := w.start("MAX_CONCURRENCY=1")
	answered := make(chan record, 1)
	go func() {
		_, b := p.backfill(http.MethodPost, "", `{"since":"110h","id":"x"}`)
		answered <- b
	}()
	w.published(gate)
	status, b := p.backfill(http.MethodDelete, "/x", "")
	if status != http.StatusOK || b.State != "cancelled" {
		t.Errorf("DELETE: %d %+v", status, b)
	}
	if b = <-answered; b.State != "cancelled" || b.Published == 0 || b.Published == len(alerts) {
		t.Errorf("the backfill: %+v", b)
	}
	gate.open()
	n := w.sub.total.Load()
	if _, r := p.post(""); r.Outcome != "ok" || r.Published != 0 {
		t.Errorf("the run after it: %+v", r)
	}
	if after := w.sub.total.Load(); after > n+100 {
		t.Errorf("%d messages after the cancel", after-n)
	}
	if status, b = p.backfill(http.MethodDelete, "/x", ""); status != http.StatusOK || b.State != "cancelled" {
		t.Errorf("DELETE again: %d %+v", status, b)
	}
}

func TestLiveFeedBesideABackfill(t *testing.T) {
	t.Parallel()
	onlyLong(t, "it waits for the live feed's turn, a minute")
	alerts := past(34, 4000)
	w := newWorld(t, dtmsim.Options{Latency: 500 * time.Millisecond}, alerts)
	p := w.start("MAX_CONCURRENCY=1", "DTM_REFS=true", "SETTLE=1s", "RUN_BUDGET=100s")
	go p.backfill(http.MethodPost, "", `{"since":"110h","id":"x"}`)
	await(t, "some alerts", func() bool { return w.sub.total.Load() > 100 })
	fresh := dtmsim.Generate(99, 3, time.Now(), time.Now().Add(time.Second), dtmsim.Shape{NoDoc: true})
	w.sim.Add(fresh...)
	await(t, "the new alerts beside the backfill", func() bool {
		w.sub.mu.Lock()
		defer w.sub.mu.Unlock()
		for _, copies := range w.sub.alerts {
			if copies[0].Attributes["alert_id"] == fresh[2].ID && copies[0].Attributes["backfill"] == "" {
				return true
			}
		}
		return false
	})
	_, text := p.do(http.MethodGet, "/status", "")
	if !strings.Contains(string(text), `"backfills":[{"id":"x","state":"running"`) {
		t.Errorf("GET /status: %s", text)
	}
}

func TestBackfillPartlyRefused(t *testing.T) {
	t.Parallel()
	alerts := past(35, 800)
	w := newWorld(t, dtmsim.Options{SinceMaxAge: 60 * time.Hour}, alerts)
	p := w.start("MAX_LOOKBACK=60h", "INITIAL_LOOKBACK=2h")
	p.post("")
	status, b := p.backfill(http.MethodPost, "", `{"since":"110h"}`)
	if status != http.StatusOK || b.State != "done" || len(b.Refused) != 1 || b.Published == 0 {
		t.Errorf("the backfill: %d %+v", status, b)
	}
	_, text := p.do(http.MethodGet, "/status", "")
	if !strings.Contains(string(text), fmt.Sprintf(`"gaps":[{"since":%q`, b.Since.Format("2006-01-02T15:04:05.999Z07:00"))) {
		t.Errorf("GET /status: %s", text)
	}
}
