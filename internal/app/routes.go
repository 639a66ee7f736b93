package app

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/drain"
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
	return observe.Recover(a.log, a.restrict(mux))
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

// postRun is POST /: a live run.
func (a *App) postRun(w http.ResponseWriter, r *http.Request) {
	body, p := readBody(w, r)
	var dryRun bool
	if p == nil && body != nil {
		dryRun = body.Bool("dry_run")
		p = bodyProblem(body)
	}
	if p != nil {
		p.write(w)
		return
	}
	report, err := a.Run(r.Context(), "schedule", caller(r), dryRun)
	status := http.StatusOK
	if report.Outcome == drain.Failed {
		status = failed(w, err)
	}
	answer(w, status, "application/json", report)
}
