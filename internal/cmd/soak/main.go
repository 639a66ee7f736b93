// Command soak runs the built functions, Ingest and SyncStatus, for an hour while alerts
// come in and change, the ledger grows and things go wrong, and looks whether anything
// grows with it: memory, goroutines, threads, open files, requests a run.
//
//	go run ./internal/cmd/soak -dir DIR -real 1h
//	go test ./internal/cmd/soak -run TestDay -dir DIR -day 24h -timeout 1h
//	go run ./internal/cmd/soak -dir DIR -report docs/soak.md
//
// The first command writes hour.csv into the folder. The second makes a simulated day
// with the engine in its own process, and writes day.csv. The third draws both.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"time"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
)

// The files in the folder.
const (
	hourFile = "hour.csv"
	dayFile  = "day.csv"
	logFile  = "hour.log" // what the processes printed and answered
)

type options struct {
	dir, report string
	real        time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "soak-results", "where the samples are")
	flag.DurationVar(&o.real, "real", 0, "how long the processes run")
	flag.StringVar(&o.report, "report", "", "write the figures into this document, and the picture beside it")
	flag.Parse()
	module.Main("soak", o.run)
}

func (o options) run(ctx context.Context) error {
	if o.real == 0 && o.report == "" {
		return errors.New("nothing to do: -real and -report say what")
	}
	if o.real > 0 {
		s, err := soak(ctx, o.dir, o.real)
		if err != nil {
			return err
		}
		problems := s.verdict()
		fmt.Print(s.table())
		if len(problems) > 0 {
			return errors.Join(problems...)
		}
	}
	if o.report == "" {
		return nil
	}
	hour, err := readSeries(filepath.Join(o.dir, hourFile))
	if err != nil {
		return err
	}
	day, err := readSeries(filepath.Join(o.dir, dayFile))
	if err != nil {
		return err
	}
	if err := writeReport(o.report, hour, day); err != nil {
		return err
	}
	return errors.Join(append(hour.verdict(), day.verdict()...)...)
}
