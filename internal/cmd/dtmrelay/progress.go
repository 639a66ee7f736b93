package main

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress is a bar on a terminal, and otherwise nothing. How many alerts there are is
// not known before the last one, so it follows their created_at.
type progress struct {
	bar      *progressbar.ProgressBar
	from, to time.Time // where the alerts begin and end, in either direction
	limit    int       // of alerts; 0: none
	began    time.Time
	shown    time.Time
	part     float64
}

const (
	progressSteps = 1000
	progressEvery = 100 * time.Millisecond
)

// newProgress begins a bar, if it may be drawn. A zero time is now, or later.
func newProgress(draw bool, from, to time.Time, limit int) *progress {
	now := time.Now()
	p := &progress{from: from, to: to, limit: limit, began: now}
	for _, t := range []*time.Time{&p.from, &p.to} {
		if t.IsZero() || t.After(now) {
			*t = now
		}
	}
	if draw && isTerminal(os.Stderr) {
		p.bar = progressbar.NewOptions(progressSteps, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetWidth(30),
			progressbar.OptionSetDescription("asking GTI"), progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish())
		_ = p.bar.RenderBlank() // a bar that can't be drawn is no reason to end
	}
	return p
}

// show shows how many alerts have come, and the created_at of the last one.
func (p *progress) show(n int, createdAt time.Time) {
	now := time.Now()
	if p.bar == nil || now.Sub(p.shown) < progressEvery {
		return
	}
	p.shown = now
	if all := p.to.Sub(p.from); all != 0 {
		p.part = max(p.part, float64(createdAt.Sub(p.from))/float64(all))
	}
	if p.limit > 0 {
		p.part = max(p.part, float64(n)/float64(p.limit))
	}
	p.bar.Describe(fmt.Sprintf("%s, %.0f/s", plural(n, "alert"), float64(n)/max(now.Sub(p.began).Seconds(), 0.1)))
	_ = p.bar.Set(min(progressSteps-1, int(p.part*progressSteps)))
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
