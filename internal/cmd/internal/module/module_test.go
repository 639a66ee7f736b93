package module

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTests(t *testing.T) {
	t.Parallel()
	tests := Tests{}
	for name, want := range map[string]bool{"TestTests": true, "TestNone": false, "Has": false} {
		if got, err := tests.Has(".", name); err != nil || got != want {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	root, err := Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := Command(t.Context(), time.Minute, root, "go", "env", "GOMOD")
	if want := filepath.Join(root, "go.mod") + "\n"; err != nil || string(out) != want {
		t.Errorf("in the module's folder: %q %v, want %q", out, err, want)
	}
	if _, _, err := Command(t.Context(), time.Minute, root, "go", "no-such-command"); err == nil {
		t.Error("a command that fails gives no error")
	}
}

// TestCommit: a change of a Go file makes another state of the source, one of a result
// doesn't.
func TestCommit(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	git := func(args ...string) {
		t.Helper()
		args = append([]string{"-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)
		if out, _, err := Command(t.Context(), time.Minute, dir, "git", args...); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "-q")
	write("x.go", "package x\n")
	git("add", "x.go")
	git("commit", "-q", "-m", "x")
	write("results.jsonl", "{}\n")
	clean, err := Commit(t.Context())
	if err != nil || len(clean) != 10 {
		t.Fatalf("%q %v", clean, err)
	}
	write("x.go", "package y\n")
	if got, err := Commit(t.Context()); got != clean+"-dirty" || err != nil {
		t.Errorf("%q %v, want %q", got, err, clean+"-dirty")
	}
}
