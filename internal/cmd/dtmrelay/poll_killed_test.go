package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
)

// TestPollKilled: a poll that is killed at any moment loses nothing. What was under way
// then may come again, with the same dedupe_key, and nothing else does.
//
// A moment is the number of an event: a request to GTI or to the webhook comes in or is
// answered, or a line comes out. The moments are spread over a history of two polls, the
// second of which finds changes and alerts that came late into the index.
func TestPollKilled(t *testing.T) {
	t.Parallel()
	moments := 50
	if testing.Short() {
		moments = 5
	}
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	for n, output := range []string{"lines", "webhook", "exec"} {
		t.Run(output, func(t *testing.T) {
			t.Parallel()
			whole := newHistory(t, program, output, 0)
			whole.live()
			whole.check()
			for i := n; i < moments; i += 3 {
				// The last tenth is left out, because the number of requests differs a little.
				moment := 1 + (2*i+1)*whole.events*9/10/(2*moments)
				h := newHistory(t, program, output, moment)
				h.live()
				h.check()
				if t.Failed() {
					t.Fatalf("killed at event %d of %d", moment, whole.events)
				}
			}
		})
	}
}

// killedPage is how many alerts a page has at most in TestPollKilled.
const killedPage = 10

// history is what GTI has, and what polls on one folder make of it.
type history struct {
	t       *testing.T
	api     *dtmsim.Server
	dir     string
	poll    []string
	env     []string
	output  string
	wanted  map[string]bool // dedupe keys
	workers int             // how many pages are under way at once

	mu      sync.Mutex
	process *os.Process
	moment  int // the number of the event at which it is killed; 0: never
	events  int
	killed  bool
	keys    []string // of what was delivered
	before  int      // how many of them before the kill
	broken  int      // deliveries that the kill has cut
}

func newHistory(t *testing.T, program, output string, moment int) *history {
	t.Helper()
	h := &history{t: t, output: output, moment: moment, dir: t.TempDir(), wanted: map[string]bool{}, workers: 1}
	now := time.Now()
	alerts := dtmsim.Generate(1, 40, now.Add(-20*time.Hour), now.Add(-time.Hour), dtmsim.Shape{NoDoc: true, Plain: true, Size: 500})
	h.api = dtmsim.New(dtmsim.Options{Key: "key", MaxSize: killedPage}, alerts)
	api := httptest.NewServer(h.counted(h.api))
	t.Cleanup(api.Close)
	h.poll = []string{program, "poll", "--polls", "1"}
	h.env = []string{
		"PATH=" + os.Getenv("PATH"), "GTI_BASE_URL=" + api.URL + apiPath, "GTI_API_KEY=key", "SETTLE=0s",
		"MAX_QPS=1000", "MAX_CONCURRENCY=2", "MESSAGE_FORMAT=incident",
	}
	switch output {
	case "webhook":
		receiver := httptest.NewServer(h.counted(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if body, err := io.ReadAll(r.Body); err == nil {
				h.deliver(body)
			}
		})))
		t.Cleanup(receiver.Close)
		h.poll = append(h.poll, "--webhook", receiver.URL, "--output", "lines")
	case "exec":
		// A kill may cut what the command reads.
		h.poll = append(h.poll, "--exec", `read -r line; printf '%s\n' "$line" >>taken`)
	default:
		h.workers = 2 // MAX_CONCURRENCY
	}
	return h
}

// counted makes events of a server's requests and answers.
func (h *history) counted(server http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.event()
		server.ServeHTTP(w, r)
		_ = http.NewResponseController(w).Flush() // fails after a kill
		h.event()
	})
}

// event kills the poll if this is the moment.
func (h *history) event() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events++
	if h.events == h.moment {
		h.killed = true
		_ = h.process.Kill() // once knows whether it was
	}
}

// deliver notes an incident that was taken.
func (h *history) deliver(text []byte) {
	var incident struct {
		Key string `json:"dedupe_key"`
	}
	err := json.Unmarshal(text, &incident)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || incident.Key == "" {
		h.broken++
	} else {
		h.keys = append(h.keys, incident.Key)
	}
}

// live polls, lets GTI change something, and polls again.
func (h *history) live() {
	h.t.Helper()
	h.run()
	now := time.Now()
	for i, a := range h.visible() {
		if i%4 == 0 {
			h.api.Update(a.ID, func(a *dtmsim.Alert) { a.Status = "closed" })
		}
	}
	// They were created before the first poll.
	h.api.Add(dtmsim.Generate(2, 12, now.Add(-3*time.Minute), now.Add(-2*time.Minute), dtmsim.Shape{NoDoc: true, Plain: true, Size: 500})...)
	h.run()
}

// visible is what GTI has now. All of it has to be delivered.
func (h *history) visible() []dtmsim.Alert {
	h.t.Helper()
	all, err := h.api.Visible(time.Now(), url.Values{})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, a := range all {
		h.wanted[message.DedupeKey(a.ID, a.UpdatedAt)] = true
	}
	return all
}

// run polls to the end. A poll that was killed is begun anew.
func (h *history) run() {
	h.t.Helper()
	if h.once() {
		h.before = len(h.keys)
		h.once()
	}
}

// once polls, and reports whether it was killed.
func (h *history) once() (killed bool) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), h.poll[0], h.poll[1:]...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = h.dir, h.env, &deliveredLines{history: h}, &stderr
	h.mu.Lock()
	err := cmd.Start()
	h.process = cmd.Process
	h.mu.Unlock()
	if err != nil {
		h.t.Fatal(err)
	}
	// It also waits for a command of --exec, whose standard error is the same pipe.
	err = cmd.Wait()
	killed = cmd.ProcessState.ExitCode() < 0
	if err != nil && !killed {
		h.t.Fatalf("%v: %s", err, &stderr)
	}
	taken := filepath.Join(h.dir, "taken")
	text, err := os.ReadFile(taken)
	if errors.Is(err, os.ErrNotExist) {
		return killed
	}
	if err := errors.Join(err, os.Remove(taken)); err != nil {
		h.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		h.deliver(line)
	}
	return killed
}

// deliveredLines makes an event of each line that comes out.
type deliveredLines struct {
	*history
	rest []byte
}

func (l *deliveredLines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		if l.output == "lines" {
			l.deliver(line)
		}
		l.event()
		l.rest = rest
	}
}

func (h *history) check() {
	h.t.Helper()
	if h.killed != (h.moment > 0) {
		h.t.Errorf("killed: %t, with %d events", h.killed, h.events)
	}
	h.visible()
	seen := map[string][]int{}
	for i, key := range h.keys {
		seen[key] = append(seen[key], i)
		if !h.wanted[key] {
			h.t.Errorf("%s is no version of an alert", key)
		}
	}
	for key := range h.wanted {
		switch at := seen[key]; {
		case len(at) == 0:
			h.t.Errorf("%s is lost", key)
		case len(at) > 2, len(at) == 2 && (at[0] < h.before-h.workers*killedPage || at[1] < h.before):
			h.t.Errorf("%s was delivered as number %v; %d were delivered before the kill", key, at, h.before)
		}
	}
	if h.broken > 1 || h.broken > 0 && !h.killed {
		h.t.Errorf("%d deliveries were cut", h.broken)
	}
}
