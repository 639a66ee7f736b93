package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
)

// Panic is a panic as an error, so that one in a goroutine ends its run and not
// the process.
type Panic struct {
	Value string // what it was called with, as text of at most 1,000 bytes
	Stack []byte // of the goroutine that panicked
}

func (p *Panic) Error() string { return "panic: " + p.Value }

// Recovered turns what recover() gave into a Panic. It is called in the deferred
// function, where the stack still shows who panicked. A Panic that was thrown
// again keeps its first stack.
func Recovered(value any) *Panic {
	if err, ok := value.(error); ok {
		if first := (*Panic)(nil); errors.As(err, &first) {
			return first
		}
	}
	text := fmt.Sprint(value)
	const most = 1000
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return &Panic{Value: text, Stack: debug.Stack()}
}

// LogPanic writes a panic as one line with its stack. Error Reporting groups
// panics by the field stack_trace, in the form in which Go prints them.
func LogPanic(ctx context.Context, log *slog.Logger, p *Panic) {
	log.LogAttrs(ctx, slog.LevelError, "panic",
		slog.String("event", "panic"),
		slog.String("panic", p.Value),
		slog.String("stack_trace", p.Error()+"\n\n"+string(p.Stack)))
}

// Recover calls next with the trace of [WithTrace] in the request's context. It logs a panic
// of next with [LogPanic] and answers 500, or nothing more when an answer has begun. The functions framework would print it as many plain
// lines, and append to a body that has begun.
func Recover(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(WithTrace(r.Context(), r))
		began := &beganWriter{ResponseWriter: w}
		defer func() {
			value := recover()
			if value == nil {
				return
			}
			if value == http.ErrAbortHandler { //nolint:errorlint // net/http, which cuts the connection for it, compares in the same way
				panic(value)
			}
			LogPanic(r.Context(), log, Recovered(value))
			if began.began {
				return
			}
			// What the handler had set was about another body.
			clear(w.Header())
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"The request ended in a panic. The log has it with its stack."}`+"\n")
		}()
		next.ServeHTTP(began, r)
	})
}

// beganWriter knows whether the answer has begun.
type beganWriter struct {
	http.ResponseWriter
	began bool
}

func (w *beganWriter) WriteHeader(status int) {
	if status >= http.StatusOK { // those below come before the answer
		w.began = true
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *beganWriter) Write(p []byte) (int, error) {
	w.began = true
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *beganWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
