//go:build unix

package main

import (
	"bytes"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// TestAFolderThatCanOnlyBeRead: whoever may look at a relay's files, but not change them,
// learns what they say, and they stay as they are.
func TestAFolderThatCanOnlyBeRead(t *testing.T) {
	t.Parallel()
	now := time.Now()
	alerts := dtmsim.Generate(1, 20, now.Add(-20*time.Hour), now.Add(-time.Hour), dtmsim.Shape{NoDoc: true, Plain: true})
	api := httptest.NewServer(dtmsim.New(dtmsim.Options{}, alerts))
	t.Cleanup(api.Close)
	dir := t.TempDir()
	path, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change := func(name string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "dtmrelay"), program, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"..": 0o755, ".": 0o755, "dtmrelay": 0o755, "tmp": 0o777} {
		change(name, mode)
	}
	run := func(as *syscall.SysProcAttr, args ...string) (int, string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "dtmrelay"), args...)
		cmd.Dir, cmd.SysProcAttr = dir, as
		cmd.Env = append(os.Environ(), "GTI_BASE_URL="+api.URL+apiPath, "GTI_API_KEY=k", "TMPDIR="+filepath.Join(dir, "tmp"))
		said, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Skip("another user can't run it here:", err)
		}
		return cmd.ProcessState.ExitCode(), string(said)
	}
	if code, said := run(nil, "poll", "--polls", "1", "--data", "data"); code != 0 {
		t.Fatalf("%d: %s", code, said)
	}
	if code, said := run(nil, "backfill", "--since", "5h", "--id", "mine", "--data", "data"); code != 0 {
		t.Fatalf("%d: %s", code, said)
	}
	state := filepath.Join(dir, "data", "state.db")
	before, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	change("data/state.db", 0o444)
	change("data", 0o555)
	t.Cleanup(func() { change("data", 0o700) }) // or it could not be removed
	var nobody *syscall.SysProcAttr
	if os.Geteuid() == 0 { // who may write to everything
		nobody = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"status", 0, `"last_run":{`},
		{"status --format table", 0, "last run"},
		{"alert history " + alerts[0].ID, 0, `"alert_id":"` + alerts[0].ID + `"`},
		{"backfill list", 0, `"id":"mine"`},
		{"backfill show mine", 0, `"state":"done"`},
		{"backfill cancel mine", exitFailed, "permission denied"},
	} {
		if code, said := run(nobody, append(strings.Fields(c.args), "--data", "data")...); code != c.code || !strings.Contains(said, c.says) {
			t.Errorf("%s: %d, not %d: %s", c.args, code, c.code, said)
		}
	}
	if after, err := os.ReadFile(state); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file is another one, %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
