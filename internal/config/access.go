package config

import (
	"encoding/json"
	"regexp"
	"strings"
)

// MaxEmail is the most bytes that an address in OPERATORS and VIEWERS has (RFC 5321: a path
// of 256, with its brackets).
const MaxEmail = 254

// An address as an identity token has it. It has no colon, as a member of a policy has.
var email = pattern{regexp.MustCompile(`^[0-9A-Za-z!#$%&'*+/=?^_{|}~.-]+@[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)+$`), MaxEmail}

// access reads who may write and who may read over HTTP.
func (p *problems) access(env environment, c *Config) {
	var operatorsOK, viewersOK bool
	c.Operators, operatorsOK = p.emails("OPERATORS", env.Operators)
	c.Viewers, viewersOK = p.emails("VIEWERS", env.Viewers)
	// Whoever names viewers counts on it that they can't write.
	if operatorsOK && viewersOK && len(c.Operators) == 0 && len(c.Viewers) > 0 {
		p.refuse("VIEWERS", "is set, and OPERATORS is not, so that whoever may call the function may also write: name the operators too, or leave VIEWERS out")
	}
}

// emails reads a list of addresses. They come back in small letters, because nobody has
// two accounts whose addresses differ in the case of a letter.
func (p *problems) emails(name, value string) (list []string, ok bool) {
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(value), &elements); err != nil || elements == nil {
		p.refuse(name, `%s is not a JSON list: it must be one of e-mail addresses, such as ["ana@example.com"], or [] for none`, quote(value))
		return nil, false
	}
	ok = true
	for i, element := range elements {
		var address string
		if json.Unmarshal(element, &address) != nil {
			address = string(element)
		}
		if !email.MatchString(address) {
			p.refuse(name, "element %d, %s: it must be the e-mail address of a person or of a service account, without user: or serviceAccount: before it; a group's does not work, because a token doesn't name the groups of its owner",
				i+1, quote(address))
			ok = false
			continue
		}
		list = append(list, strings.ToLower(address))
	}
	return list, ok
}
