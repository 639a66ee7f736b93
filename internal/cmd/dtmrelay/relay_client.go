package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sethvargo/go-envconfig"
	"google.golang.org/api/idtoken"

	"dtmrelay.internal/dtmrelay/internal/app"
	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/secret"
	"dtmrelay.internal/dtmrelay/internal/state/bolt"
)

// relayFlags choose a relay.
type relayFlags struct {
	URL  string `name:"url" placeholder:"URL" help:"A deployed relay: the address of its function Ingest."`
	Data string `placeholder:"DIR" help:"A relay of this machine: the folder of poll or of serve --local (dtmrelay-data)."`
}

const allowedURL = "it must be an address such as https://dtm-relay-abc123-ew.a.run.app, without user, query and fragment"

func (f relayFlags) check() error {
	if f.URL == "" {
		return nil
	}
	u, err := url.Parse(f.URL)
	switch {
	case f.Data != "":
		return errors.New("--url is a deployed relay, --data one of this machine: leave one out")
	case strings.ContainsAny(f.URL, "@?#"):
		return errors.New("--url: the value (not shown, it may hold a password) is not allowed: " + allowedURL)
	case err != nil || u.Hostname() == "":
		return fmt.Errorf("--url is %q: %s", f.URL, allowedURL)
	case u.Scheme != "https" && (u.Scheme != "http" || !dtm.Loopback(u.Hostname())):
		return fmt.Errorf("--url is %q: it must begin with https:// (http:// for this machine only)", f.URL)
	}
	return nil
}

func (f relayFlags) folder() string { return cmp.Or(f.Data, "dtmrelay-data") }

// words are these flags as the user types them.
func (f relayFlags) words() string {
	switch {
	case f.URL != "":
		return " --url " + f.URL
	case f.Data != "":
		return " --data " + f.Data
	}
	return ""
}

// openToRead is open for what changes nothing: where the files can only be read, or another
// process has them open, it is over a copy of them.
func (f relayFlags) openToRead(ctx context.Context) (relay relayClient, closeRelay func() error, err error) {
	return f.openBy(ctx, func(path string) (*bolt.Store, error) {
		store, err := openUnlessInUse(path)
		if errors.Is(err, bolt.ErrInUse) {
			return bolt.OpenCopy(path)
		}
		return store, err
	})
}

// openUnlessInUse opens a file to read it, or a copy where it can only be read.
func openUnlessInUse(path string) (*bolt.Store, error) {
	store, err := bolt.Open(path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return bolt.OpenCopy(path)
	}
	return store, err
}

// open is the relay that the flags choose, for what needs no key. close gives it back.
func (f relayFlags) open(ctx context.Context) (relay relayClient, closeRelay func() error, err error) {
	return f.openBy(ctx, bolt.Open)
}

func (f relayFlags) openBy(ctx context.Context, open openStore) (relay relayClient, closeRelay func() error, err error) {
	if f.URL != "" {
		relay, err = f.remote(ctx)
		return relay, func() error { return nil }, err
	}
	cfg, err := keylessConfig(ctx)
	if err != nil {
		return relayClient{}, nil, err
	}
	files := filesIn(f.folder())
	if err := files.havePosition(); err != nil {
		return relayClient{}, nil, err
	}
	return openFiles(ctx, open, files, cfg, noKey{}, nothingPublished{})
}

// keylessConfig is the configuration for what needs no key. It wants one, and nothing here
// does.
func keylessConfig(ctx context.Context) (config.Config, error) {
	cfg, _, err := config.LoadLocal(ctx, envconfig.MultiLookuper(envconfig.MapLookuper(map[string]string{"GTI_API_KEY": "none"}), envconfig.OsLookuper()))
	if err != nil {
		return cfg, fmt.Errorf("the configuration has problems:\n%w", err)
	}
	return cfg, nil
}

