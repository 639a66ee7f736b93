// Package ledger follows the versions of an alert over time: it tells a new
// alert from a changed one by the alert's record, publishes each version once, and
// writes down what became of it.
package ledger

import (
	"context"
	"errors"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/redact"
	"dtmrelay.internal/dtmrelay/internal/rules"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// Store keeps the alerts' records (state.Store).
type Store interface {
	Records(ctx context.Context, feed string, ids []string) ([]state.Entry, error)
	WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error)
}

// Publisher sends messages and returns one error for each, nil when it was
// acknowledged. An error wrapping message.ErrRefused is final for that message.
type Publisher interface {
	Publish(ctx context.Context, m []message.Message) []error
	Reject(ctx context.Context, m []message.Message) []error
}

// WritebackTopic takes requests to change alerts in GTI, as Publisher takes messages.
type WritebackTopic interface {
	Request(ctx context.Context, m []message.Message) []error
}

// Allowance is how many alerts may still be published.
type Allowance interface {
	// Reserve says how many of n alerts may be published, and counts them.
	Reserve(n int) int
	// Return gives back those that were not published after all, such as what a rule has
	// dropped. It follows every Reserve that gave any, if with 0: others may wait for what
	// comes back.
	Return(n int)
}

// Processor deals with alerts a page at a time: it looks them up, publishes what is
// new, waits for every acknowledgement, and records it.
type Processor struct {
	Store     Store
	Publisher Publisher
	Feed      string
	RunID     string
	// TTL is how long a record is kept after it was last written.
	TTL time.Duration
	// Rules decide what is dropped, and how urgent an alert is; nil: there are none.
	Rules *rules.Rules
	// Writebacks takes what rules want written to GTI; nil when no rule wants anything.
	Writebacks WritebackTopic
	// Redactor masks secrets in all that is sent.
	Redactor *redact.Redactor
	// Format is that of the messages' data.
	Format message.Format
	// Cache is what this instance knows to be published; nil: it looks up everything.
	Cache *Cache
	Options
}

// Options say what a processor works for.
type Options struct {
	Mode Mode
	// CheckLease returns an error once nothing more may be published or written.
	CheckLease func() error
	// DryRun, unless nil, makes a dry run of it: the processor only counts, and
	// writes down there what it would have recorded.
	DryRun *DryRun
	// BackfillID names the backfill that the processor works for; empty for live work.
	BackfillID string
	// IsFeeds says in the mode Matches of an alert without a version in the ledger
	// whether the feed has passed it, and not left it to be read.
	IsFeeds func(dtm.Alert) bool
	// FetchFull, unless nil, fetches an alert that is to be published for the first
	// time: the listing left its document out. It also fetches one of which something was
	// masked before: without the document nothing says what to mask.
	FetchFull func(ctx context.Context, id string) (dtm.Page, error)
	// FullSince is the created_at from which later versions are fetched, too: GTI goes on
	// with the document of a young alert. Zero: none is.
	FullSince time.Time
}

// Mode is what a processor publishes. The version of an alert that is newer than all
// in the ledger is published in each.
type Mode int

// Modes of a processor. In Changes and Matches an alert that was only rejected or
// dropped so far is known, and unusable elements are left alone.
const (
	Live      Mode = iota // and what the ledger has no version of
	Changes               // and leaves alone what the ledger has no version of
	Matches               // and what the ledger has no version of, where IsFeeds says so
	Backfill              // as Live, and what was never published, once for each backfill
	Republish             // as Backfill, and what was published
)

// Counts say what became of the alerts of a page.
type Counts struct {
	// Handled is how many alerts, from the front, are dealt with: fewer than were
	// given only when the allowance was used up.
	Handled int

	Created       int
	Updated       int
	StatusChanged int
	Suppressed    int // this version is in the ledger already
	Superseded    int // a newer version is
	Dropped       int // by a rule
	Rejected      int
	LeftAlone     int // changed, but unknown and not this feed's

	Redacted int // of the published and the rejected ones: something was masked

	// RulesFailed is how often a rule has failed, and Failures which rules, with the
	// reason of each one's latest failure.
	RulesFailed int
	Failures    map[string]string

	// Oldest is the lowest created_at of the published and dropped alerts of which the
	// ledger had no trace; zero when there was none.
	Oldest time.Time

	ByType     map[string]int // published alerts, only counted in a dry run
	BySeverity map[string]int
	ByRule     map[string]int // versions that a rule matched, only counted in a dry run
}

// Published is how many alerts were acknowledged by the alerts topic.
func (c Counts) Published() int { return c.Created + c.Updated + c.StatusChanged }

