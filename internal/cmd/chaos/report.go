package main

import (
	"fmt"
	"slices"
	"strings"
)

// table is what was found, by fault. A run stands in the row of each of its faults.
func table(results []result) string {
	var b strings.Builder
	b.WriteString("| fault | runs | alerts | messages | lost | versions back | repeats | … unexplained | write-backs | … not as asked | key shown | seconds a run |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	row := func(name string, of []result) {
		if len(of) == 0 {
			return
		}
		var s result
		for _, r := range of {
			s.Alerts += r.Alerts
			s.Published += r.Published
			s.Lost += r.Lost
			s.Back += r.Back
			s.Repeats += r.Repeats
			s.Unexpected += r.Unexpected
			s.Writebacks += r.Writebacks
			s.Undone += r.Undone
			s.Keys += r.Keys
			s.Seconds += r.Seconds
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %.1f |\n", name, len(of),
			s.Alerts, s.Published, s.Lost, s.Back, s.Repeats, s.Unexpected, s.Writebacks, s.Undone, s.Keys, s.Seconds/float64(len(of)))
	}
	for _, k := range kinds {
		row(string(k), slices.DeleteFunc(slices.Clone(results), func(r result) bool { return !slices.Contains(r.Faults, k) }))
	}
	row("**all runs**", results)

	late, killed, pushes, calls, problems := 0, 0, 0, 0, 0
	for _, r := range results {
		late += r.LateFrozen
		killed += r.Killed
		pushes += r.Pushes
		calls += r.Runs
		problems += min(len(r.Problems), 1)
	}
	fmt.Fprintf(&b, "\n%d calls of `Ingest`, %d deliveries to `SyncStatus`, %d processes ended by a signal. "+
		"%d messages of a process that had stood still came after newer ones. %d runs found something.\n", calls, pushes, killed, late, problems)
	return b.String()
}
