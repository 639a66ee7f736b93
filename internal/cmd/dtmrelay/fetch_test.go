package main

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/redact"
)

// TestFetchWritesAtOnce: what is written of two alerts does not wait for the third, and
// what a full disk did not take is not counted.
func TestFetchWritesAtOnce(t *testing.T) {
	alerts := []dtm.Alert{
		dtm.ParseAlert([]byte(`{"id":"a1","created_at":"2026-01-01T10:00:00Z"}`)),
		dtm.ParseAlert([]byte(`{"id":"a2","created_at":"2026-01-01T09:00:00Z"}`)),
		dtm.ParseAlert([]byte(`{"id":"a3","created_at":"2026-01-01T08:00:00Z"}`)),
	}
	redactor, _, err := redact.Parse("[]")
	if err != nil {
		t.Fatal(err)
	}
	const lines = `{"id":"a1","created_at":"2026-01-01T10:00:00Z"}` + "\n" + `{"id":"a2","created_at":"2026-01-01T09:00:00Z"}` + "\n"
	for name, test := range map[string]struct {
		open func(w io.Writer) alertWriter
		want string
	}{
		"jsonl": {func(w io.Writer) alertWriter { return &jsonWriter{w: w} }, lines},
		"json": {
			func(w io.Writer) alertWriter { return &jsonWriter{w: w, list: true} },
			"[\n" + `{"id":"a1","created_at":"2026-01-01T10:00:00Z"}` + ",\n" + `{"id":"a2","created_at":"2026-01-01T09:00:00Z"}`,
		},
		"csv": {
			func(w io.Writer) alertWriter { return &csvWriter{w: w} },
			"id,created_at,updated_at,alert_type,severity,status,monitor_id,monitor_name,mscore,tags,title\r\n" +
				"a1,2026-01-01T10:00:00.000Z,2026-01-01T10:00:00.000Z,,,,,,,,\r\na2,2026-01-01T09:00:00.000Z,2026-01-01T09:00:00.000Z,,,,,,,,\r\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk := &smallDisk{room: len(test.want)}
			f := &fetch{redactor: redactor, out: test.open(disk), counts: map[class]int{}, progress: newProgress(false, time.Time{}, time.Time{}, 0)}
			if goOn, err := f.page(alerts[:2], true); !goOn || err != nil {
				t.Fatalf("%t, %v", goOn, err)
			}
			if diff := cmp.Diff(test.want, string(disk.text)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if _, err := f.page(alerts[2:], false); !errors.Is(err, errFull) || f.n != 2 {
				t.Errorf("%v after %d alerts", err, f.n)
			}
		})
	}
}

var errFull = errors.New("the disk is full")

// smallDisk has room for so many bytes.
type smallDisk struct {
	room int
	text []byte
}

func (d *smallDisk) Write(p []byte) (int, error) {
	n := min(len(p), d.room-len(d.text))
	d.text = append(d.text, p[:n]...)
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}
