package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/ledger"
)

// fingerprint tells alerts apart by their bytes, less the white space between
// JSON's tokens, which the file doesn't keep.
type fingerprint [sha256.Size]byte

func fingerprintOf(data []byte) fingerprint {
	var compact bytes.Buffer
	if json.Compact(&compact, data) == nil {
		data = compact.Bytes()
	}
	return sha256.Sum256(data)
}

// class is what the table counts by.
type class struct{ alertType, severity string }

type counts struct{ published, repeated int }

// maskedSecret is a password as GTI has it and as it was relayed.
type maskedSecret struct{ alertID, password string }

// hiddenPassword is what GTI shows of a password whose domain isn't verified.
const hiddenPassword = "********"

// passwordOf is the password in an alert of leaked credentials; empty when there is none.
func passwordOf(alert []byte) string {
	var a struct {
		Doc struct {
			ServiceAccount struct {
				Password struct {
					PlainText string `json:"plain_text"`
				} `json:"password"`
			} `json:"service_account"`
		} `json:"doc"`
	}
	if !bytes.Contains(alert, []byte("plain_text")) || json.Unmarshal(alert, &a) != nil {
		return ""
	}
	return a.Doc.ServiceAccount.Password.PlainText
}

// content is what a file of relayed alerts holds.
type content struct {
	lines    int // all of them
	changes  int // of these, those of status changes; what follows is about the others
	versions int // different ones, by dedupe_key
	lost     int // alerts of the simulator that are not in it
	classes  map[class]counts
	masked   int               // of the different ones, those with something masked
	clear    int               // lines with a password that isn't
	example  maskedSecret      // the first
	first    []json.RawMessage // the first three
}

func (c content) repeated() int { return c.lines - c.changes - c.versions }

const showFirst = 3

// readAlerts reads the file, which may not exist yet, and looks the alerts up in it.
func readAlerts(path string, alerts []fingerprint) (content, error) {
	c := content{classes: map[class]counts{}}
	found := make(map[fingerprint]bool, len(alerts))
	versions := make(map[string]bool, len(alerts))
	err := eachLine(path, 0, func(text []byte) error {
		var line struct {
			Attributes struct {
				AlertID   string `json:"alert_id"`
				AlertType string `json:"alert_type"`
				Severity  string `json:"severity"`
				Event     string `json:"event"`
				Redacted  string `json:"redacted"`
				DedupeKey string `json:"dedupe_key"`
			} `json:"attributes"`
			Data       json.RawMessage `json:"data"`
			DataBase64 []byte          `json:"data_base64"`
		}
		if err := json.Unmarshal(text, &line); err != nil {
			return fmt.Errorf("%s, line %d: %w", path, c.lines+1, err)
		}
		c.lines++
		if line.Attributes.Event == ledger.StatusChanged {
			c.changes++
			return nil
		}
		data := line.DataBase64
		if line.Data != nil {
			data = line.Data
		}
		found[fingerprintOf(data)] = true
		if len(c.first) < showFirst {
			c.first = append(c.first, line.Data)
		}
		password := passwordOf(data)
		masked := strings.HasPrefix(password, "[redacted:")
		if password != "" && password != hiddenPassword && !masked {
			c.clear++
		}
		if masked && c.example.password == "" {
			c.example = maskedSecret{line.Attributes.AlertID, password}
		}
		key := class{line.Attributes.AlertType, line.Attributes.Severity}
		n := c.classes[key]
		if versions[line.Attributes.DedupeKey] {
			n.repeated++
		} else {
			versions[line.Attributes.DedupeKey] = true
			n.published++
			if line.Attributes.Redacted != "" {
				c.masked++
			}
		}
		c.classes[key] = n
		return nil
	})
	if err != nil {
		return content{}, err
	}
	c.versions = len(versions)
	for _, a := range alerts {
		if !found[a] {
			c.lost++
		}
	}
	return c, nil
}

// eachLine calls f with every whole line after an offset. A kill can leave a last
// one without an end, which was not acknowledged.
func eachLine(path string, offset int64, f func(line []byte) error) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	for r := bufio.NewReaderSize(file, 1<<20); ; {
		line, err := r.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := f(line); err != nil {
			return err
		}
	}
}

// lineCount is how many whole lines there are up to an offset, the end of the last one.
type lineCount struct {
	count  int
	offset int64
}

// countLines counts the whole lines of a file after an offset.
func countLines(path string, offset int64) (lineCount, error) {
	n := lineCount{offset: offset}
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return n, err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return n, err
	}
	chunk := make([]byte, 256<<10)
	for at := offset; ; {
		read, err := file.Read(chunk)
		if last := bytes.LastIndexByte(chunk[:read], '\n'); last >= 0 {
			n.count += bytes.Count(chunk[:read], []byte{'\n'})
			n.offset = at + int64(last) + 1
		}
		at += int64(read)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
