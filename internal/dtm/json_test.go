package dtm

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var large = []string{"doc", "topics", "labels"}

func TestWithoutKeepsEveryOtherByte(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"nothing to remove", `{"id":"a" , "n":1e+02}`, `{"id":"a" , "n":1e+02}`},
		{"empty object", " { } \n", " { } \n"},
		{"only member", `{"doc":{}}`, `{}`},
		{"first", `{"doc":1,"id":"a"}`, `{"id":"a"}`},
		{"middle", `{"id":"a","topics":[1,[2],{"a":"]"}],"z":0}`, `{"id":"a","z":0}`},
		{"last", `{"id":"a","labels":null}`, `{"id":"a"}`},
		{"all three in a row", `{"id":"a","doc":1,"topics":2,"labels":3,"z":4}`, `{"id":"a","z":4}`},
		{"all and nothing else", `{ "doc":1,"topics":2 ,"labels":3 }`, `{}`},
		{"duplicates", `{"doc":1,"id":"a","doc":2,"id":"b","doc":3}`, `{"id":"a","id":"b"}`},
		{"escaped key", `{"\u0064oc":1,"d\u006Fc":2,"top\u0069cs":3,"id":"a"}`, `{"id":"a"}`},
		{"escaped key of another name", `{"do\u0063s":1,"\"doc":2,"doc\\":3}`, `{"do\u0063s":1,"\"doc":2,"doc\\":3}`},
		{"deeper ones stay", `{"a":{"doc":1},"b":[{"topics":[]}],"doc":{"labels":1}}`, `{"a":{"doc":1},"b":[{"topics":[]}]}`},
		{"names in values stay", `{"a":"doc","b":",\"doc\":1}"}`, `{"a":"doc","b":",\"doc\":1}"}`},
		{"other case stays", `{"Doc":1,"DOC":2,"doc":3}`, `{"Doc":1,"DOC":2}`},
		{"odd white space", "\t{\r\n \"id\" :\t\"a\" ,\n\"doc\"\n:\n1\n, \"z\" : [ ]\n}\n", "\t{\r\n \"id\" :\t\"a\" , \"z\" : [ ]\n}\n"},
		{"strings with brackets", `{"doc":"}],\\\"{[","id":"\\"}`, `{"id":"\\"}`},
		{"invalid UTF-8 stays", "{\"a\":\"\xff\xc3\",\"doc\":\"\xfe\"}", "{\"a\":\"\xff\xc3\"}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := Without([]byte(c.raw), large...)
			if !ok || string(got) != c.want {
				t.Errorf("got %q, %v\nwant %q", got, ok, c.want)
			}
		})
	}
}

func TestWithoutRefusesWhatIsNoObject(t *testing.T) {
	for _, raw := range []string{``, ` `, `null`, `[]`, `"doc"`, `{`, `{"doc":1`, `{"doc":1}}`, `{"doc":1,}`, `{"doc" 1}`, `{doc:1}`, strings.Repeat("[", 1<<16)} {
		if got, ok := Without([]byte(raw), large...); ok {
			t.Errorf("Without(%.20q) = %q, want a refusal", raw, got)
		}
	}
}

type readMember struct{ Key, Value string }

// readMembers reads the top-level members with the standard decoder, in order,
// duplicates included.
func readMembers(t interface{ Fatalf(string, ...any) }, raw []byte) []readMember {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		t.Fatalf("no object: %v, %v in %q", tok, err, raw)
	}
	var ms []readMember
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			t.Fatalf("%v in %q", err, raw)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("%v in %q", err, raw)
		}
		ms = append(ms, readMember{tok.(string), string(v)})
	}
	if _, err := dec.Token(); err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	return ms
}

func checkWithout(t interface{ Fatalf(string, ...any) }, raw []byte) {
	before := bytes.Clone(raw)
	got, ok := Without(raw, large...)
	if !bytes.Equal(raw, before) {
		t.Fatalf("its input was changed to %q from %q", raw, before)
	}
	isObject := json.Valid(raw) && bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{"))
	if ok != isObject {
		t.Fatalf("ok = %v of %q", ok, raw)
	}
	if !ok {
		return
	}
	if !json.Valid(got) {
		t.Fatalf("invalid JSON %q of %q", got, raw)
	}
	want := slices.DeleteFunc(readMembers(t, raw), func(m readMember) bool { return slices.Contains(large, m.Key) })
	if !slices.Equal(want, readMembers(t, got)) {
		t.Fatalf("%q became %q, want the members %q", raw, got, want)
	}
}

func TestWithoutIsTheObjectLessItsMembers(t *testing.T) {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n", "\t \r\n"})
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom(append(large, "id", "Doc", `"doc":1,`, `\`, `"`, "}", "]")))
	quote := func(t *rapid.T) string {
		s := text.Draw(t, "text")
		if rapid.Bool().Draw(t, "escaped") {
			var b strings.Builder
			for _, r := range s {
				if r < 0x10000 && rapid.Bool().Draw(t, "rune") {
					h := strconv.FormatInt(int64(r), 16)
					b.WriteString(`\u` + strings.Repeat("0", 4-len(h)) + h)
				} else {
					q, _ := json.Marshal(string(r))
					b.Write(q[1 : len(q)-1])
				}
			}
			return `"` + b.String() + `"`
		}
		q, _ := json.Marshal(s)
		return string(q)
	}
	var object, value func(t *rapid.T, depth int) string
	object = func(t *rapid.T, depth int) string {
		var ms []string
		for range rapid.IntRange(0, 5).Draw(t, "members") {
			sp := func() string { return space.Draw(t, "space") }
			ms = append(ms, sp()+quote(t)+sp()+":"+sp()+value(t, depth)+sp())
		}
		return "{" + strings.Join(ms, ",") + space.Draw(t, "space") + "}"
	}
	value = func(t *rapid.T, depth int) string {
		kind := rapid.IntRange(0, 5).Draw(t, "kind")
		switch {
		case kind == 0 && depth > 0:
			return object(t, depth-1)
		case kind == 1 && depth > 0:
			var vs []string
			for range rapid.IntRange(0, 3).Draw(t, "elements") {
				vs = append(vs, value(t, depth-1))
			}
			return "[" + strings.Join(vs, " , ") + "]"
		case kind <= 3:
			return quote(t)
		default:
			return rapid.SampledFrom([]string{"0", "-1.50e+10", "true", "null", "9007199254740993"}).Draw(t, "scalar")
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		checkWithout(t, []byte(space.Draw(t, "space")+object(t, 3)+space.Draw(t, "space")))
	})
}

func FuzzWithout(f *testing.F) {
	for _, s := range []string{`{}`, `{"doc":1,"id":"a"}`, `{"\u0064oc":[{"doc":"}"}] , "b":{}}`, "{\"a\":\"\xff\",\"topics\":null}", `[1]`, ` { "labels" : "\\" } `, `{"doc":1,"doc":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkWithout(t, raw) })
}
