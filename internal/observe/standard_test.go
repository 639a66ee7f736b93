package observe

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestStandardLog: what a server sends after the end of its answer is in no log.
func TestStandardLog(t *testing.T) {
	flags, output := log.Flags(), log.Writer()
	defer func() {
		log.SetFlags(flags)
		log.SetOutput(output)
	}()
	lines := make(chan string, 1)
	StandardLog(NewLogger(writer(func(p []byte) { lines <- string(p) }), slog.LevelInfo, ""))

	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return ours, nil }}
	defer tr.CloseIdleConnections()
	go func() {
		buf := make([]byte, 1<<10)
		_, _ = theirs.Read(buf)
		_, _ = io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
		_, _ = io.WriteString(theirs, `{"title":"a password of an alert"}`)
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://gti.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "{}" {
		t.Errorf("%s, %v", body, err)
	}
	_ = resp.Body.Close()
	line := <-lines
	if strings.Contains(line, "password") || !strings.Contains(line, "Unsolicited response") || !strings.Contains(line, `"severity":"WARNING"`) {
		t.Error(line)
	}
	if strings.Count(line, "\n") != 1 {
		t.Errorf("%q", line)
	}
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}
