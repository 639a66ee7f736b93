package dtm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

const (
	defaultPageLimit  = 32 << 20
	defaultPageMemory = 96 << 20
)

// KeySource holds the API key.
type KeySource interface {
	// Key returns the key, from a cache where it can.
	Key(ctx context.Context) (string, error)
	// Renew is called once when the API refused the key: it reads the secret again
	// and returns what it holds now, perhaps the same.
	Renew(ctx context.Context, refused string) (string, error)
}

// Options are what a Client needs.
type Options struct {
	BaseURL   string // such as https://www.virustotal.com/api/v3; http only for this machine
	ToolName  string // value of x-tool
	UserAgent string
	Keys      KeySource
	Meter     *Meter

	Concurrency int     // requests at a time; the API allows 10 lists per user
	QPS         float64 // requests a second

	// Transport sends the requests; nil stands for one of the client's own. Only of
	// that one a request that is given up goes on, and counts, until it has ended.
	Transport http.RoundTripper
	// Rand gives the jitter of waits, at least 0 and below 1; nil stands for math/rand.
	Rand func() float64
	// PageLimit is the most bytes that a page may have, unpacked; 0 stands for 32 MiB.
	PageLimit int64
	// PageMemory is the most bytes that all pages not yet released may have
	// together; 0 stands for 96 MiB. It has room for one whole page at least.
	PageMemory int64
}

// Client asks the API on behalf of one user. Its limits hold for all its
// sessions together, as the API's limits are per user.
type Client struct {
	alerts    *url.URL
	monitors  *url.URL
	toolName  string
	userAgent string
	keys      KeySource
	meter     *Meter
	transport http.RoundTripper
	rand      func() float64
	pageLimit int64

	slots   *semaphore.Weighted // requests at a time
	lingers bool                // a request that is given up keeps its slot until it has ended
	limiter *rate.Limiter
	gate    gate
	memory  *semaphore.Weighted // bytes of pages
}

// New returns a client, or an error with everything that is wrong with the options.
func New(o Options) (*Client, error) {
	if o.PageLimit == 0 {
		o.PageLimit = defaultPageLimit
	}
	if o.PageMemory == 0 {
		o.PageMemory = defaultPageMemory
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	own := o.Transport == nil
	if own {
		o.Transport = newTransport(o.Concurrency)
	}
	base, err := parseBase(o.BaseURL)
	problems := []error{err}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(o.ToolName != "" && validHeader(o.ToolName), "tool name %q: must be printable ASCII", o.ToolName)
	check(validHeader(o.UserAgent), "user agent %q: must be printable ASCII", o.UserAgent)
	check(o.Keys != nil, "no source of the API key")
	check(o.Meter != nil, "no meter")
	check(o.Concurrency >= 1 && o.Concurrency <= 10, "concurrency %d: must be 1 to 10", o.Concurrency)
	check(o.QPS > 0, "%v requests a second: must be more than 0", o.QPS)
	check(o.PageLimit > 0, "page limit %d: must be more than 0", o.PageLimit)
	check(o.PageMemory >= o.PageLimit, "page memory %d: must be at least the page limit %d", o.PageMemory, o.PageLimit)
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("DTM client: %w", err)
	}
	return &Client{
		alerts:    base.JoinPath("dtm", "alerts"),
		monitors:  base.JoinPath("dtm", "monitors"),
		toolName:  o.ToolName,
		userAgent: o.UserAgent,
		keys:      o.Keys,
		meter:     o.Meter,
		transport: o.Transport,
		rand:      o.Rand,
		pageLimit: o.PageLimit,
		slots:     semaphore.NewWeighted(int64(o.Concurrency)),
		lingers:   own,
		limiter:   rate.NewLimiter(rate.Limit(o.QPS), max(1, int(o.QPS/10))),
		memory:    semaphore.NewWeighted(o.PageMemory),
	}, nil
}

func newTransport(concurrency int) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: concurrency,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
		// DTM API: the recorded ones have less than 1 KB. net/http allows 10 MiB, for
		// each request under way.
		MaxResponseHeaderBytes: 1 << 20,
		// An instance is frozen between two requests, and its connection may be
		// dead when it goes on; without a ping every attempt would find that out
		// by its own timeout.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
}

func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("base URL: can't be read as a URL")
	case u.Scheme != "https" && (u.Scheme != "http" || !Loopback(u.Hostname())):
		return nil, fmt.Errorf("base URL: scheme %q, must be https (http only for a loopback address)", u.Scheme)
	case u.Hostname() == "":
		return nil, errors.New("base URL: has no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("base URL: must have no user, query or fragment")
	}
	return u, nil
}

// Loopback reports whether a host is this machine, to which the key may be sent
// without encryption.
func Loopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

func validHeader(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// gate holds requests back after the API said how long to wait.
type gate struct {
	mu     sync.Mutex
	until  time.Time
	cause  error
	raised time.Time
}

// raise closes the gate for the session that was told so and those beside it.
func (g *gate) raise(opened, until time.Time, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.until) || g.raised.Before(opened) {
		g.until, g.cause, g.raised = until, cause, time.Now()
	}
}

// closed returns until when the gate is closed, and why, for a session that was
// opened then; the zero time when it is open. A later session does not wait for
// what an earlier one was told: its first request goes alone, and is told anew
// if that still holds.
func (g *gate) closed(opened time.Time) (until time.Time, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.until.After(time.Now()) || g.raised.Before(opened) {
		return time.Time{}, nil
	}
	return g.until, g.cause
}
