package rules

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// CEL counts what a call costs when the call is done, and takes a list within a list for one
// element. So one call can take all memory, or hours: the join of three thousand times a
// document, or the comparison of lists of lists. What is joined comes from outside. bounded
// lets each such call be asked for its work first, in CEL's units, and ends the evaluation
// where that alone is more than costLimit.

// workOf are the functions whose work can be far more than the size of what they are given.
// An argument of another type has none: the function fails at it.
var workOf = map[string]func(args []ref.Val) uint64{
	operators.Equals:    workOfEqual,
	operators.NotEquals: workOfEqual,
	operators.In:        workOfIn,
	"join":              workOfJoin,
	"format":            workOfFormat,
	"replace":           workOfReplace,
	"indexOf":           workOfSearch,
	"lastIndexOf":       workOfSearch,
	"split":             workOfSplit,
	"charAt":            workOfPart,
	"lowerAscii":        workOfRewriting,
	"reverse":           workOfRewriting,
	"strings.quote":     workOfRewriting,
	"substring":         workOfPart,
	"upperAscii":        workOfRewriting,
}

// bounded puts the question before the calls of a condition.
func bounded(env *cel.Env, p *prices) cel.ProgramOption {
	return cel.CustomDecoratorV2(func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		call, ok := i.(interpreter.InterpretableCall)
		if !ok {
			return i, nil
		}
		work, ok := workOf[call.Function()]
		if call.Function() == overloads.Matches {
			work, ok = p.workOfMatches, true
		}
		if !ok || isComparedWithConstant(call) {
			return i, nil
		}
		do, err := implementation(env, call.Function(), call.OverloadID())
		if err != nil {
			return nil, err
		}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), boundedCall(work, do)), nil
	})
}

// boundedCall asks a call for its work before it does it.
func boundedCall(work func([]ref.Val) uint64, do functions.FunctionOp) functions.FunctionOp {
	return func(args ...ref.Val) ref.Val {
		if work(args) > costLimit {
			panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: "one call costs more than the limit"})
		}
		return do(args...)
	}
}

// isComparedWithConstant reports whether a call is a comparison with a text, number, or the
// like: most conditions are, and it costs no more than that.
func isComparedWithConstant(call interpreter.InterpretableCall) bool {
	if call.Function() != operators.Equals && call.Function() != operators.NotEquals {
		return false
	}
	for _, arg := range call.Args() {
		if constant, ok := arg.(interpreter.InterpretableConst); ok && !isAggregate(constant.Value()) {
			return true
		}
	}
	return false
}

// implementation is what a function does.
func implementation(env *cel.Env, function, overload string) (functions.FunctionOp, error) {
	switch function { // which the planner has itself
	case operators.Equals:
		return func(args ...ref.Val) ref.Val { return types.Equal(args[0], args[1]) }, nil
	case operators.NotEquals:
		return func(args ...ref.Val) ref.Val { return types.Bool(types.Equal(args[0], args[1]) != types.True) }, nil
	}
	bindings, err := env.Functions()[function].Bindings()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{overload, function} { // no overload where only the values tell it
		for _, b := range bindings {
			switch {
			case b.Operator != name:
			case b.Function != nil:
				return b.Function, nil
			case b.Binary != nil:
				return func(args ...ref.Val) ref.Val { return b.Binary(args[0], args[1]) }, nil
			case b.Unary != nil:
				return func(args ...ref.Val) ref.Val { return b.Unary(args[0]) }, nil
			}
		}
	}
	return nil, fmt.Errorf("CEL has no implementation of %s", function)
}

// comparisons are ==, != and in, which also count what is in the lists within lists.
func comparisons() cel.EnvOption {
	counted := func(function string, mostOf func(estimator cost.Estimator, args []cost.AstNode) uint64) cost.OverloadModelOption {
		return cost.ManualCost(
			func(estimator cost.Estimator, _ *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
				return cost.NewCallEstimate(cost.Estimate{Min: 1, Max: cost.SafeAdd(1, mostOf(estimator, args))}, nil)
			},
			func(args []ref.Val, _ ref.Val) *uint64 {
				work := 1 + workOf[function](args)
				return &work
			},
		)
	}
	equal := func(estimator cost.Estimator, args []cost.AstNode) uint64 {
		for _, arg := range args {
			if !mayBeAggregate(arg.Type()) {
				return cost.EstimateSize(estimator, arg).Max / charsOfUnit
			}
		}
		return math.MaxUint64
	}
	in := func(estimator cost.Estimator, args []cost.AstNode) uint64 {
		if !mayBeAggregate(args[0].Type()) {
			return cost.EstimateSize(estimator, args[1]).Max
		}
		return math.MaxUint64
	}
	return cel.CostModel(
		cost.Overload(overloads.Equals, counted(operators.Equals, equal)),
		cost.Overload(overloads.NotEquals, counted(operators.NotEquals, equal)),
		cost.Overload(overloads.InList, counted(operators.In, in)),
	)
}

