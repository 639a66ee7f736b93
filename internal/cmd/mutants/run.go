package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/cmd/internal/module"
)

// verdict is what became of a mutant.
type verdict string

const (
	caught       verdict = "caught"
	survived     verdict = "SURVIVED"
	hung         verdict = "HUNG"             // a test that hangs says nothing about what it tests
	uncompilable verdict = "DOES NOT COMPILE" // a fault that the compiler finds needs no test
	outdated     verdict = "DOES NOT APPLY"
	broken       verdict = "TEST FAILS WITHOUT IT"
)

type result struct {
	mutant
	verdict   verdict
	detail    string
	processor time.Duration // that the compiler and the test with the fault took
}

const (
	// testLimit ends a test that a fault makes wait for ever. Tests that catch mutants take
	// seconds.
	testLimit = time.Minute
	// commandLimit is for the compiler, too.
	commandLimit = 10 * time.Minute
)

// runner runs mutants against the module at root. What it writes is in work.
type runner struct {
	root, work string

	mu    sync.Mutex
	clean map[string]func() error // of a test, by its package and name: how it ends without a fault
	built map[string]func() error // of a package: how compiling its tests without a fault ended
}

func newRunner(root, work string) *runner {
	return &runner{root: root, work: work, clean: map[string]func() error{}, built: map[string]func() error{}}
}

// run tries one mutant.
func (r *runner) run(ctx context.Context, m mutant) result {
	if err := r.cleanRun(ctx, m)(); err != nil {
		return result{mutant: m, verdict: broken, detail: err.Error()}
	}
	source, err := m.apply(r.root)
	if err != nil {
		return result{mutant: m, verdict: outdated, detail: err.Error()}
	}
	binary := filepath.Join(r.work, m.ID+".test")
	defer func() { _ = os.Remove(binary) }() // it may be 50 MB large
	overlay, err := r.writeOverlay(m, source)
	if err != nil {
		return result{mutant: m, verdict: outdated, detail: err.Error()}
	}
	compiling, err := r.compile(ctx, m.Dir, binary, "-overlay", overlay)
	if err != nil {
		return result{mutant: m, verdict: uncompilable, detail: err.Error()}
	}
	out, testing, failure := r.test(ctx, m, binary)
	res := result{mutant: m, verdict: caught, processor: compiling + testing}
	switch {
	case failure == nil:
		res.verdict = survived
	case bytes.Contains(out, []byte("panic: test timed out")) || ctx.Err() != nil:
		res.verdict, res.detail = hung, fmt.Sprintf("its test was ended after %v", testLimit)
	}
	return res
}

// writeOverlay writes what tells the go command to read source in place of m's file.
func (r *runner) writeOverlay(m mutant, source []byte) (path string, err error) {
	mutated := filepath.Join(r.work, m.ID+".go")
	if err := os.WriteFile(mutated, source, 0o600); err != nil {
		return "", err
	}
	replace := map[string]string{filepath.Join(r.root, filepath.FromSlash(m.File)): mutated}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(r.work, m.ID+".json")
	return path, os.WriteFile(path, raw, 0o600)
}

// cleanRun runs a mutant's test without the fault, once for all mutants that it catches.
func (r *runner) cleanRun(ctx context.Context, m mutant) func() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	binary := filepath.Join(r.work, strings.ReplaceAll(m.Dir, "/", "-")+".test")
	if r.built[m.Dir] == nil {
		r.built[m.Dir] = sync.OnceValue(func() error {
			_, err := r.compile(ctx, m.Dir, binary)
			return err
		})
	}
	build, name := r.built[m.Dir], m.Dir+" "+m.Test
	if r.clean[name] == nil {
		r.clean[name] = sync.OnceValue(func() error {
			if err := build(); err != nil {
				return err
			}
			out, _, err := r.test(ctx, m, binary)
			switch {
			case err != nil:
				return fmt.Errorf("%w\n%s", err, out)
			case !bytes.Contains(out, []byte("--- PASS: "+m.Test+" (")):
				return fmt.Errorf("there is no test %s, or it is skipped", m.Test)
			}
			return nil
		})
	}
	return r.clean[name]
}

func (r *runner) compile(ctx context.Context, dir, binary string, flags ...string) (processor time.Duration, err error) {
	// Without what debuggers read, which would take the linker as long as all else.
	args := append([]string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary}, flags...)
	out, processor, err := module.Command(ctx, commandLimit, r.root, "go", append(args, "./"+dir)...)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return processor, err
}

// test runs a mutant's test in its package's folder, as go test does.
func (r *runner) test(ctx context.Context, m mutant, binary string) (out []byte, processor time.Duration, err error) {
	// Each level of a name is a pattern of its own.
	pattern := "^" + strings.ReplaceAll(m.Test, "/", "$/^") + "$"
	return module.Command(ctx, commandLimit, filepath.Join(r.root, filepath.FromSlash(m.Dir)), binary,
		"-test.v", "-test.paniconexit0", "-test.run", pattern, "-test.timeout", testLimit.String())
}
