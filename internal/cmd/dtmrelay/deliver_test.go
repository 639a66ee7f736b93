package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/observe"
)

// hook answers one post after the other; the last answer stands for all that follow.
type hook struct {
	answers []hookAnswer
	bodies  []string
	headers []http.Header
}

type hookAnswer struct {
	status     int // 0: the network fails; silent: none comes
	retryAfter string
}

const silent = -1

func (h *hook) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	a := h.answers[min(len(h.bodies), len(h.answers)-1)]
	h.bodies, h.headers = append(h.bodies, string(body)), append(h.headers, r.Header)
	switch a.status {
	case 0:
		return nil, errors.New("the network fails")
	case silent:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	header := http.Header{}
	header.Set("Retry-After", a.retryAfter)
	return &http.Response{StatusCode: a.status, Header: header, Body: http.NoBody}, nil
}

func incidentOf(id, createdAt string) message.Message {
	return message.Message{
		Data:       []byte(`{"event":"created","alert":{"id":"` + id + `"}}`),
		Attributes: map[string]string{"alert_id": id, "created_at": createdAt, "event": "created"},
	}
}

// What becomes of an alert.
const (
	taken    = "taken"
	refused  = "refused"
	repeated = "repeated" // it and those after it, at the next poll
)

// TestDelivery: three alerts, given in another order, go to a webhook in the order of
// created_at, and one that fails holds up those after it.
func TestDelivery(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []hookAnswer
		want    []string // of a, b, c
		posts   string
		shown   string
		waited  time.Duration
	}{
		{"taken", []hookAnswer{{200, ""}}, []string{taken, taken, taken}, "abc", "abc", 0},
		{"taken later", []hookAnswer{{503, ""}, {0, ""}, {204, ""}}, []string{taken, taken, taken}, "aaabc", "abc", 3 * time.Second},
		{"silent", []hookAnswer{{silent, ""}, {200, ""}}, []string{taken, taken, taken}, "aabc", "abc", 31 * time.Second},
		{"asks to wait", []hookAnswer{{429, "7"}, {200, ""}}, []string{taken, taken, taken}, "aabc", "abc", 7 * time.Second},
		{"asks to wait for long", []hookAnswer{{503, "99999999999"}, {200, ""}}, []string{taken, taken, taken}, "aabc", "abc", time.Minute},
		{"refused for good", []hookAnswer{{200, ""}, {422, ""}, {200, ""}}, []string{taken, refused, taken}, "abc", "abc", 0},
		{"refused this time", []hookAnswer{{408, ""}, {425, ""}, {429, ""}, {200, ""}}, []string{taken, taken, taken}, "aaaabc", "abc", 7 * time.Second},
		{"a redirect is not followed", []hookAnswer{{302, ""}}, []string{repeated, repeated, repeated}, "aaaaa", "", 15 * time.Second},
		{"fails in the middle", []hookAnswer{{200, ""}, {500, ""}}, []string{taken, repeated, repeated}, "abbbbb", "a", 15 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				h := &hook{answers: c.answers}
				w := &webhook{url: "https://hook.example/x", header: http.Header{}, transport: h, random: func() float64 { return 0.5 }}
				if err := w.readHeader("Authorization: Bearer x\n\nX-Team:soc\n"); err != nil {
					t.Fatal(err)
				}
				d := &delivery{stopping: t.Context(), webhook: w, incidents: true, out: &alertPrinter{w: &out, format: formatJSONL}}
				began := time.Now()
				errs := d.Publish(t.Context(), []message.Message{
					incidentOf("c", "2026-01-02T03:04:06.000Z"), incidentOf("a", "2026-01-02T03:04:05.000Z"), incidentOf("b", "2026-01-02T03:04:05.001Z"),
				})
				var got []string
				for _, i := range []int{1, 2, 0} {
					switch {
					case errs[i] == nil:
						got = append(got, taken)
					case errors.Is(errs[i], message.ErrRefused):
						got = append(got, refused)
					default:
						got = append(got, repeated)
					}
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				posts := ""
				for i, body := range h.bodies {
					posts += idOf(t, body)
					if h.headers[i].Get("Authorization") != "Bearer x" || h.headers[i].Get("X-Team") != "soc" {
						t.Errorf("header %v", h.headers[i])
					}
				}
				shown := ""
				for line := range strings.Lines(out.String()) {
					shown += idOf(t, line)
				}
				if posts != c.posts || shown != c.shown {
					t.Errorf("posted %q and shown %q, want %q and %q", posts, shown, c.posts, c.shown)
				}
				if waited := time.Since(began); waited != c.waited {
					t.Errorf("waited %s, want %s", waited, c.waited)
				}
			})
		})
	}
}

