package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// fileAlert is one alert of a file: as GTI has it, or in a message of the relay.
type fileAlert struct {
	dtm.Alert
	Attributes map[string]string // of the message; nil when the alert stands alone
}

// openInput opens a file for reading; - is standard input.
func openInput(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	return os.Open(path)
}

// eachFileAlert calls f with every alert of a file: JSON lines, and JSON lists. A process
// that was killed, or that is just writing, leaves a last line without an end; it is left
// out. A file that begins otherwise holds no alerts at all, which is an error.
func eachFileAlert(path string, f func(fileAlert) error) error {
	file, err := openInput(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 1<<20)
	for number, begun := 1, false; ; number++ {
		first, emptyLines, err := skipSpace(r)
		number += emptyLines
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading %s: %w", path, err)
		case first == '[':
			return eachFromList(path, r, number, f)
		}
		line, ended, err := readLine(r)
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", path, number, err)
		}
		switch a, err := parseFileAlert(bytes.TrimSpace(line)); {
		case err == nil:
			if err := f(a); err != nil {
				return err
			}
		case !ended || !begun && first != '{':
			return noAlert(path, number, err)
		}
		begun = true
	}
}

func noAlert(path string, line int, err error) error {
	return fmt.Errorf("%s, line %d: %w: it must be an alert, or a message as the relay writes it, on a line of its own or in a JSON list", path, line, err)
}

// longestLine is more than an alert, or a message, has.
const longestLine = 64 << 20

// readLine reads to the end of a line, or of the file: then it has ended.
func readLine(r *bufio.Reader) (line []byte, ended bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case errors.Is(err, io.EOF):
			return line, true, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, false, err
		case len(line) > longestLine: // it may be an endless one
			return nil, false, fmt.Errorf("the line is longer than %d bytes, which no alert is", longestLine)
		}
	}
}

// skipSpace goes on to what JSON begins with, and returns it.
func skipSpace(r *bufio.Reader) (first byte, lines int, err error) {
	for {
		first, err = r.ReadByte()
		switch {
		case err != nil:
			return 0, lines, err
		case first == '\n':
			lines++
		case first != ' ' && first != '\t' && first != '\r':
			return first, lines, r.UnreadByte()
		}
	}
}

// eachFromList is eachFileAlert from where a list begins, in the line of that number. More
// lists, and alerts, may come after it.
func eachFromList(path string, r io.Reader, number int, f func(fileAlert) error) error {
	counted := &lineCounter{Reader: r}
	dec := json.NewDecoder(counted)
	listed := false
	fail := func(err error) error {
		if listed && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			err = errors.New("the list has no end")
		}
		rest, _ := io.ReadAll(dec.Buffered()) // it is in memory
		return noAlert(path, number+counted.lines-bytes.Count(rest, []byte{'\n'}), err)
	}
	for {
		more, first := dec.More(), [1]byte{}
		_, _ = dec.Buffered().Read(first[:]) // where there is more, it begins with that
		if listed && !more || !listed && (first[0] == '[' || !more && first[0] != ']' && first[0] != '}') {
			switch _, err := dec.Token(); { // a list begins or ends, or nothing is left
			case errors.Is(err, io.EOF) && !listed:
				return nil
			case err != nil:
				return fail(err)
			}
			listed = !listed
			continue
		}
		var element json.RawMessage
		switch err := dec.Decode(&element); {
		case errors.Is(err, io.ErrUnexpectedEOF) && !listed && first[0] == '{':
			return nil
		case err != nil:
			return fail(err)
		}
		a, err := parseFileAlert(element)
		if err != nil {
			return fail(err)
		}
		if err := f(a); err != nil {
			return err
		}
	}
}

// lineCounter counts the ends of lines.
type lineCounter struct {
	io.Reader

	lines int
}

func (c *lineCounter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.lines += bytes.Count(p[:n], []byte{'\n'})
	return n, err
}

// parseFileAlert reads an alert, a message, or an incident. Its error says that the
// text is none; an alert that can't be used is Invalid.
func parseFileAlert(text []byte) (fileAlert, error) {
	if !json.Valid(text) {
		return fileAlert{}, errors.New("not valid JSON")
	}
	if text[0] != '{' {
		return fileAlert{}, errors.New("not a JSON object")
	}
	var m struct {
		Attributes map[string]string `json:"attributes"`
		Data       json.RawMessage   `json:"data"`
		DataBase64 []byte            `json:"data_base64"`
	}
	// What an alert has by these names is of another type.
	isMessage := json.Unmarshal(text, &m) == nil && m.Attributes != nil
	if !isMessage {
		return fileAlert{Alert: dtm.ParseAlert(alertOf(text))}, nil
	}
	if m.Data == nil {
		m.Data = m.DataBase64
	}
	return fileAlert{Alert: dtm.ParseAlert(alertOf(m.Data)), Attributes: m.Attributes}, nil
}

// alertOf takes the alert out of an incident.
func alertOf(data []byte) []byte {
	var incident struct {
		Schema string          `json:"schema"`
		Alert  json.RawMessage `json:"alert"`
	}
	if json.Unmarshal(data, &incident) == nil && incident.Schema == "dtmrelay.incident/v1" && incident.Alert != nil {
		return incident.Alert
	}
	return data
}
