// Package redact masks secrets in an alert. It works on the alert's bytes: what is not
// masked stays byte for byte.
package redact

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Redactor masks what a list of presets and paths names. The zero value, and nil, mask
// nothing. It can be used by several goroutines.
type Redactor struct {
	root        *node // nil: masks nothing
	credentials bool
	text        bool
	salt        uint64 // of Fingerprint
}

// Parse reads a JSON list of presets ("credentials", "text") and paths; the empty list
// masks nothing. A path is member names joined by dots, with [] after a name for every
// element and * in place of any one name. The warnings are about paths that no known type
// of alert can have. The error has all problems of the list, each with the element's
// place (from 1), its value and what is allowed.
func Parse(list string) (*Redactor, []string, error) {
	var elements []json.RawMessage
	err := json.Unmarshal([]byte(list), &elements)
	var other *json.UnmarshalTypeError
	switch {
	case errors.As(err, &other):
		err = fmt.Errorf("it is a JSON %s", other.Value)
	case err == nil && elements == nil:
		err = errors.New("it is null")
	}
	if err != nil {
		return nil, nil, fmt.Errorf(`%s is not a JSON list (%w): it must be one of presets and paths, such as ["credentials", "topics[].value"], or [] to mask nothing`, quote(list), err)
	}
	if len(elements) == 0 {
		return new(Redactor), nil, nil
	}
	r := &Redactor{root: new(node), salt: hash([]byte(list))}
	var known *node // only a path is compared with it: a cold start pays for presets alone
	var warnings []string
	var problems []error
	for i, element := range elements {
		refuse := func(value, problem string) {
			problems = append(problems, fmt.Errorf("element %d, %s: %s; it must be a preset (%q or %q) or a path, which is %s",
				i+1, value, problem, presetCredentials, presetText, pathWords))
		}
		var path string
		if element[0] != '"' || json.Unmarshal(element, &path) != nil {
			refuse(shorten(string(element)), "it is no string")
			continue
		}
		switch path {
		case presetCredentials:
			r.credentials = true
			continue
		case presetText:
			r.text = true
			continue
		}
		steps, err := parsePath(path)
		if err != nil {
			refuse(quote(path), err.Error())
			continue
		}
		if known == nil {
			known = new(node).addKnown()
		}
		if !known.has(steps) {
			warnings = append(warnings, fmt.Sprintf("element %d, %s: no known type of alert has such a field, and no preset is called so (there are %q and %q), so it may mask nothing",
				i+1, quote(path), presetCredentials, presetText))
		}
		r.root.add(steps).mask = true
	}
	if len(problems) > 0 {
		return nil, nil, errors.Join(problems...)
	}
	r.addOwn()
	return r, warnings, nil
}

// addOwn adds the fields that this package knows to the tree of paths. Of most it only
// knows the name, which saves looking at it in every alert.
func (r *Redactor) addOwn() {
	r.root.addKnown()
	if !r.credentials {
		return
	}
	for _, path := range groupFields {
		r.root.addField(path).group = true
	}
	for role, paths := range roleFields {
		for _, path := range paths {
			r.root.addField(path).role = role
		}
	}
}

// quote shows a value so that a long or binary one doesn't fill the log.
func quote(value string) string { return shorten(strconv.Quote(value)) }

