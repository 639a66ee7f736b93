package message

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	pubsubpb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

func TestAttributesOfAnAlert(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 970e6, time.UTC)
	full := dtm.Alert{
		Raw: []byte(`{"id":"d5c0ffee"}`), ID: "d5c0ffee", Type: "Forum Post", Status: "read", Severity: "high",
		MonitorID: "d08aue", MonitorName: "Brand", GroupID: "d1s8gd", MScore: "50", HasDoc: true,
		CreatedAt: created, UpdatedAt: created.Add(30 * time.Millisecond),
	}
	everything := Envelope{
		Event: "status_changed", PreviousStatus: "new", Priority: "P1", Origin: "gti", Feed: "default", RunID: "r1",
	}
	t.Run("everything known", func(t *testing.T) {
		got := FromAlert(full, everything)
		want := map[string]string{
			"source": "dtm", "alert_id": "d5c0ffee", "alert_type": "Forum Post", "severity": "high", "status": "read",
			"monitor_id": "d08aue", "monitor_name": "Brand", "group_id": "d1s8gd", "mscore": "50",
			"created_at": "2026-01-02T03:04:05.970Z", "updated_at": "2026-01-02T03:04:06.000Z",
			"event": "status_changed", "previous_status": "new", "priority": "P1", "feed": "default", "run_id": "r1",
			"origin": "gti", "schema": "dtmrelay/v1", "dedupe_key": "d5c0ffee@2026-01-02T03:04:06.000Z",
		}
		if diff := cmp.Diff(want, got.Attributes); diff != "" {
			t.Error(diff)
		}
		if &got.Data[0] != &full.Raw[0] || len(got.Data) != len(full.Raw) {
			t.Error("the data is not the alert's own bytes")
		}
	})
	t.Run("absent rather than empty", func(t *testing.T) {
		got := FromAlert(dtm.Alert{Raw: []byte(`{}`), ID: "a", CreatedAt: created, UpdatedAt: created}, Envelope{})
		want := map[string]string{
			"source": "dtm", "alert_id": "a", "created_at": "2026-01-02T03:04:05.970Z", "updated_at": "2026-01-02T03:04:05.970Z",
			"refs": "false", "schema": "dtmrelay/v1", "dedupe_key": "a@2026-01-02T03:04:05.970Z",
		}
		if diff := cmp.Diff(want, got.Attributes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAttributeValuesAreWhatPubSubTakes(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"exactly full", strings.Repeat("x", 1024), strings.Repeat("x", 1024)},
		{"one too many", strings.Repeat("x", 1025), strings.Repeat("x", 1024)},
		{"cut before a rune", strings.Repeat("x", 1022) + "€uro", strings.Repeat("x", 1022)},
		{"cut after a rune", strings.Repeat("x", 1021) + "€uro", strings.Repeat("x", 1021) + "€"},
		{"invalid UTF-8", "a\xffb\xc3", "a\uFFFDb\uFFFD"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Cut(c.in); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes")) +
			rapid.StringN(0, 1500, -1).Draw(t, "text")
		for k, v := range FromAlert(dtm.Alert{ID: "a", MonitorName: in, Type: in}, Envelope{}).Attributes {
			if v == "" || len(v) > 1024 || !utf8.ValidString(v) {
				t.Fatalf("%s = %q", k, v)
			}
		}
	})
}

func TestDedupeKeyIsTheSameForOneVersion(t *testing.T) {
	for in, want := range map[string]string{
		"2026-01-02T03:04:05Z":           "a@2026-01-02T03:04:05.000Z",
		"2026-01-02T03:04:05.9Z":         "a@2026-01-02T03:04:05.900Z",
		"2026-01-02T03:04:05.900Z":       "a@2026-01-02T03:04:05.900Z",
		"2026-01-02T04:04:05.900+01:00":  "a@2026-01-02T03:04:05.900Z",
		"2026-01-02T03:04:05.123999999Z": "a@2026-01-02T03:04:05.123Z",
	} {
		at, err := time.Parse(time.RFC3339Nano, in)
		if err != nil {
			t.Fatal(err)
		}
		if got := DedupeKey("a", at); got != want {
			t.Errorf("of %s: %s, want %s", in, got, want)
		}
	}
}

func TestPriorityIsNeverSilentlyLow(t *testing.T) {
	for severity, want := range map[string]string{
		"critical": "P1", "high": "P1", "medium": "P2", "low": "P3", "": "P2", "unspecified": "P2", "LOW": "P2", "CRITICAL": "P2",
	} {
		if got := Priority(severity); got != want {
			t.Errorf("Priority(%q) = %s, want %s", severity, got, want)
		}
	}
}

func TestSizeIsNeverLessThanOnTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Message{
			Data:       make([]byte, rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 3<<20)).Draw(t, "data")),
			Attributes: rapid.MapOf(rapid.StringN(0, 200, -1), rapid.StringN(0, 1024, -1)).Draw(t, "attributes"),
		}
		wire := proto.Size(&pubsubpb.PublishRequest{Messages: []*pubsubpb.PubsubMessage{{Data: m.Data, Attributes: m.Attributes}}})
		if m.Size() < wire || m.Size() > wire+16*(1+len(m.Attributes)) {
			t.Fatalf("Size() = %d, on the wire %d", m.Size(), wire)
		}
	})
}

