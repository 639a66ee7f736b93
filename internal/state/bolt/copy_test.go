package bolt

import (
	"errors"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// A copy can be made while another process has the file open and writes, holds what was
// written before, and leaves nothing.
func TestOpenCopy(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	path := filepath.Join(t.TempDir(), "state.db")
	store, err := OpenNoSync(path)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	write := func(i int) error {
		_, err := store.WriteRecords(t.Context(), "f", []state.Entry{{Record: state.Record{ID: "a" + strconv.Itoa(i), CreatedAt: time.Unix(1, 0)}}})
		return err
	}
	const before = 50
	for i := range before {
		if err := write(i); err != nil {
			t.Fatal(err)
		}
	}
	// Each of these spoils one try at most.
	ended := make(chan error)
	go func() {
		for i := range copyTries - 2 {
			if err := write(before + i); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	copied, err := OpenCopy(path)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	if err := copied.EachRecord(t.Context(), "f", func(r state.Record) error {
		ids[r.ID] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range before {
		if id := "a" + strconv.Itoa(i); !ids[id] {
			t.Errorf("the copy lacks %s", id)
		}
	}
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(temporary, "*")); len(left) > 0 {
		t.Errorf("it leaves %q", left)
	}
	if _, err := OpenCopy(filepath.Join(t.TempDir(), "none.db")); err == nil {
		t.Error("a file that doesn't exist is no error")
	}
}

// A copy that can't be written is told apart from a file that can't be read.
func TestOpenCopyWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	store, err := OpenNoSync(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", filepath.Join(dir, "none"))
	if _, err := OpenCopy(path); !errors.Is(err, ErrNoRoom) {
		t.Errorf("without a folder for it: %v", err)
	}
	if _, err := OpenCopy(filepath.Join(dir, "none.db")); err == nil || errors.Is(err, ErrNoRoom) {
		t.Errorf("without a file: %v", err)
	}
}