// remote is a relay at the other end of the network. A caller proves with an identity
// token of the usual credentials who it is.
func (f relayFlags) remote(ctx context.Context) (relayClient, error) {
	base := strings.TrimRight(f.URL, "/")
	r := relayClient{base: base, transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}}
	if u, err := url.Parse(base); err == nil && dtm.Loopback(u.Hostname()) {
		return r, nil
	}
	client, err := idtoken.NewClient(ctx, base)
	if err != nil {
		return r, fmt.Errorf("no identity token for %s: an account that may call it is needed, by GOOGLE_APPLICATION_CREDENTIALS, by the machine's own, or by "+
			"\"gcloud auth application-default login --impersonate-service-account=ACCOUNT\": %w", base, err)
	}
	r.transport = client.Transport
	return r, nil
}

// noKey is for what never asks GTI.
type noKey struct{}

func (noKey) Key(context.Context) (string, error)           { return "", secret.ErrMissing }
func (noKey) Renew(context.Context, string) (string, error) { return "", secret.ErrMissing }

// nothingPublished is for what publishes nothing. Why something was rejected is in the
// relay's answer.
type nothingPublished struct{}

var errNothingPublished = errors.New("this command publishes nothing")

func (nothingPublished) Publish(_ context.Context, m []message.Message) []error {
	errs := make([]error, len(m))
	for i := range errs {
		errs[i] = errNothingPublished
	}
	return errs
}

func (nothingPublished) Reject(_ context.Context, m []message.Message) []error {
	return make([]error, len(m))
}

// errNoPosition means that a folder was never a relay's.
var errNoPosition = errors.New("there is no relay's position: \"dtmrelay poll --data DIR\" begins one; --data names another folder, --url a deployed relay")

func (f localFiles) havePosition() error {
	info, err := os.Stat(f.state)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 { // opening would fill it
		return fmt.Errorf("%s: %w", f.dir, errNoPosition)
	}
	return err
}

// lostPosition is where the last poll of a folder left off whose state is gone: there is no
// state.db, or it is empty. Zero: there is one, or there was no poll.
func (f localFiles) lostPosition() time.Time {
	if !errors.Is(f.havePosition(), errNoPosition) {
		return time.Time{}
	}
	text, err := os.ReadFile(filepath.Join(f.dir, statusFile))
	if err != nil {
		return time.Time{}
	}
	var last struct{ Position time.Time }
	_ = json.Unmarshal(text, &last) // of another text nobody knows
	return last.Position
}

// openStore opens the state in a file.
type openStore func(path string) (*bolt.Store, error)

// openFiles is the relay itself, in this process, over files.
func openFiles(ctx context.Context, open openStore, files localFiles, cfg config.Config, keys dtm.KeySource, out ledger.Publisher) (relayClient, func() error, error) {
	store, err := open(files.state)
	if err != nil {
		return relayClient{}, nil, err
	}
	relay, err := relayOver(ctx, store, cfg, keys, out)
	if err != nil {
		return relayClient{}, nil, errors.Join(err, store.Close())
	}
	return relay, store.Close, nil
}

// relayOver is the relay in this process over a store that is open.
func relayOver(ctx context.Context, store *bolt.Store, cfg config.Config, keys dtm.KeySource, out ledger.Publisher) (relayClient, error) {
	parts := app.Parts{Store: store, Publisher: out, Keys: keys, OneReader: true}
	var built *app.App
	var err error
	if variable("LOG_LEVEL") == "" {
		// What goes wrong is in the answers. The log is for who asks for it.
		built, err = app.New(cfg, parts, slog.New(slog.DiscardHandler))
	} else {
		built, err = app.Build(ctx, cfg, nil, parts)
	}
	if err != nil {
		return relayClient{}, err
	}
	return relayClient{transport: inProcess{built}, push: inProcess{built.SyncStatus()}}, nil
}

// relayClient calls the HTTP interface of a relay.
type relayClient struct {
	base      string
	transport http.RoundTripper // to the function Ingest
	push      http.RoundTripper // to SyncStatus; nil where it can't be called
}

