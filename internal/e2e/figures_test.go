package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/emulatortest"
)

// The figures that the relay has to reach, each against a floor that is measured
// in the same run. internal/cmd/performance compares them with their budgets:
//
//	go test ./internal/e2e -run '^$' -bench . -benchtime 1x

// BenchmarkSequential drains 100 pages with one worker. The floor is a loop that
// only fetches the same pages.
func BenchmarkSequential(b *testing.B) {
	for _, latency := range []time.Duration{100 * time.Millisecond, 250 * time.Millisecond} {
		b.Run(latency.String(), func(b *testing.B) {
			for range b.N {
				alerts := spread(2495, 0, 0)
				w := newWorld(b, dtmsim.Options{Latency: latency, Gzip: true}, alerts)
				floor := w.fetchOnly(25)
				_, r := w.start("MAX_CONCURRENCY=1", "DTM_REFS=true").post("")
				w.want(r, len(alerts))
				reportTime(b, time.Duration(r.DurationMS)*time.Millisecond, floor)
				b.ReportMetric(float64(r.Requests)/100, "requests/page")
			}
		})
	}
}

// BenchmarkParallel drains with 8 workers. The floor is the time that the pages
// take when all workers fetch all the time.
func BenchmarkParallel(b *testing.B) {
	for _, c := range []struct {
		name        string
		share, part float64
	}{{"uniform", 0, 0}, {"90%_in_5%", 0.9, 0.05}} {
		for _, latency := range []time.Duration{250 * time.Millisecond, 600 * time.Millisecond} {
			b.Run(c.name+"/"+latency.String(), func(b *testing.B) {
				for range b.N {
					const pages = 320
					alerts := spread(pages*25-10, c.share, c.part)
					w := newWorld(b, dtmsim.Options{Latency: latency, Gzip: true}, alerts)
					page := w.fetchPage(25)
					floor := page * pages / 8
					_, r := w.start("MAX_CONCURRENCY=8", "DTM_REFS=true").post("")
					w.want(r, len(alerts))
					reportTime(b, time.Duration(r.DurationMS)*time.Millisecond, floor)
					b.ReportMetric(float64(r.Requests), "requests")
					b.ReportMetric(pages, "pages")
					b.ReportMetric(float64(r.Splits), "splits")
				}
			})
		}
	}
}

// reportTime reports how long something took, and the least that it can take.
func reportTime(b *testing.B, took, floor time.Duration) {
	b.Helper()
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric(floor.Seconds(), "s-floor")
	b.ReportMetric(took.Seconds()/floor.Seconds(), "time/floor")
}

// BenchmarkProcessorTime is the processor time of the whole function process for
// an alert of 2 KB: user and system time, divided by the alerts. It is compared with
// that of a plain feed of the same alerts.
func BenchmarkProcessorTime(b *testing.B) {
	plain := build(b, "plain")
	for range b.N {
		const n = 20_000
		measure := func(binary string, env ...string) float64 {
			w := newWorld(b, dtmsim.Options{Gzip: true}, spread(n, 0, 0))
			w.binary = binary
			p := w.start(env...)
			p.do(http.MethodGet, "/status", "") // what starting costs is not the alerts'
			before := p.processorTime()
			_, r := p.post("")
			used := p.processorTime() - before
			w.want(r, n)
			p.kill()
			return float64(used.Microseconds()) / n
		}
		floor := measure(plain, "FUNCTION_TARGET=Plain")
		ours := measure(binary, "MAX_CONCURRENCY=4")
		b.ReportMetric(ours, "cpu-µs/alert")
		b.ReportMetric(floor, "cpu-µs/plain")
		b.ReportMetric(ours/floor, "ratio")
	}
}

