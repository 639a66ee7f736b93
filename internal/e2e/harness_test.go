// Package e2e runs the built function as a process, against the emulators and
// the simulator, and breaks what it depends on.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	// Without it the function is no dependency of this package, and go test shows
	// the cached result of another one.
	_ "dtmrelay.internal/dtmrelay"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/emulatortest"
)

// binary is the function, built once.
var binary string

var long = flag.Bool("long", false, "run what waits for minutes, or builds what is uploaded, and only that")

// longTests are those that call onlyLong. The others run without the flag, and once is
// enough.
var longTests = []string{
	"TestLiveFeedBesideABackfill", "TestLeaseOfAKilledRunEnds", "TestFrozenBeyondTheLease", "TestPubSubAndFirestoreCutOffOrSilent",
	"TestUpload", "TestWriteBackWithoutItsDatabase",
}

// onlyLong skips a scenario that a newcomer need not wait for.
func onlyLong(t *testing.T, why string) {
	t.Helper()
	if name, _, _ := strings.Cut(t.Name(), "/"); !slices.Contains(longTests, name) {
		t.Fatalf("%s is not among longTests, so that nothing runs it", name)
	}
	if !*long {
		t.Skip(why + "; it runs with: go test ./internal/e2e -long")
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Most of a scenario is waiting: for latencies, budgets, the end of a lease.
	defaults := map[string]string{"test.parallel": "8"}
	if *long {
		defaults["test.run"] = "^(" + strings.Join(longTests, "|") + ")$"
	}
	flag.Visit(func(f *flag.Flag) { delete(defaults, f.Name) })
	for name, value := range defaults {
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "dtmrelay-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "ingest")
	build := exec.Command("go", "build", "-o", binary, "./ingest")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the function:", err)
		return 1
	}
	return emulatortest.Main(m)
}

const apiKey = "e2e-key-0123456789abcdef0123456789abcdef"

// world is everything that the function talks to, for one test.
type world struct {
	t       testing.TB
	project string
	sim     *dtmsim.Server
	api     *httptest.Server
	gate    atomic.Pointer[gate]
	pubsub  *proxy
	store   *proxy
	env     map[string]string
	sub     *subscriber
	binary  string // the function
	logs    *bytes.Buffer
	broken  bytes.Buffer // the requests that got no answer
	logging sync.Mutex
}

var projects atomic.Int64

// newWorld makes a project of its own in the shared emulators, and a simulator.
func newWorld(t testing.TB, o dtmsim.Options, alerts []dtmsim.Alert) *world {
	t.Helper()
	o.Key = apiKey
	w := &world{
		t: t, project: fmt.Sprintf("e2e-%d-%d", os.Getpid(), projects.Add(1)), logs: new(bytes.Buffer), binary: binary,
		sim: dtmsim.New(o, alerts),
	}
	w.pubsub = newProxy(t, emulatortest.SharedPubSub(t))
	w.store = newProxy(t, emulatortest.SharedFirestore(t))
	w.api = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if g := w.gate.Load(); g != nil {
			g.pass(r)
		}
		w.sim.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.api.Close)
	w.sub = subscribe(t, w.project)
	w.env = map[string]string{
		"GOOGLE_CLOUD_PROJECT":    w.project,
		"PUBSUB_TOPIC":            "dtm-alerts",
		"REJECTS_TOPIC":           "dtm-rejects",
		"GTI_API_KEY":             apiKey,
		"GTI_BASE_URL":            w.api.URL + "/api/v3",
		"FIRESTORE_EMULATOR_HOST": w.store.addr,
		"PUBSUB_EMULATOR_HOST":    w.pubsub.addr,
		"DTM_REFS":                "false",
		"REDACT":                  "[]", // scenarios compare bytes
		"MAX_QPS":                 "1000",
		"MONITORS_CHECK":          "0", // scenarios count requests
		"FUNCTION_TARGET":         "Ingest",
		"HOME":                    t.TempDir(),
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.logging.Lock()
			defer w.logging.Unlock()
			t.Logf("the function's log:\n%s", w.logs)
			t.Logf("requests without an answer:\n%s", &w.broken)
		}
		if bytes.Contains(w.logs.Bytes(), []byte(apiKey)) {
			t.Error("the API key is in the log")
		}
	})
	return w
}

