package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/redact"
	"dtmrelay.internal/dtmrelay/internal/rules"
)

// maskable is an alert in which every value that a path can mask has an x.
const maskable = `{"id":"a1","created_at":"2026-01-02T10:00:00Z","alert_type":"x type","severity":"x","status":"x","monitor_id":"x-1","monitor_name":"x","indicator_mscore":7e1,"tags":["x"],"title":"x"}`

func maskAll(t *testing.T) *redact.Redactor {
	t.Helper()
	redactor, _, err := redact.Parse(`["alert_type","severity","status","monitor_id","monitor_name","indicator_mscore","tags","title"]`)
	if err != nil {
		t.Fatal(err)
	}
	return redactor
}

// TestNoFormShowsWhatIsMasked: what REDACT masks is masked in every form, and in the counts.
func TestNoFormShowsWhatIsMasked(t *testing.T) {
	for _, format := range []outputFormat{formatJSON, formatJSONL, formatCSV, formatTable} {
		path := filepath.Join(t.TempDir(), "out")
		c := &fetchCmd{Output: path, outputFlags: outputFlags{Format: format}}
		f := &fetch{redactor: maskAll(t), open: c.open, out: noWriter{}, counts: map[class]int{}, progress: newProgress(false, time.Time{}, time.Time{}, 0)}
		if _, err := f.page([]dtm.Alert{dtm.ParseAlert([]byte(maskable))}, false); err != nil {
			t.Fatal(err)
		}
		if err := f.out.close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		var shown bytes.Buffer
		if printErr := f.print(&shown); err != nil || printErr != nil {
			t.Fatal(err, printErr)
		}
		for _, out := range []string{string(text), shown.String()} {
			if found := strings.Count(strings.ReplaceAll(out, "indicator_mscore", ""), "x"); found > 0 || strings.Contains(out, "7e1") || !strings.Contains(out, "[redacted:1-7]") {
				t.Errorf("%s: not all is masked in:\n%s", format, out)
			}
		}
	}
}

// TestRulesSeeWhatIsMasked: they decide by the alert as it came, and no more is shown of it
// than may be.
func TestRulesSeeWhatIsMasked(t *testing.T) {
	list, compiled, err := rules.Compile(`[{"name":"it","when":"alert.severity == 'x'","then":{"priority":"P1"}}]`, "default")
	if err != nil {
		t.Fatal(err)
	}
	trial := newTrial(list, compiled, time.Now())
	for _, raw := range []string{maskable, `{"id":"x","created_at":7}`} {
		masked, _, _ := maskAll(t).Redact([]byte(raw))
		trial.add(fileAlert{Alert: dtm.ParseAlert([]byte(raw))}, dtm.ParseAlert(masked))
	}
	want := []string{
		"a1,2026-01-02T10:00:00.000Z,[redacted:1-7],[redacted:1-7],created,published,P1,false,,,it,priority by it",
		"x,,,,,rejected,,false,,,,it is no usable alert: no created_at that is an RFC 3339 time",
	}
	var got []string
	for _, row := range trial.rows(formatCSV) {
		got = append(got, strings.Join(row, ","))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestNoTimeIsShownWhereThereIsNone: not the year 1 either.
func TestNoTimeIsShownWhereThereIsNone(t *testing.T) {
	a := dtm.ParseAlert([]byte(`{"id":"a1","created_at":7}`))
	got := slices.Concat(csvRow(a)[1:3], tableRow(a, time.Now())[:2])
	if diff := cmp.Diff([]string{"", "", "-", "-"}, got); diff != "" {
		t.Error(diff)
	}
}
