package main

import (
	"fmt"
	"os"

	"github.com/schollz/progressbar/v3"
)

// backfillBar shows how far a backfill is: as a bar on a terminal, otherwise with a
// line for each quarter.
type backfillBar struct {
	out     *os.File
	lines   bool                     // also on a terminal
	bar     *progressbar.ProgressBar // nil: not on a terminal, or nothing was shown
	quarter int
}

func newBackfillBar(out *os.File) *backfillBar { return &backfillBar{out: out} }

// barSteps is the bar's length in steps.
const barSteps = 1000

func (b *backfillBar) show(r backfillRecord) {
	if b.lines || !isTerminal(b.out) {
		if quarter := int(r.Done * 4); quarter > b.quarter {
			b.quarter = quarter
			fmt.Fprintf(b.out, "%s of the range, %d alerts fetched\n", percent(r.Done), r.Fetched)
		}
		return
	}
	if b.bar == nil {
		b.bar = progressbar.NewOptions(barSteps, progressbar.OptionSetWriter(b.out), progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionUseANSICodes(takesEscapes(b.out)))
	}
	text := fmt.Sprintf("%d alerts, %.0f/s", r.Fetched, r.Rate)
	if !r.ExpectedEnd.IsZero() {
		text += ", until " + r.ExpectedEnd.Local().Format("15:04:05")
	}
	b.bar.Describe(text)
	_ = b.bar.Set(int(r.Done * barSteps)) // a bar that can't be drawn is no reason to end
}

// end leaves the bar's line.
func (b *backfillBar) end() {
	if b.bar != nil {
		fmt.Fprintln(b.out)
		b.bar = nil
	}
}
