package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // expressions name time zones, and the function's image need not have them

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// costLimit bounds the work of one condition for one version, in CEL's units: about
// one for each operation, one for each ten characters of a text that is searched, and
// for a regular expression that times a quarter of its program. So a search through
// a document of 1 MB costs 100,000.
const costLimit = 2_000_000

// smallBytes is the size up to which an alert is small: many conditions can't reach
// the limit with one, whatever it holds, and counting takes half of an evaluation's
// time. The bound has room for an alert of a page with documents, but for web content.
const smallBytes = 64 << 10

// Rules are compiled rules; nil are none. They may be used by several goroutines.
type Rules struct {
	feed  string
	rules []compiledRule
}

type compiledRule struct {
	Rule
	condition cel.Program // counts its cost
	// small doesn't count, and is for small alerts. It is nil when the condition may be
	// too much for one of them.
	small cel.Program
}

// Compile reads a JSON list of rules, and compiles their conditions for a feed. Without
// rules, nil is compiled: CEL costs milliseconds. The error names every problem of every
// rule: a wrong condition with line and column, and an unknown field with the nearest
// known one. With it comes the list as far as it could be read, and nothing compiled.
func Compile(text, feed string) (list List, compiled *Rules, err error) {
	read, err := parse(text)
	if len(read) == 0 {
		return nil, nil, err
	}
	env, err := newEnv()
	if err != nil {
		return nil, nil, fmt.Errorf("set up CEL: %w", err)
	}
	compiled = &Rules{feed: feed}
	p := &prices{programs: map[string]uint64{}}
	var problems []error
	for _, r := range read {
		list = append(list, r.Rule)
		problems = append(problems, r.problems...)
		if r.When == "" {
			continue
		}
		c := compiledRule{Rule: r.Rule}
		for _, problem := range c.compile(env, p) {
			problems = append(problems, fmt.Errorf("%s: when: %w", r.label, problem))
		}
		compiled.rules = append(compiled.rules, c)
	}
	if len(problems) > 0 {
		return list, nil, errors.Join(problems...)
	}
	return list, compiled, nil
}

func newEnv() (*cel.Env, error) {
	known := func(env *cel.Env) (*cel.Env, error) {
		return cel.CustomTypeProvider(provider{env.CELTypeProvider(), schema()})(env)
	}
	return cel.NewEnv(
		ext.Strings(),
		comparisons(),
		cel.OptionalTypes(), // alert.doc.?shop.?name.orValue(''), in place of a has() for each step
		known,
		cel.Variable("alert", alertType),
		cel.Variable("event", cel.StringType),
		cel.Variable("previous_status", cel.StringType),
		cel.Variable("now", cel.TimestampType),
		cel.Variable("feed", cel.StringType),
		// All numbers of JSON are doubles, and nobody writes 70.0.
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	)
}

func (c *compiledRule) compile(env *cel.Env, p *prices) []error {
	checked, issues := env.Compile(c.When)
	if issues.Err() != nil {
		var problems []error
		for _, issue := range issues.Errors() {
			problems = append(problems, at(issue.Location.Line(), issue.Location.Column(), explain(issue.Message)))
		}
		return problems
	}
	if checked.OutputType() != cel.BoolType {
		return []error{at(1, 0, fmt.Sprintf("gives %s; allowed: a boolean, such as from ==", cel.FormatCELType(checked.OutputType())))}
	}
	if problems := append(timeZones(checked.NativeRep()), alertsAsValues(checked.NativeRep())...); len(problems) > 0 {
		return problems
	}
	p.learn(checked.NativeRep())
	options := []cel.ProgramOption{
		cel.EvalOptions(cel.OptOptimize), bounded(env, p),
		cel.OptimizeRegex(p.matcher(overloads.Matches), p.matcher(overloads.MatchesString)),
	}
	estimate, err := env.EstimateCost(checked, p)
	if err == nil && estimate.Min > costLimit {
		err = fmt.Errorf("costs %d at least; allowed: %d", estimate.Min, costLimit)
	}
	if err == nil && estimate.Max <= costLimit {
		c.small, err = env.Program(checked, options...)
	}
	if err == nil {
		c.condition, err = env.Program(checked, append(options, cel.CostTracking(p), cel.CostLimit(costLimit))...)
	}
	if err != nil {
		return []error{at(1, 0, err.Error())}
	}
	return nil
}

