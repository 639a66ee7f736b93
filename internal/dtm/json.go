package dtm

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"strings"
)

// What follows reads JSON as encoding/json does, but only to find where values
// begin and end, and once: that takes a quarter of the processor time of
// json.Valid, which was the largest part of an alert's whole way (BenchmarkDecodePage).
// It also matches names exactly, where encoding/json lets an "ID" take the place
// of "id". FuzzPage holds it to encoding/json's verdict.
//
// A negative index is ^i of the index i where the text stops being JSON. When that
// is its length, nothing is wrong with the text but that it was cut off.

// maxDepth is how deep values may be nested (encoding/json: 10,000).
const maxDepth = 10_000

// object returns the object that data holds, without the white space around it,
// and false when data is not valid JSON or no object.
func object(data []byte) ([]byte, bool) {
	if !json.Valid(data) {
		return nil, false
	}
	data = trim(data)
	return data, data[0] == '{'
}

// member reads the name of the member of an object that begins at b[i], and
// returns where its value begins. A negative at is ^i of the index i of the fault. The name
// comes as bytes, so that comparing it needs no memory.
func member(b []byte, i int) (name []byte, at int) {
	end := skipString(b, i)
	if end < 0 {
		return nil, end
	}
	name = b[i+1 : end-1 : end-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		text, _ := stringValue(b[i:end])
		name = []byte(text)
	}
	i = skipSpace(b, end)
	if i == len(b) || b[i] != ':' {
		return nil, ^i
	}
	return name, skipSpace(b, i+1)
}

// first goes into the object or array that begins at b[i], to what is its first
// member or element; done when it has none, and then after it.
func first(b []byte, i int) (at int, done bool) {
	closing := b[i] + 2 // in ASCII, of both kinds
	if i = skipSpace(b, i+1); i < len(b) && b[i] == closing {
		return i + 1, true
	}
	return i, false
}

// next goes from after a value to the next one of its object or array; done
// when there is none, and then after the closing bracket.
func next(b []byte, i int, closing byte) (at int, done bool) {
	if i < 0 {
		return i, true
	}
	if i = skipSpace(b, i); i == len(b) {
		return ^i, true
	}
	switch b[i] {
	case ',':
		return skipSpace(b, i+1), false
	case closing:
		return i + 1, true
	default:
		return ^i, true
	}
}

// members gives the names and values of an object in their order, up to where it
// is not valid JSON. A name may come more than once.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i, done := first(object, 0); !done; {
			name, at := member(object, i)
			end := skipValue(object, at, 1)
			if end < 0 || !yield(name, object[at:end:end]) {
				return
			}
			i, done = next(object, end, '}')
		}
	}
}

// Without returns the JSON object raw less its top-level members of the given names;
// every other member keeps its bytes, white space included. False when raw is not one
// JSON object. Raw itself stays as it is, and what is returned may be raw.
func Without(raw []byte, names ...string) ([]byte, bool) {
	start := skipSpace(raw, 0)
	if start == len(raw) || raw[start] != '{' {
		return nil, false
	}
	var kept [][]byte // runs of members that stay, with the commas between them
	from, run, end := start+1, start+1, start+1
	i, done := first(raw, start)
	for !done {
		name, at := member(raw, i)
		if end = skipValue(raw, at, 2); end < 0 {
			return nil, false
		}
		end = skipSpace(raw, end) // of the comma or brace after it
		if slices.Contains(names, string(name)) {
			if run < from {
				kept = append(kept, raw[run:from-1])
			}
			run = end + 1
		}
		from = end + 1
		i, done = next(raw, end, '}')
	}
	if i < 0 || skipSpace(raw, i) != len(raw) {
		return nil, false
	}
	if run == start+1 {
		return raw, true
	}
	if run < end {
		kept = append(kept, raw[run:end])
	}
	return slices.Concat(raw[:start+1], bytes.Join(kept, []byte(",")), raw[i-1:]), true
}

// elements gives the values of a valid array in their order.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i, done := first(array, 0); !done; {
			end := skipValue(array, i, 1)
			if !yield(array[i:end:end]) {
				return
			}
			i, done = next(array, end, ']')
		}
	}
}

// stringValue returns a JSON string's text, and false for a value of another type.
func stringValue(value []byte) (string, bool) {
	if value[0] != '"' {
		return "", false
	}
	inner := value[1 : len(value)-1]
	for _, c := range inner {
		if c == '\\' || c >= 0x80 {
			// Escapes and invalid UTF-8 are the standard library's business.
			var text string
			err := json.Unmarshal(value, &text)
			return text, err == nil
		}
	}
	return string(inner), true
}

// isNumber reports whether a value is a number: nothing else begins like one.
func isNumber(value []byte) bool {
	return value[0] == '-' || value[0] >= '0' && value[0] <= '9'
}

func trim(data []byte) []byte { return bytes.Trim(data, " \t\r\n") }

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipValue returns the index after the value that begins at b[i].
func skipValue(b []byte, i, depth int) int {
	if i < 0 {
		return i
	}
	if i == len(b) || depth > maxDepth {
		return ^i
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{':
		at, done := first(b, i)
		for !done {
			if _, at = member(b, at); at < 0 {
				return at
			}
			at, done = next(b, skipValue(b, at, depth+1), '}')
		}
		return at
	case '[':
		at, done := first(b, i)
		for !done {
			at, done = next(b, skipValue(b, at, depth+1), ']')
		}
		return at
	case 't':
		return skipLiteral(b, i, "true")
	case 'f':
		return skipLiteral(b, i, "false")
	case 'n':
		return skipLiteral(b, i, "null")
	default:
		return skipNumber(b, i)
	}
}

func skipLiteral(b []byte, i int, text string) int {
	end := i + len(text)
	switch {
	case end <= len(b) && string(b[i:end]) == text:
		return end
	case end > len(b) && strings.HasPrefix(text, string(b[i:])):
		return ^len(b)
	}
	return ^i
}

func skipString(b []byte, i int) int {
	if i < 0 {
		return i
	}
	if i == len(b) || b[i] != '"' {
		return ^i
	}
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return ^i
		case c == '\\':
			if i++; i == len(b) {
				return ^i
			}
			if b[i] == 'u' {
				for range 4 {
					if i++; i == len(b) || !isHex(b[i]) {
						return ^i
					}
				}
			} else if strings.IndexByte(`"\/bfnrt`, b[i]) < 0 {
				return ^i
			}
		}
	}
	return ^len(b)
}

func isHex(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = skipDigits(b, i); i < 0 {
		return i
	}
	if i < len(b) && b[i] == '.' {
		if i = skipDigits(b, i+1); i < 0 {
			return i
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return skipDigits(b, i)
	}
	return i
}

// skipDigits wants one digit at least.
func skipDigits(b []byte, i int) int {
	from := i
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	if i == from {
		return ^i
	}
	return i
}
