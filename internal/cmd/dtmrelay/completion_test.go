package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// completions has the words before the last one of a line, that one, and some of what it
// may become, with what it may not.
var completions = []struct {
	line          []string
	want, wantNot []string
}{
	{[]string{"dtmrelay", ""}, []string{"fetch", "alert", "completion"}, []string{"get", "--since"}},
	{[]string{"dtmrelay", "--h"}, []string{"--help"}, []string{"--version"}},
	{[]string{"dtmrelay", "al"}, []string{"alert"}, []string{"fetch"}},
	{[]string{"dtmrelay", "alert", ""}, []string{"get", "history", "set"}, []string{"fetch"}},
	{[]string{"dtmrelay", "alert", "set", "abc", "--st"}, []string{"--status"}, []string{"--topic"}},
	{[]string{"dtmrelay", "backfill", "--s"}, []string{"--since", "--severity"}, []string{"--until"}},
	{[]string{"dtmrelay", "backfill", "--since", "5h", "list", "--l"}, []string{"--limit"}, []string{"--since"}},
	{[]string{"dtmrelay", "status", "--format", ""}, []string{"json", "jsonl", "csv", "table"}, []string{"--watch"}},
	{[]string{"dtmrelay", "report", "--format", ""}, []string{"json", "table"}, []string{"jsonl", "csv"}},
	{[]string{"dtmrelay", "fetch", "--severity", ""}, []string{"high", "medium", "low"}, []string{"new", "--since"}},
	{[]string{"dtmrelay", "alert", "set", "abc", "--status", "in"}, []string{"in_progress"}, []string{"closed"}},
	{[]string{"dtmrelay", "alert", "set", "abc", "--expect-status", ""}, []string{"new", "tracked_external"}, nil},
	{[]string{"dtmrelay", "fetch", "--format=c"}, []string{"csv"}, []string{"json", "--csv"}},
	{[]string{"dtmrelay", "fetch", "--no"}, []string{"--no-has-analysis"}, nil},
	{[]string{"dtmrelay", "completion", ""}, []string{"bash", "zsh", "fish"}, nil},
	{[]string{"dtmrelay", "serve", "--"}, []string{"--local"}, []string{"--until-eof"}},
}

// scriptOf is what completion prints, in a file.
func scriptOf(t *testing.T, shell string) string {
	t.Helper()
	code, out, failed := program(t, "completion", shell)
	if code != 0 || failed != "" {
		t.Fatalf("%d, %s", code, failed)
	}
	path := filepath.Join(t.TempDir(), "completion")
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCompletionInBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	testCompletions(t, func(ctx context.Context, path string, line []string) *exec.Cmd {
		const ask = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dtmrelay; printf '%s\n' "${COMPREPLY[@]}"`
		var words []string // bash takes --flag=value for three
		for _, word := range line {
			if flag, value, given := strings.Cut(word, "="); given {
				words = append(words, flag, "=", value)
			} else {
				words = append(words, word)
			}
		}
		return exec.CommandContext(ctx, bash, append([]string{"-uc", ask, "bash", path}, words...)...)
	}, scriptOf(t, "bash"))
}

func TestCompletionInZsh(t *testing.T) {
	zsh, err := exec.LookPath("zsh")
	if err != nil {
		t.Skip(err)
	}
	testCompletions(t, func(ctx context.Context, path string, line []string) *exec.Cmd {
		const ask = `compdef() { :; }; _files() { :; }
			compset() { words[CURRENT]=${words[CURRENT]#*=}; }
			compadd() { shift; for word in "$@"; do [[ $word == ${words[CURRENT]}* ]] && print -r -- $word; done; true; }
			source "$1"; shift; words=("$@"); CURRENT=$#; _dtmrelay`
		return exec.CommandContext(ctx, zsh, append([]string{"-fc", ask, "zsh", path}, line...)...)
	}, scriptOf(t, "zsh"))
}

func TestCompletionInFish(t *testing.T) {
	fish, err := exec.LookPath("fish")
	if err != nil {
		t.Skip(err)
	}
	testCompletions(t, func(ctx context.Context, path string, line []string) *exec.Cmd {
		ask := fmt.Sprintf("source %s; complete -C %s", fishQuote(path), fishQuote(strings.Join(line, " ")))
		return exec.CommandContext(ctx, fish, "--no-config", "-c", ask)
	}, scriptOf(t, "fish"))
}

func testCompletions(t *testing.T, ask func(ctx context.Context, path string, line []string) *exec.Cmd, path string) {
	t.Helper()
	for _, test := range completions {
		out, err := ask(t.Context(), path, test.line).CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v: %s", test.line, err, out)
			continue
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t") // fish has the help after it,
			if strings.Contains(test.line[len(test.line)-1], "=") {
				_, word, _ = cutLast(word, "=") // and the flag before a value
			}
			got = append(got, word)
		}
		for _, want := range test.want {
			if !slices.Contains(got, want) {
				t.Errorf("%q: %q is not offered: %q", test.line, want, got)
			}
		}
		for _, not := range test.wantNot {
			if slices.Contains(got, not) {
				t.Errorf("%q: %q is offered: %q", test.line, not, got)
			}
		}
	}
}

// cutLast is strings.Cut at the last separator; without one, after is the text.
func cutLast(text, separator string) (before, after string, found bool) {
	i := strings.LastIndex(text, separator)
	return text[:max(i, 0)], text[i+1:], i >= 0
}

// Every command has an example in its help, and nothing in its name or its flags that a
// shell would take for something else.
func TestCommandsAreComplete(t *testing.T) {
	parser, err := kong.New(&commands{}, kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	details := map[string]string{"": parser.Model.Detail}
	for _, p := range placesOf(parser.Model.Node, "") {
		for _, c := range p.commands {
			details[p.path+" "+c.Name] = c.Detail
		}
		for _, f := range p.flags {
			if strings.ContainsAny(f.Name, " \"'$`\\") {
				t.Errorf("the flag %q of %q has to be quoted", f.Name, p.path)
			}
		}
	}
	for path, detail := range details {
		// "backfill start" is called "backfill" in short.
		_, examples, _ := strings.Cut(detail, "Examples:\n\n\t")
		if !strings.Contains(examples, "dtmrelay"+strings.TrimSuffix(path, " start")+" ") {
			t.Errorf("the help of dtmrelay%s has no example", path)
		}
	}
}
