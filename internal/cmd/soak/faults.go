package main

import (
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/e2e/process"
)

// lasts is how long the API goes wrong, from a run's beginning on: shorter than it takes
// until the next one.
const lasts = 40 * time.Second

// apiFaults are what the API does wrong, now and then. Each ends with its hits: an hour's
// 20 faults make at most 18 error answers, and with 20 of them SyncStatus would leave the
// rest of what the key is allowed to Ingest, and write nothing back for up to an hour.
func apiFaults() []dtmsim.Fault {
	return []dtmsim.Fault{
		{Status: 429, RetryAfter: "2", Chance: 0.5, Times: 2},
		{Status: 500, AfterWork: true, Chance: 0.5, Times: 2},
		{ResetAfter: true, Chance: 0.5, Times: 3},
		{Truncate: 300, Chance: 0.5, Times: 3},
		{Hang: true, Times: 1},
		{Status: 429, Body: dtmsim.QuotaExceeded, Times: 1},
		{Status: 503, Chance: 0.5, Times: 2},
	}
}

// inflict lets the nth thing go wrong: one of the API's faults, or that the database's
// connections or the topics' are cut.
func (w *world) inflict(n int) {
	w.faults++
	api := apiFaults()
	ways := []*process.Proxy{w.store, w.topic}
	if n %= len(api) + len(ways); n >= len(api) {
		w.work.Go(func() {
			for range 20 {
				w.pause(200 * time.Millisecond)
				ways[n-len(api)].Cut()
			}
		})
		return
	}
	w.sim.AddFault(api[n])
	w.work.Go(func() {
		w.pause(lasts)
		w.calm()
	})
}

func (w *world) calm() { w.sim.ClearFaults() }
