package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/cmd/resultfile"
)

// row is a budget's line of the table.
type row struct {
	name                        string
	floor, ours, ratio, allowed string
	verdict, others             string
}

const (
	kept    = "kept"
	broken  = "**not kept**"
	unknown = "not measured"
	none    = "–"
)

// rowOf compares what was measured with a budget.
func rowOf(b budget, m measured) (row, error) {
	r := unmeasured(b)
	ours, ok := m.metrics[b.ours]
	if !ok {
		return r, fmt.Errorf("%s: Benchmark%s does not report %s", b.id, b.benchmark, b.ours)
	}
	floor := b.least
	if b.floor != "" {
		if floor, ok = m.metrics[b.floor]; !ok || floor == 0 {
			return r, fmt.Errorf("%s: Benchmark%s does not report %s, or it is 0", b.id, b.benchmark, b.floor)
		}
	}
	r.ours = figure(ours) + " " + b.unit
	bounded := ours
	if floor > 0 {
		r.floor = figure(floor) + " " + b.unit
		r.ratio = strconv.FormatFloat(ours/floor, 'f', 3, 64)
		if b.onRatio {
			bounded = ours / floor
		}
	}
	r.verdict = broken
	if bounded <= b.limit {
		r.verdict = kept
	}
	r.others = strconv.FormatFloat(100*m.others, 'f', 0, 64) + " %"
	return r, nil
}

// unmeasured is the row of a budget of which nothing is known.
func unmeasured(b budget) row {
	allowed := "≤ " + figure(b.limit) + " " + b.unit
	if b.onRatio {
		allowed = "≤ " + figure(b.limit) + " × floor"
	}
	return row{name: fmt.Sprintf("`%s`: %s", b.id, b.what), allowed: allowed, floor: none, ours: none, ratio: none, verdict: unknown, others: none}
}

// figure has four digits, or all before the point.
func figure(x float64) string {
	precision := 0
	for y := x; y < 1000 && precision < 3; y *= 10 {
		precision++
	}
	text := strconv.FormatFloat(x, 'f', precision, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

const head = "| budget | floor | ours | ratio | allowed | verdict | others |\n|---|---|---|---|---|---|---|\n"

func (r row) String() string {
	return "| " + strings.Join([]string{r.name, r.floor, r.ours, r.ratio, r.allowed, r.verdict, r.others}, " | ") + " |\n"
}

// table has a line for each budget.
func table(all []budget, rows []row) string {
	var b strings.Builder
	b.WriteString(head)
	for _, r := range complete(all, rows) {
		b.WriteString(r.String())
	}
	return b.String()
}

// complete returns the row of each budget: its last one in rows that is about the same
// thing, or one that says that nothing is known.
func complete(all []budget, rows []row) (full []row) {
	for _, b := range all {
		found := unmeasured(b)
		for _, r := range rows {
			if r.name == found.name && r.allowed == found.allowed {
				found = r
			}
		}
		full = append(full, found)
	}
	return full
}

// updateDocument writes what was measured into the document's table.
func updateDocument(path string, rows []row, machine string) error {
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return resultfile.WriteTable(path, "performance", document(string(before), rows, machine))
}

const onMachine = "The last call was on "

// document is the table with what is known now and in the document before, and how much
// that is.
func document(before string, rows []row, machine string) string {
	var known []row
	for line := range strings.Lines(before) {
		if cells := strings.Split(strings.Trim(line, "| \n"), " | "); len(cells) == 7 {
			known = append(known, row{
				name: cells[0], floor: cells[1], ours: cells[2], ratio: cells[3], allowed: cells[4],
				verdict: cells[5], others: cells[6],
			})
		}
		if last, ok := strings.CutPrefix(line, onMachine); ok && machine == "" {
			machine = strings.TrimSuffix(last, ".\n")
		}
	}
	known = append(known, rows...)
	n, measured := 0, 0
	for _, r := range complete(budgets, known) {
		if r.verdict == kept {
			n++
		}
		if r.verdict != unknown {
			measured++
		}
	}
	return fmt.Sprintf("%s\n%d of %d budgets are measured, and %d of these are kept.\n\n%s%s.\n", table(budgets, known), measured, len(budgets), n, onMachine, machine)
}
