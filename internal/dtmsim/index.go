package dtmsim

import (
	"cmp"
	"slices"
	"time"
)

// record is an alert with its history. Its versions stay, so that what a listing
// showed at a time can be told later.
type record struct {
	created  time.Time
	place    time.Time // what lists by created_at are sorted by
	id       string
	visible  time.Time
	versions []version
	pending  []Change // not yet happened, in order
}

type version struct {
	from  time.Time
	alert Alert
}

func newRecord(a Alert, now time.Time) *record {
	a.complete()
	changes := slices.Clone(a.Changes)
	slices.SortStableFunc(changes, func(x, y Change) int { return x.At.Compare(y.At) })
	a.Changes = nil
	// No listing has seen the alert before now, so the past needs no versions.
	for len(changes) > 0 && !changes[0].At.After(now) {
		a = a.next(changes[0].At, changes[0].Apply)
		changes = changes[1:]
	}
	return &record{
		created: a.CreatedAt, place: cmp.Or(a.Place, a.CreatedAt), id: a.ID, visible: a.VisibleAt,
		versions: []version{{from: a.CreatedAt, alert: a}},
		pending:  changes,
	}
}

// advance makes the changes happen that are due.
func (r *record) advance(now time.Time) {
	for len(r.pending) > 0 && !r.pending[0].At.After(now) {
		r.change(r.pending[0].At, r.pending[0].Apply)
		r.pending = r.pending[1:]
	}
}

func (r *record) change(at time.Time, change func(*Alert)) *Alert {
	r.versions = append(r.versions, version{from: at, alert: r.latest().next(at, change)})
	return r.latest()
}

func (r *record) latest() *Alert { return &r.versions[len(r.versions)-1].alert }

// at is the version in force at a time that is not after the last advance.
func (r *record) at(t time.Time) *Alert {
	for i := len(r.versions) - 1; i > 0; i-- {
		if !r.versions[i].from.After(t) {
			return &r.versions[i].alert
		}
	}
	return &r.versions[0].alert
}

// listedAt is the version that a listing at that time shows; nil when the alert
// isn't in the index yet.
func (r *record) listedAt(t time.Time) *Alert {
	if r.visible.After(t) {
		return nil
	}
	if len(r.pending) > 0 && !r.pending[0].At.After(t) {
		// A look into the future must not make it happen.
		ahead := &record{versions: slices.Clone(r.versions), pending: r.pending}
		ahead.advance(t)
		return ahead.at(t)
	}
	return r.at(t)
}

// index holds all records by their place, then id. A slice of it that a listing
// holds is never changed: adding makes a new one.
type index struct {
	coarse    time.Duration // how exactly it is sorted; 0: to the last digit
	sorted    []*record
	displaced bool // some are not in the order of created_at
	byID      map[string]*record
}

func (x *index) add(alerts []Alert, now time.Time) {
	sorted := slices.Grow(slices.Clone(x.sorted), len(alerts))
	for _, a := range alerts {
		r := newRecord(a, now)
		r.place = r.place.Truncate(x.coarse)
		x.displaced = x.displaced || !r.place.Equal(r.created)
		sorted = append(sorted, r)
		if _, taken := x.byID[a.ID]; !taken && a.ID != "" {
			x.byID[a.ID] = r
		}
	}
	slices.SortStableFunc(sorted, func(a, b *record) int {
		if c := a.place.Compare(b.place); c != 0 {
			return c
		}
		return cmp.Compare(a.id, b.id)
	})
	x.sorted = sorted
}

// between returns the records with since ≤ created_at < until; a zero bound is open.
func (x *index) between(since, until time.Time) []*record {
	if x.displaced {
		return slices.DeleteFunc(slices.Clone(x.sorted), func(r *record) bool {
			return r.created.Before(since) || !until.IsZero() && !r.created.Before(until)
		})
	}
	from, to := 0, len(x.sorted)
	if !since.IsZero() {
		from = x.search(since)
	}
	if !until.IsZero() {
		to = x.search(until)
	}
	return x.sorted[from:max(from, to)]
}

func (x *index) search(t time.Time) int {
	i, _ := slices.BinarySearchFunc(x.sorted, t, func(r *record, t time.Time) int {
		if r.created.Before(t) {
			return -1
		}
		return 1
	})
	return i
}
