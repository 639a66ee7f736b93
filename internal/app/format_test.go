package app_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
)

// keeps is a publisher that takes every message and keeps it.
type keeps struct {
	takes
	got []message.Message
}

func (k *keeps) Publish(_ context.Context, m []message.Message) []error {
	k.got = append(k.got, m...)
	return make([]error, len(m))
}

// TestMessageFormat: the messages have the format that is configured.
func TestMessageFormat(t *testing.T) {
	for format, begin := range map[string]string{
		"raw":      `{"`,
		"incident": `{"schema":"dtmrelay.incident/v1","source":"dtm","event":"created",`,
	} {
		t.Run(format, func(t *testing.T) {
			now := time.Now()
			server := httptest.NewServer(dtmsim.New(dtmsim.Options{}, dtmsim.Generate(1, 3, now.Add(-2*time.Hour), now.Add(-time.Hour), dtmsim.Shape{Plain: true})))
			t.Cleanup(server.Close)
			published := &keeps{}
			a, err := app.New(config.Config{
				Feed: "default", BaseURL: server.URL + "/api/v3", ToolName: "test", Refs: true, MessageFormat: format,
				Concurrency: 1, QPS: 1000, RequestsPerDay: 1000, ErrorsPerHour: 100,
				InitialLookback: 24 * time.Hour, MaxLookback: 120 * time.Hour, LedgerTTL: time.Hour, Budget: time.Minute,
			}, app.Parts{Store: openStore(t), Publisher: published, Keys: &keys{}}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			a.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", http.NoBody))
			if w.Code != http.StatusOK || len(published.got) != 3 {
				t.Fatalf("%d messages, %d %s", len(published.got), w.Code, w.Body)
			}
			for _, m := range published.got {
				if !bytes.HasPrefix(m.Data, []byte(begin)) || bytes.Contains(m.Data, []byte(`"schema":"dtmrelay.incident`)) != (format == "incident") {
					t.Errorf("the data is %.200s", m.Data)
				}
				if m.Attributes["source"] != "dtm" || m.Attributes["group_id"] == "" {
					t.Errorf("the attributes are %v", m.Attributes)
				}
			}
		})
	}
}
