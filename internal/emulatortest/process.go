package emulatortest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

const host = "127.0.0.1"

const (
	startTimeout = 5 * time.Minute // beside twelve other programs an emulator took most of one
	stopTimeout  = 5 * time.Second // it usually ends within half a second
)

// watched runs a command that ends with this process, however this process
// ends: the shell's background part waits for the end of the pipe on descriptor
// 3, whose other end only this process holds. A test binary that panics or runs
// into its time limit calls no cleanup, and would leave the emulator running.
const watched = `(read -r _ <&3; kill $$) >/dev/null 2>&1 & exec "$@" 3<&-`

// process is a running emulator.
type process struct {
	addr string // host:port

	cmd    *exec.Cmd
	lock   *os.File // closing it stops the emulator
	dir    string   // working folder, with the log
	exited chan struct{}
	once   sync.Once
}

// start runs the emulator on a free loopback port and waits until it answers.
func (e emulator) start() (*process, error) {
	command, err := e.find()
	if err != nil {
		return nil, err
	}
	p, err := launch(command)
	if err != nil {
		return nil, fmt.Errorf("starting the %s: %w", e.name, err)
	}
	if err := p.ready(e.ready); err != nil {
		log, _ := os.ReadFile(p.log())
		p.stop()
		return nil, fmt.Errorf("starting the %s: %w\n%s", e.name, err, log)
	}
	return p, nil
}

func launch(command []string) (*process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	command = append(command, "--host="+host, "--port="+port)

	dir, err := os.MkdirTemp("", "emulatortest")
	if err != nil {
		return nil, err
	}
	p := &process{addr: net.JoinHostPort(host, port), dir: dir, exited: make(chan struct{})}
	log, err := os.Create(p.log())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	end, lock, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer end.Close()

	p.lock = lock
	p.cmd = exec.Command("sh", append([]string{"-c", watched, "sh"}, command...)...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.ExtraFiles = []*os.File{end}
	if err := p.cmd.Start(); err != nil {
		lock.Close()
		return nil, err
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // the signal that stops it makes this an error
	}()
	return p, nil
}

func (p *process) log() string { return p.dir + "/log" }

// ready waits until the emulator answers a request for the path.
func (p *process) ready(path string) error {
	client := http.Client{
		Transport: &http.Transport{DisableKeepAlives: true}, // no goroutine is left
		Timeout:   startTimeout,
	}
	timeout := time.After(startTimeout)
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		res, err := client.Get("http://" + p.addr + path)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it answers %s", res.Status)
		}
		select {
		case <-p.exited:
			return fmt.Errorf("it ended: %s", p.cmd.ProcessState)
		case <-timeout:
			return fmt.Errorf("not ready after %s: %w", startTimeout, err)
		case <-poll.C:
		}
	}
}

// stop ends the emulator (SIGTERM by way of the watching shell, then SIGKILL)
// and waits until it is gone.
func (p *process) stop() {
	p.once.Do(func() {
		p.lock.Close()
		select {
		case <-p.exited:
		case <-time.After(stopTimeout):
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
		os.RemoveAll(p.dir)
	})
}

// FreePort returns a loopback port for a process that can't be asked where it
// listens: the emulators, with port 0, listen somewhere and don't say where. It
// returns no port twice, and none that another process which runs has got from it.
func FreePort(tb testing.TB) string {
	tb.Helper()
	port, err := freePort()
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

// The ports are below those that systems give to connections (Linux: from 32768,
// RFC 6335: from 49152). One of these could be taken before the process listens
// on it, even by the connection that asks whether it listens yet: a connection
// whose both ends are the same port is a legal one.
const (
	lowestPort  = 10_000
	highestPort = 32_000
	// blockSize is how many ports a process takes for itself at a time.
	blockSize = 100
)

// given is what this process may give. Another process may not give the same: seconds
// pass until an emulator listens. Of two with one port the Firestore emulator ends, but
// the Pub/Sub emulator goes on without listening, and the other one answers for it.
var given struct {
	sync.Mutex
	ports []int            // those of its last block that it has not given yet
	locks []net.PacketConn // they keep its blocks from other processes until it ends
}

func freePort() (string, error) {
	given.Lock()
	defer given.Unlock()
	for {
		if len(given.ports) == 0 {
			if err := takeBlock(); err != nil {
				return "", err
			}
		}
		port := strconv.Itoa(given.ports[0])
		given.ports = given.ports[1:]
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, port))
		if err == nil {
			return port, l.Close()
		}
	}
}

// takeBlock takes a block of ports that no process has. Whoever has it holds the block's
// first port for UDP, which no emulator uses. The system gives it back when the process
// ends, however it ends.
func takeBlock() error {
	var err error
	for _, block := range rand.Perm((highestPort - lowestPort) / blockSize) {
		first := lowestPort + block*blockSize
		var lock net.PacketConn
		lock, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp", net.JoinHostPort(host, strconv.Itoa(first)))
		if err != nil {
			continue
		}
		given.locks = append(given.locks, lock)
		for _, i := range rand.Perm(blockSize) {
			given.ports = append(given.ports, first+i)
		}
		return nil
	}
	return fmt.Errorf("no free ports from %d to %d: %w", lowestPort, highestPort, err)
}
