package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/observe"
)

// handler is the HTTP interface of the function.
func (a *App) handler() http.Handler {
	mux := http.NewServeMux()
	route(mux, "/{$}", map[string]http.HandlerFunc{http.MethodPost: a.postRun})
	route(mux, "/backfill", map[string]http.HandlerFunc{http.MethodPost: a.postBackfill, http.MethodGet: a.listBackfills})
	route(mux, "/backfill/{id}", map[string]http.HandlerFunc{http.MethodGet: a.getBackfill, http.MethodDelete: a.deleteBackfill})
	route(mux, "/status", map[string]http.HandlerFunc{http.MethodGet: a.getStatus})
	route(mux, "/alerts/{id}", map[string]http.HandlerFunc{http.MethodGet: a.getAlert})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		problem{Status: http.StatusNotFound, Detail: "there is nothing at this path; see POST /, /backfill, /backfill/{id}, /status, /alerts/{id}"}.write(w)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		observe.Recover(a.log, mux).ServeHTTP(w, r.WithContext(observe.WithTrace(r.Context(), r)))
	})
}

// route serves a path with a handler for each method. HEAD goes where GET goes.
func route(mux *http.ServeMux, path string, handlers map[string]http.HandlerFunc) {
	if get, ok := handlers[http.MethodGet]; ok {
		handlers[http.MethodHead] = get
	}
	allow := strings.Join(slices.Sorted(maps.Keys(handlers)), ", ")
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		handle, ok := handlers[r.Method]
		if !ok {
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
	fields, p := readBody(w, r)
	var dryRun bool
	if p == nil && fields != nil {
		dryRun = fields.boolean("dry_run")
		p = fields.problem()
	}
	if p != nil {
		p.write(w)
		return
	}
	report, err := a.run(r.Context(), "schedule", dryRun)
	status := http.StatusOK
	if report.Outcome == drain.Failed {
		status = failed(w, err)
	}
	answer(w, status, "application/json", report)
}

// failed returns the HTTP status of a failed run, and tells the caller when to
// come again where the failure says so.
func failed(w http.ResponseWriter, err error) (status int) {
	status, after := statusOf(err)
	retryAfter(w, after)
	return status
}

// retryAfter tells the caller how long to wait, in whole seconds; 0 says nothing.
func retryAfter(w http.ResponseWriter, after time.Duration) {
	if after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	}
}

// statusOf is the HTTP status of a failed run, and how long to wait when the
// failure says so.
func statusOf(err error) (status int, after time.Duration) {
	var (
		budget *dtm.BudgetError
		quota  *dtm.QuotaError
		wait   *dtm.WaitError
		key    *dtm.KeyError
	)
	switch {
	case errors.Is(err, drain.ErrKeyMissing), errors.Is(err, dtm.ErrNoKey):
		return http.StatusServiceUnavailable, 0
	case errors.As(err, &budget):
		return http.StatusServiceUnavailable, max(budget.RetryAfter, time.Second)
	case errors.As(err, &quota):
		return http.StatusServiceUnavailable, max(quota.RetryAfter, time.Second)
	case errors.As(err, &wait):
		return http.StatusServiceUnavailable, wait.Wait
	case errors.As(err, &key), drain.ListingFailed(err), dtm.Failed(err):
		return http.StatusBadGateway, 0
	default:
		return http.StatusInternalServerError, 0
	}
}
