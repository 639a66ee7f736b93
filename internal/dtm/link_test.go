package dtm

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestNextPage(t *testing.T) {
	const recorded = `<https://api.intelligence.mandiant.com/v4/dtm/alerts?page=cht3anol24d39uevbak0>; rel="next"`
	for _, tc := range []struct {
		name  string
		links []string
		token string
		found bool
	}{
		{"none", nil, "", false},
		{"recorded", []string{recorded}, "cht3anol24d39uevbak0", true},
		{"other relations only", []string{`<https://h/a?page=x>; rel="prev", <https://h/?page=y>; rel=last`}, "", false},
		{"second link", []string{`<https://h/?page=p>; rel="prev", <https://h/?page=n>; rel="next"`}, "n", true},
		{"second header", []string{`<https://h/?page=p>; rel="prev"`, `<https://h/?page=n>; rel="next"`}, "n", true},
		{"comma in a quoted parameter", []string{`<https://h/?page=p>; title="a, <b>; rel=\"next\""; rel=prev, <https://h/?page=n>; rel=next`}, "n", true},
		{"comma in the URL", []string{`<https://h/?q=a,b&page=n>; rel=next`}, "n", true},
		{"parameters around page", []string{`<https://h/?size=5&page=n&life=10m>; rel="next"`}, "n", true},
		{"unquoted and in capitals", []string{`<https://h/?page=n> ;REL = NEXT`}, "n", true},
		{"several relations", []string{`<https://h/?page=n>; rel="last  next"`}, "n", true},
		{"other quotation marks", []string{`<https://h/?page=n>; rel='next'`}, "n", true},
		{"quoted twice", []string{`<https://h/?page=n>; rel="\"next\""`}, "n", true},
		{"typographic ones", []string{"<https://h/?page=n>; rel=\u201cnext\u201d"}, "n", true},
		{"several with a comma", []string{`<https://h/?page=n>; rel="last,next"`}, "n", true},
		{"as a URI", []string{`<https://h/?page=n>; rel="http://www.iana.org/assignments/relation/next"`}, "n", true},
		{"another relation with the word in it", []string{`<https://h/?page=n>; rel="next-archive"`}, "", false},
		{"first rel counts", []string{`<https://h/?page=n>; rel=prev; rel=next`}, "", false},
		{"relative", []string{`<?page=n>; rel=next`}, "n", true},
		{"relative path", []string{`</api/v3/dtm/alerts?page=n#f>; rel=next`}, "n", true},
		{"percent-encoded once", []string{`<https://h/?page=a%2Bb%252F%3D>; rel=next`}, "a+b%2F=", true},
		{"parameters before rel", []string{`<https://h/?page=n>; a; b=; title*=UTF-8''x%2c; rel=next`}, "n", true},
		{"empty elements", []string{`, ,<https://h/?page=n>; rel=next,,`}, "n", true},
		{"no page", []string{`<https://h/?size=5>; rel=next`}, "", true},
		{"empty page", []string{`<https://h/?page=>; rel=next`}, "", true},
		{"page in the fragment", []string{`<https://h/#?page=n>; rel=next`}, "", true},
		{"unreadable page", []string{`<https://h/?page=%zz>; rel=next`}, "", true},
		{"huge page", []string{`<https://h/?page=` + strings.Repeat("x", maxToken+1) + `>; rel=next`}, "", true},
		{"malformed next", []string{`https://h/?page=n; rel=next`}, "", true},
		{"malformed at its end", []string{`<https://h/?page=n>; rel="next" x`}, "n", true},
		{"cut next", []string{`<https://h/?page=n; rel="next"`}, "", true},
		{"malformed other", []string{`nonsense`}, "", false},
		{"malformed, then good", []string{`<x`, recorded}, "cht3anol24d39uevbak0", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token, found := nextPage(http.Header{"Link": tc.links})
			if token != tc.token || found != tc.found {
				t.Errorf("got %q, %t, want %q, %t", token, found, tc.token, tc.found)
			}
		})
	}
}

// FuzzLink: a token in a well-formed link comes back as it was, whatever stands
// before it, and no header is taken for one with a token it does not hold.
func FuzzLink(f *testing.F) {
	f.Add(`<https://h/?page=x>; rel="next"`, "cht3anol24d39uevbak0")
	f.Fuzz(func(t *testing.T, header, token string) {
		got, found := nextPage(http.Header{"Link": {header}})
		// RFC 8288 takes rel's value from RFC 9110's quoted strings: "n\ext" says next.
		said := strings.ToLower(strings.ReplaceAll(header, `\`, ""))
		if got != "" && (!found || len(got) > maxToken || !strings.Contains(said, "next")) {
			t.Fatalf("token %q, found %t in %q", got, found, header)
		}
		if token == "" || len(token) > maxToken {
			return
		}
		good := `<https://h/a?x=1&page=` + url.QueryEscape(token) + `&z=,>; title="a, b\""; rel="prev next"`
		if got, _ := nextPage(http.Header{"Link": {good, header}}); got != token {
			t.Fatalf("token %q became %q", token, got)
		}
		if got, _ := nextPage(http.Header{"Link": {`<https://h/?page=p>; rel=prev, ` + good}}); got != token {
			t.Fatalf("token %q became %q after another link", token, got)
		}
	})
}
