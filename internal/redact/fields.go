package redact

import (
	"bytes"
	"strings"
	"sync"
)

// keptFields are never searched for what was masked elsewhere: ids and links that are
// made of them, enums, times and versions. A consumer finds an alert again, routes and
// compares by these, and GTI writes them, not the source of the document. Scores are
// numbers, which nobody searches. (DTM API: recorded alerts, and the parsers of Google's own
// integrations.)
var keptFields = strings.Fields(`
id monitor_id status alert_type severity created_at updated_at email_sent_at
aggregated_under_id labels_url topics_url doc_url meets_password_policy relevance_class
confidence_reasoning.version
indicator_attributions[].id indicator_attributions[].type
labels[].id labels[].classifier labels[].version labels[].label labels[].element_path
topics[].id topics[].type topics[].extractor topics[].extractor_version
topics[].entity_locations[].element_path
topic_matches[].topic_id label_matches[].label_id label_matches[].value
doc_matches[].match_path doc_matches[].match_field
doc.__id doc.__type doc.source doc.timestamp doc.ingested doc.collection_ts
doc.message_id doc.original_id doc.topic_id doc.post_date doc.paste_id
doc.channel.__type doc.channel.channel_id doc.channel.messenger.id
doc.messenger.id doc.sender.__type doc.sender.telegram.user_id
doc.sender.avatar_file.mime_type doc.sender.avatar_file.hashes.*
doc.forum.id doc.listing_id doc.publish_ts doc.item_type doc.currency doc.shop.id
doc.payment_card.brand doc.payment_card.country doc.payment_card.country_code
doc.language doc.content_type doc.file_hashes.* doc.source_file.hashes.*
doc.inet_location.protocol doc.links[].protocol doc.rr[].type
doc.service_account.service.inet_location.protocol
`)

// otherFields are the rest of what an alert of a known type can have. "**" stands for
// members that nobody has listed in public.
var otherFields = strings.Fields(`
monitor_version monitor_name tags[] title alert_summary ai_doc_summary analysis
indicator_mscore confidence similarity_score has_analysis ignore relevance_probability
severity_reasoning.rule
confidence_reasoning.response_count confidence_reasoning.malicious_count
confidence_reasoning.benign_count confidence_reasoning.confidence_count
confidence_reasoning.explanation
attachments.** indicator_attributions[].name
labels[].confidence
topics[].value topics[].confidence topics[].entity_locations[].offsets[]
topic_matches[].value topic_matches[].term topic_matches[].offsets[]
doc_matches[].locations[].value doc_matches[].locations[].offsets[]
doc.title doc.body doc.text doc.raw_text
doc.channel.name doc.channel.channel_url doc.channel.invite_url
doc.channel.channel_info.** doc.channel.messenger.name
doc.messenger.name doc.sender.** doc.author.** doc.board doc.forum.name doc.subject
doc.price doc.item_qty doc.listing_url.** doc.shop.name doc.seller.** doc.batch.**
doc.data_availability.** doc.host_access.** doc.payment_card.** doc.service_account.**
doc.inet_location.domain doc.inet_location.port doc.inet_location.url
doc.links[].domain doc.links[].port doc.links[].url
doc.source_file.filename doc.source_file.size doc.source_url doc.source_threat.name
doc.domain doc.rr[].rdata_ipv4 doc.rr[].rdata_ipv6 doc.rr[].rdata_domain doc.domain_whois.**
doc.source_location.** doc.filename
doc.from.** doc.to.** doc.cc.** doc.headers.** doc.attachments.**
`)

// The presets, in the notation that docs/redaction.md has them in: "**." before a name is
// any depth, and "*" at an end of a name any beginning or end of it.
const (
	presetCredentials = "credentials"
	presetText        = "text"
)

// secretFields hold what opens something. Where GTI puts them is known of
// service_account.password alone (DTM API, recorded: plain_text below it, and again below
// host_access); the other names are what such fields are called, so that a type of
// document that comes tomorrow is masked as well.
var secretFields = []string{
	"**.*password*", "**.*passwd*", "**.*passphrase", "**.*passcode", "**.*pwd", "**.pass", "**.pin", "**.*pin_code", "**.plain_text",
	"**.*secret", "**.*credential", "**.*token", "**.*jwt", "**.*cookie", "**.*session_id", "**.authorization",
	"**.*secret_value", "**.*token_value", "**.*cookie_value", "**.bearer",
	"**.*api_key", "**.*access_key", "**.*secret_key", "**.*private_key", "**.*encryption_key", "**.*master_key",
	"**.*session_key", "**.*auth_key", "**.*ssh_key", "**.*pgp_key", "**.*api_key_value", "**.*private_key_pem",
	"**.*seed_phrase", "**.*recovery_code", "**.mnemonic", "**.otp", "**.*secret_answer", "**.*security_answer",
	"**.*card_number", "**.pan", "**.*cvv", "**.*cvv2", "**.*cvc", "**.*cvv_code",
}

