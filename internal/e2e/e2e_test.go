package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

func TestEveryAlertIsPublishedOnce(t *testing.T) {
	t.Parallel()
	alerts := recent(1, 2000)
	w := newWorld(t, dtmsim.Options{Latency: 5 * time.Millisecond, Gzip: true}, alerts)
	p := w.start()

	status, r := p.post(`{"dry_run":true}`)
	if status != http.StatusOK || r.Published != 0 || r.WouldPublish != len(alerts) || len(r.ByType) < 8 {
		t.Errorf("dry run: %d %+v", status, r)
	}
	if n := w.sub.total.Load(); n != 0 {
		t.Errorf("the dry run published %d messages", n)
	}
	if status, r = p.post(""); status != http.StatusOK || r.Outcome != "ok" || r.Published != len(alerts) {
		t.Errorf("first run: %d %+v", status, r)
	}
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
	if _, r = p.post(""); r.Outcome != "ok" || r.Published != 0 || r.Requests != 2 { // the live feed, and the sweep
		t.Errorf("a run with nothing new: %+v", r)
	}

	_, text := p.do(http.MethodGet, "/alerts/"+alerts[7].ID, "")
	var timeline struct {
		Statuses []struct{ Status, Origin string }
		Versions []struct{ Outcome, Event string }
	}
	if err := json.Unmarshal(text, &timeline); err != nil || len(timeline.Versions) != 1 ||
		timeline.Versions[0].Outcome != "published" || timeline.Versions[0].Event != "created" || len(timeline.Statuses) != 1 {
		t.Errorf("GET /alerts/{id}: %s", text)
	}
}

func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	alerts := recent(2, 3000)
	w := newWorld(t, dtmsim.Options{Latency: 10 * time.Millisecond}, alerts)
	for _, requests := range []int{3, 5, 8} {
		gate := w.after(requests)
		p := w.start()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if status, r := p.post(""); status != 0 {
				t.Errorf("a killed run answered %d %+v", status, r)
			}
		}()
		w.published(gate)
		p.kill()
		<-done
		gate.open()
		w.endLease()
	}
	w.finish(w.start())
	repeated := w.check(alerts)
	t.Logf("%d messages repeated", repeated)
	// Of each kill at most what was under way: a page for each worker.
	if most := 3 * 6 * 100; repeated > most {
		t.Errorf("%d messages repeated, want at most %d", repeated, most)
	}
}

// TestLeaseOfAKilledRunEnds: nobody need do anything after a kill.
func TestLeaseOfAKilledRunEnds(t *testing.T) {
	t.Parallel()
	onlyLong(t, "it waits for a lease to end, a minute")
	alerts := recent(2, 3000)
	w := newWorld(t, dtmsim.Options{}, alerts)
	gate := w.after(6)
	p := w.start()
	go p.post("")
	w.published(gate)
	p.kill()
	gate.open()
	runs := w.finish(w.start())
	if first := runs[0]; first.Outcome != "skipped" || first.Published != 0 {
		t.Errorf("the first run after the kill: %+v", first)
	}
	w.check(alerts)
}

