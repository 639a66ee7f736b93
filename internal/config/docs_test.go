package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocumentedVariables: the tables of docs/configuration.md have every variable, with
// its default, and none that nobody reads.
func TestDocumentedVariables(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(text)) {
		names, row, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		for _, m := range regexp.MustCompile("`([A-Z][A-Z0-9_]+)`").FindAllStringSubmatch(names, -1) {
			if strings.HasPrefix(line, "| ") {
				rows[m[1]] = row
			}
		}
	}
	// Read elsewhere: by Go's runtime, by Google's clients, by the command line.
	known := []string{"GOGC", "GOMEMLIMIT", "FIRESTORE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST", "SECRETMANAGER_EMULATOR_HOST", "PORT", "FUNCTION_TARGET"}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[environment]()) {
		name, standard, _ := strings.Cut(f.Tag.Get("env"), ", default=")
		known = append(known, name)
		row, ok := rows[name]
		if !ok {
			t.Errorf("%s has no row", name)
		}
		if cells := strings.Split(row, " | "); standard != "" && !strings.Contains(cells[len(cells)-1], "`"+standard+"`") {
			t.Errorf("%s: its row ends with %q, and the default is %s", name, cells[len(cells)-1], standard)
		}
	}
	for name := range rows {
		if !slices.Contains(known, name) {
			t.Errorf("%s has a row, and nobody reads it", name)
		}
	}
}
