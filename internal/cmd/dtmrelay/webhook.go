package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/observe"
)

const (
	// webhookAttempts and the waits between them are about half a minute: what lasts
	// longer is for the next poll.
	webhookAttempts = 5
	webhookBackoff  = 2 * time.Second
	// webhookTime bounds one attempt.
	webhookTime = 30 * time.Second
	// webhookWait is the longest wait that an answer can ask for.
	webhookWait = time.Minute
)

// webhook posts messages to an address.
type webhook struct {
	url       string
	header    http.Header
	host      string // of the request; empty: the address's
	transport http.RoundTripper
	random    func() float64 // at least 0 and below 1
}

// checkWebhook checks an address. Its error doesn't show it: it may hold a secret.
func checkWebhook(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && (u.Scheme != "http" || !dtm.Loopback(u.Hostname())):
		return errors.New("--webhook: the value (not shown) is not allowed: it must be an address with https, or with http for this machine, such as https://example.com/hook")
	case u.User != nil: // they would not be sent, and a 401 is for good
		return errors.New("--webhook: the value (not shown) has a user name: leave it out, and give the receiver a line such as Authorization: Basic x by --webhook-header-file")
	}
	return nil
}

// newWebhook reads the header of every request from a file, unless it is named "". The
// errors show nothing of it: it may hold a secret.
func newWebhook(address, headerFile string) (*webhook, error) {
	w := &webhook{url: address, header: http.Header{}, transport: http.DefaultTransport, random: rand.Float64}
	if headerFile != "" {
		text, err := readShort(headerFile, "lines of a header")
		if err != nil {
			return nil, fmt.Errorf("--webhook-header-file: %w", err)
		}
		if err := w.readHeader(string(text)); err != nil {
			return nil, fmt.Errorf("--webhook-header-file: %s: %w", headerFile, err)
		}
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "User-Agent": "dtm-relay/" + observe.Version} {
		if w.header.Values(name) == nil {
			w.header.Set(name, value)
		}
	}
	return w, nil
}

// headerLine is a field name of HTTP (RFC 9110, 5.6.2), a colon and printable text.
var headerLine = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~]*)$")

// ofConnection are the fields that HTTP's transport sets itself, or leaves out.
var ofConnection = []string{"Connection", "Content-Length", "Trailer", "Transfer-Encoding"}

func (w *webhook) readHeader(text string) error {
	var errs []error
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		found := headerLine.FindStringSubmatch(line)
		if found == nil {
			errs = append(errs, usagef("line %d (not shown) is not allowed: it must be a name, a colon and printable ASCII, such as Authorization: Bearer x", n))
			continue
		}
		switch name := http.CanonicalHeaderKey(found[1]); {
		case slices.Contains(ofConnection, name):
			errs = append(errs, usagef("line %d: %s is not allowed, because the connection decides it: leave the line out", n, name))
		case name == "Host" && w.host != "":
			errs = append(errs, usagef("line %d: Host stands there twice: leave one out", n))
		case name == "Host":
			w.host = found[2]
		default:
			w.header.Add(name, found[2])
		}
	}
	return errors.Join(errs...)
}

// deliver posts a message's data until it was taken. An answer of 4xx, other than 408,
// 425 and 429, is for good: message.ErrRefused.
func (w *webhook) deliver(ctx context.Context, m message.Message) error {
	for attempt := 1; ; attempt++ {
		wait, err := w.post(ctx, m.Data)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, message.ErrRefused):
			return err
		case attempt == webhookAttempts:
			return fmt.Errorf("the webhook failed %d times: %w", attempt, err)
		}
		if wait == 0 {
			wait = time.Duration(w.random() * float64(webhookBackoff<<(attempt-1)))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(wait, webhookWait)):
		}
	}
}

// refusedError is the status with which a webhook refuses an alert for good.
type refusedError int

func (e refusedError) Error() string { return fmt.Sprintf("the webhook refused it with %d", int(e)) }

// Is makes it a message.ErrRefused.
func (e refusedError) Is(target error) bool { return target == message.ErrRefused }

// post makes one attempt. wait is what the answer asks for before the next, 0 for nothing.
func (w *webhook) post(ctx context.Context, data []byte) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, webhookTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(data))
	if err != nil {
		return 0, errors.New("the address can't be asked")
	}
	req.Header = w.header.Clone()
	req.Host = cmp.Or(w.host, req.Host)
	// Not a client's Do: it would follow redirects, with a GET.
	resp, err := w.transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // for the next request on this connection
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	wait = time.Duration(max(0, min(seconds, int(webhookWait/time.Second)))) * time.Second
	switch status := resp.StatusCode; {
	case status >= 200 && status < 300:
		return 0, nil
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
	case status >= 400 && status < 500:
		return 0, refusedError(status)
	}
	return wait, fmt.Errorf("it answered %d", resp.StatusCode)
}
