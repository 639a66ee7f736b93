package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// flat is an hour in which the ledger grows, and nothing else.
func flat() *series {
	s := newSeries()
	for n := range 60 {
		at := time.Duration(n) * time.Minute
		s.add(records, at, float64(2000+200*n))
		s.add(requests, at, float64(30+n%3))
		for _, process := range []string{ingest, syncStatus} {
			s.add(process+memory, at, 50e6+float64(n*200*200))
			s.add(process+heap, at, 5e6)
			s.add(process+goroutines, at, 30)
			s.add(process+threads, at, 10)
			s.add(process+files, at, 20)
		}
	}
	for name, value := range map[string]float64{created: 14000, published: 14500, lost: 0, done: 10, undone: 0, ended: 0, runs + "ok": 60} {
		s.add(name, time.Hour, value)
	}
	return s
}

// TestVerdict: each thing that must not be is found.
func TestVerdict(t *testing.T) {
	t.Parallel()
	// grow makes a series grow by so much in each minute.
	grow := func(name string, by float64) func(*series) {
		return func(s *series) {
			for i := range s.points[name] {
				s.points[name][i].value += by * float64(i)
			}
		}
	}
	set := func(name string, value float64) func(*series) {
		return func(s *series) { s.points[name] = []point{{time.Hour, value}} }
	}
	for _, c := range []struct {
		name  string
		spoil func(*series)
		says  string // empty: there is no problem
	}{
		{"flat", func(*series) {}, ""},
		{"memory within what is remembered of the alerts", grow(ingest+memory, 40e3), ""},
		{"the same, where nothing is remembered", grow(syncStatus+memory, 150e3), "sync memory grows from"},
		{"memory", grow(ingest+memory, 200e3), "ingest memory grows from 5"},
		{"heap", grow(ingest+heap, 80e3), "ingest heap grows from"},
		{"goroutines", grow(syncStatus+goroutines, 1), "sync goroutines grows from 37 to 82, and 42.7"},
		{"threads", grow(ingest+threads, 0.5), "ingest threads grows"},
		{"files", grow(syncStatus+files, 0.2), "sync files grows"},
		{"requests", grow(requests, 0.2), "requests grows"},
		{"a moment's peak", func(s *series) { s.points[ingest+files][55].value = 1000 }, ""},
		{"no samples at the end", func(s *series) { s.points[ingest+heap] = s.points[ingest+heap][:40] }, "ingest heap grows from 5e+06 to NaN"},
		{"no run", func(s *series) { delete(s.points, requests) }, "no run has ended well"},
		{"a ledger that stands still", grow(records, -200), "the ledger doesn't grow"},
		{"a lost alert", set(lost, 1), "lost: 1"},
		{"a write-back that isn't acknowledged", set(undone, 2), "write-backs not acknowledged: 2"},
		{"a process that ended", set(ended, 1), "processes that ended or panicked: 1"},
		{"alerts without messages", set(published, 13999), "13999 messages of 14000 alerts"},
		{"no alerts", set(created, 0), "14500 messages of 0 alerts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := flat()
			c.spoil(s)
			problems := s.verdict()
			if c.says == "" && len(problems) == 0 {
				return
			}
			if len(problems) == 0 || c.says == "" || !strings.HasPrefix(problems[0].Error(), c.says) {
				t.Errorf("problems: %v, want %q", problems, c.says)
			}
		})
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{7}, 7}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v: %v", c.values, got)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing: %v", got)
	}
}

// TestReport: what is written can be read again, and goes into the document's place for
// it, with the picture beside it.
func TestReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hour, day := flat(), newSeries()
	for name, points := range hour.points {
		if !strings.HasPrefix(name, syncStatus) {
			day.points[strings.TrimPrefix(name, ingest)] = points
		}
	}
	for file, s := range map[string]*series{hourFile: hour, dayFile: day} {
		if err := s.write(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := readSeries(filepath.Join(dir, hourFile))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(hour.points, again.points, cmp.AllowUnexported(point{})); diff != "" {
		t.Errorf("read again (-want +got):\n%s", diff)
	}
	document := filepath.Join(dir, "soak.md")
	if err := os.WriteFile(document, []byte("before\n<!-- soak: begin -->\nold\n<!-- soak: end -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (options{dir: dir, report: document}).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for file, wants := range map[string][]string{
		"soak.md": {
			"before\n<!-- soak: begin -->\n", "<!-- soak: end -->\nafter\n", "| `Ingest`: resident memory, MiB | 47.95 | 49.67 | 3.6 % |", "| requests a run | 31 | 31 | 0.0 % |", "14,000 alerts",
		},
		"soak.svg": {"<svg ", "prefers-color-scheme: dark", "open files", "in the ledger", "</svg>"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%q is not in %s:\n%s", want, file, text)
			}
		}
	}
}
