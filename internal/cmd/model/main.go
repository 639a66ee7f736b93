// Command model lets many more random histories happen to the engine than the gate has
// time for: those of TestModel and TestWriteback in internal/drain, in pieces, each a
// process of its own.
//
//	go run ./internal/cmd/model -dir DIR -histories 1000000
//	go run ./internal/cmd/model -dir DIR -report docs/model.md
//
// A second call with the same folder goes on where the first one was.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"dtmrelay.internal/dtmrelay/internal/cmd/resultfile"
)

// pieceFor is how long a piece may take: some histories are long, and a test that hangs
// is to be found.
const pieceFor = 30 * time.Minute

type options struct {
	dir, report      string
	histories, piece int
	parallel         int
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "where the results are, to go on with")
	flag.IntVar(&o.histories, "histories", 20_000, "how many histories, of both tests together")
	flag.IntVar(&o.piece, "piece", 500, "how many histories a process lives through")
	flag.IntVar(&o.parallel, "parallel", runtime.NumCPU(), "how many processes at once")
	flag.StringVar(&o.report, "report", "", "run nothing; write the table of the results into this document")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
}

func (o options) run(ctx context.Context) error {
	if o.dir == "" || o.piece < 1 || o.parallel < 1 {
		return errors.New("-dir must name a folder, -piece and -parallel must be 1 or more")
	}
	path := filepath.Join(o.dir, "pieces.jsonl")
	all, err := resultfile.Read[result](path)
	if err != nil {
		return err
	}
	results := latest(all)
	if o.report != "" {
		return resultfile.WriteTable(o.report, "model", table(results))
	}
	lines, err := resultfile.Append(path)
	if err != nil {
		return err
	}
	defer lines.Close()
	if results, err = o.all(ctx, lines, results); err != nil {
		return err
	}
	results = latest(results)
	fmt.Print(table(results))
	return failure(results)
}

// latest are the last results of each piece: one in which a law was broken is lived
// through again, once the fault is mended.
func latest(all []result) (results []result) {
	place := map[piece]int{}
	for _, r := range all {
		if i, ok := place[r.piece]; ok {
			results[i] = r
			continue
		}
		place[r.piece] = len(results)
		results = append(results, r)
	}
	return results
}

// piece is a part of the histories: so many of a test, from the first on.
type piece struct {
	Test      string `json:"test"`
	First     int    `json:"first"`
	Histories int    `json:"histories"`
}

// result is what became of a piece.
type result struct {
	piece
	Commit  string         `json:"commit"` // of the engine
	Seconds float64        `json:"seconds"`
	Counts  map[string]int `json:"counts"`
	// Broken is empty, or what the test printed.
	Broken string `json:"broken,omitempty"`
}

// pieces cuts so many histories. One piece in five is about write-backs.
func pieces(histories, size int) (all []piece) {
	next := map[string]int{"TestModel": 1, "TestWriteback": 1}
	for i := 0; histories > 0; i++ {
		test := "TestModel"
		if i%5 == 4 {
			test = "TestWriteback"
		}
		n := min(size, histories)
		all = append(all, piece{test, next[test], n})
		next[test] += n
		histories -= n
	}
	return all
}

// all works on the pieces that have no result yet, or one in which a law was broken, and
// returns all results.
func (o options) all(ctx context.Context, lines *os.File, results []result) ([]result, error) {
	program, commit, err := build(ctx, o.dir)
	if err != nil {
		return nil, err
	}
	done := map[piece]bool{}
	for _, r := range results {
		done[r.piece] = r.Broken == "" && r.Counts["histories"] == r.Histories
	}
	todo := pieces(o.histories, o.piece)
	work := make(chan piece, len(todo))
	for _, p := range todo {
		if !done[p] {
			work <- p
		}
	}
	close(work)
	fmt.Fprintf(os.Stderr, "%d of %d pieces have a result\n", len(todo)-len(work), len(todo))
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
					err = json.NewEncoder(lines).Encode(r)
				}
				errs = append(errs, err)
				results = append(results, r)
				fmt.Fprintf(os.Stderr, "%s %d to %d  %.0f s  %s\n", p.Test, p.First, p.First+p.Histories-1, r.Seconds, verdict(r))
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
func build(ctx context.Context, dir string) (program, commit string, err error) {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=10").Output()
	if err != nil {
		return "", "", fmt.Errorf("git describe: %w", err)
	}
	if program, err = filepath.Abs(filepath.Join(dir, "drain.test")); err != nil {
		return "", "", err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./internal/drain") //nolint:gosec // the folder is the one that the user names
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", "", fmt.Errorf("building the tests of internal/drain (run this at the top of the relay's source): %w", err)
	}
	return program, strings.TrimSpace(string(out)), nil
}

// live lets the histories of a piece happen. The error is not about what they found.
func live(ctx context.Context, program string, p piece) (result, error) {
	r, began := result{piece: p}, time.Now()
	args := []string{
		"-test.run=^" + p.Test + "$", "-test.timeout=" + pieceFor.String(),
		"-model.first=" + strconv.Itoa(p.First), "-model.histories=" + strconv.Itoa(p.Histories), "-model.counts",
	}
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // the tests that it has built
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")    // the processes share the machine
	out, err := cmd.CombinedOutput()
	r.Seconds = time.Since(began).Seconds()
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
	return fmt.Errorf("laws are broken in %s; the folder has what the tests printed", strings.Join(broken, ", "))
}
