package dtmsim

import (
	"net"
	"net/http"
	"os"
	"syscall"
)

// RoundTripper returns a transport that serves every request from this server,
// whatever its host, without sockets and in the caller's goroutine: for clients in
// a testing/synctest bubble. Resets and cut bodies become the errors that net/http
// gives for them. Unlike net/http it never sends a request twice by itself.
func (s *Server) RoundTripper() http.RoundTripper { return roundTripper{s} }

type roundTripper struct{ server *Server }

func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := t.server.answer(r)
	if r.Body != nil {
		_ = r.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	if a.reset {
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	}
	if t.server.options.Gzip {
		a.compress(r)
	}
	return &http.Response{
		Status: a.statusLine(), StatusCode: a.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: newBody(r.Context(), a), ContentLength: -1,
		TransferEncoding: []string{"chunked"},
		Request:          r,
	}, nil
}
