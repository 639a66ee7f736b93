package main

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rivo/uniseg"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// onOwnTerminal runs this program on a terminal, against a simulator, and returns what a
// person sees.
func onOwnTerminal(t *testing.T, env []string, args ...string) string {
	t.Helper()
	return besideTerminal(t, nil, env, args...)
}

// besideTerminal is onOwnTerminal where standard output is something else, unless it is nil.
func besideTerminal(t *testing.T, stdout io.Writer, env []string, args ...string) string {
	t.Helper()
	now := time.Now()
	server := httptest.NewServer(dtmsim.New(dtmsim.Options{Key: "secret-key"}, dtmsim.Generate(1, 150, now.Add(-20*time.Hour), now, dtmsim.Typical())))
	defer server.Close()
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Stdout = t.TempDir(), stdout
	cmd.Env = append([]string{"TERM=xterm", "PATH=" + os.Getenv("PATH"), "GTI_BASE_URL=" + server.URL + apiPath, "GTI_API_KEY=secret-key"}, env...)
	if screen, terminal, err := pty.Open(); err != nil {
		t.Skip("this system has no pseudo-terminals:", err)
	} else if err := errors.Join(screen.Close(), terminal.Close()); err != nil {
		t.Fatal(err)
	}
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(screen) // ends with an error when the program does
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v:\n%s", err, &text)
	}
	if strings.Contains(text.String(), "secret-key") {
		t.Error("the key is shown")
	}
	return text.String()
}

// colours are the escape sequences that colour; the bar has others.
var colours = regexp.MustCompile("\x1b\\[[0-9]+m")

func TestFetchOnTerminal(t *testing.T) {
	for _, c := range []struct {
		name    string
		env     []string
		colours bool
	}{{"colours", nil, true}, {"without colours", []string{"NO_COLOR=1"}, false}} {
		t.Run(c.name, func(t *testing.T) {
			text := onOwnTerminal(t, c.env, "fetch")
			if n := strings.Count(text, "\n  \"id\": \""); n > showFirst || !strings.Contains(text, "{\r\n  \"") {
				t.Errorf("%d alerts are shown", n)
			}
			for _, want := range []string{"asking GTI", "TYPE", "high", "total", "the limit of 100 alerts is reached", "Next:", "fetch --all --output alerts.jsonl"} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not shown", want)
				}
			}
			if found := colours.MatchString(text); found != c.colours {
				t.Errorf("colours: %t, want %t", found, c.colours)
			}
		})
	}
}

// TestBarAlone: nothing of the data comes between what a bar draws, such as of a program
// that prints on the same terminal what it reads from a pipe.
func TestBarAlone(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		name, args string
		stdout     io.Writer
		drawn      bool
	}{
		{"terminal", "fetch", nil, true},
		{"table", "fetch --format table", nil, true},
		{"lines on a terminal", "fetch --format jsonl", nil, false},
		{"pipe", "fetch", &bytes.Buffer{}, false},
		{"file", "fetch", file, true},
		{"output", "fetch --output alerts.jsonl", &bytes.Buffer{}, true},
		{"poll, pipe", "poll --polls 1", &bytes.Buffer{}, false},
		{"poll, file", "poll --polls 1", file, true},
		{"poll, output", "poll --polls 1 --output alerts.jsonl", &bytes.Buffer{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := besideTerminal(t, c.stdout, []string{"SETTLE=0s"}, strings.Fields(c.args)...)
			if drawn := strings.Contains(text, "asking GTI"); drawn != c.drawn {
				t.Errorf("a bar: %t, want %t:\n%q", drawn, c.drawn, text)
			}
		})
	}
}

func TestPollOnTerminal(t *testing.T) {
	text := onOwnTerminal(t, []string{"SETTLE=0s"}, "poll", "--polls", "1")
	for _, want := range []string{"CREATED", "150 alerts:", "TYPE", "150 new, 0 changed"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown:\n%s", want, text)
		}
	}
	ids := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(colours.ReplaceAllString(line, ""))
		line = line[strings.LastIndexByte(line, '\r')+1:] // the bar before it is gone
		if width := uniseg.StringWidth(clean(line)); width > 80 {
			t.Errorf("a line of %d columns: %q", width, line)
		}
		if wholeID.MatchString(line) {
			ids++
		}
	}
	if ids != 150 {
		t.Errorf("%d ids are whole, not 150:\n%s", ids, text)
	}
}

// wholeID ends a line with an alert's id (XID).
var wholeID = regexp.MustCompile(` [0-9a-v]{20}$`)
