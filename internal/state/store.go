// Package state says what the relay remembers and what a database must do to
// keep it: the feed's position, lease and slices, the ledger of alerts, and the
// counters of requests. Implementations are in the folders below it.
package state

import (
	"context"
	"errors"
)

// Schema is written into every document. A document with a higher one was
// written by a newer program and is not guessed at.
const Schema = 1

var (
	// ErrConflict means that the document is no longer at the revision that the
	// write was conditional on.
	ErrConflict = errors.New("the document was changed by another writer")
	// ErrCursor means that a cursor is none that a store gave out.
	ErrCursor = errors.New("not a cursor of this list")
	// ErrSchema means that a document was written by a newer program.
	ErrSchema = errors.New("the document was written by a newer version of DTM Relay: deploy that version or newer")
)

// DamagedError means that a document can't be read: something else than the relay has
// written to it. The rest of the database may be well.
type DamagedError struct{ Err error }

func (e *DamagedError) Error() string { return e.Err.Error() }

func (e *DamagedError) Unwrap() error { return e.Err }

// Revision is a condition for a write: the document as it was read. The zero
// Revision stands for a document that does not exist.
type Revision string

// Snapshot is what a feed's run begins with.
type Snapshot struct {
	// Feed is zero but for Unfinished, with a zero Revision, when it does not exist yet.
	Feed     Feed
	Revision Revision
	Usage    Usage // without counters when no key was named
}

// Store is the contract that both databases keep; statetest proves it. Times
// come back in UTC, cut to whole milliseconds. Every method may be called by
// several goroutines, and ends with its context.
//
// A document of this schema may hold fields that this program doesn't know. They
// stay as they are when it is written again, those in a record's lists by their
// Rest. A field of an unexpected type is an error that names document and field, or
// writing the document would delete it.
type Store interface {
	// Open reads the feed's document and the counters of the key in one call.
	Open(ctx context.Context, feed, keyID string) (Snapshot, error)
	// WriteFeed writes the whole document if it is still at v (ErrConflict if
	// not), and returns its new revision.
	WriteFeed(ctx context.Context, feed string, f Feed, v Revision) (Revision, error)

	// Records reads ledger records in one call, in the order of ids. An id
	// without a record gives an Entry with a zero Revision and a Record that has
	// only its ID; so does one whose ExpireAt has passed, but with its Revision,
	// because the document may still be there.
	Records(ctx context.Context, feed string, ids []string) ([]Entry, error)
	// WriteRecords writes each entry if its document is still at the entry's
	// revision, in one bulk call, and returns one result for each entry: nil,
	// ErrConflict, or what else went wrong with that one. The second error
	// means that nothing is known about any of them. A write that changes nothing
	// may leave the revision as it is: it keeps no other writer off.
	WriteRecords(ctx context.Context, feed string, entries []Entry) ([]error, error)

	// AddUsage adds to the counters of a key in one call, without reading them,
	// and drops the buckets named in old.
	AddUsage(ctx context.Context, keyID string, add Usage, old Usage) error

	// CreateBackfill writes a new backfill and puts it on the feed's list of
	// unfinished ones, both or neither. ErrConflict when the id is taken. A
	// finished backfill whose ExpireAt has passed is as good as deleted, here as
	// in the methods below, though its document may still be there.
	CreateBackfill(ctx context.Context, feed string, b Backfill) error
	// Backfill reads one; a zero Revision when there is none.
	Backfill(ctx context.Context, feed, id string) (Backfill, Revision, error)
	// WriteBackfill writes one that is still at v (ErrConflict if not), takes it
	// off the list of unfinished ones when it is finished, and returns its new revision.
	WriteBackfill(ctx context.Context, feed string, b Backfill, v Revision) (Revision, error)
	// Backfills lists up to limit backfills, the newest request first, from
	// after the cursor next ("" for the first page). The next cursor is "" on the
	// last page; a page before it may be short, even empty, where some have
	// expired. A cursor that can't be read is an error wrapping ErrCursor.
	Backfills(ctx context.Context, feed, next string, limit int) ([]Backfill, string, error)
}
