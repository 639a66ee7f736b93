package dtmsim

import (
	"encoding/base32"
	"encoding/binary"
	"time"
)

// tokens are the page tokens that were given out.
type tokens struct {
	mode    TokenMode
	places  map[string]tokenPlace
	machine uint64
	count   uint32
}

// tokenPlace is what a token stands for.
type tokenPlace struct {
	listing *listing
	from    int
}

// give makes a token for the rest of a listing and renews the listing's life. The
// token is new unless one is to be used again.
func (t *tokens) give(l *listing, from int, reuse string, now time.Time) string {
	t.count++
	if t.count%1024 == 0 {
		t.forgetExpired(now)
	}
	token := reuse
	if token == "" {
		token = xid(now, t.machine, t.count)
	}
	l.cursor = from
	l.expires = now.Add(l.life)
	t.places[token] = tokenPlace{l, from}
	return token
}

// take resolves a token, and uses it up if it serves only once.
func (t *tokens) take(token string, now time.Time) (l *listing, from int, ok bool) {
	p, ok := t.places[token]
	if !ok {
		return nil, 0, false
	}
	if now.After(p.listing.expires) {
		delete(t.places, token)
		return nil, 0, false
	}
	p.listing.expires = now.Add(p.listing.life)
	switch t.mode {
	case Many:
		return p.listing, p.from, true
	case Scroll:
		return p.listing, p.listing.cursor, true
	default:
		delete(t.places, token)
		return p.listing, p.from, true
	}
}

func (t *tokens) forgetExpired(now time.Time) {
	for token, p := range t.places {
		if now.After(p.listing.expires) {
			delete(t.places, token)
		}
	}
}

var xidEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// xid is an id as the API makes them: 20 characters that begin with the second.
// Of machine its lower 40 bits are in it, of count 24.
func xid(at time.Time, machine uint64, count uint32) string {
	var b [12]byte
	binary.BigEndian.PutUint32(b[:], uint32(at.Unix()))
	binary.BigEndian.PutUint64(b[4:], machine<<24|uint64(count&0xffffff))
	return xidEncoding.EncodeToString(b[:])
}
