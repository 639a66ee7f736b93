package dtmsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// kind is a type of alerts: how its title reads, and its document.
type kind struct {
	alertType, docType, source string
	title                      func(g *generator) string
	doc                        func(g *generator) []keyValue
}

// kinds are in the order of Types. What a tweet's document looks like is a guess:
// no public sample of one is known.
var kinds = []kind{
	{"Compromised Credentials", "account_discovery", "ccmp", credentialsTitle, credentialsDoc},
	{"Domain Discovery", "domain_discovery", "registrations", domainTitle, domainDoc},
	{"Forum Post", "forum_post", "blackbird", forumTitle, forumDoc},
	{"Message", "message", "vanilla", messageTitle, messageDoc},
	{"Paste", "paste", "pastes", pasteTitle, pasteDoc},
	{"Shop Listing", "shop_listing", "marketplace", shopTitle, shopDoc},
	{"Tweet", "tweet", "twitter", tweetTitle, tweetDoc},
	{"Web Content", "web_content_publish", "crawler", webTitle, webDoc},
}

var monitors = []struct{ id, name string }{
	{"d40s1m0gp00000examp0", "Example Corp: brand"},
	{"d40s1m0gp00000examp1", "example.com credentials → SOC"},
	{"d40s1m0gp00000examp2", `Look-alike domains <"example.org">`},
	{"d40s1m0gp00000examp3", "Ünternehmen & Söhne 🏭"},
}

var (
	tags   = []string{"triaged", "VIP", "phishing", "needs review", "ünïcødé", "a/b", ""}
	terms  = []string{"example.com", "example corp", "vpn.example.org", "acme-login.test", "carol", "invoice", "sso.example.net", "widget 3000"}
	actors = []string{"mango_courier", "k0balt-fox", "Ünïcødé 🐲", "نجمة الشمال", "s p a c e s ", "«quoted»", "x"}
	snips  = []string{
		"Selling access to a widget factory, ask in private",
		"<p>anyone has the <b>example.com</b> list? &amp; the rest</p>",
		"ürgently nééded: invoices of Example Corp",
		"\u202eright to left\u202c and back 🐲🏴‍☠️",
		"C:\\temp\\dump.txt\tpart 1/3\nhttps://files.example/a?b=c&d=e",
		"新しい 例え.テスト の一覧",
		`she said "it's fine" \o/`,
		"line one\r\nline two\u2028line three",
	}
)

func credentialsTitle(g *generator) string {
	return `Leaked Employee Credentials from "` + pick(g, terms) + `"`
}

func domainTitle(g *generator) string {
	return fmt.Sprintf(`Suspicious domain "examp1e-%d.test" similar to "example"`, g.rng.IntN(1000))
}

func forumTitle(g *generator) string {
	return `Found keyword "` + pick(g, terms) + `" posted by actor "` + pick(g, actors) + `" on forum.example forum "/Main/Off topic"`
}

func messageTitle(g *generator) string {
	return `Found topic "` + pick(g, terms) + `" posted by actor "` + pick(g, actors) + ` " on Telegram channel "chän"`
}

func pasteTitle(g *generator) string {
	return `Found topic "` + pick(g, terms) + `" in paste "untitled"`
}

func shopTitle(g *generator) string {
	return `Host Access Shop Listing found topic "` + pick(g, terms) + `" on shop "Bazaar (mirror)"`
}

func tweetTitle(g *generator) string {
	return `Found topic "` + pick(g, terms) + `" in tweet by "@` + pick(g, actors) + `"`
}

func webTitle(g *generator) string {
	return fmt.Sprintf(`Found topics "%s and %s" in "News" on blog.example`, pick(g, terms), pick(g, terms))
}

