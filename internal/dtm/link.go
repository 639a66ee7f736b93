package dtm

import (
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

// maxToken bounds a page token; recorded ones have 20 characters.
const maxToken = 4096

// nextPage finds the link with rel=next in the Link headers (RFC 8288) and
// returns its page value. Nothing else of the URL is used: the header may name
// another host, and the key must not go there. found without a token means that
// there is a next page but no way to ask for it.
func nextPage(header http.Header) (token string, found bool) {
	for _, value := range header.Values("Link") {
		links, ok := parseLinks(value)
		for _, l := range links {
			if !l.next {
				continue
			}
			found = true
			if token := pageValue(l.target); token != "" {
				return token, true
			}
		}
		// A link that can't be read and speaks of a next page must not pass for the end.
		if !ok && strings.Contains(strings.ToLower(value), "next") {
			found = true
		}
	}
	return "", found
}

func pageValue(target string) string {
	target, _, _ = strings.Cut(target, "#")
	_, query, _ := strings.Cut(target, "?")
	// A part that can't be decoded is left out, the others stay.
	values, _ := url.ParseQuery(query)
	if token := values.Get("page"); len(token) <= maxToken {
		return token
	}
	return ""
}

type link struct {
	target string
	next   bool
}

// parseLinks reads one Link header. It returns the links up to the first place
// that is not well-formed, and whether there was none.
func parseLinks(s string) (links []link, ok bool) {
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return links, true
		}
		if s[0] != '<' {
			return links, false
		}
		target, rest, closed := strings.Cut(s[1:], ">")
		if !closed {
			return links, false
		}
		l := link{target: strings.TrimSpace(target)}
		s = strings.TrimLeft(rest, " \t")
		for relSeen := false; s != "" && s[0] == ';'; {
			var name, value string
			if name, value, s, ok = parseParam(s[1:]); !ok {
				return links, false
			}
			// RFC 8288 3.3: only the first rel of a link counts; it may hold several.
			if strings.EqualFold(name, "rel") && !relSeen {
				relSeen = true
				for rel := range strings.FieldsFuncSeq(value, isNoRel) {
					l.next = l.next || strings.EqualFold(rel, "next")
				}
			}
		}
		links = append(links, l)
		if s != "" && s[0] != ',' {
			return links, false
		}
	}
}

// isNoRel reports whether a character stands between the names in a rel. RFC 8288 has
// white space alone there; with other quotation marks, or with commas, the link to the next
// page would be none, and the listing end there.
func isNoRel(c rune) bool {
	return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("-._", c)
}

// parseParam reads name, name=token or name="quoted" up to the next ; or ,.
func parseParam(s string) (name, value, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t")
	end := strings.IndexAny(s, "=;,")
	if end < 0 {
		return strings.TrimSpace(s), "", "", true
	}
	name, rest = strings.TrimSpace(s[:end]), s[end:]
	if rest[0] != '=' {
		return name, "", rest, true
	}
	rest = strings.TrimLeft(rest[1:], " \t")
	if rest == "" || rest[0] != '"' {
		end := strings.IndexAny(rest, ";,")
		if end < 0 {
			end = len(rest)
		}
		return name, strings.TrimSpace(rest[:end]), rest[end:], true
	}
	var text strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '"':
			return name, text.String(), strings.TrimLeft(rest[i+1:], " \t"), true
		case c == '\\' && i+1 < len(rest):
			i++
			text.WriteByte(rest[i])
		default:
			text.WriteByte(c)
		}
	}
	return "", "", "", false
}
