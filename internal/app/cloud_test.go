package app_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"dtmrelay.internal/dtmrelay/internal/app"
)

// TestAFailedBuildLeavesNothingOpen: each request tries again, so that what is
// left would add up.
func TestAFailedBuildLeavesNothingOpen(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"no Firestore": {"SECRETMANAGER_EMULATOR_HOST": "127.0.0.1:1"},
		"no Pub/Sub":   {"SECRETMANAGER_EMULATOR_HOST": "127.0.0.1:1", "FIRESTORE_EMULATOR_HOST": "127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			for name, value := range map[string]string{
				"GOOGLE_CLOUD_PROJECT": "p", "PUBSUB_TOPIC": "dtm-alerts", "REJECTS_TOPIC": "dtm-rejects",
				"GTI_API_KEY_SECRET": "projects/p/secrets/s", "FIRESTORE_EMULATOR_HOST": "", "PUBSUB_EMULATOR_HOST": "",
				"GOOGLE_APPLICATION_CREDENTIALS": filepath.Join(t.TempDir(), "missing"),
			} {
				t.Setenv(name, value)
			}
			for name, value := range env {
				t.Setenv(name, value)
			}
			before := goleak.IgnoreCurrent()
			if _, err := app.Cloud(t.Context()); err == nil {
				t.Fatal("it was built without credentials")
			}
			goleak.VerifyNone(t, before)
		})
	}
}

// TestProblemsOfTheConfiguration: the answer lists the first 20 and says how many there are.
func TestProblemsOfTheConfiguration(t *testing.T) {
	for name, value := range map[string]string{
		"GOOGLE_CLOUD_PROJECT": "p", "PUBSUB_TOPIC": "dtm-alerts", "REJECTS_TOPIC": "dtm-rejects", "GTI_API_KEY_SECRET": "projects/p/secrets/s",
		"OPERATORS": `["x"` + strings.Repeat(`,"x"`, 24) + `]`,
	} {
		t.Setenv(name, value)
	}
	w := httptest.NewRecorder()
	app.OnFirstUse(app.Cloud).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/status", http.NoBody))
	var p problems
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusInternalServerError || p.Problems != 25 || len(p.Errors) != 20 {
		t.Errorf("%v: %d %s", err, w.Code, w.Body)
	}
}
