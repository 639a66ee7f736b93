// Package module is what the commands share that examine the relay itself.
package module

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Main runs a command until it ends or is interrupted. An error is printed and becomes the
// exit code 1.
func Main(name string, run func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

// Root is the folder of the module.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("this runs in the relay's source: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Commit names the commit of the working tree, with "-dirty" after it when Go files have
// changed since.
func Commit(ctx context.Context) (string, error) {
	commit, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=10", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("git rev-parse (this runs in a clone of the relay's source): %w", err)
	}
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", "*.go", "go.mod", "go.sum").Output()
	if err != nil {
		return "", fmt.Errorf("git status: %w", err)
	}
	name := strings.TrimSpace(string(commit))
	if len(changed) > 0 {
		name += "-dirty"
	}
	return name, nil
}

// Command runs a program in a folder, for as long as the limit at most. It returns what
// the program printed, and the processor time that it and those took which it waited for.
func Command(ctx context.Context, limit time.Duration, dir, name string, args ...string) (out []byte, processor time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the go command, and tests that it has built
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	out, err = cmd.CombinedOutput()
	if cmd.ProcessState != nil {
		processor = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	return out, processor, err
}

// Tests are the functions of test files, by their folder. There are a hundred questions
// about a handful of folders, so each folder is read once.
type Tests map[string]map[string]bool

// Has reports whether the package in a folder has a test or benchmark of that name.
func (t Tests) Has(dir, name string) (bool, error) {
	if t[dir] == nil {
		names, err := testsIn(dir)
		if err != nil {
			return false, err
		}
		t[dir] = names
	}
	return t[dir][name], nil
}

func testsIn(dir string) (map[string]bool, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
	}
	return names, nil
}
