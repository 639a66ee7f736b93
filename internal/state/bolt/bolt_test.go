package bolt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/statetest"
)

func TestContract(t *testing.T) {
	statetest.Run(t, func(t *testing.T) state.Store {
		s, err := OpenNoSync(filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}, func(t *testing.T, s state.Store, path ...string) {
		newer(t, s.(*Store), path...)
	}, func(t *testing.T, s state.Store, path ...string) (left func() int) {
		return extend(t, s.(*Store), path...)
	}, func(t *testing.T, s state.Store, field string, path ...string) {
		t.Helper()
		change(t, s.(*Store), path, func(d map[string]any) {
			if field == "" {
				clear(d)
				return
			}
			delete(d["value"].(map[string]any), field)
		})
	})
}

// change lets f change an existing document, or delete it by emptying it.
func change(t *testing.T, s *Store, path []string, f func(d map[string]any)) {
	t.Helper()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b, key := tx.Bucket([]byte(path[0])), []byte(path[1])
		switch {
		case len(path) == 2:
		case path[2] == "unfinished":
			b = tx.Bucket(unfinished)
		default:
			b, key = tx.Bucket([]byte(path[2])).Bucket(key), []byte(path[3])
		}
		var d map[string]any
		if err := json.Unmarshal(b.Get(key), &d); err != nil {
			return err
		}
		if f(d); len(d) == 0 {
			return b.Delete(key)
		}
		raw, err := json.Marshal(d)
		if err != nil {
			return err
		}
		return b.Put(key, raw)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// newer raises the schema and makes the value unreadable for this program.
func newer(t *testing.T, s *Store, path ...string) {
	t.Helper()
	change(t, s, path, func(d map[string]any) { d["schema"], d["value"] = state.Schema+1, "of another shape" })
}

// extend adds a member "later" to a document, its value, and the elements of lists.
func extend(t *testing.T, s *Store, path ...string) (left func() int) {
	t.Helper()
	later := map[string]any{"since": 3, "of": []string{"a"}}
	change(t, s, path, func(d map[string]any) {
		d["later"] = later
		value, ok := d["value"].(map[string]any)
		if !ok {
			return
		}
		value["later"] = later
		for _, list := range []string{"intents", "echoes", "statuses", "versions"} {
			all, _ := value[list].([]any)
			for _, e := range all {
				e.(map[string]any)["later"] = later
			}
		}
	})
	return func() (n int) {
		change(t, s, path, func(d map[string]any) {
			raw, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			n = strings.Count(string(raw), `"later":{"of":["a"],"since":3}`)
		})
		return n
	}
}

func TestOpenClearsLeases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	held := state.Feed{Lease: &state.Lease{Owner: "r1", ExpiresAt: now.Add(time.Hour)}, Generation: 7, Filter: "{}"}
	before := map[string]state.Revision{}
	for _, feed := range []string{"a", "b"} {
		if before[feed], err = s.WriteFeed(t.Context(), feed, held, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.WriteFeed(t.Context(), "newer", held, ""); err != nil {
		t.Fatal(err)
	}
	newer(t, s, "feeds", "newer")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, feed := range []string{"a", "b"} {
		found, err := s.Open(t.Context(), feed, "")
		if err != nil {
			t.Fatal(err)
		}
		if f := found.Feed; f.Lease != nil || f.Generation != 7 || f.Filter != "{}" {
			t.Errorf("feed %s after opening again: %+v, want all but the lease", feed, f)
		}
		if found.Revision == before[feed] {
			t.Errorf("feed %s: the old holder's version is still good for a write", feed)
		}
	}
}

func TestFileInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("opening a file that is in use: %v", err)
	}
}

func TestUnusableFile(t *testing.T) {
	damaged := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(damaged, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{damaged, filepath.Join(t.TempDir(), "missing", "state.db")} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("opening %s: %v, want an error that names it", path, err)
		}
	}
}

func TestDamagedValue(t *testing.T) {
	s, err := OpenNoSync(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(feeds).Put([]byte("default"), []byte(`{"schema":1,"revision":1,"value":{"write":"x"}}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), "default", ""); err == nil || !strings.Contains(err.Error(), "reading feed default") {
		t.Errorf("reading a damaged feed: %v", err)
	}
}

// TestDamagedFile: whatever a file holds, opening and reading it gives an error at worst.
func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		entries := []state.Entry{{Record: state.Record{ID: fmt.Sprint("a", i), Status: strings.Repeat("x", 500)}}}
		if _, err := s.WriteRecords(t.Context(), "default", entries); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	try := func(file []byte) {
		t.Helper()
		damaged := filepath.Join(t.TempDir(), "damaged.db")
		if err := os.WriteFile(damaged, file, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(damaged)
		if err == nil {
			_, opened := s.Open(t.Context(), "default", "")
			_, records := s.Records(t.Context(), "default", []string{"a1", "a150"})
			err = errors.Join(opened, records)
			if err == nil {
				err = s.Close()
			}
		}
		if err != nil {
			failed++
		}
	}
	for size := 0; size < len(whole); size += 7 * 1024 {
		try(whole[:size])
	}
	for at := 0; at < len(whole); at += 4096 {
		file := bytes.Clone(whole)
		for i := at; i < min(at+4096, len(file)); i++ {
			file[i] ^= 0xff
		}
		try(file)
	}
	if failed == 0 {
		t.Error("nothing was damaged")
	}
}
