package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "alerts.jsonl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadAlerts(t *testing.T) {
	const attributes = `{"attributes":{"event":"created","alert_type":"Paste","severity":"low","dedupe_key":%q}`
	line := func(key, data string) string { return fmt.Sprintf(attributes+`,"data":%s}`+"\n", key, data) }
	broken := []byte("{\"id\":\"\xff\"}")
	file := line("a@1", `{"id":"a","n":1.0}`) +
		line("a@1", `{"id":"a","n":1.0}`) +
		line("b@1", `{"id":"b"}`) +
		fmt.Sprintf(attributes+`,"data_base64":%q}`+"\n", "c@1", base64.StdEncoding.EncodeToString(broken)) +
		strings.ReplaceAll(line("a@2", `{"id":"a","status":"closed"}`), "created", "status_changed") +
		line("torn@1", `{"id":"torn"}`)[:60]

	alerts := []fingerprint{
		fingerprintOf([]byte("{ \"id\": \"a\",\n\"n\": 1.0 }")), // white space doesn't count
		fingerprintOf([]byte(`{"id":"b","tags":[]}`)),           // another version
		fingerprintOf(broken),
		fingerprintOf([]byte(`{"id":"torn"}`)),
		fingerprintOf([]byte(`{"n":1.0,"id":"a"}`)), // the order of the members does
	}
	got, err := readAlerts(writeFile(t, file), alerts)
	if err != nil {
		t.Fatal(err)
	}
	if got.lines != 5 || got.versions != 3 || got.repeated() != 1 || got.lost != 3 {
		t.Errorf("%d lines, %d versions, %d repeated, %d lost; want 5, 3, 1, 3", got.lines, got.versions, got.repeated(), got.lost)
	}
	want := map[class]counts{{"Paste", "low"}: {published: 3, repeated: 1}}
	if diff := cmp.Diff(want, got.classes, cmp.AllowUnexported(counts{})); diff != "" {
		t.Errorf("by type and severity (-want +got):\n%s", diff)
	}
}

// A password is masked, hidden by GTI, empty, or in clear text. One that comes twice
// counts once.
func TestReadAlertsCountsMaskedPasswords(t *testing.T) {
	line := func(id, redacted, password string) string {
		return fmt.Sprintf(`{"attributes":{"alert_id":%q,"dedupe_key":%[1]q%s},"data":{"doc":{"service_account":{"password":{"plain_text":%q}}}}}`+"\n",
			id, redacted, password)
	}
	const masked = `,"redacted":"true"`
	file := line("a", "", "") + line("b", "", hiddenPassword) + line("c", masked, "[redacted:16+]") +
		line("c", masked, "[redacted:16+]") + line("d", masked, "[redacted:1-7]") + line("e", "", "hunter2")
	got, err := readAlerts(writeFile(t, file), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (maskedSecret{"c", "[redacted:16+]"}); got.masked != 2 || got.clear != 1 || got.example != want {
		t.Errorf("%d masked, %d in clear text, %+v; want 2, 1, %+v", got.masked, got.clear, got.example, want)
	}
}

func TestReadAlertsOfDamagedFile(t *testing.T) {
	if _, err := readAlerts(writeFile(t, "no JSON\n"), nil); err == nil {
		t.Error("no error")
	}
}

func TestReadAlertsWithoutFile(t *testing.T) {
	got, err := readAlerts(filepath.Join(t.TempDir(), "none"), make([]fingerprint, 2))
	if err != nil || got.lost != 2 {
		t.Errorf("%d lost, error %v; want 2 and none", got.lost, err)
	}
}

// A part of a line that a kill left is cut off by the next relay and written
// again, so the count must not depend on it.
func TestCountLinesStopsBeforeATornLine(t *testing.T) {
	path := writeFile(t, "one\ntwo\nthr")
	first, err := countLines(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("one\ntwo\n3\nfour\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := countLines(path, first.offset)
	if err != nil {
		t.Fatal(err)
	}
	if first.count != 2 || second.count != 2 || second.offset != 15 {
		t.Errorf("%+v, then %+v; want 2 lines each, and 15 bytes", first, second)
	}
}

func TestLineForQuarters(t *testing.T) {
	var out bytes.Buffer
	show := lineForQuarters(&out, 10)
	for n := range 11 {
		show(n)
		show(n)
	}
	want := "3 of 10 alerts\n5 of 10 alerts\n8 of 10 alerts\n10 of 10 alerts\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The progress shows what was there when it was stopped, and nothing goes on.
func TestShowProgressEndsWithAllLines(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	path := writeFile(t, "old\n1\n2\n3\n4\n4 again\n")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	stop := showProgress(out, path, content{lines: 1, lost: 4})
	stop()
	stop()
	got, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "4 of 4 alerts\n" {
		t.Errorf("it shows %q", got)
	}
}
