package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestBackfillBar(t *testing.T) {
	records := []backfillRecord{
		{Done: .1, Fetched: 100, Rate: 50},
		{Done: .4, Fetched: 400, Rate: 97.4, ExpectedEnd: time.Date(2026, 1, 2, 15, 4, 5, 0, time.Local)},
		{Done: .45, Fetched: 450},
		{Done: 1, Fetched: 1000},
	}
	for _, kind := range []string{"xterm", "dumb"} {
		t.Run("terminal "+kind, func(t *testing.T) {
			t.Setenv("TERM", kind)
			screen, terminal, err := pty.Open()
			if err != nil {
				t.Skip("this system has no pseudo-terminals:", err)
			}
			defer screen.Close()
			bar := newBackfillBar(terminal)
			for _, r := range records {
				bar.show(r)
			}
			bar.end()
			_ = terminal.Close()
			var text bytes.Buffer
			_, _ = text.ReadFrom(screen) // ends with an error when the terminal is closed
			for _, want := range []string{"100 alerts, 50/s", "40%", "400 alerts, 97/s, until 15:04:05", "100%"} {
				if !strings.Contains(text.String(), want) {
					t.Errorf("%q is not shown:\n%q", want, text.String())
				}
			}
			if kind == "dumb" && strings.Contains(text.String(), "\x1b") {
				t.Errorf("escape sequences: %q", text.String())
			}
		})
	}
	t.Run("file", func(t *testing.T) {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		bar := newBackfillBar(file)
		for _, r := range records {
			bar.show(r)
		}
		bar.end()
		_ = file.Close()
		text, err := os.ReadFile(file.Name())
		if want := "40% of the range, 400 alerts fetched\n100% of the range, 1000 alerts fetched\n"; err != nil || string(text) != want {
			t.Errorf("%q, error %v; want %q", text, err, want)
		}
	})
}
