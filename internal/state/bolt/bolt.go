// Package bolt keeps the state in one file of this machine, for running without
// a cloud. The values are JSON of the types of package state.
package bolt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// lockTimeout is how long opening waits for another process that is just ending.
const lockTimeout = time.Second

// The buckets. Those of the alerts and the backfills have a bucket for each feed.
var (
	feeds      = []byte("feeds")
	alerts     = []byte("alerts")
	backfills  = []byte("backfills")
	unfinished = []byte("unfinished") // ids of backfills, for each feed
	keys       = []byte("keys")
)

// Store is a state.Store in a file.
type Store struct {
	db        *bbolt.DB
	temporary string // path of the copy to delete on Close; empty for the file itself
}

var _ state.Store = (*Store)(nil)

// ErrInUse means that another process has the file open.
var ErrInUse = errors.New("it is in use by another process")

// Open opens the file, and makes it if it doesn't exist. Only one process can
// have it open, so whoever held a lease in it is gone, and no feed's lease is left.
func Open(path string) (*Store, error) { return open(path, bbolt.Options{}) }

// OpenNoSync is Open for tests: it doesn't wait for the disk, so a power cut may
// destroy the file, but not the end of the process.
func OpenNoSync(path string) (*Store, error) {
	return open(path, bbolt.Options{NoSync: true, NoFreelistSync: true})
}

func open(path string, o bbolt.Options) (store *Store, err error) {
	defer damaged("opening "+path, &err)()
	o.Timeout = lockTimeout
	db, err := bbolt.Open(path, 0o600, &o)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("opening %s: %w: end that one first", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	if err := db.Update(prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), db.Close())
	}
	return &Store{db: db}, nil
}

