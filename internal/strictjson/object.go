// Package strictjson reads a JSON object field by field and collects everything that
// is wrong with it, so that whoever wrote the object learns all problems at once.
//
// A reader parses the object, decodes each field that it knows, adds what is wrong
// with the values, and asks at the end for the fields that it did not know:
//
//	o, err := strictjson.Parse(data)
//	o.AddRepeated()
//	name := o.String("name")
//	if name == "" {
//		o.AddProblem("the field %q is missing; allowed: a string", "name")
//	}
//	o.AddUnknown()
//	problems := o.Problems()
//
// An object within an object is decoded into a [json.RawMessage] and parsed likewise.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// What Parse returns for other data. The texts go on after "the body is ".
var (
	ErrInvalid   = errors.New("not valid JSON")
	ErrNotObject = errors.New("not a JSON object")
)

// Object is a JSON object that is being read. The zero value has no fields.
type Object struct {
	// Path stands before the names of the fields in problems: "then." for those of the
	// object in then.
	Path string
	// Mismatch words the problem of a field, named with its Path, whose value is not what
	// is allowed. Without it the problem quotes the value. Set it where a value must not be
	// shown.
	Mismatch func(name, allowed string, value json.RawMessage) string

	unread   map[string]json.RawMessage
	repeated []string
	known    []string
	problems []string
}

// Parse reads data that holds one JSON object and nothing else. The error is
// ErrInvalid or ErrNotObject.
func Parse(data []byte) (*Object, error) {
	if !json.Valid(data) {
		return nil, ErrInvalid
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if open, _ := dec.Token(); open != json.Delim('{') {
		return nil, ErrNotObject
	}
	o := &Object{unread: map[string]json.RawMessage{}}
	for dec.More() {
		// The data is valid JSON: nothing fails here.
		token, _ := dec.Token()
		var value json.RawMessage
		_ = dec.Decode(&value)
		name, _ := token.(string)
		if _, twice := o.unread[name]; twice {
			o.repeated = append(o.repeated, name)
		}
		o.unread[name] = value
	}
	return o, nil
}

// Decode decodes a field into what into points at; allowed says what that is, such
// as "a string". It reports false when the field is absent or null, and when its
// value is something else, which is a problem. Of a field that is named more than
// once it decodes the last value. When it reports false, into may be set in part.
func (o *Object) Decode(name, allowed string, into any) bool {
	o.known = append(o.known, name)
	value, ok := o.unread[name]
	delete(o.unread, name)
	if !ok || string(value) == "null" {
		return false
	}
	if json.Unmarshal(value, into) == nil {
		return true
	}
	if o.Mismatch != nil {
		o.problems = append(o.problems, o.Mismatch(o.Path+name, allowed, value))
	} else {
		o.AddProblem("the field %q is %s; allowed: %s", o.Path+name, dtm.Shorten(string(value)), allowed)
	}
	return false
}

// String decodes a field that is a string; empty when Decode reports false.
func (o *Object) String(name string) (value string) {
	o.Decode(name, "a string", &value)
	return value
}

// Bool decodes a field that is true or false; false when Decode reports false.
func (o *Object) Bool(name string) (value bool) {
	o.Decode(name, "true or false", &value)
	return value
}

const (
	maxTags     = 100 // in a list
	maxTagBytes = 256
)

// Tags decodes a list of an alert's tags, each once: GTI's other clients compare tags
// without regard to case. Null is no list, and an empty one is not nil. With a problem
// the list is nil, or lacks the tags that have one.
func (o *Object) Tags(name string) []string {
	var items []*string // null is no tag
	if !o.Decode(name, "a list of strings", &items) {
		return nil
	}
	name = o.Path + name
	if len(items) > maxTags {
		o.AddProblem("%s has %d tags; allowed: %d", name, len(items), maxTags)
		return nil
	}
	tags := []string{}
	for i, item := range items {
		if item == nil {
			o.AddProblem("%s[%d] is null; allowed: a string", name, i)
			continue
		}
		tag := *item
		switch {
		case tag == "" || len(tag) > maxTagBytes:
			o.AddProblem("%s[%d] has %d bytes; allowed: 1 to %d", name, i, len(tag), maxTagBytes)
		// An escape for half a character is read as U+FFFD.
		case strings.ContainsFunc(tag, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }):
			o.AddProblem("%s[%d] holds a control character or half a character", name, i)
		case strings.TrimSpace(tag) != tag:
			o.AddProblem("%s[%d] begins or ends with white space", name, i)
		case !slices.ContainsFunc(tags, func(t string) bool { return strings.EqualFold(t, tag) }):
			tags = append(tags, tag)
		}
	}
	return tags
}

// AddRepeated adds a problem for each time that a name stands once too often, in
// their order.
func (o *Object) AddRepeated() {
	for _, name := range o.repeated {
		o.AddProblem("the field %q is named more than once", o.Path+dtm.Shorten(name))
	}
}

// Known returns the names that were decoded so far, in that order.
func (o *Object) Known() []string { return o.known }

// Unknown returns the names that were not decoded so far, sorted.
func (o *Object) Unknown() []string { return slices.Sorted(maps.Keys(o.unread)) }

// AddUnknown adds a problem for each field that was not decoded.
func (o *Object) AddUnknown() {
	for _, name := range o.Unknown() {
		o.AddProblem("the field %q is unknown; allowed: %s", o.Path+dtm.Shorten(name), strings.Join(o.known, ", "))
	}
}

// AddProblem adds a problem that the reader found.
func (o *Object) AddProblem(format string, args ...any) {
	o.problems = append(o.problems, fmt.Sprintf(format, args...))
}

// Problems returns all problems so far, in the order in which they were found.
func (o *Object) Problems() []string { return o.problems }
