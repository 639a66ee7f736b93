package redact

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

func mustParse(tb testing.TB, list string) *Redactor {
	tb.Helper()
	r, _, err := Parse(list)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestParse(t *testing.T) {
	const allowed = `; it must be a preset ("credentials" or "text") or a path, which is ` + pathWords
	const unknown = `: no known type of alert has such a field, and no preset is called so (there are "credentials" and "text"), so it may mask nothing`
	for _, c := range []struct {
		list     string
		warnings []string
		err      string
	}{
		{list: `[]`},
		{list: ` ["credentials", "text", "credentials"] `},
		{list: `["doc", "*", "*.*", "doc.*.password", "topics[].value", "topics[].entity_locations[].element_path", "tags[]", "doc.links[].url", "doc.file_hashes.md5", "doc.payment_card.owner[].anything", "doc.service_account.password.plain_text"]`},
		{list: `["credential", "topics.value", "doc.body[]", "title.x", "*.*.*.nowhere[][]"]`, warnings: []string{
			`element 1, "credential"` + unknown, `element 2, "topics.value"` + unknown, `element 3, "doc.body[]"` + unknown, `element 4, "title.x"` + unknown,
		}},
		{list: `["a b", "ünïcødé.\"q\""]`, warnings: []string{`element 1, "a b"` + unknown, `element 2, "ünïcødé.\"q\""` + unknown}},
		{list: ``, err: `"" is not a JSON list (unexpected end of JSON input): it must be one of presets and paths, such as ["credentials", "topics[].value"], or [] to mask nothing`},
		{list: `null`, err: `"null" is not a JSON list (it is null): it must be one of presets and paths, such as ["credentials", "topics[].value"], or [] to mask nothing`},
		{list: `"credentials"`, err: `"\"credentials\"" is not a JSON list (it is a JSON string): it must be one of presets and paths, such as ["credentials", "topics[].value"], or [] to mask nothing`},
		{
			list: `["doc.body", 7, {"path": "doc"}, null, "", "doc.", ".doc", "a..b", "[]", "doc.[]", "doc[0]", "doc[].[]", "a[b]", "do*", "**", " doc", "doc\ufffd", "` + strings.Repeat("x[", 40) + `"]`,
			err: strings.Join([]string{
				`element 2, 7: it is no string` + allowed,
				`element 3, {"path": "doc"}: it is no string` + allowed,
				`element 4, null: it is no string` + allowed,
				`element 5, "": it has an empty name` + allowed,
				`element 6, "doc.": it has an empty name` + allowed,
				`element 7, ".doc": it has an empty name` + allowed,
				`element 8, "a..b": it has an empty name` + allowed,
				`element 9, "[]": it has [] without a name before it` + allowed,
				`element 10, "doc.[]": it has [] without a name before it` + allowed,
				`element 11, "doc[0]": it has a bracket that is not [] at the end of a name` + allowed,
				`element 12, "doc[].[]": it has [] without a name before it` + allowed,
				`element 13, "a[b]": it has a bracket that is not [] at the end of a name` + allowed,
				`element 14, "do*": it has a * that is not a whole name` + allowed,
				`element 15, "**": it has a * that is not a whole name` + allowed,
				`element 16, " doc": it has white space around a name` + allowed,
				`element 17, "doc` + "\ufffd" + `": it is not valid UTF-8` + allowed,
				`element 18, "` + strings.Repeat("x[", 29) + `x…: it has a bracket that is not [] at the end of a name` + allowed,
			}, "\n"),
		},
	} {
		t.Run(c.list[:min(len(c.list), 40)], func(t *testing.T) {
			r, warnings, err := Parse(c.list)
			message := ""
			if err != nil {
				message = err.Error()
			}
			if diff := cmp.Diff(c.err, message); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.warnings, warnings); diff != "" {
				t.Error(diff)
			}
			if (r == nil) != (err != nil) {
				t.Errorf("got %v with error %v", r, err)
			}
		})
	}
}

