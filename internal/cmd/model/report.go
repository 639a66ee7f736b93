package main

import (
	"fmt"
	"slices"
	"strings"
)

// Rows of the table that count what all histories did; the others count histories.
var totals = []string{"alerts", "runs", "backfills", "audits", "write-backs", "requests", "messages", "rejects"}

// table is what the histories were about, and how many broke a law.
func table(results []result) string {
	counts := map[string]map[string]int{}
	all := map[string]int{}
	commits := map[string]int{}
	broken, seconds := 0, 0.0
	for _, r := range results {
		seconds += r.Seconds
		if r.Broken != "" {
			broken++
			continue
		}
		commits[r.Commit] += r.Counts["histories"]
		of := counts[r.Test]
		if of == nil {
			of = map[string]int{}
			counts[r.Test] = of
		}
		for name, n := range r.Counts {
			of[name] += n
			all[name] += n
		}
	}
	var b strings.Builder
	b.WriteString("| | TestModel | TestWriteback |\n|---|---|---|\n")
	row := func(shown, name string) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", shown, grouped(counts["TestModel"][name]), grouped(counts["TestWriteback"][name]))
	}
	row("**histories**", "histories")
	var with []string
	for name := range all {
		if name != "histories" && !slices.Contains(totals, name) {
			with = append(with, name)
		}
	}
	slices.Sort(with)
	for _, name := range with {
		row(name, name)
	}
	for _, name := range totals {
		row("in all: "+name, name)
	}
	fmt.Fprintf(&b, "\n%s histories have kept all laws, and in %d pieces a law was broken. They took %.1f hours of one core at most.\n", grouped(all["histories"]), broken, seconds/3600)
	var of []string
	for commit, n := range commits {
		of = append(of, fmt.Sprintf("%s on %s", grouped(n), commit))
	}
	slices.Sort(of)
	fmt.Fprintf(&b, "\nHistories by the state of the source: %s.\n", strings.Join(of, ", "))
	return b.String()
}

// grouped is a number with commas between its thousands.
func grouped(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
