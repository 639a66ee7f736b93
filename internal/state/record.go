package state

import "time"

// MaxFieldBytes is how much of an alert's text a field of a record holds. A database
// refuses a record with a field of a megabyte, which would stop the feed at this
// alert. A status is told from the one before by as much: another limit would make
// changes of all those that are longer.
const MaxFieldBytes = 1024

// Record is an alert's document in the ledger. It holds no text of the alert.
// An element that is no usable alert has one too, under x-<sha256 of its bytes>.
type Record struct {
	ID        string    `json:"id"`
	Type      string    `json:"type"`
	Severity  string    `json:"severity"`
	MonitorID string    `json:"monitor_id"`
	Priority  string    `json:"priority"`
	Status    string    `json:"status"` // of the version that was published last
	CreatedAt time.Time `json:"created_at"`
	FirstSeen time.Time `json:"first_seen"`

	// PublishedVersion is the newest updated_at that was published; it never goes
	// back. Zero: none was, so the alert is not known. A version whose updated_at lay
	// more than a day ahead of GTI's clock is only in Versions: where no other was
	// published, this is a millisecond before CreatedAt.
	PublishedVersion time.Time `json:"published_version"`
	// HandledVersion is the newest updated_at that anything was done with,
	// also when it was dropped or rejected; of one that lay ahead as above.
	HandledVersion time.Time `json:"handled_version"`

	// HasSecrets: something was masked in a version that was published, beyond the text of
	// its document.
	HasSecrets bool `json:"has_secrets"`
	// Fingerprint tells the texts of the latest version of which secrets were looked for
	// with all that was to be had, and by which REDACT (redact.Redactor.Fingerprint); empty:
	// none was. A version with other texts may hold a secret that this one had not.
	Fingerprint string `json:"fingerprint"`

	// Backfill is the one that last published or rejected a version, so that it
	// does so once.
	Backfill string `json:"backfill"`

	// Intents are the latest requests to write something back, for each field, and
	// those whose write was begun and not completed. IntentSeq grows with every request
	// that comes, also with one that is rejected.
	Intents   []Intent `json:"intents"`
	IntentSeq int64    `json:"intent_seq"`
	// Echoes are what was written back and was not seen in a listing yet, oldest first.
	Echoes []Echo `json:"echoes"`
	// WriteLease is held by the one process that may change the alert in GTI, from
	// before its change is sent until its end is known; nil: nobody holds it. The
	// lease of one that has crashed ends by its time.
	WriteLease *Lease `json:"write_lease"`

	// RuleRequests are the write-backs that rules have asked for, so that each rule asks
	// once for an alert.
	RuleRequests []RuleRequest `json:"rule_requests"`

	Statuses []StatusChange `json:"statuses"`  // the first and the latest 50
	Versions []AlertVersion `json:"versions"`  // the first and the latest 50
	ExpireAt time.Time      `json:"expire_at"` // the database deletes it some time after this
}

// Known reports whether a version of the alert was published.
func (r Record) Known() bool { return !r.PublishedVersion.IsZero() }

// RuleRequest is the record's entry for a rule; nil: it has asked for nothing.
func (r Record) RuleRequest(rule string) *RuleRequest {
	for i := range r.RuleRequests {
		if r.RuleRequests[i].Rule == rule {
			return &r.RuleRequests[i]
		}
	}
	return nil
}

// RuleRequest is a write-back that a rule asks for.
type RuleRequest struct {
	Rule   string `json:"rule"`
	Expect string `json:"expect"` // the status without which nothing is to be written
	Sent   bool   `json:"sent"`   // it was acknowledged; until then it may have been sent or not
	Rest   Rest   `json:"-"`
}

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

// Rest is what a store has found in an element of a list beside the fields that
// this program knows, in the store's own form. A newer program of the same schema
// wrote it. It stays with its element, so that writing the list again deletes nothing.
type Rest string

// Fields of an Intent.
const (
	IntentStatus    = "status"     // set the status
	IntentTags      = "tags"       // replace the whole list of tags
	IntentAddTag    = "add_tag"    // add one tag
	IntentRemoveTag = "remove_tag" // take one tag away
)

// Intent is a request to write a change of an alert back to GTI.
type Intent struct {
	Field  string    `json:"field"`
	Values []string  `json:"values"` // the status, all tags, or the one tag
	At     time.Time `json:"at"`     // requested_at: of two intents for one field the later one counts
	By     string    `json:"by,omitempty"`
	Expect string    `json:"expect,omitempty"` // write it only while the alert has this status
	Once   bool      `json:"once,omitempty"`   // its sender is a rule, which asks once
	Seq    int64     `json:"seq"`              // the record's IntentSeq when it came
	Open   bool      `json:"open"`             // its write was begun, and how that ended is not recorded yet
	Rest   Rest      `json:"-"`
}

// Echo is a change that the relay itself writes back: the version that comes of it is
// told by it from what others change.
type Echo struct {
	// Version is the updated_at that the API answered; zero until it has, and
	// when a crash has lost the answer.
	Version time.Time `json:"version"`
	At      time.Time `json:"at"`     // when it was about to be written
	Seq     int64     `json:"seq"`    // of the intents that it was written for
	Status  string    `json:"status"` // empty when it was not written
	// Tags is the whole list as it was written, in order; nil when it was not written.
	Tags []string `json:"tags"`
	Rest Rest     `json:"-"`
}

// Entry is a record with the condition for writing it.
type Entry struct {
	Record   Record
	Revision Revision // zero: there is no document yet
}
