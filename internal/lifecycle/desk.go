// Package lifecycle follows the versions of an alert over time: it tells a new
// alert from a changed one by the ledger, publishes each version once, and
// writes down what became of it.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// Ledger is where the desk looks alerts up and writes them down (state.Store).
type Ledger interface {
	Records(ctx context.Context, feed string, ids []string) ([]state.Entry, error)
	WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error)
}

// Publisher sends messages and returns one error for each, nil when it was
// acknowledged. An error wrapping message.ErrRefused is final for that message.
type Publisher interface {
	Publish(ctx context.Context, m []message.Message) []error
	Reject(ctx context.Context, m []message.Message) []error
}

// Desk handles alerts a page at a time: looks them up, publishes what is new,
// waits for every acknowledgement, and records it.
type Desk struct {
	Ledger    Ledger
	Publisher Publisher
	Feed      string
	RunID     string
	// TTL is how long a record is kept after it was last written.
	TTL time.Duration
	// Alive returns an error once nothing more may be published or written.
	Alive func() error
	// DryRun counts and does nothing else.
	DryRun bool
	// Backfill is the id of the backfill that the desk works for; empty for live
	// work. What was once dropped or rejected counts as missing for it.
	Backfill string
	// Republish publishes what the ledger knows once more.
	Republish bool

	draft draft
}

// Tally says what became of the alerts of a page.
type Tally struct {
	// Handled is how many alerts, from the front, are dealt with: fewer than were
	// given only when take allowed no more.
	Handled int

	Created       int
	Updated       int
	StatusChanged int
	Suppressed    int // this version is in the ledger already
	Superseded    int // a newer version is
	Rejected      int

	ByType     map[string]int // published alerts, only counted in a dry run
	BySeverity map[string]int
}

// Published is how many alerts were acknowledged by the alerts topic.
func (t Tally) Published() int { return t.Created + t.Updated + t.StatusChanged }

// Fresh is how many of them the ledger did not know.
func (t Tally) Fresh() int { return t.Published() + t.Rejected }

// Events of a message.
const (
	Created       = "created"
	Updated       = "updated"
	StatusChanged = "status_changed"
)

// job is one alert that has to be published or rejected.
type job struct {
	alert   dtm.Alert
	entry   state.Entry
	event   string
	msg     message.Message
	outcome string // what became of it, empty until it was acknowledged
	reason  string // why it was rejected
}

// Handle deals with alerts in their order. take is asked how many of n alerts
// may be published; the first one too many ends the page there.
//
// With an error, what was acknowledged has been recorded all the same, and is in
// the tally; Handled does not count then.
func (d *Desk) Handle(ctx context.Context, alerts []dtm.Alert, take func(n int) int) (Tally, error) {
	if len(alerts) == 0 {
		return Tally{}, nil
	}
	entries, err := d.Ledger.Records(ctx, d.Feed, ids(alerts))
	if err != nil {
		return Tally{}, fmt.Errorf("looking up %d alerts in the ledger: %w", len(alerts), err)
	}
	d.draft.overlay(entries)
	jobs, tally := d.sort(alerts, entries, take)
	if d.DryRun {
		d.draft.note(d, jobs)
		tally.ByType, tally.BySeverity = map[string]int{}, map[string]int{}
		for _, j := range jobs {
			if j.alert.Fault == "" {
				tally.ByType[j.alert.Type]++
				tally.BySeverity[j.alert.Severity]++
			}
			tally.count(j)
		}
		return tally, nil
	}
	if len(jobs) == 0 {
		return tally, nil
	}
	if err := d.Alive(); err != nil {
		return tally, err
	}
	failed := d.send(ctx, jobs)
	var acked []*job
	for _, j := range jobs {
		if j.outcome != "" {
			acked = append(acked, j)
			tally.count(j)
		}
	}
	return tally, errors.Join(failed, d.record(ctx, acked))
}