// Write collects the log of all processes.
func (w *world) Write(p []byte) (int, error) {
	w.logging.Lock()
	defer w.logging.Unlock()
	return w.logs.Write(p)
}

func (w *world) log() string {
	w.logging.Lock()
	defer w.logging.Unlock()
	return w.logs.String()
}

// gate lets some list requests through, and keeps the later ones until it is
// opened: what a test breaks then breaks in the middle of a run, on a machine of
// any speed.
type gate struct {
	left    atomic.Int64
	first   sync.Once
	reached chan struct{} // closed when the first one is kept
	opened  chan struct{}
	open    func()
}

// after makes the gate of w one that so many list requests pass.
func (w *world) after(requests int) *gate {
	g := &gate{reached: make(chan struct{}), opened: make(chan struct{})}
	g.left.Store(int64(requests))
	g.open = sync.OnceFunc(func() { close(g.opened) })
	w.t.Cleanup(g.open)
	w.gate.Store(g)
	return g
}

func (g *gate) pass(r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/dtm/alerts") || g.left.Add(-1) >= 0 {
		return
	}
	g.first.Do(func() { close(g.reached) })
	select {
	case <-g.opened:
	case <-r.Context().Done():
	}
}

// published waits until the gate is reached and something has come.
func (w *world) published(g *gate) {
	w.t.Helper()
	await(w.t, "a run to stand at the gate, with something published", func() bool {
		select {
		case <-g.reached:
			return w.sub.total.Load() > 0
		default:
			return false
		}
	})
}

