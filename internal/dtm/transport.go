package dtm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	headerTimeout = 60 * time.Second // until the answer's headers are there
	bodyTimeout   = 30 * time.Second // for each bodyStep of the body, and for its end
	bodyStep      = 16 << 10         // bytes: one that drips would take all of a run's time
	errorTimeout  = 5 * time.Second  // for the body of an error, whose status says enough

	maxRedirects = 3
	maxErrorBody = 64 << 10
	firstBuffer  = 64 << 10
)

var (
	errSilent = fmt.Errorf("the server fell silent (%v before the answer, or less than %d KiB of it in %v)", headerTimeout, bodyStep>>10, bodyTimeout)
	errRate   = errors.New("the limit of requests a second")
)

// newKeyError says that the key was refused and that there is another one now.
type newKeyError struct{ apiErr *APIError }

func (e *newKeyError) Error() string { return "the API key was replaced: " + e.apiErr.Error() }

// response is what came with a status of success.
type response struct {
	status     int
	key        string // that it was asked for with: whoever answers may send it back
	header     http.Header
	body       []byte
	alerts     []Alert
	askedAt    time.Time
	receivedAt time.Time // when it began
	date       time.Time // by the API's clock; zero when it doesn't say
	release    func()    // gives the body's memory back
}

func (r response) page() Page {
	return Page{Alerts: r.alerts, AskedAt: r.askedAt, ReceivedAt: r.receivedAt, Date: r.date, release: r.release}
}

// explain says of a body that could not be read what it is, where that tells more than err:
// it points at what stands between the relay and GTI.
func (r response) explain(err error) error {
	if packed := r.header.Get("Content-Encoding"); packed != "" && !strings.EqualFold(packed, "identity") {
		return fmt.Errorf("the body is packed as %q, which was not asked for", Cut(clean(packed, r.key), 32))
	}
	switch {
	case len(trim(r.body)) == 0 && r.alerts == nil:
		return errors.New("the body is empty")
	case isWebPage(r.body):
		return errors.New("the body is a web page")
	case bytes.HasPrefix(r.body, []byte("\xef\xbb\xbf")), bytes.HasPrefix(r.body, []byte("\xff\xfe")), bytes.HasPrefix(r.body, []byte("\xfe\xff")):
		return errors.New("the body begins with a byte order mark, which JSON has none of")
	case bytes.HasPrefix(r.body, []byte("\x1f\x8b")):
		return errors.New("the body is packed with gzip, and its header doesn't say so")
	default:
		return err
	}
}

// dateOf is the API's clock; zero when it doesn't say.
func dateOf(header http.Header) time.Time {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return date.UTC()
}

// latest is the later one of our clock and the API's: what lies far ahead of both
// is a mistake of the alert, and of neither clock.
func (r response) latest() time.Time {
	if r.date.After(r.askedAt) {
		return r.date
	}
	return r.askedAt
}

// exchange sends a request, follows redirects on the same host, and reads the
// answer. It holds a slot until the body is read, or what was given up has ended.
func (s *Session) exchange(ctx context.Context, req request, memory *pageMemory, retry bool) (response, error) {
	if err := s.acquire(ctx, s.client.slots, 1); err != nil {
		return response{}, err
	}
	var left underWay
	over := func() {}
	defer func() {
		left.ended(func() {
			over()
			s.client.slots.Release(1)
		})
	}()

	target := req.target
	for redirects := 0; ; redirects++ {
		if err := s.clearance(ctx, req); err != nil {
			return response{}, err
		}
		if err := s.over(); err != nil {
			return response{}, err
		}
		key, err := s.currentKey(ctx)
		if err != nil {
			return response{}, err
		}
		over() // it was answered with a redirect
		ended, err := s.client.meter.admit(ctx, s.share)
		if err != nil {
			return response{}, err
		}
		over = ended
		s.count(func(st *Stats) {
			st.Requests++
			if retry {
				st.Retries++
			}
		})
		got, location, err := s.send(ctx, req, &target, key, memory, &left)
		if api := (*APIError)(nil); redirects > 0 && errors.As(err, &api) {
			api.Foreign = true // another place does not know what is asked for
		}
		switch {
		case err != nil || location == nil:
			return got, err
		case redirects == maxRedirects:
			return response{}, &RedirectError{Status: got.status, Host: site(location), Why: whyOften}
		}
		target = *location
	}
}

