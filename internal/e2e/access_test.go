package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// tokenOf is an identity token in the form in which Cloud Run hands it on.
func tokenOf(email string) string {
	encode := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"email":%q,"email_verified":true}`, email)
	return "Bearer " + encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + ".SIGNATURE_REMOVED_BY_GOOGLE"
}

// checked is a header that Cloud Run has checked; forged stands beside it unchecked.
func checked(email, forged string) http.Header {
	h := http.Header{"X-Serverless-Authorization": {tokenOf(email)}}
	if forged != "" {
		h["Authorization"] = []string{tokenOf(forged)}
	}
	return h
}

func TestOnlyOperatorsWrite(t *testing.T) {
	t.Parallel()
	const operator, viewer, stranger = "ana@example.com", "vic@example.com", "eve@other.example"
	w := newWorld(t, dtmsim.Options{}, recent(40, 120))
	w.env["OPERATORS"] = `["scheduler@p.iam.gserviceaccount.com","Ana@example.com"]`
	w.env["VIEWERS"] = `["vic@example.com"]`
	p := w.start()

	writes := []struct{ method, path, body string }{
		{http.MethodPost, "/", ""},
		{http.MethodPost, "/", `{"dry_run":true}`},
		{http.MethodPost, "/backfill", `{"since":"96h","id":"x"}`},
		{http.MethodDelete, "/backfill/x", ""},
	}
	for name, header := range map[string]http.Header{
		"nobody":                         nil,
		"a foreign operator":             {"Authorization": {tokenOf(stranger)}},
		"a stranger, forged":             checked(stranger, operator),
		"a viewer":                       {"Authorization": {tokenOf(viewer)}},
		"a viewer, forged":               checked(viewer, operator),
		"no token in the checked header": {"X-Serverless-Authorization": {"Bearer"}, "Authorization": {tokenOf(operator)}},
	} {
		for _, r := range writes {
			if code, text := p.doAs(header, r.method, r.path, r.body); code != http.StatusForbidden || !strings.Contains(string(text), `"status":403`) {
				t.Errorf("%s: %s %s: %d %s", name, r.method, r.path, code, text)
			}
		}
		want := http.StatusForbidden
		if strings.HasPrefix(name, "a viewer") {
			want = http.StatusOK
		}
		if code, text := p.doAs(header, http.MethodGet, "/status", ""); code != want {
			t.Errorf("%s: GET /status: %d %s, want %d", name, code, text, want)
		}
	}
	if n := w.sim.Stats().Requests; n != 0 {
		t.Errorf("%d requests were sent for who was refused", n)
	}
	if code, text := p.doAs(checked("scheduler@p.iam.gserviceaccount.com", ""), http.MethodPost, "/", ""); code != http.StatusOK || !strings.Contains(string(text), `"published":120`) {
		t.Errorf("the scheduler: %d %s", code, text)
	}
	if code, text := p.doAs(checked(operator, stranger), http.MethodPost, "/backfill", `{"since":"96h","id":"x"}`); code != http.StatusOK || !strings.Contains(string(text), `"requested_by":"ana@example.com"`) {
		t.Errorf("an operator's backfill: %d %s", code, text)
	}
	// What was refused is a line too, and nothing of a forged header is.
	for _, want := range []string{
		`"event":"caller_refused","feed":"default","requested_by":"eve@other.example","method":"DELETE","path":"/backfill/x"`,
		`"event":"backfill_requested","feed":"default","backfill":"x","requested_by":"ana@example.com"`,
		`OPERATORS: K_SERVICE is not set`, // here nobody checks tokens
	} {
		await(t, want, func() bool { return strings.Contains(w.log(), want) })
	}
	if strings.Contains(w.log(), `"requested_by":"eve@other.example","since"`) {
		t.Error("a forged header says who asked for a backfill")
	}
}

// TestFiftyUnfinishedBackfills: the next one is refused until one is finished.
func TestFiftyUnfinishedBackfills(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dtmsim.Options{}, recent(41, 30))
	gate := w.after(0)
	p := w.start()
	ended := make(chan report, 1)
	go func() {
		_, r := p.post("")
		ended <- r
	}()
	// The run holds the lease, so that nobody works what is asked for.
	await(t, "a run to stand at the gate", func() bool {
		select {
		case <-gate.reached:
			return true
		default:
			return false
		}
	})
	now := time.Now().UTC()
	body := func(n int) string {
		return fmt.Sprintf(`{"since":%q,"until":%q,"id":"b%d"}`, now.Add(-50*time.Hour).Format(time.RFC3339), now.Add(-49*time.Hour).Format(time.RFC3339), n)
	}
	for n := range 50 {
		if code, text := p.do(http.MethodPost, "/backfill", body(n)); code != http.StatusAccepted {
			t.Fatalf("no. %d: %d %s", n, code, text)
		}
	}
	if code, text := p.do(http.MethodPost, "/backfill", body(50)); code != http.StatusTooManyRequests || !strings.Contains(string(text), "50 unfinished backfills") {
		t.Errorf("the 51st: %d %s", code, text)
	}
	if code, text := p.do(http.MethodGet, "/backfill/b50", ""); code != http.StatusNotFound {
		t.Errorf("it was recorded: %d %s", code, text)
	}
	if code, text := p.do(http.MethodPost, "/backfill", body(7)); code != http.StatusAccepted {
		t.Errorf("one of the 50 again: %d %s", code, text)
	}
	gate.open()
	if r := <-ended; r.Outcome != "ok" || r.Published != 30 {
		t.Errorf("the run: %+v", r)
	}
	if _, r := p.post(""); r.Outcome != "ok" {
		t.Errorf("the run that works them: %+v", r)
	}
	if code, text := p.do(http.MethodPost, "/backfill", body(50)); code != http.StatusOK {
		t.Errorf("after that run: %d %s", code, text)
	}
}
