// Package observe writes what the relay does as JSON lines for Cloud Logging:
// severity, trace and labels as it reads them, one line for a run, one line for
// a panic, and never the API key.
package observe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// NewLogger returns a logger that writes one JSON line a record to w, with the
// field names of Cloud Logging's structured logs: severity (DEBUG, INFO,
// WARNING, ERROR), message, time, and from the context what [WithTrace] put
// there. Without a project there is no trace, because its name needs one.
func NewLogger(w io.Writer, level slog.Level, project string) *slog.Logger {
	return slog.New(handler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: rename}), project})
}

// handler adds the trace.
type handler struct {
	slog.Handler
	project string
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	return h.Handler.WithAttrs(traceFrom(ctx).attrs(h.project)).Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.project}
}

// WithGroup opens a group, as nobody here does: Cloud Logging looks for the trace
// outside of all groups, and it would be inside.
func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.project}
}

// rename gives slog's own fields the names of Cloud Logging.
func rename(groups []string, a slog.Attr) slog.Attr {
	switch {
	case len(groups) > 0:
	case a.Key == slog.MessageKey:
		a.Key = "message"
	case a.Key == slog.LevelKey && a.Value.Kind() == slog.KindAny:
		if level, ok := a.Value.Any().(slog.Level); ok {
			return slog.String("severity", severity(level))
		}
	}
	return a
}

func severity(level slog.Level) string {
	switch {
	case level < slog.LevelInfo:
		return "DEBUG"
	case level < slog.LevelWarn:
		return "INFO"
	case level < slog.LevelError:
		return "WARNING"
	default:
		return "ERROR"
	}
}

// LogRun writes the one line of a run: "event":"run" and the fields of the
// report, as its JSON has them, beside it. It is written whatever the logger's
// level is: metrics and alert policies count these lines.
func LogRun(ctx context.Context, log *slog.Logger, level slog.Level, report any) {
	attrs := []slog.Attr{slog.String("event", "run")}
	fields, err := fieldsOf(report)
	if err != nil {
		attrs = append(attrs, slog.String("error", "the run report can't be written: "+err.Error()))
		level = slog.LevelError
	}
	line := slog.NewRecord(time.Now(), level, "run", 0)
	line.AddAttrs(append(attrs, fields...)...)
	_ = log.Handler().Handle(ctx, line) // as a Logger does; its methods ask for the level first
}

// fieldsOf takes the report apart, in the order of its fields.
func fieldsOf(report any) ([]slog.Attr, error) {
	text, err := json.Marshal(report)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	var attrs []slog.Attr
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		attrs = append(attrs, slog.Any(fmt.Sprint(name), value))
	}
	return attrs, nil
}
