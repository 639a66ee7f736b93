package redact

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// token is one of a text's JSON tokens.
type token struct {
	path  string // of a value: names joined by dots, and [] for elements
	name  bool
	value json.Token
	space string // what stands before it, commas and colons included
	raw   string
}

// tokens reads a text with the standard library's decoder, which shares nothing with
// what is tested.
func tokens(tb rapid.TB, text []byte) (all []token) {
	tb.Helper()
	type level struct {
		path  string
		array bool
		name  string
		isKey bool // the next token is one
	}
	levels := []level{{}}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	for {
		from := d.InputOffset()
		value, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			tb.Fatalf("%v in %q", err, text)
		}
		raw := string(text[from:d.InputOffset()])
		trimmed := strings.TrimLeft(raw, " \t\r\n,:")
		top := &levels[len(levels)-1]
		t := token{value: value, space: raw[:len(raw)-len(trimmed)], raw: trimmed, path: top.path}
		switch {
		case top.array:
			t.path += "[]"
		case len(levels) == 2: // a member of the alert
			t.path = top.name
		case len(levels) > 2:
			t.path += "." + top.name
		}
		delim, isDelim := value.(json.Delim)
		switch {
		case isDelim && (delim == '}' || delim == ']'):
			t.path = top.path
			levels = levels[:len(levels)-1]
		case top.isKey:
			t.name = true
			top.name, top.isKey = value.(string), false
			all = append(all, t)
			continue
		case isDelim:
			levels = append(levels, level{path: t.path, array: delim == '['})
		}
		all = append(all, t)
		top = &levels[len(levels)-1]
		top.isKey = !top.array && len(levels) > 1
	}
}

var markers = regexp.MustCompile(`\[redacted:(?:1-7|8-11|12-15|16\+)\]`)

func isMarker(text string) bool { return markers.FindString(text) == text && text != "" }

func isKept(path string) bool {
	return slices.Contains(keptFields, path) || slices.Contains(keptFields, path[:strings.LastIndexByte(path, '.')+1]+"*")
}

// checkDifference checks what holds for every alert and what came of it: nothing but
// masked values differs, and of what was masked nothing is left in what is searched.
func checkDifference(tb rapid.TB, in, out []byte) {
	tb.Helper()
	before, after := tokens(tb, in), tokens(tb, out)
	if len(before) != len(after) {
		tb.Fatalf("%d tokens became %d:\n%s\n%s", len(before), len(after), in, out)
	}
	var masked []string
	for i, b := range before {
		a := after[i]
		if a.path != b.path || a.name != b.name || a.space != b.space {
			tb.Fatalf("%+v became %+v", b, a)
		}
		if a.raw == b.raw {
			continue
		}
		was, isText := b.value.(string)
		is, _ := a.value.(string)
		switch {
		case b.name:
			tb.Errorf("the name %s became %s", b.raw, a.raw)
		case !isText:
			_, isDelim := b.value.(json.Delim)
			if isDelim || b.value == nil || a.raw != "null" {
				tb.Errorf("%s at %s became %s", b.raw, b.path, a.raw)
			}
		case isMarker(is):
			if is != marker(utf8.RuneCountInString(was)) {
				tb.Errorf("%s became %s", b.raw, a.raw)
			}
			masked = append(masked, was)
		default:
			if isKept(b.path) {
				tb.Errorf("%s at %s became %s", b.raw, b.path, a.raw)
			}
			checkPieces(tb, b.raw, a.raw)
		}
	}
	slices.Sort(masked)
	for _, secret := range slices.Compact(masked) {
		if utf8.RuneCountInString(secret) < minSecret || isMarker(secret) {
			continue
		}
		for _, a := range after {
			text, isText := a.value.(string)
			if !isText || a.name || isKept(a.path) || text == "********" {
				continue
			}
			for _, piece := range markers.Split(text, -1) {
				if strings.Contains(piece, secret) {
					tb.Errorf("%q is left at %s: %s\nin %s", secret, a.path, a.raw, in)
				}
			}
		}
	}
}

