package publish

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"dtmrelay.internal/dtmrelay/internal/message"
)

// JSONL writes each message as one line {"attributes":{…},"data":…} of a file.
// The data is the JSON that came, less the white space between its tokens; data
// that is not JSON in valid UTF-8 is in "data_base64" instead, so that a line
// never loses a byte. It is safe for concurrent use within one process.
type JSONL struct {
	*Rejects
	alerts *lines
}

// Rejects is the file of rejects of a JSONL.
type Rejects struct{ lines *lines }

// OpenRejects opens the file as OpenJSONL does, without one for alerts.
func OpenRejects(path string) (*Rejects, error) {
	lines, err := openLines(path)
	if err != nil {
		return nil, err
	}
	return &Rejects{lines}, nil
}

// OpenJSONL opens both files for appending, and creates them readable for their
// owner alone, because alerts may hold passwords. A last line that a kill left
// incomplete is cut off: its message was not acknowledged.
func OpenJSONL(alertsPath, rejectsPath string) (*JSONL, error) {
	alerts, err := openLines(alertsPath)
	if err != nil {
		return nil, err
	}
	rejects, err := OpenRejects(rejectsPath)
	if err != nil {
		return nil, errors.Join(err, alerts.file.Close())
	}
	return &JSONL{Rejects: rejects, alerts: alerts}, nil
}

// Publish appends the messages to the file of alerts and returns one error for
// each: nil is written and synced to the disk. All or none are written.
func (j *JSONL) Publish(ctx context.Context, messages []message.Message) []error {
	return j.alerts.append(ctx, messages)
}

// Reject is JSONL's Publish to the file of rejects.
func (r *Rejects) Reject(ctx context.Context, messages []message.Message) []error {
	return r.lines.append(ctx, messages)
}

// Close closes the file of rejects.
func (r *Rejects) Close() error { return r.lines.file.Close() }

// Close closes both files.
func (j *JSONL) Close() error {
	return errors.Join(j.alerts.file.Close(), j.Rejects.Close())
}

// lineStart is how every line begins.
const lineStart = `{"attributes":{`

type lines struct {
	mu   sync.Mutex
	file *os.File
	size int64 // of whole, synced lines
	buf  bytes.Buffer
}

func openLines(path string) (*lines, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &lines{file: file}
	if l.size, err = endOfLastLine(file); err == nil {
		err = file.Truncate(l.size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), file.Close())
	}
	return l, nil
}

// endOfLastLine is the offset after the last line feed. What follows it must be
// the beginning of a line of ours, so that a wrong path doesn't cost a file.
func endOfLastLine(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("not a regular file")
	}
	end := info.Size()
	chunk := make([]byte, 64<<10)
	for end > 0 {
		start := max(0, end-int64(len(chunk)))
		part := chunk[:end-start]
		if _, err := file.ReadAt(part, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			end = start + int64(i) + 1
			break
		}
		end = start
	}
	torn := make([]byte, min(info.Size()-end, int64(len(lineStart))))
	if _, err := file.ReadAt(torn, end); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if string(torn) != lineStart[:len(torn)] {
		return 0, errors.New("its last line has no end and was not written by the relay: not touching this file")
	}
	return end, nil
}

func (l *lines) append(ctx context.Context, messages []message.Message) []error {
	errs := make([]error, len(messages))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.write(ctx, messages); err != nil {
		fill(errs, err)
	}
	return errs
}

func (l *lines) write(ctx context.Context, messages []message.Message) error {
	if ctx.Err() != nil {
		return fmt.Errorf("writing to %s: %w", l.file.Name(), context.Cause(ctx))
	}
	l.buf.Reset()
	for _, m := range messages {
		if err := appendLine(&l.buf, m); err != nil {
			return fmt.Errorf("writing to %s: %w", l.file.Name(), err)
		}
	}
	_, err := l.file.Write(l.buf.Bytes())
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		// What was written of it would make the next line unreadable.
		return errors.Join(err, l.file.Truncate(l.size))
	}
	l.size += int64(l.buf.Len())
	return nil
}

func appendLine(buf *bytes.Buffer, m message.Message) error {
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	buf.WriteString(`{"attributes":`)
	attributes := m.Attributes
	if attributes == nil {
		attributes = map[string]string{}
	}
	if err := enc.Encode(attributes); err != nil {
		return err
	}
	buf.Truncate(buf.Len() - 1) // the encoder's line feed
	start := buf.Len()
	if utf8.Valid(m.Data) {
		buf.WriteString(`,"data":`)
		if json.Compact(buf, m.Data) == nil {
			buf.WriteString("}\n")
			return nil
		}
		buf.Truncate(start)
	}
	buf.WriteString(`,"data_base64":"`)
	buf.Write(base64.StdEncoding.AppendEncode(buf.AvailableBuffer(), m.Data))
	buf.WriteString("\"}\n")
	return nil
}
