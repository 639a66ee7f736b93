package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/publish"
)

// alertLines publishes alerts on standard output or in a file, and what can't be there
// where the relay of this machine keeps its rejects.
type alertLines struct {
	*publish.Rejects
	out       *alertPrinter
	incidents bool // the messages are incidents

	mu      sync.Mutex
	written int
	err     error
}

// openAlertLines adds to the file at path; an empty one stands for standard output.
func openAlertLines(format outputFormat, path string, incidents bool, files localFiles) (*alertLines, error) {
	out, err := openPrinter(format, path)
	if err != nil {
		return nil, err
	}
	l := &alertLines{out: out, incidents: incidents}
	if l.Rejects, err = publish.OpenRejects(files.rejects); err != nil {
		return nil, errors.Join(err, out.close())
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

func (l *alertLines) write(messages []message.Message) (err error) {
	defer func() {
		if err != nil {
			name := l.out.path
			if name == "" {
				name = "standard output"
			}
			err = fmt.Errorf("writing alerts to %s: %w", name, err)
		}
	}()
	for _, m := range messages {
		line, alert, err := lineOf(m, l.incidents, l.incidents)
		if err != nil {
			return err
		}
		if err := l.out.alert(line, alert, m.Attributes); err != nil {
			return err
		}
		l.written++
	}
	rows := len(l.out.rows)
	if err := l.out.printRows(); err != nil {
		l.written -= rows
		return err
	}
	if l.out.path != "" {
		return l.out.w.(*os.File).Sync()
	}
	return nil
}

// ended is how many alerts it has written, and why it stopped; nil when it didn't.
func (l *alertLines) ended() (written int, failure error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written, l.err
}

func (l *alertLines) close() error {
	var counted error
	if _, failure := l.ended(); failure == nil {
		counted = l.out.end()
	}
	return errors.Join(counted, l.Close(), l.out.close())
}
