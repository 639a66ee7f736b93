package observe

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// one parses what was logged, which must be exactly one line of JSON.
func one(t *testing.T, b *bytes.Buffer) map[string]any {
	t.Helper()
	if n := strings.Count(b.String(), "\n"); n != 1 || !strings.HasSuffix(b.String(), "\n") {
		t.Fatalf("%d lines, want one:\n%s", n, b)
	}
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	b.Reset()
	return line
}

func TestFields(t *testing.T) {
	var b bytes.Buffer
	log := NewLogger(&b, slog.LevelDebug, "p")
	for level, want := range map[slog.Level]string{
		slog.LevelDebug: "DEBUG", slog.LevelInfo: "INFO", slog.LevelInfo + 1: "INFO", slog.LevelWarn: "WARNING",
		slog.LevelError: "ERROR", slog.LevelError + 4: "ERROR",
	} {
		log.Log(t.Context(), level, "text", "count", 3, slog.Group("group", "level", "x", "msg", "y"))
		line := one(t, &b)
		if _, err := time.Parse(time.RFC3339Nano, line["time"].(string)); err != nil {
			t.Error(err)
		}
		delete(line, "time")
		if diff := cmp.Diff(map[string]any{
			"severity": want, "message": "text", "count": 3.0, "group": map[string]any{"level": "x", "msg": "y"},
		}, line); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	NewLogger(&b, slog.LevelWarn, "p").Info("below the level")
	if b.Len() > 0 {
		t.Errorf("logged below the level: %s", &b)
	}
}

func TestTrace(t *testing.T) {
	const (
		cloud = "X-Cloud-Trace-Context"
		w3c   = "traceparent"
		id    = "105445aa7843bc8bf206b12000100000"
		name  = "projects/p/traces/" + id
	)
	type labels struct {
		ExecutionID string `json:"execution_id"`
	}
	type fields struct {
		Trace   string `json:"logging.googleapis.com/trace"`
		Span    string `json:"logging.googleapis.com/spanId"`
		Sampled bool   `json:"logging.googleapis.com/trace_sampled"`
		Labels  labels `json:"logging.googleapis.com/labels"`
	}
	tests := []struct {
		name    string
		headers map[string]string
		want    fields
	}{
		{"none", nil, fields{}},
		{"all of it", map[string]string{cloud: id + "/74;o=1", "Function-Execution-Id": "abc-1"}, fields{name, "000000000000004a", true, labels{"abc-1"}}},
		{"not sampled", map[string]string{cloud: id + "/74;o=0"}, fields{Trace: name, Span: "000000000000004a"}},
		{"without options", map[string]string{cloud: id + "/18446744073709551615"}, fields{Trace: name, Span: "ffffffffffffffff"}},
		{"without a span", map[string]string{cloud: id + ";o=1"}, fields{Trace: name, Sampled: true}},
		{"span 0", map[string]string{cloud: id + "/0"}, fields{Trace: name}},
		{"in capitals", map[string]string{cloud: strings.ToUpper(id) + "/1"}, fields{Trace: name, Span: "0000000000000001"}},
		{"span too large", map[string]string{cloud: id + "/18446744073709551616"}, fields{Trace: name}},
		{"W3C", map[string]string{w3c: "00-" + id + "-00f067aa0ba902b7-01"}, fields{Trace: name, Span: "00f067aa0ba902b7", Sampled: true}},
		{"W3C, other flags", map[string]string{w3c: "00-" + id + "-00f067aa0ba902b7-02"}, fields{Trace: name, Span: "00f067aa0ba902b7"}},
		{"W3C, a later version", map[string]string{w3c: "01-" + id + "-00f067aa0ba902b7-03-more"}, fields{Trace: name, Span: "00f067aa0ba902b7", Sampled: true}},
		{"Google's first", map[string]string{cloud: id, w3c: "00-ffffffffffffffffffffffffffffffff-00f067aa0ba902b7-01"}, fields{Trace: name}},
		{"W3C if Google's is malformed", map[string]string{cloud: "nonsense", w3c: "00-" + id + "-00f067aa0ba902b7-00"}, fields{Trace: name, Span: "00f067aa0ba902b7"}},
		{"too short", map[string]string{cloud: id[1:] + "/1"}, fields{}},
		{"all zero", map[string]string{cloud: strings.Repeat("0", 32) + "/1"}, fields{}},
		{"with a path in it", map[string]string{cloud: id + "/../x;o=1"}, fields{}},
		{"W3C, version ff", map[string]string{w3c: "ff-" + id + "-00f067aa0ba902b7-01"}, fields{}},
		{"W3C, version 00 with more", map[string]string{w3c: "00-" + id + "-00f067aa0ba902b7-01-more"}, fields{}},
		{"W3C, no span", map[string]string{w3c: "00-" + id + "-0000000000000000-01"}, fields{}},
		{"W3C, in capitals", map[string]string{w3c: "00-" + strings.ToUpper(id) + "-00f067aa0ba902b7-01"}, fields{}},
		{"hostile execution id", map[string]string{"Function-Execution-Id": `x","severity":"y`}, fields{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
			for name, value := range tt.headers {
				r.Header.Set(name, value)
			}
			ctx := WithTrace(t.Context(), r)
			var b bytes.Buffer
			plain := NewLogger(&b, slog.LevelInfo, "p")
			for _, log := range []*slog.Logger{plain, plain.With("a", 1)} {
				log.InfoContext(ctx, "text", "c", 3)
				var got fields
				if err := json.Unmarshal(b.Bytes(), &got); err != nil {
					t.Fatalf("%v: %s", err, &b)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got)\n%s%s", diff, &b)
				}
				b.Reset()
			}
		})
	}
}

