package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

func TestMain(m *testing.M) {
	testscript.Main(waiting{m}, map[string]func(){"dtmrelay": main})
}

// keptVariables are those of the shell that the tests have, too.
var keptVariables = []string{"PATH", "HOME", "TMPDIR", "TZ", "GORACE", "REQUIRE_EMULATORS", "PUBSUB_EMULATOR_HOST", examplesChild}

// waiting runs more tests side by side than there are processors: most of them wait for a
// program, and the program for its signal or its time.
type waiting struct{ *testing.M }

func (w waiting) Run() int {
	// A shell in which somebody has configured a relay configures none of the tests.
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if slices.Contains(keptVariables, name) || strings.HasPrefix(name, "CLOUDSDK_") {
			continue
		}
		if err := os.Unsetenv(name); err != nil {
			panic(err)
		}
	}
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(max(6, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	return w.M.Run()
}

// TestScripts runs the scripts of testdata/scripts against the real program.
// Besides testscript's own commands they have:
//
//	exits CODE PROGRAM ARG…              runs to the end and checks the exit code
//	start NAME REGEXP VAR=VALUE… PROGRAM ARG…
//	                                     runs beside the script; goes on when the standard error
//	                                     has the expression, whose group becomes $NAME
//	end NAME SIGNAL CODE                 sends INT, TERM or KILL, and checks the exit code; the
//	                                     output is in NAME.out and NAME.err
//	http STATUS METHOD URL [FILE]        sends the file; the answer's body is the standard output
//	find NAME REGEXP FILE                sets $NAME to the expression's group
//	gone DATABASE                        no relay has it open any more; an address would not tell,
//	                                     since another program may have got the same port
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "scripts"),
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			if race := os.Getenv("GORACE"); race != "" {
				e.Vars = append(e.Vars, "GORACE="+race)
			}
			running := processes{}
			e.Values[processes{}.key()] = running
			e.Defer(running.kill)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": cmdExits, "start": cmdStart, "end": cmdEnd, "http": cmdHTTP, "find": cmdFind, "gone": cmdGone,
		},
	})
}

func want(ts *testscript.TestScript, neg bool, args []string, least int) {
	if neg || len(args) < least {
		ts.Fatalf("usage: see TestScripts")
	}
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("the exit code is %d, not %s", code, args[0])
	}
}

// processes are those that were started and not ended yet.
type processes map[string]*process

type process struct {
	cmd      *exec.Cmd
	out, err output
	ended    chan struct{}
}

func (processes) key() any { return "processes" }

func running(ts *testscript.TestScript) processes {
	p, _ := ts.Value(processes{}.key()).(processes)
	return p
}

func (p processes) kill() {
	for _, one := range p {
		_ = one.cmd.Process.Kill()
		<-one.ended
	}
}

// output keeps what a process writes, and tells who waits for an expression.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3)
	name, expression, args := args[0], regexp.MustCompile(args[1]), args[2:]
	env := []string{"PATH=" + ts.Getenv("PATH"), "TMPDIR=" + ts.Getenv("TMPDIR")}
	isCommand := func(arg string) bool { return !strings.Contains(arg, "=") }
	program := slices.IndexFunc(args, isCommand)
	env, args = append(env, args[:program]...), args[program:]

	// The test's own PATH has the program too.
	path, err := exec.LookPath(args[0])
	ts.Check(err)
	p := &process{cmd: exec.Command(path, args[1:]...)}
	p.err.changed, p.ended = make(chan struct{}, 1), make(chan struct{})
	p.cmd.Env, p.cmd.Dir = env, ts.MkAbs(".")
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	ts.Check(p.cmd.Start())
	running(ts)[name] = p
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	for hasEnded := false; ; {
		if found := expression.FindStringSubmatch(p.err.String()); found != nil {
			ts.Setenv(name, found[len(found)-1])
			return
		}
		if hasEnded {
			ts.Fatalf("%s has ended, with %s, and has not said %s:\n%s", name, p.cmd.ProcessState, expression, p.err.String())
		}
		select {
		case <-p.err.changed:
		case <-p.ended:
			hasEnded = true
		}
	}
}

func cmdEnd(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3)
	p := running(ts)[args[0]]
	delete(running(ts), args[0])
	signals := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}
	if err := p.cmd.Process.Signal(signals[args[1]]); !errors.Is(err, os.ErrProcessDone) {
		ts.Check(err)
	}
	<-p.ended
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".out"), []byte(p.out.String()), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".err"), []byte(p.err.String()), 0o600))
	if code := strconv.Itoa(p.cmd.ProcessState.ExitCode()); code != args[2] {
		ts.Fatalf("the exit code is %s, not %s:\n%s", code, args[2], p.err.String())
	}
}

func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3)
	var sent []byte
	if len(args) > 3 {
		sent = []byte(ts.ReadFile(args[3]))
	}
	req, err := http.NewRequestWithContext(context.Background(), args[1], args[2], bytes.NewReader(sent))
	ts.Check(err)
	resp, err := http.DefaultTransport.RoundTrip(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	_, _ = ts.Stdout().Write(body)
	if strconv.Itoa(resp.StatusCode) != args[0] {
		ts.Fatalf("the status is %s, not %s:\n%s", resp.Status, args[0], body)
	}
}

func cmdFind(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3)
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile(args[2]))
	if len(found) < 2 {
		ts.Fatalf("%s does not have %s", args[2], args[1])
	}
	ts.Setenv(args[0], found[1])
}

func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1)
	path := ts.MkAbs(args[0])
	_, err := os.Stat(path) // opening would make it
	ts.Check(err)
	for range 60 { // each time it waits a second for the lock
		store, err := bolt.Open(path)
		if errors.Is(err, bolt.ErrInUse) {
			continue
		}
		ts.Check(err)
		ts.Check(store.Close())
		return
	}
	ts.Fatalf("a process still has %s", args[0])
}
