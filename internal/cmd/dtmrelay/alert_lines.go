package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/publish"
)

// alertLines publishes alerts as JSON lines on standard output or in a file, and what
// can't be one of them where the relay of this machine keeps its rejects.
type alertLines struct {
	*publish.Rejects
	out  *os.File
	name string

	mu  sync.Mutex
	err error
}

// openAlertLines adds to the file at path; an empty one stands for standard output.
func openAlertLines(path string, files localFiles) (*alertLines, error) {
	l := &alertLines{out: os.Stdout, name: "standard output"}
	if path != "" {
		file, err := openToAppend(path)
		if err != nil {
			return nil, err
		}
		l.out, l.name = file, path
	}
	var err error
	if l.Rejects, err = publish.OpenRejects(files.rejects); err != nil {
		return nil, errors.Join(err, l.closeOutput())
	}
	return l, nil
}

// openToAppend opens a file of alerts, for its owner alone, because they may hold
// passwords. A last line that has no end is ended, or is left out where it is the beginning
// of an alert: that one comes again, and would be lost to who reads the file line by line.
func openToAppend(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		// Some files can only be written to.
		return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	}
	if err := endLastLine(file); err != nil {
		return nil, errors.Join(fmt.Errorf("ending the last line of %s: %w", path, err), file.Close())
	}
	return file, nil
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

// Publish writes the messages and returns one error for each. After a failure it writes
// no more, as nobody may read on.
func (l *alertLines) Publish(_ context.Context, messages []message.Message) []error {
	errs := make([]error, len(messages))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = l.write(messages)
	}
	for i := range errs {
		errs[i] = l.err
	}
	return errs
}

func (l *alertLines) write(messages []message.Message) error {
	var lines bytes.Buffer
	for _, m := range messages {
		line, err := compactJSON(m.Data)
		if err != nil {
			return fmt.Errorf("writing alerts to %s: %w", l.name, err)
		}
		if isTerminal(l.out) {
			line = cleanJSON(line)
		}
		lines.Write(line)
		lines.WriteByte('\n')
	}
	_, err := io.Copy(l.out, &lines)
	if err == nil && l.out != os.Stdout {
		err = l.out.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing alerts to %s: %w", l.name, err)
	}
	return nil
}

// failure is why it stopped writing; nil when it didn't.
func (l *alertLines) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *alertLines) close() error { return errors.Join(l.Close(), l.closeOutput()) }

func (l *alertLines) closeOutput() error {
	if l.out == os.Stdout {
		return nil
	}
	return l.out.Close()
}
