package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/redact"
)

// world is what the alerts of a demo follow from, so that a second run on the
// same files meets the same ones.
type world struct {
	Base   time.Time `json:"base"`
	Alerts int       `json:"alerts"`
	Seed   uint64    `json:"seed"`
	// Digest tells whether the simulator still invents the same alerts; empty
	// until it was stored.
	Digest string `json:"digest"`
}

func (w world) from() time.Time { return w.Base.Add(-24 * time.Hour) }

// generate invents the alerts. When the demo begins, the latest is old enough for
// everything that Typical lets happen to it, so that each has one version.
func (w world) generate() []dtmsim.Alert {
	shape := dtmsim.Typical()
	shape.Size = 600 // short enough to look at
	return dtmsim.Generate(w.Seed, w.Alerts, w.from(), w.Base.Add(-15*time.Minute), shape)
}

// world reads the folder's, or thinks of one.
func (c *demoCmd) world(f demoFiles) (world, error) {
	text, err := os.ReadFile(f.world)
	if errors.Is(err, os.ErrNotExist) {
		return c.begin(f)
	}
	if err != nil {
		return world{}, err
	}
	var w world
	if err := json.Unmarshal(text, &w); err != nil || w.Alerts < 1 || w.Alerts > maxAlerts || w.Base.IsZero() {
		return world{}, fmt.Errorf("%s is damaged: take a new folder", f.world)
	}
	if c.Alerts != nil && *c.Alerts != w.Alerts || c.Seed != nil && *c.Seed != w.Seed {
		return world{}, usagef("the files in %s are of --alerts %d --seed %d: leave both out to go on with them, or take a new folder with --dir",
			f.dir, w.Alerts, w.Seed)
	}
	return w, nil
}

func (c *demoCmd) begin(f demoFiles) (world, error) {
	for _, path := range []string{f.state, f.alerts} {
		if _, err := os.Stat(path); err == nil {
			return world{}, usagef("%s is not of a demo: take a new folder with --dir", path)
		}
	}
	w := world{Base: time.Now().UTC().Truncate(time.Millisecond), Alerts: defaultAlerts, Seed: defaultSeed}
	if c.Alerts != nil {
		w.Alerts = *c.Alerts
	}
	if c.Seed != nil {
		w.Seed = *c.Seed
	}
	return w, nil
}

// keep stores the world for the next run.
func (w world) keep(path string) error {
	text, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

const (
	demoKey    = "demo-key"
	demoRedact = `["credentials"]` // the default
)

// demoAPI is the simulator, which falls silent in the middle so that the relay
// can be killed there.
type demoAPI struct {
	server *dtmsim.Server
	alerts []fingerprint // as they are to be relayed
	digest string        // of alerts

	middleAt int           // alerts served
	middle   chan struct{} // closed when so many were
	once     sync.Once
	released chan struct{}
}

func newDemoAPI(w world, latency time.Duration) (*demoAPI, error) {
	a := &demoAPI{
		server:   dtmsim.New(dtmsim.Options{Key: demoKey, Seed: w.Seed, Latency: latency, Gzip: true}, w.generate()),
		middle:   make(chan struct{}),
		released: make(chan struct{}),
	}
	all, err := a.server.Visible(time.Now(), url.Values{})
	if err != nil {
		return nil, err
	}
	redactor, _, err := redact.Parse(demoRedact)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	for i := range all {
		// What the relay asks for: with the document and the monitor's name.
		masked, _, _ := redactor.Redact(all[i].Element(true, true))
		alert := fingerprintOf(masked)
		sum.Write(alert[:])
		a.alerts = append(a.alerts, alert)
	}
	a.digest = hex.EncodeToString(sum.Sum(nil))
	return a, nil
}

// trouble makes things go wrong while so many alerts are to come.
func (a *demoAPI) trouble(toCome int) {
	if toCome == 0 {
		a.release()
		return
	}
	const pageSize = 25 // DTM API: the most with the document
	pages := (toCome + pageSize - 1) / pageSize
	a.server.AddFault(dtmsim.Fault{Nth: pages/8 + 1, Status: http.StatusTooManyRequests, RetryAfter: "1"})
	a.server.AddFault(dtmsim.Fault{Nth: pages/4 + 2, ResetAfter: true})
	a.middleAt = pages * 2 / 5 * pageSize
}

func (a *demoAPI) release() { close(a.released) }

func (a *demoAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-a.released:
	default:
		if a.server.Stats().Alerts >= a.middleAt {
			a.once.Do(func() { close(a.middle) })
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
	}
	a.server.ServeHTTP(w, r)
}