// clearance waits until the API and MAX_QPS let a request through.
func (s *Session) clearance(ctx context.Context, req request) error {
	for {
		if until, cause := s.client.gate.closed(s.opened); !until.IsZero() {
			if err := s.pause(ctx, req, until, cause); err != nil {
				return err
			}
			continue
		}
		turn := s.client.limiter.Reserve()
		err := s.pause(ctx, req, time.Now().Add(turn.Delay()), errRate)
		if Kind(err) == Wait {
			// Our own limit is no news to anyone: the run just ends at its deadline.
			<-ctx.Done()
			err = context.Cause(ctx)
		}
		if err != nil {
			turn.Cancel()
			return err
		}
		if until, _ := s.client.gate.closed(s.opened); until.IsZero() {
			return nil
		}
	}
}

// send sends one request. A redirect that may be followed is returned as location.
func (s *Session) send(ctx context.Context, req request, target *url.URL, key string, memory *pageMemory, left *underWay) (got response, location *url.URL, err error) {
	sending := ctx
	if s.client.lingers && !req.changes() { // a change is not to be sent when nobody waits for it any more
		sending = context.WithoutCancel(ctx)
	}
	attempt, cancel := context.WithCancelCause(sending)
	watch := time.AfterFunc(headerTimeout, func() { cancel(errSilent) })
	over := func() {
		watch.Stop()
		cancel(nil)
	}
	// lost tells the ends of an attempt apart: the run's, the watch's, the network's.
	lost := func(err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(context.Cause(attempt), errSilent):
			err = errSilent
		default:
			err = discreet(err, key)
		}
		return &NoAnswerError{Answered: got.status/100 == 2, endpoint: req.endpoint(), err: err}
	}

	httpReq, err := s.client.newRequest(attempt, req, target, key)
	if err != nil {
		over()
		return response{}, nil, err
	}
	got.key, got.askedAt = key, time.Now()
	// The transport itself, not an http.Client: that would follow redirects, and
	// put the URL with its query into errors.
	resp, err := s.roundTrip(ctx, httpReq, over, left)
	if err != nil {
		return response{}, nil, lost(err)
	}
	defer over()
	defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
	defer func() { _ = resp.Body.Close() }() // what matters was read or failed before
	body := s.watched(resp.Body, watch)
	got.receivedAt, got.status, got.header, got.date = time.Now(), resp.StatusCode, resp.Header, dateOf(resp.Header)

	switch {
	case got.status >= 400:
		watch.Reset(errorTimeout)
		return response{}, nil, s.readFailure(ctx, resp, body, key)
	case isRedirect(got.status):
		location, err = follow(req, target, resp, key)
		return got, location, err
	case !req.isAnsweredBy(got.status):
		return response{}, nil, lost(fmt.Errorf("the status %d, which answers nothing that was asked", got.status))
	}
	s.setAuthenticated()
	err = s.client.readSuccess(&got, req, body, memory)
	switch {
	case err == nil, errors.Is(err, ErrMemory):
		return got, nil, err
	case errors.Is(err, errTooLarge):
		return got, nil, &PageTooLargeError{Size: req.size, Refs: req.refs, Limit: s.client.pageLimit}
	default:
		return response{}, nil, lost(err)
	}
}

