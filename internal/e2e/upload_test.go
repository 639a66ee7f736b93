package e2e

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// TestUpload: what .gcloudignore leaves of the source, built as the cloud builds
// it, is the function.
func TestUpload(t *testing.T) {
	t.Parallel()
	onlyLong(t, "it builds everything once more")
	built := filepath.Join(t.TempDir(), "function")
	if out, err := exec.Command("../../.ci/upload", built).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w := newWorld(t, dtmsim.Options{}, recent(61, 10))
	w.binary = built
	p := w.start()
	w.finish(p)
	if status, text := p.do(http.MethodGet, "/status", ""); status != http.StatusOK {
		t.Errorf("GET /status: %d %s", status, text)
	}
	if status, text := w.startSync().push("m", `{"alert_id":"a"}`); status != http.StatusOK {
		t.Errorf("SyncStatus: %d %s", status, text)
	}
}
