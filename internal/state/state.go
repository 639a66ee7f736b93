// Package state says what the relay remembers and what a database must do to
// keep it: the feed's position, lease and slices, the ledger of alerts, and the
// counters of requests. Implementations are in the folders below it.
package state

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"time"
)

// Schema is written into every document. A document with a higher one was
// written by a newer program and is not guessed at.
const Schema = 1

var (
	// ErrConflict means that the document is no longer at the version that the
	// write was conditional on.
	ErrConflict = errors.New("the document was changed by another writer")
	// ErrPlace means that a place in a list is none that a store gave out.
	ErrPlace = errors.New("not a place in this list")
	// ErrSchema means that a document was written by a newer program.
	ErrSchema = errors.New("the document was written by a newer version of DTM Relay: deploy that version or newer")
)

// Version is a condition for a write: the document as it was read. The zero
// Version stands for a document that does not exist.
type Version string

// Slice is a span of created_at, From ≤ t < To, read up to DoneUntil. All three
// are in whole milliseconds.
type Slice struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	DoneUntil time.Time `json:"done_until"`
}

// Lease says who works a feed, or changes an alert in GTI.
type Lease struct {
	Owner     string    `json:"owner"` // run id
	ExpiresAt time.Time `json:"expires_at"`
}

// Gap is a span of created_at that could not be fetched.
type Gap struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Suspected: the API answered, but began later than it was asked to.
	Suspected bool `json:"suspected"`
}

// Refusal remembers that the API answered 400 to a since of this age, so that
// the error is not earned again with every run.
type Refusal struct {
	At  time.Time     `json:"at"`
	Age time.Duration `json:"age"` // At less the since that was refused
}

// Feed is the document feeds/{feed}. All its writes come from the holder of the lease.
type Feed struct {
	BeginsAt time.Time // start of the first run less INITIAL_LOOKBACK
	// End is where the newest slice ends: everything from BeginsAt to End is
	// either done, in Slices, or in Gaps.
	End time.Time
	// RereadFrom is the lowest created_at that was listed while younger than
	// OVERLAP since the last time that nothing was pending; zero when there is none.
	RereadFrom time.Time
	// Newest is the newest created_at that was read, never ahead of GTI's clock: what
	// a time that lies ahead is taken back to.
	Newest  time.Time
	Slices  []Slice // pending: disjoint, sorted, at most 64
	Gaps    []Gap
	Refusal *Refusal

	Filter      string // DTM_FILTER in force, in its canonical form
	FilterSince time.Time
	// FilterPast are the spans that were read with another filter than the one in
	// force: backfills that would cover them.
	FilterPast []Gap

	FirstRun time.Time // start of the first run
	// LastSweep is the start of the last sweep that was read to its end, or handed
	// to a backfill; SweepSince the created_at back to which it looked.
	LastSweep  time.Time
	SweepSince time.Time
	LastAudit  time.Time     // when the last audit was asked for
	LateMax    time.Duration // Backfill.LateMax of the last finished audit

	KeyID   string          // which keys/… document the last run counted in
	LastRun json.RawMessage // run report

	// Unfinished are the ids of the backfills that are pending or running, oldest
	// first. Open reads them; WriteFeed leaves them alone, as they have other writers.
	Unfinished []string

	Lease *Lease // nil when nobody holds it
	// Writer is the run that wrote the document last. Generation grows with each
	// holder, Write with each write of one holder: together they tell a holder its
	// own write whose answer was lost.
	Writer     string
	Generation int64
	Write      int64
}

// Position is the created_at up to which every alert is acknowledged: the
// earliest DoneUntil of what is pending, else End.
func (f Feed) Position() time.Time {
	p := f.End
	for _, s := range f.Slices {
		if s.DoneUntil.Before(p) {
			p = s.DoneUntil
		}
	}
	return p
}

// Clone returns a copy that shares nothing that is written to in place.
func (f Feed) Clone() Feed {
	f.Slices = slices.Clone(f.Slices)
	f.Gaps = slices.Clone(f.Gaps)
	f.FilterPast = slices.Clone(f.FilterPast)
	if f.Lease != nil {
		l := *f.Lease
		f.Lease = &l
	}
	return f
}

// Rest is what a store has found in an element of a list beside the fields that
// this program knows, in the store's own form. A newer program of the same schema
// wrote it. It stays with its element, so that writing the list again deletes nothing.
type Rest string

// What became of a version of an alert.
const (
	Published = "published"
	Dropped   = "dropped"
	Rejected  = "rejected"
)

// Where a status came from.
const (
	FromGTI       = "gti"
	FromWriteback = "writeback"
)

