package dtm

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxElements bounds the elements of a page, of which 100 are asked for at most:
// a page of millions of tiny ones would take a hundred times its size in memory.
const maxElements = 10_000

const invalidJSON = "not valid JSON"

// ParseAlert reads the fields that routing needs. A field of an unexpected type
// counts as absent, names are matched exactly, and of several fields of one name
// the last counts. The alert keeps raw itself, not a copy.
func ParseAlert(raw []byte) Alert {
	a, end := alertAt(raw, skipSpace(raw, 0))
	if end < 0 || skipSpace(raw, end) != len(raw) {
		return Alert{Raw: raw, Invalid: invalidJSON, Unreadable: true}
	}
	a.Raw = raw
	return a
}

// alertAt reads the element that begins at b[at], and returns the index after
// it, or a negative one (see member) when that is not valid JSON.
func alertAt(b []byte, at int) (a Alert, end int) {
	if at == len(b) || b[at] != '{' {
		if end = skipValue(b, at, elementDepth); end < 0 {
			return Alert{}, end
		}
		return Alert{Raw: b[at:end:end], Invalid: "not an object"}, end
	}
	var created, updated string
	i, done := first(b, at)
	for !done {
		name, from := member(b, i)
		end = skipValue(b, from, elementDepth+1)
		if end < 0 {
			return Alert{}, end
		}
		value := b[from:end]
		switch string(name) {
		case "id":
			a.ID, _ = stringValue(value)
		case "alert_type":
			a.Type, _ = stringValue(value)
		case "status":
			a.Status, _ = stringValue(value)
		case "severity":
			a.Severity, _ = stringValue(value)
		case "monitor_id":
			a.MonitorID, _ = stringValue(value)
		case "monitor_name":
			a.MonitorName, _ = stringValue(value)
		case "indicator_mscore":
			a.MScore = ""
			if isNumber(value) {
				a.MScore = string(value)
			}
		case "aggregated_under_id":
			a.GroupID, _ = stringValue(value)
		case "doc":
			a.HasDoc = value[0] == '{'
		case "created_at":
			created, _ = stringValue(value)
		case "updated_at":
			updated, _ = stringValue(value)
		}
		i, done = next(b, end, '}')
	}
	if end = i; end < 0 {
		return Alert{}, end
	}
	raw := b[at:end:end]
	if !ValidID(a.ID) {
		return Alert{Raw: raw, Invalid: "no id of 1 to 128 letters, digits, _ and -"}, end
	}
	var ok bool
	if a.CreatedAt, ok = parseTime(created); !ok {
		return Alert{Raw: raw, Invalid: "no created_at that is an RFC 3339 time", ID: a.ID, Status: a.Status}, end
	}
	if a.UpdatedAt, ok = parseTime(updated); !ok {
		a.UpdatedAt, a.Undated = a.CreatedAt, true
	}
	a.Raw = raw
	return a, end
}

// ValidID reports whether id can be an alert's: 1 to 128 letters, digits, _ and -.
func ValidID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// ParseTime reads an RFC 3339 time and returns it in UTC and whole milliseconds, the later
// digits cut off.
func ParseTime(text string) (time.Time, bool) {
	// time.Parse alone takes "T1:02:03", a comma and "+24:00".
	if len(text) < len("2006-01-02T15:04:05Z") || text[13] != ':' || text[19] == ',' {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, strings.ToUpper(text)) // RFC 3339 5.6: "t" and "z" may be small
	if err != nil {
		return time.Time{}, false
	}
	if offset := text[len(text)-len("+00:00"):]; offset[3] == ':' && (offset[1:3] > "23" || offset[4:] > "59") {
		return time.Time{}, false
	}
	return t.UTC().Truncate(time.Millisecond), true
}

// parseTime reads a time of the API. It trims trailing zeros of the fraction, so that its
// times can't be compared as text.
func parseTime(text string) (time.Time, bool) {
	t, ok := ParseTime(text)
	// The years 1 and 1970 are what programs write for a time that was never set.
	if !ok || t.Year() <= 1970 || t.Year() > 9999 {
		return time.Time{}, false
	}
	return t, true
}

// elementDepth is how deep an element of a page lies: in a list, in an object.
const elementDepth = 3

var (
	errInvalid = errors.New("the body is not valid JSON, or was cut off")
	errTwice   = errors.New(`the body has more than one "alerts"`)
	errTooMany = fmt.Errorf("the body has more than %d alerts", maxElements)
	// errElement: an element of the list is no JSON, and the body goes on after it.
	errElement = errors.New("an element of the list is not valid JSON")
)

// decodePage reads the body of a list. The alerts share its memory. An element that
// is no JSON is one unreadable alert, as long as the body is not cut off. alone says
// that there is no smaller page to ask for.
func decodePage(body []byte, alone bool) ([]Alert, error) {
	alerts, err := decodeList(body, alertsAt)
	if errors.Is(err, errElement) || errors.Is(err, errInvalid) {
		return decodeList(body, (&resync{alone: alone}).list)
	}
	return alerts, err
}

// decodeList reads the body of a list, with a function for the alerts in it.
func decodeList(body []byte, read func(b []byte, at int) ([]Alert, int, error)) ([]Alert, error) {
	start := skipSpace(body, 0)
	if start == len(body) || body[start] != '{' {
		return nil, errors.New("the body is not a JSON object")
	}
	var alerts []Alert
	var refusal error
	found := false
	i, done := first(body, start)
	for !done {
		name, end := member(body, i)
		switch {
		case string(name) != "alerts":
			from := end
			if end = skipValue(body, end, 2); end > 0 && string(name) == "error" && !isNull(body[from:end]) {
				refusal = answeredError(body[from:end])
			}
		case found:
			return nil, errTwice
		default:
			found = true
			var err error
			if alerts, end, err = read(body, end); err != nil {
				return nil, err
			}
		}
		i, done = next(body, end, '}')
	}
	switch {
	case i < 0 || skipSpace(body, i) != len(body):
		return nil, errInvalid
	case refusal != nil:
		return nil, refusal
	case !found:
		return nil, errors.New(`the body has no "alerts"`)
	}
	return alerts, nil
}

// alertsAt reads the list of alerts that begins at b[at], and returns the index
// after it.
func alertsAt(b []byte, at int) (alerts []Alert, end int, err error) {
	switch {
	case at == len(b):
		return nil, 0, errInvalid
	case b[at] == 'n': // null is how a Go server writes an empty list
		return nil, skipValue(b, at, 2), nil
	case b[at] != '[':
		return nil, 0, errors.New(`"alerts" is not a list`)
	}
	i, done := first(b, at)
	for !done {
		if len(alerts) == maxElements {
			return nil, 0, errTooMany
		}
		var a Alert
		if a, end = alertAt(b, i); end >= 0 {
			alerts = append(alerts, a)
		}
		i, done = next(b, end, ']')
	}
	switch {
	case ^i == len(b):
		return nil, 0, errInvalid
	case i < 0:
		return nil, 0, errElement
	}
	return alerts, i, nil
}