// build builds one of the functions that the relay is compared with.
func build(b *testing.B, name string) (path string) {
	b.Helper()
	path = filepath.Join(filepath.Dir(binary), name)
	if out, err := exec.Command("go", "build", "-o", path, "./"+name).CombinedOutput(); err != nil {
		b.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return path
}

// BenchmarkMemory is the most memory that the process ever had, with 8 workers: of
// 100,000 alerts, of a tenth of them, and of a function that only says hello.
func BenchmarkMemory(b *testing.B) {
	hello := build(b, "hello")
	for range b.N {
		w := newWorld(b, dtmsim.Options{}, nil)
		w.binary = hello
		p := w.start("FUNCTION_TARGET=Hello")
		p.do(http.MethodGet, "/", "")
		b.ReportMetric(p.peakRSS(), "MiB-hello")
		p.kill()
		for _, c := range []struct {
			alerts int
			metric string
		}{{10_000, "MiB-tenth"}, {100_000, "MiB"}} {
			w := newWorld(b, dtmsim.Options{Gzip: true}, spread(c.alerts, 0, 0))
			p := w.start("MAX_CONCURRENCY=8")
			_, r := p.post("")
			w.want(r, c.alerts)
			b.ReportMetric(p.peakRSS(), c.metric)
			p.kill()
		}
	}
}

// BenchmarkColdStart compares the time from starting the process to its first
// answer, without rules and with one, with that of a function that only says hello.
func BenchmarkColdStart(b *testing.B) {
	hello := build(b, "hello")
	w := newWorld(b, dtmsim.Options{}, nil)
	for range b.N {
		const runs = 30
		var ours, floor, ruled []time.Duration
		for range runs {
			// An answer that needs everything built, and asks nobody: hello asks nobody either.
			ours = append(ours, w.firstAnswer(binary, "Ingest", "/alerts/+", http.StatusNotFound))
			floor = append(floor, w.firstAnswer(hello, "Hello", "/", http.StatusOK))
			w.env["RULES"] = `[{"name":"first","when":"alert.severity == 'high'","then":{"priority":"P1"}}]`
			ruled = append(ruled, w.firstAnswer(binary, "Ingest", "/alerts/+", http.StatusNotFound))
			delete(w.env, "RULES")
		}
		slices.Sort(ours)
		slices.Sort(floor)
		slices.Sort(ruled)
		b.ReportMetric(float64(ours[runs/2])/float64(floor[runs/2]), "median/hello")
		b.ReportMetric(float64(ours[runs/2].Microseconds())/1000, "ms")
		b.ReportMetric(float64(floor[runs/2].Microseconds())/1000, "ms-hello")
		b.ReportMetric(float64(ruled[runs/2])/float64(floor[runs/2]), "one-rule/hello")
	}
}

// BenchmarkQuietRun counts what a live run with nothing new asks for, and what it
// writes beside the feed's document and the key's counters: once with no alert in its
// listings, and once with a page of them that the sweep lists again.
func BenchmarkQuietRun(b *testing.B) {
	now := time.Now().UTC()
	for _, c := range []struct {
		name   string
		alerts []dtmsim.Alert
	}{
		{"empty", spread(1000, 0, 0)},
		{"page", dtmsim.Generate(1, 20, now.Add(-5*time.Minute), now.Add(-2*time.Minute), dtmsim.Shape{NoDoc: true})},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, dtmsim.Options{}, c.alerts)
			p := w.start()
			_, r := p.post("")
			w.want(r, len(c.alerts))
			for range b.N {
				calls, written := w.store.calls(), w.revisions()
				_, r = p.post("")
				w.want(r, 0)
				b.ReportMetric(float64(w.store.calls()-calls), "firestore-calls")
				b.ReportMetric(float64(r.Requests), "requests")
				b.ReportMetric(float64(r.Fetched), "alerts-listed")
				others := 0
				for name, at := range w.revisions() {
					if written[name] != at && !strings.HasSuffix(name, "/documents/feeds/default") && !strings.Contains(name, "/documents/keys/") {
						others++
					}
				}
				b.ReportMetric(float64(others), "other-writes")
			}
		})
	}
}

