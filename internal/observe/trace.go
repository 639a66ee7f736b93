package observe

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
)

// trace is what ties a record to its request.
type trace struct {
	id          string // 32 hex digits; empty: unknown
	span        string // 16 hex digits; empty: unknown
	sampled     bool
	executionID string
}

type traceKey struct{}

// WithTrace keeps the request's trace and execution id for the records that are
// logged with the context: from X-Cloud-Trace-Context, else from the W3C's
// traceparent, and from Function-Execution-Id. A malformed header counts as none.
func WithTrace(ctx context.Context, r *http.Request) context.Context {
	t, ok := parseCloudTrace(r.Header.Get("X-Cloud-Trace-Context"))
	if !ok {
		t, _ = parseTraceparent(r.Header.Get("traceparent"))
	}
	if id := r.Header.Get("Function-Execution-Id"); len(id) <= 64 && only(id, idLetters) {
		t.executionID = id
	}
	return context.WithValue(ctx, traceKey{}, t)
}

func traceFrom(ctx context.Context) trace {
	t, _ := ctx.Value(traceKey{}).(trace)
	return t
}

func (t trace) attrs(project string) []slog.Attr {
	var attrs []slog.Attr
	if t.id != "" && project != "" {
		attrs = append(attrs,
			slog.String("logging.googleapis.com/trace", "projects/"+project+"/traces/"+t.id),
			slog.Bool("logging.googleapis.com/trace_sampled", t.sampled))
		if t.span != "" {
			attrs = append(attrs, slog.String("logging.googleapis.com/spanId", t.span))
		}
	}
	if t.executionID != "" {
		attrs = append(attrs, slog.Group("logging.googleapis.com/labels", slog.String("execution_id", t.executionID)))
	}
	return attrs
}

// parseCloudTrace reads TRACE_ID/SPAN_ID;o=OPTIONS, with the span in decimal.
func parseCloudTrace(header string) (trace, bool) {
	path, options, hasOptions := strings.Cut(header, ";")
	id, span, hasSpan := strings.Cut(path, "/")
	id = strings.ToLower(id)
	switch {
	case len(id) != 32 || !only(id, hexDigits) || zero(id),
		hasSpan && (span == "" || len(span) > 20 || !only(strings.ToLower(span), hexDigits)),
		hasOptions && (len(options) != 3 || options[:2] != "o=" || !only(options[2:], "0123456789")):
		return trace{}, false
	}
	t := trace{id: id, sampled: options == "o=1"}
	// Cloud Logging wants the span as 16 hex digits.
	if n, err := strconv.ParseUint(span, 10, 64); err == nil && n != 0 {
		t.span = fmt.Sprintf("%016x", n)
	}
	return t, true
}

// parseTraceparent reads VERSION-TRACE_ID-SPAN_ID-FLAGS. Versions after 00 may
// have more after it (W3C Trace Context, 3.2 and 4).
func parseTraceparent(header string) (trace, bool) {
	parts := strings.SplitN(header, "-", 5)
	if len(parts) < 4 {
		return trace{}, false
	}
	for i, size := range []int{2, 32, 16, 2} {
		if len(parts[i]) != size || !only(parts[i], hexDigits) {
			return trace{}, false
		}
	}
	if parts[0] == "ff" || parts[0] == "00" && len(parts) > 4 || zero(parts[1]) || zero(parts[2]) {
		return trace{}, false
	}
	flags, _ := strconv.ParseUint(parts[3], 16, 8)
	return trace{id: parts[1], span: parts[2], sampled: flags&1 == 1}, true
}

const (
	hexDigits = "0123456789abcdef"
	idLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
)

// only reports whether all of s is of the given bytes.
func only(s, of string) bool { return strings.Trim(s, of) == "" }

// zero reports an id that both formats reserve for "none".
func zero(id string) bool { return strings.Trim(id, "0") == "" }
