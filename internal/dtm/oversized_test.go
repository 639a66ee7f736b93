package dtm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// compareOversized: read without being kept, a page of one alert gives the same alert
// as any other page.
func compareOversized(t *testing.T, body []byte, alerts []Alert) {
	t.Helper()
	got, err := readOversized(bytes.NewReader(body), maxOversized)
	switch {
	case len(alerts) > 1:
		if !errors.Is(err, errTooLarge) {
			t.Fatalf("a page of %d alerts: %v", len(alerts), err)
		}
		return
	case err != nil:
		t.Fatalf("refused: %v", err)
	case len(got) != len(alerts):
		t.Fatalf("%d alerts, want %d", len(got), len(alerts))
	case len(alerts) == 0 || len(alerts[0].Raw) > oversizedHead: // long fields are not kept
		return
	}
	if diff := cmp.Diff(alerts[0], got[0]); diff != "" {
		t.Fatalf("-kept +read without being kept:\n%s", diff)
	}
}

// oversizedAlert is an alert with a member of n bytes between its others.
func oversizedAlert(n int) string {
	return `{"id":"a1","created_at":"2026-03-02T10:00:00.5Z","alert_summary":"` + strings.Repeat("x", n) +
		`","status":"new","updated_at":"2026-03-02T11:00:00Z"}`
}

func TestOversized(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       Alert // but for Raw and Digest
		raw        string
		err        error
	}{
		{
			name: "its fields stand around what is large", body: `{"next":{"a":["}"]},"alerts":[ ` + oversizedAlert(3<<20) + " ]}\n", raw: oversizedAlert(3 << 20),
			want: ParseAlert([]byte(oversizedAlert(1))),
		},
		{
			name: "what is large holds brackets and escaped quotes", raw: `{"doc":{"b":"` + strings.Repeat(`\"]}`, 20<<10) + `"},"id":"a","created_at":"2026-03-02T10:00:00Z"}`,
			body: `{"alerts":[{"doc":{"b":"` + strings.Repeat(`\"]}`, 20<<10) + `"},"id":"a","created_at":"2026-03-02T10:00:00Z"}]}`,
			want: ParseAlert([]byte(`{"id":"a","created_at":"2026-03-02T10:00:00Z"}`)),
		},
		{
			name: "the last field of a name counts, and is long", body: `{"alerts":[{"id":"a","id":"` + strings.Repeat("b", 70<<10) + `"}]}`,
			raw: `{"id":"a","id":"` + strings.Repeat("b", 70<<10) + `"}`, want: ParseAlert([]byte(`{"id":null}`)),
		},
		{
			name: "not an object", body: `{"alerts":["` + strings.Repeat("x", 100<<10) + `"]}`, raw: `"` + strings.Repeat("x", 100<<10) + `"`,
			want: ParseAlert([]byte(`""`)),
		},
		{
			name: "it is small, and the page is not", body: `{"junk":"` + strings.Repeat("x", 1<<20) + `","alerts":[` + oversizedAlert(1500) + `]}`, raw: oversizedAlert(1500),
			want: ParseAlert([]byte(oversizedAlert(1500))),
		},
		{name: "two of them", body: `{"alerts":[` + oversizedAlert(9) + `,` + oversizedAlert(9) + `]}`, err: errTooLarge},
		{name: "cut off", body: `{"alerts":[` + oversizedAlert(9), err: errInvalid},
		{name: "cut off within", body: `{"alerts":[` + oversizedAlert(100 << 10)[:70<<10], err: errInvalid},
		{name: "something after it", body: `{"alerts":[` + oversizedAlert(9) + `]}]`, err: errInvalid},
		{name: "a bracket too many", body: `{"alerts":[` + oversizedAlert(9) + `]]}`, err: errInvalid},
		{name: "no alerts", body: `{"alert":[]}`, err: errInvalid},
		{name: "no colon", body: `{"alerts" [1]}`, err: errInvalid},
		{name: "no value", body: `{"alerts":[{"id":}]}`, err: errInvalid},
		{
			name: "a field is no JSON value", body: `{"alerts":[{"id":tru}]}`, raw: `{"id":tru}`,
			want: Alert{Invalid: invalidJSON, Unreadable: true},
		},
		{
			name: "a field is no JSON value, and it is large", body: `{"alerts":[{"n":NaN,` + oversizedAlert(3 << 20)[1:] + `]}`, raw: `{"n":NaN,` + oversizedAlert(3 << 20)[1:],
			want: Alert{Invalid: invalidJSON, Unreadable: true},
		},
		{name: "not an object at all", body: `[1]`, err: errInvalid},
		{name: "nothing", err: errInvalid},
		{name: "cut off in the first name", body: `{"`, err: errInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readOversized(strings.NewReader(c.body), maxOversized)
			if !errors.Is(err, c.err) || c.err != nil && len(got) > 0 {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if c.err != nil {
				return
			}
			want := c.want
			want.Raw = []byte(c.raw)
			if len(c.raw) > oversizedHead {
				sum := sha256.Sum256(want.Raw)
				want.Raw, want.Digest = want.Raw[:oversizedHead], &Digest{Size: int64(len(c.raw)), SHA256: hex.EncodeToString(sum[:])}
			}
			if diff := cmp.Diff([]Alert{want}, got); diff != "" {
				t.Errorf("-want +got:\n%.2000s", diff)
			}
		})
	}
	t.Run("the connection breaks", func(t *testing.T) {
		broken := errors.New("broken")
		body := io.MultiReader(strings.NewReader(`{"alerts":[{"id":"a`), iotest.ErrReader(broken))
		if _, err := readOversized(body, maxOversized); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("without end", func(t *testing.T) {
		body := io.MultiReader(strings.NewReader(`{"alerts":["`), endless{})
		if _, err := readOversized(body, 1<<20); !errors.Is(err, errTooLarge) {
			t.Errorf("error %v", err)
		}
	})
}

// endless is a string without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// TestOversizedPage: the smallest page there is comes to an end, whatever its size,
// and those after it come.
func TestOversizedPage(t *testing.T) {
	const limit = 128 << 10
	c := newClient(t, direct(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("page") == "" {
			w.Header().Set("Link", `</dtm/alerts?page=p2>; rel="next"`)
			_, _ = io.WriteString(w, `{"alerts":[`+oversizedAlert(5*limit)+`]}`)
			return
		}
		_, _ = io.WriteString(w, `{"alerts":[`+oversizedAlert(5)+`]}`)
	}), func(o *Options) { o.PageLimit, o.PageMemory = limit, limit })
	var sizes []int64
	for page, err := range c.Session(liveShare).List(t.Context(), Query{Size: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		a := page.Alerts[0]
		size := int64(len(a.Raw))
		if a.Digest != nil {
			size = a.Digest.Size
		}
		sizes = append(sizes, size)
		if a.Digest != nil {
			if !c.memory.TryAcquire(limit - oversizedHead) {
				t.Fatal("a page that is not kept holds more than its head's memory")
			}
			if c.memory.TryAcquire(1) {
				t.Error("a page that is not kept holds less than its head's memory")
			}
			c.memory.Release(limit - oversizedHead)
		}
		page.Release()
	}
	want := []int64{int64(len(oversizedAlert(5 * limit))), int64(len(oversizedAlert(5)))}
	if diff := cmp.Diff(want, sizes); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
}