func credentialsDoc(g *generator) []keyValue {
	name := fmt.Sprintf("user%d@example.com", g.rng.IntN(10000))
	return []keyValue{
		{"service_account", raw(`{"login":%s,"password":{"plain_text":%s},"profile":{"contact":{"email":%s,"email_domain":"example.com"}},`+
			`"service":{"inet_location":{"domain":"sso.example.com","protocol":"https","url":"https:\/\/sso.example.com\/login"},"name":"sso.example.com"}}`,
			g.text(name), g.text(pick(g, []string{"********", "not-a-Secret-" + strconv.Itoa(g.rng.IntN(1000)), ""})), g.text(name))},
		{"source_file", raw(`{"filename":"dump_%d.zip","size":%d,"hashes":{"md5":"%032x","sha1":"%040x"}}`, g.rng.IntN(99), g.rng.Uint32(), g.rng.Uint64(), g.rng.Uint64())},
		{"source_url", g.text("https://t.example/+AAAA/1")},
	}
}

func domainDoc(g *generator) []keyValue {
	return []keyValue{
		{"domain", raw(`"examp1e-%d.test"`, g.rng.IntN(1000))},
		{"rr", raw(`[{"type":"A","rdata_ipv4":"192.0.2.%d"},{"type":"NS","rdata_domain":"ns1.example.net"}]`, g.rng.IntN(255))},
		{"domain_whois", raw(`{"registrar":{"identity":{"name":"Registrar of Examples, Ltd."}}}`)},
	}
}

func forumDoc(g *generator) []keyValue {
	return []keyValue{
		{"author", raw(`{"identity":{"name":%s}}`, g.text(pick(g, actors)))},
		{"board", raw(`"Off topic"`)},
		{"body", g.text("<div class=\"post\">" + g.prose(8) + "</div>")},
		{"forum", raw(`{"id":"%d","name":"forum.example"}`, g.rng.IntN(99))},
		{"message_id", raw(`"%d"`, g.rng.Uint32())},
		{"subject", g.text(pick(g, snips))},
	}
}

func messageDoc(g *generator) []keyValue {
	return []keyValue{
		{"body", g.text(g.prose(6))},
		{"channel", raw(`{"channel_id":%d,"name":"chän","channel_url":"https:\/\/t.example\/chan","channel_info":{"description":""},"messenger":{"id":"1","name":"Telegram"}}`, -1000000000000-g.rng.Int64N(1e9))},
		{"message_id", raw(`"%d"`, g.rng.Uint32())},
		// Beyond what a float64 holds exactly.
		{"sender", raw(`{"identity":{"name":%s},"telegram":{"user_id":%d}}`, g.text(pick(g, actors)), 9007199254740993+g.rng.Int64N(1000)*2)},
	}
}

func pasteDoc(g *generator) []keyValue {
	return []keyValue{
		{"title", g.text("untitled")},
		{"paste_id", raw(`"%08x"`, g.rng.Uint32())},
		{"body", g.text(g.prose(12))},
		{"source_location", raw(`{"url":"https://paste.example/%x"}`, g.rng.Uint32())},
	}
}

func shopDoc(g *generator) []keyValue {
	return []keyValue{
		{"currency", raw(`"USD"`)},
		{"price", raw(`%d.50`, g.rng.IntN(100))},
		{"item_qty", raw(`1`)},
		{"shop", raw(`{"id":"7","name":"Bazaar (mirror)"}`)},
		{"seller", raw(`{"identity":{"name":%s}}`, g.text(pick(g, actors)))},
		{"payment_card", raw(`{"brand":"EXAMPLE","number":"0000 00** **** %04d"}`, g.rng.IntN(10000))},
	}
}

func tweetDoc(g *generator) []keyValue {
	return []keyValue{
		{"body", g.text(pick(g, snips))},
		{"author", raw(`{"identity":{"name":%s}}`, g.text(pick(g, actors)))},
	}
}

func webDoc(g *generator) []keyValue {
	return []keyValue{
		{"inet_location", raw(`{"domain":"blog.example","port":443,"protocol":"https","url":"https:\/\/blog.example\/%d"}`, g.rng.IntN(1e6))},
		{"language", raw(`"en"`)},
		{"links", raw(`[{"domain":"example.net","port":443,"protocol":"https","url":"https://example.net/?a=1&b=2"}]`)},
		{"title", g.text(pick(g, snips))},
		{"text", g.text(g.prose(15))},
	}
}

