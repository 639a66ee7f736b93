package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEachFileAlert(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
		says string // of the error
	}{
		"torn":                  {`{"id":"a","created_at":"2026-01-01T00:00:00Z"}` + "\n" + `{"id":"b","crea`, []string{"a"}, ""},
		"whole without its end": {`{"id":"a","created_at":"2026-01-01T00:00:00Z"}` + "\n" + `{"id":"b"}`, []string{"a", "b"}, ""},
		"data in base64":        {`{"attributes":{},"data_base64":"eyJpZCI6ImMifQ=="}` + "\n", []string{"c"}, ""},
		"its own attributes":    {`{"id":"d","attributes":[1]}` + "\n", []string{"d"}, ""},
		"empty":                 {"", nil, ""},
		"white space alone":     {" \r\n\t", nil, ""},
		"a torn line alone":     {`{"id":"b","crea`, nil, ""},
		"a list":                {`[{"id":"a"},{"id":"b"}]`, []string{"a", "b"}, ""},
		"a list after a space":  {"\r\n\t " + `[{"id":"a"},{"id":"b"}]`, []string{"a", "b"}, ""},
		"lines after a space":   {"\n " + `{"id":"a"}` + "\n" + `{"id":"b"}`, []string{"a", "b"}, ""},
		"a torn list":           {` [{"id":"a"},`, []string{"a"}, "line 1: the list has no end"},
		"a list without end":    {"\n" + `[{"id":"a"}`, []string{"a"}, "line 2: the list has no end"},
		"two lists":             {`[{"id":"a"},` + "\n" + `{"id":"b"}]` + "\n[]\n" + `[{"id":"c"}]` + "\n", []string{"a", "b", "c"}, ""},
		"lists in one line":     {`[][{"id":"a"}][]`, []string{"a"}, ""},
		"lines after a list":    {`[{"id":"a"}]{"id":"b"}` + "\n" + `{"id":"c"}`, []string{"a", "b", "c"}, ""},
		"a list after lines":    {`{"id":"a"}` + "\n" + ` [{"id":"b"}] {"id":"c"}` + "\n", []string{"a", "b", "c"}, ""},
		"torn after a list":     {`[{"id":"a"}]` + "\n" + `{"id":"b","crea`, []string{"a"}, ""},
		"text after a list":     {`[{"id":"a"}]` + "\n\n" + `and so on`, []string{"a"}, "line 3: invalid character 'a'"},
		"a torn text after one": {`[{"id":"a"}]` + "\n" + `"x`, []string{"a"}, "line 2: unexpected EOF"},
		"an end after a list":   {`[{"id":"a"}]` + "\n]", []string{"a"}, "line 2: invalid character ']'"},
		"a number after a list": {`[{"id":"a"}]` + "\n" + `7 {"id":"b"}`, []string{"a"}, "line 2: not a JSON object"},
		"no alert in a list":    {"[\n" + `{"id":"a"},` + "\n" + `7]`, []string{"a"}, "line 3: not a JSON object"},
		"no line at all":        {strings.Repeat("\x00", longestLine+1<<20), nil, "line 1: the line is longer than"},
		"no alerts":             {"\n" + `id,created_at`, nil, "line 2: not valid JSON"},
		"a text":                {`"torn`, nil, "line 1: not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "alerts.jsonl")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var got []string
			err := eachFileAlert(path, func(a fileAlert) error {
				got = append(got, a.ID)
				return nil
			})
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Fatal(err)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got the alerts %q, want %q", got, test.want)
			}
		})
	}
}

// Nothing that a file may hold panics.
func TestParseFileAlertTakesAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SampledFrom([]string{`null`, `{}`, `[]`, `"x"`, `1`, `{"id":"a"}`, `{"a":"b"}`, `"eyJ9"`, `{"schema":"dtmrelay.incident/v1"}`, `{"schema":"dtmrelay.incident/v1","alert":1}`})
		text := `{"attributes":` + value.Draw(t, "attributes") + `,"data":` + value.Draw(t, "data") + `,"data_base64":` + value.Draw(t, "base64") + `}`
		if a, err := parseFileAlert([]byte(text)); err == nil && a.ID != "" && a.ID != "a" {
			t.Fatalf("%s gives the id %q", text, a.ID)
		}
		_, _ = parseFileAlert([]byte(rapid.String().Draw(t, "text")))
	})
}
