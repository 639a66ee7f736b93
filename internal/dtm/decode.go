package dtm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxElements bounds the elements of a page, of which 100 are asked for at most:
// a page of millions of tiny ones would take a hundred times its size in memory.
const maxElements = 10_000

// ParseAlert reads the fields that routing needs. A field of an unexpected type
// counts as absent, names are matched exactly, and of several fields of one name
// the last counts. The alert keeps raw itself, not a copy.
func ParseAlert(raw []byte) Alert {
	if !json.Valid(raw) {
		return Alert{Raw: raw, Fault: "not valid JSON"}
	}
	return parseAlert(raw)
}

// parseAlert is ParseAlert for what is known to be valid JSON.
func parseAlert(raw []byte) Alert {
	top := trim(raw)
	if top[0] != '{' {
		return Alert{Raw: raw, Fault: "not an object"}
	}
	a := Alert{Raw: raw}
	var created, updated string
	for name, value := range members(top) {
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
		case "doc":
			a.HasDoc = value[0] == '{'
		case "created_at":
			created, _ = stringValue(value)
		case "updated_at":
			updated, _ = stringValue(value)
		}
	}
	if !validID(a.ID) {
		return Alert{Raw: raw, Fault: "no id of 1 to 128 letters, digits, _ and -"}
	}
	var ok bool
	if a.CreatedAt, ok = parseTime(created); !ok {
		return Alert{Raw: raw, Fault: "no created_at that is an RFC 3339 time"}
	}
	if a.UpdatedAt, ok = parseTime(updated); !ok {
		a.UpdatedAt = a.CreatedAt
	}
	return a
}

func validID(id string) bool {
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

// parseTime reads an RFC 3339 time with up to nine fraction digits and returns
// it in UTC and whole milliseconds, the later digits cut off. The API trims
// trailing zeros of the fraction, so its times can't be compared as text.
func parseTime(text string) (time.Time, bool) {
	// time.Parse alone takes "T1:02:03", a comma and any number of digits.
	if len(text) < len("2006-01-02T15:04:05Z") || text[13] != ':' || text[19] == ',' {
		return time.Time{}, false
	}
	if text[19] == '.' && len(text)-20-len(strings.TrimLeft(text[20:], "0123456789")) > 9 {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, false
	}
	t = t.UTC()
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, false
	}
	return t.Truncate(time.Millisecond), true
}

// decodePage reads the body of a list. The alerts share its memory.
func decodePage(body []byte) ([]Alert, error) {
	if !json.Valid(body) {
		return nil, errors.New("the body is not valid JSON, or was cut off")
	}
	top := trim(body)
	if top[0] != '{' {
		return nil, errors.New("the body is not an object")
	}
	var list []byte
	for name, value := range members(top) {
		if string(name) != "alerts" {
			continue
		}
		if list != nil {
			return nil, errors.New(`the body has more than one "alerts"`)
		}
		list = value
	}
	switch {
	case list == nil:
		return nil, errors.New(`the body has no "alerts"`)
	case list[0] == 'n': // null is how a Go server writes an empty list
		return nil, nil
	case list[0] != '[':
		return nil, errors.New(`"alerts" is not a list`)
	}
	var alerts []Alert
	for raw := range elements(list) {
		if len(alerts) == maxElements {
			return nil, fmt.Errorf("the body has more than %d alerts", maxElements)
		}
		alerts = append(alerts, parseAlert(raw))
	}
	return alerts, nil
}
