package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// maxBody bounds a request's body.
const maxBody = 1 << 20

// fields are the members of a request's body. Reading one that is wrong notes
// why, so that an answer names all problems at once.
type fields struct {
	left     map[string]json.RawMessage
	known    []string
	problems []string
}

// readBody reads an optional JSON object; fields are nil when there is no body.
// Its Content-Type says nothing: curl's -d and Cloud Scheduler send others.
func readBody(w http.ResponseWriter, r *http.Request) (*fields, *problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	case err != nil:
		return nil, &problem{Status: http.StatusBadRequest, Detail: "the body could not be read"}
	}
	if body = bytes.TrimSpace(body); len(body) == 0 {
		return nil, nil
	}
	f := &fields{}
	if err := json.Unmarshal(body, &f.left); err != nil || f.left == nil {
		detail := "the body is not a JSON object"
		if !json.Valid(body) {
			detail = "the body is not valid JSON"
		}
		return nil, &problem{Status: http.StatusBadRequest, Detail: detail}
	}
	return f, nil
}

// decode decodes a field and takes it out of what is left; false when it is absent
// or null, or is not what kind says.
func (f *fields) decode(name, kind string, into any) bool {
	f.known = append(f.known, name)
	raw, ok := f.left[name]
	delete(f.left, name)
	if !ok || string(raw) == "null" {
		return false
	}
	if json.Unmarshal(raw, into) != nil {
		f.addProblem("the field %q is %s; allowed: %s", name, shorten(string(raw)), kind)
		return false
	}
	return true
}

func (f *fields) text(name string) (value string) {
	f.decode(name, "a string", &value)
	return value
}

func (f *fields) boolean(name string) (value bool) {
	f.decode(name, "true or false", &value)
	return value
}

func (f *fields) addProblem(format string, args ...any) {
	f.problems = append(f.problems, fmt.Sprintf(format, args...))
}

// problem is everything that is wrong, fields that nobody took among it.
func (f *fields) problem() *problem {
	for _, name := range slices.Sorted(maps.Keys(f.left)) {
		f.addProblem("the field %q is unknown; allowed: %s", shorten(name), strings.Join(f.known, ", "))
	}
	if len(f.problems) == 0 {
		return nil
	}
	return &problem{Status: http.StatusBadRequest, Detail: strings.Join(f.problems, "; "), Errors: f.problems}
}

// shorten keeps a value that is quoted in an answer within a line.
func shorten(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