func mayBeAggregate(t *types.Type) bool {
	switch t.Kind() {
	case types.BoolKind, types.DoubleKind, types.IntKind, types.UintKind, types.StringKind, types.BytesKind,
		types.DurationKind, types.TimestampKind, types.NullTypeKind:
		return false
	default:
		return true
	}
}

func isAggregate(v ref.Val) bool {
	switch v.(type) {
	case traits.Lister, traits.Mapper, *types.Optional:
		return true
	default:
		return false
	}
}

// charsOfUnit is how many characters that are looked at CEL counts as one unit. Each
// character that is written is one.
const charsOfUnit = 10

func workOfText(text string) uint64 { return uint64(len(text)) / charsOfUnit }

func workOfEqual(args []ref.Val) uint64 {
	text, isText := args[0].(types.String)
	switch {
	case isText:
		return workOfText(string(text))
	case !isAggregate(args[0]) || !isAggregate(args[1]):
		return 0 // different at once
	default:
		return workOfValue(args[0], costLimit)
	}
}

func workOfIn(args []ref.Val) uint64 {
	list, ok := args[1].(traits.Lister)
	if !ok {
		return 0 // a map finds a key at once
	}
	if isAggregate(args[0]) {
		return workOfValue(list, costLimit)
	}
	size, _ := list.Size().(types.Int)
	return uint64(size)
}

// workOfValue is the work of going through a value: 1 for each element in it, of whatever
// depth, and what is in its texts. It gives up above a limit.
func workOfValue(v ref.Val, limit uint64) uint64 {
	work := uint64(1)
	switch v := v.(type) {
	case types.String:
		work += workOfText(string(v))
	case *types.Optional:
		if v.HasValue() {
			work += workOfValue(v.GetValue(), limit)
		}
	case traits.Mapper:
		for keys := v.Iterator(); keys.HasNext() == types.True && work <= limit; {
			key := keys.Next()
			work += workOfValue(key, limit-work) + workOfValue(v.Get(key), limit-work)
		}
	case traits.Lister:
		for elements := v.Iterator(); elements.HasNext() == types.True && work <= limit; {
			work += workOfValue(elements.Next(), limit-work)
		}
	}
	return work
}

// workOfJoin is that of list.join() and list.join(separator).
func workOfJoin(args []ref.Val) uint64 {
	list, ok := args[0].(traits.Lister)
	if !ok {
		return 0
	}
	work := uint64(0)
	for elements := list.Iterator(); elements.HasNext() == types.True && work <= costLimit; {
		text, _ := elements.Next().(types.String)
		work += 1 + uint64(len(text))
		if len(args) > 1 {
			separator, _ := args[1].(types.String)
			work += uint64(len(separator))
		}
	}
	return work
}

// workOfFormat is that of format.format(list).
func workOfFormat(args []ref.Val) uint64 {
	format, ok := args[0].(types.String)
	if !ok {
		return 0
	}
	work := uint64(len(format)) + charsOfUnit*workOfValue(args[1], costLimit/charsOfUnit)
	// %.9f has nine digits.
	for rest, found := string(format), true; found; {
		if _, rest, found = strings.Cut(rest, "%."); found {
			digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
			if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
				work += min(n, costLimit+1)
			} else if digits != "" {
				return costLimit + 1
			}
		}
	}
	return work
}

// workOfReplace is that of text.replace(old, new) and text.replace(old, new, times).
func workOfReplace(args []ref.Val) uint64 {
	text, ok1 := args[0].(types.String)
	old, ok2 := args[1].(types.String)
	by, ok3 := args[2].(types.String)
	if !ok1 || !ok2 || !ok3 {
		return 0
	}
	times := uint64(strings.Count(string(text), string(old)))
	if len(args) > 3 {
		if most, ok := args[3].(types.Int); ok && most >= 0 {
			times = min(times, uint64(most))
		}
	}
	// Neither is larger than an alert, so that this doesn't overflow.
	return workOfText(string(text)) + times*uint64(len(by))
}

// workOfSearch is that of text.indexOf(part) and text.lastIndexOf(part), which compare the
// part anew at each character.
func workOfSearch(args []ref.Val) uint64 {
	text, ok1 := args[0].(types.String)
	part, ok2 := args[1].(types.String)
	if !ok1 || !ok2 {
		return 0
	}
	return uint64(utf8.RuneCountInString(string(text))) * uint64(utf8.RuneCountInString(string(part))) / charsOfUnit
}
