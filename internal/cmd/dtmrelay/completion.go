package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"For which shell: ${enum}."`
}

func (completionCmd) Help() string {
	return `Prints what lets a shell complete commands and flags.

Examples:

	source <(dtmrelay completion bash)
	dtmrelay completion zsh > "${fpath[1]}/_dtmrelay"
	dtmrelay completion fish > ~/.config/fish/completions/dtmrelay.fish`
}

func (c *completionCmd) Run(parser *kong.Kong) error {
	places := placesOf(parser.Model.Node, "")
	var script string
	switch c.Shell {
	case "fish":
		script = fishCompletion(places)
	case "zsh":
		script = fmt.Sprintf(zshCompletion, shellCases(places))
	default:
		script = fmt.Sprintf(bashCompletion, shellCases(places))
	}
	_, err := os.Stdout.WriteString(script)
	return err
}

// place is a command and what may follow it.
type place struct {
	path     string // with a space before each word; empty for the program itself
	commands []*kong.Node
	flags    []*kong.Flag
	values   []string // of its argument, where they are known
}

// placesOf are a command and those below it.
func placesOf(n *kong.Node, path string) []place {
	p := place{path: path}
	for at := n; at != nil; at = at.Parent {
		p.flags = append(p.flags, shown(at.Flags)...)
	}
	if n.DefaultCmd != nil {
		p.flags = append(p.flags, shown(n.DefaultCmd.Flags)...)
	}
	for _, argument := range n.Positional {
		p.values = append(p.values, valuesOf(argument)...)
	}
	places := []place{}
	for _, child := range n.Children {
		if child.Type == kong.CommandNode && !child.Hidden {
			p.commands = append(p.commands, child)
			places = append(places, placesOf(child, path+" "+child.Name)...)
		}
	}
	return append([]place{p}, places...)
}

func shown(flags []*kong.Flag) (all []*kong.Flag) {
	for _, f := range flags {
		if !f.Hidden {
			all = append(all, f)
		}
	}
	return all
}

// namesOf are a flag, and what turns it around.
func namesOf(f *kong.Flag) []string {
	if f.Tag.Negatable != "" {
		return []string{"--" + f.Name, "--no-" + f.Name}
	}
	return []string{"--" + f.Name}
}

func valuesOf(v *kong.Value) []string {
	switch v.Target.Interface().(type) {
	case outputFormat:
		return []string{string(formatJSON), string(formatJSONL), string(formatCSV), string(formatTable)}
	case reportFormat:
		return reportFormats
	}
	switch {
	case v.Enum != "":
		return v.EnumSlice()
	case v.Name == "status" || v.Name == "expect-status":
		return dtm.Statuses
	case v.Name == "severity":
		return dtm.Severities
	}
	return nil
}

// shellCases are for bash and zsh, which read them alike: what a word does to the
// command, and what may follow. None of the texts has a character that means something
// to a shell.
func shellCases(places []place) string {
	var descend, after, words []string
	for _, p := range places {
		reply := append([]string{}, p.values...)
		for _, c := range p.commands {
			descend = append(descend, fmt.Sprintf("%q", p.path+" "+c.Name))
			reply = append(reply, c.Name)
		}
		for _, f := range p.flags {
			reply = append(reply, namesOf(f)...)
			if !f.IsBool() && !f.IsCounter() {
				after = append(after, fmt.Sprintf("    %q) kind=%q; reply=%q ;;", p.path+" --"+f.Name, "value", strings.Join(valuesOf(f.Value), " ")))
			}
		}
		words = append(words, fmt.Sprintf("    %q) reply=%q ;;", p.path, strings.Join(reply, " ")))
	}
	return `  for word in "${args[@]}"; do
    [ "$word" != = ] || continue
    case "$path_ $word" in
    ` + strings.Join(descend, "|") + `) path_="$path_ $word" ;;
    esac
    last=$word
  done
  case "$path_ $last" in
` + strings.Join(after, "\n") + `
  esac
  if [ -z "$kind" ]; then
    case "$path_" in
` + strings.Join(words, "\n") + `
    esac
  fi`
}

// Where no word is known, such as after --output, the shells complete names of files.
const (
	bashCompletion = `# Completion of dtmrelay for bash.
_dtmrelay() {
  local path_="" kind="" reply="" word="" last=""
  local args=("${COMP_WORDS[@]:1:COMP_CWORD-1}") current="${COMP_WORDS[COMP_CWORD]}"
  [ "$current" != = ] || current="" # bash takes --flag=value for three words
%s
  COMPREPLY=($(compgen -W "$reply" -- "$current"))
}
complete -o default -F _dtmrelay dtmrelay
`
	zshCompletion = `#compdef dtmrelay
# Completion of dtmrelay for zsh.
_dtmrelay() {
  local path_="" kind="" reply="" word="" last=""
  local -a args
  args=("${(@)words[2,CURRENT-1]}")
  if [[ ${words[CURRENT]} == --*=* ]]; then
    args+=("${words[CURRENT]%%%%=*}")
    compset -P '*='
  fi
%s
  if [ -z "$reply" ] || ! compadd -- ${=reply}; then
    _files
  fi
}
if [ "${funcstack[1]}" = _dtmrelay ]; then
  _dtmrelay "$@"
else
  compdef _dtmrelay dtmrelay
fi
`
)

func fishCompletion(places []place) string {
	var out strings.Builder
	var descend []string
	for _, p := range places {
		for _, c := range p.commands {
			descend = append(descend, fishQuote(p.path+" "+c.Name))
		}
	}
	fmt.Fprintf(&out, `# Completion of dtmrelay for fish.
function __dtmrelay_at
    set -l path_ ""
    for word in (commandline -opc)[2..-1]
        if contains -- "$path_ $word" %s
            set path_ "$path_ $word"
        end
    end
    test "$path_" = "$argv[1]"
end
`, strings.Join(descend, " "))
	for _, p := range places {
		begin := "complete -c dtmrelay -n " + fishQuote("__dtmrelay_at "+fishQuote(p.path))
		for _, c := range p.commands {
			fmt.Fprintf(&out, "%s -f -a %s -d %s\n", begin, c.Name, fishQuote(c.Help))
		}
		if len(p.values) > 0 {
			fmt.Fprintf(&out, "%s -f -a %s\n", begin, fishQuote(strings.Join(p.values, " ")))
		}
		for _, f := range p.flags {
			takes := ""
			if values := valuesOf(f.Value); len(values) > 0 {
				takes = " -x -a " + fishQuote(strings.Join(values, " "))
			} else if !f.IsBool() && !f.IsCounter() {
				takes = " -r"
			}
			for _, name := range namesOf(f) {
				fmt.Fprintf(&out, "%s -l %s%s -d %s\n", begin, strings.TrimPrefix(name, "--"), takes, fishQuote(f.Help))
			}
		}
	}
	return out.String()
}

func fishQuote(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}