// New is how many versions came into the ledger: published, dropped or rejected.
func (c Counts) New() int { return c.Published() + c.Dropped + c.Rejected }

// Events of a message.
const (
	Created       = "created"
	Updated       = "updated"
	StatusChanged = "status_changed"
)

// item is one alert that has to be published or rejected.
type item struct {
	alert   dtm.Alert
	entry   state.Entry
	event   string
	origin  string
	msg     message.Message
	outcome string // what became of it, empty until it was acknowledged
	reason  string // why it was rejected

	rules     rules.Result
	requested bool // what its rules want written back was acknowledged
	redacted  bool
	secret    bool // more than the text of its document was masked
	unseen    bool // its document could not be had
	// fingerprint is that of its texts, when these were looked at with all that was to be had.
	fingerprint string
	// masked is what is masked in the alert with its document, where the version comes
	// without; nil: nobody has looked.
	masked *redact.Masked

	recorded state.Record // what was written last
}

// Process deals with alerts in their order. The first one that the allowance has no place
// for ends the page there.
//
// With an error, what was acknowledged has been recorded all the same, and is in
// the counts; Handled does not count then.
func (p *Processor) Process(ctx context.Context, alerts []dtm.Alert, allowance Allowance) (Counts, error) {
	var counts Counts
	for counts.Handled < len(alerts) {
		before := counts.Published()
		reserved, err := p.process(ctx, alerts[counts.Handled:], &counts, allowance)
		switch {
		case reserved == 0:
			return counts, err
		case err != nil:
			allowance.Return(0) // what has failed may have been published
			return counts, err
		}
		published := counts.Published() - before
		allowance.Return(reserved - published)
	}
	return counts, nil
}

// process deals with alerts up to the first that may not be published, and says how many
// it has reserved.
func (p *Processor) process(ctx context.Context, alerts []dtm.Alert, counts *Counts, allowance Allowance) (reserved int, err error) {
	entries, err := p.lookUp(ctx, alerts)
	if err != nil {
		return 0, err
	}
	if p.DryRun != nil {
		p.DryRun.overlay(p, entries)
	}
	items, reserved := p.decide(alerts, entries, counts, allowance)
	if p.DryRun != nil {
		p.applyRules(items)
		p.DryRun.remember(p, items)
		if counts.ByType == nil {
			counts.ByType, counts.BySeverity, counts.ByRule = map[string]int{}, map[string]int{}, map[string]int{}
		}
		for _, it := range items {
			for _, rule := range it.rules.Matched {
				counts.ByRule[rule]++
			}
			if it.outcome == state.Published {
				counts.ByType[it.alert.Type]++
				counts.BySeverity[it.alert.Severity]++
			}
			counts.addFailures(it)
			counts.add(it)
		}
		return reserved, nil
	}
	deliver := p.publishAndRecord
	if p.FetchFull != nil {
		deliver = p.hydrate
	}
	return reserved, deliver(ctx, items, counts)
}

// publishAndRecord publishes the items and records those that were acknowledged.
func (p *Processor) publishAndRecord(ctx context.Context, items []*item, counts *Counts) error {
	if len(items) == 0 {
		return nil
	}
	if err := p.CheckLease(); err != nil {
		return err
	}
	p.applyRules(items)
	for _, it := range items {
		counts.addFailures(it)
	}
	items, unrequested := p.requestWritebacks(ctx, items)
	failed := errors.Join(unrequested, p.publish(ctx, items))
	var acked []*item
	for _, it := range items {
		if it.outcome != "" {
			acked = append(acked, it)
			counts.add(it)
		}
	}
	return errors.Join(failed, p.record(ctx, acked))
}

func (c *Counts) addFailures(it *item) {
	for _, f := range it.rules.Failed {
		if c.Failures == nil {
			c.Failures = map[string]string{}
		}
		c.RulesFailed++
		c.Failures[f.Rule] = f.Reason
	}
}

func (c *Counts) add(it *item) {
	if it.redacted {
		c.Redacted++
	}
	if it.alert.Invalid != "" || it.outcome == state.Rejected {
		c.Rejected++
		return
	}
	if created := it.alert.CreatedAt; it.entry.Record.HandledVersion.IsZero() && (c.Oldest.IsZero() || created.Before(c.Oldest)) {
		c.Oldest = created
	}
	switch {
	case it.outcome == state.Dropped:
		c.Dropped++
	case it.event == Created:
		c.Created++
	case it.event == StatusChanged:
		c.StatusChanged++
	default:
		c.Updated++
	}
}

// ID is the name of an alert in the ledger. An element that is no usable alert is
// known by its bytes.
func ID(a dtm.Alert) string {
	if a.Invalid != "" {
		return message.ElementID(a)
	}
	return a.ID
}
