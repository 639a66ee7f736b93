package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"dtmrelay.internal/dtmrelay/internal/observe"
)

// shutdownTime is what requests under way have after SIGTERM (Cloud Run ends the
// instance 10 s after it).
const shutdownTime = 9 * time.Second

// gcPercent trades memory for processor time: the collector took a sixth of it,
// and an instance has 512 MiB.
const gcPercent = 150

// memoryLimit is from how many bytes on the collector runs more often than that. Without it
// the peak of a run grows with the number of its collections, a sixth from 10,000 alerts to
// 100,000. Pages of up to 96 MiB may pass it: they are cheap to collect, as they hold no
// pointers.
const memoryLimit = 60 << 20

// Lazy is a handler that is built by its first request. A build that failed is
// tried again by the next one: a failure that is kept would poison the instance.
type Lazy struct {
	build func(context.Context) (*App, error)

	mu  sync.Mutex
	app *App

	signals  sync.Once
	stopping context.Context
	stop     context.CancelFunc
	serving  sync.WaitGroup
}

// OnFirstUse returns a handler that builds its app when it is first used.
func OnFirstUse(build func(context.Context) (*App, error)) *Lazy {
	l := &Lazy{build: build}
	l.stopping, l.stop = context.WithCancel(context.Background())
	return l
}

// ServeHTTP is the function Ingest.
func (l *Lazy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.serve(w, r, func(a *App) http.Handler { return a })
}

// SyncStatus is the function SyncStatus.
func (l *Lazy) SyncStatus(w http.ResponseWriter, r *http.Request) {
	l.serve(w, r, (*App).SyncStatus)
}

// serve answers a request. When the process is told to end, what is under way
// stops between pages and answers before it does: the functions framework itself
// would cut it.
func (l *Lazy) serve(w http.ResponseWriter, r *http.Request, function func(*App) http.Handler) {
	l.EndOnSignal()
	l.mu.Lock()
	if l.stopping.Err() != nil {
		l.mu.Unlock()
		problem{Status: http.StatusServiceUnavailable, Detail: "this instance is shutting down"}.write(w)
		return
	}
	l.serving.Add(1)
	l.mu.Unlock()
	defer l.serving.Done()

	app, err := l.get(r)
	if err != nil {
		fail(w, r, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(l.stopping, cancel)()
	function(app).ServeHTTP(w, r.WithContext(ctx))
}

func (l *Lazy) get(r *http.Request) (*App, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.app != nil {
		return l.app, nil
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	// The clients outlive the request that makes them.
	app, err := l.build(context.WithoutCancel(r.Context()))
	if err != nil {
		return nil, err
	}
	l.app = app
	return app, nil
}

// fail answers a request that found no app, and logs why.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	log := observe.NewLogger(os.Stderr, slog.LevelInfo, os.Getenv("GOOGLE_CLOUD_PROJECT"))
	ctx := observe.WithTrace(r.Context(), r)
	p := problem{Status: http.StatusInternalServerError}
	var config *ConfigError
	if errors.As(err, &config) {
		p.Detail = "the configuration has problems"
		p.list(config.Problems())
		log.ErrorContext(ctx, "the configuration has problems", "event", "config", "problems", config.Problems())
	} else {
		p.Detail = err.Error()
		log.ErrorContext(ctx, "the function could not start", "event", "start", "error", p.Detail)
	}
	p.write(w)
}

// EndOnSignal ends the process on SIGTERM and SIGINT from now on, after what is under way.
// Without it that begins with the first request.
func (l *Lazy) EndOnSignal() { l.signals.Do(l.endOnSignal) }

func (l *Lazy) endOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-signals
		l.mu.Lock()
		l.stop()
		l.mu.Unlock()
		served := make(chan struct{})
		go func() {
			l.serving.Wait()
			close(served)
		}()
		select {
		case <-served:
			// net/http sends the last answer after the handler has returned.
			time.Sleep(100 * time.Millisecond)
		case <-time.After(shutdownTime):
		}
		os.Exit(0)
	}()
}
