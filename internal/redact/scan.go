package redact

import (
	"bytes"
	"hash/crc32"
	"maps"
	"math"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep values may be nested, as in encoding/json.
const maxDepth = 10_000

// role is what a string says about a topic or a match.
type role uint8

const (
	noRole    role = iota
	roleID         // the topic's id
	roleType       // what kind of thing the topic is
	rolePath       // where in the document it was found
	roleValue      // the thing itself
)

// value is a string, number or boolean that may have to be masked. There is one for nearly
// every string of an alert that may be 32 MB large, so it is small.
type value struct {
	start, end uint32
	role       role
	text       bool // a string
	escaped    bool // with a backslash
	mask       bool
	prose      bool // masked as the text of a document, and as nothing else
	keep       bool
}

// place is what holds where a value stands.
type place struct {
	from, to int // the nodes that lead here, in walker.active
	mask     bool
	prose    bool // masked by the preset text, and by nothing else
	keep     bool
	card     bool // below a payment card
	doc      bool // below the document
	apart    bool // below what not every answer about the alert has
	outside  bool // in no object
	role     role
}

// walker reads one alert.
type walker struct {
	r       *Redactor
	b       []byte
	active  []*node
	values  []value
	groups  [][2]int // of a topic or match: its first value, and the one after its last
	longest int      // bytes of the longest string that is searched
	prints  uint64   // the sum of the strings' hashes, see Fingerprint

	name, normal, decoded []byte // memory for one name or text
	parts                 []found
}

var scratch = sync.Pool{New: func() any { return new(walker) }}

// free gives the walker back, but not the memory that a large alert took.
func (w *walker) free() {
	const most = 1 << 14
	if max(cap(w.values), cap(w.groups), cap(w.active), cap(w.parts), cap(w.decoded)/16, cap(w.name)/16) > most {
		return
	}
	clear(w.decoded[:cap(w.decoded)]) // it held secrets
	*w = walker{
		active: w.active[:0], values: w.values[:0], groups: w.groups[:0],
		name: w.name, normal: w.normal, decoded: w.decoded, parts: w.parts[:0],
	}
	scratch.Put(w)
}

// walk reads raw and returns false when it is not valid JSON.
func (w *walker) walk(r *Redactor, raw []byte) bool {
	if len(raw) > math.MaxInt32 {
		return false
	}
	w.r, w.b = r, raw
	if w.normal == nil {
		w.normal = make([]byte, 0, 64)
	}
	i := w.value(skipSpace(raw, 0), place{mask: true, outside: true}, 1)
	return i >= 0 && skipSpace(raw, i) == len(raw)
}

// value reads the value that begins at b[i] and returns the index after it, or -1 when it
// is not valid.
func (w *walker) value(i int, p place, depth int) int {
	if i >= len(w.b) {
		return -1
	}
	switch w.b[i] {
	case '{':
		return w.object(i, p, depth)
	case '[':
		return w.array(i, p, depth)
	case '"':
		end, escaped := skipString(w.b, i)
		if end > 0 {
			w.add(i, end, p, true, escaped)
		}
		return end
	case 't':
		return w.scalar(i, skipLiteral(w.b, i, "true"), p)
	case 'f':
		return w.scalar(i, skipLiteral(w.b, i, "false"), p)
	case 'n':
		return skipLiteral(w.b, i, "null")
	default:
		return w.scalar(i, skipNumber(w.b, i), p)
	}
}

func (w *walker) scalar(i, end int, p place) int {
	if end > 0 {
		w.add(i, end, p, false, false)
	}
	return end
}

// add notes a value, unless there is nothing to do with it, whatever else is masked.
func (w *walker) add(i, end int, p place, text, escaped bool) {
	mask := p.mask || p.card
	searched := text && !mask && !p.keep && end-i >= minSecret+len(`""`)
	if searched {
		w.longest = max(w.longest, end-i)
	}
	if text && !mask && !p.keep && !p.apart && (searched || p.role == roleValue) {
		inner := w.b[i+1 : end-1]
		if escaped {
			w.decoded = appendDecoded(w.decoded[:0], inner)
			inner = w.decoded
		}
		w.prints += hash(inner)
	}
	if searched || mask || p.role != noRole {
		w.values = append(w.values, value{
			start: uint32(i), end: uint32(end), role: p.role, text: text, escaped: escaped, mask: mask, prose: p.prose && !p.card, keep: p.keep,
		})
	}
}

func (w *walker) object(i int, p place, depth int) int {
	if depth > maxDepth {
		return -1
	}
	if p.outside {
		w.active = append(w.active, w.r.root)
		p = place{from: len(w.active) - 1, to: len(w.active)}
	}
	i = skipSpace(w.b, i+1)
	if i < len(w.b) && w.b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(w.b) || w.b[i] != '"' {
			return -1
		}
		end, escaped := skipString(w.b, i)
		if end < 0 {
			return -1
		}
		name := w.b[i+1 : end-1]
		if escaped {
			w.name = appendDecoded(w.name[:0], name)
			name = w.name
		}
		if i = skipSpace(w.b, end); i >= len(w.b) || w.b[i] != ':' {
			return -1
		}
		i = w.value(skipSpace(w.b, i+1), w.member(p, name), depth+1)
		if i < 0 {
			return -1
		}
		w.active = w.active[:p.to]
		if i = skipSpace(w.b, i); i >= len(w.b) {
			return -1
		}
		switch w.b[i] {
		case '}':
			return i + 1
		case ',':
			i = skipSpace(w.b, i+1)
		default:
			return -1
		}
	}
}