// alertOf is an alert of exactly size bytes, most of them in the member name.
func alertOf(size int, name string) dtm.Alert {
	head, tail := `{"id":"a", "`+name+`":"`, `" ,"title":"t"}`
	raw := head + strings.Repeat("x", size-len(head)-len(tail)) + tail
	return dtm.Alert{Raw: []byte(raw), ID: "a", HasDoc: name == "doc"}
}

func TestFit(t *testing.T) {
	for _, format := range []Format{Raw, Incident} {
		t.Run(string(format), func(t *testing.T) { testFit(t, Envelope{Format: format, RunID: "r"}) })
	}
}

func testFit(t *testing.T, e Envelope) {
	// Whatever is around the alert's bytes.
	overhead := FromAlert(alertOf(1<<20, "doc"), e).Size() - 1<<20
	t.Run("as it is up to the limit", func(t *testing.T) {
		a := alertOf(MaxSize-overhead, "doc")
		got, ok := Fit(a, e)
		if !ok || got.Size() != MaxSize || !bytes.Equal(got.Data, FromAlert(a, e).Data) || got.Attributes["truncated"] != "" {
			t.Errorf("%d bytes: ok = %v, attributes %v", got.Size(), ok, got.Attributes)
		}
	})
	for _, name := range []string{"doc", "topics", "labels"} {
		t.Run("without "+name+" above it", func(t *testing.T) {
			a := alertOf(MaxSize-overhead+1, name)
			whole := bytes.Clone(a.Raw)
			got, ok := Fit(a, e)
			slim := dtm.Alert{Raw: []byte(`{"id":"a","title":"t"}`), ID: "a"}
			e := e
			e.Truncated = true
			if diff := cmp.Diff(FromAlert(slim, e), got); !ok || diff != "" {
				t.Errorf("ok = %v (-want +got)\n%s", ok, diff)
			}
			if got.Attributes["truncated"] != "true" || got.Attributes["refs"] != "false" || got.Attributes["run_id"] != "r" {
				t.Errorf("attributes %v", got.Attributes)
			}
			if !bytes.Equal(a.Raw, whole) {
				t.Error("the alert's own bytes changed")
			}
		})
	}
	for name, a := range map[string]dtm.Alert{
		"too large without them": alertOf(MaxSize+1, "summary"),
		"not an object":          {Raw: bytes.Repeat([]byte("x"), MaxSize), ID: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := Fit(a, e); ok {
				t.Errorf("fits, with attributes %v", got.Attributes)
			}
		})
	}
}