func (c *Client) newRequest(ctx context.Context, req request, target *url.URL, key string) (*http.Request, error) {
	// net/http repeats a GET by itself when a connection breaks, but not one with
	// a body, and a page token serves one request. The body is empty, so that
	// nothing of it is sent; a plain reader would be taken for no body.
	var content io.Reader = io.NopCloser(strings.NewReader(""))
	if req.body != nil {
		// This it may repeat: a change replaces, so that twice is as good as once.
		content = bytes.NewReader(req.body)
	}
	httpReq, err := http.NewRequestWithContext(ctx, req.method, target.String(), content)
	if err != nil { // the target is a redirect's
		return nil, &NoAnswerError{endpoint: req.endpoint(), err: errors.New("the request can't be made")}
	}
	if req.body != nil {
		httpReq.Header.Set("Content-Type", "application/json")
	}
	httpReq.Header.Set("Accept", "application/json")
	httpReq.Header.Set("User-Agent", c.userAgent)
	httpReq.Header.Set("X-Apikey", key)
	httpReq.Header.Set("X-Tool", c.toolName)
	return httpReq, nil
}

// watched is a body whose bytes are counted, and each bodyStep of which has bodyTimeout
// to come.
func (s *Session) watched(body io.Reader, watch *time.Timer) *bufio.Reader {
	watch.Reset(bodyTimeout)
	step := 0
	counted := &progress{Reader: body, moved: func(n int) {
		if step += n; step >= bodyStep {
			step = 0
			watch.Reset(bodyTimeout)
		}
		s.count(func(st *Stats) { st.Bytes += int64(n) })
	}}
	// What is read has a buffer of its own: this one is for the byte after a page
	// that is full.
	return bufio.NewReaderSize(counted, 16)
}

// readSuccess reads the body of an answer with a status of success.
func (c *Client) readSuccess(got *response, req request, body *bufio.Reader, memory *pageMemory) (err error) {
	if req.changes() {
		// The change is made. What the answer says about it is welcome, not needed.
		got.body, _ = io.ReadAll(io.LimitReader(body, maxChanged))
		return nil
	}
	if got.status == http.StatusNoContent {
		return nil
	}
	got.body, err = c.readPage(body, memory)
	if errors.Is(err, errTooLarge) && req.last {
		got.alerts, err = readOversized(io.MultiReader(bytes.NewReader(got.body), body), maxOversized)
		got.body = nil
		memory.resize(oversizedHead)
	}
	return err
}

// readFailure is the error that an answer of 400 or above stands for.
func (s *Session) readFailure(ctx context.Context, resp *http.Response, body io.Reader, key string) error {
	s.failed()
	text, _ := io.ReadAll(io.LimitReader(body, maxErrorBody))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	failure := newAPIError(resp, text, key)
	if failure.Status == http.StatusUnauthorized || failure.Status == http.StatusForbidden {
		if err := s.refused(ctx, key, failure); err != nil {
			return err
		}
		return &newKeyError{apiErr: failure}
	}
	if failure.Status == http.StatusTooManyRequests && failure.Code == "QuotaExceededError" {
		return s.end(newQuotaError(failure))
	}
	return failure
}

// underWay is a request that was given up and is still under way: GTI counts it
// among those that it works at (DTM API: 10 lists of a user), and would answer one
// more with 429. Closing its connection would not end that. A nil underWay stands
// for no request.
type underWay chan struct{}

// ended calls done when nothing is under way any more.
func (u underWay) ended(done func()) {
	if u == nil {
		done()
		return
	}
	go func() {
		<-u
		done()
	}()
}

// roundTrip sends a request and returns its answer, or when ctx ends; a request that
// is not bound to ctx is left under way then. over is called when that has ended,
// and after an error.
func (s *Session) roundTrip(ctx context.Context, req *http.Request, over func(), left *underWay) (*http.Response, error) {
	if !s.client.lingers {
		resp, err := s.client.transport.RoundTrip(req)
		if err != nil {
			over()
		}
		return resp, err
	}
	var resp *http.Response
	var err error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		resp, err = s.client.transport.RoundTrip(req) //nolint:bodyclose // by the caller, or below
	}()
	select {
	case <-answered:
		if err != nil {
			over()
		}
		return resp, err
	case <-ctx.Done():
	}
	ended := make(chan struct{})
	*left = ended
	go func() {
		defer close(ended)
		defer over()
		<-answered
		if err != nil {
			return
		}
		if resp.StatusCode >= 400 {
			s.failed()
		}
		_ = resp.Body.Close() // it is not read
	}()
	return nil, context.Cause(ctx)
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		return true
	}
	return keepsMethod(status)
}