func TestOverlappingRuns(t *testing.T) {
	t.Parallel()
	alerts := recent(3, 1500)
	w := newWorld(t, dtmsim.Options{}, alerts)
	gate := w.after(3)
	a, b := w.start(), w.start()
	outcomes := make(chan string, 6)
	for i := range 6 {
		go func() {
			status, r := []*process{a, b}[i%2].post("")
			if status != http.StatusOK {
				t.Errorf("overlapping run: %d %+v", status, r)
			}
			outcomes <- r.Outcome
		}()
	}
	for range 5 {
		if outcome := <-outcomes; outcome != "skipped" {
			t.Errorf("beside a run that is under way, one is %s", outcome)
		}
	}
	gate.open()
	if outcome := <-outcomes; outcome != "ok" {
		t.Errorf("the run is %s", outcome)
	}
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

func TestFrozenBeyondTheLease(t *testing.T) {
	t.Parallel()
	onlyLong(t, "it waits for a lease to end, a minute")
	alerts := recent(4, 3000)
	w := newWorld(t, dtmsim.Options{}, alerts)
	gate := w.after(8)
	a := w.start("MAX_CONCURRENCY=2")
	frozen := make(chan report, 1)
	go func() {
		_, r := a.post("")
		frozen <- r
	}()
	w.published(gate)
	a.signal(syscall.SIGSTOP)
	gate.open()
	w.finish(w.start())
	w.check(alerts)
	before := w.sub.total.Load()
	a.signal(syscall.SIGCONT)
	if r := <-frozen; r.Outcome != "failed" || r.StopReason != "lease_lost" {
		t.Errorf("the frozen run went on: %+v", r)
	}
	if repeated := w.check(alerts); repeated > 200 {
		t.Errorf("%d alerts came more than once; at most the batches under way may", repeated)
	}
	// A batch that was under way when the process was frozen may still arrive.
	if after := w.sub.total.Load(); after > before+200 {
		t.Errorf("the frozen run published %d messages after it lost the lease", after-before)
	}
}

func TestSIGTERM(t *testing.T) {
	t.Parallel()
	alerts := recent(5, 3000)
	w := newWorld(t, dtmsim.Options{}, alerts)
	gate := w.after(8)
	p := w.start("MAX_CONCURRENCY=2")
	stopped := make(chan report, 1)
	go func() {
		status, r := p.post("")
		if status != http.StatusOK {
			t.Errorf("the run that was told to stop answered %d", status)
		}
		stopped <- r
	}()
	w.published(gate)
	p.signal(syscall.SIGTERM)
	if r := <-stopped; r.Outcome != "partial" || r.StopReason != "shutdown" || r.Published == 0 || r.Published == len(alerts) {
		t.Errorf("the run that was told to stop: %+v", r)
	}
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	gate.open()
	// The lease was given back: the next run goes on at once.
	if _, r := w.start().post(""); r.Outcome != "ok" {
		t.Errorf("the run after it: %+v", r)
	}
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

func TestPubSubAndFirestoreCutOffOrSilent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		which func(*world) *proxy
		mode  mode
		long  bool
	}{
		{"Pub/Sub is cut off", func(w *world) *proxy { return w.pubsub }, cut, false},
		{"Pub/Sub is silent", func(w *world) *proxy { return w.pubsub }, silent, false},
		{"Firestore is cut off", func(w *world) *proxy { return w.store }, cut, true},
		{"Firestore is silent", func(w *world) *proxy { return w.store }, silent, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.long {
				onlyLong(t, "it waits for a lease to end, a minute")
			}
			alerts := recent(6, 2000)
			w := newWorld(t, dtmsim.Options{}, alerts)
			gate := w.after(6)
			// Its budget is beyond the time that it needs to give up.
			p := w.start("MAX_CONCURRENCY=2", "RUN_BUDGET=5m")
			failed := make(chan report, 1)
			go func() {
				status, r := p.post("")
				if status != http.StatusInternalServerError {
					t.Errorf("the run answered %d %+v", status, r)
				}
				failed <- r
			}()
			w.published(gate)
			c.which(w).set(c.mode)
			gate.open()
			if r := <-failed; r.Outcome != "failed" || r.Error == "" {
				t.Errorf("the run: %+v", r)
			}
			c.which(w).set(passes)
			w.finish(p)
			repeated := w.check(alerts)
			t.Logf("%d messages repeated", repeated)
			if repeated > 200 {
				t.Errorf("%d messages repeated; at most the pages under way may", repeated)
			}
		})
	}
}