// endLease ends the lease that a killed process held, a minute before it would
// end by itself.
func (w *world) endLease() {
	w.t.Helper()
	url := fmt.Sprintf("http://%s/v1/projects/%s/databases/(default)/documents/feeds/default"+
		"?updateMask.fieldPaths=lease.expires_at&currentDocument.exists=true", emulatortest.SharedFirestore(w.t), w.project)
	body := fmt.Sprintf(`{"fields":{"lease":{"mapValue":{"fields":{"expires_at":{"timestampValue":%q}}}}}}`,
		time.Now().UTC().Format(time.RFC3339Nano))
	req, err := http.NewRequest(http.MethodPatch, url, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer owner") // passes the emulator's rules
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(text, []byte(`"owner"`)) {
		w.t.Fatalf("ending the lease: %s %v\n%s", resp.Status, err, text)
	}
}

// process is one instance of the function.
type process struct {
	w    *world
	cmd  *exec.Cmd
	url  string
	done chan struct{}
}

// start starts an instance and waits until it listens.
func (w *world) start(env ...string) *process {
	w.t.Helper()
	port := emulatortest.FreePort(w.t)
	p := &process{w: w, url: "http://127.0.0.1:" + port, done: make(chan struct{})}
	p.cmd = exec.Command(w.binary)
	for k, v := range w.env {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	p.cmd.Env = append(append(p.cmd.Env, env...), "PORT="+port)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	w.t.Cleanup(func() { p.signal(syscall.SIGCONT); p.kill() })
	await(w.t, "the function to listen", func() bool {
		select {
		case <-p.done:
			w.t.Fatalf("the function ended: %s", p.cmd.ProcessState)
		default:
		}
		return p.listens()
	})
	return p
}

// listens reports whether the server answers. net/http itself answers OPTIONS *, so the
// function doesn't see the request.
func (p *process) listens() bool {
	ctx, cancel := context.WithTimeout(p.w.t.Context(), 10*time.Second) // whatever listens there may be silent
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodOptions, p.url, http.NoBody)
	if err != nil {
		p.w.t.Fatal(err)
	}
	req.URL.Opaque, req.Close = "*", true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// kill ends the instance as a crash does.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// report is what the tests read of a run report.
type report struct {
	Outcome    string `json:"outcome"`
	StopReason string `json:"stop_reason"`
	Published  int    `json:"published"`
	Created    int    `json:"created"`
	Updated    int    `json:"updated"`
	LeftAlone  int    `json:"left_alone"`
	Rejected   int    `json:"rejected"`
	Dropped    int    `json:"dropped"`
	Redacted   int    `json:"redacted"`

	StatusChanged int `json:"status_changed"`

	Fetched    int    `json:"fetched"`
	Suppressed int    `json:"suppressed"`
	Requests   int    `json:"requests"`
	Splits     int    `json:"splits"`
	DurationMS int64  `json:"duration_ms"`
	Errors     int    `json:"error_answers"`
	Error      string `json:"error"`

	WouldPublish int            `json:"would_publish"`
	ByType       map[string]int `json:"by_type"`
}

// post runs the function and returns its answer. A connection that breaks gives status 0.
func (p *process) post(body string) (int, report) {
	status, text := p.do(http.MethodPost, "/", body)
	var r report
	if status != 0 {
		if err := json.Unmarshal(text, &r); err != nil {
			p.w.t.Errorf("POST /: %d %s", status, text)
		}
	}
	return status, r
}

func (p *process) do(method, path, body string) (int, []byte) {
	return p.doAs(nil, method, path, body)
}

// doAs sends a request with headers that say who sends it.
func (p *process) doAs(header http.Header, method, path, body string) (int, []byte) {
	req, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.w.t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	text, status, err := send(req)
	if err != nil { // what some tests are for; where it isn't, this says why the test fails
		state := "it runs"
		select {
		case <-p.done:
			state = p.cmd.ProcessState.String()
		default:
		}
		p.w.logging.Lock()
		defer p.w.logging.Unlock()
		fmt.Fprintf(&p.w.broken, "%s %s: %v; the process: %s\n", method, path, err, state)
		return 0, nil
	}
	if bytes.Contains(text, []byte(apiKey)) {
		p.w.t.Errorf("%s %s: the API key is in the answer", method, path)
	}
	return status, text
}

func send(req *http.Request) (text []byte, status int, err error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	return text, resp.StatusCode, err
}

// finish runs until a run ends ok, as the scheduler would, and returns the runs.
func (w *world) finish(p *process) (runs []report) {
	w.t.Helper()
	await(w.t, "a run that ends ok", func() bool {
		status, r := p.post("")
		runs = append(runs, r)
		if r.Outcome != "ok" {
			time.Sleep(500 * time.Millisecond) // the scheduler's interval
		}
		return status == http.StatusOK && r.Outcome == "ok"
	})
	return runs
}

// subscriber holds everything that was published.
type subscriber struct {
	mu      sync.Mutex
	alerts  map[string][]*pubsub.Message // by dedupe_key
	ids     map[string]bool              // of alerts
	rejects []*pubsub.Message
	status  []*pubsub.Message // write-backs that rules ask for
	known   map[string]bool   // ids of messages
	total   atomic.Int64
}

func subscribe(t testing.TB, project string) *subscriber {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	client, err := pubsub.NewClient(ctx, project,
		option.WithEndpoint(emulatortest.SharedPubSub(t)), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	s := &subscriber{alerts: map[string][]*pubsub.Message{}, ids: map[string]bool{}, known: map[string]bool{}}
	var receiving sync.WaitGroup
	for _, topic := range []string{"dtm-alerts", "dtm-rejects", "dtm-status"} {
		name := "projects/" + project + "/topics/" + topic
		if _, err := client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: name}); err != nil {
			t.Fatal(err)
		}
		sub, err := client.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{
			Name: "projects/" + project + "/subscriptions/" + topic, Topic: name, AckDeadlineSeconds: 60,
		})
		if err != nil {
			t.Fatal(err)
		}
		receiving.Go(func() {
			_ = client.Subscriber(sub.GetName()).Receive(ctx, func(_ context.Context, m *pubsub.Message) {
				s.mu.Lock()
				defer s.mu.Unlock()
				m.Ack()
				// What Pub/Sub delivers again, because the machine was slow to
				// acknowledge it, was not published again.
				if s.known[topic+m.ID] {
					return
				}
				s.known[topic+m.ID] = true
				switch topic {
				case "dtm-rejects":
					s.rejects = append(s.rejects, m)
					return
				case "dtm-status":
					s.status = append(s.status, m)
					return
				}
				s.alerts[m.Attributes["dedupe_key"]] = append(s.alerts[m.Attributes["dedupe_key"]], m)
				s.ids[m.Attributes["alert_id"]] = true
				s.total.Add(1)
			})
		})
	}
	t.Cleanup(func() {
		cancel()
		receiving.Wait()
		_ = client.Close()
	})
	return s
}

