package dtm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// TestGivenUpRequestsCount: GTI works on at a request that nobody waits for any
// more, and counts it. So does the client.
func TestGivenUpRequestsCount(t *testing.T) {
	a, err := dtmsim.ParseAlert([]byte(usable("a")))
	if err != nil {
		t.Fatal(err)
	}
	sim := dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{a})
	arrived, answers := make(chan struct{}, 10), make(chan struct{})
	var running, together atomic.Int32
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if running.Add(1) > 1 {
			together.Add(1)
		}
		arrived <- struct{}{}
		<-answers
		running.Add(-1) // before the answer, which the client may have before this function ends
		sim.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
	}))
	defer ts.Close()
	tr := newTransport(1)
	defer tr.CloseIdleConnections()
	meter := NewMeter(1000)
	c := newClient(t, tr, func(o *Options) { o.BaseURL, o.Concurrency, o.Meter = ts.URL+"/api/v3", 1, meter })
	c.lingers = true

	giveUp := errors.New("the turn is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-arrived
		cancel(giveUp)
	}()
	if _, err := collect(ctx, c.Session(liveShare), Query{}); !errors.Is(err, giveUp) {
		t.Errorf("given up: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { close(answers) }) // the next request waits for it, or is one too many
	if _, err := collect(t.Context(), c.Session(sweepShare), Query{}); err != nil {
		t.Error(err)
	}
	if requests, failed := meter.Used(); requests != 2 || failed != 0 || together.Load() != 0 {
		t.Errorf("%d requests, %d errors, %d while another was under way", requests, failed, together.Load())
	}
}

// TestGivenUpRequestsEnd: a request that is never answered is counted no longer
// than one that somebody waits for, and one that is answered as long as that
// takes. A change that is given up is not sent any more.
func TestGivenUpRequestsEnd(t *testing.T) {
	list := func(ctx context.Context, s *Session) error {
		_, err := collect(ctx, s, Query{})
		return err
	}
	change := func(ctx context.Context, s *Session) error {
		_, err := s.Update(ctx, "a1", Patch{Status: new("closed")})
		return err
	}
	for _, c := range []struct {
		name   string
		do     func(context.Context, *Session) error
		answer time.Duration // when GTI answers; 0: never
		status int
		next   time.Duration // when the next request goes out
		failed int64
	}{
		{"never answered", list, 0, 0, headerTimeout, 0},
		{"answered", list, 7 * time.Second, 200, 7 * time.Second, 0},
		{"refused", list, 7 * time.Second, 503, 7 * time.Second, 1},
		{"a change", change, 0, 0, time.Second, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, requests := time.Now(), 0
				var next time.Duration
				meter := NewMeter(1000)
				client := newClient(t, transport(func(r *http.Request) (*http.Response, error) {
					if requests++; requests > 1 {
						next = time.Since(start)
						return direct(func(w http.ResponseWriter, _ *http.Request) { writePage(w, "", "a") }).RoundTrip(r)
					}
					var answered <-chan time.Time
					if c.answer > 0 {
						answered = time.After(c.answer)
					}
					select {
					case <-answered:
						return &http.Response{StatusCode: c.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}, nil
					case <-r.Context().Done():
						return nil, r.Context().Err()
					}
				}), func(o *Options) { o.Concurrency, o.Meter = 1, meter })
				client.lingers = true
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := c.do(ctx, client.Session(liveShare)); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
				if _, err := collect(t.Context(), client.Session(liveShare), Query{}); err != nil {
					t.Error(err)
				}
				if _, failed := meter.Used(); next != c.next || failed != c.failed {
					t.Errorf("the next request after %v, want %v; %d errors counted, want %d", next, c.next, failed, c.failed)
				}
			})
		})
	}
}
