package dtm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// usable is a small alert.
func usable(id string) string {
	return `{"id":"` + id + `","created_at":"2026-03-02T10:00:00Z","tags":["x","y"]}`
}

// brokenElements are no JSON, each for another reason.
var brokenElements = map[string]string{
	"a raw line feed":          "{\"id\":\"b1\",\"created_at\":\"2026-03-02T10:00:00Z\",\"title\":\"two\nlines\",\"tags\":[\"x\"]}",
	"a NUL":                    "{\"id\":\"b1\",\"title\":\"\x00\",\"related\":[{\"a\":1},{\"a\":2}]}",
	"NaN":                      `{"id":"b1","similarity_score":NaN,"tags":[]}`,
	"an escape that is none":   `{"id":"b1","title":"\x41","doc":{"a":[{"b":1},{"b":2}]}}`,
	"a leading zero":           `{"id":"b1","indicator_mscore":007}`,
	"a comma too many":         `{"id":"b1","tags":["x","y",],"status":"new",}`,
	"a quote without escape":   `{"id":"b1","title":"they say "hi", {and} go","tags":["x"]}`,
	"a quote too few":          `{"id":"b1","title":"they say,"tags":["x"]}`,
	"a quote too few, at last": `{"id":"b1","tags":["x"],"title":"they say}`,
	"a bracket too many":       `{"id":"b1","tags":["x"]],"status":"new"}`,
	"a brace too many":         `{"id":"b1","tags":["x"]}}`,
	"a brace too few":          `{"id":"b1","doc":{"a":"b"}`,
	"no colon":                 `{"id" "b1"}`,
	"an escape cut off":        `{"id":"b1","title":"\u12"}`,
	"no object":                `NaN`,
	"a bracket":                `]`,
	"an end":                   `]}`,
	"too deep":                 `{"id":"b1","a":` + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + `}`,
	"a small one in it":        `{"id":"b1","related":[` + usable("r1") + `,` + usable("r2") + `,` + usable("r3") + `],"n":007}`,
	"the small one after it":   `{"id":"b1","n":007,"related":[` + usable("r1") + `,` + usable("r2") + `,` + usable("r3") + `],"m":1}`,
}

// TestDecodePageBrokenElement: an element that is no JSON hides none of the others,
// wherever it stands.
func TestDecodePageBrokenElement(t *testing.T) {
	for name, broken := range brokenElements {
		t.Run(name, func(t *testing.T) {
			for at := range 4 {
				elements := []string{usable("a1"), `null`, usable("a3")}
				if at < 2 { // an unusable one after it belongs to it
					elements[1] = usable("a2")
				}
				elements = slices.Insert(elements, at, broken)
				body := "{\"x\":[1], \"alerts\" : [ " + strings.Join(elements, " ,\n") + " ] , \"y\":{\"z\":[]}}\n"
				alerts, err := decodePage([]byte(body), false)
				if err != nil {
					t.Errorf("as element %d: %v", at, err)
					continue
				}
				var got []string
				for i, a := range alerts {
					got = append(got, string(a.Raw))
					if a.Unreadable != (i == at) || a.Unreadable && a.Invalid != invalidJSON {
						t.Errorf("as element %d: element %d is unreadable: %t, fault %q", at, i, a.Unreadable, a.Invalid)
					}
				}
				if diff := cmp.Diff(elements, got); diff != "" {
					t.Errorf("as element %d: -want +got:\n%s", at, diff)
				}
			}
		})
	}
}

