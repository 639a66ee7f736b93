package dtm

import (
	"bytes"
	"encoding/json"
	"iter"
)

// What follows walks over JSON that json.Valid has accepted, and only over such:
// it looks for where values begin and end and checks nothing. It exists because
// encoding/json reads an alert four times to give its bytes and a few of its
// fields, and matches names without regard to case, so that an "ID" could take
// the place of "id".

// object returns the object that data holds, without the white space around it,
// and false when data is not valid JSON or no object.
func object(data []byte) ([]byte, bool) {
	if !json.Valid(data) {
		return nil, false
	}
	data = trim(data)
	return data, data[0] == '{'
}

// members gives the names and values of an object in their order. A name may
// come more than once. It comes as bytes, so that comparing it needs no memory.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		i := skipSpace(object, 1)
		for object[i] != '}' {
			end := skipString(object, i)
			name := object[i+1 : end-1]
			if bytes.IndexByte(name, '\\') >= 0 {
				text, _ := stringValue(object[i:end])
				name = []byte(text)
			}
			i = skipSpace(object, end) // at the colon
			i = skipSpace(object, i+1)
			end = skipValue(object, i)
			if !yield(name, object[i:end:end]) {
				return
			}
			i = skipComma(object, end)
		}
	}
}

// elements gives the values of an array in their order.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		i := skipSpace(array, 1)
		for array[i] != ']' {
			end := skipValue(array, i)
			if !yield(array[i:end:end]) {
				return
			}
			i = skipComma(array, end)
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
	for b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t' {
		i++
	}
	return i
}

// skipComma goes from behind a value to the next one, or to the closing bracket.
func skipComma(b []byte, i int) int {
	i = skipSpace(b, i)
	if b[i] == ',' {
		i = skipSpace(b, i+1)
	}
	return i
}

// skipString returns the index behind the string that begins at b[i]. It jumps
// from quote to quote, because most of an alert is long strings.
func skipString(b []byte, i int) int {
	for start := i; ; {
		i += 1 + bytes.IndexByte(b[i+1:], '"')
		escapes := 0
		for b[i-1-escapes] == '\\' && i-1-escapes > start {
			escapes++
		}
		if escapes%2 == 0 {
			return i + 1
		}
	}
}

// skipValue returns the index behind the value that begins at b[i].
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		for depth := 0; ; i++ {
			switch b[i] {
			case '"':
				i = skipString(b, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	default: // a number, true, false or null
		for i < len(b) && bytes.IndexByte([]byte(",]} \t\r\n"), b[i]) < 0 {
			i++
		}
		return i
	}
}
