package dtm

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
)

const (
	// maxOversized is how much is read of a page that is not kept.
	maxOversized = 1 << 30
	// oversizedHead is what is kept of an alert that is too large to be held, beside
	// its fields of up to oversizedField bytes.
	oversizedHead  = 64 << 10
	oversizedField = 1 << 10
)

// Digest is what is known of an alert that is too large to be held.
type Digest struct {
	Size   int64  // bytes
	SHA256 string // of its bytes, in hex
}

// readOversized reads a page of one alert without keeping it: no page is smaller, and
// no alert, however large, may hide those after it. Its error is errTooLarge when
// the page holds several, or is larger than limit.
func readOversized(r io.Reader, limit int64) ([]Alert, error) {
	limited := &io.LimitedReader{R: r, N: limit}
	g := oversizedReader{r: bufio.NewReaderSize(limited, 64<<10)}
	alerts := g.page()
	switch {
	case errors.Is(g.err, io.EOF) && limited.N == 0:
		return nil, errTooLarge
	case errors.Is(g.err, io.EOF):
		return nil, errInvalid
	case g.err != nil:
		return nil, g.err
	case alerts == nil:
		return []Alert{}, nil // nil says that the page was not read
	}
	return alerts, nil
}

// oversizedReader reads JSON a byte at a time, as loosely as finding its way allows. After
// an error nothing more is read.
type oversizedReader struct {
	r   *bufio.Reader
	err error

	// text is the value that is being read, as long as it is short.
	text []byte
	long bool

	element bool // what is read belongs to the alert
	head    []byte
	hashed  int64 // bytes, of which some are still in buffer
	buffer  []byte
	hash    hash.Hash
}

func (g *oversizedReader) page() (alerts []Alert) {
	found := false
	g.space()
	g.object(func(name []byte) {
		text := ""
		if name != nil {
			text, _ = stringValue(name)
		}
		found = found || text == "alerts"
		if text == "error" {
			if value := g.value(); string(value) != "null" {
				g.fail(errAnswered)
			}
			return
		}
		if text != "alerts" || g.space() == 'n' {
			g.value()
			return
		}
		g.expect('[')
		if g.space() != ']' {
			alerts = []Alert{g.alert()}
		}
		switch g.space() {
		case ']':
			g.next()
		case ',':
			g.fail(errTooLarge)
		default:
			g.fail(errInvalid)
		}
	})
	if g.err == nil {
		if g.space(); !errors.Is(g.err, io.EOF) {
			g.fail(errInvalid)
			return nil
		}
		g.err = nil
		if !found {
			g.fail(errInvalid)
		}
	}
	return alerts
}

// alert reads the one alert. Its short fields are read as those of any other.
func (g *oversizedReader) alert() Alert {
	g.element, g.hash = true, sha256.New()
	a := Alert{Invalid: "not an object"}
	if g.peek() == '{' {
		short := []byte{'{'}
		g.object(func(name []byte) {
			name = append([]byte(nil), name...)
			value := g.value()
			if value == nil {
				value = []byte("null") // the last of a name counts
			}
			if len(name) > 0 && len(short)+len(name)+len(value) < oversizedHead {
				if len(short) > 1 {
					short = append(short, ',')
				}
				short = append(append(append(short, name...), ':'), value...)
			}
		})
		a = ParseAlert(append(short, '}'))
	} else {
		g.value()
	}
	g.element = false
	g.hash.Write(g.buffer)
	if g.hashed <= oversizedHead { // what is large is the page around it
		return ParseAlert(g.head)
	}
	a.Raw = g.head
	a.Digest = &Digest{Size: g.hashed, SHA256: hex.EncodeToString(g.hash.Sum(nil))}
	return a
}

// object reads an object. member is given each name, nil when it is long, and
// reads the value.
func (g *oversizedReader) object(member func(name []byte)) {
	g.expect('{')
	if g.space() == '}' {
		g.next()
		return
	}
	for g.err == nil {
		if g.space() != '"' {
			g.fail(errInvalid)
			return
		}
		name := g.value()
		g.space()
		g.expect(':')
		g.space()
		if g.err != nil {
			return
		}
		member(name)
		switch g.space() {
		case ',':
			g.next()
		case '}':
			g.next()
			return
		default:
			g.fail(errInvalid)
		}
	}
}

// value reads a value, and returns its text unless that is long.
func (g *oversizedReader) value() []byte {
	g.text, g.long = g.text[:0], false
	depth := 0
	for g.err == nil {
		switch g.peek() {
		case '"':
			g.string()
		case '{', '[':
			depth++
			g.next()
		case '}', ']':
			depth--
			g.next()
		case ',', ':', ' ', '\t', '\r', '\n':
			g.next()
		default:
			for g.err == nil && !delimits(g.peek()) {
				g.next()
			}
		}
		if depth <= 0 {
			break
		}
	}
	if depth < 0 {
		g.fail(errInvalid)
	}
	if g.long || len(g.text) == 0 {
		return nil
	}
	return g.text
}

func (g *oversizedReader) string() {
	g.next()
	for g.err == nil {
		switch g.next() {
		case '\\':
			g.next()
		case '"':
			return
		}
	}
}

func delimits(c byte) bool {
	switch c {
	case ',', ':', '"', '{', '}', '[', ']', ' ', '\t', '\r', '\n':
		return true
	}
	return false
}

// space reads white space, and returns the byte after it, which it leaves.
func (g *oversizedReader) space() byte {
	for {
		switch c := g.peek(); c {
		case ' ', '\t', '\r', '\n':
			g.next()
		default:
			return c
		}
	}
}

func (g *oversizedReader) expect(c byte) {
	if g.next() != c {
		g.fail(errInvalid)
	}
}

func (g *oversizedReader) fail(err error) {
	if g.err == nil {
		g.err = err
	}
}

// peek returns the next byte, and 0 at the end or after an error.
func (g *oversizedReader) peek() byte {
	if g.err != nil {
		return 0
	}
	b, err := g.r.Peek(1)
	if err != nil {
		g.fail(err)
		return 0
	}
	return b[0]
}

func (g *oversizedReader) next() byte {
	c := g.peek()
	if g.err != nil {
		return 0
	}
	_, _ = g.r.Discard(1) // it is there
	if len(g.text) < oversizedField {
		g.text = append(g.text, c)
	} else {
		g.long = true
	}
	if g.element {
		g.hashed++
		if len(g.head) < oversizedHead {
			g.head = append(g.head, c)
		}
		if g.buffer = append(g.buffer, c); len(g.buffer) == oversizedHead {
			g.hash.Write(g.buffer)
			g.buffer = g.buffer[:0]
		}
	}
	return c
}