func TestRedact(t *testing.T) {
	for _, c := range []struct{ name, list, in, want string }{
		{
			"classes by characters", `["a"]`,
			`{"a":["1","1234567","12345678","ünïcødéüüüü","🐲🐲🐲🐲🐲🐲🐲🐲🐲🐲🐲🐲","123456789012345","1234567890123456"]}`,
			`{"a":["[redacted:1-7]","[redacted:1-7]","[redacted:8-11]","[redacted:8-11]","[redacted:12-15]","[redacted:12-15]","[redacted:16+]"]}`,
		},
		{
			"characters after decoding", `["a"]`,
			`{"a":["\ud83d\udc32\u0041\n\/\\\"x","\ud83d\ud83d\udc32\udc32 bcde","` + "\xff\xfe" + `abcde","1234567\u0038"]}`,
			`{"a":["[redacted:1-7]","[redacted:8-11]","[redacted:1-7]","[redacted:8-11]"]}`,
		},
		{
			"what becomes null and what stays", `["a"]`,
			`{"a": [ 1, -0.5e+3 ,1e999,true,false , null,"","********", "*******", {} , [ ],"[redacted:16+]",{"x":{"y":"z"}}]}`,
			`{"a": [ null, null ,null,null,null , null,"","********", "[redacted:1-7]", {} , [ ],"[redacted:16+]",{"x":{"y":"[redacted:1-7]"}}]}`,
		},
		{
			"all other bytes stay", `["a"]`,
			" {\t\"b\" : 1.50, \"a\":\"x\",\r\n\"\\u0061\":\"y\", \"c\":\"\\u0063\\/\\ud800\xff\",\"a\" :[\"z\"]}\n",
			" {\t\"b\" : 1.50, \"a\":\"[redacted:1-7]\",\r\n\"\\u0061\":\"[redacted:1-7]\", \"c\":\"\\u0063\\/\\ud800\xff\",\"a\" :[\"[redacted:1-7]\"]}\n",
		},
		{
			"paths", `["a.b","c[].d","e.*.f","*.g","h[][]","i[]"]`,
			`{"a":{"b":"x","c":"x"},"b":"x","c":[{"d":"x","e":"x"},{"d":["x"]},"x"],"e":{"p":{"f":"x"},"q":{"f":"x","h":"x"},"f":"x"},"z":{"g":"x"},"h":["x",["x"]],"i":["x",{"j":"x"}],"g":"x","":{"":"x"}}`,
			`{"a":{"b":"[redacted:1-7]","c":"x"},"b":"x","c":[{"d":"[redacted:1-7]","e":"x"},{"d":["[redacted:1-7]"]},"x"],"e":{"p":{"f":"[redacted:1-7]"},"q":{"f":"[redacted:1-7]","h":"x"},"f":"x"},"z":{"g":"[redacted:1-7]"},"h":["x",["[redacted:1-7]"]],"i":["[redacted:1-7]",{"j":"[redacted:1-7]"}],"g":"x","":{"":"x"}}`,
		},
		{"a path goes through lists only by []", `["c.d","x[].y"]`, `{"c":[{"d":"x"}],"x":{"y":"z"}}`, `{"c":[{"d":"x"}],"x":{"y":"z"}}`},
		{"an id that a path names", `["id"]`, `{"id":"d2a7j39s70qdphllj1rg","status":"d2a7j39s70qdphllj1rg"}`, `{"id":"[redacted:16+]","status":"d2a7j39s70qdphllj1rg"}`},
		{"names are structure", `["doc.cookies"]`, `{"doc":{"cookies":{"session=abcdef":"ghijkl"}},"title":"session=abcdef ghijkl"}`, `{"doc":{"cookies":{"session=abcdef":"[redacted:1-7]"}},"title":"session=abcdef [redacted:1-7]"}`},
		{
			"elsewhere, whatever its escapes", `["a"]`,
			`{"b":"pass/w\u00f6rd! Pass/wörd","c":["\u0070ass\/w\u00F6rd"],"d":{"e":["\ud83d\udc32pass/wörd\n\u0061"]},"a":"p\u0061ss\/wörd","n":1234567}`,
			`{"b":"[redacted:8-11]! Pass/wörd","c":["[redacted:8-11]"],"d":{"e":["\ud83d\udc32[redacted:8-11]\n\u0061"]},"a":"[redacted:8-11]","n":1234567}`,
		},
		{"elsewhere from six characters on", `["a"]`, `{"a":["abcde","üüüüü","123456"],"b":"abcde üüüüü 123456"}`, `{"a":["[redacted:1-7]","[redacted:1-7]","[redacted:1-7]"],"b":"abcde üüüüü [redacted:1-7]"}`},
		{"no more than half of a character", `["a"]`, `{"a":"\u00c3\u00c3\u00c3\u00c3\u00c3\u00c3","b":"üüüüüüüüüüüü"}`, `{"a":"[redacted:1-7]","b":"üüüüüüüüüüüü"}`},
		{"one in the other", `["a"]`, `{"a":["abcdef","xabcdefx"],"b":"abcdef xabcdefx xabcdef"}`, `{"a":["[redacted:1-7]","[redacted:8-11]"],"b":"[redacted:1-7] [redacted:8-11] x[redacted:1-7]"}`},
		{"overlapping", `["a"]`, `{"a":["abcdef","defghi","aaaaaa"],"b":"abcdefghi, abcdefdefghi, aaaaaaaaa"}`, `{"a":["[redacted:1-7]","[redacted:1-7]","[redacted:1-7]"],"b":"[redacted:8-11], [redacted:1-7][redacted:1-7], [redacted:8-11]"}`},
		{"what stays at a path is not looked for", `["a"]`, `{"a":["********","[redacted:16+]"],"b":"******** [redacted:16+]"}`, `{"a":["********","[redacted:16+]"],"b":"******** [redacted:16+]"}`},
		{
			"ids, enums and times stay", `["x"]`,
			`{"x":["message","2025-08","closed","11111111"],"id":"message","status":"closed","created_at":"2025-08-07T10:01:49Z","doc_url":"https://x/message/1","topics":[{"id":"11111111-1","type":"message","value":"message"}],` +
				`"doc":{"__type":"message","timestamp":"2025-08-07T10:01:49Z","file_hashes":{"md5":"11111111111111111111111111111111"},"message_id":"11111111"},"title":"closed message 11111111","new_field":{"id":"message"}}`,
			`{"x":["[redacted:1-7]","[redacted:1-7]","[redacted:1-7]","[redacted:8-11]"],"id":"message","status":"closed","created_at":"2025-08-07T10:01:49Z","doc_url":"https://x/message/1","topics":[{"id":"11111111-1","type":"message","value":"[redacted:1-7]"}],` +
				`"doc":{"__type":"message","timestamp":"2025-08-07T10:01:49Z","file_hashes":{"md5":"11111111111111111111111111111111"},"message_id":"11111111"},"title":"[redacted:1-7] [redacted:1-7] [redacted:8-11]","new_field":{"id":"[redacted:1-7]"}}`,
		},
		{
			"credentials: passwords", `["credentials"]`,
			`{"meets_password_policy":"true","doc":{"__type":"account_discovery","service_account":{"login":"alice@example.com","password":{"plain_text":"correct horse","hash":"5f4dcc3b5aa765d61d8327deb882cf99"}},` +
				`"host_access":{"host_info":{"operating_system":"Windows 2019"},"service_account":[{"login":"bob","password":"tr0ub4dor","Password-Hash":"aa"}]},"data_availability":{"password_available":true}},` +
				`"title":"alice@example.com:correct horse","alert_summary":"…:tr0ub4dor"}`,
			`{"meets_password_policy":"true","doc":{"__type":"account_discovery","service_account":{"login":"alice@example.com","password":{"plain_text":"[redacted:12-15]","hash":"[redacted:16+]"}},` +
				`"host_access":{"host_info":{"operating_system":"Windows 2019"},"service_account":[{"login":"bob","password":"[redacted:8-11]","Password-Hash":"[redacted:1-7]"}]},"data_availability":{"password_available":true}},` +
				`"title":"alice@example.com:[redacted:12-15]","alert_summary":"…:[redacted:8-11]"}`,
		},
		{
			"credentials: payment cards", `["credentials"]`,
			`{"doc":{"payment_card":{"brand":"mastercard","full_number":4111111111111111,"expiry_date":"2027-01","owner":{"name":"Al","geo_location":{"country":"Japan","country_code":"JP","city":"Tokyo"}},"track1_available":true},"price":10},"title":"2027-01"}`,
			`{"doc":{"payment_card":{"brand":"mastercard","full_number":null,"expiry_date":"[redacted:1-7]","owner":{"name":"[redacted:1-7]","geo_location":{"country":"Japan","country_code":"JP","city":"[redacted:1-7]"}},"track1_available":null},"price":10},"title":"[redacted:1-7]"}`,
		},
		{
			"credentials: other names", `["credentials"]`,
			`{"doc":{"plain_text":"aaaaaaa1","cookie_value":"aaaaaaa2","bearer":"aaaaaaa3","pgp_key":"aaaaaaa4","pan":5,"cvv_code":6,"secret_answer":"x","pin_code":"1234","japan":"y","secret_question":"z?"}}`,
			`{"doc":{"plain_text":"[redacted:8-11]","cookie_value":"[redacted:8-11]","bearer":"[redacted:8-11]","pgp_key":"[redacted:8-11]","pan":null,"cvv_code":null,"secret_answer":"[redacted:1-7]","pin_code":"[redacted:1-7]","japan":"y","secret_question":"z?"}}`,
		},
		{
			"credentials: types that are paths", `["credentials"]`,
			`{"topics":[{"id":"a","type":"payment_card.number","value":"4111 1111"},{"id":"b","type":"payment_card.brand","value":"visa"}],"topic_matches":[{"topic_id":"a","value":"4111 1111"}]}`,
			`{"topics":[{"id":"a","type":"payment_card.number","value":"[redacted:8-11]"},{"id":"b","type":"payment_card.brand","value":"visa"}],"topic_matches":[{"topic_id":"a","value":"[redacted:8-11]"}]}`,
		},
		{
			"credentials: several payment cards", `["credentials"]`,
			`{"doc":{"payment_cards":[{"brand":"visa","full_number":4111111111111111},{"brand":"mastercard","holder":["Al"]}]}}`,
			`{"doc":{"payment_cards":[{"brand":"visa","full_number":null},{"brand":"mastercard","holder":["[redacted:1-7]"]}]}}`,
		},
		{
			"credentials: cookies, tokens and keys", `["credentials"]`,
			`{"doc":{"cookies":[{"name":"sid","value":"v"}],"accessToken":"t","api_keys":{"x":"k"},"API-Key":1,"client_secret":"s","public_key":"p","key":"q","bypass":"r","pass":"s","token_type":"bearer"}}`,
			`{"doc":{"cookies":[{"name":"[redacted:1-7]","value":"[redacted:1-7]"}],"accessToken":"[redacted:1-7]","api_keys":{"x":"[redacted:1-7]"},"API-Key":null,"client_secret":"[redacted:1-7]","public_key":"p","key":"q","bypass":"r","pass":"[redacted:1-7]","token_type":"bearer"}}`,
		},
		{
			"credentials: topics and matches", `["credentials"]`,
			`{"topic_matches":[{"topic_id":"u-1","value":"hunter","term":"HUNTER"},{"topic_id":"u-2","value":"Example","term":"example"},{"topic_id":"doc_type:message","value":"message"}],` +
				`"topics":[{"value":"hun","type":"password","id":"u-1"},{"id":"u-2","type":"organization","value":"Example"},{"id":"u-3","type":"name","value":"abc","entity_locations":[{"element_path":"body"},{"element_path":"service_account.password.plain_text"}]},` +
				`{"id":"u-4","type":"payment_card_number","value":4111},{"id":"u-5","type":"name","value":"x","entity_locations":[{"element_path":"payment_card.brand"}]}],` +
				`"doc_matches":[{"match_path":"host_access[0].service_account.password","locations":[{"value":"abc","offsets":[0,3]}]},{"match_path":"body","locations":[{"value":"full"}]}]}`,
			`{"topic_matches":[{"topic_id":"u-1","value":"[redacted:1-7]","term":"[redacted:1-7]"},{"topic_id":"u-2","value":"Example","term":"example"},{"topic_id":"doc_type:message","value":"message"}],` +
				`"topics":[{"value":"[redacted:1-7]","type":"password","id":"u-1"},{"id":"u-2","type":"organization","value":"Example"},{"id":"u-3","type":"name","value":"[redacted:1-7]","entity_locations":[{"element_path":"body"},{"element_path":"service_account.password.plain_text"}]},` +
				`{"id":"u-4","type":"payment_card_number","value":null},{"id":"u-5","type":"name","value":"x","entity_locations":[{"element_path":"payment_card.brand"}]}],` +
				`"doc_matches":[{"match_path":"host_access[0].service_account.password","locations":[{"value":"[redacted:1-7]","offsets":[0,3]}]},{"match_path":"body","locations":[{"value":"full"}]}]}`,
		},
		{
			"a masked topic id names no topic", `["credentials","topics[].id","topic_matches[].topic_id"]`,
			`{"topics":[{"id":"[redacted:1-7]","type":"password","value":"a"}],"topic_matches":[{"topic_id":"[redacted:1-7]","value":"b"}]}`,
			`{"topics":[{"id":"[redacted:1-7]","type":"password","value":"[redacted:1-7]"}],"topic_matches":[{"topic_id":"[redacted:1-7]","value":"b"}]}`,
		},
		{
			"text", `["text"]`,
			`{"body":"a","doc":{"body":"a","text":"b","raw_text":["c"],"title":"d","email":{"body":{"html":"e"}},"password":"f"},"text":"g"}`,
			`{"body":"a","doc":{"body":"[redacted:1-7]","text":"[redacted:1-7]","raw_text":["[redacted:1-7]"],"title":"d","email":{"body":{"html":"[redacted:1-7]"}},"password":"f"},"text":"g"}`,
		},
		{"a list of alerts", `["credentials"]`, `[{"doc":{"password":"correct"}},[{"password":"x"}],{"title":"correct"}]`, `[{"doc":{"password":"[redacted:1-7]"}},[{"password":"[redacted:1-7]"}],{"title":"[redacted:1-7]"}]`},
		{"values in no object", `["doc.body"]`, `["{\"doc\":1}",7,null,[true],{"doc":{"body":"a","x":"b"}}]`, `["[redacted:8-11]",null,null,[null],{"doc":{"body":"[redacted:1-7]","x":"b"}}]`},
		{"a string", `["doc.body"]`, ` "hunter2" `, ` "[redacted:1-7]" `},
		{"a number", `["doc.body"]`, `4111111111111111`, `null`},
		{"nothing is masked by an empty list", `[]`, `{"doc":{"password":"correct horse"`, `{"doc":{"password":"correct horse"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := mustParse(t, c.list)
			in := bytes.Clone([]byte(c.in))
			out, masked, valid := r.Redact(in)
			if !valid {
				t.Fatal("not valid")
			}
			if diff := cmp.Diff(c.want, string(out)); diff != "" {
				t.Error(diff)
			}
			if string(in) != c.in {
				t.Error("what was given was written to")
			}
			if masked.Any() != (c.in != c.want) {
				t.Errorf("Any is %v", masked.Any())
			}
			if c.in == c.want && &out[0] != &in[0] {
				t.Error("nothing was masked, but it was copied")
			}
			again, masked, _ := r.Redact(out)
			if !bytes.Equal(again, out) || masked.Any() {
				t.Errorf("masked once more it is %s", again)
			}
		})
	}
}

func TestWhatIsNotValidIsNotGivenBack(t *testing.T) {
	r := mustParse(t, `["credentials"]`)
	for _, in := range []string{
		``, ` `, `{`, `{"a":"b}`, `{"a" "b"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `[1 2]`, `{"a":1}x`, `nul`, `tru`, `01`, `-`, `1.`, `1e`, `"\x"`, `"\u00g0"`, "\"\n\"", `{a:1}`, `{"a":"\`,
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
		strings.Repeat(`{"a":`, maxDepth) + "{}" + strings.Repeat("}", maxDepth),
	} {
		if json.Valid([]byte(in)) {
			t.Fatalf("%q is valid", in)
		}
		out, masked, valid := r.Redact([]byte(in))
		if valid || out != nil || masked.Any() || masked.Text("a secret") != "a secret" {
			t.Errorf("of %.40q got %q, %v", in, out, valid)
		}
	}
}

// TestDeepNesting: below a path there is no depth at which masking ends.
func TestDeepNesting(t *testing.T) {
	r := mustParse(t, `["doc"]`)
	for _, open := range []string{`[`, `{"a":`} {
		n := maxDepth - 1
		closing := strings.Repeat(map[string]string{`[`: `]`, `{"a":`: `}`}[open], n)
		in := `{"doc":` + strings.Repeat(open, n) + `"deep down"` + closing + `,"title":"deep down"}`
		out, _, valid := r.Redact([]byte(in))
		if !valid || bytes.Contains(out, []byte("deep down")) || bytes.Count(out, []byte("[redacted:8-11]")) != 2 {
			t.Errorf("%s: valid is %v, %d bytes", open, valid, len(out))
		}
	}
}

func TestText(t *testing.T) {
	in := `{"a":["correct horse","vip"],"monitor_name":"n"}`
	_, masked, _ := mustParse(t, `["a"]`).Redact([]byte(in))
	for in, want := range map[string]string{
		"":                                 "",
		"rule-1,correct horse,rule-2":      "rule-1,[redacted:12-15],rule-2",
		"correct horsecorrect horse":       "[redacted:12-15][redacted:12-15]",
		"Correct horse":                    "Correct horse",
		"a vip":                            "a vip",
		"vip":                              "vip",
		"correct hors\u00e9 correct horse": "correct hors\u00e9 [redacted:12-15]",
	} {
		if got := masked.Text(in); got != want {
			t.Errorf("%.60q became %q, want %q", in, got, want)
		}
	}
	if got := (Masked{}).Text("correct horse"); got != "correct horse" {
		t.Errorf("with nothing masked it became %q", got)
	}
}

// TestTooMuchToLookFor: with more masked than can be looked for, what could hold it is masked.
func TestTooMuchToLookFor(t *testing.T) {
	var secrets []string
	for i := range maxSecretBytes/900 + 2 {
		secrets = append(secrets, strings.Repeat(string(rune('a'+i%26)), 900)+strings.Repeat("é", 5+i/26))
	}
	alert, err := json.Marshal(map[string]any{
		"doc": map[string]any{"passwords": secrets, "__type": "account_discovery"}, "id": "d2a7j39s70qdphllj1rg",
		"title": "a text", "tags": []string{"short"}, "ai_doc_summary": "********",
	})
	if err != nil {
		t.Fatal(err)
	}
	out, masked, _ := mustParse(t, `["credentials"]`).Redact(alert)
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	delete(got["doc"].(map[string]any), "passwords")
	want := map[string]any{
		"doc": map[string]any{"__type": "account_discovery"}, "id": "d2a7j39s70qdphllj1rg",
		"title": "[redacted:1-7]", "tags": []any{"short"}, "ai_doc_summary": "********",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := masked.Text("rule-1"); got != "[redacted:1-7]" {
		t.Errorf("a text became %q", got)
	}
}

// TestLongText: a masked text that is longer than all others can't stand in them, and so
// doesn't count as something to look for.
func TestLongText(t *testing.T) {
	in := `{"doc":{"body":"` + strings.Repeat("a long body ", maxSecretBytes/10) + `"},"title":"a long body"}`
	out, _, _ := mustParse(t, `["text"]`).Redact([]byte(in))
	if want := `{"doc":{"body":"[redacted:16+]"},"title":"a long body"}`; string(out) != want {
		t.Errorf("got %.200s, want %s", out, want)
	}
}

// TestLongTextThatIsNoUTF8: a secret's bytes are counted as they are decoded, and those of
// the strings it is looked for in are not.
func TestLongTextThatIsNoUTF8(t *testing.T) {
	secret := strings.Repeat("abcdefgh\xe4", 100)
	got, _, valid := mustParse(t, `["a"]`).Redact([]byte(`{"a":"` + secret + `","b":"` + secret + `","c":"see ` + secret + `."}`))
	if want := `{"a":"[redacted:16+]","b":"[redacted:16+]","c":"see [redacted:16+]."}`; !valid || string(got) != want {
		t.Errorf("got %q", got)
	}
}

// samples are alerts of every type: invented ones, the simulator's and, where there are any, recorded ones.
func samples(t *testing.T, shape dtmsim.Shape) (alerts []json.RawMessage) {
	t.Helper()
	files, err := filepath.Glob("../../../shared/samples/recorded/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../dtm/testdata/all_types_refs_true.json") {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var page struct{ Alerts []json.RawMessage }
		if err := json.Unmarshal(raw, &page); err != nil {
			t.Fatal(err)
		}
		if page.Alerts == nil {
			page.Alerts = []json.RawMessage{raw}
		}
		alerts = append(alerts, page.Alerts...)
	}
	start := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	server := dtmsim.Generate(1, 60, start, start.Add(time.Hour), shape)
	for i := range server {
		alerts = append(alerts, server[i].Body)
	}
	return alerts
}

// TestKnownFields: a path to a field of a known type of alert is no cause for a warning.
func TestKnownFields(t *testing.T) {
	root := new(node).addKnown()
	for _, alert := range samples(t, dtmsim.Shape{Plain: true}) {
		var decoded any
		if err := json.Unmarshal(alert, &decoded); err != nil {
			t.Fatal(err)
		}
		var walk func(value any, steps []step)
		walk = func(value any, steps []step) {
			if len(steps) > 0 && !root.has(steps) {
				t.Errorf("no known field: %v", steps)
			}
			switch value := value.(type) {
			case map[string]any:
				for name, member := range value {
					if name == "unknown_top_level_field" {
						continue
					}
					walk(member, append(slices.Clip(steps), step{name: name}))
				}
			case []any:
				for _, element := range value {
					walk(element, append(slices.Clip(steps), step{elem: true}))
				}
			}
		}
		walk(decoded, nil)
	}
	for _, field := range keptFields {
		name := field[strings.LastIndexByte(field, '.')+1:]
		if kindOf([]byte(name), nil) != plainName {
			t.Errorf("%s is both kept and a secret", field)
		}
	}
}

// TestEveryType puts secrets where GTI has them into an alert of every type, and looks for
// them in what comes out.
func TestEveryType(t *testing.T) {
	const secret, number, cookie = "correct horse", "4111 1111 1111 1111", "sid=0123456789"
	r := mustParse(t, `["credentials","text"]`)
	for _, alert := range samples(t, dtmsim.Typical()) {
		var decoded map[string]any
		if err := json.Unmarshal(alert, &decoded); err != nil {
			t.Fatal(err)
		}
		kind, _ := decoded["alert_type"].(string)
		account := map[string]any{"login": "alice", "password": map[string]any{"plain_text": secret, "md5": "f0o0"}}
		doc, _ := decoded["doc"].(map[string]any)
		if doc == nil {
			doc = map[string]any{}
		}
		doc["service_account"] = account
		doc["host_access"] = map[string]any{"service_account": account}
		doc["payment_card"] = map[string]any{"brand": "visa", "full_number": number}
		doc["cookies"] = []any{cookie}
		for _, body := range []string{"body", "text", "raw_text"} {
			doc[body] = "the body " + secret
		}
		decoded["doc"] = doc
		decoded["topics"] = []any{map[string]any{"id": "u", "type": "password", "value": "horse"}}
		decoded["topic_matches"] = []any{map[string]any{"topic_id": "u", "value": "horse"}}
		decoded["title"] = "Found " + secret + " and " + cookie
		decoded["tags"] = []any{number}
		in, err := json.Marshal(decoded)
		if err != nil {
			t.Fatal(err)
		}
		out, masked, valid := r.Redact(in)
		if !valid || !masked.Any() || masked.Text("a "+secret) != "a [redacted:12-15]" {
			t.Errorf("%s: valid %v, masked %v", kind, valid, masked)
		}
		for _, text := range []string{secret, number, cookie, "horse", "the body", "f0o0"} {
			if bytes.Contains(out, []byte(text)) {
				t.Errorf("%s: %q is left in %s", kind, text, out)
			}
		}
		if !bytes.Contains(out, []byte(`"brand":"visa"`)) || !bytes.Contains(out, []byte(`"login":"alice"`)) {
			t.Errorf("%s: too much is masked in %s", kind, out)
		}
		checkDifference(t, in, out)
	}
}

// TestOrdinaryAlerts: in alerts that hold no secret the default preset masks nothing.
func TestOrdinaryAlerts(t *testing.T) {
	r := mustParse(t, `["credentials"]`)
	quiet := 0
	for _, alert := range samples(t, dtmsim.Typical()) {
		out, masked, valid := r.Redact(alert)
		if !valid {
			t.Errorf("not valid: %s", alert)
		}
		checkDifference(t, alert, out)
		holds := bytes.Contains(alert, []byte("not-a-Secret")) || bytes.Contains(alert, []byte(`"payment_card"`))
		if masked.Any() != holds {
			t.Errorf("masked is %v in %s", masked.Any(), out)
		}
		if !holds {
			quiet++
		}
	}
	if quiet < 20 {
		t.Errorf("only %d alerts without a secret", quiet)
	}
}

// TestDocumented: the document names the fields that the presets mask, and those that are
// never searched.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/redaction.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, fields := range map[string][]string{
		"### `credentials`": slices.Concat(secretFields, cardFields, matchFields),
		"### `text`":        textFields,
		"## What is never":  keptFields,
	} {
		_, section, ok := strings.Cut(string(text), "\n"+heading)
		if !ok {
			t.Fatalf("no section %q", heading)
		}
		section, _, _ = strings.Cut(section, "\n#")
		var documented []string
		for line := range strings.Lines(section) {
			if !strings.HasPrefix(line, "| `") {
				continue
			}
			for i, span := range strings.Split(strings.Split(line, "|")[1], "`") {
				if i%2 == 1 {
					documented = append(documented, span)
				}
			}
		}
		fields = slices.Sorted(slices.Values(fields))
		slices.Sort(documented)
		if diff := cmp.Diff(fields, documented); diff != "" {
			t.Errorf("%s: %s", heading, diff)
		}
	}
	for _, kept := range cardKept {
		if !strings.Contains(string(text), "`"+kept+"`") {
			t.Errorf("%s of a payment card is not documented", kept)
		}
	}
}

// TestRedactPart: what was masked in the whole alert is masked in one that comes without
// its document, wherever it stands there, and matches of the same topics are, however short.
func TestRedactPart(t *testing.T) {
	const part = `{"id":"hunter2xyz","status":"closed","title":"Leaked hunter2xyz of alice",` +
		`"topic_matches":[{"topic_id":"t1","value":"hunter2xyz","term":"hunter2xyz"},{"topic_id":"t2","value":"abc"},{"topic_id":"t3","value":"alice"}]}`
	whole := `{"id":"hunter2xyz","topics":[{"id":"t2","type":"password","value":"abc"},{"id":"t3","type":"identity_name","value":"alice"}],` +
		`"doc":{"service_account":{"password":{"plain_text":"hunter2xyz"}}}}`
	for _, c := range []struct{ name, list, whole, want string }{
		{
			"a password of the document", `["credentials"]`, whole,
			`{"id":"hunter2xyz","status":"closed","title":"Leaked [redacted:8-11] of alice",` +
				`"topic_matches":[{"topic_id":"t1","value":"[redacted:8-11]","term":"[redacted:8-11]"},{"topic_id":"t2","value":"[redacted:1-7]"},{"topic_id":"t3","value":"alice"}]}`,
		},
		{
			"a whole alert that can't be had", `["credentials"]`, "",
			`{"id":"hunter2xyz","status":"closed","title":"[redacted:16+]",` +
				`"topic_matches":[{"topic_id":"t1","value":"[redacted:8-11]","term":"[redacted:8-11]"},{"topic_id":"t2","value":"[redacted:1-7]"},{"topic_id":"t3","value":"[redacted:1-7]"}]}`,
		},
		{"nothing in it", `["credentials"]`, `{"topics":[{"id":"t3","type":"identity_name","value":"alice"}]}`, part},
		{"nothing to mask", `[]`, whole, part},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _, err := Parse(c.list)
			if err != nil {
				t.Fatal(err)
			}
			of := Everything()
			if c.whole != "" {
				_, of, _ = r.Redact([]byte(c.whole))
			}
			got, masked, valid := r.RedactPart([]byte(part), of)
			if diff := cmp.Diff(c.want, string(got)); diff != "" || !valid {
				t.Error(valid, diff)
			}
			if masked.Any() != (c.want != part) {
				t.Errorf("something masked: %t", masked.Any())
			}
		})
	}
}

// TestSecret: the text of a document is none, unless something else says so.
func TestSecret(t *testing.T) {
	const alert = `{"monitor_id":"m","doc":{"body":"words","password":"hunter2","other":{"body":{"text":"x"}}}}`
	for list, want := range map[string]bool{
		`["text"]`:                              false,
		`["credentials"]`:                       true,
		`["text","credentials"]`:                true,
		`["text","doc.body"]`:                   true,
		`["doc.body"]`:                          true,
		`["text","monitor_id"]`:                 true,
		`["text","doc.other.nothing"]`:          false,
		`["text","doc.other.body.text"]`:        true,
		`["topics[].value"]`:                    false,
		`["credentials","text","doc.password"]`: true,
	} {
		r, _, err := Parse(list)
		if err != nil {
			t.Fatal(err)
		}
		if _, masked, _ := r.Redact([]byte(alert)); masked.Secret() != want {
			t.Errorf("%s: %t", list, masked.Secret())
		}
	}
}

// TestFingerprint: it changes with every text in which a secret could be, and with nothing
// else that differs between two answers about one alert.
// TestHides: what a path names at the top is said nowhere else, and what masks nothing stays.
func TestHides(t *testing.T) {
	for paths, hidden := range map[string]bool{
		`["monitor_name"]`: true, `["*"]`: true, `["*.name"]`: false, `["monitor_name.x"]`: false, `["title"]`: false, `[]`: false,
	} {
		r, _, err := Parse(paths)
		if err != nil {
			t.Fatal(err)
		}
		if r.Hides("monitor_name") != hidden {
			t.Errorf("%s hides monitor_name: %t", paths, !hidden)
		}
	}
	for text, want := range map[string]string{
		"name": "[redacted:1-7]", "ééééééé": "[redacted:1-7]", "longer than that": "[redacted:16+]",
		"": "", "********": "********", "[redacted:8-11]": "[redacted:8-11]",
	} {
		if got := At(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestFingerprint(t *testing.T) {
	parse := func(list string) *Redactor {
		r, _, err := Parse(list)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := parse(`["credentials"]`)
	const alert = `{"id":"a1","status":"new","title":"a title\u00fc","tags":["brand:x"],"topic_matches":[{"topic_id":"t","value":"v","offsets":[1]}]}`
	first := r.Fingerprint([]byte(alert))
	for raw, same := range map[string]bool{
		alert: true,
		`{"doc":{"password":"hunter2hunter2"},"topics":[{"id":"t","value":"hunter2hunter2"}],"labels":[{"label":"something"}],` + alert[1:]:      true,
		`{"monitor_name":"a name","updated_at":"2026-01-01T00:00:00Z",` + alert[1:]:                                                              true,
		`{"topic_matches":[{"value":"v","topic_id":"t"}], "tags":["brand:x"], "title":"a title` + "\u00fc" + `","status":"closed","id":"a1"}`:    true,
		strings.Replace(alert, "a title", "another title", 1):                                                                                    false,
		strings.Replace(alert, `"value":"v"`, `"value":"w"`, 1):                                                                                  false,
		strings.Replace(alert, "brand:x", "brand:y", 1):                                                                                          false,
		`{"alert_summary":"a summary",` + alert[1:]:                                                                                              false,
		`{"of_tomorrow":{"text":"a text"},` + alert[1:]:                                                                                          false,
		`{"id":"a1","status":"new","topic_matches":[{"topic_id":"t","value":"v","offsets":[1]}],"title":"brand:x","tags":["a title\u00fc and"]}`: false,
	} {
		if got := r.Fingerprint([]byte(raw)); (got == first) != same || len(got) != 16 {
			t.Errorf("%s: %s, and of the first %s", raw, got, first)
		}
	}
	if parse(`["credentials","text"]`).Fingerprint([]byte(alert)) == first {
		t.Error("another REDACT has the same one")
	}
	if got := parse(`[]`).Fingerprint([]byte(alert)) + r.Fingerprint([]byte("{")); got != "" {
		t.Errorf("of nothing: %s", got)
	}
}
