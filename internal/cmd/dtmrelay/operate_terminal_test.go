package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A person sees colours, and what to do in full, which a table of this width cuts.
func TestDoctorOnTerminal(t *testing.T) {
	dir := t.TempDir()
	text := onOwnTerminal(t, []string{`DTM_FILTER={"tags":["there-is-none"]}`}, "doctor", "--data", dir)
	for _, want := range []string{
		"\x1b[32mgreen\x1b[0m", "\x1b[33myellow\x1b[0m", "STATE",
		"\r\n  if alerts were expected, make DTM_FILTER wider, or look at the monitors\r\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown:\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if len([]rune(colours.ReplaceAllString(strings.TrimRight(line, "\r\n"), ""))) > 80 && strings.HasPrefix(line, "\x1b") {
			t.Errorf("a row of the table is wider than the terminal: %q", line)
		}
	}
}

// What an alert or a file holds does nothing to a terminal.
func TestRulesAndReportOnTerminal(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const hostile = `\u001b]0;owned\u0007\u202e\r\nX`
	rules := write("rules.json", `[{"name":"tagged","when":"true","then":{"tags":["t"]}}]`)
	alerts := write("alerts.jsonl", `{"id":"a1","alert_type":"`+hostile+`","severity":"high","status":"`+hostile+`","created_at":"2026-01-01T00:00:00Z","monitor_id":"`+hostile+`","monitor_name":"`+hostile+`"}`+"\n")
	for _, args := range [][]string{
		{"rules", "test", rules, "--alerts", alerts},
		{"rules", "test", rules, "--alerts", alerts, "--format", "json"},
		{"report", "--alerts", alerts, "--format", "table"},
		{"report", "--alerts", alerts, "--format", "json"},
	} {
		text := onOwnTerminal(t, nil, args...)
		if !strings.Contains(text, "owned") && !strings.Contains(text, "…") {
			t.Errorf("%q shows nothing of the alert:\n%s", args, text)
		}
		if left := colours.ReplaceAllString(text, ""); strings.ContainsAny(left, "\x1b\x07\u202e") {
			t.Errorf("%q lets a control character through: %q", args, left)
		}
	}
}