func (w *walker) array(i int, p place, depth int) int {
	if depth > maxDepth {
		return -1
	}
	e := place{from: len(w.active), to: len(w.active), mask: p.mask, prose: p.prose, card: p.card, doc: p.doc, apart: p.apart, outside: p.outside, role: p.role}
	group := false
	for _, n := range w.active[p.from:p.to] {
		if n.elem != nil {
			w.enter(&e, n.elem)
			group = group || n.elem.group
		}
	}
	i = skipSpace(w.b, i+1)
	if i < len(w.b) && w.b[i] == ']' {
		return i + 1
	}
	for {
		first := len(w.values)
		if i = w.value(i, e, depth+1); i < 0 {
			return -1
		}
		if group && len(w.values) > first {
			w.groups = append(w.groups, [2]int{first, len(w.values)})
		}
		w.active = w.active[:e.to]
		if i = skipSpace(w.b, i); i >= len(w.b) {
			return -1
		}
		switch w.b[i] {
		case ']':
			return i + 1
		case ',':
			i = skipSpace(w.b, i+1)
		default:
			return -1
		}
	}
}

// member is the place of a member of the object at p.
func (w *walker) member(p place, name []byte) place {
	m := place{from: len(w.active), to: len(w.active), mask: p.mask, prose: p.prose, card: p.card, doc: p.doc, apart: p.apart, role: p.role}
	if p.from < p.to && w.active[p.from] == w.r.root {
		m.apart = isApart(name)
	}
	kind := unknownName
	for _, n := range w.active[p.from:p.to] {
		if next := n.names[string(name)]; next != nil {
			w.enter(&m, next)
			kind = next.kind
		}
		if n.any != nil {
			w.enter(&m, n.any)
		}
	}
	if w.r.credentials && !m.mask {
		if kind == unknownName {
			kind = kindOf(name, w.normal)
		}
		switch kind {
		case secretName:
			m.mask, m.prose = true, false
		case cardName:
			m.card = true
		default:
			m.card = m.card && !isCardKept(name)
		}
	}
	if w.r.text {
		if !m.mask && p.doc && isTextName(name) {
			m.mask, m.prose = true, true
		}
		m.doc = m.doc || string(name) == "doc"
	}
	return m
}

