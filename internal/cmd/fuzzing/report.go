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

// keepBytes and keepFiles bound what a target's inputs take in the source, those of earlier
// calls among them: go test runs them all.
const (
	keepBytes = 64 << 10
	keepFiles = 128
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
	found, err := filesIn(from)
	if errors.Is(err, fs.ErrNotExist) { // another machine has found them
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil { //nolint:gosec // it is source
		return err
	}
	kept, err := filesIn(to)
	if err != nil {
		return err
	}
	left, room := keepFiles-len(kept), int64(keepBytes)
	for _, f := range kept {
		room -= f.Size()
	}
	for _, f := range found {
		if slices.ContainsFunc(kept, func(k fs.FileInfo) bool { return k.Name() == f.Name() }) {
			continue
		}
		if left, room = left-1, room-f.Size(); left < 0 || room < 0 {
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

// filesIn are the files of a folder, the smallest first.
func filesIn(dir string) ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		files = append(files, info)
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return cmp.Compare(a.Size(), b.Size()) })
	return files, nil
}
