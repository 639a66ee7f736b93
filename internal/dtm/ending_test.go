package dtm

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// leaked is text of an alert, which no error may show.
const leaked = "a password of an alert"

// raw is a server that answers each request with these bytes, and then ends the
// connection.
func raw(t *testing.T, answer string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(conn, answer)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// withLength is an answer with a body and its length.
func withLength(head, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)
}

// TestEndings: whatever ends a request at GTI or on the way to it has a type that
// says so, and its text shows neither the key nor what a server sent.
func TestEndings(t *testing.T) {
	const ok, limit = "200 OK", 256 << 10
	page := `{"alerts":[{"id":"a1","created_at":"2026-03-02T10:00:00Z","title":"` + leaked + `"}]}`
	packed := gzipped(t, page)
	status := func(n int) func(error) bool {
		return func(err error) bool {
			var e *APIError
			return errors.As(err, &e) && e.Status == n
		}
	}
	lost := func(err error) bool { var e *NoAnswerError; return errors.As(err, &e) }
	redirect := func(err error) bool { var e *RedirectError; return errors.As(err, &e) }
	large := func(err error) bool { var e *PageTooLargeError; return errors.As(err, &e) }

	// The key may stand in what a server sends back.
	for name, c := range map[string]struct {
		answer string
		want   func(error) bool
	}{
		"nothing":                         {"", lost},
		"no HTTP":                         {"\x16\x03\x01 " + leaked + testKey + "\r\n\r\n", lost},
		"no status":                       {"HTTP/1.1 " + leaked + "\r\n\r\n", lost},
		"HTTP/1.0 garbage":                {"HTTP/1.0 abc " + leaked + "\r\n\r\n", lost},
		"another version":                 {"HTTP/7 200 OK\r\n\r\n", lost},
		"a header that is none":           {"HTTP/1.1 200 OK\r\n" + leaked + testKey + "\r\n\r\n", lost},
		"a header of no name":             {"HTTP/1.1 200 OK\r\n: " + leaked + "\r\n\r\n", lost},
		"headers cut off":                 {"HTTP/1.1 200 OK\r\nX-A: " + leaked, lost},
		"a flood of headers":              {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 2000) + "\r\n", lost},
		"a flood of 1xx":                  {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 50_000) + withLength(ok, page), lost},
		"101":                             {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n" + leaked, lost},
		"202":                             {withLength("202 Accepted", page), lost},
		"203":                             {withLength("203 Non-Authoritative Information", page), lost},
		"205":                             {"HTTP/1.1 205 Reset Content\r\n\r\n", lost},
		"206":                             {withLength("206 Partial Content", page), lost},
		"299":                             {withLength("299 Odd", page), lost},
		"300 with a place":                {"HTTP/1.1 300 Multiple Choices\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", lost},
		"302 without a place":             {withLength("302 Found", leaked), redirect},
		"302 to what is no place":         {"HTTP/1.1 302 Found\r\nLocation: http://[::1" + testKey + "\r\nContent-Length: 0\r\n\r\n", redirect},
		"302 elsewhere":                   {"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/x?page=1\r\nContent-Length: 0\r\n\r\n", redirect},
		"302 to another port":             {"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n", redirect},
		"302 to another scheme":           {"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", redirect},
		"302 to no host":                  {"HTTP/1.1 302 Found\r\nLocation: http:///x\r\nContent-Length: 0\r\n\r\n", redirect},
		"307 for ever":                    {"HTTP/1.1 307 Temporary Redirect\r\nLocation: ?page=" + testKey + "\r\nContent-Length: 0\r\n\r\n", redirect},
		"304":                             {"HTTP/1.1 304 Not Modified\r\n\r\n", lost},
		"305":                             {"HTTP/1.1 305 Use Proxy\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", lost},
		"399":                             {withLength("399 Odd", ""), lost},
		"404 of a proxy":                  {withLength("404 Not Found", "<html></html>"), status(404)},
		"407":                             {withLength("407 Proxy Authentication Required", ""), status(407)},
		"421":                             {withLength("421 Misdirected Request", ""), status(421)},
		"425":                             {withLength("425 Too Early", ""), status(425)},
		"500 cut off":                     {"HTTP/1.1 500 X\r\nContent-Length: 99\r\n\r\n{\"err", status(500)},
		"999":                             {withLength("999 Odd", ""), status(999)},
		"half a body":                     {"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + page, lost},
		"a length too short":              {"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + page, lost},
		"a negative length":               {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + page, lost},
		"a length that is none":           {"HTTP/1.1 200 OK\r\nContent-Length: " + leaked + "\r\n\r\n" + page, lost},
		"two lengths":                     {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + page, lost},
		"an encoding that nobody knows":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + leaked + "\r\n\r\n" + page, lost},
		"chunks that are none":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + page, lost},
		"a chunk cut off":                 {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n" + page, lost},
		"no last chunk":                   {fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(page), page), lost},
		"a trailer that is none":          {fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n%s", len(page), page, leaked), lost},
		"gzip that is none":               {withLength(ok+"\r\nContent-Encoding: gzip", page), lost},
		"gzip cut off":                    {withLength(ok+"\r\nContent-Encoding: gzip", packed[:len(packed)-9]), lost},
		"gzip with a wrong sum":           {withLength(ok+"\r\nContent-Encoding: gzip", packed[:len(packed)-8]+"12345678"), lost},
		"gzip and more":                   {withLength(ok+"\r\nContent-Encoding: gzip", packed+leaked), lost},
		"another packing":                 {withLength(ok+"\r\nContent-Encoding: br", packed), lost},
		"unpacked, far larger":            {withLength(ok+"\r\nContent-Encoding: gzip", gzipped(t, strings.Repeat(" ", 16*limit)+page)), large},
		"HTML":                            {withLength(ok, "<html>"+leaked+"</html>"), lost},
		"HTTP/1.0 and the body's cut off": {"HTTP/1.0 200 OK\r\n\r\n" + page[:len(page)-3], lost},
	} {
		t.Run(name, func(t *testing.T) { testEnding(t, raw(t, c.answer), nil, c.want) })
	}
	t.Run("204 for one alert", func(t *testing.T) {
		c, end := endingClient(t, raw(t, "HTTP/1.1 204 No Content\r\n\r\n"), nil)
		defer end()
		if _, err := c.Session(liveShare).Get(t.Context(), "a1", true); !lost(err) || !Failed(err) {
			t.Errorf("%T %v", err, err)
		}
	})

	https := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, page[:10])
		panic(http.ErrAbortHandler)
	}))
	https.EnableHTTP2 = true
	https.Config.ErrorLog = log.New(io.Discard, "", 0)
	https.StartTLS()
	defer https.Close()
	trusting := func(tr *http.Transport) {
		tr.TLSClientConfig = &tls.Config{RootCAs: https.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs} //nolint:forcetypeassert // of httptest
	}
	port := https.Listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of httptest
	refuse := func(status string) string { return withLength(status, leaked) }
	for name, c := range map[string]struct {
		base  string
		setUp func(*http.Transport)
	}{
		"an unknown certificate":        {https.URL, func(*http.Transport) {}},
		"a certificate of another host": {fmt.Sprintf("https://localhost:%d", port), trusting},
		"an expired certificate": {https.URL, func(tr *http.Transport) {
			trusting(tr)
			tr.TLSClientConfig.Time = func() time.Time { return time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC) }
		}},
		"no version in common": {https.URL, func(tr *http.Transport) {
			trusting(tr)
			tr.TLSClientConfig.MaxVersion = tls.VersionTLS10
		}},
		"no TLS":                      {strings.Replace(raw(t, withLength("200 OK", page)), "http:", "https:", 1), func(*http.Transport) {}},
		"HTTP/2, and the stream ends": {https.URL, trusting},
		"no connection": {"https://gti.example", func(tr *http.Transport) {
			tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "gti.example", IsNotFound: true}}
			}
		}},
		"the proxy refuses":             {"https://gti.example", through(t, raw(t, refuse("403 Forbidden")))},
		"the proxy wants to know who":   {"https://gti.example", through(t, raw(t, refuse("407 Proxy Authentication Required")))},
		"the proxy finds no way":        {"https://gti.example", through(t, raw(t, refuse("502 Bad Gateway")))},
		"the proxy is none":             {"https://gti.example", through(t, raw(t, leaked+testKey+"\r\n\r\n"))},
		"nothing past the proxy":        {"https://gti.example", through(t, raw(t, "HTTP/1.1 200 OK\r\n\r\n"))},
		"no TLS past the proxy":         {"https://gti.example", through(t, raw(t, "HTTP/1.1 200 OK\r\n\r\n"+leaked))},
		"the proxy's scheme is unknown": {"https://gti.example", through(t, "gopher://127.0.0.1:1")},
	} {
		t.Run(name, func(t *testing.T) { testEnding(t, c.base, c.setUp, lost) })
	}
}

