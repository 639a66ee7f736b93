package message

import (
	"bytes"
	"encoding/json"
	"slices"
)

// without is the JSON object raw less its top-level members of the given names;
// every other member keeps its bytes, white space included. False when raw is
// not one JSON object.
//
// It works on the bytes in place, because an alert may be 32 MB large and a
// decoder would hold it several times.
func without(raw []byte, names ...string) ([]byte, bool) {
	// What follows relies on the syntax being right.
	if !json.Valid(raw) {
		return nil, false
	}
	start := skipSpace(raw, 0)
	if raw[start] != '{' {
		return nil, false
	}
	start++
	head := raw[:start]
	if i := skipSpace(raw, start); raw[i] == '}' {
		return raw, true
	}
	var kept [][]byte // runs of members that stay, with the commas between them
	run := start
	for {
		key := skipSpace(raw, start)
		colon := skipSpace(raw, endOfString(raw, key))
		end := endOfValue(raw, colon+1)
		if isOneOf(raw[key:endOfString(raw, key)], names) {
			if run < start {
				kept = append(kept, raw[run:start-1])
			}
			run = end + 1
		}
		if raw[end] == '}' {
			if run < end {
				kept = append(kept, raw[run:end])
			}
			return slices.Concat(head, bytes.Join(kept, []byte(",")), raw[end:]), true
		}
		start = end + 1
	}
}

// isOneOf says whether a key, with its quotes, is one of the names, in
// whichever way it is escaped.
func isOneOf(quoted []byte, names []string) bool {
	if !bytes.ContainsRune(quoted, '\\') {
		return slices.Contains(names, string(quoted[1:len(quoted)-1]))
	}
	var key string
	return json.Unmarshal(quoted, &key) == nil && slices.Contains(names, key)
}

func skipSpace(raw []byte, i int) int {
	for raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\n' || raw[i] == '\r' {
		i++
	}
	return i
}

// endOfString is the index after the string whose opening quote is at i.
func endOfString(raw []byte, i int) int {
	for i++; raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// endOfValue is the index of the comma or brace that ends the member whose
// value begins at i.
func endOfValue(raw []byte, i int) int {
	for depth := 0; ; i++ {
		switch raw[i] {
		case '"':
			i = endOfString(raw, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
}
