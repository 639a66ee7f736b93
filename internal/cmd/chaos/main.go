// Command chaos runs the built functions, Ingest and SyncStatus, as processes against
// the simulator of the API, the Firestore emulator and a fake of Pub/Sub, and lets
// processes, networks, the API and clocks go wrong. After the faults it waits until all
// is quiet, and compares what was published and written back with what GTI had:
//
//	go run ./internal/cmd/chaos -dir DIR -runs 500
//	go run ./internal/cmd/chaos -dir DIR -report docs/chaos.md
//
// A seed says what happens and what goes wrong, and when; how far the processes are at
// that moment, the machine says. A second call with the same folder goes on where the
// first one was.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
	"dtmrelay.internal/dtmrelay/internal/cmd/resultfile"
	"dtmrelay.internal/dtmrelay/internal/e2e/process"
	"dtmrelay.internal/dtmrelay/internal/emulatortest"
)

type options struct {
	runs, parallel int
	seed           uint64
	dir, report    string
}

func main() {
	var o options
	flag.IntVar(&o.runs, "runs", 20, "how many runs, with the seeds from -seed on")
	flag.Uint64Var(&o.seed, "seed", 1, "the first run's seed")
	flag.IntVar(&o.parallel, "parallel", 16, "how many runs at once: most of their time they wait for leases to end")
	flag.StringVar(&o.dir, "dir", "", "where the results are, to go on with (a new temporary folder)")
	flag.StringVar(&o.report, "report", "", "run nothing; write the table of the results into this document")
	flag.Parse()
	module.Main("chaos", o.run)
}

func (o options) run(ctx context.Context) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "chaos-"); err != nil {
			return err
		}
		fmt.Fprintln(os.Stderr, "results in", o.dir)
	}
	path := filepath.Join(o.dir, "runs.jsonl")
	results, err := resultfile.Read[result](path)
	if err != nil {
		return err
	}
	if o.report != "" {
		return resultfile.WriteTable(o.report, "chaos", table(results))
	}
	lines, err := resultfile.Append(path)
	if err != nil {
		return err
	}
	defer lines.Close()
	if results, err = o.all(ctx, lines, results); err != nil {
		return err
	}
	fmt.Print(table(results))
	return failure(results)
}

// all makes the runs that have no result yet, and returns all results.
func (o options) all(ctx context.Context, lines *os.File, results []result) ([]result, error) {
	program, err := process.BuildWithClock(ctx, o.dir)
	if err != nil {
		return nil, err
	}
	firestore, stop, err := emulatortest.StartFirestore()
	if err != nil {
		return nil, err
	}
	defer stop()
	done := map[uint64]bool{}
	for _, r := range results {
		done[r.Seed] = true
	}
	seeds := make(chan uint64)
	go func() {
		defer close(seeds)
		for seed := o.seed; seed < o.seed+uint64(o.runs); seed++ {
			if done[seed] {
				continue
			}
			select {
			case seeds <- seed:
			case <-ctx.Done():
				return
			}
		}
	}()
	var mu sync.Mutex
	var errs []error
	var working sync.WaitGroup
	for range o.parallel {
		working.Go(func() {
			for seed := range seeds {
				r, err := once(ctx, newPlan(seed), program, firestore, o.dir)
				mu.Lock()
				if err == nil {
					err = json.NewEncoder(lines).Encode(r)
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("run %d: %w", seed, err))
				} else {
					results = append(results, r)
					fmt.Fprintf(os.Stderr, "%d/%d  seed %d  %.1f s  %v  %v\n", len(results), o.runs, seed, r.Seconds, r.Faults, r.Problems)
				}
				mu.Unlock()
			}
		})
	}
	working.Wait()
	return results, errors.Join(append(errs, ctx.Err())...)
}

// once makes a run. Where something is wrong, what the processes printed stays in the
// folder.
func once(ctx context.Context, p plan, program, firestore, dir string) (result, error) {
	w, err := newWorld(p, program, firestore)
	if err != nil {
		return result{}, err
	}
	defer w.close()
	r, err := w.run(ctx)
	if ctx.Err() != nil {
		return result{}, ctx.Err()
	}
	if err != nil || len(r.Problems) > 0 {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, fmt.Sprintf("run-%d.log", p.seed)), w.out.Bytes(), 0o600))
	}
	return r, err
}

// failure is an error when a run has found something.
func failure(results []result) error {
	n := 0
	for _, r := range results {
		if len(r.Problems) > 0 {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d runs found something", n, len(results))
}
