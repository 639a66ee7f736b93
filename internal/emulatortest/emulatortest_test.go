package emulatortest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestStartAndStop(t *testing.T) {
	for _, e := range []emulator{firestore, pubsub} {
		t.Run(e.name, func(t *testing.T) {
			p, err := e.start()
			check(t, err)
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()

			p.stop()
			if _, err := net.Dial("tcp", p.addr); err == nil {
				t.Errorf("%s still listens after stop", p.addr)
			}
			if _, err := os.Stat(p.dir); !os.IsNotExist(err) {
				t.Errorf("stop did not delete %s", p.dir)
			}
		})
	}
}

func TestSharedIsOne(t *testing.T) {
	t.Setenv(firestore.hostVar, "")
	a, b := SharedFirestore(t), SharedFirestore(t)
	if a != b {
		t.Errorf("two shared emulators: %s and %s", a, b)
	}
}

func TestRunningEmulatorIsUsed(t *testing.T) {
	t.Setenv(firestore.hostVar, "127.0.0.1:1")
	t.Setenv(pubsub.hostVar, "127.0.0.1:2")
	for name, got := range map[string]string{
		"127.0.0.1:1": Firestore(t) + " " + SharedFirestore(t),
		"127.0.0.1:2": PubSub(t) + " " + SharedPubSub(t),
	} {
		if want := name + " " + name; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestEndOfItselfIsNoticed(t *testing.T) {
	p, err := launch([]string{"false"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if err := p.ready("/"); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("ready: %v, want the exit status", err)
	}
}

// outcome is a testing.TB that notes how a test ended.
type outcome struct {
	testing.TB
	how string
}

func (o *outcome) Helper()      {}
func (o *outcome) Skip(...any)  { o.how = "skipped" }
func (o *outcome) Fatal(...any) { o.how = "failed" }

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := firestore.find()
	for _, tc := range []struct{ require, want string }{{"", "skipped"}, {"1", "failed"}} {
		t.Setenv("REQUIRE_EMULATORS", tc.require)
		o := &outcome{TB: t}
		check(o, err)
		if o.how != tc.want {
			t.Errorf("REQUIRE_EMULATORS=%q: %s, want %s (%v)", tc.require, o.how, tc.want, err)
		}
	}
}

func TestFreePort(t *testing.T) {
	given := map[string]bool{}
	for range blockSize + 1 { // from two blocks at least
		port := FreePort(t)
		if given[port] {
			t.Errorf("port %s is given to two", port)
		}
		given[port] = true
		// Linux gives the ports from here on to connections.
		if n, err := strconv.Atoi(port); err != nil || n >= 32768 {
			t.Errorf("port %s may be a connection's", port)
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}

// The other process is this test once more.
func TestPortsOfTwoProcesses(t *testing.T) {
	const n, other = blockSize + 1, "EMULATORTEST_PORTS"
	if os.Getenv(other) != "" {
		for range n {
			fmt.Println("port", FreePort(t))
		}
		fmt.Println("port")
		_, _ = io.Copy(io.Discard, os.Stdin) // its ports are its own while it runs
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), other+"=1")
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	others := map[string]bool{}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "port" {
		others[lines.Text()] = true
	}
	if len(others) != n {
		t.Errorf("the other process got %d ports", len(others))
	}
	for range n {
		if port := FreePort(t); others["port "+port] {
			t.Errorf("port %s is given to two processes", port)
		}
	}
	end.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestEndsWithItsOwner(t *testing.T) {
	p, err := launch([]string{"sh", "-c", "exec sleep 600"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	p.lock.Close() // as the end of the owner does, however it ends
	<-p.exited
	if got, want := p.cmd.ProcessState.String(), "signal: terminated"; got != want {
		t.Errorf("it ended by %q, want %q", got, want)
	}
}

func TestNewest(t *testing.T) {
	got := newest([]string{"/a9/e-0.9.20-all.jar", "/a/e-0.10.1-all.jar", "/a/e-0.8.99-all.jar"})
	if want := "/a/e-0.10.1-all.jar"; got != want {
		t.Errorf("newest: %s, want %s", got, want)
	}
}
