package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/publish"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

type serveCmd struct {
	Target string `env:"FUNCTION_TARGET" default:"both" help:"Which function to serve at /: Ingest or SyncStatus; both puts SyncStatus at /SyncStatus (${default})."`
	Host   string `default:"127.0.0.1" help:"Address to listen on (${default})."`
	// Port is no number here: a variable that is wrong would be told to every command.
	Port  string `default:"8080" env:"PORT" help:"Port to listen on (${default}); 0 picks a free one."`
	Local bool   `help:"Keep the state and the messages in files instead of Firestore and Pub/Sub."`
	Dir   string `placeholder:"DIR" help:"With --local: where the files are and stay (./dtmrelay-data)."`

	// For a program that starts this one and must not leave it running.
	UntilEOF bool `hidden:"" help:"End when standard input does."`
}

func (serveCmd) Help() string {
	return `The environment configures it, as it does the deployed function; docs/configuration.md has the variables. With --local those that name a Google Cloud project, topics and a database are not needed. Requests: POST / relays what is new, GET /status shows the position, GET /alerts/{id} what became of an alert, POST, GET and DELETE /backfill fetch a past range, POST /SyncStatus takes a Pub/Sub push message with a change to write back to GTI.

Examples:

	# the real API, into ./dtmrelay-data/alerts.jsonl
	GTI_API_KEY=… dtmrelay serve --local
	curl -X POST http://127.0.0.1:8080/

	# everything as deployed, but for the emulators
	export FIRESTORE_EMULATOR_HOST=127.0.0.1:8081 PUBSUB_EMULATOR_HOST=127.0.0.1:8085
	export GOOGLE_CLOUD_PROJECT=demo PUBSUB_TOPIC=dtm-alerts REJECTS_TOPIC=dtm-rejects
	GTI_API_KEY=… dtmrelay serve --port 8090`
}

func (c *serveCmd) Validate() error {
	var errs []error
	switch c.Target {
	case "Ingest", "SyncStatus", "both":
	default:
		errs = append(errs, fmt.Errorf("--target (or FUNCTION_TARGET) is %q: it must be Ingest, SyncStatus or both", c.Target))
	}
	if _, err := strconv.ParseUint(c.Port, 10, 16); err != nil {
		errs = append(errs, fmt.Errorf("--port (or PORT) is %q: it must be a number from 0 to 65535", c.Port))
	}
	if c.Dir != "" && !c.Local {
		errs = append(errs, errors.New("--dir is where --local keeps its files: add --local, or leave --dir out"))
	}
	return errors.Join(errs...)
}

// served is the name of what this command serves for the framework.
const served = "Served"

func (c *serveCmd) Run(ctx context.Context) error {
	if err := endAtOnce(ctx); err != nil { // it takes signals itself, below
		return err
	}
	relay := app.OnFirstUse(app.Cloud)
	if c.Local {
		local, err := c.local(context.Background())
		if err != nil {
			return err
		}
		relay = local
	}
	relay.EndOnSignal()
	functions.HTTP(served, c.handler(relay).ServeHTTP)
	if err := os.Setenv("FUNCTION_TARGET", served); err != nil {
		return err
	}
	if c.UntilEOF {
		go endWithInput()
	}
	return c.listen()
}

// handler is the function that is to be served, or both.
func (c *serveCmd) handler(relay *app.Lazy) http.Handler {
	switch c.Target {
	case "Ingest":
		return relay
	case "SyncStatus":
		return http.HandlerFunc(relay.SyncStatus)
	}
	both := http.NewServeMux()
	both.Handle("/", relay)
	both.HandleFunc("/SyncStatus", relay.SyncStatus)
	return both
}

// local builds the function with files. Its configuration is looked at now, so
// that whoever types the command learns what is wrong with it.
func (c *serveCmd) local(ctx context.Context) (*app.Lazy, error) {
	cfg, warnings, err := config.LoadLocal(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("the configuration has problems:\n%w", err)
	}
	files := filesIn(cmp.Or(c.Dir, "dtmrelay-data"))
	if err := os.MkdirAll(files.dir, 0o700); err != nil {
		return nil, err
	}
	store, err := bolt.Open(files.state)
	if err != nil {
		return nil, err
	}
	lines, err := publish.OpenJSONL(files.alerts, files.rejects)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	keys, end, err := app.Keys(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, lines.Close(), store.Close())
	}
	built, err := app.Build(ctx, cfg, warnings, app.Parts{Store: store, Publisher: lines, Keys: keys})
	if err != nil {
		return nil, errors.Join(err, end(), lines.Close(), store.Close())
	}
	return app.OnFirstUse(func(context.Context) (*app.App, error) { return built, nil }), nil
}

// localFiles are what --local keeps in its folder.
type localFiles struct{ dir, state, alerts, rejects string }

func filesIn(dir string) localFiles {
	return localFiles{
		dir:     dir,
		state:   filepath.Join(dir, "state.db"),
		alerts:  filepath.Join(dir, "alerts.jsonl"),
		rejects: filepath.Join(dir, "rejects.jsonl"),
	}
}

// listening is how the line begins that says where the server is.
const listening = "listening on "

// listen serves until the process is told to end.
func (c *serveCmd) listen() error {
	address, ended, err := c.begin(funcframework.StartHostPort)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, listening+"http://"+address)
	return <-ended
}

// portTries is how many free ports are tried.
const portTries = 10

// begin calls serve in the background, and returns once something listens where it is to.
// serve ends the channel.
func (c *serveCmd) begin(serve func(host, port string) error) (address string, ended <-chan error, err error) {
	for range portTries {
		if address, ended, err = c.beginOnce(serve); c.Port != "0" || !errors.Is(err, syscall.EADDRINUSE) {
			break // otherwise the port was free, and another program got it first
		}
	}
	return address, ended, err
}

func (c *serveCmd) beginOnce(serve func(host, port string) error) (string, <-chan error, error) {
	// The framework neither takes a listener nor tells the port that it got.
	free, err := net.Listen("tcp", net.JoinHostPort(c.Host, c.Port))
	if err != nil {
		return "", nil, err
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		return "", nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", nil, err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- serve(bracketed(host), port)
	}()
	for dialer := (net.Dialer{}); ; {
		select {
		case err := <-ended:
			return "", nil, err
		case <-time.After(5 * time.Millisecond):
		}
		if conn, err := dialer.DialContext(context.Background(), "tcp", address); err == nil {
			_ = conn.Close()
			return address, ended, nil
		}
	}
}

// bracketed is a host as it stands before a colon.
func bracketed(host string) string {
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return "[" + host + "]"
	}
	return host
}

// endWithInput ends the process when whoever holds the other end of its input
// is gone. Nothing is lost by it: see the next run.
func endWithInput() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
