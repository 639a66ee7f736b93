package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/state"
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

// twoKeys is a key, and another one once that is refused.
type twoKeys struct{}

func (twoKeys) Key(context.Context) (string, error) { return "the-first-key", nil }

func (twoKeys) Renew(context.Context, string) (string, error) { return "the-second-key", nil }

// TestEachKeyIsMasked that a source has given out.
func TestEachKeyIsMasked(t *testing.T) {
	var out strings.Builder
	mask := observe.NewKeyMask(&out)
	source := app.MaskKeys(twoKeys{}, mask)
	first, err := source.Key(t.Context())
	second, renewed := source.Renew(t.Context(), first)
	if err != nil || renewed != nil || first != "the-first-key" || second != "the-second-key" {
		t.Error(first, err, second, renewed)
	}
	fmt.Fprintf(mask, "%s %s", first, second)
	if strings.Contains(out.String(), "the-") {
		t.Errorf("written is %s", &out)
	}
}

// quoting is a database whose errors quote the API key.
type quoting struct{ state.Store }

func (quoting) Open(context.Context, string, string) (state.Snapshot, error) {
	return state.Snapshot{}, errors.New("refused with the-first-key")
}

// TestTheLogMasksTheKey where the app is built as it is deployed.
func TestTheLogMasksTheKey(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	stderr, flags, output := os.Stderr, log.Flags(), log.Writer()
	defer func() {
		os.Stderr = stderr
		log.SetFlags(flags)
		log.SetOutput(output)
	}()
	os.Stderr = file
	relay, err := app.Build(t.Context(), config.Config{Feed: "default", BaseURL: "http://127.0.0.1:9/api/v3", ToolName: "test", Concurrency: 1, QPS: 1, RequestsPerDay: 1, ErrorsPerHour: 10},
		nil, app.Parts{Store: quoting{}, Publisher: takes{}, Keys: twoKeys{}})
	if err != nil {
		t.Fatal(err)
	}
	serveAs(t, relay, nil, http.MethodGet, "/status", "")
	text, err := os.ReadFile(file.Name())
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "refused with ") || strings.Contains(string(text), "the-first-key") {
		t.Errorf("the log is %s", text)
	}
}

// TestWhatIsBuiltOutlivesItsRequest: the clients of the app have the context with which it
// is built.
func TestWhatIsBuiltOutlivesItsRequest(t *testing.T) {
	built := make(chan context.Context, 1)
	ingest := app.OnFirstUse(func(ctx context.Context) (*app.App, error) {
		built <- ctx
		return nil, errors.New("not now")
	})
	ctx, cancel := context.WithCancel(t.Context())
	ingest.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/status", http.NoBody))
	cancel()
	if err := (<-built).Err(); err != nil {
		t.Errorf("it has ended with the request: %v", err)
	}
}
