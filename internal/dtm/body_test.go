package dtm

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// drip is a body of which some bytes come each second.
type drip struct {
	ctx  context.Context
	text io.Reader
	each int
}

func (d drip) Read(b []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return d.text.Read(b[:min(len(b), d.each)])
	case <-d.ctx.Done():
		return 0, context.Cause(d.ctx)
	}
}

func (d drip) Close() error { return nil }

// answering answers each request so.
func answering(status int, each int, text string) transport {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: drip{r.Context(), strings.NewReader(text), each}}, nil
	}
}

// TestDrippingBody: bytes that come one by one don't hold a run for all of its time, and a
// slow network is none of it.
func TestDrippingBody(t *testing.T) {
	page := `{"alerts":[` + strings.Repeat(" ", 1<<20) + `]}`
	for name, tc := range map[string]struct {
		answer transport
		most   time.Duration // for all attempts
		want   string        // in the error
	}{
		"a page that drips":       {answering(http.StatusOK, 100, page), 5 * time.Minute, errSilent.Error()},
		"an error that drips":     {answering(http.StatusInternalServerError, 1, page), time.Minute, "GTI answered 500"},
		"a page that comes slow":  {answering(http.StatusOK, bodyStep/20, page), 30 * time.Minute, ""},
		"a small one, within 30s": {answering(http.StatusOK, 1, `{"alerts":[]}`), time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, tc.answer, nil)
				began := time.Now()
				var err error
				for page, failure := range c.Session(liveShare).List(t.Context(), Query{Size: 100}) {
					page.Release()
					err = failure
				}
				if took := time.Since(began); took > tc.most {
					t.Errorf("took %v", took)
				}
				if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%v, want %q", err, tc.want)
				}
			})
		})
	}
}

// TestUnreadableBody: what is no list says what it is, for whoever looks for the proxy
// that has sent it.
func TestUnreadableBody(t *testing.T) {
	for _, tc := range []struct{ name, packed, body, want string }{
		{"nothing", "", " ", "the body is empty"},
		{"a web page", "", "<html><title>Sign in</title></html>", "the body is a web page"},
		{"a byte order mark", "", "\ufeff" + `{"alerts":[]}`, "the body begins with a byte order mark, which JSON has none of"},
		{"UTF-16", "", "\xff\xfe{\x00}\x00", "the body begins with a byte order mark, which JSON has none of"},
		{"gzip within gzip", "", "\x1f\x8b\x08", "the body is packed with gzip, and its header doesn't say so"},
		{"brotli", "br", "\x0b\x02\x80", `the body is packed as "br", which was not asked for`},
		{"another JSON", "", "[]", "the body is not a JSON object"},
		{"half of it", "", `{"alerts":[`, "the body is not valid JSON, or was cut off"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
					if tc.packed != "" {
						w.Header().Set("Content-Encoding", tc.packed)
					}
					_, _ = io.WriteString(w, tc.body)
				}), nil)
				for page, err := range c.Session(liveShare).List(t.Context(), Query{Size: 100}) {
					page.Release()
					if err == nil || !strings.HasSuffix(err.Error(), ": "+tc.want) {
						t.Errorf("%v", err)
					}
				}
			})
		})
	}
}

// TestLargePageWithoutAlerts: what makes a page too large need not be an alert.
func TestLargePageWithoutAlerts(t *testing.T) {
	const limit = 256 << 10
	for _, list := range []string{"[]", "null"} {
		c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"alerts":`+list+`,"pad":"`+strings.Repeat("x", limit)+`"}`)
		}), func(o *Options) { o.PageLimit, o.PageMemory = limit, limit })
		for page, err := range c.Session(liveShare).List(t.Context(), Query{Size: 1}) {
			if err != nil || len(page.Alerts) > 0 {
				t.Errorf("%s: %d alerts, %v", list, len(page.Alerts), err)
			}
			page.Release()
		}
	}
}
