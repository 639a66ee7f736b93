// Package process runs the built functions as processes, with proxies between them and
// what they talk to.
package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// function is the package that is built: both functions, as the cloud's build makes
// them.
const function = "dtmrelay.internal/dtmrelay/internal/e2e/ingest"

// Build builds the function into a folder and returns the program.
func Build(ctx context.Context, dir string, flags ...string) (program string, err error) {
	program = filepath.Join(dir, "function")
	args := append(append([]string{"build", "-o", program}, flags...), function)
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the function: %w\n%s", err, out)
	}
	return program, nil
}

// BuildWithClock builds the function with a wall clock that can be told to jump. Go
// reads the time without a call of the system, so nothing outside of the process can
// change what it sees: package time is compiled with one addition more in Now.
func BuildWithClock(ctx context.Context, dir string) (program string, err error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("asking for Go's folder: %w", err)
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(src, "time.go"))
	if err != nil {
		return "", err
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !bytes.Contains(text, []byte(now)) {
		return "", errors.New("this Go's time.Now is another one than the clock's change is for")
	}
	text = bytes.Replace(text, []byte(now), []byte(now+"\tsec += Jump.Load()\n"), 1)
	jump := "package time\n\nimport \"sync/atomic\"\n\n// Jump is by how many seconds the wall clock is wrong.\nvar Jump atomic.Int64\n"
	files := map[string]string{
		filepath.Join(src, "time.go"): filepath.Join(dir, "time.go"),
		filepath.Join(src, "jump.go"): filepath.Join(dir, "jump.go"),
	}
	overlay, err := json.Marshal(map[string]any{"Replace": files})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "time.go"), text, 0o600),
		os.WriteFile(filepath.Join(dir, "jump.go"), []byte(jump), 0o600),
		os.WriteFile(list, overlay, 0o600),
	); err != nil {
		return "", err
	}
	return Build(ctx, dir, "-overlay", list, "-tags", "clock")
}
