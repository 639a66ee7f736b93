// Package rules decides what becomes of a version of an alert: whether it is dropped,
// its priority, whether it is escalated, and what shall be written back to GTI. The
// rules are an operator's, with conditions in CEL (https://cel.dev); docs/rules.md is
// their book.
package rules

import "slices"

// Rule is one rule as it was written.
type Rule struct {
	Name string // [a-z0-9][a-z0-9-]{0,62}
	When string // a CEL expression that gives a boolean

	// What follows is done when the condition holds.

	Priority  string   // P1 to P4; empty: leave it as it is
	Escalate  *bool    // nil: leave it as it is
	Drop      *bool    // nil: leave it as it is
	SetStatus string   // one of dtm.Statuses; empty: leave it as it is
	Tags      []string // to add
	Stop      bool     // no later rule is looked at
}

// WritesBack reports whether the rule sets a status or tags.
func (r Rule) WritesBack() bool { return r.SetStatus != "" || len(r.Tags) > 0 }

// List are rules in the order in which they are evaluated.
type List []Rule

// WritesBack reports whether any of the rules does, for which there has to be a topic.
func (l List) WritesBack() bool {
	return slices.ContainsFunc(l, Rule.WritesBack)
}