func (t *Tally) count(j *job) {
	switch {
	case j.alert.Fault != "" || j.outcome == state.Rejected:
		t.Rejected++
	case j.event == Created:
		t.Created++
	case j.event == StatusChanged:
		t.StatusChanged++
	default:
		t.Updated++
	}
}

func ids(alerts []dtm.Alert) []string {
	out := make([]string, len(alerts))
	for i, a := range alerts {
		out[i] = ledgerID(a)
	}
	return out
}

// ledgerID is the name of an alert in the ledger. An element that is no usable
// alert is known by its bytes.
func ledgerID(a dtm.Alert) string {
	if a.Fault != "" {
		return message.ElementID(a.Raw)
	}
	return a.ID
}

// sort tells what is to be sent from what is in the ledger already, up to what
// take allows.
func (d *Desk) sort(alerts []dtm.Alert, entries []state.Entry, take func(int) int) ([]*job, Tally) {
	newest := newestOf(alerts, entries)
	fates := make([]fate, len(alerts))
	n := 0
	for i, a := range alerts {
		fates[i] = d.fateOf(a, i, entries[i].Record, alerts[newest[entries[i].Record.ID]], newest[entries[i].Record.ID])
		if fates[i] == toSend && a.Fault == "" {
			n++
		}
	}
	allowed := n
	if n > 0 {
		allowed = take(n)
	}
	var tally Tally
	jobs := make([]*job, 0, n)
	for i, a := range alerts {
		switch fates[i] {
		case superseded:
			tally.Superseded++
		case suppressed:
			tally.Suppressed++
		case toSend:
			if a.Fault == "" {
				if allowed == 0 {
					return jobs, tally
				}
				allowed--
			}
			jobs = append(jobs, &job{alert: a, entry: entries[i], event: d.classify(entries[i].Record, a)})
		}
		tally.Handled++
	}
	return jobs, tally
}

type fate int

const (
	toSend fate = iota
	suppressed
	superseded
)

// fateOf is what is to be done with alert a, the i-th of its page, of which the
// ledger holds rec and whose newest version in the page is the best-th.
func (d *Desk) fateOf(a dtm.Alert, i int, rec state.Record, newest dtm.Alert, best int) fate {
	switch {
	case i != best && a.UpdatedAt.Before(newest.UpdatedAt):
		return superseded
	case i != best:
		return suppressed
	case d.missing(a, rec):
		return toSend
	case a.Fault != "" && !rec.HandledVersion.IsZero():
		return suppressed
	case a.Fault != "":
		return toSend
	case a.UpdatedAt.Before(rec.HandledVersion):
		return superseded
	case a.UpdatedAt.Equal(rec.HandledVersion):
		return suppressed
	default:
		return toSend
	}
}

// missing reports whether the backfill that the desk works for has to send what
// the ledger holds already: what was never published, or everything when it
// republishes, and each once.
func (d *Desk) missing(a dtm.Alert, rec state.Record) bool {
	switch {
	case d.Backfill == "" || rec.Backfill == d.Backfill:
		return false
	case a.Fault != "":
		return true
	case a.UpdatedAt.Equal(rec.PublishedVersion):
		return d.Republish
	default:
		return a.UpdatedAt.After(rec.PublishedVersion)
	}
}

// newestOf says which of the alerts with one id is the newest version in the
// page: a page never sends two versions of one alert, whose messages could pass
// each other.
func newestOf(alerts []dtm.Alert, entries []state.Entry) map[string]int {
	best := make(map[string]int, len(alerts))
	for i, a := range alerts {
		id := entries[i].Record.ID
		if j, ok := best[id]; !ok || a.UpdatedAt.After(alerts[j].UpdatedAt) {
			best[id] = i
		}
	}
	return best
}

// classify names what a version means to someone who has the earlier ones.
func (d *Desk) classify(rec state.Record, a dtm.Alert) string {
	switch {
	case !rec.Known(), d.Republish && !a.UpdatedAt.After(rec.PublishedVersion):
		return Created
	case rec.Status != message.Cut(a.Status):
		return StatusChanged
	default:
		return Updated
	}
}
