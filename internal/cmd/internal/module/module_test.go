package module

import (
	"path/filepath"
	"testing"
	"time"
)

func TestHasTest(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"TestHasTest": true, "TestNone": false, "HasTest": false} {
		if got, err := HasTest(".", name); err != nil || got != want {
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
