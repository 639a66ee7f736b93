package e2e

import (
	"context"
	"encoding/json"
	"hash/crc32"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	smpb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// secrets is a Secret Manager with one secret, which may have no version.
type secrets struct {
	smpb.UnimplementedSecretManagerServiceServer
	mu    sync.Mutex
	key   string
	reads int
}

func (s *secrets) set(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

func (s *secrets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func (s *secrets) AccessSecretVersion(_ context.Context, r *smpb.AccessSecretVersionRequest) (*smpb.AccessSecretVersionResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.key == "" {
		return nil, status.Errorf(codes.NotFound, "Secret [%s] not found or has no versions.", r.GetName())
	}
	data := []byte(s.key + "\n")
	sum := int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
	return &smpb.AccessSecretVersionResponse{Name: r.GetName(), Payload: &smpb.SecretPayload{Data: data, DataCrc32C: &sum}}, nil
}

func (s *secrets) serve(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	smpb.RegisterSecretManagerServiceServer(server, s)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

func TestSecretWithoutAVersionThenRotated(t *testing.T) {
	t.Parallel()
	alerts := recent(20, 600)
	w := newWorld(t, dtmsim.Options{}, alerts[:300])
	vault := &secrets{}
	delete(w.env, "GTI_API_KEY")
	p := w.start("SECRETMANAGER_EMULATOR_HOST="+vault.serve(t), "GTI_API_KEY_SECRET=projects/p/secrets/gti-api-key")

	code, r := p.post("")
	if code != http.StatusServiceUnavailable || r.StopReason != "key_missing" || !strings.Contains(r.Error, "gcloud secrets versions add") {
		t.Errorf("without a version: %d %+v", code, r)
	}
	if code, _ := p.do(http.MethodGet, "/status", ""); code != http.StatusOK {
		t.Errorf("GET /status without a key: %d", code)
	}
	vault.set(apiKey)
	if code, r = p.post(""); code != http.StatusOK || r.Published != 300 {
		t.Errorf("with the first version: %d %+v", code, r)
	}
	// A rotation needs no new instance: the refused key is read again once.
	w.sim.SetKey("rotated-" + apiKey)
	vault.set("rotated-" + apiKey)
	w.sim.Add(alerts[300:]...)
	reads := vault.count()
	if code, r = p.post(""); code != http.StatusOK || r.Outcome != "ok" || r.Errors != 1 {
		t.Errorf("after the rotation: %d %+v", code, r)
	}
	if n := vault.count() - reads; n != 1 {
		t.Errorf("the secret was read %d times, want once", n)
	}
	// And one to a key that the API doesn't take ends in one answer, two at most.
	w.sim.SetKey("revoked")
	if code, r = p.post(""); code != http.StatusBadGateway || r.StopReason != "key_refused" || r.Errors > 2 {
		t.Errorf("with a revoked key: %d %+v", code, r)
	}
	vault.set("")
	if code, r = p.post(""); code != http.StatusServiceUnavailable || r.StopReason != "key_missing" {
		t.Errorf("with a revoked key whose version is gone: %d %+v", code, r)
	}
}

func TestDeployedFunctionRefusesAKeyInItsEnvironment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dtmsim.Options{}, nil)
	p := w.start("K_SERVICE=ingest")
	if code, text := p.do(http.MethodPost, "/", ""); code != http.StatusInternalServerError || !strings.Contains(string(text), "GTI_API_KEY") {
		t.Errorf("answered %d %s", code, text)
	}
}

// TestDeployedFunctionRefusesAnEmulator: it would relay into what keeps nothing.
func TestDeployedFunctionRefusesAnEmulator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dtmsim.Options{}, nil)
	delete(w.env, "GTI_API_KEY")
	p := w.start("K_SERVICE=ingest", "GTI_API_KEY_SECRET=projects/p/secrets/s", "SECRETMANAGER_EMULATOR_HOST=127.0.0.1:1")
	for _, path := range []string{"/", "/backfill"} {
		code, text := p.do(http.MethodPost, path, "")
		if code != http.StatusInternalServerError || !strings.Contains(string(text), `"problems":3`) {
			t.Errorf("POST %s: %d %s", path, code, text)
		}
		for name := range strings.FieldsSeq("FIRESTORE_EMULATOR_HOST PUBSUB_EMULATOR_HOST SECRETMANAGER_EMULATOR_HOST") {
			if !strings.Contains(string(text), name+": is ") {
				t.Errorf("POST %s does not name %s: %s", path, name, text)
			}
		}
	}
}

// TestStatus holds GET /status to its contract.
func TestStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dtmsim.Options{}, recent(21, 100))
	p := w.start(`DTM_FILTER={"status":["new","read"]}`)
	read := func() map[string]any {
		_, text := p.do(http.MethodGet, "/status", "")
		var s map[string]any
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return s
	}
	if s := read(); s["position"] != nil || s["last_run"] != nil || s["lease"] != nil || s["feed"] != "default" {
		t.Errorf("before the first run: %v", s)
	}
	p.post("")
	s := read()
	for _, name := range []string{
		"version", "feed", "position", "begins_at", "lag_seconds", "lease", "last_run", "last_sweep", "sweep_reaches_back_to",
		"last_audit", "requests", "errors", "filter", "filter_since", "gaps", "backfills",
	} {
		if _, ok := s[name]; !ok {
			t.Errorf("%s is missing: %v", name, s)
		}
	}
	if s["position"] == nil || s["lease"] != nil || s["lag_seconds"].(float64) < 30 {
		t.Errorf("after a run: %v", s)
	}
	if r := s["requests"].(map[string]any); r["used"].(float64) < 1 || r["limit"].(float64) != 40000 || r["window"] != "24h" {
		t.Errorf("requests: %v", r)
	}
	if f, ok := s["filter"].(map[string]any); !ok || len(f) != 1 {
		t.Errorf("filter: %v", s["filter"])
	}
}