// maxAnswer bounds what is read of an answer; 200 backfills have far less.
const maxAnswer = 64 << 20

// call sends a request. What a relay answers to it is an object with the member; the
// error says what the relay's answer says of a problem.
func (r relayClient) call(ctx context.Context, method, path string, body any, member string) (json.RawMessage, error) {
	return r.send(ctx, r.transport, method, path, body, member)
}

func (r relayClient) send(ctx context.Context, through http.RoundTripper, method, path string, body any, member string) (json.RawMessage, error) {
	var sent io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		sent = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, sent)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "dtmrelay/"+observe.Version)
	// Not a http.Client: it would take the identity token along to where a redirect leads.
	resp, err := through.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("calling the relay: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the relay's answer: %w", err)
	}
	who := fmt.Sprintf("the relay answers %d: ", resp.StatusCode)
	if r.base == "" {
		// It is this process: its key is that of the command, and its network that of the user.
		who, text = "", bytes.ReplaceAll(text, []byte("store a valid key as a new version of the secret"), []byte(checkKey))
		text = bytes.ReplaceAll(text, []byte("no usable answer from "), []byte(checkNetwork+": no usable answer from "))
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case kind == "application/problem+json":
		return nil, problemOf(resp.StatusCode, who, text)
	case kind == "application/json" && answersRequest(method, resp.StatusCode) && hasMember(text, member):
		return bytes.TrimSpace(text), nil
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("%s does not let this caller in (%d): grant the account roles/run.invoker on the function", r.base, resp.StatusCode)
	}
	return nil, fmt.Errorf("%s answers %d, not as a relay does: is it the address of the function Ingest?", r.base, resp.StatusCode)
}

// answersRequest reports whether a relay answers so what was asked for. A POST that failed
// on its way is answered with how far it came.
func answersRequest(method string, status int) bool {
	return status == http.StatusOK || status == http.StatusAccepted || method == http.MethodPost && status >= 500
}

func hasMember(text []byte, name string) bool {
	var members map[string]json.RawMessage
	err := json.Unmarshal(text, &members)
	return err == nil && members[name] != nil && string(members[name]) != "null"
}

// relayProblem is an answer that says what is wrong.
type relayProblem struct {
	status int
	text   string
}

func (p *relayProblem) Error() string { return p.text }

// problemOf reads an application/problem+json (RFC 9457). Its text may be anybody's; who
// says whose it is.
func problemOf(status int, who string, text []byte) error {
	var p struct {
		Title, Detail string
		Errors        []string
		Problems      int
	}
	_ = json.Unmarshal(text, &p) // an answer without them still has a status
	said := cmp.Or(p.Detail, p.Title, http.StatusText(status))
	if len(p.Errors) > 1 {
		said = fmt.Sprintf("%d problems", max(p.Problems, len(p.Errors)))
		if p.Detail != "" && !strings.Contains(p.Detail, p.Errors[0]) {
			said = p.Detail
		}
	}
	said = who + clean(said)
	if len(p.Errors) > 1 {
		for _, one := range p.Errors {
			said += "\n  " + clean(one)
		}
		if more := p.Problems - len(p.Errors); more > 0 {
			said += fmt.Sprintf("\n  and %d more", more)
		}
	}
	return &relayProblem{status, said}
}

// inProcess sends requests to a handler of this process.
type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	answer := &recordedAnswer{header: http.Header{}, status: http.StatusOK}
	t.handler.ServeHTTP(answer, req)
	return &http.Response{StatusCode: answer.status, Header: answer.header, Body: io.NopCloser(&answer.body), Request: req}, nil
}

type recordedAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *recordedAnswer) Header() http.Header         { return a.header }
func (a *recordedAnswer) WriteHeader(status int)      { a.status = status }
func (a *recordedAnswer) Write(p []byte) (int, error) { return a.body.Write(p) }
