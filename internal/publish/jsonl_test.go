package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/message"
)

func openJSONL(t *testing.T, dir string) *JSONL {
	t.Helper()
	j, err := OpenJSONL(filepath.Join(dir, "alerts.jsonl"), filepath.Join(dir, "rejects.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestALineNeverLosesAByte(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"compacted", "{ \"a\" :\n[1, 2 ]}", `"data":{"a":[1,2]}`},
		{"strings as they came", `{"a":"\u003cb\/>&` + "\u2028é" + `"}`, `"data":{"a":"\u003cb\/>&` + "\u2028é" + `"}`},
		{"numbers as they came", `[1.50e+07,9007199254740993]`, `"data":[1.50e+07,9007199254740993]`},
		{"not JSON", `{"a":`, `"data_base64":"eyJhIjo="`},
		{"two values", `1 2`, `"data_base64":"MSAy"`},
		{"invalid UTF-8", "\"\xff\"", `"data_base64":"Iv8i"`},
		{"nothing", "", `"data_base64":""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			j := openJSONL(t, dir)
			m := message.Message{Data: []byte(c.data), Attributes: map[string]string{"b": "<&>", "a": "\n"}}
			if err := errors.Join(j.Publish(t.Context(), []message.Message{m})...); err != nil {
				t.Fatal(err)
			}
			got := read(t, filepath.Join(dir, "alerts.jsonl"))
			if want := `{"attributes":{"a":"\n","b":"<&>"},` + c.want + "}\n"; got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			if !json.Valid([]byte(got)) {
				t.Error("not JSON")
			}
		})
	}
}

func TestAlertsAndRejectsAppendToTheirFiles(t *testing.T) {
	dir := t.TempDir()
	line := func(data string) message.Message { return message.Message{Data: []byte(data)} }
	for i := range 2 {
		j := openJSONL(t, dir)
		errs := append(j.Publish(t.Context(), []message.Message{line("1"), line("2")}), j.Reject(t.Context(), []message.Message{line("3")})...)
		if err := errors.Join(errs...); err != nil || len(errs) != 3 {
			t.Fatalf("opened %d times: %v", i+1, errs)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	once := `{"attributes":{},"data":1}` + "\n" + `{"attributes":{},"data":2}` + "\n"
	if diff := cmp.Diff(once+once, read(t, filepath.Join(dir, "alerts.jsonl"))); diff != "" {
		t.Error(diff)
	}
	rejects := `{"attributes":{},"data":3}` + "\n"
	if diff := cmp.Diff(rejects+rejects, read(t, filepath.Join(dir, "rejects.jsonl"))); diff != "" {
		t.Error(diff)
	}
}

func TestATornLineIsCutOff(t *testing.T) {
	whole := `{"attributes":{"n":"1"},"data":{}}` + "\n"
	long := `{"attributes":{"n":"2"},"data":"` + strings.Repeat("x", 200<<10)
	for name, before := range map[string]string{
		"nothing torn":          whole,
		"empty file":            "",
		"torn early":            whole + `{"attr`,
		"torn late":             whole + whole[:len(whole)-1],
		"torn and nothing else": long,
		"long, over chunks":     whole + long,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "alerts.jsonl")
			if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
			j := openJSONL(t, dir)
			if err := errors.Join(j.Publish(t.Context(), []message.Message{{Data: []byte("7")}})...); err != nil {
				t.Fatal(err)
			}
			want := before[:strings.LastIndex(before, "\n")+1] + `{"attributes":{},"data":7}` + "\n"
			if got := read(t, path); got != want {
				t.Errorf("got %.200q\nwant %.200q", got, want)
			}
		})
	}
}

func TestAFileOfSomethingElseIsLeftAlone(t *testing.T) {
	for name, content := range map[string]string{
		"prose":           "Dear diary",
		"its last line":   `{"attributes":{},"data":7}` + "\nx",
		"some other JSON": `{"attributes":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenJSONL(path, path+".rejects"); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("as the file of alerts: %v", err)
			}
			if _, err := OpenJSONL(path+".alerts", path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("as the file of rejects: %v", err)
			}
			if got := read(t, path); got != content {
				t.Errorf("the file became %q", got)
			}
		})
	}
}

func TestJSONLAcknowledgesNothingItCannotWrite(t *testing.T) {
	dir := t.TempDir()
	j := openJSONL(t, dir)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range j.Publish(cancelled, page(2, 1)) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after the context's end: %v", err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, err := range j.Publish(t.Context(), page(2, 1)) {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if got := read(t, filepath.Join(dir, "alerts.jsonl")); got != "" {
		t.Errorf("the file has %q", got)
	}
}

func TestPagesOfSeveralWorkersDoNotMix(t *testing.T) {
	dir := t.TempDir()
	j := openJSONL(t, dir)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			if err := errors.Join(j.Publish(t.Context(), page(20, 500))...); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Wait()
	lines := bytes.Split([]byte(strings.TrimSuffix(read(t, filepath.Join(dir, "alerts.jsonl")), "\n")), []byte("\n"))
	if len(lines) != 160 {
		t.Fatalf("%d lines, want 160", len(lines))
	}
	for i, line := range lines {
		var got struct{ Attributes map[string]string }
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("line %d: %v", i, err)
		}
		if want := page(20, 0)[i%20].Attributes["n"]; got.Attributes["n"] != want {
			t.Errorf("line %d is message %s of its page, want %s", i, got.Attributes["n"], want)
		}
	}
}
