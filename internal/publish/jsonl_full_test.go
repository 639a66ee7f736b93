//go:build unix

package publish

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAPageThatIsHalfWritten is taken back: the pages before and after it are whole.
func TestAPageThatIsHalfWritten(t *testing.T) {
	dir := t.TempDir()
	j := openJSONL(t, dir)
	path := filepath.Join(dir, "alerts.jsonl")
	good := func(n int) {
		t.Helper()
		if err := errors.Join(j.Publish(t.Context(), page(n, 10))...); err != nil {
			t.Fatal(err)
		}
	}
	good(1)
	good(2)
	before := read(t, path)
	limit(t, len(before)+100, func() {
		for i, err := range j.Publish(t.Context(), page(3, 100)) {
			if !errors.Is(err, syscall.EFBIG) {
				t.Errorf("message %d of the page that is half written: %v", i+1, err)
			}
		}
	})
	if diff := cmp.Diff(before, read(t, path)); diff != "" {
		t.Errorf("after a page that is half written (-want +got):\n%s", diff)
	}
	good(4)
	alone := t.TempDir()
	if err := errors.Join(openJSONL(t, alone).Publish(t.Context(), page(4, 10))...); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before+read(t, filepath.Join(alone, "alerts.jsonl")), read(t, path)); diff != "" {
		t.Errorf("after the next page (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil {
		t.Error(err)
	} else if info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the file: %v", info.Mode())
	}
}

// limit has f write files of so many bytes at most.
func limit(t *testing.T, size int, f func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ) // it would end the process
	defer signal.Reset(syscall.SIGXFSZ)
	var usual syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &usual); err != nil {
		t.Fatal(err)
	}
	lower := usual
	lower.Cur = uint64(size)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &lower); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &usual); err != nil {
			t.Error(err)
		}
	}()
	f()
}