// prose is some text of so many pieces.
func (g *generator) prose(pieces int) string {
	var b strings.Builder
	for range pieces {
		b.WriteString(pick(g, snips))
		b.WriteByte(' ')
	}
	return b.String()
}

func raw(format string, args ...any) []byte { return fmt.Appendf(nil, format, args...) }

// text writes a string as JSON, in one of the ways that a server may.
func (g *generator) text(s string) []byte {
	switch style := g.rng.IntN(8); {
	case g.shape.Plain, style < 5:
		return plainText(s)
	case style == 5:
		return mustJSON(s) // < as \u003c
	case style == 6:
		return bytes.ReplaceAll(plainText(s), []byte("/"), []byte(`\/`))
	default:
		return asciiText(s)
	}
}

// plainText escapes only what must be.
func plainText(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(fmt.Sprintf("dtmsim: %v", err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// asciiText escapes everything beyond ASCII, with surrogates where needed.
func asciiText(s string) []byte {
	var out []byte
	for _, r := range string(plainText(s)) {
		switch {
		case r < utf8.RuneSelf:
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04X`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

func indent(text []byte) []byte {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return text
	}
	return b.Bytes()
}

// content writes the members that an ordinary alert of the kind has.
func (g *generator) content(k kind, a *Alert) *content {
	docID := g.uuid()
	// DTM API: these still point to the Mandiant host.
	base := "https://api.intelligence.mandiant.com/v4/dtm/docs/" + k.docType + "/" + docID
	timeBefore := func(before time.Duration) []byte {
		return timeJSON(a.CreatedAt.Add(-before).Truncate(time.Second))
	}
	c := &content{members: make([]keyValue, 0, 36), slim: map[string][]byte{}}
	add := func(key string, value []byte) { c.members = append(c.members, keyValue{key, value}) }

	add("id", mustJSON(a.ID))
	add("monitor_id", mustJSON(a.MonitorID))
	if !g.shape.NoDoc {
		add("doc", appendObject(nil, append([]keyValue{
			{"__id", mustJSON(docID)},
			{"__type", mustJSON(k.docType)},
			{"source", mustJSON(k.source)},
			{"timestamp", timeBefore(time.Hour)},
			{"ingested", timeBefore(10 * time.Second)},
		}, k.doc(g)...)))
		add("labels", raw(`[{"id":"%s","classifier":"classifier-language","version":"1.0","label":"en","confidence":%d,"element_path":"body"}]`, g.uuid(), g.rng.IntN(101)))
		add("topics", raw(`[{"id":"%s","type":"organization","value":"Example Corp","extractor":"analysis-pipeline.example","extractor_version":"4-0-2","confidence":%d,"entity_locations":[{"element_path":"body","offsets":[0,12]}]}]`, g.uuid(), g.rng.IntN(101)))
	}
	add("topic_matches", raw("[]"))
	add("label_matches", raw("[]"))
	add("doc_matches", raw(`[{"match_path":"body","locations":[{"offsets":[10,17],"value":"example"}]}]`))
	c.slim["doc_matches"] = raw(`[{"match_path":"body","locations":[{"value":"example"}]}]`)
	add("tags", mustJSON(a.Tags))
	add("created_at", timeJSON(a.CreatedAt))
	add("updated_at", timeJSON(a.UpdatedAt))
	add("labels_url", mustJSON(base+"/labels"))
	add("topics_url", mustJSON(base+"/topics"))
	add("doc_url", mustJSON(base))
	add("status", mustJSON(a.Status))
	add("alert_type", mustJSON(a.Type))
	add("alert_summary", g.text(pick(g, snips)+" …"))
	add("title", g.text(k.title(g)))
	add("email_sent_at", raw(`""`))
	add("indicator_mscore", raw("%d", *a.MScore))
	add("severity", mustJSON(a.Severity))
	add("confidence", strconv.AppendFloat(nil, g.rng.Float64(), 'g', -1, 64))
	add("aggregated_under_id", mustJSON(g.xid(a.CreatedAt.Add(-24*time.Hour))))
	add("has_analysis", strconv.AppendBool(nil, a.HasAnalysis))
	add("similarity_score", strconv.AppendFloat(nil, 0.9+g.rng.Float64()/10, 'g', 7, 64))
	add("severity_reasoning", raw(`{"rule":""}`))
	add("confidence_reasoning", raw(`{"version":"","response_count":0,"malicious_count":0,"benign_count":0,"confidence_count":null,"explanation":null}`))
	add("ignore", raw("false"))
	if k.docType == "account_discovery" {
		add("meets_password_policy", raw(`"true"`))
	}
	add("monitor_version", raw("%d", 1+g.rng.IntN(9)))
	return c
}

// oddities is how many kinds of alerts makeOdd tells apart; most are ordinary.
// It has no divisor in common with the number of types, so that every oddity
// meets every type.
const oddities = 51

// makeOdd gives the alert one of the oddities that are legal, or known from recordings.
func (c *content) makeOdd(g *generator, a *Alert, oddity int) {
	switch oddity {
	case 1: // as in 2023
		a.Severity = ""
		c.set("severity", nil)
		c.set("similarity_score", nil)
	case 3:
		a.Tags = nil
		c.set("tags", nil)
		c.set("label_matches", nil)
	case 5:
		a.MScore = nil
		c.set("indicator_mscore", nil)
	case 7:
		c.setDoc(g, []byte("null"))
	case 9:
		c.setDoc(g, nil)
		c.set("labels", nil)
		c.set("topics", nil)
	case 11:
		a.Type = "Deep Fake Video"
		c.set("alert_type", mustJSON(a.Type))
		a.Severity = "critical"
		c.set("severity", mustJSON(a.Severity))
	case 13:
		c.shuffled = true
	case 15:
		c.indented = true
	case 17:
		c.set("title", raw(`""`))
		c.set("alert_summary", raw(`""`))
	case 19:
		a.Tags = nil
		c.set("tags", raw("null"))
		c.set("email_sent_at", raw("null"))
		c.set("confidence", raw("null"))
		c.set("ai_doc_summary", raw("null"))
	case 21:
		a.MScore = new(100)
		c.set("indicator_mscore", raw("1e2"))
		c.set("confidence", raw("0.10"))
		c.set("similarity_score", raw("1"))
		c.set("distance", raw("-0.0E-7"))
		c.set("sequence", raw("123456789012345678901234567890"))
	case 23:
		c.set("alert_summary", raw(`"before\u0000after\b\f\u001f"`))
	case 25: // legal by JSON's grammar, though no Unicode text
		c.set("alert_summary", raw(`"lone \ud800 surrogate \udc00"`))
	case 27:
		c.set("unknown_top_level_field", raw(`{"id":"decoy","created_at":"1999-01-01T00:00:00Z","nested":[1,2.5,null,{"a":[[[[]]]]}],"":{}}`))
	case 29: // a key may be escaped like any string
		c.set("severity", nil)
		c.set(`sever\u0069ty`, mustJSON(a.Severity))
	case 31:
		a.Severity = ""
		c.set("severity", raw(`""`))
	case 33:
		a.UpdatedAt = a.CreatedAt
		c.set("updated_at", nil)
	case 35: // the members of the document look like those of the alert
		c.setDoc(g, raw(`{"id":"decoy","created_at":"1999-01-01T00:00:00Z","status":"closed","severity":"high","__type":"message"}`))
		c.shuffled = true
	case 37:
		c.set("email_sent_at", timeJSON(a.CreatedAt.Add(time.Minute)))
		c.set("analysis", g.text("Looked at it.\n"+pick(g, snips)))
	case 39:
		c.set("title", g.text(strings.Repeat("Ünïcødé 🐲 ", 200)))
	}
}

// setDoc changes the document of alerts that have one.
func (c *content) setDoc(g *generator, doc []byte) {
	if !g.shape.NoDoc {
		c.set("doc", doc)
	}
}