func idOf(t *testing.T, text string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, `"id":"`)
	if !found {
		t.Fatalf("no id in %s", text)
	}
	return rest[:1]
}

// TestDeliveryStops: Ctrl-C ends a wait at once.
func TestDeliveryStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopping, stop := context.WithCancel(t.Context())
		w := &webhook{url: "https://hook.example", transport: &hook{answers: []hookAnswer{{503, "60"}}}}
		d := &delivery{stopping: stopping, webhook: w, out: &alertPrinter{}}
		time.AfterFunc(time.Second, stop)
		began := time.Now()
		errs := d.Publish(t.Context(), []message.Message{incidentOf("a", ""), incidentOf("b", "")})
		if errs[0] == nil || errs[1] == nil || errors.Is(errs[0], message.ErrRefused) {
			t.Errorf("%v", errs)
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("it took %s", waited)
		}
	})
}

// TestNewWebhook: addresses without encryption are for this machine alone, and no error
// shows what may be a secret.
func TestNewWebhook(t *testing.T) {
	header := filepath.Join(t.TempDir(), "header")
	if err := os.WriteFile(header, []byte("X-Good: 1\nno colon secret\nBad Name: secret\nX: \x01secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, ok := range map[string]bool{
		"https://example.com/secret": true, "http://127.0.0.1:8080/secret": true, "http://localhost/secret": true, "http://[::1]/secret": true,
		"http://example.com/secret": false, "example.com/secret": false, "ftp://example.com/secret": false, "https:///secret": false, "https://%zz/secret": false,
		"https://secret@example.com/": false, "https://user:secret@example.com/": false, "http://user:secret@127.0.0.1/": false, "https://@example.com/secret": false,
		"https://example.com/secret@home": true,
	} {
		err := checkWebhook(address)
		if (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
	if err := checkWebhook("https://user:secret@example.com/"); err == nil || !strings.Contains(err.Error(), "--webhook-header-file") {
		t.Errorf("%v", err)
	}
	_, err := newWebhook("https://example.com", header)
	if err == nil || strings.Count(err.Error(), "not shown") != 3 || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// TestWebhookHeader: what the file says is what a receiver gets, and what it can't say is
// refused when it is read.
func TestWebhookHeader(t *testing.T) {
	type received struct{ Host, ContentType, UserAgent, Team string }
	var got received
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = received{r.Host, r.Header.Get("Content-Type"), r.UserAgent(), strings.Join(r.Header.Values("X-Team"), ",")}
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	ours := "dtm-relay/" + observe.Version
	for _, c := range []struct {
		file string
		want received
		says string // of the error
	}{
		{"X-Team: soc\nX-Team: night\n", received{address, "application/json", ours, "soc,night"}, ""},
		{"host: hook.example\ncontent-type: application/vnd.x+json\nuser-agent: soar/1", received{"hook.example", "application/vnd.x+json", "soar/1", ""}, ""},
		{"X-Team: soc\ncontent-length: 5\n", received{}, "line 2: Content-Length is not allowed"},
		{"Transfer-Encoding: chunked", received{}, "line 1: Transfer-Encoding is not allowed"},
		{"Connection: close", received{}, "line 1: Connection is not allowed"},
		{"Trailer: X", received{}, "line 1: Trailer is not allowed"},
		{"Host: a\nHost: b", received{}, "line 2: Host stands there twice"},
	} {
		got = received{}
		w, err := newWebhook(server.URL, writeFile(t, c.file))
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) || !errors.As(err, new(usageError)) {
				t.Errorf("%q: %v", c.file, err)
			}
			continue
		}
		if err == nil {
			err = w.deliver(t.Context(), incidentOf("a", ""))
		}
		if err != nil {
			t.Errorf("%q: %v", c.file, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.file, diff)
		}
	}
}

// TestWhatACommandHasStartedEndsWithIt: it would work on beside the command's repetition.
func TestWhatACommandHasStartedEndsWithIt(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		// The shell waits for a child, which has the fifo open, too.
		ended <- runWith(ctx, "exec 3>"+fifo+"; echo begun >&3; sleep 1000; true", nil)
	}()
	r, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// It has an end when nobody can write to it any more.
	if left, err := io.ReadAll(r); err != nil || len(left) > 0 {
		t.Errorf("%q, %v", left, err)
	}
}
