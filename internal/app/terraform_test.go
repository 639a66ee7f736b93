package app

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dtmrelay.internal/dtmrelay/internal/drain"
)

// logged is what the functions' code writes to the log: for each event its levels,
// and the names of the fields beside it.
type logged struct {
	levels map[string][]string // of each event
	fields map[string][]string // of each event
	words  []string            // every string, of which some are values of fields
}

// readLogged reads it from the source. A call that has an event has fields beside it, and
// so have the other calls of its function where a logger carries the event on.
func readLogged(t *testing.T) logged {
	t.Helper()
	found := logged{levels: map[string][]string{}, fields: map[string][]string{}}
	files, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			found.read(d)
		}
	}
	return found
}

func (l *logged) read(d ast.Decl) {
	var events, words, levels []string
	carried := false
	ast.Inspect(d, func(n ast.Node) bool {
		if text, ok := literal(n); ok {
			words = append(words, text)
		}
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method := ""
		if s, ok := call.Fun.(*ast.SelectorExpr); ok {
			method = s.Sel.Name
		}
		level := levelOf(call, method)
		if level != "" {
			levels = append(levels, level)
		}
		for i, argument := range call.Args {
			if text, _ := literal(argument); text != "event" || i+1 == len(call.Args) {
				continue
			}
			event, ok := literal(call.Args[i+1])
			if !ok {
				continue
			}
			events = append(events, event)
			carried = carried || method == "With"
			if level != "" {
				l.levels[event] = append(l.levels[event], level)
			}
		}
		return true
	})
	for _, event := range events {
		l.fields[event] = append(l.fields[event], words...)
		if carried || len(l.levels[event]) == 0 {
			l.levels[event] = append(l.levels[event], levels...)
		}
	}
	l.words = append(l.words, words...)
}

func literal(n ast.Node) (string, bool) {
	lit, ok := n.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// levelOf is the severity that a call writes with, as Cloud Logging names it.
func levelOf(call *ast.CallExpr, method string) string {
	if method == "LogAttrs" && len(call.Args) > 1 {
		if s, ok := call.Args[1].(*ast.SelectorExpr); ok {
			method = strings.TrimPrefix(s.Sel.Name, "Level") + "Context"
		}
	}
	return map[string]string{
		"InfoContext": "INFO", "WarnContext": "WARNING", "ErrorContext": "ERROR",
	}[method]
}

var (
	eventOf    = regexp.MustCompile(`jsonPayload\.event=(?:\\"([a-z_]+)\\"|\(([^)]*)\))`)
	severityOf = regexp.MustCompile(`severity=([A-Z]+)`)
	fieldOf    = regexp.MustCompile(`jsonPayload\.([a-z0-9_]+)`)
	valueOf    = regexp.MustCompile(`jsonPayload\.(?:state|outcome|reason|stop_reason)=(?:\\"([a-z_]+)\\"|\(([^)]*)\))`)
	quotedWord = regexp.MustCompile(`\\"([a-z_]+)\\"`)
	extracted  = regexp.MustCompile(`field = "([a-z0-9_]+)"`)
	onlyIf     = regexp.MustCompile(`only_if = "([a-z0-9_]+)"`)
	labelsOf   = regexp.MustCompile(`labels\s+= \[("[^\]]*)\]`)
	selected   = regexp.MustCompile(`(?:outcome|stop_reason)(?:=|!=|=~|!~)\\"([a-z_|]+)\\"`)
)

// TestTerraformsNames: the events, levels, fields and values that the metrics, policies and links
// of Terraform ask the log for are those that the code writes. What nobody writes is
// never counted, and its policy is silent for ever.
func TestTerraformsNames(t *testing.T) {
	code := readLogged(t)
	report := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[drain.Report]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		report[name] = true
	}
	metrics := terraformOf(t, "metrics.tf")
	all := metrics + terraformOf(t, "alerts.tf")

	events := 0
	for line := range strings.Lines(all) {
		var asked []string
		for _, m := range eventOf.FindAllStringSubmatch(line, -1) {
			asked = append(asked, words(m[1], m[2])...)
		}
		for _, event := range asked {
			events++
			if event != "run" && code.fields[event] == nil {
				t.Errorf("nobody logs the event %q:\n%s", event, line)
			}
			for _, m := range severityOf.FindAllStringSubmatch(line, -1) {
				if !slices.Contains(code.levels[event], m[1]) {
					t.Errorf("nobody logs the event %q at %s, but at %v:\n%s", event, m[1], code.levels[event], line)
				}
			}
		}
		for _, m := range fieldOf.FindAllStringSubmatch(line, -1) {
			isKnown := m[1] == "event" || report[m[1]] || slices.ContainsFunc(asked, func(event string) bool {
				return slices.Contains(code.fields[event], m[1])
			})
			if !isKnown {
				t.Errorf("the field %q is in no line of %v:\n%s", m[1], asked, line)
			}
		}
		for _, m := range valueOf.FindAllStringSubmatch(line, -1) {
			for _, value := range words(m[1], m[2]) {
				if !slices.Contains(code.words, value) {
					t.Errorf("no field ever is %q:\n%s", value, line)
				}
			}
		}
	}
	if events < 10 {
		t.Errorf("only %d events are found: the pattern has gone astray", events)
	}

	fields := 0
	for _, pattern := range []*regexp.Regexp{extracted, onlyIf} {
		for _, m := range pattern.FindAllStringSubmatch(metrics, -1) {
			fields++
			if !report[m[1]] {
				t.Errorf("a distribution takes %q, which the run report doesn't have", m[1])
			}
		}
	}
	for _, m := range labelsOf.FindAllStringSubmatch(metrics, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			fields++
			if label = strings.Trim(label, `" `); !report[label] {
				t.Errorf("a label takes %q, which the run report doesn't have", label)
			}
		}
	}
	if fields < 12 {
		t.Errorf("only %d fields are found: the patterns have gone astray", fields)
	}

	values := 0
	for _, m := range selected.FindAllStringSubmatch(all, -1) {
		for value := range strings.SplitSeq(m[1], "|") {
			values++
			if !slices.Contains(code.words, value) {
				t.Errorf("a policy waits for %q, which no run is", value)
			}
		}
	}
	if values < 7 {
		t.Errorf("only %d values are found: the pattern has gone astray", values)
	}
}

func terraformOf(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../terraform/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// words is one word, or those of a list in a filter.
func words(one, list string) []string {
	if one != "" {
		return []string{one}
	}
	var all []string
	for _, m := range quotedWord.FindAllStringSubmatch(list, -1) {
		all = append(all, m[1])
	}
	return all
}
