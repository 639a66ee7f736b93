package dtmsim

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// ServeHTTP answers over a connection, which it resets or cuts where a fault wants that.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, err := s.answer(r)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if a.reset {
		reset(w)
		return
	}
	if s.options.Gzip {
		a.compress(r)
	}
	for key, values := range a.header {
		w.Header()[key] = values
	}
	w.WriteHeader(a.status)
	if a.slow == 0 && a.keep == 0 {
		writeAll(w, a.body)
		return
	}
	if _, err := io.Copy(flushing{w}, newBody(r.Context(), a)); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// reset ends the connection so that the client sees a reset, not an end.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// writeAll writes the pieces in few writes, chunked as the API does it: a write
// for every alert would cost the benchmarks' processor a call of the system each.
func writeAll(w http.ResponseWriter, pieces [][]byte) {
	if len(pieces) == 0 {
		return
	}
	const chunk = 256 << 10
	buf, _ := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	for _, piece := range pieces {
		if buf.Len()+len(piece) > chunk && buf.Len() > 0 {
			_, _ = w.Write(buf.Bytes())
			buf.Reset()
		}
		if len(piece) > chunk {
			_, _ = w.Write(piece)
			continue
		}
		buf.Write(piece)
	}
	_, _ = w.Write(buf.Bytes())
	_ = http.NewResponseController(w).Flush()
}

// flushing sends every write at once.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

// compress encodes the body for a client that accepts gzip.
func (a *answer) compress(r *http.Request) {
	if len(a.body) == 0 || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		return
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return
	}
	for _, piece := range a.body {
		_, _ = z.Write(piece) // a buffer takes all
	}
	_ = z.Close()
	a.body = [][]byte{out.Bytes()}
	a.header.Set("Content-Encoding", "gzip")
}

// body reads an answer's body as its client gets it: cut, silent or slow.
type body struct {
	ctx    context.Context
	pieces [][]byte
	left   int // bytes that come
	slow   int
	hang   bool
	cut    bool
	closed chan struct{}
	close  sync.Once
}

func newBody(ctx context.Context, a *answer) *body {
	b := &body{ctx: ctx, pieces: a.body, left: a.size(), slow: a.slow, closed: make(chan struct{})}
	if a.keep > 0 && b.left > 0 {
		b.left = min(a.keep, b.left-1)
		b.cut = true
		b.hang = a.hang
	}
	return b
}

func (b *body) Read(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	default:
	}
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	for len(b.pieces) > 0 && len(b.pieces[0]) == 0 {
		b.pieces = b.pieces[1:]
	}
	switch {
	case b.left == 0 && b.hang:
		return 0, b.wait(nil)
	case b.left == 0 && b.cut:
		return 0, io.ErrUnexpectedEOF
	case b.left == 0:
		return 0, io.EOF
	}
	n := min(len(p), b.left, len(b.pieces[0]))
	if b.slow > 0 {
		// Ten times a second something comes, or else the next byte when it is due.
		n = min(n, max(1, b.slow/10))
		timer := time.NewTimer(time.Duration(n) * time.Second / time.Duration(b.slow))
		defer timer.Stop()
		if err := b.wait(timer.C); err != nil {
			return 0, err
		}
	}
	copy(p, b.pieces[0][:n])
	b.pieces[0] = b.pieces[0][n:]
	b.left -= n
	return n, nil
}

// wait waits for the tick; without one, until the client goes.
func (b *body) wait(tick <-chan time.Time) error {
	select {
	case <-tick:
		return nil
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	case <-b.closed:
		return http.ErrBodyReadAfterClose
	}
}

func (b *body) Close() error {
	b.close.Do(func() { close(b.closed) })
	return nil
}
