package dtm

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// Monitor is what GTI says of a monitor. Its texts are fit for one line of a log.
type Monitor struct {
	ID   string // 1 to 128 letters, digits, _ and -
	Name string // at most 100 bytes
	// Enabled is false only where GTI says just that. A list that leaves it out, or
	// writes it in another way, would otherwise disable all monitors at once.
	Enabled        bool
	DisabledCode   string // at most 50 bytes
	DisabledReason string // at most 200 bytes
}

// MaxMonitors is how many monitors are listed at most: three times as many as an
// organization may have (DTM API: 100). Their texts then have less than 200 KB.
const MaxMonitors = 300

const (
	maxMonitorPages = 50
	// monitorPageLife is how long GTI keeps a page context unless it is asked to keep it
	// longer (DTM API). Whether this list can be asked so is not documented.
	monitorPageLife = time.Minute
)

// Monitors lists all monitors, each once, in the order of the API. complete is false
// when there may be others: an element was no usable monitor, or there were more than
// MaxMonitors of them or 50 pages. Errors are those of List, but for the ones of pages
// that are too large to be asked for at once.
func (s *Session) Monitors(ctx context.Context) (list []Monitor, complete bool, err error) {
	var page []Monitor
	var unusable int
	req := request{method: http.MethodGet, target: *s.client.monitors}
	req.read = func(got response) (_ []Alert, err error) {
		page, unusable, err = readMonitors(got.body, got.key)
		return nil, err
	}
	places := map[string]int{}
	complete = true
	for pages := 1; ; pages++ {
		got, err := s.fetch(ctx, req)
		if err != nil {
			return nil, false, err
		}
		got.release()
		before := len(list)
		for _, m := range page {
			at, known := places[m.ID]
			switch {
			case known:
				list[at] = m
			case len(list) == MaxMonitors:
				complete = false
			default:
				places[m.ID] = len(list)
				list = append(list, m)
			}
		}
		complete = complete && unusable == 0
		next, more := nextPage(got.header)
		switch brought := len(list) > before; {
		// DTM API: in 2023 each page of this list had a link, too. After the last one come
		// empty ones, or the same again.
		case !more, !brought && pages > 1:
			return list, complete, nil
		case !brought, next == "", pages == maxMonitorPages:
			return list, false, nil
		}
		// DTM API: nothing may accompany the page parameter.
		req.target.RawQuery = "page=" + url.QueryEscape(next)
		req.expires = got.receivedAt.Add(monitorPageLife)
	}
}

// readMonitors reads the body of a list of monitors, and counts the elements that are
// no usable monitor. The key is masked in what they say.
func readMonitors(body []byte, key string) (list []Monitor, unusable int, err error) {
	top, ok := object(body)
	if !ok {
		return nil, 0, errors.New("the body is not a JSON object")
	}
	found := false
	for name, value := range members(top) {
		switch string(name) {
		case "error":
			if !isNull(value) {
				return nil, 0, answeredError(value)
			}
		case "monitors":
			if found {
				return nil, 0, errors.New(`the body has more than one "monitors"`)
			}
			found = true
			if isNull(value) { // null is how a Go server writes an empty list
				continue
			}
			if value[0] != '[' {
				return nil, 0, errors.New(`"monitors" is not a list`)
			}
			for element := range elements(value) {
				switch m, ok := monitorOf(element, key); {
				case !ok:
					unusable++
				case len(list) <= MaxMonitors: // one more, so that it is seen that there are more
					list = append(list, m)
				}
			}
		}
	}
	if !found {
		return nil, 0, errors.New(`the body has no "monitors"`)
	}
	return list, unusable, nil
}

// monitorOf reads an element of the list, and reports whether it is a monitor.
func monitorOf(element []byte, key string) (Monitor, bool) {
	if element[0] != '{' {
		return Monitor{}, false
	}
	m := Monitor{Enabled: true}
	text := func(value []byte, most int) string {
		s, _ := stringValue(value)
		return Cut(clean(s, key), most)
	}
	for name, value := range members(element) {
		switch string(name) {
		case "id":
			m.ID, _ = stringValue(value)
		case "name":
			m.Name = text(value, 100)
		case "enabled":
			m.Enabled = value[0] != 'f'
		case "disabled_code":
			m.DisabledCode = text(value, 50)
		case "disabled_reason":
			m.DisabledReason = text(value, 200)
		}
	}
	return m, ValidID(m.ID)
}
