// Command fuzzing gives every parser of foreign bytes hours of inputs, where the gate
// gives it seconds. It goes round all fuzz targets of the module, a piece of time each,
// until each has had its share:
//
//	go run ./internal/cmd/fuzzing -time 1h
//	go run ./internal/cmd/fuzzing -report docs/fuzzing.md
//
// The results are in a file of the source, the inputs that were found in Go's cache of
// them. A second call goes on where the first one was.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
	"dtmrelay.internal/dtmrelay/internal/cmd/resultfile"
)

type options struct {
	results, report string
	only            *regexp.Regexp
	time, piece     time.Duration
	workers         int
}

func main() {
	var o options
	only := flag.String("run", "", "only targets whose package and name match `regexp`")
	flag.StringVar(&o.results, "results", "internal/cmd/fuzzing/results.jsonl", "`file` of the results, to go on with")
	flag.DurationVar(&o.time, "time", time.Hour, "how much of a processor's time each target gets in all")
	flag.DurationVar(&o.piece, "piece", 5*time.Minute, "how long at a time")
	flag.IntVar(&o.workers, "workers", 1, "how many processes give inputs to a target at once; each one's time counts")
	flag.StringVar(&o.report, "report", "", "run nothing; write the table of the results into this `document`, and the inputs into testdata/fuzz of the packages")
	flag.Parse()
	module.Main("fuzzing", func(ctx context.Context) (err error) {
		if o.only, err = regexp.Compile(*only); err != nil {
			return err
		}
		return o.run(ctx)
	})
}

func (o options) run(ctx context.Context) error {
	if o.piece < time.Second || o.workers < 1 {
		return errors.New("-piece must be 1s or more, -workers 1 or more")
	}
	results, err := resultfile.Read[result](o.results)
	if err != nil {
		return err
	}
	results = sums(results)
	module, err := moduleName(ctx)
	if err != nil {
		return err
	}
	corpora, err := corpora(ctx, module)
	if err != nil {
		return err
	}
	if o.report != "" {
		return errors.Join(resultfile.WriteTable(o.report, "fuzzing", table(results)), keep(corpora, results))
	}
	targets, err := o.targets(ctx, module)
	if err != nil {
		return err
	}
	lines, err := resultfile.Append(o.results)
	if err != nil {
		return err
	}
	results, err = o.all(ctx, targets, corpora, lines, results)
	results = sums(results)
	if err := errors.Join(err, lines.Close(), resultfile.Write(o.results, results)); err != nil {
		return err
	}
	fmt.Print(table(results))
	return failure(results)
}

// target is a fuzz test of a package.
type target struct {
	Dir  string `json:"dir"` // from the module's top
	Name string `json:"name"`
}

// result is what a piece of time has brought.
type result struct {
	target
	Commit string `json:"commit"` // the last one
	// Seconds are those of the processor: on a busy machine an hour fuzzes little.
	Seconds float64 `json:"seconds"`
	Inputs  int     `json:"inputs"`
	Corpus  int     `json:"corpus"` // inputs that reach code which no other reaches, in all
	// Broken is empty, or what the test printed.
	Broken string `json:"broken,omitempty"`
}

// targets are all fuzz tests of the module.
func (o options) targets(ctx context.Context, module string) ([]target, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-list", "^Fuzz", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the targets (run this at the top of the relay's source): %w", err)
	}
	var all []target
	for _, t := range parseList(string(out), module) {
		if o.only.MatchString(t.Dir + " " + t.Name) {
			all = append(all, t)
		}
	}
	return all, nil
}

// parseList reads what go test -list prints: the tests of a package, then its name.
func parseList(out, module string) (all []target) {
	var names []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 1 && strings.HasPrefix(fields[0], "Fuzz"):
			names = append(names, fields[0])
		case len(fields) > 1 && fields[0] == "ok":
			for _, name := range names {
				all = append(all, target{strings.TrimPrefix(fields[1], module+"/"), name})
			}
			names = nil
		}
	}
	return all
}

// sums are the results of each target as one, those that it broke at too: they hold until
// the target is fuzzed at another commit.
func sums(all []result) (out []result) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b result) int { return cmp.Or(strings.Compare(a.Dir, b.Dir), strings.Compare(a.Name, b.Name)) })
	for _, r := range all {
		if last := len(out) - 1; last >= 0 && out[last].target == r.target {
			r.Seconds += out[last].Seconds
			r.Inputs += out[last].Inputs
			r.Corpus = max(r.Corpus, out[last].Corpus) // a short piece doesn't say
			if r.Commit == out[last].Commit && r.Broken == "" {
				r.Broken = out[last].Broken
			}
			out[last] = r
			continue
		}
		out = append(out, r)
	}
	return out
}