// enter makes n one of the nodes that lead to p.
func (w *walker) enter(p *place, n *node) {
	w.active = append(w.active, n)
	p.to = len(w.active)
	p.mask, p.prose = p.mask || n.mask, p.prose && !n.mask
	p.keep = p.keep || n.keep
	if n.role != noRole {
		p.role = n.role
	}
}

// isApart reports whether a member at the top is only in an answer with refs, or only in a
// listing.
func isApart(name []byte) bool {
	switch string(name) {
	case "doc", "labels", "topics", "monitor_name":
		return true
	}
	return false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// hash is the same in every process. Processors have instructions for both checksums: any
// other hash takes as long as all else that is done with the text.
func hash(text []byte) uint64 {
	return uint64(crc32.ChecksumIEEE(text))<<32 | uint64(crc32.Checksum(text, castagnoli))
}

// judgeGroups masks the values of topics and matches that are secrets: first those that
// say so themselves, then those that have a topic's id which one of them had, here or in
// the whole alert. It returns these ids.
func (w *walker) judgeGroups(alert Masked) (ids map[string]bool) {
	ids = map[string]bool{}
	maps.Copy(ids, alert.topics)
	for _, group := range w.groups {
		values := w.values[group[0]:group[1]]
		if !alert.all && !w.isSecretGroup(values) {
			continue
		}
		for i, v := range values {
			switch {
			case v.role == roleValue:
				values[i].mask, values[i].prose = true, false
			case v.role == roleID && v.text:
				// A masked id is no id: many topics have the same marker.
				if id := w.textOf(v); !stays(id) {
					ids[string(id)] = true
				}
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	for _, group := range w.groups {
		values := w.values[group[0]:group[1]]
		for _, v := range values {
			if v.role == roleID && v.text && ids[string(w.textOf(v))] {
				for i := range values {
					values[i].mask = values[i].mask || values[i].role == roleValue
				}
			}
		}
	}
	return ids
}

func (w *walker) isSecretGroup(values []value) bool {
	for _, v := range values {
		if !v.text {
			continue
		}
		switch v.role {
		case roleType, rolePath: // a type may be a path, too: payment_card.number
			if isSecretPath(w.textOf(v), w.normal) {
				return true
			}
		case noRole, roleID, roleValue:
		}
	}
	return false
}

// collect says how many values are masked, and whether any of them is more than the text
// of a document, and returns the strings of them. What stays though it is at a path is kept
// from then on.
func (w *walker) collect() (n int, secret bool, texts []string) {
	for i := range w.values {
		v := &w.values[i]
		if !v.mask {
			continue
		}
		if v.text {
			text := w.textOf(*v)
			if stays(text) {
				v.mask, v.keep = false, true
				continue
			}
			texts = append(texts, string(text))
		}
		n++
		secret = secret || !v.prose
	}
	return n, secret, texts
}

// write returns the alert with what is masked masked, and inside of other strings what m
// finds there, so often.
func (w *walker) write(m *matcher) (out []byte, found int) {
	out = make([]byte, 0, len(w.b)+64)
	last := 0
	for _, v := range w.values {
		start, end := int(v.start), int(v.end)
		switch {
		case v.mask && v.text:
			out = append(out, w.b[last:start]...)
			out = append(out, '"')
			out = append(out, marker(utf8.RuneCount(w.textOf(v)))...)
			out = append(out, '"')
			last = end
		case v.mask:
			out = append(out, w.b[last:start]...)
			out = append(out, "null"...)
			last = end
		case v.text && !v.keep && m != nil:
			w.parts = m.find(w.textOf(v), w.parts[:0])
			w.locate(v, w.parts)
			found += len(w.parts)
			for _, part := range w.parts {
				out = append(out, w.b[last:part.start]...)
				out = append(out, part.marker...)
				last = part.end
			}
		}
	}
	return append(out, w.b[last:]...), found
}

// inner is a string without its quotation marks.
func (w *walker) inner(v value) []byte { return w.b[v.start+1 : v.end-1] }

// textOf is the text of a string, until the next call.
func (w *walker) textOf(v value) []byte {
	inner := w.inner(v)
	if isText(inner, v.escaped) {
		return inner
	}
	w.decoded = appendDecoded(w.decoded[:0], inner)
	return w.decoded
}

// isText says whether what stands between quotation marks is the text itself.
func isText(inner []byte, escaped bool) bool { return !escaped && utf8.Valid(inner) }

// locate changes parts of a string's text into parts of the alert.
func (w *walker) locate(v value, parts []found) {
	if len(parts) == 0 {
		return
	}
	inner, base := w.inner(v), int(v.start)+1
	if isText(inner, v.escaped) {
		for i := range parts {
			parts[i].start += base
			parts[i].end += base
		}
		return
	}
	raw, text := 0, 0
	advance := func(to int) int {
		for text < to {
			if c := inner[raw]; c != '\\' && c < utf8.RuneSelf {
				raw++
				text++
				continue
			}
			r, size := nextRune(inner[raw:])
			raw += size
			text += utf8.RuneLen(r)
		}
		return base + raw
	}
	for i := range parts {
		parts[i].start = advance(parts[i].start)
		parts[i].end = advance(parts[i].end)
	}
}

// appendDecoded appends the text that stands between quotation marks, as encoding/json
// reads it: what is no character becomes U+FFFD.
func appendDecoded(dst, inner []byte) []byte {
	for len(inner) > 0 {
		plain := 0
		for plain < len(inner) && inner[plain] != '\\' && inner[plain] < utf8.RuneSelf {
			plain++
		}
		dst = append(dst, inner[:plain]...)
		if inner = inner[plain:]; len(inner) > 0 {
			r, size := nextRune(inner)
			dst = utf8.AppendRune(dst, r)
			inner = inner[size:]
		}
	}
	return dst
}

// nextRune reads one character of what stands between quotation marks, and says how many
// bytes it takes there.
func nextRune(inner []byte) (r rune, size int) {
	if inner[0] != '\\' {
		return utf8.DecodeRune(inner)
	}
	switch c := inner[1]; c {
	case 'u':
		r = hexRune(inner[2:6])
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if bytes.HasPrefix(inner[6:], []byte(`\u`)) {
			if pair := utf16.DecodeRune(r, hexRune(inner[8:12])); pair != utf8.RuneError {
				return pair, 12
			}
		}
		return utf8.RuneError, 6
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	default:
		return rune(c), 2
	}
}

func hexRune(digits []byte) (r rune) {
	for _, c := range digits {
		r <<= 4
		if c <= '9' {
			r |= rune(c - '0')
		} else {
			r |= rune(c | 0x20 - 'a' + 10)
		}
	}
	return r
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

func skipLiteral(b []byte, i int, text string) int {
	if !bytes.HasPrefix(b[i:], []byte(text)) {
		return -1
	}
	return i + len(text)
}

// skipString returns the index after the string that begins at b[i], and whether there is
// a backslash in it.
func skipString(b []byte, i int) (end int, escaped bool) {
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1, escaped
		case c < ' ':
			return -1, false
		case c == '\\':
			escaped = true
			if i++; i == len(b) {
				return -1, false
			}
			if b[i] == 'u' {
				for range 4 {
					if i++; i == len(b) || !isHex(b[i]) {
						return -1, false
					}
				}
			} else if strings.IndexByte(`"\/bfnrt`, b[i]) < 0 {
				return -1, false
			}
		}
	}
	return -1, false
}

func isHex(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = skipDigits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = skipDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return skipDigits(b, i)
	}
	return i
}

// skipDigits wants one digit at least.
func skipDigits(b []byte, i int) int {
	from := i
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