func TestDecodePageResync(t *testing.T) {
	const other = "{}"
	a, b, c := usable("a"), usable("b"), usable("c")
	for _, tc := range []struct {
		name, body string
		want       []string // Raw of each; of an unreadable one after an exclamation mark
		wantErr    error
	}{
		{"commas alone are no element", `{"alerts":[,` + a + `,,` + b + ` , ,]}`, []string{a, b}, nil},
		{"nothing but commas", `{"alerts":[,,]}`, nil, nil},
		{"commas after what is broken", `{"alerts":[NaN,,` + a + `]}`, []string{`!NaN`, a}, nil},
		{"two in a row are one", `{"alerts":[` + a + `,007,{"a":b},` + b + `]}`, []string{a, `!007,{"a":b}`, b}, nil},
		{"two apart", `{"alerts":[007,` + a + `,{"a":b},` + b + `]}`, []string{`!007`, a, `!{"a":b}`, b}, nil},
		{"what is no alert belongs to the broken one before it", `{"alerts":[007,null,{"id":1},` + a + `]}`, []string{`!007,null,{"id":1}`, a}, nil},
		{"what is no alert after an alert doesn't", `{"alerts":[007,` + a + `,null,` + b + `]}`, []string{`!007`, a, `null`, b}, nil},
		{"no comma between two", `{"alerts":[` + a + b + `,` + c + `]}`, []string{`!` + a + b, c}, nil},
		{"the last", `{"alerts":[` + a + `,{"a":NaN,"b":["c"]}],"more":["d"]}`, []string{a, `!{"a":NaN,"b":["c"]}`}, nil},
		{"the only one", `{"alerts":[ {"a":NaN,"b":["c"]} ]}`, []string{`!{"a":NaN,"b":["c"]}`}, nil},
		{"each alert has another one's beginning before it", `{"alerts":[NaN` + strings.Repeat(`,{"a":"b"`, 9) + `,` + a + `]}`, []string{`!NaN` + strings.Repeat(`,{"a":"b"`, 9), a}, nil},
		{"alerts after the list are none of it", `{"alerts":[NaN],"more":[1,` + a + `]}`, []string{`!NaN`}, nil},

		{"cut off", `{"alerts":[` + a + `,{"a":NaN`, nil, errInvalid},
		{"cut off after what is broken", `{"alerts":[{"a":NaN},` + a + `,{"id":"b","tags":["c"]}`, nil, errInvalid},
		{"cut off in what is broken", `{"alerts":[{"a":NaN,"tags":["c"]`, nil, errInvalid},
		{"cut off where a list and an object end", `{"alerts":[` + a + `,{"id":"b","tags":["c"]}`, nil, errInvalid},
		{"a page of HTML in the middle", `{"alerts":[` + a + `,{"id":"b"<html><p>[1,2]</p></html>`, nil, errInvalid},
		{"broken outside the list", `{"alerts":[` + a + `],"x":NaN}`, nil, errInvalid},
		{"broken in the list and outside", `{"alerts":[NaN,` + a + `],"x":NaN}`, nil, errInvalid},
		{"a list in what is broken outside the list", `{"alerts":[` + a + `,` + b + `],"x":NaN,"y":["z"]}`, []string{a, b, `!],"x":NaN,"y":["z"`}, nil},
		{"a bracket too many after an alert", `{"alerts":[` + a + `],` + b + `]}`, []string{a, "!]", b}, nil},
		{"an end too many after an alert", `{"alerts":[` + a + `]},` + b + `]}`, []string{a, "!]}", b}, nil},
		{"an end and a beginning after an alert", `{"alerts":[` + a + `]}{,` + b + `]}`, []string{a, "!]}{", b}, nil},
		{"a bracket too many at the end", `{"alerts":[` + a + `]]}`, []string{a, "!]"}, nil},
		{"a bracket too many at the beginning", `{"alerts":[],` + a + `]}`, []string{"!]", a}, nil},
		{"broken before the list", `{"x":NaN,"alerts":[` + a + `]}`, nil, errInvalid},
		{"a list too many after it", `{"alerts":[NaN],"alerts":[1]}`, nil, errTwice},
		{"too many", `{"alerts":[NaN` + strings.Repeat(","+other, maxElements) + "," + a + strings.Repeat(","+other, maxElements) + `]}`, nil, errTooMany},
	} {
		t.Run(tc.name, func(t *testing.T) {
			alerts, err := decodePage([]byte(tc.body), false)
			if !errors.Is(err, tc.wantErr) {
				t.Fatalf("error %v, want %v", err, tc.wantErr)
			}
			var got []string
			for _, a := range alerts {
				text := string(a.Raw)
				if a.Unreadable {
					text = "!" + text
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// tangles are elements in which every comma or bracket could be where the next
// alert or the end begins, so that telling costs far more than their size.
func tangles(n int) map[string]string {
	return map[string]string{
		"deeper with each comma":   `NaN` + strings.Repeat(`,{"id":[0`, n/10),
		"an end at each bracket":   `NaN` + strings.Repeat(`],"a":[0`, n/8) + `,`,
		"all of them in one alert": `{"a":NaN,"b":[0` + strings.Repeat(`,{"c":0,"b":[0`, n/15),
	}
}

// TestDecodePageTangled: the search for the next alert ends after a multiple of
// the page's size; alone, the element is taken as it is.
func TestDecodePageTangled(t *testing.T) {
	for name, tangle := range tangles(1 << 20) {
		t.Run(name, func(t *testing.T) {
			body := []byte(`{"alerts":[` + usable("a") + `,` + tangle + `]}`)
			r := resync{}
			if _, _, err := r.list(body, bytes.IndexByte(body, '[')); !errors.Is(err, errTangled) {
				t.Errorf("error %v, want %v", err, errTangled)
			}
			// No try is longer than the page.
			if limit := int64(len(body)) * (maxSearch + 1); r.spent > limit {
				t.Errorf("%d bytes were read of a page of %d, want at most %d", r.spent, len(body), limit)
			}
			if _, err := decodePage(body, false); !errors.Is(err, errTangled) {
				t.Errorf("error %v, want %v", err, errTangled)
			}
			alerts, err := decodePage(body, true)
			if err != nil {
				t.Fatal(err)
			}
			if len(alerts) != 2 || alerts[0].ID != "a" || !alerts[1].Unreadable || string(alerts[1].Raw) != strings.TrimSuffix(tangle, ",") {
				t.Errorf("%d alerts, want a and what is tangled", len(alerts))
			}
		})
	}
}

// TestDecodePagePrefix: a page that was cut off is never taken for a whole one.
func TestDecodePagePrefix(t *testing.T) {
	body := []byte(`{"x":{"y":[1,-0.5e3,true,null]},"alerts":[` + usable("a") + `,{"id":"b\u00e9","doc":{"a":["b",{"c":[]}]}},` + usable("c") + `],"next":["d"]}`)
	if _, err := decodePage(body, false); err != nil {
		t.Fatal(err)
	}
	for n := range body {
		if alerts, err := decodePage(body[:n], true); err == nil {
			t.Errorf("%s is taken for a page of %d", body[:n], len(alerts))
		}
	}
}

// TestDecodePageYieldsAllOthers: whatever byte of an alert is replaced, all others
// come byte for byte.
func TestDecodePageYieldsAllOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "alerts")
		page := testPage(n, 800)
		sound, err := decodePage(page, false)
		if err != nil {
			t.Fatal(err)
		}
		hit := rapid.IntRange(0, n-1).Draw(t, "hit")
		element := bytes.Clone(sound[hit].Raw)
		at := rapid.IntRange(0, len(element)-1).Draw(t, "at")
		put := rapid.SampledFrom([]string{"", "\"", "\n", "\x00", "\\", "\\x", "NaN", ",", "007", ":", "\xff"}).Draw(t, "put")
		element = slices.Concat(element[:at], []byte(put), element[at+rapid.IntRange(0, 1).Draw(t, "cut"):])
		var elements []string
		for i, a := range sound {
			if i == hit {
				elements = append(elements, string(element))
				continue
			}
			elements = append(elements, string(a.Raw))
		}
		body := `{"alerts":[` + strings.Join(elements, ",") + "]}\n"
		got, err := decodePage([]byte(body), false)
		if err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if json.Valid([]byte(body)) {
			return // FuzzPage has these
		}
		for i, a := range sound {
			if i == hit {
				continue
			}
			if !slices.ContainsFunc(got, func(g Alert) bool { return g.Invalid == "" && bytes.Equal(g.Raw, a.Raw) }) {
				t.Fatalf("alert %d is missing in what was read of %s", i, body)
			}
		}
		if len(got) != n {
			t.Fatalf("%d alerts, want %d, of %s", len(got), n, body)
		}
	})
}

// TestListBroken: an element that is no JSON is one of its page, and a page that
// can't be taken apart is asked for in a smaller one.
func TestListBroken(t *testing.T) {
	tangle := tangles(1 << 20)["an end at each bracket"]
	var element string
	c := newClient(t, direct(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"alerts":[`+element+`,`+usable("a")+"]}\n")
	}), nil)
	list := func(q Query) (alerts []Alert, err error) {
		for page, err := range c.Session(liveShare).List(t.Context(), q) {
			if err != nil {
				return alerts, err
			}
			alerts = append(alerts, page.Alerts...)
			page.Release()
		}
		return alerts, nil
	}
	for name, broken := range brokenElements {
		element = broken
		alerts, err := list(Query{Size: 100})
		if err != nil || len(alerts) != 2 || !alerts[0].Unreadable || string(alerts[0].Raw) != broken || alerts[1].ID != "a" {
			t.Errorf("%s: %d alerts, %v", name, len(alerts), err)
		}
	}
	element = tangle
	_, err := list(Query{Size: 25, Refs: true})
	if diff := cmp.Diff(error(&PageTooLargeError{Size: 25, Refs: true, Tangled: true}), err); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, refs := range []bool{true, false} {
		if alerts, err := list(Query{Size: 1, Refs: refs}); err != nil || len(alerts) != 1 || !alerts[0].Unreadable {
			t.Errorf("alone: %d alerts, %v", len(alerts), err)
		}
	}
}

// BenchmarkDecodeTangled is the slowest page that there may be, once more at the
// size of a whole page.
func BenchmarkDecodeTangled(b *testing.B) {
	for name, tangle := range tangles(defaultPageLimit) {
		body := []byte(`{"alerts":[` + tangle + `]}`)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := decodePage(body, false); !errors.Is(err, errTangled) {
					b.Fatal(fmt.Sprint(err))
				}
			}
		})
	}
}
