package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestClosedPipeIsNoError: a reader such as head that is gone ends every command with 0, also
// those that end at once.
func TestClosedPipeIsNoError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"rules.json":   `[{"name":"one","when":"true","then":{"drop":true}}]`,
		"alerts.jsonl": `{"id":"a1","alert_type":"Tweet","created_at":"2026-01-01T10:00:00Z"}` + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"--help", "--version", "fetch --help", "completion bash", "completion fish", "rules check rules.json", "rules check rules.json --format table",
		"rules test rules.json --alerts alerts.jsonl", "report --alerts alerts.jsonl --output -", "report --alerts alerts.jsonl --format json",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer write.Close()
			if err := read.Close(); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program, strings.Fields(args)...)
			cmd.Dir, cmd.Stdout = dir, write
			if err := cmd.Run(); err != nil {
				t.Error(err)
			}
		})
	}
}