// at is a problem at a place: CEL counts lines from 1 and columns from 0.
func at(line, column int, message string) error {
	if line < 1 { // of the whole condition
		return errors.New(message)
	}
	return fmt.Errorf("line %d, column %d: %s", line, column+1, message)
}

// explain adds to a message of CEL what the writer of a rule needs to go on.
func explain(message string) string {
	if name, ok := strings.CutPrefix(message, "undefined field '"); ok {
		name = strings.TrimSuffix(name, "'")
		known := slices.Sorted(maps.Keys(schema()))
		return fmt.Sprintf("alert has no field %q known to this version, the nearest is %s; what the API added since is in alert.raw", dtm.Shorten(name), nearest(name, known))
	}
	for _, pair := range []string{"(double, int)", "(int, double)", "(double, list(int))"} {
		if strings.HasSuffix(message, "'"+pair+"'") {
			return message + "; an alert's numbers are doubles: write 70.0 for 70"
		}
	}
	limit := message[strings.LastIndexByte(message, ' ')+1:]
	switch {
	case message == "invalid matches argument":
		return "the text for matches is no regular expression; allowed: one of RE2, such as ^acme-[0-9]+$"
	case message == "invalid duration argument":
		return "the text for duration is no duration; allowed: numbers with a unit, such as 90s, 15m or 24h, up to 2562047h"
	case message == "invalid timestamp argument":
		return "the text for timestamp is no time; allowed: a time such as 2026-01-02T03:04:05Z"
	case strings.HasPrefix(message, "expression recursion limit exceeded: "):
		return "parts of it are nested too deeply; allowed: " + limit + " levels"
	case strings.HasPrefix(message, "expression code point size exceeds limit: "):
		return "it is too long; allowed: " + limit + " characters"
	}
	return message
}

// timeZones finds names of time zones that don't exist, as far as they are literals:
// CEL finds them only when it evaluates.
func timeZones(checked *ast.AST) (problems []error) {
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || !strings.HasPrefix(e.AsCall().FunctionName(), "get") || len(e.AsCall().Args()) != 1 {
			return
		}
		arg := e.AsCall().Args()[0]
		name, ok := literal(arg)
		if !ok {
			return
		}
		found := types.Timestamp{Time: time.Unix(0, 0)}.Receive(overloads.TimeGetHours, overloads.TimestampToHoursWithTz, []ref.Val{types.String(name)})
		if types.IsError(found) {
			place := checked.SourceInfo().GetStartLocation(arg.ID())
			problems = append(problems, at(place.Line(), place.Column(), fmt.Sprintf("there is no time zone %q; allowed: a name such as Europe/Berlin, or +02:00", dtm.Shorten(name))))
		}
	}))
	return problems
}

// alertsAsValues finds where the alert itself is compared, or one is made up: both would fail
// at every alert.
func alertsAsValues(checked *ast.AST) (problems []error) {
	isAlert := func(e ast.Expr) bool { return checked.GetType(e.ID()).IsExactType(alertType) }
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		isCompared := e.Kind() == ast.CallKind && slices.Contains([]string{operators.Equals, operators.NotEquals, operators.In}, e.AsCall().FunctionName()) &&
			slices.ContainsFunc(e.AsCall().Args(), isAlert)
		if isCompared || e.Kind() == ast.StructKind {
			place := checked.SourceInfo().GetStartLocation(e.ID())
			problems = append(problems, at(place.Line(), place.Column(), "the alert is no value of its own; allowed: its fields, such as alert.id"))
		}
	}))
	return problems
}
