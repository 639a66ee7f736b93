package rules

import (
	"math"
	"regexp"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// CEL counts one unit for some calls that go through a whole text, and judges a regular
// expression by its length, which says nothing of [a-z]{0,900}. Asked for each topic of a
// long list, one such call is minutes. prices says what they cost.
//
// They go by the name of the function: where a value's type is known only when a rule is
// evaluated, such as alert.doc.body, CEL knows no overload to price.
type prices struct {
	// programs are the sizes of the regular expressions that conditions hold as literals.
	programs map[string]uint64
}

// readers are the functions that go through all of a text that they are given.
var readers = map[string]bool{
	overloads.Size: true,
	operators.Less: true, operators.LessEquals: true, operators.Greater: true, operators.GreaterEquals: true,
	overloads.TypeConvertInt: true, overloads.TypeConvertUint: true, overloads.TypeConvertDouble: true, overloads.TypeConvertBool: true,
	overloads.TypeConvertTimestamp: true, overloads.TypeConvertDuration: true,
	overloads.TypeConvertBytes: true, overloads.TypeConvertString: true,
}

// zoneWork is the work of finding a time zone by its name, which is done at each call.
const zoneWork = 1000

// isInZone reports whether a call is one such as now.getHours('Europe/Berlin').
func isInZone(function string, args int) bool {
	return strings.HasPrefix(function, "get") && args == 2
}

// CallCost is what a call has cost; nil leaves it to CEL.
func (p *prices) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	work := uint64(1)
	switch {
	case function == overloads.Matches:
		work += p.workOfMatches(args)
	case readers[function]:
		for _, arg := range args {
			work += workOfReading(arg)
		}
	case isInZone(function, len(args)):
		work = zoneWork
	default:
		return nil
	}
	return &work
}

// workOfReading is the work of going through a text or bytes; none where a value is
// something else.
func workOfReading(v ref.Val) uint64 { return bytesOf(v) / charsOfUnit }

func bytesOf(v ref.Val) uint64 {
	switch v := v.(type) {
	case types.String:
		return uint64(len(v))
	case types.Bytes:
		return uint64(len(v))
	default:
		return 0
	}
}

// EstimateCallCost is what a call costs at most; nil leaves it to CEL.
func (p *prices) EstimateCallCost(function, _ string, target *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	if target != nil {
		args = append([]cost.AstNode{*target}, args...)
	}
	most := uint64(1)
	switch {
	case function == overloads.Matches && len(args) == 2:
		pattern, ok := literal(args[1].Expr())
		if !ok {
			most = math.MaxUint64
			break
		}
		most = cost.SafeAdd(most, cost.SafeMultiply(p.mostOf(args[0])/charsOfUnit+1, p.programSize(pattern)))
	case readers[function]:
		for _, arg := range args {
			most = cost.SafeAdd(most, p.mostOf(arg)/charsOfUnit)
		}
	case isInZone(function, len(args)):
		most = zoneWork
	default:
		return nil
	}
	return cost.NewCallEstimate(cost.Estimate{Min: 1, Max: most}, nil)
}

// mostOf is how long a value of a small alert is at most.
func (p *prices) mostOf(node cost.AstNode) uint64 {
	switch node.Type().Kind() {
	case types.StringKind, types.BytesKind, types.DynKind, types.AnyKind, types.TypeParamKind, types.OpaqueKind:
		return cost.EstimateSize(p, node).Max
	default:
		return 0 // no text
	}
}

// EstimateSize is how long the texts and lists of a small alert are at most.
func (p *prices) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if len(node.Path()) == 0 {
		return nil // not of a variable
	}
	return &cost.SizeEstimate{Max: smallBytes}
}

// workOfMatches is that of text.matches(pattern): each character may meet each instruction
// of the program that the pattern is made into.
func (p *prices) workOfMatches(args []ref.Val) uint64 {
	text, ok1 := args[0].(types.String)
	pattern, ok2 := args[1].(types.String)
	if !ok1 || !ok2 {
		return 0
	}
	return (workOfText(string(text)) + 1) * p.programSize(string(pattern))
}

// programSize is the size of a pattern's program, in units of CEL: a quarter of its
// instructions, as it is a quarter of a pattern's characters.
func (p *prices) programSize(pattern string) uint64 {
	if size, known := p.programs[pattern]; known {
		return size
	}
	const instructionsOfUnit = 4
	instructions, err := types.RegexProgramSize(pattern)
	if err != nil {
		return 1 // the call fails
	}
	return uint64(instructions)/instructionsOfUnit + 1
}

// matcher compiles the regular expression of a call once, as CEL does by itself, and asks
// for the work of each call.
func (p *prices) matcher(overload string) *interpreter.RegexOptimization {
	return &interpreter.RegexOptimization{
		Function: overloads.Matches, OverloadID: overload, RegexIndex: 1,
		Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
			compiled, err := regexp.Compile(pattern)
			if err != nil {
				return nil, err
			}
			matches := func(args ...ref.Val) ref.Val {
				text, ok := args[0].(types.String)
				if !ok {
					return types.MaybeNoSuchOverloadErr(args[0])
				}
				return types.Bool(compiled.MatchString(string(text)))
			}
			return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), boundedCall(p.workOfMatches, matches)), nil
		},
	}
}

// learn notes the regular expressions that a condition holds.
func (p *prices) learn(condition *ast.AST) {
	ast.PreOrderVisit(condition.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != overloads.Matches {
			return
		}
		args := e.AsCall().Args()
		if pattern, ok := literal(args[len(args)-1]); ok {
			p.programs[pattern] = p.programSize(pattern)
		}
	}))
}

// literal is a text that stands in a condition.
func literal(e ast.Expr) (text string, ok bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	text, ok = e.AsLiteral().Value().(string)
	return text, ok
}

// workOfSplit is that of text.split(separator) and text.split(separator, most): each part is
// an element of a list.
func workOfSplit(args []ref.Val) uint64 {
	text, ok1 := args[0].(types.String)
	separator, ok2 := args[1].(types.String)
	if !ok1 || !ok2 {
		return 0
	}
	parts := uint64(strings.Count(string(text), string(separator))) + 1
	if len(args) > 2 {
		if most, ok := args[2].(types.Int); ok && most >= 0 {
			parts = min(parts, uint64(most))
		}
	}
	return workOfText(string(text)) + parts
}

// workOfRewriting is that of functions that write a text of about the same length.
func workOfRewriting(args []ref.Val) uint64 { return bytesOf(args[0]) }

// workOfPart is that of functions that look for a part of a text, and write no more.
func workOfPart(args []ref.Val) uint64 { return workOfReading(args[0]) }
