package observe

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// leastSecret is the length in bytes below which a text is no secret: replacing
// a short word would cut up everything that is logged.
const leastSecret = 8

const masked = "[hidden]"

// KeyMask is a last defence against the API key in a log: it replaces every
// secret that it knows in what is written through it, also escaped for JSON or a
// URL, and in base64. It works on the bytes that the logger has written, so that
// nothing that an attribute can be gets around it. Each Write has to be a whole record.
type KeyMask struct {
	mu    sync.Mutex
	w     io.Writer
	forms [][]byte // longest first: one secret may begin like another
}

// NewKeyMask returns a KeyMask in front of w that knows no secret yet.
func NewKeyMask(w io.Writer) *KeyMask { return &KeyMask{w: w} }

// Add makes a secret known. Those of under 8 bytes are left alone. Earlier ones
// stay known: after a rotation the old key can still turn up in an error.
func (m *KeyMask) Add(secret string) {
	if len(secret) < leastSecret {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, form := range formsOf(secret) {
		if !slices.ContainsFunc(m.forms, func(known []byte) bool { return string(known) == form }) {
			m.forms = append(m.forms, []byte(form))
		}
	}
	slices.SortStableFunc(m.forms, func(a, b []byte) int { return len(b) - len(a) })
}

// Write writes p without the secrets.
func (m *KeyMask) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clean := p
	for _, form := range m.forms {
		if bytes.Contains(clean, form) {
			clean = bytes.ReplaceAll(clean, form, []byte(masked))
		}
	}
	if _, err := m.w.Write(clean); err != nil {
		return 0, err
	}
	return len(p), nil
}

// formsOf lists how a secret can stand in a line of JSON.
func formsOf(secret string) []string {
	var forms []string
	for _, text := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
		// Twice: JSON in a JSON string.
		for _, once := range escape(text) {
			forms = append(forms, once)
			forms = append(forms, escape(once)...)
		}
	}
	// In base64 three bytes share four characters, so a secret looks different
	// at each of the three places where it can begin. The characters at both ends
	// that also depend on its neighbours are left out.
	for before := range 3 {
		code := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", before) + secret))
		code = code[(before*8+5)/6:]
		if (before+len(secret))%3 != 0 {
			code = code[:len(code)-1]
		}
		urlSafe := strings.NewReplacer("+", "-", "/", "_").Replace(code)
		forms = append(forms, code, urlSafe)
	}
	return forms
}

// escape gives the two ways in which encoders write a string: with and without
// <, > and & escaped.
func escape(text string) []string {
	var forms []string
	for _, html := range []bool{false, true} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(html)
		if e.Encode(text) != nil {
			continue
		}
		quoted := strings.TrimSuffix(b.String(), "\n")
		forms = append(forms, quoted[1:len(quoted)-1])
	}
	return forms
}