func TestFaultsOfTheAPI(t *testing.T) {
	t.Parallel()
	alerts := recent(7, 2500)
	w := newWorld(t, dtmsim.Options{Latency: 2 * time.Millisecond, Tokens: dtmsim.Scroll, LinkHost: "https://api.intelligence.mandiant.com/v4"}, alerts)
	for i, f := range []dtmsim.Fault{
		{MalformedElement: `{"id":7,"created_at":"2026-03-02T10:00:00.5Z"}`},
		{MalformedElement: `42`},
		{Status: 429, RetryAfter: "1"},
		{Status: 503},
		{ResetBefore: true},
		{ResetAfter: true},
		{Truncate: 5000},
		{EmptyPage: dtmsim.EmptyWithheld},
		{NullAlerts: true},
		{RepeatToken: true},
		{Disorder: true},
		{HTML: true, Status: 502},
		{Slow: 100_000},
	} {
		f.Kind, f.Nth = dtmsim.Page, 2+2*i
		w.sim.AddFault(f)
	}
	p := w.start()
	runs := w.finish(p)
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
	rejected := 0
	for _, r := range runs {
		rejected += r.Rejected
	}
	if rejected != 2 {
		t.Errorf("%d elements rejected, want 2: %+v", rejected, runs)
	}
	t.Logf("%d runs, %d requests", len(runs), runs[0].Requests)
}

