package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestRelayAnswers(t *testing.T) {
	tests := map[string]struct {
		status            int
		kind, body, wants string // wants is a part of the error; empty: there is none
	}{
		"good":           {200, "application/json", `{"feed":"f","a":1}`, ""},
		"recorded":       {202, "application/json; charset=utf-8", `{"feed":"f"}`, ""},
		"a failed run":   {502, "application/json", `{"feed":"f","error":"x"}`, "answers 502, not as a relay does"},
		"a gateway":      {503, "application/json", `{"error":"x"}`, "answers 503, not as a relay does"},
		"created":        {201, "application/json", `{"feed":"f"}`, "answers 201, not as a relay does"},
		"another object": {200, "application/json", `{"alerts":[]}`, "answers 200, not as a relay does"},
		"null":           {200, "application/json", `{"feed":null}`, "answers 200, not as a relay does"},
		"a list":         {200, "application/json", `["feed"]`, "answers 200, not as a relay does"},
		"one problem":    {400, "application/problem+json", `{"detail":"the field \"x\" is unknown","errors":["the field \"x\" is unknown"],"problems":1}`, `the relay answers 400: the field "x" is unknown`},
		"problems":       {400, "application/problem+json", `{"detail":"a; b","errors":["a","b"],"problems":3}`, "the relay answers 400: 3 problems\n  a\n  b\n  and 1 more"},
		"configuration":  {500, "application/problem+json", `{"detail":"the configuration has problems","errors":["A: x","B: y"],"problems":2}`, "the configuration has problems\n  A: x\n  B: y"},
		"nothing said":   {503, "application/problem+json", `{`, "the relay answers 503: Service Unavailable"},
		"hostile":        {404, "application/problem+json", `{"detail":"\u001b[2Jno\u009b"}`, "the relay answers 404: [2Jno"},
		"no permission":  {403, "text/html", `<html>`, "grant the account roles/run.invoker"},
		"another server": {200, "text/html", `<html>`, "answers 200, not as a relay does"},
		"half":           {200, "application/json", `{"a":`, "answers 200, not as a relay does"},
		"a redirect":     {302, "text/html", ``, "answers 302, not as a relay does"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", test.kind)
				w.Header().Set("Location", "https://other.example/")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}))
			defer server.Close()
			relay, err := relayFlags{URL: server.URL}.remote(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			answer, err := relay.call(t.Context(), http.MethodGet, "/status", nil, "feed")
			switch {
			case test.wants == "" && err != nil:
				t.Error(err)
			case test.wants == "" && string(answer) != test.body, test.wants != "" && answer != nil:
				t.Errorf("the answer is %s", answer)
			case test.wants != "" && (err == nil || !strings.HasSuffix(err.Error(), test.wants) && !strings.Contains(err.Error(), test.wants+":") && !strings.Contains(err.Error(), test.wants+" ")):
				t.Errorf("the error is %q; want %q", fmt.Sprint(err), test.wants)
			case test.wants != "" && strings.ContainsAny(err.Error(), "\x1b\u009b"):
				t.Errorf("the error controls a terminal: %q", err)
			}
		})
	}
}

// TestRelayAnswersToAPost: with how far a run came that failed.
func TestRelayAnswersToAPost(t *testing.T) {
	for body, good := range map[string]bool{`{"id":"b","error":"x"}`: true, `{"error":"x"}`: false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, body)
		}))
		relay, err := relayFlags{URL: server.URL}.remote(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := relay.call(t.Context(), http.MethodPost, "/backfill", backfillRequest{Since: "1h"}, "id"); (err == nil) != good {
			t.Errorf("%s: %s, %v", body, answer, err)
		}
		server.Close()
	}
}

func TestBackfillRequestMeans(t *testing.T) {
	asked := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	record := backfillRecord{ID: "b-1", State: "running", Since: asked.Add(-72 * time.Hour), RequestedAt: asked, Filter: []byte(`{"severity":["high"]}`)}
	tests := map[string]struct {
		request backfillRequest
		change  func(*backfillRecord)
		want    bool
	}{
		"a duration":     {backfillRequest{Since: "72h"}, nil, true},
		"another":        {backfillRequest{Since: "71h"}, nil, false},
		"a time":         {backfillRequest{Since: "2026-01-02t12:00:00z"}, nil, true},
		"the id":         {backfillRequest{Since: "1h", ID: "b-1"}, nil, true},
		"another id":     {backfillRequest{Since: "72h", ID: "b-2"}, nil, false},
		"its filter":     {backfillRequest{Since: "72h", Filter: []byte(`{"severity":["high"]}`)}, nil, true},
		"another filter": {backfillRequest{Since: "72h", Filter: []byte(`{}`)}, nil, false},
		"republish":      {backfillRequest{Since: "72h", Republish: true}, nil, false},
		"finished":       {backfillRequest{Since: "72h"}, func(b *backfillRecord) { b.State = "done" }, false},
		"the relay's":    {backfillRequest{Since: "72h"}, func(b *backfillRecord) { b.Kind = "audit" }, false},
	}
	for name, test := range tests {
		b := record
		if test.change != nil {
			test.change(&b)
		}
		if got := test.request.means(b); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// The identity token must not go where a redirect leads, and an answer that never ends
// doesn't outlive the command.
func TestRelayCallEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the caller is gone
		cancel()
		<-r.Context().Done()
	}))
	defer server.Close()
	relay, err := relayFlags{URL: server.URL}.remote(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := relay.call(ctx, http.MethodPost, "/backfill", backfillRequest{Since: "1h"}, "id"); err == nil {
		t.Error("no error")
	}
}
