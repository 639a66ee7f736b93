package rules

import (
	"errors"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
)

// Result is what the rules make of one version of an alert.
type Result struct {
	Drop     bool   // don't publish this version
	Priority string // P1 to P4
	Escalate bool
	Matched  []string // names of the rules that matched, in their order
	// WriteBacks are what the rules that matched want written to GTI, in their order.
	// Whether this version is one to write back for is the caller's to decide.
	WriteBacks []WriteBack
	// Failed are the rules that failed, in their order. None of them matched, but for those
	// of which nothing could be written back.
	Failed []Failure
}

// WriteBack is what one rule wants written to GTI.
type WriteBack struct {
	Rule   string
	Status string   // empty: leave it as it is
	Tags   []string // to add
}

// Failure is a rule that failed. Reason says why, without any text of the alert.
type Failure struct {
	Rule, Reason string
}

// Evaluate applies the rules in their order to a version of an alert that would be
// published as an event (created, updated, status_changed). Every rule that matches
// applies, and a later one overrides an earlier one; of several rules that set a
// status the last one counts.
//
// A rule that fails does not match, and raises the priority to P2 at least, whatever
// the rules after it say. All rules fail for an alert that is invalid or was not held.
// Where nothing can be written back, a rule that sets a status or tags has failed, too: its
// other effects apply, but it doesn't drop.
func (r *Rules) Evaluate(a dtm.Alert, event, previousStatus string, canWriteBack bool, now time.Time) Result {
	result := Result{Priority: message.Priority(a.Severity)}
	if r == nil || len(r.rules) == 0 {
		return result
	}
	v := newView(a, event, previousStatus, r.feed, now)
	defer v.close()
	for i := range r.rules {
		rule := &r.rules[i]
		effects := rule.Rule
		matched, reason := rule.evaluate(v)
		if matched && !canWriteBack && rule.WritesBack() {
			// A drop would hide what could not be closed.
			effects.SetStatus, effects.Tags, effects.Drop = "", nil, nil
			reason = unwritable
		}
		if reason != "" {
			result.Failed = append(result.Failed, Failure{rule.Name, reason})
		}
		if !matched {
			continue
		}
		result.apply(&effects)
		if rule.Stop {
			break
		}
	}
	if len(result.Failed) > 0 && result.Priority > "P2" {
		result.Priority = "P2"
	}
	return result
}

func (r *Result) apply(rule *Rule) {
	r.Matched = append(r.Matched, rule.Name)
	if rule.Priority != "" {
		r.Priority = rule.Priority
	}
	if rule.Escalate != nil {
		r.Escalate = *rule.Escalate
	}
	if rule.Drop != nil {
		r.Drop = *rule.Drop
	}
	if rule.SetStatus != "" {
		// Two write-backs of a status would race for which is the last.
		kept := r.WriteBacks[:0]
		for _, w := range r.WriteBacks {
			if w.Status = ""; len(w.Tags) > 0 {
				kept = append(kept, w)
			}
		}
		r.WriteBacks = kept
	}
	if rule.WritesBack() {
		r.WriteBacks = append(r.WriteBacks, WriteBack{rule.Name, rule.SetStatus, rule.Tags})
	}
}

// unwritable is why a rule fails where nothing can be written back.
const unwritable = "it sets a status or tags, and the alert's own status is none that GTI names"

// What the errors of an evaluation begin with: CEL's, and wrongType.
const (
	missing   = "no such key"
	overload  = "no such overload"
	wrongType = "another type"
)

// evaluate reports whether the condition holds, and if it fails why.
func (c *compiledRule) evaluate(v *view) (matched bool, reason string) {
	if v.alert.Invalid != "" || v.alert.Digest != nil {
		return false, "the alert is not whole"
	}
	var out ref.Val
	var err error
	if c.small != nil && v.frame != nil {
		out, _, err = c.small.Eval(v.frame)
	} else {
		out, _, err = c.condition.Eval(v)
	}
	if err != nil {
		return false, reasonOf(err)
	}
	return out == types.True, ""
}

// reasonOf says in words of our own why an evaluation failed: CEL's message can quote
// the alert.
func reasonOf(err error) string {
	var cancelled interpreter.EvalCancelledError
	switch {
	case errors.As(err, &cancelled):
		return "it costs more than the limit"
	case strings.HasPrefix(err.Error(), missing):
		return "it reads what the alert does not have: ask with has() first"
	case strings.HasPrefix(err.Error(), wrongType), strings.HasPrefix(err.Error(), overload):
		return "a value of the alert has a type that the expression can't use"
	default:
		return "a function can't use a value that it is given"
	}
}