func TestRejectElement(t *testing.T) {
	for name, raw := range map[string][]byte{
		"as it came": []byte("[1, \"\xff\" ]"),
		"just 9 MB":  bytes.Repeat([]byte("x"), 9_000_000),
		"empty":      {},
	} {
		t.Run(name, func(t *testing.T) {
			m := RejectElement(dtm.Alert{Raw: raw, Invalid: "no created_at"}, raw, true, false, "default", "r1")
			want := map[string]string{"reason": "unusable: no created_at", "feed": "default", "run_id": "r1", "schema": "dtmrelay/v1"}
			if diff := cmp.Diff(want, m.Attributes); diff != "" {
				t.Error(diff)
			}
			if !bytes.Equal(m.Data, raw) {
				t.Error("the data changed")
			}
		})
	}
	t.Run("over 9 MB", func(t *testing.T) {
		raw := bytes.Repeat([]byte("0123456789"), 900_001)
		masked := bytes.ReplaceAll(raw, []byte("0"), []byte("*"))
		m := RejectElement(dtm.Alert{Raw: raw, Invalid: strings.Repeat("r", 2000)}, masked, true, false, "default", "r1")
		if !bytes.Equal(m.Data, masked[:65536]) {
			t.Errorf("%d bytes of data", len(m.Data))
		}
		sum := sha256.Sum256(raw)
		want := map[string]string{
			"reason": "unusable: " + strings.Repeat("r", 1014), "feed": "default", "run_id": "r1", "schema": "dtmrelay/v1",
			"size": "9000010", "sha256": hex.EncodeToString(sum[:]), "truncated": "true",
		}
		if diff := cmp.Diff(want, m.Attributes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRejectWriteback(t *testing.T) {
	for name, data := range map[string][]byte{
		"as it came": []byte("{\"alert_id\": \"\xff\" ]"),
		"just 9 MB":  bytes.Repeat([]byte("x"), 9_000_000),
		"empty":      {},
	} {
		t.Run(name, func(t *testing.T) {
			m := RejectWriteback(data, "not JSON", "default", "m1", "")
			want := map[string]string{"reason": "writeback: not JSON", "feed": "default", "message_id": "m1", "schema": "dtmrelay/v1"}
			if diff := cmp.Diff(want, m.Attributes); diff != "" {
				t.Error(diff)
			}
			if !bytes.Equal(m.Data, data) {
				t.Error("the data changed")
			}
		})
	}
	t.Run("over 9 MB", func(t *testing.T) {
		data := bytes.Repeat([]byte("0123456789"), 900_001)
		m := RejectWriteback(data, strings.Repeat("r", 2000), "default", "m1", "a")
		if !bytes.Equal(m.Data, data[:65536]) {
			t.Errorf("%d bytes of data", len(m.Data))
		}
		sum := sha256.Sum256(data)
		want := map[string]string{
			"reason": "writeback: " + strings.Repeat("r", 1013), "feed": "default", "message_id": "m1", "alert_id": "a", "schema": "dtmrelay/v1",
			"size": "9000010", "sha256": hex.EncodeToString(sum[:]), "truncated": "true",
		}
		if diff := cmp.Diff(want, m.Attributes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRejectAlert(t *testing.T) {
	a := dtm.Alert{Raw: []byte("12345"), ID: "d5c0ffee"}
	m := RejectAlert(a, ReasonRefused+": \xff<&>", "default", "r1")
	var got map[string]any
	if err := json.Unmarshal(m.Data, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"alert_id": "d5c0ffee", "size": 5.0, "reason": "refused: \uFFFD<&>",
		"sha256": "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	attributes := map[string]string{
		"alert_id": "d5c0ffee", "reason": "refused: \uFFFD<&>", "feed": "default", "run_id": "r1", "schema": "dtmrelay/v1",
	}
	if diff := cmp.Diff(attributes, m.Attributes); diff != "" {
		t.Error(diff)
	}
}

// TestRejectCut: of what was too large to be held, the message says how large it was.
func TestRejectCut(t *testing.T) {
	a := dtm.Alert{Raw: bytes.Repeat([]byte("x"), 65536), ID: "d5c0ffee", Digest: &dtm.Digest{Size: 40 << 20, SHA256: "5994"}}
	var got map[string]any
	if err := json.Unmarshal(RejectAlert(a, ReasonTooLarge, "default", "r1").Data, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"alert_id": "d5c0ffee", "size": float64(40 << 20), "reason": "too_large", "sha256": "5994"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	a.Invalid = "no created_at"
	m := RejectElement(a, a.Raw, true, false, "default", "r1")
	attributes := map[string]string{
		"reason": "unusable: no created_at", "feed": "default", "run_id": "r1", "schema": "dtmrelay/v1",
		"size": "41943040", "sha256": "5994", "truncated": "true",
	}
	if diff := cmp.Diff(attributes, m.Attributes); diff != "" || len(m.Data) != 65536 {
		t.Errorf("%d bytes, %s", len(m.Data), diff)
	}
	if id := ElementID(a); id != "x-5994" {
		t.Errorf("it is remembered as %s", id)
	}
}

func TestElementIDIsTheHashOfTheBytes(t *testing.T) {
	if got, want := ElementID(dtm.Alert{Raw: []byte("12345")}), "x-5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
