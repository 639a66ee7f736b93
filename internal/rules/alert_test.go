package rules

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"github.com/google/go-cmp/cmp"
)

// TestBookFields: the rule book's tables have every member of an alert that
// expressions know by name, with its type and zero value.
func TestBookFields(t *testing.T) {
	text, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, _ := strings.Cut(string(text), "The members of an alert have the API's names.")
	tables, _, _ = strings.Cut(tables, "Any other name is an error")
	kinds := map[string]string{
		"string": "string", "double": "double", "bool": "bool", "list of strings": "list(string)", "list of anything": "list(dyn)",
		"map of anything": "map(string, dyn)", "timestamp": "timestamp", "anything": "dyn", "map of all members, as they came": "map(string, dyn)",
	}
	type entry struct{ Kind, Zero string }
	want, got := map[string]entry{}, map[string]entry{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\| ([^|]+) \\|(?: (?:`(.+)`|[^`|]+) \\|)?$").FindAllStringSubmatch(tables, -1) {
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			got[name[1]] = entry{kinds[row[2]], row[3]}
		}
	}
	for name, f := range schema() {
		e := entry{Kind: cel.FormatCELType(f.kind)}
		if f.zero != nil {
			env, err := cel.NewEnv()
			if err != nil {
				t.Fatal(err)
			}
			e.Zero = got[name].Zero
			checked, issues := env.Compile(e.Zero)
			if issues.Err() != nil {
				t.Fatalf("%s: %q: %v", name, e.Zero, issues.Err())
			}
			program, err := env.Program(checked)
			if err != nil {
				t.Fatal(err)
			}
			if value, _, err := program.Eval(cel.NoVars()); err != nil || value.Equal(f.zero) != types.True {
				e.Zero = fmt.Sprint(f.zero.Value())
			}
		}
		want[name] = e
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestNearest: what an error names in place of an unknown name.
func TestNearest(t *testing.T) {
	known := slices.Sorted(maps.Keys(schema()))
	for name, want := range map[string]string{
		"severty": "severity", "Severity": "severity", "mscore": "indicator_mscore", "monitor": "monitor_id", "createdat": "created_at", "type": "alert_type", "statuss": "status",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
