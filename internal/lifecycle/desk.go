// Package lifecycle follows the versions of an alert over time: it tells a new
// alert from a changed one by the ledger, publishes each version once, and
// writes down what became of it.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	// Draft, unless nil, makes a dry run of it: the desk counts, and writes down
	// there what it would have recorded.
	Draft *Draft
	// Backfill is the id of the backfill that the desk works for; empty for live work.
	Backfill string
	// Missing: what was once dropped or rejected is published for the backfill.
	Missing bool
	// Republish publishes what the ledger knows once more.
	Republish bool
	// Admit, unless nil, says whether an alert of which the ledger has no version is
	// any business of this work. What isn't is left alone, unusable elements too. An
	// alert that was only rejected so far is the feed's, whatever Admit says.
	Admit func(dtm.Alert) bool
	// Whole, unless nil, fetches an alert that is to be published for the first
	// time: the listing left its document out.
	Whole func(ctx context.Context, id string) (dtm.Page, error)
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
	LeftAlone     int // not admitted, or gone by the time that they were fetched

	// Oldest is the lowest created_at of the published alerts of which the ledger
	// had no trace; zero when there was none.
	Oldest time.Time

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
	origin  string
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
	if d.Draft != nil {
		d.Draft.overlay(entries)
	}
	jobs, tally := d.sort(alerts, entries, take)
	if d.Draft != nil {
		d.Draft.note(d, jobs)
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
	deliver := d.deliver
	if d.Whole != nil {
		deliver = d.whole
	}
	err = deliver(ctx, jobs, &tally)
	return tally, err
}

// deliver publishes the jobs and records those that were acknowledged.
func (d *Desk) deliver(ctx context.Context, jobs []*job, tally *Tally) error {
	if len(jobs) == 0 {
		return nil
	}
	if err := d.Alive(); err != nil {
		return err
	}
	failed := d.send(ctx, jobs)
	var acked []*job
	for _, j := range jobs {
		if j.outcome != "" {
			acked = append(acked, j)
			tally.count(j)
		}
	}
	return errors.Join(failed, d.record(ctx, acked))
}

func (t *Tally) count(j *job) {
	if j.alert.Fault != "" || j.outcome == state.Rejected {
		t.Rejected++
		return
	}
	if created := j.alert.CreatedAt; j.entry.Record.HandledVersion.IsZero() && (t.Oldest.IsZero() || created.Before(t.Oldest)) {
		t.Oldest = created
	}
	switch j.event {
	case Created:
		t.Created++
	case StatusChanged:
		t.StatusChanged++
	default:
		t.Updated++
	}
}

func ids(alerts []dtm.Alert) []string {
	out := make([]string, len(alerts))
	for i, a := range alerts {
		out[i] = LedgerID(a)
	}
	return out
}

// LedgerID is the name of an alert in the ledger. An element that is no usable
// alert is known by its bytes.
func LedgerID(a dtm.Alert) string {
	if a.Fault != "" {
		return message.ElementID(a)
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
		case leftAlone:
			tally.LeftAlone++
		case toSend:
			if a.Fault == "" {
				if allowed == 0 {
					return jobs, tally
				}
				allowed--
			}
			j := &job{alert: a, entry: entries[i]}
			d.classify(j)
			jobs = append(jobs, j)
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
	leftAlone
)

// fateOf is what is to be done with alert a, the i-th of its page, of which the
// ledger holds rec and whose newest version in the page is the best-th.
func (d *Desk) fateOf(a dtm.Alert, i int, rec state.Record, newest dtm.Alert, best int) fate {
	switch {
	case i != best && a.UpdatedAt.Equal(newest.UpdatedAt):
		return suppressed
	case i != best:
		return superseded
	case d.missing(a, rec):
		return toSend
	case d.Admit != nil && a.Fault != "":
		return leftAlone
	case a.Fault != "" && !rec.HandledVersion.IsZero():
		return suppressed
	case a.Fault != "":
		return toSend
	case a.UpdatedAt.Before(rec.HandledVersion):
		return superseded
	case a.UpdatedAt.Equal(rec.HandledVersion), aside(rec, a.UpdatedAt) != "":
		return suppressed
	case rec.HandledVersion.IsZero() && d.Admit != nil && !d.Admit(a):
		return leftAlone
	default:
		return toSend
	}
}

// missing reports whether the backfill that the desk works for has to send what
// the ledger holds already: what was never published, or everything when it
// republishes, and each once.
func (d *Desk) missing(a dtm.Alert, rec state.Record) bool {
	switch {
	case !d.Missing || rec.Backfill == d.Backfill:
		return false
	case a.Fault != "":
		return true
	case a.UpdatedAt.Equal(rec.PublishedVersion), aside(rec, a.UpdatedAt) == state.Published:
		return d.Republish
	default:
		return a.UpdatedAt.After(rec.PublishedVersion)
	}
}

// newestOf says which of the alerts with one id is the newest version in the
// page: a page never sends two versions of one alert, whose messages could pass
// each other. One whose time lies ahead is newer only than others of its kind.
func newestOf(alerts []dtm.Alert, entries []state.Entry) map[string]int {
	best := make(map[string]int, len(alerts))
	for i, a := range alerts {
		rec := entries[i].Record
		j, ok := best[rec.ID]
		if !ok || newer(rec, a, alerts[j]) {
			best[rec.ID] = i
		}
	}
	return best
}

func newer(rec state.Record, a, b dtm.Alert) bool {
	if counts := isDated(rec, a); counts != isDated(rec, b) {
		return counts
	}
	return a.UpdatedAt.After(b.UpdatedAt)
}

// classify names what a version means to someone who has the earlier ones, and
// where it comes from.
func (d *Desk) classify(j *job) {
	a, rec := j.alert, j.entry.Record
	switch {
	case !rec.Known(), d.Republish && wasPublished(rec, a):
		j.event = Created
	case rec.Status != message.Cut(a.Status):
		j.event = StatusChanged
	default:
		j.event = Updated
	}
	j.origin = state.FromGTI
	if a.Fault == "" {
		j.origin, _ = comesRound(rec, a)
	}
	// One that is published once more has used its mark up.
	if i := slices.IndexFunc(rec.Statuses, func(s state.StatusChange) bool { return s.At.Equal(a.UpdatedAt) }); i >= 0 {
		j.origin = rec.Statuses[i].Origin
	}
}