// all fuzzes whatever has had least of its time, until all have had it.
func (o options) all(ctx context.Context, targets []target, corpora string, lines *os.File, results []result) ([]result, error) {
	programs, err := os.MkdirTemp("", "fuzzing")
	if err != nil {
		return results, err
	}
	defer os.RemoveAll(programs)
	commit, err := module.Commit(ctx)
	if err != nil {
		return results, err
	}
	had := map[target]float64{}
	for _, r := range results {
		had[r.target] += r.Seconds
	}
	for len(targets) > 0 {
		t := slices.MinFunc(targets, func(a, b target) int { return int(had[a]) - int(had[b]) })
		left := o.time.Seconds() - had[t]
		if left < 1 {
			break
		}
		program, err := build(ctx, programs, t)
		if err != nil {
			return results, err
		}
		r, err := o.fuzz(ctx, t, program, corpora, min(o.piece, time.Duration(left/float64(o.workers)*float64(time.Second))))
		if err != nil {
			return results, err
		}
		r.Commit = commit
		if err := json.NewEncoder(lines).Encode(r); err != nil {
			return results, err
		}
		results = append(results, r)
		had[t] += max(r.Seconds, 1)
		fmt.Fprintf(os.Stderr, "%-24s %-18s %5.0f s of %.0f s, %d inputs, %d kept %s\n", t.Dir, t.Name, had[t], o.time.Seconds(), r.Inputs, r.Corpus, r.Broken)
		if r.Broken != "" {
			targets = slices.DeleteFunc(targets, func(other target) bool { return other == t })
		}
	}
	return results, ctx.Err()
}

// build builds the test of a target with instrumentation, unless this call has done so.
func build(ctx context.Context, dir string, t target) (program string, err error) {
	program = filepath.Join(dir, strings.ReplaceAll(t.Dir, "/", "-")+"-"+t.Name+".test")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-fuzz=^"+t.Name+"$", "-o", program, "./"+t.Dir) //nolint:gosec // a folder for this call
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("building %s: %w", t.Dir, err)
	}
	return program, nil
}

// fuzz gives inputs to a target for so long.
func (o options) fuzz(ctx context.Context, t target, program, corpora string, long time.Duration) (result, error) {
	args := []string{
		"-test.run=^$", "-test.fuzz=^" + t.Name + "$", "-test.fuzztime=" + long.Round(time.Second).String(), "-test.fuzzcachedir=" + filepath.Join(corpora, t.Dir),
		"-test.parallel=" + strconv.Itoa(o.workers), "-test.fuzzminimizetime=10x",
	}
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // the test that it has built
	cmd.Dir = t.Dir                                   // an input that breaks it is written there
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(o.workers))
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return result{}, ctx.Err()
	}
	r := result{target: t}
	if cmd.ProcessState != nil { // with the processes that it has started
		r.Seconds = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	}
	r.Inputs, r.Corpus = parseProgress(string(out))
	var exit *exec.ExitError
	switch {
	// The test's time was up while an input was tried: nothing was found.
	case errors.As(err, &exit) && bytes.Contains(out, []byte("context deadline exceeded")) && !bytes.Contains(out, []byte("Failing input")):
	case errors.As(err, &exit):
		r.Broken = string(out[max(0, len(out)-5_000):])
	case err != nil:
		return result{}, err
	}
	return r, nil
}

// corpora is where the go command keeps the inputs that the module's targets have found.
func corpora(ctx context.Context, module string) (string, error) {
	cache, err := exec.CommandContext(ctx, "go", "env", "GOCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(cache)), "fuzz", module), nil
}

func moduleName(ctx context.Context) (string, error) {
	name, err := exec.CommandContext(ctx, "go", "list", "-m").Output()
	if err != nil {
		return "", fmt.Errorf("go list (run this at the top of the relay's source): %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}

var progress = regexp.MustCompile(`execs: (\d+) .*\(total: (\d+)\)`)

// parseProgress reads the last line about it.
func parseProgress(out string) (inputs, corpus int) {
	lines := progress.FindAllStringSubmatch(out, -1)
	if len(lines) == 0 {
		return 0, 0
	}
	last := lines[len(lines)-1]
	inputs, _ = strconv.Atoi(last[1])
	corpus, _ = strconv.Atoi(last[2])
	return inputs, corpus
}

// failure is an error when an input has broken a target.
func failure(results []result) error {
	var broken []string
	for _, r := range results {
		if r.Broken != "" {
			broken = append(broken, r.Dir+" "+r.Name)
		}
	}
	if len(broken) == 0 {
		return nil
	}
	return fmt.Errorf("an input breaks %s; it is in testdata/fuzz of the package", strings.Join(broken, ", "))
}
