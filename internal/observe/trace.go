package observe

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
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
	if id := r.Header.Get("Function-Execution-Id"); executionIDs.MatchString(id) {
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

var (
	executionIDs = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	cloudTraces  = regexp.MustCompile(`^([0-9A-Fa-f]{32})(?:/([0-9A-Fa-f]{1,20}))?(?:;o=([0-9]))?$`)
	traceparents = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$`)
)

// parseCloudTrace reads TRACE_ID/SPAN_ID;o=OPTIONS, with the span in decimal.
func parseCloudTrace(header string) (trace, bool) {
	m := cloudTraces.FindStringSubmatch(header)
	if m == nil || zero(m[1]) {
		return trace{}, false
	}
	t := trace{id: strings.ToLower(m[1]), sampled: m[3] == "1"}
	// Cloud Logging wants the span as 16 hex digits.
	if span, err := strconv.ParseUint(m[2], 10, 64); err == nil && span != 0 {
		t.span = fmt.Sprintf("%016x", span)
	}
	return t, true
}

// parseTraceparent reads VERSION-TRACE_ID-SPAN_ID-FLAGS. Versions after 00 may
// have more behind it (W3C Trace Context, 3.2 and 4).
func parseTraceparent(header string) (trace, bool) {
	m := traceparents.FindStringSubmatch(header)
	if m == nil || m[1] == "ff" || m[1] == "00" && m[5] != "" || zero(m[2]) || zero(m[3]) {
		return trace{}, false
	}
	flags, _ := strconv.ParseUint(m[4], 16, 8)
	return trace{id: m[2], span: m[3], sampled: flags&1 == 1}, true
}

// zero reports an id that both formats reserve for "none".
func zero(id string) bool { return strings.Trim(id, "0") == "" }
