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

// eachFileAlert calls f with every alert of a file: JSON lines, or a JSON list. A
// process that was killed, or that is just writing, leaves a last line without an end;
// it is left out. A file that begins otherwise holds no alerts at all, which is an error.
func eachFileAlert(path string, f func(fileAlert) error) error {
	file, err := openInput(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 1<<20)
	first, emptyLines, err := skipSpace(r)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if first == '[' {
		return eachOfList(path, r, f)
	}
	for number := emptyLines + 1; ; number++ {
		line, err := r.ReadBytes('\n')
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			switch a, err := parseFileAlert(line); {
			case err != nil && (!ended || number == emptyLines+1 && first != '{'):
				return fmt.Errorf("%s, line %d: %w: each line must be an alert, or a message as the relay writes it", path, number, err)
			case err == nil:
				if err := f(a); err != nil {
					return err
				}
			}
		}
		if ended {
			return nil
		}
	}
}

// skipSpace goes on to what JSON begins with, and returns it; 0: there is nothing.
func skipSpace(r *bufio.Reader) (first byte, lines int, err error) {
	for {
		first, err = r.ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			return 0, lines, nil
		case err != nil:
			return 0, lines, err
		case first == '\n':
			lines++
		case first != ' ' && first != '\t' && first != '\r':
			return first, lines, r.UnreadByte()
		}
	}
}

func eachOfList(path string, r io.Reader, f func(fileAlert) error) error {
	dec := json.NewDecoder(r)
	_, err := dec.Token()
	for number := 1; err == nil && dec.More(); number++ {
		var element json.RawMessage
		if err = dec.Decode(&element); err != nil {
			break
		}
		a, parseErr := parseFileAlert(element)
		if parseErr != nil {
			return fmt.Errorf("%s, element %d: %w: each must be an alert, or a message as the relay writes it", path, number, parseErr)
		}
		if err := f(a); err != nil {
			return err
		}
	}
	if err == nil {
		_, err = dec.Token()
	}
	if err != nil {
		return fmt.Errorf("%s is not a JSON list of alerts: %w", path, err)
	}
	return nil
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