func TestLabelsWithoutAProject(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	r.Header.Set("Function-Execution-Id", "e1")
	var b bytes.Buffer
	NewLogger(&b, slog.LevelInfo, "").With("a", 1).InfoContext(WithTrace(t.Context(), r), "text", "c", 3)
	got := one(t, &b)
	delete(got, "time")
	want := map[string]any{
		"severity": "INFO", "message": "text", "a": 1.0, "c": 3.0,
		"logging.googleapis.com/labels": map[string]any{"execution_id": "e1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

type stringer struct{ text string }

func (s stringer) String() string { return s.text }

// Whatever an attribute is, the secret is not in the line, in any form that can
// be turned back, and the line stays JSON.
func TestKeyMask(t *testing.T) {
	for _, secret := range []string{
		"0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
		`we"ird\<k&y>+/%41=?;`,
		`"severity":"`,
		"12345678",
	} {
		t.Run(secret[:8], func(t *testing.T) {
			var b bytes.Buffer
			s := NewKeyMask(&b)
			s.Add(secret)
			s.Add(secret[:len(secret)-1] + "x") // one that begins alike
			log := NewLogger(s, slog.LevelInfo, "p")

			nested, err := json.Marshal(map[string]string{"key": secret})
			if err != nil {
				t.Fatal(err)
			}
			attrs := map[string]any{
				"string":    "before " + secret + " after",
				"error":     fmt.Errorf("asking: %w", errors.New(secret)),
				"url error": &url.Error{Op: "Get", URL: "https://h/?k=" + url.QueryEscape(secret), Err: io.EOF},
				"path":      "/" + url.PathEscape(secret),
				"bytes":     []byte(secret),
				"bytes 1":   []byte("x" + secret + "yz"),
				"bytes 2":   []byte("xy" + secret + "z"),
				"url bytes": base64.URLEncoding.EncodeToString([]byte(secret)),
				"stringer":  stringer{secret},
				"struct":    struct{ Key string }{secret},
				"slice":     []string{"a", secret},
				"map":       map[string]string{secret: secret},
				"raw":       json.RawMessage(nested),
				"JSON":      string(nested),
				"group":     slog.GroupValue(slog.String("key", secret)),
				"headers":   http.Header{"X-Apikey": {secret}},
			}
			for name, value := range attrs {
				log.Info("text", name, value)
				checkMasked(t, name, secret, &b)
				log.WithGroup("g").With(name, value).Info("text")
				checkMasked(t, name+" in a group", secret, &b)
			}
			log.Info("message " + secret)
			checkMasked(t, "message", secret, &b)
			log.Info("text", secret, "as a name")
			checkMasked(t, "name", secret, &b)
		})
	}
}

func checkMasked(t *testing.T, what, secret string, b *bytes.Buffer) {
	t.Helper()
	text := b.String()
	// stringer is a struct without exported fields, so there is nothing to hide in it.
	if !strings.Contains(text, masked) && !strings.HasPrefix(what, "stringer") {
		t.Errorf("%s: nothing was hidden: %s", what, text)
	}
	line := one(t, b)
	if line["severity"] != "INFO" {
		t.Errorf("%s: the line lost its severity: %s", what, text)
	}
	var all []string
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			all = append(all, v)
			var inner any
			if json.Unmarshal([]byte(v), &inner) == nil {
				walk(inner)
			}
			for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
				if raw, err := e.DecodeString(v); err == nil {
					all = append(all, string(raw))
				}
			}
			if raw, err := url.QueryUnescape(v); err == nil {
				all = append(all, raw)
			}
			if raw, err := url.PathUnescape(v); err == nil {
				all = append(all, raw)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for k, e := range v {
				walk(k)
				walk(e)
			}
		}
	}
	walk(line)
	for _, s := range all {
		if strings.Contains(s, secret) {
			t.Errorf("%s: the secret is in %q", what, text)
		}
	}
}

func TestKeyMaskLeavesTheRest(t *testing.T) {
	var b bytes.Buffer
	s := NewKeyMask(&b)
	s.Add("")
	s.Add("message") // too short for a secret: it would cut up every line
	const line = `{"message":"nothing to hide"}` + "\n"
	if n, err := io.WriteString(s, line); n != len(line) || err != nil || b.String() != line {
		t.Errorf("wrote %d, %v, %q", n, err, &b)
	}
	b.Reset()
	s.Add("to hide!")
	const hiding = "something to hide!\n"
	if n, err := io.WriteString(s, hiding); n != len(hiding) || err != nil || b.String() != "something [hidden]\n" {
		t.Errorf("wrote %d, %v, %q", n, err, &b)
	}
	b.Reset()
	s.Add("to hide! and more") // known second, but the longer one goes first
	if _, err := io.WriteString(s, "to hide! and more"); err != nil || b.String() != "[hidden]" {
		t.Errorf("%v, %q", err, &b)
	}
}

func TestLogRun(t *testing.T) {
	var b bytes.Buffer
	log := NewLogger(&b, slog.LevelInfo, "p")
	LogRun(t.Context(), log, slog.LevelWarn, struct {
		Feed    string         `json:"feed"`
		Outcome string         `json:"outcome"`
		Count   uint64         `json:"fetched"`
		Gap     map[string]any `json:"gap,omitempty"`
		Error   string         `json:"error,omitempty"`
		At      time.Time      `json:"started_at"`
	}{"default", "partial", 1<<63 + 1, map[string]any{"a": []int{1}}, "", time.UnixMilli(1).UTC()})
	got := b.String()
	const want = `,"severity":"WARNING","message":"run","event":"run","feed":"default","outcome":"partial","fetched":9223372036854775809,"gap":{"a":[1]},"started_at":"1970-01-01T00:00:00.001Z"}` + "\n"
	if !strings.HasSuffix(got, want) {
		t.Errorf("got  %s want … %s", got, want)
	}

	// Metrics count these lines, so no level leaves them out.
	quiet := NewLogger(&b, slog.LevelError, "p").With("a", 1)
	for level, severity := range map[slog.Level]string{slog.LevelInfo: "INFO", slog.LevelWarn: "WARNING", slog.LevelError: "ERROR"} {
		b.Reset()
		quiet.Log(t.Context(), slog.LevelWarn, "another line")
		LogRun(t.Context(), quiet, level, map[string]string{"outcome": "ok"})
		line := one(t, &b)
		if line["severity"] != severity || line["event"] != "run" || line["outcome"] != "ok" || line["a"] != 1.0 || line["time"] == nil {
			t.Errorf("with LOG_LEVEL=error: %v, want severity %s", line, severity)
		}
	}

	for _, report := range []any{nil, 3, []int{}, func() {}, "text"} {
		b.Reset()
		LogRun(t.Context(), log, slog.LevelInfo, report)
		line := one(t, &b)
		if line["event"] != "run" || line["severity"] != "ERROR" || line["error"] == nil {
			t.Errorf("a report that is %v: %v", report, line)
		}
	}
}

func TestRecover(t *testing.T) {
	const trace = "105445aa7843bc8bf206b12000100000"
	long := strings.Repeat("ü", 600)
	tests := []struct {
		name    string
		handler http.HandlerFunc
		panic   string // what the line says; empty: no line
		status  int
		body    string // empty: problem+json
	}{
		{"none", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "", 204, ""},
		{"text", func(http.ResponseWriter, *http.Request) { panic("100%done\nsecond line") }, "100%done\nsecond line", 500, ""},
		{"nil", func(http.ResponseWriter, *http.Request) { panic(nil) }, "panic called with nil argument", 500, ""}, //nolint:govet // that is the case
		{"run time", func(_ http.ResponseWriter, r *http.Request) { _ = trace[r.ContentLength+100] }, "runtime error: index out of range", 500, ""},
		{"long", func(http.ResponseWriter, *http.Request) { panic(long) }, long[:1000] + "…", 500, ""},
		{"with headers set", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.Header().Set("Content-Type", "text/plain")
			panic("x")
		}, "x", 500, ""},
		{"after early hints", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			panic("x")
		}, "x", 500, ""},
		{"after a status", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(202)
			panic("x")
		}, "x", 202, "-"},
		{"after a part", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "part")
			panic("x")
		}, "x", 200, "part"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			server := httptest.NewServer(Recover(NewLogger(&b, slog.LevelInfo, "p"), tt.handler))
			defer server.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Cloud-Trace-Context", trace+"/1;o=1")
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			server.Close() // the handler is done with the log

			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
			switch {
			case tt.panic == "":
				if b.Len() > 0 {
					t.Errorf("logged: %s", &b)
				}
				return
			case tt.body == "":
				var problem struct {
					Type, Title, Detail string
					Status              int
				}
				if err := json.Unmarshal(body, &problem); err != nil || problem.Status != 500 || resp.Header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("no problem+json: %v, %v, %s", err, resp.Header, body)
				}
			default:
				if got := string(body); got != strings.Trim(tt.body, "-") {
					t.Errorf("body %q, want %q", got, tt.body)
				}
			}
			line := one(t, &b)
			stack, _ := line["stack_trace"].(string)
			if !strings.Contains(stack, "TestRecover") || !strings.HasPrefix(stack, "panic: ") {
				t.Errorf("no stack that shows who panicked: %q", stack)
			}
			if text, _ := line["panic"].(string); !strings.HasPrefix(text, tt.panic) {
				t.Errorf("panic %q, want %q", text, tt.panic)
			}
			if line["severity"] != "ERROR" || line["message"] != "panic" || line["logging.googleapis.com/trace"] != "projects/p/traces/"+trace {
				t.Errorf("line %v", line)
			}
		})
	}
}

func TestRecoverPassesAbortsOn(t *testing.T) {
	var b bytes.Buffer
	h := Recover(NewLogger(&b, slog.LevelInfo, "p"), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) || b.Len() > 0 {
			t.Errorf("recovered %v, logged %q", err, &b)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
}

func TestPanicOfAGoroutineBecomesAnError(t *testing.T) {
	result := make(chan error)
	go func() {
		defer func() { result <- Recovered(recover()) }()
		panic(errors.New("broken"))
	}()
	err := fmt.Errorf("draining: %w", <-result)

	var p *Panic
	if !errors.As(err, &p) || err.Error() != "draining: panic: broken" {
		t.Fatalf("error %v", err)
	}
	if again := Recovered(err); again != p {
		t.Errorf("thrown again, it lost its stack")
	}
	var b bytes.Buffer
	LogPanic(t.Context(), NewLogger(&b, slog.LevelInfo, "p"), p)
	if stack, _ := one(t, &b)["stack_trace"].(string); !strings.Contains(stack, "TestPanicOfAGoroutine") {
		t.Errorf("stack %q", stack)
	}
}
