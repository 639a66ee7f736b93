package state

import (
	"encoding/json"
	"slices"
	"time"
)

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

// Slice is a span of created_at, From ≤ t < To, read up to DoneUntil. All three
// are in whole milliseconds.
type Slice struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	DoneUntil time.Time `json:"done_until"`
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
