package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

type demoCmd struct {
	Alerts  *int          `placeholder:"N" help:"How many alerts there are, 1 to 200000 (4000)."`
	Latency time.Duration `default:"20ms" placeholder:"D" help:"Time that the API takes for a request (${default})."`
	Seed    *uint64       `placeholder:"N" help:"Other alerts with another seed (1)."`
	Dir     string        `placeholder:"DIR" help:"Where the files are and stay; existing ones are gone on with (a folder under the temporary one, emptied first)."`
	Keep    bool          `help:"Without --dir: go on with the files of the last demo."`
	JSON    bool          `help:"Print a summary as JSON."`
}

func (demoCmd) Help() string {
	return `Starts a simulator of the API and the real function as processes of this machine, and lets the function relay every alert into a file. On the way the API answers "too many requests", a connection is lost, and the function is killed in the middle and started again. Then every alert of the simulator is looked up in the file, where its passwords are masked. At the end an analyst changes the status of one in GTI, which is published, and a SOAR closes it by a message, which is written back to GTI.

Nothing leaves this machine, and no account is needed. A second run on the same files has nothing left to relay.

Examples:

	dtmrelay demo
	dtmrelay demo --keep
	dtmrelay demo --alerts 50000 --latency 200ms --dir /tmp/relay`
}

const (
	defaultAlerts = 4000
	maxAlerts     = 200_000
	defaultSeed   = 1
)

func (c *demoCmd) Validate() error {
	var errs []error
	if c.Alerts != nil && (*c.Alerts < 1 || *c.Alerts > maxAlerts) {
		errs = append(errs, fmt.Errorf("--alerts is %d: it must be 1 to %d", *c.Alerts, maxAlerts))
	}
	if c.Latency < 0 || c.Latency > 10*time.Second {
		errs = append(errs, fmt.Errorf("--latency is %s: it must be 0s to 10s", c.Latency))
	}
	return errors.Join(errs...)
}

func (c *demoCmd) Run(ctx context.Context) error {
	files, unlock, err := c.folder()
	if err != nil {
		return err
	}
	defer unlock()
	world, err := c.world(files)
	if err != nil {
		return err
	}
	d, err := newDemo(ctx, files, world, c.Latency)
	if err != nil {
		return err
	}
	result, err := d.run(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("interrupted; the files are in %s: %s demo --dir %[1]s goes on with them", files.dir, self())
	case err != nil:
		return err
	}
	if c.JSON {
		err = result.printJSON(os.Stdout)
	} else {
		err = result.print(os.Stdout)
	}
	if err == nil && result.after.lost > 0 {
		err = fmt.Errorf("%d of %d alerts are not in %s", result.after.lost, world.Alerts, files.alerts)
	}
	if err == nil && result.after.clear > 0 {
		err = fmt.Errorf("%d alerts have a password in clear text in %s", result.after.clear, files.alerts)
	}
	return err
}

// demoFiles are what a demo leaves.
type demoFiles struct {
	localFiles
	world, log string
}

// folder makes the folder, for this process alone, and without the files of the
// last demo where they aren't wanted.
func (c *demoCmd) folder() (files demoFiles, unlock func(), err error) {
	dir := c.Dir
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "dtmrelay-demo")
	}
	files = demoFiles{localFiles: filesIn(dir), world: filepath.Join(dir, "demo.json"), log: filepath.Join(dir, "relay.log")}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return demoFiles{}, nil, err
	}
	// The database's own lock is free while the relay is started again. An empty
	// database has the same lock on every system.
	lock, err := bolt.Open(filepath.Join(dir, "demo.lock"))
	if err != nil {
		return demoFiles{}, nil, fmt.Errorf("%w (--dir takes another folder)", err)
	}
	unlock = func() { _ = lock.Close() } // the end of the process does it too
	if c.Dir == "" && !c.Keep {
		if err := files.remove(); err != nil {
			unlock()
			return demoFiles{}, nil, fmt.Errorf("starting afresh: %w (--dir takes another folder)", err)
		}
	}
	return files, unlock, nil
}

