package bolt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// copyTries bounds how often a file is read that is being written meanwhile.
const copyTries = 20

// ErrNoRoom means that no copy could be written, which says nothing of the file itself.
var ErrNoRoom = errors.New("the folder for temporary files takes no copy (TMPDIR names another, which needs room for one)")

// OpenCopy opens a copy of the file, for reading beside the process that has the file
// open. The file must exist. Closing the store deletes the copy.
func OpenCopy(path string) (*Store, error) {
	copied, err := copyFile(path)
	if err != nil {
		return nil, fmt.Errorf("copying %s: %w", path, err)
	}
	store, err := OpenNoSync(copied)
	if errors.Is(err, syscall.ENOSPC) { // opening writes to it
		err = fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading %s: %w", path, err), os.Remove(copied))
	}
	store.temporary = copied
	return store, nil
}

// copyFile copies a file that others may be writing. What was read is the file as it was
// at one moment when reading it again gives the same: a transaction never writes the
// bytes again that were there before it. The database makes good of that what it makes
// good of after a crash at that moment.
func copyFile(path string) (copied string, err error) {
	from, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.CreateTemp("", "dtmrelay-*.db")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	defer func() {
		err = errors.Join(err, to.Close())
		if err != nil {
			_ = os.Remove(to.Name())
		}
		if failed := (*fs.PathError)(nil); errors.As(err, &failed) && failed.Path == to.Name() {
			err = fmt.Errorf("%w: %w", ErrNoRoom, err)
		}
	}()
	before := []byte{}
	for range copyTries {
		if err := errors.Join(rewind(from), rewind(to), to.Truncate(0)); err != nil {
			return "", err
		}
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(to, sum), from); err != nil {
			return "", err
		}
		now := sum.Sum(nil)
		if bytes.Equal(before, now) {
			return to.Name(), nil
		}
		before = now
	}
	return "", fmt.Errorf("%w, which writes all the time: try again later", ErrInUse)
}

func rewind(file *os.File) error {
	_, err := file.Seek(0, io.SeekStart)
	return err
}

// EachRecord calls f with every record of a feed that has not expired, in the order of
// their ids. The store must not be used within f.
func (s *Store) EachRecord(ctx context.Context, feed string, f func(state.Record) error) error {
	return s.view(ctx, "reading records of feed "+feed, func(tx *bbolt.Tx) error {
		b := tx.Bucket(alerts).Bucket([]byte(feed))
		if b == nil { // nothing was written for this feed yet
			return nil
		}
		now := time.Now()
		return b.ForEach(func(id, raw []byte) error {
			d, err := decode[state.Record](raw)
			if err != nil {
				return fmt.Errorf("record %s: %w", id, err)
			}
			if d.Value.Expired(now) {
				return nil
			}
			return f(d.Value)
		})
	})
}
