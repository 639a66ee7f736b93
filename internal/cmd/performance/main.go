// Command performance measures the relay against its budgets, with the benchmarks of the
// packages, and prints one table:
//
//	go run ./internal/cmd/performance [-run REGEXP] [-report docs/performance.md]
//
// A benchmark measures its floor in the same run, because machines differ. Nothing else
// should be at work meanwhile: the last column says what share of the processors others had.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
)

func main() {
	only := flag.String("run", "", "measure only budgets whose id matches `regexp`")
	report := flag.String("report", "", "write the table into this `document`; what is known of budgets that aren't measured stays")
	flag.Parse()
	module.Main("performance", func(ctx context.Context) error { return perform(ctx, *only, *report) })
}

func perform(ctx context.Context, only, report string) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	root, err := module.Root(ctx)
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(budgets), func(b budget) bool { return !pattern.MatchString(b.id) })
	var rows []row
	var problems []error
	for _, group := range byBenchmark(chosen) {
		fmt.Fprintf(os.Stderr, "%s: Benchmark%s\n", group[0].dir, group[0].benchmark)
		m, err := measure(ctx, root, group[0])
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			problems = append(problems, err)
			continue
		}
		for _, b := range group {
			r, err := rowOf(b, m)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			rows = append(rows, r)
			if r.verdict != kept {
				problems = append(problems, fmt.Errorf("%s is not kept: %s, ratio %s, allowed %s", b.id, r.ours, r.ratio, r.allowed))
			}
		}
		if report == "" {
			continue
		}
		// After each one: a run of all that is interrupted is gone on with by -run.
		if err := updateDocument(report, rows, m.machine); err != nil {
			return err
		}
	}
	fmt.Print(table(chosen, rows))
	return errors.Join(problems...)
}

// byBenchmark puts together the budgets that one run of a benchmark measures, in the
// order of the first of each.
func byBenchmark(all []budget) (groups [][]budget) {
	for _, b := range all {
		i := slices.IndexFunc(groups, func(g []budget) bool { return g[0].dir == b.dir && g[0].benchmark == b.benchmark })
		if i < 0 {
			groups = append(groups, []budget{b})
			continue
		}
		groups[i] = append(groups[i], b)
	}
	return groups
}
