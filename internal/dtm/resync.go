package dtm

import (
	"bytes"
	"errors"
)

// maxSearch is how many times a page's size is read, at most, in search of where
// an alert begins after one that is no JSON. Without it a page of 32 MiB can be
// made that takes hours.
const maxSearch = 4

// errTangled: the search was given up. A smaller page has the same element with
// less around it.
var errTangled = errors.New("an element of the list is not valid JSON, and where the next one begins can't be told")

// resync reads a list of which an element is no JSON: what is wrong with one alert
// says nothing about the others. Such an element ends where a usable alert stands
// after a comma, or where the list and the whole body end as they should.
type resync struct {
	b []byte
	// alone: there is no smaller page to ask for, so that a search that was given up
	// makes one element of all that is left.
	alone bool
	spent int64 // bytes that were read in vain
}

// list reads the list of b that begins at b[at], and returns the index after it.
func (r *resync) list(b []byte, at int) (alerts []Alert, end int, err error) {
	r.b = b
	if at == len(b) || b[at] != '[' {
		return alertsAt(b, at)
	}
	// The latest element that is no JSON begins at from, and is alerts[mark].
	from, mark := -1, 0
	for i := at + 1; ; {
		// A comma too many separates nothing.
		for i = skipSpace(r.b, i); i < len(r.b) && r.b[i] == ','; {
			i = skipSpace(r.b, i+1)
		}
		if len(alerts) > maxElements {
			return nil, 0, errTooMany
		}
		search := i
		a, stop, ok := r.element(i)
		if ok {
			alerts = append(alerts, a)
		}
		switch {
		case ^stop == len(r.b):
			return nil, 0, errInvalid
		case stop < 0:
			r.spent += int64(^stop - i)
			from, mark = i, len(alerts)
		case r.b[stop] == ',':
			i = stop
			continue
		case r.closes(stop): // the list's own bracket
			return alerts, stop + 1, nil
		case from >= 0: // one of a list within the element that is no JSON, as is all that was read of it
			alerts, search = alerts[:mark], stop+1
		case ok: // one too many, after an element that was read
			from, mark, search = stop, len(alerts), stop+1
		default: // one in place of an element
			from, mark, search = i, len(alerts), stop+1
		}
		elementEnd, stop, err := r.search(search)
		if errors.Is(err, errTangled) && r.alone {
			if elementEnd = bytes.LastIndexByte(r.b, ']'); elementEnd > from && r.closes(elementEnd) {
				stop, err = elementEnd, nil
			}
		}
		if err != nil {
			return nil, 0, err
		}
		raw := bytes.TrimRight(r.b[from:elementEnd:elementEnd], ", \t\r\n")
		alerts = append(alerts, Alert{Raw: raw[:len(raw):len(raw)], Invalid: invalidJSON, Unreadable: true})
		if r.b[stop] == ']' {
			return alerts, stop + 1, nil
		}
		i = stop
	}
}

// element reads the element at b[i] with the comma or bracket after it, which is
// at stop. It is not ok when there is none before that.
func (r *resync) element(i int) (a Alert, stop int, ok bool) {
	if i < len(r.b) && r.b[i] == ']' {
		return Alert{}, i, false
	}
	a, end := alertAt(r.b, i)
	if end < 0 {
		return Alert{}, end, false
	}
	if end = skipSpace(r.b, end); end == len(r.b) || r.b[end] != ',' && r.b[end] != ']' {
		return Alert{}, ^end, false
	}
	return a, end, true
}

// search looks from b[i] on for the end of an element that is no JSON: end is the
// index of the comma or bracket after it, and next that of the alert or bracket
// that follows.
func (r *resync) search(i int) (end, next int, err error) {
	for ; i < len(r.b); i++ {
		if r.spent > maxSearch*int64(len(r.b)) {
			return 0, 0, errTangled
		}
		if r.b[i] == ']' && r.closes(i) {
			return i, i, nil
		}
		if r.b[i] != ',' {
			continue
		}
		next := skipSpace(r.b, i+1)
		if next == len(r.b) || r.b[next] != '{' {
			continue
		}
		a, stop, _ := r.element(next)
		switch {
		case stop < 0:
			r.spent += int64(^stop - next)
		case a.Invalid == "" && (r.b[stop] == ',' || r.closes(stop)):
			return i, next, nil
		default:
			i = stop - 1 // nothing in it is an element of the list
		}
	}
	return 0, 0, errInvalid
}

// closes reports whether the bracket at b[i] is the end of the list: what follows
// is the rest of the body, and nothing else.
func (r *resync) closes(i int) bool {
	at, done := next(r.b, i+1, '}')
	for !done {
		_, at = member(r.b, at)
		at, done = next(r.b, skipValue(r.b, at, 2), '}')
	}
	if at >= 0 {
		if at = skipSpace(r.b, at); at == len(r.b) {
			return true
		}
		at = ^at
	}
	r.spent += int64(^at - i)
	return false
}
