package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/cmd/resultfile"
)

// called are the kinds of series as the document has them.
var called = map[string]chart{
	memory:     {title: "resident memory, MiB", scale: 1 << 20},
	heap:       {title: "memory in use, MiB", scale: 1 << 20},
	cache:      {title: "the cache of published alerts, MiB", scale: 1 << 20},
	goroutines: {title: "goroutines", scale: 1},
	threads:    {title: "threads", scale: 1},
	files:      {title: "open files", scale: 1},
	requests:   {title: "requests a run", scale: 1},
}

// table is what became of each series, and what there is one value of.
func (s *series) table() string {
	var b strings.Builder
	b.WriteString("| | first quarter | last quarter | growth | may be at most |\n|---|---|---|---|---|\n")
	for _, g := range s.growths() {
		name, of := kindOf(g.name), ""
		switch {
		case strings.HasPrefix(g.name, ingest):
			of = "`Ingest`: "
		case strings.HasPrefix(g.name, syncStatus):
			of = "`SyncStatus`: "
		}
		c := called[name]
		title := c.title
		if s.has(cache) && name == heap {
			title = "memory in use without the cache, MiB"
		}
		fmt.Fprintf(&b, "| %s%s | %.4g | %.4g | %.1f %% | %.4g |\n", of, title, g.first/c.scale, g.last/c.scale, g.percent(), g.most/c.scale)
	}
	fmt.Fprintf(&b, "\n%v. %s alerts, %s messages, %.0f lost. ", s.end().Round(time.Minute), thousands(s.total(created)), thousands(s.total(published)), s.total(lost))
	if s.has(done) {
		fmt.Fprintf(&b, "%s write-backs done, %.0f not acknowledged. ", thousands(s.total(done)), s.total(undone))
	}
	var outcomes []string
	for name := range s.points {
		if outcome, ok := strings.CutPrefix(name, runs); ok {
			outcomes = append(outcomes, fmt.Sprintf("%.0f %s", s.total(name), outcome))
		}
	}
	slices.Sort(outcomes)
	fmt.Fprintf(&b, "Runs: %s. %.0f times something went wrong; the API gave %.0f error answers.\n", strings.Join(outcomes, ", "), s.total(faults), s.total(refused))
	return b.String()
}

// thousands writes a number with a comma before each three digits.
func thousands(n float64) string {
	text := fmt.Sprintf("%.0f", n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// writeReport puts the figures into a document, and the picture beside it.
func writeReport(path string, hour, day *series) error {
	figures := "### The real hour\n\n" + hour.table() + "\n### The simulated day\n\n" + day.table()
	if err := resultfile.WriteTable(path, "soak", figures); err != nil {
		return err
	}
	name := strings.TrimSuffix(path, filepath.Ext(path)) + ".svg"
	return os.WriteFile(name, []byte(picture(hour, day)), 0o644) //nolint:gosec // everybody may read it
}
