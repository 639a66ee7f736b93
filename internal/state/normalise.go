package state

import (
	"fmt"
	"reflect"
	"time"
)

// What every store does alike.

// Expired reports whether the record is as good as deleted: the database deletes it up
// to a day after its time, or never.
func (r Record) Expired(now time.Time) bool { return expired(r.ExpireAt, now) }

// Expired reports whether the backfill is as good as deleted, as a record is.
func (b Backfill) Expired(now time.Time) bool { return b.Finished() && expired(b.ExpireAt, now) }

func expired(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

// EntryOf is what Store.Records returns for an id whose document holds r at revision v.
func EntryOf(id string, r Record, v Revision, now time.Time) Entry {
	if v == "" || r.Expired(now) {
		r = Record{}
	}
	r.ID = id
	return Entry{Record: r, Revision: v}
}

// FirstOfEach begins the results of Store.WriteRecords: a bulk takes a document once, so
// each further entry for a record is ErrConflict.
func FirstOfEach(entries []Entry) (results []error) {
	results = make([]error, len(entries))
	seen := make(map[string]bool, len(entries))
	for i, e := range entries {
		if seen[e.Record.ID] {
			results[i] = ErrConflict
		}
		seen[e.Record.ID] = true
	}
	return results
}

// ParsePage reads what Store.Backfills is asked for; a zero Cursor is the list's beginning.
func ParsePage(next string, limit int) (Cursor, error) {
	if limit < 1 {
		return Cursor{}, fmt.Errorf("the limit is %d, not at least 1", limit)
	}
	if next == "" {
		return Cursor{}, nil
	}
	return ParseCursor(next)
}

// Milliseconds makes a time what the contract says: UTC, in whole milliseconds.
func Milliseconds(t time.Time) time.Time { return t.Truncate(time.Millisecond).UTC() }

// InMilliseconds is a copy of a document with all its times and durations in whole
// milliseconds. It shares no time with the document.
func InMilliseconds[T any](document T) T {
	truncateTimes(reflect.ValueOf(&document).Elem())
	return document
}

func truncateTimes(v reflect.Value) {
	switch t := v.Addr().Interface().(type) {
	case *time.Time:
		*t = Milliseconds(*t)
		return
	case *time.Duration:
		*t = t.Truncate(time.Millisecond)
		return
	}
	switch kind := v.Kind(); {
	case kind == reflect.Struct:
		for i := range v.NumField() {
			truncateTimes(v.Field(i))
		}
	case kind == reflect.Pointer && !v.IsNil():
		old := v.Elem()
		v.Set(reflect.New(old.Type()))
		v.Elem().Set(old)
		truncateTimes(v.Elem())
	case kind == reflect.Slice && !v.IsNil() && v.Type().Elem().Kind() == reflect.Struct:
		old := v.Slice(0, v.Len())
		v.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		reflect.Copy(v, old)
		for i := range v.Len() {
			truncateTimes(v.Index(i))
		}
	}
}