func (f demoFiles) remove() error {
	var errs []error
	for _, path := range []string{f.world, f.state, f.alerts, f.rejects, f.log} {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// demo is one run of the demonstration.
type demo struct {
	files  demoFiles
	world  world
	api    *demoAPI
	before content
}

func newDemo(ctx context.Context, files demoFiles, w world, latency time.Duration) (*demo, error) {
	fmt.Fprintf(os.Stderr, "inventing %d alerts\n", w.Alerts)
	api, err := unlessInterrupted(ctx, func() (*demoAPI, error) { return newDemoAPI(w, latency) })
	if err != nil {
		return nil, err
	}
	switch w.Digest {
	case api.digest:
	case "":
		w.Digest = api.digest
		if err := w.keep(files.world); err != nil {
			return nil, err
		}
	default:
		return nil, usagef("the files in %s were made by another version of dtmrelay: take a new folder", files.dir)
	}
	before, err := readAlerts(files.alerts, api.alerts)
	if err != nil {
		return nil, err
	}
	api.trouble(before.lost)
	return &demo{files: files, world: w, api: api, before: before}, nil
}

// run relays what is not in the file yet.
func (d *demo) run(ctx context.Context) (*demoResult, error) {
	base, closeAPI, err := listenAndServe(d.api, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = closeAPI() }()

	fmt.Fprintf(os.Stderr, "simulator at %s, %d alerts to come; relaying into %s\n", base, d.before.lost, d.files.dir)
	stopProgress := showProgress(os.Stderr, d.files.alerts, d.before)
	defer stopProgress()
	result := &demoResult{files: d.files, world: d.world, before: d.before}
	began := time.Now()
	if err := d.relay(ctx, base+apiPath, result); err != nil {
		return nil, err
	}
	result.took = time.Since(began)
	stopProgress()

	stats := d.api.server.Stats()
	result.requests, result.rateLimited, result.cut = stats.Requests, stats.ByStatus[429], stats.ByStatus[0]
	result.after, err = readAlerts(d.files.alerts, d.api.alerts)
	if id := result.after.example.alertID; id != "" {
		shown := latest(d.api.server, id)
		result.password = passwordOf(shown.Element(true, false))
	}
	if err != nil || d.before.lost == 0 || result.after.lost > 0 {
		return result, err
	}
	result.changes, err = d.followAlert(ctx, base+apiPath)
	return result, err
}

// start starts the relay.
func (d *demo) start(ctx context.Context, baseURL string) (*relay, error) {
	// To the first alert, however long ago the files were begun.
	age := time.Since(d.world.from()).Round(time.Second) + time.Minute
	return startRelay(ctx, d.files, []string{
		"GTI_BASE_URL=" + baseURL,
		"GTI_API_KEY=" + demoKey,
		"REDACT=" + demoRedact,
		"MAX_CONCURRENCY=4",
		"MAX_QPS=1000",
		"INITIAL_LOOKBACK=" + age.String(),
		"UPDATES_WINDOW=" + age.String(),
		"LEDGER_TTL=" + (2 * age).String(),
	})
}

// relay lets the function run until all is relayed, and kills it in the middle.
func (d *demo) relay(ctx context.Context, baseURL string, result *demoResult) error {
	first, err := d.start(ctx, baseURL)
	if err != nil {
		return err
	}
	defer first.stop()
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		err = first.relayAll(ctx)
	}()
	select {
	case <-ran:
		return err
	case <-d.api.middle:
	}
	first.kill()
	<-ran // its answer was cut off
	lines, err := countLines(d.files.alerts, 0)
	if err != nil {
		return err
	}
	result.killed, result.killedAt = true, lines.count-d.before.lines
	d.api.release()

	second, err := d.start(ctx, baseURL)
	if err != nil {
		return err
	}
	defer second.stop()
	return second.relayAll(ctx)
}

// relayAll calls POST / until there's nothing left.
func (r *relay) relayAll(ctx context.Context) error {
	for {
		var report drain.Report
		if err := r.post(ctx, "/", nil, &report); err != nil {
			return err
		}
		switch report.Outcome {
		case drain.OK:
			return nil
		case drain.Partial: // its budget is used up
		default:
			return fmt.Errorf("the relay's run was %s (%s) %s; see %s", report.Outcome, report.StopReason, report.Error, r.log.Name())
		}
	}
}
