package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"github.com/rivo/uniseg"
	"pgregory.net/rapid"
)

const hostile = "a\x1b[31mred\x07\u009b2J\u202e\tb\r\nc\x00\xff"

func TestClean(t *testing.T) {
	if got, want := clean(hostile), "a[31mred2J b  c\uFFFD"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestCleanJSON: the values stay as they are, and none controls a terminal.
func TestCleanJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.String(), rapid.Just(strings.ToValidUTF8(hostile, ""))).Draw(t, "value")
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode([]string{value}); err != nil {
			t.Fatal(err)
		}
		shown := cleanJSON(text.Bytes())
		var got []string
		if err := json.Unmarshal(shown, &got); err != nil {
			t.Fatal(err)
		}
		if got[0] != value {
			t.Errorf("%q, want %q", got[0], value)
		}
		if i := strings.IndexFunc(strings.ReplaceAll(string(shown), "\n", ""), controls); i >= 0 {
			t.Errorf("a control character in %q", shown)
		}
	})
	if got := string(cleanJSON([]byte("\"\xff\""))); got != `"\ufffd"` {
		t.Errorf("%s", got)
	}
}

func TestPrintTable(t *testing.T) {
	var out bytes.Buffer
	err := printTable(&out, []string{"TITLE", "N", "SEVERITY"}, [][]string{
		{"漏洞", "7", "high"},
		{hostile, "1,234", "low"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "" +
		"TITLE                 N  SEVERITY\n" +
		"漏洞                  7  high\n" +
		"a[31mred2J b  c\uFFFD  1,234  low\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestTerminal: a table fits the terminal's width, and has colours there.
func TestTerminal(t *testing.T) {
	for _, c := range []struct{ name, noColor, term, want string }{
		{"colours", "", "xterm", "\x1b[1mTITLE\x1b[0m    \x1b[1mSEVERITY\x1b[0m\r\nlong t…  \x1b[31mhigh\x1b[0m\r\n"},
		{"none", "1", "xterm", "TITLE    SEVERITY\r\nlong t…  high\r\n"},
		{"none there are", "", "dumb", "TITLE    SEVERITY\r\nlong t…  high\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", c.noColor)
			t.Setenv("TERM", c.term)
			got := onTerminal(t, 17, func(terminal *os.File) error {
				if f := outputFormat("").or(terminal, formatJSON); f != formatTable {
					t.Errorf("the format is %s", f)
				}
				return printTable(terminal, []string{"TITLE", "SEVERITY"}, [][]string{{"long title", "high"}})
			})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A label may be a word that is coloured where it is a value.
func TestLabelsAreNotColoured(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	for head, coloured := range map[string]bool{"backfill": false, "TYPE": false, "STATE": true, "SEVERITY": true} {
		got := onTerminal(t, 80, func(terminal *os.File) error {
			return printTable(terminal, []string{head, "state"}, [][]string{{"done", "x"}, {"x", "done"}})
		})
		want := 1
		if coloured {
			want = 2
		}
		if n := strings.Count(got, "\x1b[32mdone\x1b[0m"); n != want {
			t.Errorf("below %s: %d cells are green, not %d:\n%s", head, n, want, got)
		}
	}
}

// TestSeveritiesWorstFirst: as in a report, then those that nobody knows, and none last.
func TestSeveritiesWorstFirst(t *testing.T) {
	var out bytes.Buffer
	counts := map[class]int{}
	for i, severity := range []string{"", "zero", "low", "[redacted:1-7]", "critical", "high", "medium"} {
		counts[class{"Tweet", severity}] = i + 1
	}
	if err := printCounts(&out, counts); err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(out.String(), "\n")
	want := []string{"TYPE", "critical", "high", "medium", "low", "[redacted:1-7]", "zero", "(none)", "total"}
	if diff := cmp.Diff(want, strings.Fields(head)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An id is whole however narrow the terminal is, and of the rest text is cut first.
func TestFit(t *testing.T) {
	const id = "d5dkkmrcnq4umqsasffg"
	for _, c := range []struct {
		columns uint16
		want    string
	}{
		{80, "CREATED      STATUS            TITLE                        ID\n01-05 05:21  tracked_external  Leaked Employee Credential…  " + id},
		{60, "CREATED      STATUS           TITLE     ID\n01-05 05:21  tracked_extern…  Leaked …  " + id},
		{45, "CREATED      STA…  TIT…  ID\n01-05 05:21  tra…  Lea…  " + id},
		{20, "…  …  …  ID\n…  …  …  " + id},
	} {
		t.Run(strconv.Itoa(int(c.columns)), func(t *testing.T) {
			t.Setenv("NO_COLOR", "1")
			got := onTerminal(t, c.columns, func(terminal *os.File) error {
				return printTable(terminal, []string{"CREATED", "STATUS", "TITLE", "ID"}, [][]string{
					{"01-05 05:21", "tracked_external", "Leaked Employee Credentials from example.com", id},
				})
			})
			if diff := cmp.Diff(c.want, strings.TrimSuffix(strings.ReplaceAll(got, "\r\n", "\n"), "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A terminal with too few columns has none of the spare ones.
func TestRoomFor(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	for columns, want := range map[uint16]string{39: "A  C\n1  3\n", 40: "A  B  C\n1  2  3\n"} {
		got := onTerminal(t, columns, func(terminal *os.File) error {
			head, rows := roomFor(terminal, 40, []string{"A", "B", "C"}, [][]string{{"1", "2", "3"}}, "B")
			return printTable(terminal, head, rows)
		})
		if diff := cmp.Diff(want, strings.ReplaceAll(got, "\r\n", "\n")); diff != "" {
			t.Errorf("%d columns (-want +got):\n%s", columns, diff)
		}
	}
}

// The title of an alert is what tells most: it is not cut to less than 20 characters.
func TestTitleHasRoom(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	for _, columns := range []uint16{100, 120} {
		got := onTerminal(t, columns, func(terminal *os.File) error {
			return printAlertTable(terminal, [][]string{
				{"01-05 05:21", "40m50s", "critical", "no_action_required", "Compromised Credentials", "Leaked Employee Credentials from example.com", "d5dkkmrcnq4umqsasffg"},
			}, true)
		})
		if title := uniseg.StringWidth(got[strings.Index(got, "TITLE"):strings.Index(got, "ID")]); title < 22 {
			t.Errorf("%d columns: the title has %d of them:\n%s", columns, title, got)
		}
	}
}

// onTerminal is what a terminal of some columns was sent.
func onTerminal(t *testing.T, columns uint16, write func(terminal *os.File) error) string {
	t.Helper()
	screen, terminal, err := pty.Open()
	if err != nil {
		t.Skip("this system has no pseudo-terminals:", err)
	}
	defer screen.Close()
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: columns}); err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	go func() {
		var text bytes.Buffer
		_, _ = text.ReadFrom(screen) // ends with an error when the other end is closed
		got <- text.String()
	}()
	err = write(terminal)
	_ = terminal.Close()
	text := <-got
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestWriteCSV: what a CSV reader reads is what was written, but for what a spreadsheet
// would calculate.
func TestWriteCSV(t *testing.T) {
	rows := [][]string{
		{"plain", `a "quoted", one`},
		{"two\nlines", "ünï 漏"},
		{"=1+1", "@SUM(A1)"},
		{"+1", "-1"},
		{"\tx", ""},
		{"a\rb\r\nc\n\rd\u2028e", "\x1b]0;owned\x07x\u202e\ty\xff"},
		{"\x00=1", "\r=1"},
	}
	var out bytes.Buffer
	if err := writeCSV(&out, []string{"a", "b"}, rows); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String()[:5], "a,b\r\n"; got != want {
		t.Errorf("it begins with %q", got)
	}
	got, err := csv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"a", "b"}, rows[0], rows[1], {"'=1+1", "'@SUM(A1)"}, {"'+1", "'-1"}, {"'\tx", ""}, {"a\nb\nc\n\nd\ne", "]0;ownedx\ty\uFFFD"}, {"'=1", "'\n=1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0:                           "0s ago",
		59*time.Second + 999999999:  "59s ago",
		90 * time.Second:            "1m30s ago",
		2*time.Hour + 5*time.Minute: "2h5m ago",
		49 * time.Hour:              "2d1h ago",
		-10 * time.Minute:           "in 10m0s",
		-(10*time.Minute + 1500000): "in 10m0s",
	} {
		if got := age(now.Add(-d), now); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("no time is %s", got)
	}
}

// TestKey: a flag beats the environment, and no key is an error that says how to give one.
func TestKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("of-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GTI_API_KEY_SECRET", "")
	for _, c := range []struct {
		name, env string
		flags     keyFlags
		want      string
	}{
		{"environment", "of-env", keyFlags{}, "of-env"},
		{"file", "of-env", keyFlags{KeyFile: file}, "of-file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GTI_API_KEY", c.env)
			_, keys, end, err := c.flags.local(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = end() }()
			if key, err := keys.Key(t.Context()); err != nil || key != c.want {
				t.Errorf("%s %v, want %s", key, err, c.want)
			}
		})
	}
	t.Setenv("GTI_API_KEY", "")
	_, _, _, err := keyFlags{}.local(t.Context(), nil)
	for _, way := range []string{"GTI_API_KEY", "--key-file", "--key-secret"} {
		if err == nil || !strings.Contains(err.Error(), way) {
			t.Errorf("%v does not name %s", err, way)
		}
	}
}
