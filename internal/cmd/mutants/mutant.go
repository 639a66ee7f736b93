package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// mutant is a planted fault: a piece of a file of the source, and what stands in its place.
type mutant struct {
	ID     string // the name of its file
	File   string // from the module's root
	Test   string // that catches it, as -run takes it
	Dir    string // of that test's package, from the module's root
	Fault  string
	Breaks string // what would follow, in the words of the promise
	Old    string
	New    string
}

// mutantFiles are where the mutants are kept, from the module's root.
const mutantFiles = "internal/cmd/mutants/testdata/mutants/*.txtar"

// readMutants returns all mutants, sorted by their ids.
func readMutants(root string) ([]mutant, error) {
	paths, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(mutantFiles)))
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m, err := parseMutant(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		m.ID = strings.TrimSuffix(filepath.Base(path), ".txtar")
		all = append(all, m)
	}
	return all, nil
}

func parseMutant(raw []byte) (mutant, error) {
	archive := txtar.Parse(raw)
	var m mutant
	fields := map[string]*string{"file": &m.File, "dir": &m.Dir, "test": &m.Test, "fault": &m.Fault, "breaks": &m.Breaks}
	for line := range strings.Lines(string(archive.Comment)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		field := fields[name]
		if field == nil {
			return m, fmt.Errorf("the line %q is none of file, dir, test, fault and breaks, or is there twice", line)
		}
		*field = value
		delete(fields, name)
	}
	if len(fields) > 0 || len(archive.Files) != 2 || archive.Files[0].Name != "old" || archive.Files[1].Name != "new" {
		return m, errors.New("it has not all of file, dir, test, fault, breaks, old and new, in this order")
	}
	m.Old = string(bytes.TrimSuffix(archive.Files[0].Data, []byte("\n")))
	m.New = string(bytes.TrimSuffix(archive.Files[1].Data, []byte("\n")))
	return m, nil
}

// apply returns the file with the fault in it.
func (m mutant) apply(root string) ([]byte, error) {
	source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.File)))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(source, []byte(m.Old)); n != 1 || m.Old == "" {
		return nil, fmt.Errorf("%s has the old text %d times", m.File, n)
	}
	return bytes.Replace(source, []byte(m.Old), []byte(m.New), 1), nil
}