// check waits until every alert has come, and proves that its bytes are the same.
// It returns how many copies there are beside the first ones.
func (w *world) check(alerts []dtmsim.Alert) (repeated int) {
	w.t.Helper()
	want := map[string][]byte{}
	for _, a := range alerts {
		want[a.ID] = a.Element(false, true)
	}
	found := func() int {
		w.sub.mu.Lock()
		defer w.sub.mu.Unlock()
		n := 0
		for id := range want {
			if w.sub.ids[id] {
				n++
			}
		}
		return n
	}
	await(w.t, fmt.Sprintf("%d alerts in the subscription", len(want)), func() bool { return found() == len(want) })
	w.sub.mu.Lock()
	defer w.sub.mu.Unlock()
	for key, copies := range w.sub.alerts {
		repeated += len(copies) - 1
		for _, m := range copies {
			id := m.Attributes["alert_id"]
			if !bytes.Equal(m.Data, want[id]) {
				w.t.Fatalf("alert %s (%s) was changed on its way:\n got %s\nwant %s", id, key, m.Data, want[id])
			}
		}
	}
	return repeated
}

// proxy passes a TCP connection on, cuts it, or keeps it and says nothing.
type proxy struct {
	addr   string
	target string
	mu     sync.Mutex
	mode   mode
	conns  map[net.Conn]bool
	silent chan struct{} // closed when it speaks again

	requests atomic.Int64
}

// calls is how many gRPC calls were made through the proxy: each begins with a
// HEADERS frame (RFC 9113, type 1) of the client's.
func (p *proxy) calls() int64 { return p.requests.Load() }

// count looks at the frames that a client sends.
func (p *proxy) count(frames *[]byte, part []byte) {
	const preface, head = 24, 9
	*frames = append(*frames, part...)
	for len(*frames) >= preface && string((*frames)[:3]) == "PRI" {
		*frames = (*frames)[preface:]
	}
	for len(*frames) >= head {
		f := *frames
		size := head + int(f[0])<<16 + int(f[1])<<8 + int(f[2])
		if len(f) < size {
			return
		}
		if f[3] == 1 {
			p.requests.Add(1)
		}
		*frames = f[size:]
	}
}

type mode int

const (
	passes mode = iota
	cut
	silent
)

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), target: target, conns: map[net.Conn]bool{}, silent: make(chan struct{})}
	close(p.silent)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		p.set(cut)
	})
	return p
}

// set changes the mode, also for the connections that are open.
func (p *proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == silent {
		close(p.silent)
	}
	if p.mode = m; m == silent {
		p.silent = make(chan struct{})
	}
	if m == cut {
		for c := range p.conns {
			_ = c.Close()
		}
	}
}

func (p *proxy) pass(c net.Conn) {
	p.mu.Lock()
	if p.mode == cut {
		p.mu.Unlock()
		_ = c.Close()
		return
	}
	p.mu.Unlock()
	far, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[far] = true, true
	if p.mode == cut { // since it was looked at
		_ = c.Close()
		_ = far.Close()
	}
	p.mu.Unlock()
	copying := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		var frames []byte
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			p.mu.Lock()
			wait := p.silent
			p.mu.Unlock()
			<-wait
			if from == c {
				p.count(&frames, buf[:n])
			}
			if n > 0 {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go copying(far, c)
	copying(c, far)
}

// patience is how long a test waits for what must come: far longer than it takes,
// also on a machine that is busy with other things, and with a lease to end first.
const patience = 4 * time.Minute

// await polls a condition that another process brings about.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// recent makes alerts of the last hours, about 2 KB each.
func recent(seed uint64, n int) []dtmsim.Alert {
	now := time.Now().UTC()
	shape := dtmsim.Typical()
	shape.Late, shape.Rewritten, shape.Closed = 0, 0, 0
	return dtmsim.Generate(seed, n, now.Add(-20*time.Hour), now.Add(-5*time.Minute), shape)
}
