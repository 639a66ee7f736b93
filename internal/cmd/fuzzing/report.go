package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// table is how long each target was fuzzed, and what came of it. There is one result for
// each.
func table(results []result) string {
	var b strings.Builder
	b.WriteString("| package | target | time | inputs | inputs that reach what no other reaches | broken | last at |\n|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		broken := "no"
		if r.Broken != "" {
			broken = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %v | %d | %d | %s | %s |\n", r.Dir, r.Name,
			time.Duration(r.Seconds*float64(time.Second)).Round(time.Second), r.Inputs, r.Corpus, broken, r.Commit)
	}
	return b.String()
}

// keepBytes and keepFiles bound what a target's inputs take in the source: go test runs
// them all.
const (
	keepBytes = 32 << 10
	keepFiles = 64
)

// keep copies inputs that were found into the source, where go test runs them: the
// smallest ones, as many as there is room for.
func keep(corpora string, results []result) error {
	for _, r := range results {
		if err := keepOf(filepath.Join(corpora, r.Dir, r.Name), filepath.Join(r.Dir, "testdata", "fuzz", r.Name)); err != nil {
			return err
		}
	}
	return nil
}

func keepOf(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) { // another machine has found them
		return nil
	}
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		files = append(files, info)
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return cmp.Compare(a.Size(), b.Size()) })
	if err := os.MkdirAll(to, 0o755); err != nil { //nolint:gosec // it is source
		return err
	}
	room := int64(keepBytes)
	for _, f := range files[:min(len(files), keepFiles)] {
		if room -= f.Size(); room < 0 {
			break
		}
		text, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), text, 0o644); err != nil { //nolint:gosec // it is source
			return err
		}
	}
	return nil
}
