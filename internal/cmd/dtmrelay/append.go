package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/ledger"
)

// openToAppend opens a file of alerts, for its owner alone, because they may hold
// passwords. A last line, or record of CSV, that has no end is ended, or is left out where
// it is the beginning of an alert: that one comes again, and would be lost to who reads the
// file line by line.
func openToAppend(path string, format outputFormat) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		// Some files can only be written to.
		return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	}
	if _, err := lockRegular(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	end := endLastLine
	if format == formatCSV {
		end = endLastRecord
	}
	if err := end(file); err != nil {
		return nil, errors.Join(fmt.Errorf("ending the last line of %s: %w", path, err), file.Close())
	}
	return file, nil
}

// openToReplace empties a file of alerts, or makes it, for its owner alone. It is this
// process's before it is emptied: another one may be writing to it.
func openToReplace(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	regular, err := lockRegular(file)
	if regular && err == nil {
		err = file.Truncate(0)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// lockRegular takes a file for this process, unless it is a pipe, a device or the like,
// which several may write to.
func lockRegular(file *os.File) (regular bool, err error) {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	if !lock(file) {
		return true, fmt.Errorf("%s is in use by another process: name another file", file.Name())
	}
	return true, nil
}

// reopened is openToAppend where the name of an open file leads to another file by now, or
// to none: logrotate and its like move files away. Else it is the file itself.
func reopened(file *os.File, path string, format outputFormat) (*os.File, error) {
	open, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if named, err := os.Stat(path); err == nil && os.SameFile(open, named) {
		return file, nil
	}
	next, err := openToAppend(path, format)
	if err != nil {
		return nil, err
	}
	return next, file.Close()
}

func endLastLine(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return err
	}
	const longest = 64 << 20 // of an alert
	size := info.Size()
	tail := make([]byte, min(size, longest))
	if _, err := file.ReadAt(tail, size-int64(len(tail))); err != nil {
		return err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	last := tail[end:]
	switch {
	case len(last) == 0:
		return nil
	case end == 0 && size > longest: // no line of ours
	case last[0] == '{' && !json.Valid(last):
		return file.Truncate(size - int64(len(last)))
	}
	_, err = file.WriteString("\n")
	return err
}

// endLastRecord is endLastLine for CSV, where a line break can be in the middle of a
// record: only from the beginning on it can be told.
func endLastRecord(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return err
	}
	end, err := endOfRecords(bufio.NewReaderSize(file, 1<<16))
	if err != nil || end == info.Size() {
		return err
	}
	begin := make([]byte, min(info.Size()-end, 100))
	if _, err := file.ReadAt(begin, end); err != nil {
		return err
	}
	if isPollRecord(string(begin)) {
		return file.Truncate(end)
	}
	_, err = file.WriteString("\r\n")
	return err
}

// endOfRecords is the offset after the last record of CSV that has an end.
func endOfRecords(r io.ByteReader) (end int64, err error) {
	quoted := false
	for at := int64(1); ; at++ {
		switch c, err := r.ReadByte(); {
		case errors.Is(err, io.EOF):
			return end, nil
		case err != nil:
			return 0, err
		case c == '"':
			quoted = !quoted
		case c == '\n' && !quoted:
			end = at
		}
	}
}

// isPollRecord reports whether a text is the beginning of a record that poll writes: of
// another file nothing is to be cut off.
func isPollRecord(text string) bool {
	return slices.ContainsFunc([]string{"event", ledger.Created, ledger.Updated, ledger.StatusChanged}, func(first string) bool {
		return strings.HasPrefix(text, first+",") || strings.HasPrefix(first+",", text)
	})
}
