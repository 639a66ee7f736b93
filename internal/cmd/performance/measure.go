package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
)

// commandLimit is for the longest day that is simulated, on a slow machine.
const commandLimit = 2 * time.Hour

// measured is what one run of a benchmark has found out.
type measured struct {
	metrics map[string]float64
	others  float64 // the share of the processors that others had meanwhile
	machine string
}

// measure runs the benchmark of a budget.
func measure(ctx context.Context, root string, b budget) (measured, error) {
	// Each level of a name is a pattern of its own.
	pattern := "^Benchmark" + strings.ReplaceAll(b.benchmark, "/", "$/^") + "$"
	before := processors()
	out, processor, err := module.Command(ctx, commandLimit, root, "go", "test", "./"+b.dir,
		"-run", "^$", "-bench", pattern, "-benchtime", b.time, "-timeout", commandLimit.String())
	after := processors()
	if err != nil {
		return measured{}, fmt.Errorf("%s: %w\n%s", b.id, err, out)
	}
	metrics, cpu := parse(string(out), "Benchmark"+b.benchmark)
	if metrics == nil {
		return measured{}, fmt.Errorf("%s: there is no Benchmark%s, or it is skipped\n%s", b.id, b.benchmark, out)
	}
	m := measured{metrics: metrics, machine: fmt.Sprintf("%d × %s, %s", runtime.NumCPU(), cpu, runtime.Version())}
	if all := after.all - before.all; all > 0 {
		m.others = max(0, (after.busy-before.busy-processor).Seconds()/all.Seconds())
	}
	return m, nil
}

var parallelism = regexp.MustCompile(`-\d+$`) // GOMAXPROCS, at the end of a name

// parse returns the metrics of a benchmark from the output of go test
// (https://go.dev/design/14313-benchmark-format), or nil, and what the processor is called.
func parse(out, name string) (metrics map[string]float64, cpu string) {
	for line := range strings.Lines(out) {
		if called, ok := strings.CutPrefix(line, "cpu: "); ok {
			cpu = strings.TrimSpace(called)
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[0] != name && parallelism.ReplaceAllString(fields[0], "") != name {
			continue
		}
		metrics = map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			if value, err := strconv.ParseFloat(fields[i], 64); err == nil {
				metrics[fields[i+1]] = value
			}
		}
	}
	return metrics, cpu
}

// times are what all processors of the machine have spent since its start.
type times struct{ busy, all time.Duration }

// processors reads them (proc(5): the first line of stat, in ticks of 10 ms). Where there
// is no such file, both stay zero.
func processors() (t times) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		// user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
		if i < 1 || i > 8 {
			continue
		}
		ticks, _ := strconv.ParseInt(field, 10, 64)
		spent := time.Duration(ticks) * 10 * time.Millisecond
		t.all += spent
		if i != 4 && i != 5 {
			t.busy += spent
		}
	}
	return t
}
