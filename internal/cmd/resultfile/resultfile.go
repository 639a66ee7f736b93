// Package resultfile keeps what long runs have found, a line of JSON each, so that a second
// call goes on where the first one was, and puts tables of it into documents.
package resultfile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// maxLine bounds a result: some have what a test printed.
const maxLine = 1 << 20

// Read reads the results in a file, without a line that the end of an earlier call has
// cut. A file that isn't there has none.
func Read[T any](path string) ([]T, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []T
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r T
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			all = append(all, r)
		}
	}
	return all, lines.Err()
}

// Append opens a file to add results to it, and makes it and its folder.
func Append(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	// The last line may be a cut one.
	if _, err := fmt.Fprintln(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Write writes all results anew, in place of what the file has.
func Write[T any](path string, all []T) error {
	var text bytes.Buffer
	lines := json.NewEncoder(&text)
	for _, r := range all {
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	// Whoever is killed in the midst loses nothing.
	next := path + ".next"
	if err := os.WriteFile(next, text.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// WriteTable puts a table into a document, between the lines "<!-- name: begin -->" and
// "<!-- name: end -->".
func WriteTable(document, name, table string) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->\n"
	before, rest, found := bytes.Cut(text, []byte(begin))
	_, after, ended := bytes.Cut(rest, []byte(end))
	if !found || !ended {
		return fmt.Errorf("%s has no place for the table: the lines %q and %q", document, begin, end)
	}
	return os.WriteFile(document, slices.Concat(before, []byte(begin+"\n"+table+"\n"+end), after), 0o600) //nolint:gosec // the document is the one that the user names
}
