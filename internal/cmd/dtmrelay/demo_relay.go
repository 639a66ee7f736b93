package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// relay is the function in a process of its own: this program as `serve --local`.
type relay struct {
	process *os.Process
	url     string
	log     *os.File
	end     context.CancelFunc
	ended   chan struct{}
}

// startRelay starts one that ends with ctx. It also ends when this process does,
// however that happens: its standard input ends then. Its log goes to files.log.
func startRelay(ctx context.Context, files demoFiles, env []string) (*relay, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(files.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, self, "serve", "--local", "--dir", files.dir, "--port", "0", "--until-eof") //nolint:gosec // G204: it is this very program
	cmd.Env = env
	cmd.Cancel = func() error {
		if cmd.Process.Signal(syscall.SIGTERM) != nil {
			return cmd.Process.Kill() // there's no such signal everywhere
		}
		return nil
	}
	cmd.WaitDelay = 10 * time.Second
	said := &announcement{log: log, url: make(chan string, 1)}
	cmd.Stderr = said
	if _, err = cmd.StdinPipe(); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		end()
		_ = log.Close()
		return nil, fmt.Errorf("starting the relay: %w", err)
	}
	r := &relay{process: cmd.Process, log: log, end: end, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its answers and its log
		_ = log.Close()
		close(r.ended)
	}()
	select {
	case r.url = <-said.url:
		return r, nil
	case <-r.ended:
		end()
		return nil, fmt.Errorf("the relay did not start: %s", said.tail())
	}
}

// stop ends the process in its own time.
func (r *relay) stop() {
	r.end()
	<-r.ended
}

// kill ends it in the middle of whatever it does.
func (r *relay) kill() {
	_ = r.process.Kill() // fails only when it has ended
	<-r.ended
	r.end()
}

// post posts a body, which may be nil, and decodes the answer, which has an outcome.
func (r *relay) post(ctx context.Context, path string, body, into any) error {
	// Not the default transport: it would look for a proxy.
	client := relayClient{base: r.url, transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.call(ctx, http.MethodPost, path, body, "outcome")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("the relay's answer: %w", err)
	}
	return nil
}

// announcement passes what a relay says on to its log, and finds out where it listens.
type announcement struct {
	log io.Writer
	url chan string

	mu    sync.Mutex
	found bool
	text  []byte // until it is found
}

func (a *announcement) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.found {
		a.text = append(a.text, p...)
		_, rest, ok := strings.Cut(string(a.text), listening)
		if url, _, ended := strings.Cut(rest, "\n"); ok && ended {
			a.found = true
			a.url <- url
		}
	}
	return a.log.Write(p)
}

// tail is what was said, for an error.
func (a *announcement) tail() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.TrimSpace(string(a.text))
}