// revisions is when each document of the database was last written.
func (w *world) revisions() map[string]string {
	w.t.Helper()
	url := fmt.Sprintf("http://%s/v1/projects/%s/databases/(default)/documents:runQuery", emulatortest.SharedFirestore(w.t), w.project)
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(`{"structuredQuery":{"from":[{"allDescendants":true}],"select":{"fields":[{"fieldPath":"__name__"}]}}}`))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer owner") // passes the emulator's rules
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var found []struct {
		Document struct {
			Name       string `json:"name"`
			UpdateTime string `json:"updateTime"`
		} `json:"document"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&found); err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("listing all documents: %s %v", resp.Status, err)
	}
	all := map[string]string{}
	for _, f := range found {
		all[f.Document.Name] = f.Document.UpdateTime
	}
	return all
}

// spread makes alerts of about 2 KB without documents, a share of them in a part of the time.
func spread(n int, share, part float64) []dtmsim.Alert {
	now := time.Now().UTC()
	return dtmsim.Generate(1, n, now.Add(-23*time.Hour), now.Add(-time.Hour), dtmsim.Shape{
		NoDoc: true, BurstShare: share, BurstSpan: part,
	})
}

func (w *world) want(r report, n int) {
	w.t.Helper()
	if r.Outcome != "ok" || r.Published != n {
		w.t.Fatalf("the run did not publish %d alerts: %+v", n, r)
	}
}

// fetchOnly fetches all pages, one after the other, and throws them away.
func (w *world) fetchOnly(size int) time.Duration {
	w.t.Helper()
	began := time.Now()
	query := "?sort=created_at&order=asc&life=10m&monitor_name=true&refs=true&size=" + strconv.Itoa(size)
	for next := regexp.MustCompile(`[?&]page=([^&>]+)`); ; {
		req, err := http.NewRequest(http.MethodGet, w.api.URL+"/api/v3/dtm/alerts"+query, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		req.Header.Set("X-Apikey", apiKey)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			w.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		m := next.FindStringSubmatch(resp.Header.Get("Link"))
		if m == nil {
			return time.Since(began)
		}
		query = "?page=" + url.QueryEscape(m[1])
	}
}

// fetchPage is how long one page takes, as the mean of some.
func (w *world) fetchPage(size int) time.Duration {
	w.t.Helper()
	const tries = 10
	began := time.Now()
	for range tries {
		req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("%s/api/v3/dtm/alerts?size=%d", w.api.URL, size), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		req.Header.Set("X-Apikey", apiKey)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			w.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	return time.Since(began) / tries
}

// processorTime is the user and system time of the process (proc(5): fields 14
// and 15 of stat, in ticks of 10 ms).
func (p *process) processorTime() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.w.t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peakRSS is the process's high-water mark in MiB (proc(5): VmHWM).
func (p *process) peakRSS() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.w.t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	kib, _ := strconv.Atoi(string(m[1]))
	return float64(kib) / 1024
}

// firstAnswer starts a function and waits for its first answer.
func (w *world) firstAnswer(binary, target, path string, want int) time.Duration {
	w.t.Helper()
	port := emulatortest.FreePort(w.t)
	cmd := exec.Command(binary)
	for k, v := range w.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Env = append(cmd.Env, "FUNCTION_TARGET="+target, "PORT="+port)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	for {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	resp, err := http.Get("http://127.0.0.1:" + port + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		var p any
		_ = json.NewDecoder(resp.Body).Decode(&p)
		w.t.Fatalf("%s answered %d: %v", target, resp.StatusCode, p)
	}
	return time.Since(began)
}

// BenchmarkBackfill backfills 50,000 alerts over five days, 80 % of them within
// two hours, with 8 workers. The floor is the time that the pages take when all
// workers fetch all the time.
func BenchmarkBackfill(b *testing.B) {
	for range b.N {
		// The emulators and the relay together do about 1,700 alerts a second on two
		// cores: pages of 25 keep the floor well below that.
		const n, latency = 50_000, 250 * time.Millisecond
		now := time.Now().UTC()
		alerts := dtmsim.Generate(1, n, now.Add(-122*time.Hour), now.Add(-2*time.Hour), dtmsim.Shape{
			NoDoc: true, BurstShare: 0.8, BurstSpan: 2.0 / 120,
		})
		w := newWorld(b, dtmsim.Options{Latency: latency, Gzip: true}, alerts)
		const pages = n / 25
		floor := w.fetchPage(25) * pages / 8
		p := w.start("MAX_CONCURRENCY=8", "INITIAL_LOOKBACK=1h", "DTM_REFS=true")
		p.post("")
		began, asked := time.Now(), w.sim.Stats().Requests
		status, r := p.backfill(http.MethodPost, "", `{"since":"125h"}`)
		took := time.Since(began)
		if status != http.StatusOK || r.Published != n {
			b.Fatalf("the backfill: %d %+v", status, r)
		}
		reportTime(b, took, floor)
		b.ReportMetric(float64(w.sim.Stats().Requests-asked), "requests")
		b.ReportMetric(pages, "pages")
		b.ReportMetric(p.peakRSS(), "MiB")
	}
}
