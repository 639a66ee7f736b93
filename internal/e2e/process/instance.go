package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dtmrelay.internal/dtmrelay/internal/emulatortest"
)

// Output is what all processes of a run print, and what they answer.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// Bytes is what there is so far.
func (o *Output) Bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.text.Bytes())
}

// Instance is a place where a process of a function runs. When it ends, another one is
// started, as the platform does it.
type Instance struct {
	Program string
	Env     []string
	Out     *Output
	Name    string

	mu      sync.Mutex
	cmd     *exec.Cmd
	clock   io.Writer // takes by how many seconds its clock is wrong
	url     string
	told    bool // to end
	done    chan struct{}
	Ended   []string // how processes ended that weren't told to
	Signals atomic.Int64
}

// Ready returns the URL of a process that listens, and starts one if there is none.
func (i *Instance) Ready(ctx context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done != nil {
		select {
		case <-i.done:
			if !i.told {
				i.Ended = append(i.Ended, i.Name+": "+i.cmd.ProcessState.String())
			}
		default:
			return i.url, nil
		}
	}
	return i.url, i.start(ctx)
}

// start starts a process and waits until it listens. The lock is held.
func (i *Instance) start(ctx context.Context) error {
	port, err := emulatortest.Port()
	if err != nil {
		return err
	}
	i.cmd = exec.Command(i.Program)
	i.cmd.Env = append(append([]string{}, i.Env...), "PORT="+port)
	i.cmd.Stdout, i.cmd.Stderr = i.Out, i.Out
	if i.clock, err = i.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := i.cmd.Start(); err != nil {
		return err
	}
	i.url, i.told, i.done = "http://127.0.0.1:"+port, false, make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		_ = cmd.Wait() // a signal makes this an error
	}(i.cmd, i.done)
	for dialer := (net.Dialer{}); ; {
		if c, err := dialer.DialContext(ctx, "tcp", "127.0.0.1:"+port); err == nil {
			return c.Close()
		}
		select {
		case <-i.done:
			return fmt.Errorf("%s ended before it listened: %s", i.Name, i.cmd.ProcessState)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Signal sends a signal to the process that runs now, if one does.
func (i *Instance) Signal(s syscall.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done == nil {
		return
	}
	select {
	case <-i.done:
		return
	default:
	}
	if s == syscall.SIGKILL || s == syscall.SIGTERM {
		i.told = true
		i.Signals.Add(1)
	}
	_ = i.cmd.Process.Signal(s) // fails when it has just ended
}

// Jump makes the process's wall clock wrong.
func (i *Instance) Jump(seconds int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.clock != nil {
		_, _ = fmt.Fprintln(i.clock, seconds) // fails when it has ended
	}
}

// Close ends the process.
func (i *Instance) Close() {
	i.Signal(syscall.SIGKILL)
	if i.done != nil {
		<-i.done
	}
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: -1, DisableKeepAlives: true}}

// Post sends a request and returns the answer. Status 0 is a connection that broke, or
// an answer that didn't come in time.
func (i *Instance) Post(ctx context.Context, body string) (status int, answer []byte, err error) {
	url, err := i.Ready(ctx)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/", strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil { // a fault's work
		return 0, nil, nil
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil { // likewise
		return 0, nil, nil
	}
	if _, err := i.Out.Write(append(answer, '\n')); err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, answer, nil
}
