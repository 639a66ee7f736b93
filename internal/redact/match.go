package redact

import (
	"math/bits"
	"math/rand/v2"
	"unicode/utf8"
)

const (
	// minSecret is from how many characters on a masked string is looked for elsewhere:
	// shorter ones stand in ordinary words.
	minSecret = 6
	// maxTextBytes is the longest text of the caller's (Pub/Sub: values of attributes).
	maxTextBytes = 1024
	// maxSecretBytes bounds what all strings to look for have together, and with that
	// memory (some 60 bytes each) and time. Recorded alerts have a few hundred.
	maxSecretBytes = 1 << 20
)

// marker is what takes the place of a string of so many characters.
func marker(characters int) string {
	switch {
	case characters <= 7:
		return "[redacted:1-7]"
	case characters <= 11:
		return "[redacted:8-11]"
	case characters <= 15:
		return "[redacted:12-15]"
	default:
		return "[redacted:16+]"
	}
}

// stays says whether a string at a path is nothing to mask: it is empty, masked by GTI or
// masked already.
func stays(text []byte) bool {
	switch string(text) {
	case "", "********", "[redacted:1-7]", "[redacted:8-11]", "[redacted:12-15]", "[redacted:16+]":
		return true
	}
	return false
}

// matcher finds many strings in a text in one pass over it, whatever they are
// (Aho and Corasick, 1975). A search for one after the other takes as many passes as there
// are strings, and a trie without its failure links as many steps a byte as the longest
// has: an alert made for it would hold up the feed.
type matcher struct {
	root    [256]int32 // the states after one byte; 0 is the state of no match
	edges   []edge     // the other steps from state to state: a hash table
	shift   int        // leaves an index of it from 64 bits
	failure []int32    // the state of the longest end of a state's text that is one too
	longest []int32    // of the strings that end in a state, the longest one's bytes
	all     bool       // too many: masks every text that is long enough to hold one
}

// edge leads from a state with a byte (key is state<<8 | byte) to another one. No edge
// leads to state 0, so that one is an empty slot.
type edge struct {
	key  uint32
	next int32
}

// spread is another odd number in every process, so that nobody can write an alert whose
// edges all want the same slots. What is found doesn't depend on it.
var spread = rand.Uint64() | 1

// newMatcher returns a matcher for the strings, and nil for none.
func newMatcher(secrets []string) *matcher {
	total := 0
	for _, s := range secrets {
		total += len(s)
	}
	switch {
	case total == 0:
		return nil
	case total > maxSecretBytes:
		return &matcher{all: true}
	}
	size := bits.Len(uint(2 * total))
	m := &matcher{
		edges: make([]edge, 1<<size), shift: 64 - size,
		failure: make([]int32, 1, total+1), longest: make([]int32, 1, total+1),
	}
	// All strings grow together by one byte a turn: the states that a failure link can
	// lead to are shorter, so they are there by then.
	states := make([]int32, len(secrets))
	for depth := 0; len(secrets) > 0; depth++ {
		left := 0
		for i, secret := range secrets {
			state := m.extend(states[i], secret[depth])
			if len(secret) == depth+1 {
				m.longest[state] = int32(len(secret))
				continue
			}
			secrets[left], states[left] = secret, state
			left++
		}
		secrets, states = secrets[:left], states[:left]
	}
	return m
}

// extend returns the state after c in a state, made where there is none.
func (m *matcher) extend(state int32, c byte) int32 {
	to := &m.root[c]
	if state != 0 {
		e := m.edge(state, c)
		e.key = uint32(state)<<8 | uint32(c)
		to = &e.next
	}
	if *to != 0 {
		return *to
	}
	var failure int32
	if state != 0 {
		failure = m.step(m.failure[state], c)
	}
	*to = int32(len(m.failure))
	m.failure = append(m.failure, failure)
	m.longest = append(m.longest, m.longest[failure])
	return *to
}

// edge is the slot of the edge that leads from a state with c, empty when there is none.
func (m *matcher) edge(state int32, c byte) *edge {
	key := uint32(state)<<8 | uint32(c)
	last := uint64(len(m.edges) - 1)
	for slot := uint64(key) * spread >> m.shift; ; slot = (slot + 1) & last {
		if e := &m.edges[slot]; e.next == 0 || e.key == key {
			return e
		}
	}
}

// step returns the state of the longest end of a state's text and c.
func (m *matcher) step(state int32, c byte) int32 {
	for state != 0 {
		if e := m.edge(state, c); e.next != 0 {
			return e.next
		}
		state = m.failure[state]
	}
	return m.root[c]
}

// found is a part of a text that is masked.
type found struct {
	start, end int
	marker     string
}

// find appends the parts of a text in which one of the strings stands. Those that overlap
// are one part: with only one of them masked, the rest of the other would be left.
func (m *matcher) find(text []byte, parts []found) []found {
	if m.all {
		if n := utf8.RuneCount(text); n >= minSecret && !stays(text) {
			parts = append(parts, found{0, len(text), marker(n)})
		}
		return parts
	}
	before := len(parts)
	var state int32
	for i, c := range text {
		if state != 0 {
			state = m.step(state, c)
		} else if state = m.root[c]; state == 0 {
			continue // most bytes of most texts
		}
		if m.longest[state] == 0 {
			continue
		}
		part := found{start: i + 1 - int(m.longest[state]), end: i + 1}
		for len(parts) > before && parts[len(parts)-1].end > part.start {
			part.start = min(part.start, parts[len(parts)-1].start)
			parts = parts[:len(parts)-1]
		}
		parts = append(parts, part)
	}
	for i, part := range parts[before:] {
		parts[before+i].marker = marker(utf8.RuneCount(text[part.start:part.end]))
	}
	return parts
}
