package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/observe"
)

// maxBody bounds a request's body.
const maxBody = 1 << 20

// handler is the HTTP interface of the function.
func (a *App) handler() http.Handler {
	mux := http.NewServeMux()
	route(mux, "/{$}", http.MethodPost, a.postRun)
	route(mux, "/status", http.MethodGet, a.getStatus)
	route(mux, "/alerts/{id}", http.MethodGet, a.getAlert)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		problem{Status: http.StatusNotFound, Detail: "there is nothing at this path; see POST /, GET /status, GET /alerts/{id}"}.write(w)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		observe.Recover(a.log, mux).ServeHTTP(w, r.WithContext(observe.WithTrace(r.Context(), r)))
	})
}

func route(mux *http.ServeMux, path, method string, handle http.HandlerFunc) {
	allow := method
	if method == http.MethodGet {
		allow = "GET, HEAD"
	}
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead) {
			w.Header().Set("Allow", allow)
			problem{Status: http.StatusMethodNotAllowed, Detail: r.Method + " is not allowed here; allowed: " + allow}.write(w)
			return
		}
		handle(w, r)
	})
}

// problem is an error answer (RFC 9457).
type problem struct {
	Type   string   `json:"type"`
	Title  string   `json:"title"`
	Status int      `json:"status"`
	Detail string   `json:"detail,omitempty"`
	Errors []string `json:"errors,omitempty"`
}

func (p problem) write(w http.ResponseWriter) {
	if p.Type == "" {
		p.Type = "about:blank"
	}
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	answer(w, p.Status, "application/problem+json", p)
}

func answer(w http.ResponseWriter, status int, contentType string, body any) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		panic(fmt.Sprintf("encoding an answer: %v", err))
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // the caller is gone when this fails
}

// postRun is POST /: a live run.
func (a *App) postRun(w http.ResponseWriter, r *http.Request) {
	var options struct {
		DryRun bool `json:"dry_run"`
	}
	if p, ok := readBody(w, r, &options); !ok {
		p.write(w)
		return
	}
	report, err := a.live(r.Context(), "schedule", options.DryRun)
	status := http.StatusOK
	if report.Outcome == drain.Failed {
		var after time.Duration
		status, after = statusOf(err)
		if after > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(int64((after+time.Second-1)/time.Second)))
		}
	}
	answer(w, status, "application/json", report)
}

// statusOf is the HTTP status of a failed run, and how long to wait when the
// failure says so.
func statusOf(err error) (status int, after time.Duration) {
	var (
		budget   *dtm.BudgetError
		quota    *dtm.QuotaError
		key      *dtm.KeyError
		api      *dtm.APIError
		restart  *dtm.RestartError
		redirect *dtm.RedirectError
		silent   *dtm.NoAnswerError
	)
	switch {
	case errors.Is(err, drain.ErrKeyMissing):
		return http.StatusServiceUnavailable, 0
	case errors.As(err, &budget):
		return http.StatusServiceUnavailable, max(budget.RetryAfter, time.Second)
	case errors.As(err, &quota):
		return http.StatusServiceUnavailable, max(quota.RetryAfter, time.Second)
	case errors.As(err, &key), errors.As(err, &api), errors.As(err, &silent), errors.As(err, &restart), errors.As(err, &redirect):
		return http.StatusBadGateway, 0
	default:
		return http.StatusInternalServerError, 0
	}
}

// readBody reads an optional JSON body. Unknown fields, and anything behind the
// object, are errors.
func readBody(w http.ResponseWriter, r *http.Request, into any) (problem, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body is larger than %d bytes", maxBody)}, false
	case err != nil:
		return problem{Status: http.StatusBadRequest, Detail: "the body could not be read"}, false
	case len(bytes.TrimSpace(body)) == 0:
		return problem{}, true
	}
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
			return problem{
				Status: http.StatusUnsupportedMediaType,
				Detail: fmt.Sprintf("the body's Content-Type is %q; allowed: application/json", kind),
			}, false
		}
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return problem{Status: http.StatusBadRequest, Detail: bodyFault(err)}, false
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return problem{Status: http.StatusBadRequest, Detail: "the body has something behind the JSON object"}, false
	}
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return problem{Status: http.StatusBadRequest, Detail: "the body is not a JSON object"}, false
	}
	return problem{}, true
}

// bodyFault says in the reader's words what encoding/json found.
func bodyFault(err error) string {
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind) && kind.Field != "":
		return fmt.Sprintf("the field %q is a %s; allowed: %s", kind.Field, kind.Value, kind.Type)
	case errors.As(err, &kind):
		return fmt.Sprintf("the body is a %s; allowed: a JSON object", kind.Value)
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return "the field " + strings.TrimPrefix(err.Error(), "json: unknown field ") + " is unknown; allowed: \"dry_run\""
	default:
		return "the body is not valid JSON: " + err.Error()
	}
}
