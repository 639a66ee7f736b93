package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
)

// TestPollFollowsAlerts: over several processes an alert comes once, and again when it
// has changed; rules and redaction are those of the environment.
func TestPollFollowsAlerts(t *testing.T) {
	now := time.Now()
	alerts := dtmsim.Generate(1, 40, now.Add(-20*time.Hour), now.Add(-time.Hour), dtmsim.Shape{NoDoc: true, Plain: true})
	api := dtmsim.New(dtmsim.Options{Key: "key"}, alerts)
	server := httptest.NewServer(api)
	defer server.Close()
	type incident struct{ Event, State string }
	var posted []incident // one after the other
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var in incident
		err := json.NewDecoder(r.Body).Decode(&in)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Team") != "soc" {
			t.Errorf("%s %v: %v", r.Method, r.Header, err)
		}
		posted = append(posted, in)
	}))
	defer receiver.Close()
	header := writeFile(t, "X-Team: soc\n")
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	poll := func() (ids []string, out string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, "poll", "--polls", "1", "--webhook", receiver.URL+"/hook", "--webhook-header-file", header)
		cmd.Dir = dir
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "GTI_BASE_URL=" + server.URL + apiPath, "GTI_API_KEY=key", "SETTLE=0s",
			`RULES=[{"name":"quiet","when":"alert.severity == 'low'","then":{"drop":true}}]`, `REDACT=["title"]`,
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, &stderr)
		}
		for line := range strings.Lines(string(text)) {
			var alert struct{ ID, Title string }
			if err := json.Unmarshal([]byte(line), &alert); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(alert.Title, "[redacted:") {
				t.Errorf("the title of %s is %q", alert.ID, alert.Title)
			}
			ids = append(ids, alert.ID)
		}
		return ids, string(text)
	}

	var want []string
	for _, a := range slices.SortedFunc(slices.Values(alerts), func(a, b dtmsim.Alert) int { return a.CreatedAt.Compare(b.CreatedAt) }) {
		if a.Severity != "low" {
			want = append(want, a.ID)
		}
	}
	got, _ := poll()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the first poll (-want +got):\n%s", diff)
	}
	if len(posted) != len(want) {
		t.Errorf("%d alerts were posted, not %d", len(posted), len(want))
	}
	posted = nil
	if again, _ := poll(); len(again) > 0 {
		t.Errorf("the second poll shows %d alerts", len(again))
	}
	api.Update(want[3], func(a *dtmsim.Alert) { a.Status = "closed" })
	got, text := poll()
	if diff := cmp.Diff(want[3:4], got); diff != "" || !strings.Contains(text, `"status":"closed"`) {
		t.Errorf("after a change (-want +got):\n%s\n%s", diff, text)
	}
	if diff := cmp.Diff([]incident{{"status_changed", "closed"}}, posted); diff != "" {
		t.Errorf("posted after a change (-want +got):\n%s", diff)
	}
	var status struct {
		Feed    string
		LastRun struct {
			Trigger       string
			StatusChanged int `json:"status_changed"`
		} `json:"last_run"`
	}
	kept, err := os.ReadFile(filepath.Join(dir, "dtmrelay-data", "status.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(kept, &status); err != nil || status.Feed != "default" || status.LastRun.Trigger != "cli" || status.LastRun.StatusChanged != 1 {
		t.Errorf("status.json: %v %s", err, kept)
	}
}

// TestPollCleansWhatGTISays, in a poll that others follow as in the last one.
func TestPollCleansWhatGTISays(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotImplemented)
		_, _ = w.Write([]byte(`{"error":{"code":"NotImplemented","message":"\u001b[2Jnot \u202ehere"}}`))
	}))
	defer server.Close()
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "poll", "--polls", "2", "--interval", "1s")
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GTI_BASE_URL=" + server.URL + apiPath, "GTI_API_KEY=key"}
	said, err := cmd.CombinedOutput()
	if err == nil || strings.Count(string(said), "[2Jnot here") != 2 || !strings.Contains(string(said), "[2Jnot here; the next poll tries again") {
		t.Errorf("%v: %q", err, said)
	}
}

// TestVariablesOfWhiteSpaceAreNotSet: they are as the configuration reads them.
func TestVariablesOfWhiteSpaceAreNotSet(t *testing.T) {
	for name, test := range map[string]struct {
		value string
		want  map[string]string // what the command decides in its place
	}{
		"unset": {"", map[string]string{"RUN_BUDGET": "1h", "DTM_REFS": "false"}},
		"blank": {" \t\n", map[string]string{"RUN_BUDGET": "1h", "DTM_REFS": "false"}},
		"set":   {" x ", map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{"RUN_BUDGET", "DTM_REFS"} {
				t.Setenv(variable, test.value)
			}
			if diff := cmp.Diff(test.want, (&pollCmd{}).values()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestRefs: the flag beats DTM_REFS in either direction, and without both there are no
// documents.
func TestRefs(t *testing.T) {
	yes, no := true, false
	for name, test := range map[string]struct {
		flag     *bool
		variable string
		want     map[string]string
	}{
		"none":             {nil, "", map[string]string{"DTM_REFS": "false"}},
		"of the variable":  {nil, "true", map[string]string{}},
		"with":             {&yes, "", map[string]string{"DTM_REFS": "true"}},
		"with, for all":    {&yes, "false", map[string]string{"DTM_REFS": "true"}},
		"without":          {&no, "", map[string]string{"DTM_REFS": "false"}},
		"without, for all": {&no, "true", map[string]string{"DTM_REFS": "false"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DTM_REFS", test.variable)
			if diff := cmp.Diff(test.want, refsFlag{test.flag}.refsValue(map[string]string{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestOutputThatTakesNothingMore: what was written before is a part, as with any other
// error, and who reads no more makes none.
func TestOutputThatTakesNothingMore(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "alerts.jsonl", Err: syscall.ENOSPC}
	gone := &fs.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.EPIPE}
	for name, test := range map[string]struct {
		closed error
		alerts int
		code   int
		says   string
	}{
		"at once": {full, 0, exitFailed, "write alerts.jsonl: "},
		"later":   {full, 153, exitPartial, "stopped after 153 alerts: write alerts.jsonl: "},
		"no pipe": {gone, 153, 0, "write " + os.Stdout.Name()},
	} {
		t.Run(name, func(t *testing.T) {
			p := &poller{delivery: &delivery{closed: test.closed}}
			_, err := p.outcome(t.Context(), drain.Report{}, test.closed, test.alerts, false)
			if !strings.HasPrefix(err.Error(), test.says) {
				t.Errorf("it says %v", err)
			}
			if code := fail(err); code != test.code {
				t.Errorf("the code is %d, not %d", code, test.code)
			}
		})
	}
}

// TestRowsThatAreNotPrintedAreNotCounted: those of a table come out together.
func TestRowsThatAreNotPrintedAreNotCounted(t *testing.T) {
	d := &delivery{stopping: t.Context(), out: &alertPrinter{w: &smallDisk{}, format: formatTable, counts: map[class]int{}}}
	errs := d.Publish(t.Context(), []message.Message{{Data: []byte(`{"id":"a1"}`)}, {Data: []byte(`{"id":"a2"}`)}})
	if !errors.Is(errors.Join(errs...), errFull) || !errors.Is(d.closed, errFull) || d.sent != 0 {
		t.Errorf("%v, %v after %d alerts", errs, d.closed, d.sent)
	}
}