// cardFields are masked but for the members that cardKept names.
var (
	cardFields = []string{"**.*payment_card", "**.*credit_card", "**.*debit_card", "**.*bank_card"}
	cardKept   = []string{"brand", "country", "country_code"}
)

// notSecret end the names of fields that say something about a password: yes, no or which.
var notSecret = []string{"policy", "available"}

// matchFields are masked where what they belong to is a secret: a topic whose type is one
// of the names above or that was found in such a field, a match of such a topic, a match
// in such a field.
var matchFields = []string{
	"topics[].value", "topic_matches[].value", "topic_matches[].term", "doc_matches[].locations[].value",
}

// textFields are the bodies of the document, by type: message, forum post, paste and tweet,
// web content, document and web content.
var textFields = []string{"doc.**.body", "doc.**.text", "doc.**.raw_text"}

// How the fields that decide about matchFields are found.
var (
	groupFields = []string{"topics[]", "topic_matches[]", "doc_matches[]"}
	roleFields  = map[role][]string{
		roleID:    {"topics[].id", "topic_matches[].topic_id"},
		roleType:  {"topics[].type"},
		rolePath:  {"topics[].entity_locations[].element_path", "doc_matches[].match_path", "doc_matches[].match_field"},
		roleValue: matchFields,
	}
)

type nameKind uint8

const (
	unknownName nameKind = iota
	plainName
	secretName
	cardName
)

// nameRule is one of secretFields or cardFields. Names are compared in lower case and
// without "_", "-" and spaces, and an "s" at their end may be missing in the rule.
type nameRule struct {
	text     string
	kind     nameKind
	ending   bool // "*text"
	anywhere bool // "*text*"
}

// nameRules has the rules of names by the last letter of their text, and those with a "*"
// at the end under 0: most names meet none, and that has to be cheap. They are made for the
// first alert: a cold start does not pay for them.
var nameRules = sync.OnceValue(func() *[256][]nameRule {
	rules := new([256][]nameRule)
	add := func(kind nameKind, fields []string) {
		for _, field := range fields {
			rule := nameRule{text: strings.TrimPrefix(field, "**."), kind: kind}
			rule.text, rule.ending = strings.CutPrefix(rule.text, "*")
			rule.text, rule.anywhere = strings.CutSuffix(rule.text, "*")
			rule.text = string(appendNormal(nil, []byte(rule.text)))
			last := rule.text[len(rule.text)-1]
			if rule.anywhere {
				last = 0
			}
			rules[last] = append(rules[last], rule)
		}
	}
	add(secretName, secretFields)
	add(cardName, cardFields)
	return rules
})

// appendNormal appends a name as nameRule compares it.
func appendNormal(dst, name []byte) []byte {
	for _, c := range name {
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == '_' || c == '-' || c == ' ':
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// kindOf says what the credentials preset does with a member of that name. buf is memory
// for it to use.
func kindOf(name, buf []byte) nameKind {
	buf = appendNormal(buf[:0], name)
	if len(buf) == 0 {
		return plainName
	}
	for _, rule := range nameRules()[0] {
		if bytes.Contains(buf, []byte(rule.text)) && !endsLikeNoSecret(buf) {
			return rule.kind
		}
	}
	if kind := kindByEnd(buf); kind != plainName || buf[len(buf)-1] != 's' {
		return kind
	}
	return kindByEnd(buf[:len(buf)-1])
}

func kindByEnd(name []byte) nameKind {
	if len(name) == 0 {
		return plainName
	}
	for _, rule := range nameRules()[name[len(name)-1]] {
		if bytes.HasSuffix(name, []byte(rule.text)) && (rule.ending || len(name) == len(rule.text)) {
			return rule.kind
		}
	}
	return plainName
}

func endsLikeNoSecret(name []byte) bool {
	for _, end := range notSecret {
		if bytes.HasSuffix(name, []byte(end)) {
			return true
		}
	}
	return false
}

func isCardKept(name []byte) bool {
	for _, kept := range cardKept {
		if string(name) == kept {
			return true
		}
	}
	return false
}

func isTextName(name []byte) bool {
	for _, field := range textFields {
		if string(name) == field[len("doc.**."):] {
			return true
		}
	}
	return false
}

// isSecretPath says whether the credentials preset masks what lies at a path as GTI writes
// it in element_path and match_path: below the document, names joined by dots, some with an
// index in brackets.
func isSecretPath(path []byte, buf []byte) bool {
	card := false
	for name := range bytes.SplitSeq(path, []byte(".")) {
		name, _, _ = bytes.Cut(name, []byte("["))
		switch {
		case card && isCardKept(name):
			card = false
		default:
			switch kindOf(name, buf) {
			case secretName:
				return true
			case cardName:
				card = true
			case unknownName, plainName:
			}
		}
	}
	return card
}
