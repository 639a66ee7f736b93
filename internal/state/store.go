package state

import "context"

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
	// A feed that does not exist yet is a Feed that is zero but for Unfinished,
	// with a zero Version. An empty keyID reads no counters.
	Open(ctx context.Context, feed, keyID string) (Feed, Version, Usage, error)
	// WriteFeed writes the whole document if it is still at v (ErrConflict if
	// not), and returns its new version.
	WriteFeed(ctx context.Context, feed string, f Feed, v Version) (Version, error)

	// Records reads ledger records in one call, in the order of ids. An id
	// without a record gives an Entry with a zero Version and a Record that has
	// only its ID; so does one whose ExpireAt has passed, but with its Version,
	// because the document may still be there.
	Records(ctx context.Context, feed string, ids []string) ([]Entry, error)
	// WriteRecords writes each entry if its document is still at the entry's
	// version, in one bulk call, and returns one result for each entry: nil,
	// ErrConflict, or what else went wrong with that one. The second error
	// means that nothing is known about any of them.
	WriteRecords(ctx context.Context, feed string, entries []Entry) ([]error, error)

	// AddUsage adds to the counters of a key in one call, without reading them,
	// and drops the buckets named in old.
	AddUsage(ctx context.Context, keyID string, add Usage, old Usage) error

	// CreateBackfill writes a new backfill and puts it on the feed's list of
	// unfinished ones, both or neither. ErrConflict when the id is taken. A
	// finished backfill whose ExpireAt has passed is as good as deleted, here as
	// in the methods below, though its document may still be there.
	CreateBackfill(ctx context.Context, feed string, b Backfill) error
	// Backfill reads one; a zero Version when there is none.
	Backfill(ctx context.Context, feed, id string) (Backfill, Version, error)
	// WriteBackfill writes one that is still at v (ErrConflict if not), takes it
	// off the list of unfinished ones when it is finished, and returns its new version.
	WriteBackfill(ctx context.Context, feed string, b Backfill, v Version) (Version, error)
	// Backfills lists up to limit backfills, the newest request first, from behind
	// the place that next names ("" for the first page). The next place is "" on
	// the last page; a page before it may be short, even empty, where some have
	// expired. A place that can't be read is an error wrapping ErrPlace.
	Backfills(ctx context.Context, feed, next string, limit int) ([]Backfill, string, error)

	// Close gives back what the store holds.
	Close() error
}
