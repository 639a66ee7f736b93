package transforms

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/message"
)

// TestLine: a message is one line, and its data the same JSON to the last digit.
func TestLine(t *testing.T) {
	t.Parallel()
	f := load(t, "transforms/line.js")
	for _, s := range samples(t) {
		out := f.apply(s.Message)
		if strings.ContainsAny(out.data, "\r\n") {
			t.Errorf("%s: more than one line", s.name)
		}
		if len(out.attributes) > 0 {
			t.Errorf("%s: the attributes stand twice: %v", s.name, out.attributes)
		}
		var line struct {
			MessageID   string            `json:"message_id"`
			PublishTime string            `json:"publish_time"`
			Attributes  map[string]string `json:"attributes"`
			Data        json.RawMessage   `json:"data"`
		}
		if err := json.Unmarshal([]byte(out.data), &line); err != nil {
			t.Fatalf("%s: %v in %s", s.name, err, out.data)
		}
		if line.MessageID != metadata["message_id"] || line.PublishTime != metadata["publish_time"] {
			t.Errorf("%s: metadata %s, %s", s.name, line.MessageID, line.PublishTime)
		}
		if diff := cmp.Diff(s.Attributes, line.Attributes); diff != "" {
			t.Errorf("%s: attributes (-want +got):\n%s", s.name, diff)
		}
		if compact(t, line.Data) != compact(t, s.Data) {
			t.Errorf("%s: the data became %s", s.name, line.Data)
		}
	}
}

func compact(t testing.TB, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLineOfWhatIsNoJSON(t *testing.T) {
	t.Parallel()
	f := load(t, "transforms/line.js")
	for _, data := range []string{"", "no JSON\r\nat all", "{", `"`, "{\"a\":\"\n\"}", "\u2028"} {
		out := f.apply(message.Message{Data: []byte(data)})
		if strings.ContainsAny(out.data, "\r\n") {
			t.Errorf("%q: more than one line", data)
		}
		line := decode(t, out.data)
		if line["data_text"] != data || line["data"] != nil {
			t.Errorf("%q becomes %s", data, out.data)
		}
	}
}

// TestRow: a row has the alert's id, and the data as it came.
func TestRow(t *testing.T) {
	t.Parallel()
	f := load(t, "transforms/row.js")
	for _, s := range samples(t) {
		out := f.apply(s.Message)
		want := map[string]any{"alert_id": s.alert.ID, "data": string(s.Data)}
		if diff := cmp.Diff(want, decode(t, out.data)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
		if len(out.attributes) != len(s.Attributes) || out.attributes["dedupe_key"] != s.Attributes["dedupe_key"] {
			t.Errorf("%s: attributes became %v", s.name, out.attributes)
		}
	}
	row := decode(t, f.apply(message.Message{Data: []byte("no JSON\n")}).data)
	if diff := cmp.Diff(map[string]any{"alert_id": nil, "data": "no JSON\n"}, row); diff != "" {
		t.Errorf("without attributes (-want +got):\n%s", diff)
	}
}

// TestRowOfALargeMessage: BigQuery counts bytes of UTF-8, and a quotation mark is two
// in JSON. A thousandth of the bound is enough to see it.
func TestRowOfALargeMessage(t *testing.T) {
	t.Parallel()
	code, err := os.ReadFile(terraform + "transforms/row.js")
	if err != nil {
		t.Fatal(err)
	}
	small := strings.Replace(string(code), "MAX_BYTES = 9500000;", "MAX_BYTES = 9500;", 1)
	if small == string(code) {
		t.Fatal("the bound is not where this test looks for it")
	}
	f := run(t, small)
	for name, test := range map[string]struct {
		data string
		kept bool
	}{
		"9 KB":                {strings.Repeat("a", 9_000), true},
		"more":                {strings.Repeat("a", 9_500), false},
		"4 KB of quotes":      {strings.Repeat(`"`, 4_000), true},
		"6 KB of quotes":      {strings.Repeat(`"`, 6_000), false},
		"9 KB in two bytes":   {strings.Repeat("ü", 4_500), true},
		"10 KB in two bytes":  {strings.Repeat("ü", 5_000), false},
		"9 KB in three bytes": {strings.Repeat("例", 3_000), true},
		"9.9 KB in three":     {strings.Repeat("例", 3_300), false},
		"9 KB in four bytes":  {strings.Repeat("🐲", 2_250), true},
		"9.6 KB in four":      {strings.Repeat("🐲", 2_400), false},
	} {
		out := f.apply(message.Message{Data: []byte(test.data), Attributes: map[string]string{"alert_id": "a1"}})
		row := decode(t, out.data)
		if kept := row["data"] == test.data; kept != test.kept || (!kept && row["data"] != nil) || row["alert_id"] != "a1" || len(out.data) > 9_500 {
			t.Errorf("%s: data kept: %v, a row of %d bytes", name, kept, len(out.data))
		}
	}
}
