package strictjson_test

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/strictjson"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		data string
		want error
	}{
		{"{}", nil},
		{" \n{\"a\":1}\t", nil},
		{"", strictjson.ErrInvalid},
		{" ", strictjson.ErrInvalid},
		{"{", strictjson.ErrInvalid},
		{"{}{}", strictjson.ErrInvalid},
		{"{} x", strictjson.ErrInvalid},
		{`{"a":1,}`, strictjson.ErrInvalid},
		{"\ufeff{}", strictjson.ErrInvalid},
		{strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), strictjson.ErrInvalid}, // deeper than the standard library reads
		{"null", strictjson.ErrNotObject},
		{"[]", strictjson.ErrNotObject},
		{`"{}"`, strictjson.ErrNotObject},
		{"1", strictjson.ErrNotObject},
	} {
		o, err := strictjson.Parse([]byte(c.data))
		if !errors.Is(err, c.want) || (o == nil) != (c.want != nil) {
			t.Errorf("%.40q: %v, %v, want %v", c.data, o, err, c.want)
		}
	}
}

// read is what TestDecode reads of each object.
type read struct {
	Text   string
	Flag   bool
	List   []string
	Nested string
	Had    bool // whether there is a nested object
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, data string
		want       read
		problems   []string
	}{
		{"nothing", `{}`, read{}, nil},
		{"everything", ` {"nested": {"a":[1, null]} ,"list":["x","y"],"flag":true,"text":"\u00fc"} `, read{"ü", true, []string{"x", "y"}, `{"a":[1, null]}`, true}, nil},
		{"null is absent", `{"text":null,"flag":null,"list":null,"nested": null}`, read{}, nil},
		{"empty is there", `{"text":"","flag":false,"list":[],"nested":{}}`, read{List: []string{}, Nested: "{}", Had: true}, nil},
		{"the last of two", `{"text":"a","text":"b","flag":1,"flag":true}`, read{Text: "b", Flag: true}, nil},
		{
			"all problems at once, unknown fields last", `{"b":1,"flag":"yes","a b":{},"list":["x",1],"text":7}`,
			read{},
			[]string{
				`the field "text" is 7; allowed: a string`,
				`the field "flag" is "yes"; allowed: true or false`,
				`the field "list" is ["x",1]; allowed: a list of strings`,
				`the field "a b" is unknown; allowed: text, flag, list, nested`,
				`the field "b" is unknown; allowed: text, flag, list, nested`,
			},
		},
		{
			"names are taken exactly", `{"Text":"a"," flag":true}`,
			read{},
			[]string{`the field " flag" is unknown; allowed: text, flag, list, nested`, `the field "Text" is unknown; allowed: text, flag, list, nested`},
		},
		{
			"long ones are cut", `{"text":[` + strings.Repeat("1,", 60) + `1],"` + strings.Repeat("€", 40) + `":1}`,
			read{},
			[]string{
				`the field "text" is [` + strings.Repeat("1,", 49) + `1…; allowed: a string`,
				`the field "` + strings.Repeat("€", 33) + `…" is unknown; allowed: text, flag, list, nested`,
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := strictjson.Parse([]byte(c.data))
			if err != nil {
				t.Fatal(err)
			}
			got := read{Text: o.String("text"), Flag: o.Bool("flag")}
			var list []string
			if o.Decode("list", "a list of strings", &list) {
				got.List = list
			}
			var nested json.RawMessage
			got.Had = o.Decode("nested", "an object", &nested)
			got.Nested = string(nested)
			o.AddUnknown()
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.problems, o.Problems()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTags(t *testing.T) {
	for _, c := range []struct {
		data     string
		want     []string
		problems []string
	}{
		{`{}`, nil, nil},
		{`{"tags":null}`, nil, nil},
		{`{"tags":[]}`, []string{}, nil},
		{`{"tags":["b","a","B","a"]}`, []string{"b", "a"}, nil},
		{`{"tags":"a"}`, nil, []string{`the field "then.tags" is "a"; allowed: a list of strings`}},
		{`{"tags":["ok",""," a","b\u0000",null,"\ud800"]}`, []string{"ok"}, []string{
			"then.tags[1] has 0 bytes; allowed: 1 to 256",
			"then.tags[2] begins or ends with white space",
			"then.tags[3] holds a control character or half a character",
			"then.tags[4] is null; allowed: a string",
			"then.tags[5] holds a control character or half a character",
		}},
		{`{"tags":["` + strings.Repeat("x", 256) + `","` + strings.Repeat("y", 257) + `"]}`, []string{strings.Repeat("x", 256)}, []string{"then.tags[1] has 257 bytes; allowed: 1 to 256"}},
		{`{"tags":[` + strings.Repeat(`"a",`, 99) + `"a"]}`, []string{"a"}, nil},
		{`{"tags":[` + strings.Repeat(`"a",`, 100) + `"a"]}`, nil, []string{"then.tags has 101 tags; allowed: 100"}},
		{`{"tags":[],"tags":[],"x":1}`, []string{}, []string{`the field "then.tags" is named more than once`, `the field "then.x" is unknown; allowed: tags`}},
	} {
		o, err := strictjson.Parse([]byte(c.data))
		if err != nil {
			t.Fatal(err)
		}
		o.Path = "then."
		o.AddRepeated()
		got := o.Tags("tags")
		o.AddUnknown()
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%.60s: %s", c.data, diff)
		}
		if diff := cmp.Diff(c.problems, o.Problems()); diff != "" {
			t.Errorf("%.60s: %s", c.data, diff)
		}
	}
}

func TestMismatchIsWordedByTheReader(t *testing.T) {
	o, err := strictjson.Parse([]byte(`{"a":{"secret":1},"b":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	o.Mismatch = func(name, allowed string, value json.RawMessage) string {
		return name + " is not " + allowed + " of " + string(value[:1])
	}
	_, _ = o.String("a"), o.Bool("b")
	o.AddProblem("%d of %s", 1, "the reader's own")
	want := []string{"a is not a string of {", `b is not true or false of "`, "1 of the reader's own"}
	if diff := cmp.Diff(want, o.Problems()); diff != "" {
		t.Error(diff)
	}
}

func TestNames(t *testing.T) {
	o, err := strictjson.Parse([]byte(`{"c":1,"b":2,"c":3,"\u0062":4,"c":5,"a":6}`))
	if err != nil {
		t.Fatal(err)
	}
	o.AddRepeated()
	want := []string{`the field "c" is named more than once`, `the field "b" is named more than once`, `the field "c" is named more than once`}
	if diff := cmp.Diff(want, o.Problems()); diff != "" {
		t.Error(diff)
	}
	var n int
	if !o.Decode("b", "a number", &n) || n != 4 || o.Decode("x", "a number", &n) {
		t.Errorf("b is %d", n)
	}
	if diff := cmp.Diff([][]string{{"b", "x"}, {"a", "c"}}, [][]string{o.Known(), o.Unknown()}); diff != "" {
		t.Error(diff)
	}
}

// FuzzObject: what Parse takes is what the standard library takes for an object, each
// of its fields is known or unknown, and no problem is longer than a line.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `{"text":"a","text":1}`, `{"flag":true,"x":{"y":[1]}}`, `{"text":"\ud800","\u0000":null}`, "{\"\xff\":1,\"\xfe\":2}", `{}x`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var want map[string]json.RawMessage
		isObject := json.Unmarshal(data, &want) == nil && want != nil
		o, err := strictjson.Parse(data)
		if (err == nil) != isObject || errors.Is(err, strictjson.ErrInvalid) == json.Valid(data) {
			t.Fatalf("%v, and an object: %t", err, isObject)
		}
		if err != nil {
			return
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), o.Unknown()); diff != "" {
			t.Error(diff)
		}
		var text string
		isString := want["text"] != nil && json.Unmarshal(want["text"], &text) == nil
		isNull := string(want["text"]) == "null" || want["text"] == nil
		if got := o.String("text"); got != text || (len(o.Problems()) == 0) != (isString || isNull) {
			t.Errorf("%q of %s, with %q", got, want["text"], o.Problems())
		}
		before := len(o.Problems())
		o.AddUnknown()
		if n := len(o.Problems()) - before; n != len(o.Unknown()) {
			t.Errorf("%d problems for %d unknown fields", n, len(o.Unknown()))
		}
		for _, p := range o.Problems() {
			if len(p) > 600 || !utf8.ValidString(p) && utf8.Valid(data) {
				t.Errorf("the problem %q", p)
			}
		}
	})
}
