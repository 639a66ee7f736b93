package state

import (
	"encoding/json"
	"slices"
	"time"
)

// Feed is the document feeds/{feed}. All its writes come from the holder of the lease.
type Feed struct {
	BeginsAt time.Time `json:"begins_at"` // start of the first run less INITIAL_LOOKBACK
	// End is where the newest slice ends: everything from BeginsAt to End is
	// either done, in Slices, or in Gaps.
	End time.Time `json:"end"`
	// RereadFrom is the lowest created_at that was listed while younger than
	// OVERLAP since the last time that nothing was pending; zero when there is none.
	RereadFrom time.Time `json:"reread_from"`
	// Owed is what no sweep has shown yet of the overlap of earlier runs: a run that has no
	// sweep leaves it to the next one to list. Zero when there is none.
	Owed TimeRange `json:"owed"`
	// Newest is the newest created_at that was read, never ahead of GTI's clock: what
	// a time that lies ahead is taken back to.
	Newest  time.Time `json:"newest"`
	Slices  []Slice   `json:"slices"` // pending: disjoint, sorted, at most 64
	Gaps    []Gap     `json:"gaps"`
	Refusal *Refusal  `json:"refusal"`

	Filter      string    `json:"filter"` // DTM_FILTER in force, in its canonical form
	FilterSince time.Time `json:"filter_since"`
	// FilterPast are the ranges that were read with another filter than the one in
	// force: backfills that would cover them.
	FilterPast []TimeRange `json:"filter_past"`

	FirstRun time.Time `json:"first_run"` // start of the first run
	// LastSweep is the start of the last sweep that was read to its end, or handed
	// to a backfill; SweepSince the created_at back to which it looked.
	LastSweep  time.Time `json:"last_sweep"`
	SweepSince time.Time `json:"sweep_since"`
	// SweptOverlap is the start of the last sweep that has read all of the overlap, too, or
	// when it was last left to be listed: what came into the index earlier was shown, or is
	// in Slices or Owed.
	SweptOverlap time.Time     `json:"swept_overlap"`
	LastAudit    time.Time     `json:"last_audit"` // when the last audit was asked for
	LateMax      time.Duration `json:"late_max"`   // Backfill.LateMax of the last finished audits
	// AuditedUntil is the created_at up to which finished audits have read for the first
	// time; AuditedAgainUntil that up to which they have read the end of AUDIT_WINDOW.
	AuditedUntil      time.Time `json:"audited_until"`
	AuditedAgainUntil time.Time `json:"audited_again_until"`

	Monitors Monitors `json:"monitors"`

	KeyID   string          `json:"key_id"`   // which keys/… document the last run counted in
	LastRun json.RawMessage `json:"last_run"` // run report

	// Unfinished are the ids of the backfills that are pending or running, oldest
	// first. Open reads them; WriteFeed leaves them alone, as they have other writers.
	Unfinished []string `json:"-"`

	Lease *Lease `json:"lease"` // nil when nobody holds it
	// Writer is the run that wrote the document last. Generation grows with each
	// holder, Write with each write of one holder: together they tell a holder its
	// own write whose answer was lost.
	Writer     string `json:"writer"`
	Generation int64  `json:"generation"`
	Write      int64  `json:"write"`
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

// Slice is a range of created_at, From ≤ t < To, read up to DoneUntil. All three
// are in whole milliseconds.
type Slice struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	DoneUntil time.Time `json:"done_until"`
}

// TimeRange is a range of time, Since ≤ t < Until, in the form that POST /backfill takes.
type TimeRange struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// Gap is a range of created_at that could not be fetched.
type Gap struct {
	TimeRange
	// Suspected: the API answered, but began later than it was asked to.
	Suspected bool `json:"suspected"`
}

// Monitors is what the looks at GTI's monitors have shown. Its lists are replaced, and
// never changed in place.
type Monitors struct {
	CheckedAt time.Time `json:"checked_at"` // the last look that was answered; zero before the first
	// FailedAt is when the look after that one failed, zero when none did. Wait is how
	// long nothing is asked after it.
	FailedAt time.Time     `json:"failed_at"`
	Wait     time.Duration `json:"wait"`

	Enabled  []Monitor         `json:"enabled"`
	Disabled []DisabledMonitor `json:"disabled"`
}

// Monitor names a monitor.
type Monitor struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// DisabledMonitor is a monitor that finds nothing any more.
type DisabledMonitor struct {
	Monitor
	Code   string    `json:"code"` // GTI's, or MonitorGone
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"` // when the relay first saw it disabled
}

// MonitorGone is the Code of a monitor that GTI lists no more.
const MonitorGone = "gone"

// Refusal remembers that the API answered 400 to a since of this age, so that
// the error is not earned again with every run.
type Refusal struct {
	At  time.Time     `json:"at"`
	Age time.Duration `json:"age"` // At less the since that was refused
}