func TestBudgetEndsARun(t *testing.T) {
	t.Parallel()
	alerts := recent(8, 3000)
	// All of it takes 6 s, whatever the machine.
	w := newWorld(t, dtmsim.Options{Latency: 400 * time.Millisecond}, alerts)
	p := w.start("RUN_BUDGET=3s", "MAX_CONCURRENCY=2")
	if status, r := p.post(""); status != http.StatusOK || r.Outcome != "partial" || r.StopReason != "budget" {
		t.Errorf("the run: %d %+v", status, r)
	}
	p.kill()
	if runs := w.finish(w.start()); len(runs) != 1 {
		t.Errorf("the runs after it: %+v", runs)
	}
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

func TestCapIsExact(t *testing.T) {
	t.Parallel()
	alerts := recent(9, 1000)
	w := newWorld(t, dtmsim.Options{}, alerts)
	p := w.start("MAX_ALERTS_PER_RUN=333")
	var published []int
	for _, r := range w.finish(p) {
		published = append(published, r.Published)
	}
	want := []int{333, 333, 333, 1}
	for i := range want {
		if i >= len(published) || published[i] != want[i] {
			t.Fatalf("published in each run: %v, want %v", published, want)
		}
	}
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

func TestHangingAPIEndsWithTheBudget(t *testing.T) {
	t.Parallel()
	alerts := recent(10, 500)
	w := newWorld(t, dtmsim.Options{}, alerts)
	w.sim.AddFault(dtmsim.Fault{Kind: dtmsim.Page, Nth: 3, Hang: true})
	p := w.start("RUN_BUDGET=3s", "MAX_CONCURRENCY=1")
	if status, r := p.post(""); status != http.StatusOK || r.Outcome != "partial" || r.StopReason != "budget" {
		t.Errorf("the run: %d %+v", status, r)
	}
	w.finish(p)
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

func TestWrongKey(t *testing.T) {
	t.Parallel()
	alerts := recent(11, 2500)
	w := newWorld(t, dtmsim.Options{}, alerts)
	// Several slices are begun, so that several workers could ask at once.
	gate := w.after(11)
	p := w.start()
	stopped := make(chan report, 1)
	go func() {
		_, r := p.post("")
		stopped <- r
	}()
	w.published(gate)
	p.signal(syscall.SIGTERM)
	if r := <-stopped; r.StopReason != "shutdown" || r.Splits < 2 {
		t.Fatalf("the run before: %+v", r)
	}
	<-p.done
	gate.open()
	p = w.start()
	w.sim.SetKey("another-key")
	before := w.sim.Stats().Errors
	status, r := p.post("")
	if status != http.StatusBadGateway || r.Outcome != "failed" || r.StopReason != "key_refused" {
		t.Errorf("the run: %d %+v", status, r)
	}
	if n := w.sim.Stats().Errors - before; n < 1 || n > 2 {
		t.Errorf("%d answers of 400 and above, want 1 or 2", n)
	}
	w.sim.SetKey(apiKey)
	p.kill()
	w.finish(w.start())
	w.check(alerts)
}

func TestQuotaAndErrorBudget(t *testing.T) {
	t.Parallel()
	alerts := recent(12, 1000)
	w := newWorld(t, dtmsim.Options{}, alerts)
	p := w.start("MAX_REQUESTS_PER_DAY=5", "MAX_CONCURRENCY=1")
	req, err := http.Post(p.url+"/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer req.Body.Close()
	if req.StatusCode != http.StatusServiceUnavailable || req.Header.Get("Retry-After") == "" {
		t.Errorf("the day's requests are used up: %d, Retry-After %q", req.StatusCode, req.Header.Get("Retry-After"))
	}
	if n := w.sim.Stats().Requests; n != 5 {
		t.Errorf("%d requests were sent, want 5", n)
	}
	// Another process knows the count from the database.
	if status, r := w.start("MAX_REQUESTS_PER_DAY=5").post(""); status != http.StatusServiceUnavailable || r.StopReason != "request_limit" || r.Requests != 0 {
		t.Errorf("the next process: %d %+v", status, r)
	}
	w.sim.AddFault(dtmsim.Fault{Status: 429, Body: `{"error":{"code":"QuotaExceededError","message":"Quota exceeded"}}`, Times: 1})
	if status, r := w.start().post(""); status != http.StatusServiceUnavailable || r.Requests != 1 {
		t.Errorf("the API's quota is used up: %d %+v", status, r)
	}
	w.finish(w.start())
	w.check(alerts)
}

// TestHugeFieldsDoNotStopTheFeed: Firestore takes no document of over a megabyte.
func TestHugeFieldsDoNotStopTheFeed(t *testing.T) {
	t.Parallel()
	alerts := recent(14, 60)
	for i, field := range []string{"alert_type", "severity", "status", "monitor_id"} {
		alerts[10*i].Set(field, strings.Repeat("x", 2<<20))
	}
	w := newWorld(t, dtmsim.Options{}, alerts)
	if status, r := w.start().post(""); status != http.StatusOK || r.Outcome != "ok" || r.Published != len(alerts) {
		t.Errorf("the run: %d %+v", status, r)
	}
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

// TestOversized: an alert that is larger than a page may be, even alone and without its
// document, is known by what it was, and those after it come.
func TestOversized(t *testing.T) {
	t.Parallel()
	alerts := recent(14, 60)
	alerts[10].Set("alert_summary", strings.Repeat("x", 33<<20))
	w := newWorld(t, dtmsim.Options{}, alerts)
	if status, r := w.start().post(""); status != http.StatusOK || r.Outcome != "ok" || r.Published != len(alerts)-1 || r.Rejected != 1 {
		t.Errorf("the run: %d %+v", status, r)
	}
	w.check(append(slices.Clone(alerts[:10]), alerts[11:]...))
	if got := w.rejects(); !slices.Equal(got, []string{"too_large"}) {
		t.Errorf("rejected: %q", got)
	}
}

func TestMissingTopic(t *testing.T) {
	t.Parallel()
	alerts := recent(13, 100)
	w := newWorld(t, dtmsim.Options{}, alerts)
	status, r := w.start("PUBSUB_TOPIC=not-there").post("")
	if status != http.StatusInternalServerError || !strings.Contains(r.Error, "not-there") || !strings.Contains(r.Error, "topic") {
		t.Errorf("the run: %d %+v", status, r)
	}
	w.finish(w.start())
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

func TestBadConfigurationKeepsTheProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dtmsim.Options{}, nil)
	p := w.start("FEED=Bad!", "MAX_CONCURRENCY=99", `DTM_FILTER={"nope":1}`)
	for range 2 {
		status, text := p.do(http.MethodPost, "/", "")
		if status != http.StatusInternalServerError {
			t.Errorf("answered %d %s", status, text)
		}
	}
	for _, name := range []string{"FEED", "MAX_CONCURRENCY", "DTM_FILTER"} {
		if !strings.Contains(w.log(), name) {
			t.Errorf("the log does not name %s", name)
		}
	}
}

func TestHTTPErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dtmsim.Options{}, nil)
	p := w.start()
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/", "", 405},
		{"PUT", "/", "{}", 405},
		{"POST", "/status", "", 405},
		{"DELETE", "/alerts/x", "", 405},
		{"GET", "/nothing", "", 404},
		{"PUT", "/backfill", "{}", 405},
		{"POST", "/backfill/x", "{}", 405},
		{"POST", "/backfill", "{}", 400},
		{"GET", "/alerts/unknown", "", 404},
		{"GET", "/alerts/%20", "", 404},
		{"GET", "/alerts/" + strings.Repeat("x", 200), "", 404},
		{"POST", "/", `{"dry_run":"yes"}`, 400},
		{"POST", "/", `{"dryrun":true}`, 400},
		{"POST", "/", `[]`, 400},
		{"POST", "/", `null`, 400},
		{"POST", "/", `{} {}`, 400},
		{"POST", "/", `{`, 400},
		{"POST", "/", `{"dry_run":true}` + strings.Repeat(" ", 1<<20), 413},
	} {
		req, err := http.NewRequest(c.method, p.url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s %.40s: %d %s, want %d", c.method, c.path, c.body, resp.StatusCode, resp.Header.Get("Content-Type"), c.want)
		}
		if c.want == 405 && resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
	}
}

// TestRecordedSamples passes real traffic through, read where it lies.
func TestRecordedSamples(t *testing.T) {
	t.Parallel()
	const dir = "../../../shared/samples/recorded/"
	var elements []json.RawMessage
	for _, name := range []string{"01_list_message_refs_true_2023.json", "05_list_message_refs_false_2025.json", "07_list_web_content_refs_true_2024.json"} {
		text, err := os.ReadFile(dir + name)
		if err != nil {
			t.Skip("the recorded samples are not here: ", err)
		}
		var page struct{ Alerts []json.RawMessage }
		if err := json.Unmarshal(text, &page); err != nil {
			t.Fatal(err)
		}
		elements = append(elements, page.Alerts...)
	}
	created := func(e json.RawMessage) time.Time {
		a, err := dtmsim.ParseAlert(e)
		if err != nil {
			t.Fatal(err)
		}
		return a.CreatedAt
	}
	slices.SortFunc(elements, func(a, b json.RawMessage) int { return created(a).Compare(created(b)) })
	w := newWorld(t, dtmsim.Options{}, nil)
	w.api.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json; charset=UTF-8")
		_, _ = rw.Write([]byte(`{"alerts":[`))
		for i, e := range elements {
			if i > 0 {
				_, _ = rw.Write([]byte(","))
			}
			_, _ = rw.Write(e)
		}
		_, _ = rw.Write([]byte("]}\n"))
	})
	age := time.Since(created(elements[0])).Round(time.Hour) + 24*time.Hour
	_, r := w.start("INITIAL_LOOKBACK=" + age.String()).post("")
	if r.Outcome != "ok" || r.Published != len(elements) {
		t.Errorf("the run: %+v", r)
	}
	var alerts []dtmsim.Alert
	for _, e := range elements {
		var id struct{ ID string }
		_ = json.Unmarshal(e, &id)
		alerts = append(alerts, dtmsim.Alert{ID: id.ID, Slim: e})
	}
	w.check(alerts)
}
