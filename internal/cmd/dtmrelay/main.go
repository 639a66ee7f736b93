// Command dtmrelay is the relay on one machine: it fetches and polls alerts, shows a
// demonstration, serves the function itself, and simulates the API that it reads from.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"reflect"
	"regexp"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"dtmrelay.internal/dtmrelay/internal/observe"
)

// Exit codes.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitPartial = 3
)

type commands struct {
	Fetch      fetchCmd      `cmd:"" help:"Fetch alerts once, and show them or write them to a file."`
	Poll       pollCmd       `cmd:"" help:"Fetch what is new again and again, and show it or hand it on."`
	Alert      alertCmd      `cmd:"" help:"Show one alert, what became of it, or change it."`
	Backfill   backfillCmd   `cmd:"" help:"Relay a past range, by a deployed relay or one of this machine."`
	Redrive    redriveCmd    `cmd:"" help:"Publish dead letters or rejected write-backs again."`
	Status     statusCmd     `cmd:"" help:"Show where a relay stands."`
	Rules      rulesCmd      `cmd:"" help:"Check rules, and try them on alerts."`
	Doctor     doctorCmd     `cmd:"" help:"Look whether everything is there that the relay needs, and say what to do."`
	Report     reportCmd     `cmd:"" help:"Report on alerts: a file for a browser, or tables."`
	Demo       demoCmd       `cmd:"" help:"Relay invented alerts through rate limits, a lost connection and a crash, and count them."`
	Serve      serveCmd      `cmd:"" help:"Serve the function, against Google Cloud, emulators, or files of this machine."`
	Sim        simCmd        `cmd:"" help:"Serve a simulator of the Digital Threat Monitoring API."`
	Completion completionCmd `cmd:"" help:"Print what lets a shell complete commands and flags."`
	Version    versionFlag   `help:"Show the version and exit."`
}

func (commands) Help() string {
	return `Examples:

	# invented alerts, without an account
	dtmrelay demo

	# the alerts of the last 24 hours, and then what is new, every five minutes
	export GTI_API_KEY=…
	dtmrelay fetch
	dtmrelay poll`
}

const description = `Relays Digital Threat Monitoring alerts of Google Threat Intelligence.

Exit codes: 0 done, 1 failed, 2 called wrongly, 3 done in part.`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	// First of all: a signal that comes before the command begins is one that it sees.
	ctx, stop := commandContext()
	defer stop()
	// From here on, writing to a closed pipe is an error (syscall.EPIPE) and doesn't end the
	// process. Not signal.Ignore: programs that this one starts would ignore it too.
	signal.Notify(unreadSignals, syscall.SIGPIPE)
	options := []kong.Option{
		kong.KindMapper(reflect.String, kong.MapperFunc(asItIs)),
		kong.Name("dtmrelay"),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Description(description),
		kong.Vars{"version": "dtmrelay " + observe.Build()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	}
	if len(args) == 0 {
		args = []string{"--help"}
		options = append(options, kong.Writers(os.Stderr, os.Stderr), kong.Exit(func(int) { os.Exit(exitUsage) }))
	}
	parser, err := kong.New(&commands{}, options...)
	if err != nil {
		return fail(err)
	}
	if err := tidyVariables(parser.Model.Node); err != nil {
		return fail(err)
	}
	var wrong []error
	collectWrongValues(parser.Model.Node, &wrong)
	command, err := parser.Parse(args)
	var parse *kong.ParseError
	if errors.As(err, &parse) {
		command = parse.Context
		if unwritten(err) != nil { // help or version: the call is right
			return fail(err)
		}
		if len(wrong) > 0 { // what was checked without them can be false
			err = command.Error
		}
	}
	if word := args[0]; err != nil && (word == "help" || word == "version") {
		err = fmt.Errorf("%w: did you mean --%s?", err, word)
	}
	if err := errors.Join(append(wrong, err)...); err != nil {
		return fail(usagef("%w (see dtmrelay%s --help)", err, pathOf(command)))
	}
	err = command.Run()
	switch {
	case err == nil:
		return 0
	case ctx.Err() == nil, errors.As(err, new(usageError)), errors.As(err, new(partialError)):
	case errors.Is(err, context.Cause(ctx)): // no more than the signal's name
		err = partialError{errors.New("interrupted")}
	default:
		err = partialError{err}
	}
	return fail(err)
}

// versionFlag prints the version. Unlike kong's own it tells when that fails.
type versionFlag bool

// BeforeReset is called where the flag was given.
func (versionFlag) BeforeReset(parser *kong.Kong, vars kong.Vars) error {
	_, err := fmt.Fprintln(parser.Stdout, vars["version"])
	if err == nil {
		parser.Exit(0)
	}
	return err
}