// checkPieces checks that a string is the other but for parts with markers in their place.
func checkPieces(tb rapid.TB, before, after string) {
	tb.Helper()
	pieces := markers.Split(after, -1)
	rest := before
	for i, piece := range pieces {
		at := strings.Index(rest, piece)
		if i == len(pieces)-1 {
			at = strings.LastIndex(rest, piece)
		}
		if at < 0 || i == 0 && at > 0 || i == len(pieces)-1 && at+len(piece) != len(rest) {
			tb.Fatalf("%s became %s", before, after)
		}
		rest = rest[at+len(piece):]
	}
}

// mustMask says by the path alone whether a value is at one of the paths of lawLists, but
// for topics and matches.
func mustMask(list, path string) bool {
	if list != lawLists[0] {
		return regexp.MustCompile(`^(a|doc\.[^.\[]*\.id|topics\[\]\.value)($|\.|\[)`).MatchString(path) ||
			strings.HasPrefix(path, "doc.") && regexp.MustCompile(`\.(body|text)($|\.|\[)`).MatchString(path)
	}
	card := false
	for name := range strings.SplitSeq(strings.ReplaceAll(path, "[]", ""), ".") {
		switch name {
		case "password", "Api-Keys":
			return true
		case "payment_card":
			card = true
		case "brand":
			card = false
		}
	}
	return card
}

var lawLists = []string{`["credentials"]`, `["text","a","doc.*.id","topics[].value"]`}

// drawString writes a string of a few pieces, some of them escaped.
func drawString(t *rapid.T) string {
	if rapid.IntRange(0, 19).Draw(t, "special") == 0 {
		return rapid.SampledFrom([]string{`"********"`, `"[redacted:8-11]"`, `"\u005bredacted:1-7]"`, `"******"`, `"\u002a*******"`}).Draw(t, "special string")
	}
	pieces := rapid.SliceOfN(rapid.SampledFrom([]string{
		"a", "ab", "abc", "bca", "cab", "aaa", " ", "é", "🐲", `\u0061`, `\u0062c`, `\u00e9`, `\u00E9`, `\ud83d\udc32`, `\uD83D`, `\udc32`, `\/`, "/", `\n`, `\"`, `\\`, "\xff", "\xf0\x9f", "redacted:", "password", "u-1",
	}), 0, 8).Draw(t, "pieces")
	return `"` + strings.Join(pieces, "") + `"`
}

func drawValue(t *rapid.T, depth int) string {
	space := rapid.SampledFrom([]string{"", "", " ", "\n\t"})
	kind := rapid.IntRange(0, 9).Draw(t, "kind")
	if depth == 0 {
		kind = 0
	}
	switch {
	case kind > 7 && depth > 1:
		var out []string
		for range rapid.IntRange(0, 4).Draw(t, "elements") {
			out = append(out, space.Draw(t, "space")+drawValue(t, depth-1)+space.Draw(t, "space"))
		}
		return "[" + strings.Join(out, ",") + "]"
	case kind > 3 && depth > 0:
		return drawObject(t, depth)
	case kind == 3:
		return rapid.SampledFrom([]string{"null", "true", "false", "0", "-1.50", "1e999", "123456789012345678901234567890"}).Draw(t, "scalar")
	default:
		return drawString(t)
	}
}

