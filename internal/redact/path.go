package redact

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// node is a place in an alert, in a tree of the places that paths name.
type node struct {
	names map[string]*node // members
	any   *node            // members of any name
	elem  *node            // elements

	kind  nameKind // of a member: what its name says
	mask  bool     // a path of REDACT ends here
	keep  bool     // one of keptFields
	group bool     // one of groupFields
	role  role
	open  bool // of the tree of known fields: members that nobody has listed
}

// step is one part of a path: a name, "*" or "[]".
type step struct {
	name      string
	any, elem bool
}

const pathWords = `member names joined by dots, with [] after a name for every element of a list and * in place of any one name, such as doc.service_account.password or topics[].value`

func parsePath(path string) ([]step, error) {
	if !utf8.ValidString(path) || strings.ContainsRune(path, utf8.RuneError) {
		return nil, errors.New("it is not valid UTF-8")
	}
	var steps []step
	for part := range strings.SplitSeq(path, ".") {
		lists := 0
		name := part
		for strings.HasSuffix(name, "[]") {
			name = strings.TrimSuffix(name, "[]")
			lists++
		}
		switch {
		case name == "" && lists > 0:
			return nil, errors.New("it has [] without a name before it")
		case name == "":
			return nil, errors.New("it has an empty name")
		case strings.ContainsAny(name, "[]"):
			return nil, errors.New("it has a bracket that is not [] at the end of a name")
		case name != "*" && strings.Contains(name, "*"):
			return nil, errors.New("it has a * that is not a whole name")
		case strings.TrimSpace(name) != name:
			return nil, errors.New("it has white space around a name")
		}
		steps = append(steps, step{name: name, any: name == "*"})
		for range lists {
			steps = append(steps, step{elem: true})
		}
	}
	return steps, nil
}

// add returns the node at the end of the steps, made where there is none.
func (n *node) add(steps []step) *node {
	for _, s := range steps {
		var next *node
		switch {
		case s.any:
			next = n.any
		case s.elem:
			next = n.elem
		default:
			next = n.names[s.name]
		}
		if next == nil {
			next = new(node)
			switch {
			case s.any:
				n.any = next
			case s.elem:
				n.elem = next
			default:
				if n.names == nil {
					n.names = map[string]*node{}
				}
				n.names[s.name] = next
				next.kind = kindOf([]byte(s.name), nil)
			}
		}
		n = next
	}
	return n
}

// addField is add for a path of this package's own.
func (n *node) addField(path string) *node {
	steps, err := parsePath(path)
	if err != nil {
		panic("redact: " + path + ": " + err.Error()) // every path is compiled in each test
	}
	return n.add(steps)
}

// addKnown adds what an alert of a known type can have, and returns n.
func (n *node) addKnown() *node {
	for _, path := range keptFields {
		n.addField(path).keep = true
	}
	for _, path := range otherFields {
		path, open := strings.CutSuffix(path, ".**")
		n.addField(path).open = open
	}
	return n
}

// has says whether a place that the steps lead to is in the tree.
func (n *node) has(steps []step) bool {
	if len(steps) == 0 || n.open {
		return true
	}
	s, rest := steps[0], steps[1:]
	if s.elem {
		return n.elem != nil && n.elem.has(rest)
	}
	if n.any != nil && n.any.has(rest) {
		return true
	}
	if !s.any {
		next := n.names[s.name]
		return next != nil && next.has(rest)
	}
	for _, next := range n.names {
		if next.has(rest) {
			return true
		}
	}
	return false
}
