package state

import (
	"regexp"
	"strings"
	"time"
)

// Backfill is the document feeds/{feed}/backfills/{id}: a past range that is to
// be relayed once more, and how far that is.
type Backfill struct {
	ID    string `json:"id"`
	Kind  string `json:"kind"`
	State string `json:"state"`

	Since     time.Time `json:"since"`
	Until     time.Time `json:"until"`
	Filter    string    `json:"filter"` // in its canonical form
	Republish bool      `json:"republish"`
	// Request is the SHA-256 of the request's text, as 64 hex digits: the same
	// request without an id means the same backfill while it is unfinished.
	Request string `json:"request_sha256"`
	// RequestedAt is what the list goes by. A query leaves out what has no such field,
	// so a zero one is stored too.
	RequestedAt time.Time `json:"requested_at" store:"always"`
	RequestedBy string    `json:"requested_by"` // verified e-mail of the caller; empty when the platform gave none

	Slices []Slice `json:"slices"` // pending
	// What was done so far.
	Fetched    int64 `json:"fetched"`
	Published  int64 `json:"published"`
	Suppressed int64 `json:"suppressed"`
	Dropped    int64 `json:"dropped"`
	Rejected   int64 `json:"rejected"`
	Requests   int64 `json:"requests"`

	// A dry run is not stored.
	DryRun       bool             `json:"-"`
	WouldPublish int64            `json:"-"`
	ByType       map[string]int64 `json:"-"`
	BySeverity   map[string]int64 `json:"-"`
	ByRule       map[string]int64 `json:"-"`

	Refused []Gap `json:"refused"` // spans that the API does not answer for
	// LateMax is an upper bound of how late the alerts that an audit found came
	// into the index, in whole milliseconds.
	LateMax    time.Duration `json:"late_max"`
	WorkedFor  time.Duration `json:"worked_for"` // in whole milliseconds
	Error      string        `json:"error"`      // the last one
	FinishedAt time.Time     `json:"finished_at"`
	ExpireAt   time.Time     `json:"expire_at"` // the database deletes a finished one some time after this; zero: never
}

// Finished reports whether nothing is to be done any more.
func (b Backfill) Finished() bool {
	return b.State == Done || b.State == Cancelled || b.State == Failed
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

// IsRelaysOwn reports whether an id is one that the relay gives to what it asks for itself.
func IsRelaysOwn(id string) bool {
	return strings.HasPrefix(id, "audit-") || strings.HasPrefix(id, "sweep-")
}
