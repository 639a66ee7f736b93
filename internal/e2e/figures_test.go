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
// in the same run:
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
				b.ReportMetric(time.Duration(r.DurationMS*1e6).Seconds()/floor.Seconds(), "time/floor")
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
					b.ReportMetric(time.Duration(r.DurationMS*1e6).Seconds()/floor.Seconds(), "time/floor")
					b.ReportMetric(float64(r.Requests)/pages, "requests/page")
					b.ReportMetric(float64(r.Splits), "splits")
				}
			})
		}
	}
}

// BenchmarkProcessorTime is the processor time of the whole function process for
// an alert of 2 KB: user and system time, divided by the alerts.
func BenchmarkProcessorTime(b *testing.B) {
	for range b.N {
		const n = 20_000
		w := newWorld(b, dtmsim.Options{Gzip: true}, spread(n, 0, 0))
		p := w.start("MAX_CONCURRENCY=4")
		p.do(http.MethodGet, "/status", "") // what starting costs is not the alerts'
		before := p.processorTime()
		_, r := p.post("")
		w.want(r, n)
		b.ReportMetric(float64((p.processorTime()-before).Microseconds())/n, "µs-cpu/alert")
	}
}

// BenchmarkMemory is the most memory that the process ever had, with 8 workers.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for range b.N {
				w := newWorld(b, dtmsim.Options{Gzip: true}, spread(n, 0, 0))
				p := w.start("MAX_CONCURRENCY=8")
				_, r := p.post("")
				w.want(r, n)
				b.ReportMetric(p.peakRSS(), "MiB")
			}
		})
	}
}

// BenchmarkColdStart compares the time from starting the process to its first
// answer, without rules and with one, with that of a function that only says hello.
func BenchmarkColdStart(b *testing.B) {
	hello := filepath.Join(filepath.Dir(binary), "hello")
	if out, err := exec.Command("go", "build", "-o", hello, "./hello").CombinedOutput(); err != nil {
		b.Fatalf("building hello: %v\n%s", err, out)
	}
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
		b.ReportMetric(float64(ruled[runs/2])/float64(floor[runs/2]), "one-rule/hello")
	}
}

// BenchmarkQuietRun counts what a live run with nothing new asks for.
func BenchmarkQuietRun(b *testing.B) {
	w := newWorld(b, dtmsim.Options{}, spread(1000, 0, 0))
	p := w.start()
	_, r := p.post("")
	w.want(r, 1000)
	for range b.N {
		calls := w.store.calls()
		_, r = p.post("")
		b.ReportMetric(float64(w.store.calls()-calls), "firestore-calls")
		b.ReportMetric(float64(r.Requests), "requests")
	}
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
		b.ReportMetric(took.Seconds()/floor.Seconds(), "time/floor")
		b.ReportMetric(float64(w.sim.Stats().Requests-asked)/pages, "requests/page")
		b.ReportMetric(p.peakRSS(), "MiB")
	}
}
