package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

//go:generate go test -run ^TestExamples$ . -write-examples

var writeExamples = flag.Bool("write-examples", false, "write docs/examples anew, but for its README.md")

// exampleTime is when the examples begin.
var exampleTime = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

// examplesChild is set in the process that makes the examples.
const examplesChild = "DTMRELAY_EXAMPLES"

const exampleRules = `[
  {"name": "leaked-passwords", "when": "alert.alert_type == 'Compromised Credentials'", "then": {"priority": "P1", "escalate": true, "set_status": "escalated"}},
  {"name": "low-posts", "when": "alert.alert_type == 'Forum Post' && alert.severity == 'low'", "then": {"drop": true}}
]
`

// TestExamples: docs/examples is what the commands print at fixed times of alerts that the
// simulator invents, and its README.md says what each file and each field of it is.
func TestExamples(t *testing.T) {
	if os.Getenv(examplesChild) == "" {
		// In a process of its own: to change the zone of this one would race with what other
		// tests have left running.
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestExamples$", fmt.Sprintf("-write-examples=%t", *writeExamples))
		cmd.Env = append(os.Environ(), "TZ=UTC", examplesChild+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	folder, err := filepath.Abs(filepath.Join("..", "..", "..", "docs", "examples"))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	cryptotest.SetGlobalRandom(t, 1) // the ids of runs and backfills
	// Package signal starts its goroutine here, because none may be left in the bubble.
	signal.Notify(unreadSignals, syscall.SIGPIPE)
	var made []example
	synctest.Test(t, func(t *testing.T) { made = makeExamples(t) })

	if *writeExamples {
		writeAllExamples(t, folder, made)
	}
	names := []string{"README.md"}
	for _, e := range made {
		names = append(names, e.name)
		kept, err := os.ReadFile(filepath.Join(folder, e.name))
		if err != nil {
			t.Error(err)
		} else if diff := cmp.Diff(string(kept), string(e.text)); diff != "" {
			t.Errorf("%s is not what the command prints; go generate ./internal/cmd/dtmrelay writes it anew (-file +printed):\n%s", e.name, diff)
		}
		if row := "| [" + e.name + "](" + e.name + ") | `" + e.command + "` |"; !strings.Contains(string(readme), row) {
			t.Errorf("README.md has no row that begins with %s", row)
		}
		for _, field := range e.fields(t) {
			if !strings.Contains(string(readme), "`"+field+"`") {
				t.Errorf("README.md does not explain %s of %s", field, e.name)
			}
		}
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(names, f.Name()) {
			t.Errorf("no command makes %s", f.Name())
		}
	}
}

func writeAllExamples(t *testing.T, folder string, made []example) {
	t.Helper()
	for _, e := range made {
		if err := os.WriteFile(filepath.Join(folder, e.name), e.text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// makeExamples runs the commands of a morning.
func makeExamples(t *testing.T) []example {
	t.Helper()
	time.Sleep(time.Until(exampleTime))
	if err := os.WriteFile("rules.json", []byte(exampleRules), 0o600); err != nil {
		t.Fatal(err)
	}
	alerts := exampleAlerts(22, 12, exampleTime.Add(-20*time.Hour), exampleTime.Add(-10*time.Minute))
	changed := alerts[6].ID
	m := &exampleMaker{
		t: t, api: dtmsim.New(dtmsim.Options{Key: "example-key"}, alerts),
		made: []example{{"rules.json", "dtmrelay rules check rules.json", []byte(exampleRules)}},
	}
	m.online(func() {
		m.keep("fetch.txt", "fetch --limit 8 --format table")
		m.keep("fetch.jsonl", "fetch --limit 3")
		m.keep("fetch.csv", "fetch --limit 8 --format csv")
		m.keep("alert.json", "alert get "+alerts[11].ID)
		m.keep("rules-test.txt", "rules test rules.json --since 24h --format table")
		m.keep("poll.txt", "poll --polls 1 --format table")
	})

	time.Sleep(25 * time.Minute)
	m.api.Update(changed, func(a *dtmsim.Alert) { a.Status = "in_progress" })
	now := time.Now()
	m.api.Add(exampleAlerts(1, 2, now.Add(-20*time.Minute), now.Add(-2*time.Minute))...)
	time.Sleep(time.Minute)
	m.online(func() {
		receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if m.posted == nil {
				m.posted = body
			}
		}))
		defer receiver.Close()
		const address = "https://soar.example.com/hook"
		m.hide = strings.NewReplacer(receiver.URL, address)
		m.keep("poll.jsonl", "poll --polls 1 --webhook "+receiver.URL)
		m.add("incident.json", m.made[len(m.made)-1].command, m.posted)
	})

	time.Sleep(time.Minute)
	m.online(func() {
		m.keep("history.txt", "alert history "+changed+" --format table")
		m.keep("history.json", "alert history "+changed)
		m.keep("status.txt", "status --format table")
		m.keep("status.json", "status")
		m.keep("doctor.txt", "doctor --data dtmrelay-data --format table")
		m.keep("report.txt", "report --data dtmrelay-data --format table")
		m.keep("backfill.txt", "backfill --since 22h --republish --output again.jsonl --format table")
		m.keep("backfill.json", "backfill list")
	})
	return m.made
}

// exampleAlerts are of the simulator, but with a summary that anybody can read.
func exampleAlerts(seed uint64, n int, from, to time.Time) []dtmsim.Alert {
	alerts := dtmsim.Generate(seed, n, from, to, dtmsim.Shape{Plain: true})
	for i := range alerts {
		alerts[i].Set("alert_summary", "Selling access to a widget factory, ask in private")
	}
	return alerts
}

// example is a file of docs/examples, and the command that prints it.
type example struct {
	name, command string
	text          []byte
}

// fields are the names of its columns or members, and of the members of what is in them.
func (e example) fields(t *testing.T) []string {
	t.Helper()
	switch filepath.Ext(e.name) {
	case ".csv":
		head, err := csv.NewReader(bytes.NewReader(e.text)).Read()
		if err != nil {
			t.Fatal(err)
		}
		return head
	case ".txt":
		return nil
	}
	names := map[string]bool{}
	for dec := json.NewDecoder(bytes.NewReader(e.text)); ; {
		var v any
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			return slices.Sorted(maps.Keys(names))
		} else if err != nil {
			t.Fatal(e.name, err)
		}
		collectNames(v, names)
	}
}

// collectNames collects the names of all members. What is in a document, and how the
// analysis of an alert came about, is GTI's to explain.
func collectNames(v any, names map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, element := range v {
			collectNames(element, names)
		}
	case map[string]any:
		for name, value := range v {
			names[name] = true
			if name != "doc" && name != "labels" && name != "topics" {
				collectNames(value, names)
			}
		}
	}
}

