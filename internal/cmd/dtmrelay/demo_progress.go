package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// showProgress shows how many of the alerts that are to come are in the file,
// until the function it returns is called: as a bar on a terminal, otherwise with
// a line for each quarter.
func showProgress(out *os.File, path string, before content) (stop func()) {
	if before.lost == 0 {
		return func() {}
	}
	show := lineForQuarters(out, before.lost)
	finish := func() {}
	if isTerminal(out) {
		bar := progressbar.NewOptions(before.lost,
			progressbar.OptionSetWriter(out), progressbar.OptionSetDescription("alerts"), progressbar.OptionSetWidth(40),
			progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(false), progressbar.OptionUseANSICodes(takesEscapes(out)))
		// A bar that can't be drawn is no reason to end.
		show = func(n int) { _ = bar.Set(n) }
		finish = func() { fmt.Fprintln(out) }
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		follow(path, before.lines, before.lost, show, quit)
		finish()
	}()
	return sync.OnceFunc(func() {
		close(quit)
		<-done
	})
}

// follow shows the number of lines that come after the ones before.
func follow(path string, before, toCome int, show func(n int), quit <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	lines := lineCount{count: -before}
	for last := false; ; {
		if more, err := countLines(path, lines.offset); err == nil {
			lines = lineCount{lines.count + more.count, more.offset}
			show(min(max(lines.count, 0), toCome)) // repeated ones may make it more
		}
		if last {
			return
		}
		select {
		case <-tick.C:
		case <-quit:
			last = true
		}
	}
}

func lineForQuarters(out io.Writer, toCome int) (show func(n int)) {
	shown := 0
	return func(n int) {
		if quarter := n * 4 / toCome; quarter > shown {
			shown = quarter
			fmt.Fprintf(out, "%d of %d alerts\n", n, toCome)
		}
	}
}