// keepsMethod reports whether a redirect lets a change be one: after the others
// it would be sent as a GET.
func keepsMethod(status int) bool {
	return status == http.StatusTemporaryRedirect || status == http.StatusPermanentRedirect
}

// follow returns where a redirect leads, or a *RedirectError when the request must
// not be sent there.
func follow(req request, from *url.URL, resp *http.Response, key string) (*url.URL, error) {
	refused := &RedirectError{Status: resp.StatusCode}
	to, err := from.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		refused.Why = whyNowhere
		return nil, refused
	}
	refused.Host = Cut(clean(site(to), key), maxMessage) // who answers may send the key back
	switch {
	case to.Scheme != from.Scheme || !strings.EqualFold(to.Hostname(), from.Hostname()) || port(to) != port(from):
		refused.Why = whyElsewhere
		return nil, refused
	case req.changes() && !keepsMethod(resp.StatusCode):
		refused.Why = whyChange
		return nil, refused
	case !asksTheSame(from.Query(), to.Query()):
		refused.Why = whyOther
		return nil, refused
	}
	to.User = nil
	return to, nil
}

// asksTheSame reports whether a redirect's target has all that was asked for: without
// its query, a listing is another one.
func asksTheSame(from, to url.Values) bool {
	for name, values := range from {
		if !slices.Equal(values, to[name]) {
			return false
		}
	}
	return true
}

// site is a URL's scheme and host: its path and query are no log's business.
func site(u *url.URL) string { return u.Scheme + "://" + u.Host }

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"?`)

// discreet takes out of net/http's errors what they quote of an answer: it may be
// the middle of an alert, or a header of ours that was sent back.
func discreet(err error, key string) error {
	text := err.Error()
	if certificate := (*tls.CertificateVerificationError)(nil); !errors.As(err, &certificate) {
		text = quoted.ReplaceAllString(text, `"…"`)
	}
	if text = Cut(clean(text, key), maxMessage); text != err.Error() {
		return errors.New(text)
	}
	return err
}

// progress reports the bytes that come.
type progress struct {
	io.Reader
	moved func(n int)
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		p.moved(n)
	}
	return n, err
}

var errTooLarge = errors.New("larger than a page may be")

// pageMemory is a page's share of the memory of all pages.
type pageMemory struct {
	pool *semaphore.Weighted
	held int64
}

// resize makes the share n bytes large.
func (m *pageMemory) resize(n int64) bool {
	if n > m.held && !m.pool.TryAcquire(n-m.held) {
		return false
	}
	if n < m.held {
		m.pool.Release(m.held - n)
	}
	m.held = n
	return true
}

func (m *pageMemory) release() { m.resize(0) }

// readPage reads a whole body. Its share of the memory grows with it, and is at
// the end what the body takes. With errTooLarge it returns what it has read.
func (c *Client) readPage(r *bufio.Reader, memory *pageMemory) ([]byte, error) {
	var body []byte
	for {
		if len(body) == cap(body) {
			size := min(max(firstBuffer, 2*int64(cap(body))), c.pageLimit)
			if int64(len(body)) == c.pageLimit {
				// Full to the last byte: only the end may follow.
				if _, err := r.Peek(1); err == nil {
					return body, errTooLarge
				} else if err != io.EOF {
					return nil, err
				}
				break
			}
			if size > memory.held && !memory.resize(size) {
				return nil, ErrMemory
			}
			body = append(make([]byte, 0, size), body...)
		}
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	memory.resize(int64(cap(body)))
	return body, nil
}
