package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// maxProblems is how many problems an error answer lists: a body has room for
// a hundred thousand.
const maxProblems = 20

// problem is an error answer (RFC 9457).
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail,omitempty"`
	Errors   []string `json:"errors,omitempty"`   // the first maxProblems
	Problems int      `json:"problems,omitempty"` // how many there are, where there can be several
}

// list puts several problems into the answer.
func (p *problem) list(problems []string) {
	p.Errors, p.Problems = problems[:min(len(problems), maxProblems)], len(problems)
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
	kind := dtm.Kind(err)
	switch {
	case errors.Is(err, drain.ErrKeyMissing), kind == dtm.NoKey:
		return http.StatusServiceUnavailable, 0
	case kind == dtm.BudgetSpent, kind == dtm.QuotaSpent:
		return http.StatusServiceUnavailable, max(dtm.RetryAfter(err), time.Second)
	case kind == dtm.Wait:
		return http.StatusServiceUnavailable, dtm.RetryAfter(err)
	case kind == dtm.KeyRefused, drain.ListingFailed(err), dtm.Failed(err):
		return http.StatusBadGateway, 0
	default:
		return http.StatusInternalServerError, 0
	}
}

// unavailable answers that a call to the database failed, and logs why.
func (a *App) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		problem{Status: http.StatusServiceUnavailable, Detail: "this instance is shutting down"}.write(w) // or nobody is there to read it
		return
	}
	a.log.ErrorContext(r.Context(), "a call to the database failed", "error", err.Error())
	problem{Status: http.StatusServiceUnavailable, Detail: err.Error()}.write(w)
}
