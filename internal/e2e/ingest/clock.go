//go:build clock

package main

import (
	"bufio"
	"os"
	"strconv"
	"time"
)

// With the tag clock, and a package time whose Now adds Jump, each line of
// standard input is by how many seconds the wall clock is wrong from now on. The end
// of the input is that of the process, so that none outlives whoever started it.
// internal/cmd/chaos builds the function so.
func init() {
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if seconds, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				time.Jump.Store(seconds)
			}
		}
		os.Exit(0)
	}()
}
