package state

import (
	"regexp"
	"time"
)

// Backfill is the document feeds/{feed}/backfills/{id}: a past range that is to
// be relayed once more, and how far that is.
type Backfill struct {
	ID    string
	Kind  string
	State string

	Since, Until time.Time
	Filter       string // in its canonical form
	Republish    bool
	DryRun       bool
	// Request is the SHA-256 of the request's text, as 64 hex digits: the same
	// request without an id means the same backfill while it is unfinished.
	Request string
	// Latest is set in the first of several backfills of the same request, none of
	// which had an id: the number in which the latest one's id ends, as far as is known.
	Latest      int64
	RequestedAt time.Time
	RequestedBy string // verified e-mail of the caller; empty when the platform gave none

	Slices []Slice // pending
	// What was done so far.
	Fetched, Published, Suppressed, Dropped, Rejected, Requests int64
	WouldPublish                                                int64 // of a dry run
	ByType, BySeverity                                          map[string]int64

	Refused []Gap // spans that the API does not answer for
	// LateMax is an upper bound of how late the alerts that an audit found came
	// into the index, in whole milliseconds.
	LateMax    time.Duration
	WorkedFor  time.Duration // in whole milliseconds
	Error      string        // the last one
	FinishedAt time.Time
	ExpireAt   time.Time // the database deletes a finished one some time after this; zero: never
}

// Finished reports whether nothing is to be done any more.
func (b Backfill) Finished() bool {
	return b.State == Done || b.State == Cancelled || b.State == Failed
}

// Expired reports whether it is as good as deleted: the database deletes it up to
// a day after its time, or never.
func (b Backfill) Expired(now time.Time) bool {
	return b.Finished() && !b.ExpireAt.IsZero() && !b.ExpireAt.After(now)
}

// States of a backfill.
const (
	Pending   = "pending"
	Running   = "running"
	Done      = "done"
	Cancelled = "cancelled"
	Failed    = "failed"
)

// Kinds of backfills that the relay asks itself for. The kind of one that was
// asked for by others is empty.
const (
	Audit   = "audit"   // looks for alerts that came into the index late
	Changes = "changes" // goes on with a sweep: changes of known alerts
	Matches = "matches" // goes on with a sweep: alerts that came to match the filter
)

var backfillID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// ValidBackfillID reports whether a backfill may have this id: 1 to 128 letters,
// digits, dots, dashes and underscores, a letter or digit first.
func ValidBackfillID(id string) bool { return len(id) <= 128 && backfillID.MatchString(id) }
