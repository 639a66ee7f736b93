package dtmsim

import (
	"cmp"
	"net/http"
	"slices"
	"time"
)

// MonitorState is what becomes of a monitor.
type MonitorState string

// States of a monitor.
const (
	MonitorOn      MonitorState = "on"
	MonitorOff     MonitorState = "off"     // GTI has disabled it
	MonitorRemoved MonitorState = "removed" // it is not in the list
)

// MonitorChange says what becomes of a monitor at a moment of the API's time. A monitor
// that no alert names is there by its changes alone. The alerts stay what they are.
type MonitorChange struct {
	ID    string
	At    time.Time
	State MonitorState
}

// ChangeMonitors adds changes to those that are there. Of changes at one moment the
// last counts.
func (s *Server) ChangeMonitors(changes ...MonitorChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.monitorChanges = append(s.monitorChanges, changes...)
	slices.SortStableFunc(s.monitorChanges, func(x, y MonitorChange) int { return x.At.Compare(y.At) })
}

type monitor struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
	// What GTI writes here is not documented (DTM API).
	DisabledCode   string `json:"disabled_code"`
	DisabledReason string `json:"disabled_reason"`
}

// monitorsAt are the monitors that the alerts and the changes name, ordered by their id.
func (s *Server) monitorsAt(now time.Time) []monitor {
	byID := map[string]monitor{}
	for _, r := range s.index.sorted {
		if a := r.latest(); a.MonitorID != "" && byID[a.MonitorID].ID == "" {
			byID[a.MonitorID] = monitor{ID: a.MonitorID, Name: a.MonitorName, Enabled: true}
		}
	}
	removed := map[string]bool{}
	for _, c := range s.monitorChanges {
		if c.At.After(now) {
			break
		}
		m := monitor{ID: c.ID, Name: byID[c.ID].Name, Enabled: c.State != MonitorOff}
		if !m.Enabled {
			m.DisabledCode, m.DisabledReason = "alert_volume", "The monitor found more alerts than a day may have."
		}
		byID[c.ID], removed[c.ID] = m, c.State == MonitorRemoved
	}
	list := []monitor{}
	for id, m := range byID {
		if !removed[id] {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(x, y monitor) int { return cmp.Compare(x.ID, y.ID) })
	return list
}

// monitors answers a page of the list of monitors.
func (s *Server) monitors(r *http.Request, f Fault, now time.Time) *answer {
	from, token := 0, r.URL.Query().Get("page")
	if token != "" {
		var ok bool
		if _, from, ok = s.tokens.take(token, now); !ok {
			return backendError(s.options.ExpiredStatus, "unknown page")
		}
	}
	list := s.monitorsAt(now)
	list = list[min(from, len(list)):]
	more := s.options.MonitorsPage > 0 && len(list) > s.options.MonitorsPage
	if more {
		list = list[:s.options.MonitorsPage]
	}
	elements := [][]byte{}
	for _, m := range list {
		elements = append(elements, mustJSON(m))
	}
	if f.MalformedElement != "" {
		elements = slices.Insert(elements, len(elements)/2, []byte(f.MalformedElement))
	}
	a := newAnswer(http.StatusOK, []byte(`{"monitors":[`))
	for i, e := range elements {
		if i > 0 {
			a.body = append(a.body, comma)
		}
		a.body = append(a.body, e)
	}
	a.body = append(a.body, listEnd)
	if more || s.options.LinkOnLastPage {
		next := s.tokens.give(&listing{query: query{life: s.options.DefaultLife}}, from+len(list), "", now)
		for _, value := range s.links(r, f, "monitors", next) {
			a.header.Add("Link", value)
		}
	}
	return a
}
