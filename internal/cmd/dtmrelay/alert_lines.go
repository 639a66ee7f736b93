package main

import (
	"bytes"
	"context"
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

	mu      sync.Mutex
	written int
	err     error
}

// openAlertLines adds to the file at path; an empty one stands for standard output.
func openAlertLines(path string, files localFiles) (*alertLines, error) {
	l := &alertLines{out: os.Stdout, name: "standard output"}
	if path != "" {
		file, err := openToAppend(path, formatJSONL)
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
	l.written += len(messages)
	return nil
}

// ended is how many alerts it has written, and why it stopped; nil when it didn't.
func (l *alertLines) ended() (written int, failure error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written, l.err
}

func (l *alertLines) close() error { return errors.Join(l.Close(), l.closeOutput()) }

func (l *alertLines) closeOutput() error {
	if l.out == os.Stdout {
		return nil
	}
	return l.out.Close()
}