func prepare(tx *bbolt.Tx) error {
	for _, name := range [][]byte{feeds, alerts, backfills, unfinished, keys} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	b := tx.Bucket(feeds)
	leased := map[string]document[state.Feed]{}
	err := b.ForEach(func(name, raw []byte) error {
		d, err := decode[state.Feed](raw)
		switch {
		case errors.Is(err, state.ErrSchema):
			return nil // whoever reads that feed gets the error
		case err != nil:
			return fmt.Errorf("feed %s: %w", name, err)
		}
		if d.Value.Lease != nil {
			leased[string(name)] = d
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, d := range leased {
		d.Value.Lease = nil
		if err := put(b, name, d.next(d.Value)); err != nil {
			return fmt.Errorf("feed %s: %w", name, err)
		}
	}
	return nil
}

// Close closes the file.
func (s *Store) Close() error {
	path := s.db.Path()
	err := s.db.Close()
	if s.temporary != "" {
		err = errors.Join(err, os.Remove(s.temporary))
	}
	if err != nil {
		return fmt.Errorf("closing %s: %w", path, err)
	}
	return nil
}

// Open implements state.Store.
func (s *Store) Open(ctx context.Context, feed, keyID string) (state.Snapshot, error) {
	var f document[state.Feed]
	var ids document[[]string]
	var k document[state.Usage]
	err := s.view(ctx, "reading feed "+feed, func(tx *bbolt.Tx) (err error) {
		if f, err = get[state.Feed](tx.Bucket(feeds), feed); err != nil {
			return err
		}
		if ids, err = get[[]string](tx.Bucket(unfinished), feed); err != nil {
			return fmt.Errorf("list of unfinished backfills: %w", err)
		}
		if keyID == "" {
			return nil
		}
		if k, err = get[state.Usage](tx.Bucket(keys), keyID); err != nil {
			return fmt.Errorf("key %s: %w", keyID, err)
		}
		return nil
	})
	if err != nil {
		return state.Snapshot{}, err
	}
	if string(f.Value.LastRun) == "null" { // what nil becomes in JSON
		f.Value.LastRun = nil
	}
	f.Value.Unfinished = ids.Value
	return state.Snapshot{Feed: f.Value, Revision: f.revision(), Usage: withMaps(k.Value)}, nil
}

// WriteFeed implements state.Store.
func (s *Store) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (state.Revision, error) {
	var next document[state.Feed]
	err := s.update(ctx, "writing feed "+feed, func(tx *bbolt.Tx) error {
		b := tx.Bucket(feeds)
		old, err := get[state.Feed](b, feed)
		if err != nil {
			return err
		}
		if old.revision() != v {
			return state.ErrConflict
		}
		next = old.next(state.InMilliseconds(f))
		return put(b, feed, next)
	})
	if err != nil {
		return "", err
	}
	return next.revision(), nil
}

// Records implements state.Store.
func (s *Store) Records(ctx context.Context, feed string, ids []string) ([]state.Entry, error) {
	entries := make([]state.Entry, len(ids))
	err := s.view(ctx, "reading records of feed "+feed, func(tx *bbolt.Tx) error {
		b := tx.Bucket(alerts).Bucket([]byte(feed))
		now := time.Now()
		for i, id := range ids {
			var d document[state.Record]
			if b != nil { // else nothing was written for this feed yet
				var err error
				if d, err = get[state.Record](b, id); err != nil {
					return fmt.Errorf("record %s: %w", id, err)
				}
			}
			entries[i] = state.EntryOf(id, d.Value, d.revision(), now)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// WriteRecords implements state.Store with one transaction.
func (s *Store) WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error) {
	results := state.FirstOfEach(entries)
	err := s.update(ctx, "writing records of feed "+feed, func(tx *bbolt.Tx) error {
		b, err := tx.Bucket(alerts).CreateBucketIfNotExists([]byte(feed))
		if err != nil {
			return err
		}
		for i, e := range entries {
			if results[i] != nil {
				continue
			}
			if err := putRecord(b, e); err != nil {
				results[i] = fmt.Errorf("writing record %s: %w", e.Record.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

func putRecord(b *bbolt.Bucket, e state.Entry) error {
	old, err := get[state.Record](b, e.Record.ID)
	if err != nil {
		return err
	}
	if old.revision() != e.Revision {
		return state.ErrConflict
	}
	return put(b, e.Record.ID, old.next(state.InMilliseconds(e.Record)))
}

// AddUsage implements state.Store. A bucket that is added to is not dropped.
func (s *Store) AddUsage(ctx context.Context, keyID string, add, old state.Usage) error {
	if keyID == "" {
		return errors.New("counting requests: no key id")
	}
	return s.update(ctx, "counting requests of key "+keyID, func(tx *bbolt.Tx) error {
		b := tx.Bucket(keys)
		d, err := get[state.Usage](b, keyID)
		if err != nil {
			return err
		}
		u := withMaps(d.Value)
		count(u.Requests, add.Requests, old.Requests)
		count(u.Errors, add.Errors, old.Errors)
		return put(b, keyID, d.next(u))
	})
}

func count(counts, add, old map[int64]int64) {
	for bucket := range old {
		if _, ok := add[bucket]; !ok {
			delete(counts, bucket)
		}
	}
	for bucket, n := range add {
		counts[bucket] += n
	}
}

func withMaps(u state.Usage) state.Usage {
	if u.Requests == nil {
		u.Requests = map[int64]int64{}
	}
	if u.Errors == nil {
		u.Errors = map[int64]int64{}
	}
	return u
}

// document is the envelope of a value.
type document[T any] struct {
	Schema   int    `json:"schema"`
	Revision uint64 `json:"revision"` // counts the writes; 0: there is no document
	Value    T      `json:"value"`

	found []byte // as it was read, when it holds more than this program knows
}

func (d document[T]) revision() state.Revision {
	if d.Revision == 0 {
		return ""
	}
	return state.Revision(strconv.FormatUint(d.Revision, 10))
}

// next is the document after another write.
func (d document[T]) next(value T) document[T] {
	return document[T]{Schema: state.Schema, Revision: d.Revision + 1, Value: value, found: d.found}
}

// get returns the zero document when there is none.
func get[T any](b *bbolt.Bucket, key string) (document[T], error) {
	raw := b.Get([]byte(key))
	if raw == nil {
		return document[T]{}, nil
	}
	return decode[T](raw)
}

func decode[T any](raw []byte) (document[T], error) {
	var known document[T]
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	if strict.Decode(&known) == nil && known.Schema <= state.Schema && !strict.More() {
		return known, nil
	}
	d := document[T]{found: bytes.Clone(raw)} // the database's memory ends with the transaction
	err := json.Unmarshal(raw, &d)
	if d.Schema > state.Schema { // then the value may well be unreadable
		return document[T]{}, fmt.Errorf("schema %d: %w", d.Schema, state.ErrSchema)
	}
	if err == nil {
		err = readRests(reflect.ValueOf(&d.Value).Elem(), raw)
	}
	if err != nil {
		return document[T]{}, fmt.Errorf("the file is damaged: %w", err)
	}
	return d, nil
}

func put[T any](b *bbolt.Bucket, key string, d document[T]) error {
	raw, err := json.Marshal(d)
	if err == nil && d.found != nil {
		raw, err = merge(raw, d.found, reflect.ValueOf(&d.Value).Elem())
	}
	if err != nil {
		return err
	}
	return b.Put([]byte(key), raw)
}

// damaged makes an error of a panic. The database panics where a page of its file makes
// no sense, and faults where the file is shorter than it says.
func damaged(doing string, err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if v := recover(); v != nil {
			*err = fmt.Errorf("%s: the file is damaged: %v", doing, v)
		}
	}
}

func (s *Store) view(ctx context.Context, doing string, f func(*bbolt.Tx) error) error {
	return run(ctx, doing, s.db.View, f)
}

func (s *Store) update(ctx context.Context, doing string, f func(*bbolt.Tx) error) error {
	return run(ctx, doing, s.db.Update, f)
}

// run looks at the context when the transaction has begun, because it may have
// waited for another one.
func run(ctx context.Context, doing string, transaction func(func(*bbolt.Tx) error) error, f func(*bbolt.Tx) error) (err error) {
	defer damaged(doing, &err)()
	err = transaction(func(tx *bbolt.Tx) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return f(tx)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