func drawObject(t *rapid.T, depth int) string {
	names := rapid.SampledFrom([]string{
		"a", "b", "id", "title", "status", "doc", "body", "text", "password", `p\u0061ssword`, "Api-Keys", "payment_card", "brand", "topics", "type", "value",
		"entity_locations", "element_path", "topic_matches", "topic_id", "doc_matches", "match_path", "file_hashes", "", "x y",
	})
	var out []string
	for range rapid.IntRange(0, 6).Draw(t, "members") {
		out = append(out, fmt.Sprintf("\"%s\" :%s", names.Draw(t, "name"), drawValue(t, depth-1)))
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func TestLaws(t *testing.T) {
	var redactors []*Redactor
	for _, list := range lawLists {
		redactors = append(redactors, mustParse(t, list))
	}
	rapid.Check(t, func(t *rapid.T) {
		in := []byte(" " + drawObject(t, 5) + "\n")
		which := rapid.IntRange(0, len(lawLists)-1).Draw(t, "list")
		out := checkLaws(t, redactors[which], in)
		for _, a := range tokens(t, out) {
			if _, isDelim := a.value.(json.Delim); a.name || isDelim || !mustMask(lawLists[which], a.path) {
				continue
			}
			if text, isText := a.value.(string); a.value != nil && (!isText || !isMarker(text) && text != "" && text != "********") {
				t.Errorf("%s is left at %s in %s", a.raw, a.path, in)
			}
		}
	})
}

// checkLaws checks what holds for every input, and returns what came of it.
func checkLaws(tb rapid.TB, r *Redactor, in []byte) []byte {
	tb.Helper()
	given := bytes.Clone(in)
	out, masked, valid := r.Redact(in)
	if !bytes.Equal(in, given) {
		tb.Fatalf("what was given was written to: %q became %q", given, in)
	}
	if valid != json.Valid(in) {
		tb.Fatalf("valid is %v of %q", valid, in)
	}
	if !valid {
		return nil
	}
	if !json.Valid(out) {
		tb.Fatalf("%q became %q", in, out)
	}
	if masked.Any() == bytes.Equal(in, out) {
		tb.Errorf("Any is %v: %q became %q", masked.Any(), in, out)
	}
	checkDifference(tb, in, out)
	again, masked, _ := r.Redact(out)
	if masked.Any() || !bytes.Equal(again, out) {
		tb.Errorf("%q became %q, and that %q", in, out, again)
	}
	return out
}

func FuzzRedact(f *testing.F) {
	for _, seed := range []string{
		`{"doc":{"service_account":{"password":{"plain_text":"correct horse"}},"body":"\u0063orrect horse"},"topics":[{"id":"u","type":"password","value":"abc"}]}`,
		`[{"payment_card":{"brand":"visa","number":1e9}},"x",null]`, `{"password":"` + "\xff" + `\ud800abcdef","b":"\ufffd\ufffdabcdef"}`, `{"a":`,
	} {
		f.Add([]byte(seed))
	}
	r, _, err := Parse(`["credentials","text","a","*.b[]"]`)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) { checkLaws(t, r, in) })
}

func FuzzParse(f *testing.F) {
	f.Add(`["credentials","topics[].value","a..b",1]`)
	f.Fuzz(func(t *testing.T, list string) {
		if r, _, err := Parse(list); (r == nil) == (err == nil) {
			t.Errorf("%q: %v, %v", list, r, err)
		}
	})
}

// TestMatcher holds the matcher to a search for each string at each place.
func TestMatcher(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.StringOfN(rapid.SampledFrom([]rune("abé")), 1, 8, -1)
		secrets := rapid.SliceOfN(letters, 1, 12).Draw(t, "secrets")
		text := rapid.StringOfN(rapid.SampledFrom([]rune("abé")), 0, 60, -1).Draw(t, "text")
		joined := make([]bool, len(text)+1) // byte i and the one before it are in one string
		for at := range text {
			for _, secret := range secrets {
				if strings.HasPrefix(text[at:], secret) {
					for i := at + 1; i < at+len(secret); i++ {
						joined[i] = true
					}
				}
			}
		}
		var want []found
		for at := 0; at < len(text); at++ {
			if !slices.ContainsFunc(secrets, func(s string) bool { return strings.HasPrefix(text[at:], s) }) {
				continue
			}
			end := at + 1
			for joined[end] {
				end++
			}
			want = append(want, found{at, end, marker(utf8.RuneCountInString(text[at:end]))})
			at = end - 1
		}
		got := newMatcher(slices.Clone(secrets)).find([]byte(text), nil)
		if !slices.Equal(got, want) {
			t.Fatalf("in %q found %v, want %v", text, got, want)
		}
	})
}
