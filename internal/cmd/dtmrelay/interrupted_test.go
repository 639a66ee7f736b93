package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// TestCtrlCIsCode3 ends commands while the server that they ask has their request.
func TestCtrlCIsCode3(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(t.TempDir(), "rules.json")
	if err := os.WriteFile(rules, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, says := range map[string]string{
		"status --url URL":                  "dtmrelay: interrupted\n",
		"alert history x --url URL":         "dtmrelay: interrupted\n",
		"backfill list --url URL":           "dtmrelay: interrupted\n",
		"backfill cancel x --url URL":       "dtmrelay: interrupted\n",
		"backfill show x --watch --url URL": "interrupted; the relay's next runs go on with it, but for",
		"alert get x":                       "dtmrelay: interrupted\n",
		"alert set x --status closed":       "interrupted; whether the alert was changed, this shows: dtmrelay alert get x",
		"rules test RULES --since 5h":       "dtmrelay: interrupted\n",
		"doctor --data there-is-none":       "dtmrelay: interrupted\n",
		"fetch":                             "interrupted after 0 alerts",
		"poll --polls 1 --data new":         "interrupted after 0 alerts",
		"backfill --since 5h --url URL":     "interrupted",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{}, 100)
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the caller is gone
				asked <- struct{}{}
				<-r.Context().Done()
			}))
			t.Cleanup(server.Close)
			words := strings.Fields(strings.NewReplacer("URL", server.URL, "RULES", rules).Replace(args))
			cmd := exec.CommandContext(t.Context(), program, words...)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "GTI_API_KEY=k", "GTI_BASE_URL="+server.URL+"/api/v3")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-asked
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != exitPartial || !strings.Contains(out.String(), says) {
				t.Errorf("%v: %s", err, out.Bytes())
			}
		})
	}
}

// TestCtrlCBeforeTheCommand ends one while its flags are read, of which so many take a
// while: it begins nothing.
func TestCtrlCBeforeTheCommand(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	args := append([]string{"fetch"}, slices.Repeat([]string{"--tags", "x"}, 5000)...)
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "GTI_API_KEY=k", "GTI_BASE_URL="+server.URL+"/api/v3")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(wait)
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() == -1 && !asked.Load() { // the program itself had not begun
			continue
		}
		if cmd.ProcessState.ExitCode() != exitPartial || !strings.Contains(out.String(), "interrupted after 0 alerts") || asked.Load() {
			t.Errorf("%s after %s, a request: %t, %s", cmd.ProcessState, wait, asked.Load(), out.Bytes())
		}
		return
	}
}

// TestEndOfTheTerminal ends a command as Ctrl-C does, unless nohup keeps it off.
func TestEndOfTheTerminal(t *testing.T) {
	t.Parallel()
	// A process inherits that a signal is ignored, as it is here when nohup has started the
	// tests, and not that one is taken.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	for name, c := range map[string]struct {
		line string
		code int
	}{
		"hangup": {"exec dtmrelay fetch", exitPartial},
		"nohup":  {"trap '' HUP; exec dtmrelay fetch", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, answer := make(chan struct{}), make(chan struct{})
			api := dtmsim.New(dtmsim.Options{}, nil)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- struct{}{}
				select {
				case <-answer:
					api.ServeHTTP(w, r)
				case <-r.Context().Done():
				}
			}))
			t.Cleanup(server.Close)
			cmd := exec.CommandContext(t.Context(), "sh", "-c", c.line)
			cmd.Env = append(os.Environ(), "GTI_API_KEY=k", "GTI_BASE_URL="+server.URL+"/api/v3")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-asked
			for range 2 { // from the system, and from the shell
				if err := cmd.Process.Signal(syscall.SIGHUP); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Error(err)
				}
			}
			if c.code == 0 {
				close(answer)
			}
			if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != c.code {
				t.Errorf("%s: %s", cmd.ProcessState, out.Bytes())
			}
		})
	}
}

// TestServeEndsBeforeItsFirstRequest as after it: by a signal, with 0.
func TestServeEndsBeforeItsFirstRequest(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "serve", "--local", "--port", "0")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GTI_API_KEY=k")
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text []byte
	for b := make([]byte, 1000); !bytes.Contains(text, []byte(listening)); {
		n, err := said.Read(b)
		if text = append(text, b[:n]...); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
