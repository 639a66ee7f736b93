// Command mutants plants faults in the relay, one at a time, and runs for each the test
// that has to catch it. A fault that no test catches is a hole in the tests.
//
//	go run ./internal/cmd/mutants [-list] [-run REGEXP] [-j N]
//
// The faults are in testdata/mutants. The source itself stays as it is: the go command
// reads the changed file in place of the real one (go test -overlay). What became of them
// is written into docs/mutants.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
)

func main() {
	list := flag.Bool("list", false, "list the mutants, and run none")
	only := flag.String("run", "", "run only mutants whose id matches `regexp`")
	jobs := flag.Int("j", 1, "run `N` mutants at a time")
	flag.Parse()
	module.Main("mutants", func(ctx context.Context) error { return mutate(ctx, *list, *only, *jobs) })
}

func mutate(ctx context.Context, list bool, only string, jobs int) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	root, err := module.Root(ctx)
	if err != nil {
		return err
	}
	mutants, err := readMutants(root)
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool { return !pattern.MatchString(m.ID) })
	if list {
		for _, m := range chosen {
			fmt.Printf("%-32s %s %s\n", m.ID, m.Dir, m.Test)
		}
		return nil
	}
	work, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()

	r := newRunner(root, work)
	var mu sync.Mutex
	var problems []error
	var group errgroup.Group
	group.SetLimit(jobs)
	for _, m := range chosen {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			res := r.run(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			fmt.Printf("%-22s %-36s %s\n", res.verdict, m.ID, m.Test)
			if res.verdict != caught {
				problems = append(problems, fmt.Errorf("%s: %s\n%s", m.ID, res.verdict, res.detail))
			}
			if ctx.Err() != nil { // nothing was found out
				return ctx.Err()
			}
			// After each one: a run of all that is interrupted is gone on with by -run.
			return updateDocument(root, mutants, res)
		})
	}
	return errors.Join(append(problems, group.Wait())...)
}