// StatusChange is one status that a published version of an alert had.
type StatusChange struct {
	Status string    `json:"status"`
	At     time.Time `json:"at"` // updated_at of the first version that had it
	Origin string    `json:"origin"`
	Rest   Rest      `json:"-"`
}

// AlertVersion is one version of an alert and what became of it.
type AlertVersion struct {
	UpdatedAt time.Time `json:"updated_at"`
	At        time.Time `json:"at"` // when it was acknowledged
	RunID     string    `json:"run_id"`
	Event     string    `json:"event,omitempty"` // created, updated, status_changed; empty unless published
	Outcome   string    `json:"outcome"`         // published, dropped, rejected
	Reason    string    `json:"reason,omitempty"`
	Rest      Rest      `json:"-"`
}

// Record is an alert's document in the ledger. It holds no text of the alert.
// An element that is no usable alert has one too, under x-<sha256 of its bytes>.
type Record struct {
	ID        string
	Type      string
	Severity  string
	MonitorID string
	Priority  string
	Status    string // of the version that was published last
	CreatedAt time.Time
	FirstSeen time.Time

	// PublishedVersion is the newest updated_at that was published; it never goes
	// back. Zero: none was, so the alert is not known. A version whose updated_at lay
	// more than a day ahead of GTI's clock is only in Versions: where no other was
	// published, this is a millisecond before CreatedAt.
	PublishedVersion time.Time
	// HandledVersion is the newest updated_at that anything was done with,
	// also when it was dropped or rejected; of one that lay ahead as above.
	HandledVersion time.Time

	// Backfill is the one that last published or rejected a version, so that it
	// does so once.
	Backfill string

	// Wishes are the latest requests to write something back, for each field, and
	// those whose write was begun and not settled. WishSeq counts all that came.
	Wishes  []Wish
	WishSeq int64
	// Echoes are what was written back and did not come round yet, oldest first.
	Echoes []Echo
	// WriteLease is held by the one process that may change the alert in GTI, from
	// before its change is sent until its end is known; nil: nobody holds it. The
	// lease of one that has crashed ends by its time.
	WriteLease *Lease

	Statuses []StatusChange // the first and the latest 50
	Versions []AlertVersion // the first and the latest 50
	ExpireAt time.Time      // the database deletes it some time after this
}

// Known reports whether a version of the alert was published.
func (r Record) Known() bool { return !r.PublishedVersion.IsZero() }

// Fields of a Wish.
const (
	WishStatus    = "status"     // set the status
	WishTags      = "tags"       // replace the whole list of tags
	WishAddTag    = "add_tag"    // add one tag
	WishRemoveTag = "remove_tag" // take one tag away
)

// Wish is a request to write a change of an alert back to GTI.
type Wish struct {
	Field  string    `json:"field"`
	Values []string  `json:"values"` // the status, all tags, or the one tag
	At     time.Time `json:"at"`     // requested_at: of two wishes for one field the later one counts
	By     string    `json:"by,omitempty"`
	Expect string    `json:"expect,omitempty"` // write it only while the alert has this status
	Seq    int64     `json:"seq"`              // the record's WishSeq when it came
	Open   bool      `json:"open"`             // its write was begun, and how that ended is not recorded yet
	Rest   Rest      `json:"-"`
}

// Echo marks a change that the relay itself writes back, so that it is known
// when it comes round.
type Echo struct {
	// Version is the updated_at that the API answered; zero until it has, and
	// when a crash has lost the answer.
	Version time.Time `json:"version"`
	At      time.Time `json:"at"`     // when it was about to be written
	Seq     int64     `json:"seq"`    // of the wishes that it was written for
	Status  string    `json:"status"` // empty when it was not written
	// Tags is the whole list as it was written, in order; nil when it was not written.
	Tags []string `json:"tags"`
	Rest Rest     `json:"-"`
}

// Entry is a record with the condition for writing it.
type Entry struct {
	Record  Record
	Version Version // zero: there is no document yet
}

// Usage counts requests to GTI by one API key, by the start of each bucket in
// Unix seconds: requests by the hour, answers of 400 and above by five minutes.
type Usage struct {
	Requests map[int64]int64
	Errors   map[int64]int64
}

// Bucket lengths of Usage, and how many of each are kept.
const (
	RequestBucket  = time.Hour
	RequestBuckets = 24
	ErrorBucket    = 5 * time.Minute
	ErrorBuckets   = 12
)

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

var backfillID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// ValidBackfillID reports whether a backfill may have this id: 1 to 128 letters,
// digits, dots, dashes and underscores, a letter or digit first.
func ValidBackfillID(id string) bool { return len(id) <= 128 && backfillID.MatchString(id) }