// unreadSignals takes signals that must not end the process and that nobody needs to read.
var unreadSignals = make(chan os.Signal, 1)

// unwritten is why standard output did not take what was written to it; nil: it did.
func unwritten(err error) *fs.PathError {
	var file *fs.PathError
	if errors.As(err, &file) && file.Path == os.Stdout.Name() {
		return file
	}
	return nil
}

// pathOf are the words of a command, with a space before each.
func pathOf(command *kong.Context) (path string) {
	if command == nil {
		return ""
	}
	for word := range strings.FieldsSeq(command.Command()) {
		if !strings.HasPrefix(word, "<") {
			path += " " + word
		}
	}
	return path
}

// collectWrongValues lets the parser of n and the commands below it go on after a flag's
// value that is not allowed. It adds the problem to wrong, so that all are told at once.
func collectWrongValues(n *kong.Node, wrong *[]error) {
	for _, f := range n.Flags {
		if !f.IsBool() { // the mapper of these says more than how to decode
			f.Mapper = collectingMapper{f.Mapper, "--" + f.Name, wrong}
		}
	}
	for _, argument := range n.Positional {
		argument.Mapper = collectingMapper{argument.Mapper, argument.Summary(), wrong}
	}
	for _, child := range n.Children {
		collectWrongValues(child, wrong)
	}
}

// asItIs takes a text byte for byte. Kong's own mapper takes it through JSON, which makes
// another name of a file's whose name is not UTF-8.
func asItIs(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("string")
	if err != nil {
		return err
	}
	target.SetString(token.String())
	return nil
}

// negative is how a number or a duration begins that is below 0.
var negative = regexp.MustCompile(`^-[0-9.]`)

type collectingMapper struct {
	kong.Mapper

	name  string
	wrong *[]error
}

func (m collectingMapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	v := ctx.Value
	add := func(format string, args ...any) {
		*m.wrong = append(*m.wrong, fmt.Errorf(m.name+format, args...))
	}
	if ctx.Scan.Peek().IsEOL() {
		add(" needs a value")
		return nil
	}
	if token := ctx.Scan.Peek(); negative.MatchString(token.String()) {
		// Not another flag: what is allowed is said of it as of any value.
		ctx.Scan.Pop()
		ctx.Scan.PushTyped(token.Value, kong.FlagValueToken)
	}
	err := m.Mapper.Decode(ctx, target)
	text := target
	if target.Kind() == reflect.Slice && target.Len() > 0 {
		text = target.Index(target.Len() - 1)
	}
	switch {
	case err != nil:
		add(": %w", err)
	case v.Enum != "" && !v.EnumMap()[target.String()]:
		add(": %q is not allowed: it must be one of %s", target, strings.Join(v.EnumSlice(), ", "))
		target.SetString(v.Default)
	case text.Kind() == reflect.String && text.String() == "":
		// Taken for a flag that was not given, an unset variable of a script would send
		// alerts elsewhere than it says.
		add(" is empty: give it a value, or leave it out")
	}
	return nil
}

// tidyVariables makes of the variables that flags have what they are for the function
// (docs/configuration.md): white space around a value is cut, and an empty one is not set.
func tidyVariables(n *kong.Node) error {
	var errs []error
	for _, f := range n.Flags {
		for _, name := range f.Envs {
			text, set := os.LookupEnv(name)
			if text = strings.TrimSpace(text); text != "" {
				errs = append(errs, os.Setenv(name, text))
			} else if set {
				errs = append(errs, os.Unsetenv(name))
			}
		}
	}
	for _, child := range n.Children {
		errs = append(errs, tidyVariables(child))
	}
	return errors.Join(errs...)
}

// usageError is the caller's mistake.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func fail(err error) int {
	if isReaderGone(err) {
		return 0
	}
	for line := range strings.Lines("dtmrelay: " + err.Error()) { // GTI's own words may be in it
		fmt.Fprintln(os.Stderr, strings.TrimRight(clean(line), " "))
	}
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	if errors.As(err, new(partialError)) {
		return exitPartial
	}
	return exitFailed
}

// isReaderGone reports whether who reads the output has seen enough, such as head. The
// network can be a broken pipe too.
func isReaderGone(err error) bool {
	failed := unwritten(err)
	return failed != nil && errors.Is(failed, syscall.EPIPE)
}

// self is how the user calls this program.
func self() string {
	// go run builds into a folder of that name.
	if path, err := os.Executable(); err == nil && strings.Contains(path, "go-build") {
		return "go run ./internal/cmd/dtmrelay"
	}
	return "dtmrelay"
}