func shorten(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// Masked is what Redact masked in one alert.
type Masked struct {
	values  int
	secret  bool
	secrets *matcher // nil when there is nothing to look for

	texts  []string        // all that was masked
	topics map[string]bool // ids of the topics that are secrets
	all    bool            // Everything
	prints uint64          // for Fingerprint; 0: there are none
}

// Everything is for RedactPart what was masked in an alert that can't be had.
func Everything() Masked { return Masked{all: true} }

// Any says whether anything was masked.
func (m Masked) Any() bool { return m.values > 0 }

// Secret says whether anything was masked that is more than the text of a document, which
// the preset of that name masks: it may stand in a version without the document, too.
func (m Masked) Secret() bool { return m.secret }

// Fingerprint is that of the alert, see [Redactor.Fingerprint].
func (m Masked) Fingerprint() string {
	if m.prints == 0 {
		return ""
	}
	return fmt.Sprintf("%016x", m.prints)
}

// Text masks another text that belongs to the alert, of at most 1,024 bytes or a member
// of it: what was masked in the alert is masked in the text, if it has six characters or
// more. Were shorter ones masked, a marker beside the same name in the data would say what
// the secret is.
func (m Masked) Text(text string) string {
	if m.secrets == nil {
		return text
	}
	found := m.secrets.find([]byte(text), nil)
	if len(found) == 0 {
		return text
	}
	var out strings.Builder
	last := 0
	for _, f := range found {
		out.WriteString(text[last:f.start])
		out.WriteString(f.marker)
		last = f.end
	}
	out.WriteString(text[last:])
	return out.String()
}

// newMasked takes the strings that were masked, and the most bytes of one that another
// text can have.
func newMasked(values int, texts []string, most int) Masked {
	slices.Sort(texts)
	texts = slices.Compact(texts)
	secrets := slices.DeleteFunc(slices.Clone(texts), func(text string) bool {
		return len(text) > most || utf8.RuneCountInString(text) < minSecret
	})
	return Masked{values: values, secrets: newMatcher(secrets), texts: texts}
}

// At is what takes the place of a text at a path.
func At(text string) string {
	if stays([]byte(text)) {
		return text
	}
	return marker(utf8.RuneCountInString(text))
}

// Masks reports whether there is anything that it masks.
func (r *Redactor) Masks() bool { return r != nil && r.root != nil }

// Hides reports whether a path names a member at the top of the alert, so that nothing else
// may say what it is.
func (r *Redactor) Hides(name string) bool {
	if !r.Masks() {
		return false
	}
	n := r.root.names[name]
	return n != nil && n.mask || r.root.any != nil && r.root.any.mask
}

// Fingerprint tells one set of texts in an alert from another, as far as this Redactor could
// find a secret in them: two versions with the same one differ in their document at most,
// or in what can be no secret. Another Redactor has other ones. It is empty when nothing is
// masked, or when raw can't be read.
func (r *Redactor) Fingerprint(raw []byte) string {
	if !r.Masks() {
		return ""
	}
	w := scratch.Get().(*walker)
	defer w.free()
	if !w.walk(r, raw) {
		return ""
	}
	return Masked{prints: r.salt + w.prints}.Fingerprint()
}

// Redact masks an alert. valid is false when raw is not JSON as encoding/json has it
// (nested at most 10,000 deep) or over 2 GiB: there is no telling then where a secret is, so
// out is nil and nothing of raw may be published. A Redactor that masks nothing returns
// every raw as it is, with valid true.
//
// Every string below one of the paths becomes "[redacted:CLASS]", every number and boolean
// there null. Empty strings, null, GTI's own "********" and what is masked already stay.
// A string of six characters or more that was masked is then masked inside all other
// strings too, but for ids, enums and times. Names of members are structure and stay, also
// below a path.
//
// raw need not be an alert: each outermost object of a list is masked like one, and so is
// every value that stands in no object, since nothing says what it is. When nothing is
// masked out is raw itself; raw is never written to.
func (r *Redactor) Redact(raw []byte) (out []byte, masked Masked, valid bool) {
	return r.RedactPart(raw, Masked{})
}

// RedactPart masks an alert that comes without its document, and so without the topics that
// say which of its matches are secrets: what was masked in the whole alert is masked in it,
// too. With Everything all matches are, and each string of six characters or more that is
// searched at all.
func (r *Redactor) RedactPart(raw []byte, alert Masked) (out []byte, masked Masked, valid bool) {
	if !r.Masks() {
		return raw, Masked{}, true
	}
	w := scratch.Get().(*walker)
	defer w.free()
	if !w.walk(r, raw) {
		return nil, Masked{}, false
	}
	topics := w.judgeGroups(alert)
	n, secret, texts := w.collect()
	prints := r.salt + w.prints
	if n == 0 && len(alert.texts) == 0 && !alert.all {
		return raw, Masked{prints: prints}, true
	}
	// A byte that is no UTF-8 is three when it is decoded (U+FFFD).
	m := newMasked(n, append(texts, alert.texts...), max(3*w.longest, maxTextBytes))
	m.topics, m.secret, m.prints = topics, secret, prints
	if alert.all {
		m.secrets = &matcher{all: true}
	}
	out, found := w.write(m.secrets)
	if m.values += found; m.values == 0 {
		return raw, Masked{prints: prints}, true
	}
	return out, m, true
}