// exampleMaker runs commands in this process.
type exampleMaker struct {
	t      *testing.T
	api    *dtmsim.Server
	posted []byte            // the first incident that came to the webhook
	hide   *strings.Replacer // what differs from run to run; nil: nothing
	made   []example
}

// online serves the simulator to f. While a bubble has sockets its time stands still.
func (m *exampleMaker) online(f func()) {
	server := httptest.NewServer(m.api)
	defer server.Close()
	m.t.Setenv("GTI_BASE_URL", server.URL+apiPath)
	m.t.Setenv("GTI_API_KEY", "example-key")
	m.t.Setenv("MAX_QPS", "1000") // nobody waits while time stands still
	f()
}

// keep makes an example of what a command prints. A .txt is what a person sees.
func (m *exampleMaker) keep(name, line string) {
	m.t.Helper()
	out, said := m.run(strings.Fields(line))
	command := "dtmrelay " + line
	if m.hide != nil {
		command = m.hide.Replace(command)
	}
	if filepath.Ext(name) == ".txt" {
		out = slices.Concat([]byte("$ "+command+"\n"), out, said)
	}
	m.add(name, command, out)
}

func (m *exampleMaker) add(name, command string, text []byte) {
	m.t.Helper()
	if filepath.Ext(name) == ".json" {
		var indented bytes.Buffer
		if err := json.Indent(&indented, bytes.TrimSpace(text), "", "  "); err != nil {
			m.t.Fatalf("%s: %v", name, err)
		}
		text = append(indented.Bytes(), '\n')
	}
	m.made = append(m.made, example{name, command, text})
}

func (m *exampleMaker) run(args []string) (out, said []byte) {
	m.t.Helper()
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = m.file(), m.file()
	code := run(args)
	out, said = m.end(os.Stdout), m.end(os.Stderr)
	os.Stdout, os.Stderr = stdout, stderr
	if code != 0 {
		m.t.Fatalf("%q ends with %d: %s", args, code, said)
	}
	return out, said
}

func (m *exampleMaker) file() *os.File {
	m.t.Helper()
	file, err := os.Create(filepath.Join(m.t.TempDir(), "output"))
	if err != nil {
		m.t.Fatal(err)
	}
	return file
}

// end closes a file, and returns what was written to it.
func (m *exampleMaker) end(file *os.File) []byte {
	m.t.Helper()
	text, err := os.ReadFile(file.Name())
	if err := errors.Join(err, file.Close()); err != nil {
		m.t.Fatal(err)
	}
	return bytes.ReplaceAll(text, []byte(self()), []byte("dtmrelay"))
}
