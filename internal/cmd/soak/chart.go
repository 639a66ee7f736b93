package main

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// The picture has a column for each run and a row for each kind of series. In pixels:
const (
	width, height   = 380, 110 // of a chart's inside
	left, above     = 62, 34   // of it: the scale, and the title
	column, row     = left + width + 38, above + height + 34
	headline, below = 44, 8
)

// style makes the picture readable in both modes, also where a page shows it on the other
// mode's ground: it has its own.
const style = `<style>
.ground{fill:#fff} text{fill:#1f2328;font:12px sans-serif} .run{font-size:15px;font-weight:bold} .title{font-weight:bold}
.scale{stroke:#d0d7de} polyline{fill:none;stroke-width:1.3} .a{stroke:#0969da} .b{stroke:#bc4c00} .dashed{stroke-dasharray:5 3}
@media (prefers-color-scheme: dark){
.ground{fill:#0d1117} text{fill:#e6edf3} .scale{stroke:#30363d} .a{stroke:#58a6ff} .b{stroke:#f0883e}
}
</style>
`

// line is a series in a chart.
type line struct{ name, label, class string }

type chart struct {
	title string
	scale float64 // of a unit
	lines []line
}

// Of a process both are drawn: Ingest in the first colour, SyncStatus in the second one.
var hourCharts = []chart{
	{"resident memory, MiB", 1 << 20, []line{{ingest + memory, "Ingest", "a"}, {syncStatus + memory, "SyncStatus", "b"}}},
	{"goroutines; dashed: threads", 1, []line{
		{ingest + threads, "", "a dashed"},
		{syncStatus + threads, "", "b dashed"},
		{ingest + goroutines, "Ingest", "a"},
		{syncStatus + goroutines, "SyncStatus", "b"},
	}},
	{"open files", 1, []line{{ingest + files, "Ingest", "a"}, {syncStatus + files, "SyncStatus", "b"}}},
	{"requests of a run", 1, []line{{requests, "", "a"}}},
	{"thousand alerts in the ledger", 1000, []line{{records, "", "a"}}},
}

var dayCharts = []chart{
	{"memory in use, MiB", 1 << 20, []line{{cache, "the cache", "b"}, {heap, "all else", "a"}}},
	{"goroutines", 1, []line{{goroutines, "", "a"}}},
	{"open files", 1, []line{{files, "", "a"}}},
	{"requests of a run", 1, []line{{requests, "", "a"}}},
	{"thousand alerts in the ledger", 1000, []line{{records, "", "a"}}},
}

// picture draws both runs.
func picture(hour, day *series) string {
	var b strings.Builder
	w, h := 2*column, headline+len(hourCharts)*row+below
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", w, h, w, h)
	b.WriteString("<title>What the relay takes over time: a real hour and a simulated day</title>\n" + style)
	fmt.Fprintf(&b, `<rect class="ground" width="%d" height="%d"/>`+"\n", w, h)
	for i, run := range []struct {
		name, unit string
		each       time.Duration
		charts     []chart
		series     *series
	}{{"a real hour, processes", "minutes", time.Minute, hourCharts, hour}, {"a simulated day, the engine", "hours", time.Hour, dayCharts, day}} {
		fmt.Fprintf(&b, `<text class="run" x="%d" y="26">%s</text>`+"\n", i*column+left, run.name)
		for n, c := range run.charts {
			fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", i*column+left, headline+n*row+above)
			run.series.draw(&b, c, run.each, run.unit)
			b.WriteString("</g>\n")
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw draws a chart whose inside begins at 0, 0.
func (s *series) draw(b *strings.Builder, c chart, each time.Duration, unit string) {
	end, most := s.end(), 0.0
	for _, l := range c.lines {
		for _, p := range s.points[l.name] {
			if p.at <= end {
				most = max(most, p.value/c.scale)
			}
		}
	}
	step := niceStep(most)
	top := step * math.Ceil(most/step)
	x := func(at time.Duration) float64 { return width * at.Seconds() / end.Seconds() }
	y := func(value float64) float64 { return height - height*value/top }
	fmt.Fprintf(b, `<text class="title" x="0" y="-12">%s</text>`+"\n", c.title)
	for value := 0.0; value <= top+step/2; value += step {
		fmt.Fprintf(b, `<path class="scale" d="M0 %.1fH%d"/><text x="-8" y="%.1f" text-anchor="end">%.4g</text>`+"\n", y(value), width, y(value)+4, value)
	}
	spacing := max(each, (end / 6).Round(each))
	for at := time.Duration(0); at <= end+end/50; at += spacing {
		label := fmt.Sprint(int(at / each))
		if at+spacing > end+end/50 {
			label += " " + unit
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(at), height+16, label)
	}
	// What lines are called, from the right.
	for i, l := range c.lines {
		if l.label != "" {
			at := width - 88*(len(c.lines)-i)
			fmt.Fprintf(b, `<polyline class="%s" points="%d,-16 %d,-16"/><text x="%d" y="-12">%s</text>`+"\n", l.class, at, at+16, at+20, l.label)
		}
	}
	for _, l := range c.lines {
		fmt.Fprintf(b, `<polyline class="%s" points="`, l.class)
		for _, p := range s.highest(l.name, end) {
			fmt.Fprintf(b, "%.1f,%.1f ", x(p.at), y(p.value/c.scale))
		}
		b.WriteString("\"/>\n")
	}
}

// highest are as many points of a series as can be told apart: of those that come
// together, the one with the greatest value.
func (s *series) highest(name string, end time.Duration) []point {
	var all []point
	column := -1
	for _, p := range s.points[name] {
		at := int(width / 2 * p.at.Seconds() / end.Seconds())
		switch {
		case p.at > end:
		case at != column:
			all, column = append(all, p), at
		case p.value > all[len(all)-1].value:
			all[len(all)-1] = p
		}
	}
	return all
}

// niceStep divides a scale that reaches to most into three to seven parts of a round size.
func niceStep(most float64) float64 {
	if most <= 0 {
		return 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, part := range []float64{5, 2.5, 1, 0.5} {
		if most/(step*part) >= 2.5 {
			return step * part
		}
	}
	return step / 5
}
