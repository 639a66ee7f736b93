package main

import (
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// point is a value and when it was read, from the beginning on.
type point struct {
	at    time.Duration
	value float64
}

// series are the samples of a run, by what was measured.
type series struct {
	mu     sync.Mutex
	points map[string][]point
}

func newSeries() *series { return &series{points: map[string][]point{}} }

func (s *series) add(name string, at time.Duration, value float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points[name] = append(s.points[name], point{at, value})
}

// The names of the series. Those of the processes begin with the process's.
const (
	ingest     = "ingest "
	syncStatus = "sync "

	memory     = "memory" // bytes that the system has given
	heap       = "heap"   // bytes in use
	cache      = "cache"  // bytes of ledger.Cache, where they are not in heap
	goroutines = "goroutines"
	threads    = "threads"
	files      = "files"
	requests   = "requests" // of a run
	records    = "records"  // in the ledger

	// Of the following there is one value, at the end.
	created   = "alerts"
	published = "messages"
	lost      = "lost"
	done      = "write-backs done"
	undone    = "write-backs not acknowledged"
	ended     = "processes that ended or panicked"
	faults    = "faults"
	runs      = "runs "         // by their outcome
	refused   = "error answers" // of the API, of 400 and above
)

// bound says by how much the last quarter's median may be above the first one's.
type bound struct {
	share    float64 // of the first quarter's
	slack    float64
	perAlert float64 // for each alert that came into the ledger between the two
}

// bounds are those of each kind of series, or of a process's. What is counted may differ
// by a tenth and two, because a connection or a worker more or less, or a request that
// lists an empty page, depends on the moment of the sample: a leak of one in each run makes
// 45 in an hour.
//
// Of what is in use, buffers and pools may differ by 1 MiB: a leak of 1 KB in each run of a
// minute makes that in a day. Ingest also remembers the alerts that it has published
// (ledger.Cache): each takes about 40 bytes, twice that while the map grows, and only the
// latest 20,000 are kept. The collector lets memory grow to 2.5 times of what is in use.
var bounds = map[string]bound{
	memory:          {share: 0.1, slack: 2.5 * (1 << 20)},
	heap:            {share: 0.1, slack: 1 << 20},
	cache:           {slack: 1 << 16, perAlert: 80},
	ingest + memory: {share: 0.1, slack: 2.5 * (1 << 20), perAlert: 2.5 * 80},
	ingest + heap:   {share: 0.1, slack: 1 << 20, perAlert: 80},
	goroutines:      {share: 0.1, slack: 2},
	threads:         {share: 0.1, slack: 2},
	files:           {share: 0.1, slack: 2},
	requests:        {share: 0.1, slack: 2},
}

// growth is what became of a series from the first quarter of the time to the last one.
type growth struct {
	name        string
	first, last float64 // medians
	most        float64 // that the last one may be
}

func (g growth) percent() float64 { return 100 * (g.last - g.first) / g.first }

func (g growth) fails() bool { return !(g.last <= g.most) } // no number fails too

// kindOf is what a series measures, without the process.
func kindOf(name string) string { return name[strings.LastIndex(name, " ")+1:] }

// end is when the last sample was taken. What is counted when all is quiet again comes
// later.
func (s *series) end() time.Duration {
	last := time.Duration(0)
	for _, points := range s.points {
		if len(points) > 1 {
			last = max(last, points[len(points)-1].at)
		}
	}
	return last
}

// growths are those of the series that must not grow, in the order of their names.
func (s *series) growths() []growth {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.end()
	quarters := func(name string) (first, last float64) {
		var a, b []float64
		for _, p := range s.points[name] {
			switch {
			case p.at <= end/4:
				a = append(a, p.value)
			case p.at > end-end/4:
				b = append(b, p.value)
			}
		}
		return median(a), median(b)
	}
	before, after := quarters(records)
	var all []growth
	for name := range s.points {
		b, ok := bounds[name]
		if !ok {
			b, ok = bounds[kindOf(name)]
		}
		if !ok {
			continue
		}
		g := growth{name: name}
		g.first, g.last = quarters(name)
		g.most = g.first*(1+b.share) + b.slack + b.perAlert*(after-before)
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b growth) int { return strings.Compare(a.name, b.name) })
	return all
}

// median of nothing is no number.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// total is the one value of a series.
func (s *series) total(name string) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.points[name]; len(p) > 0 {
		return p[len(p)-1].value
	}
	return 0
}

func (s *series) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.points[name]) > 0
}

// verdict says what grows, and what else must not be.
func (s *series) verdict() []error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	all := s.growths()
	for _, g := range all {
		if g.fails() {
			problem("%s grows from %.4g to %.4g, and %.4g is the most that it may be", g.name, g.first, g.last, g.most)
		}
	}
	if !slices.ContainsFunc(all, func(g growth) bool { return g.name == requests }) {
		problem("no run has ended well")
	}
	// A ledger that doesn't grow shows nothing.
	if p := s.points[records]; len(p) < 2 || p[len(p)-1].value <= p[0].value {
		problem("the ledger doesn't grow")
	}
	for _, name := range []string{lost, undone, ended} {
		if n := s.total(name); n > 0 {
			problem("%s: %.0f", name, n)
		}
	}
	if s.total(published) < s.total(created) || s.total(created) == 0 {
		problem("%.0f messages of %.0f alerts", s.total(published), s.total(created))
	}
	return problems
}

// write writes the samples as a table of three columns.
func (s *series) write(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	w := csv.NewWriter(&b)
	rows := [][]string{}
	for name, points := range s.points {
		for _, p := range points {
			rows = append(rows, []string{strconv.FormatFloat(p.at.Seconds(), 'f', 1, 64), name, strconv.FormatFloat(p.value, 'f', -1, 64)})
		}
	}
	slices.SortStableFunc(rows, func(a, b []string) int { return strings.Compare(a[1], b[1]) })
	if err := w.WriteAll(append([][]string{{"seconds", "what", "value"}}, rows...)); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}

func readSeries(path string) (*series, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading samples: %w", err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("reading samples: %w", err)
	}
	s := newSeries()
	for _, row := range rows[min(1, len(rows)):] {
		at, err := strconv.ParseFloat(row[0], 64)
		if err != nil {
			return nil, fmt.Errorf("reading samples: %w", err)
		}
		value, err := strconv.ParseFloat(row[2], 64)
		if err != nil {
			return nil, fmt.Errorf("reading samples: %w", err)
		}
		s.add(row[1], time.Duration(at*float64(time.Second)), value)
	}
	return s, nil
}
