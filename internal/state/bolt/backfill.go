package bolt

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// CreateBackfill implements state.Store.
func (s *Store) CreateBackfill(ctx context.Context, feed string, b state.Backfill) error {
	return s.update(ctx, fmt.Sprintf("creating backfill %s of feed %s", b.ID, feed), func(tx *bbolt.Tx) error {
		bucket, err := tx.Bucket(backfills).CreateBucketIfNotExists([]byte(feed))
		if err != nil {
			return err
		}
		old, err := get[state.Backfill](bucket, b.ID)
		if err != nil {
			return err
		}
		if old.Revision > 0 && !old.Value.Expired(time.Now()) {
			return state.ErrConflict
		}
		old.found = nil // what has expired leaves nothing
		if err := put(bucket, b.ID, old.next(state.InMilliseconds(b))); err != nil {
			return err
		}
		return list(tx, feed, b)
	})
}

// Backfill implements state.Store.
func (s *Store) Backfill(ctx context.Context, feed, id string) (state.Backfill, state.Revision, error) {
	var d document[state.Backfill]
	err := s.view(ctx, fmt.Sprintf("reading backfill %s of feed %s", id, feed), func(tx *bbolt.Tx) (err error) {
		if bucket := tx.Bucket(backfills).Bucket([]byte(feed)); bucket != nil {
			d, err = get[state.Backfill](bucket, id)
		}
		return err
	})
	if err != nil || d.Value.Expired(time.Now()) {
		return state.Backfill{}, "", err
	}
	return d.Value, d.revision(), nil
}

// WriteBackfill implements state.Store.
func (s *Store) WriteBackfill(ctx context.Context, feed string, b state.Backfill, v state.Revision) (state.Revision, error) {
	var next document[state.Backfill]
	err := s.update(ctx, fmt.Sprintf("writing backfill %s of feed %s", b.ID, feed), func(tx *bbolt.Tx) error {
		bucket, err := tx.Bucket(backfills).CreateBucketIfNotExists([]byte(feed))
		if err != nil {
			return err
		}
		old, err := get[state.Backfill](bucket, b.ID)
		if err != nil {
			return err
		}
		if old.revision() != v {
			return state.ErrConflict
		}
		next = old.next(state.InMilliseconds(b))
		if err := put(bucket, b.ID, next); err != nil || !b.Finished() {
			return err
		}
		return list(tx, feed, b)
	})
	if err != nil {
		return "", err
	}
	return next.revision(), nil
}

// list puts a backfill at the end of the feed's list of unfinished ones, or
// takes it off when it is finished.
func list(tx *bbolt.Tx, feed string, b state.Backfill) error {
	lists := tx.Bucket(unfinished)
	d, err := get[[]string](lists, feed)
	if err != nil {
		return fmt.Errorf("list of unfinished backfills: %w", err)
	}
	ids := slices.DeleteFunc(d.Value, func(id string) bool { return id == b.ID })
	if !b.Finished() {
		ids = append(ids, b.ID)
	}
	return put(lists, feed, d.next(ids))
}

// Backfills implements state.Store.
func (s *Store) Backfills(ctx context.Context, feed, next string, limit int) ([]state.Backfill, string, error) {
	doing := "listing backfills of feed " + feed
	page, err := state.ParsePage(next, limit)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", doing, err)
	}
	after := state.Backfill{RequestedAt: page.RequestedAt, ID: page.ID}
	var all []state.Backfill
	err = s.view(ctx, doing, func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(backfills).Bucket([]byte(feed))
		if bucket == nil {
			return nil
		}
		return bucket.ForEach(func(id, raw []byte) error {
			d, err := decode[state.Backfill](raw)
			if err != nil {
				return fmt.Errorf("backfill %s: %w", id, err)
			}
			if !d.Value.Expired(time.Now()) && (next == "" || newestFirst(after, d.Value) < 0) {
				all = append(all, d.Value)
			}
			return nil
		})
	})
	if err != nil {
		return nil, "", err
	}
	slices.SortFunc(all, newestFirst)
	if len(all) <= limit {
		return all, "", nil
	}
	all = all[:limit]
	last := all[limit-1]
	return all, state.Cursor{RequestedAt: last.RequestedAt, ID: last.ID}.String(), nil
}

// newestFirst orders the list as Firestore does.
func newestFirst(a, b state.Backfill) int {
	return cmp.Or(b.RequestedAt.Compare(a.RequestedAt), cmp.Compare(b.ID, a.ID))
}
