// Command model lets many more random histories happen to the engine than the gate has
// time for: those of TestModel and TestWriteback in internal/drain, in pieces, each a
// process of its own.
//
//	go run ./internal/cmd/model -histories 1000000
//	go run ./internal/cmd/model -report docs/model.md
//
// The results are in a file of the source. A second call goes on where the first one was.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
	"dtmrelay.internal/dtmrelay/internal/cmd/resultfile"
)

// pieceFor is how long a piece may take: some histories are long, and a test that hangs
// is to be found.
const pieceFor = 30 * time.Minute

type options struct {
	results, report  string
	histories, piece int
	parallel         int
}

func main() {
	var o options
	flag.StringVar(&o.results, "results", "internal/cmd/model/results.jsonl", "`file` of the results, to go on with")
	flag.IntVar(&o.histories, "histories", 20_000, "how many histories, of both tests together")
	flag.IntVar(&o.piece, "piece", 500, "how many histories a process lives through")
	flag.IntVar(&o.parallel, "parallel", runtime.NumCPU(), "how many processes at once")
	flag.StringVar(&o.report, "report", "", "run nothing; write the table of the results into this `document`")
	flag.Parse()
	module.Main("model", o.run)
}

func (o options) run(ctx context.Context) error {
	if o.piece < 1 || o.parallel < 1 {
		return errors.New("-piece and -parallel must be 1 or more")
	}
	results, err := resultfile.Read[result](o.results)
	if err != nil {
		return err
	}
	results = joined(results)
	if o.report != "" {
		return resultfile.WriteTable(o.report, "model", table(results))
	}
	// What has broken a law is lived through again.
	results = slices.DeleteFunc(results, func(r result) bool { return r.Broken != "" })
	lines, err := resultfile.Append(o.results)
	if err != nil {
		return err
	}
	results, err = o.all(ctx, lines, results)
	results = joined(results)
	if err := errors.Join(err, lines.Close(), resultfile.Write(o.results, results)); err != nil {
		return err
	}
	fmt.Print(table(results))
	return failure(results)
}

// piece is a part of the histories: so many of a test, from the first on.
type piece struct {
	Test      string `json:"test"`
	First     int    `json:"first"`
	Histories int    `json:"histories"`
}

// end is the first history after the piece.
func (p piece) end() int { return p.First + p.Histories }

// result is what became of a piece.
type result struct {
	piece
	Commit  string         `json:"commit"`  // of the engine
	Seconds float64        `json:"seconds"` // of the processor
	Counts  map[string]int `json:"counts"`
	// Broken is empty, or what the test printed.
	Broken string `json:"broken,omitempty"`
}

// joined are the results in order, neighbours of the same commit as one. A piece in which
// a law was broken stays alone, until it was lived through again.
func joined(all []result) (out []result) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b result) int { return cmp.Or(strings.Compare(a.Test, b.Test), cmp.Compare(a.First, b.First)) })
	for _, r := range all {
		last := len(out) - 1
		switch {
		case last >= 0 && out[last].piece == r.piece: // the later call's
			out[last] = r
		case last >= 0 && out[last].Test == r.Test && out[last].end() == r.First && out[last].Commit == r.Commit && out[last].Broken == "" && r.Broken == "":
			counts := maps.Clone(out[last].Counts)
			for name, n := range r.Counts {
				counts[name] += n
			}
			out[last] = result{
				piece:  piece{r.Test, out[last].First, out[last].Histories + r.Histories},
				Commit: r.Commit, Seconds: out[last].Seconds + r.Seconds, Counts: counts,
			}
		default:
			out = append(out, r)
		}
	}
	return out
}

// One history in five is about write-backs.
var shares = map[string]int{"TestModel": 4, "TestWriteback": 1}

// missing are the pieces of so many histories that have no result yet, both tests in turn.
func missing(histories, size int, results []result) (todo []piece) {
	for test, share := range shares {
		next, all := 1, 1+histories*share/5
		upTo := func(end int) {
			for end = min(end, all); next < end; next += size {
				todo = append(todo, piece{test, next, min(size, end-next)})
			}
		}
		for _, r := range results { // in order
			if r.Test == test {
				upTo(r.First)
				next = r.end()
			}
		}
		upTo(all)
	}
	slices.SortFunc(todo, func(a, b piece) int { return cmp.Compare(a.First*shares[b.Test], b.First*shares[a.Test]) })
	return todo
}

// all works on the pieces that have no result yet, and returns all results.
func (o options) all(ctx context.Context, lines *os.File, results []result) ([]result, error) {
	dir, err := os.MkdirTemp("", "model")
	if err != nil {
		return results, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "drain.test")
	commit, err := build(ctx, program)
	if err != nil {
		return results, err
	}
	todo := missing(o.histories, o.piece, results)
	work := make(chan piece, len(todo))
	for _, p := range todo {
		work <- p
	}
	close(work)
	fmt.Fprintf(os.Stderr, "%d pieces have no result yet\n", len(todo))
	var mu sync.Mutex
	var errs []error
	var working sync.WaitGroup
	for range o.parallel {
		working.Go(func() {
			for p := range work {
				r, err := live(ctx, program, p)
				if ctx.Err() != nil {
					return
				}
				r.Commit = commit
				mu.Lock()
				if err == nil {
					results = append(results, r)
					err = json.NewEncoder(lines).Encode(r)
				}
				errs = append(errs, err)
				fmt.Fprintf(os.Stderr, "%s %d to %d  %.0f s  %s\n", p.Test, p.First, p.end()-1, r.Seconds, verdict(r))
				mu.Unlock()
			}
		})
	}
	working.Wait()
	return results, errors.Join(append(errs, ctx.Err())...)
}

func verdict(r result) string {
	if r.Broken != "" {
		return "BROKEN\n" + r.Broken
	}
	return "all laws hold"
}

// build builds the tests of the engine, and says of which commit they are.
func build(ctx context.Context, program string) (commit string, err error) {
	if commit, err = module.Commit(ctx); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./internal/drain") //nolint:gosec // a folder for this call
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building the tests of internal/drain (run this at the top of the relay's source): %w", err)
	}
	return commit, nil
}

// live lets the histories of a piece happen. The error is not about what they found.
func live(ctx context.Context, program string, p piece) (result, error) {
	r := result{piece: p}
	args := []string{
		"-test.run=^" + p.Test + "$", "-test.timeout=" + pieceFor.String(),
		"-model.first=" + strconv.Itoa(p.First), "-model.histories=" + strconv.Itoa(p.Histories), "-model.counts",
	}
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // the tests that it has built
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")    // the processes share the machine
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil {
		r.Seconds = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.Broken = fmt.Sprintf("%v\n%s", err, out[:min(len(out), 20_000)])
		return r, nil
	case err != nil:
		return r, err
	}
	first, _, _ := bytes.Cut(out, []byte("\n"))
	if err := json.Unmarshal(first, &r.Counts); err != nil || r.Counts["histories"] != p.Histories {
		return r, fmt.Errorf("%s of %d histories printed %q: %w", p.Test, p.Histories, first, err)
	}
	return r, nil
}

// failure is an error when a history has broken a law.
func failure(results []result) error {
	var broken []string
	for _, r := range results {
		if r.Broken != "" {
			broken = append(broken, fmt.Sprintf("%s from %d", r.Test, r.First))
		}
	}
	if len(broken) == 0 {
		return nil
	}
	return fmt.Errorf("laws are broken in %s; the results have what the tests printed", strings.Join(broken, ", "))
}
