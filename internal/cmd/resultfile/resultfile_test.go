package resultfile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGoOn: a call goes on with what an earlier one has found, of which the last line may
// be cut.
func TestGoOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results", "runs.jsonl")
	type result struct{ N int }
	if got, err := Read[result](path); err != nil || len(got) != 0 {
		t.Fatalf("%v %v, and nothing was written yet", got, err)
	}
	for _, text := range []string{"{\"N\":1}\n{\"N\":2}\n{\"N", "{\"N\":3}\n"} {
		f, err := Append(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read[result](path)
	if diff := cmp.Diff([]result{{1}, {2}, {3}}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if err := Write(path, got[:2]); err != nil {
		t.Error(err)
	}
	if got, err = Read[result](path); len(got) != 2 || err != nil {
		t.Errorf("after two were written in place of three: %v %v", got, err)
	}
}

func TestWriteTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.md")
	if err := os.WriteFile(path, []byte("before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time changes nothing more
		if err := WriteTable(path, "x", "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if diff := cmp.Diff("before\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nafter\n", string(got)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if err := WriteTable(path, "y", "new\n"); err == nil {
		t.Error("a document without the lines is written")
	}
}