func through(t *testing.T, proxy string) func(*http.Transport) {
	t.Helper()
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	return func(tr *http.Transport) { tr.Proxy = http.ProxyURL(u) }
}

func endingClient(t *testing.T, base string, setUp func(*http.Transport)) (c *Client, end func()) {
	t.Helper()
	tr := newTransport(1)
	tr.DisableKeepAlives = true // each answer of raw is its connection's last
	if setUp != nil {
		setUp(tr)
	}
	return newClient(t, tr, func(o *Options) {
		o.BaseURL, o.PageLimit, o.PageMemory = base+"/api/v3", 256<<10, 256<<10
		o.Rand = func() float64 { return 0 }
	}), tr.CloseIdleConnections
}

// testEnding asks for a list, for an alert and for a change.
func testEnding(t *testing.T, base string, setUp func(*http.Transport), want func(error) bool) {
	t.Helper()
	c, end := endingClient(t, base, setUp)
	defer end()
	check := func(what string, err error) {
		if err == nil || !want(err) || !Failed(err) {
			t.Errorf("%s: %T %v", what, err, err)
		}
		if err == nil {
			return
		}
		for _, secret := range []string{testKey, leaked, "page="} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %q stands in %v", what, secret, err)
			}
		}
		if len(err.Error()) > 1000 {
			t.Errorf("%s: the error has %d bytes", what, len(err.Error()))
		}
	}
	_, err := collect(t.Context(), c.Session(liveShare), Query{Size: 100})
	check("list", err)
	_, err = c.Session(liveShare).Once().Get(t.Context(), "a1", true)
	check("get", err)
	// An answer of success that can't be read doesn't say that a change failed.
	if got, err := c.Session(liveShare).Once().Update(t.Context(), "a1", Patch{Status: new("closed")}); err != nil {
		check("change", err)
	} else if got.ID != "" {
		t.Errorf("change: %+v", got)
	}
}
