package dtmsim

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// monitorStates are the monitors of a list, over all its pages.
func (c client) monitorStates() (states string, pages int) {
	c.t.Helper()
	var all []string
	for path := "/dtm/monitors"; ; {
		r := c.get(path)
		pages++
		equal(c.t, "status", r.status, 200)
		var list struct{ Monitors []monitor }
		if err := json.Unmarshal([]byte(r.body), &list); err != nil {
			c.t.Fatal(err)
		}
		for _, m := range list.Monitors {
			switch {
			case m.Enabled && m.DisabledCode == "" && m.DisabledReason == "":
				all = append(all, m.ID+" on")
			case !m.Enabled && m.DisabledCode != "" && m.DisabledReason != "":
				all = append(all, m.ID+" off")
			default:
				all = append(all, m.ID+" ?")
			}
		}
		if r.next == "" {
			return strings.Join(all, ", "), pages
		}
		path = "/dtm/monitors?page=" + r.next
	}
}

func TestMonitorsChange(t *testing.T) {
	alerts := row(3)
	alerts[0].MonitorID, alerts[1].MonitorID, alerts[2].MonitorID = "m2", "m1", "m2"
	for page, pages := range map[int]int{0: 1, 1: 3, 2: 2, 3: 1, 4: 1} {
		s := New(Options{MonitorsPage: page}, alerts)
		c := newDirectClient(t, s)
		now := time.Now()
		s.ChangeMonitors(
			MonitorChange{"m1", now.Add(time.Hour), MonitorRemoved},
			MonitorChange{"m2", now, MonitorOn}, MonitorChange{"m2", now, MonitorOff},
			MonitorChange{"m3", now.Add(-time.Hour), MonitorRemoved}, MonitorChange{"m3", now.Add(-time.Minute), MonitorOn},
			MonitorChange{"m4", now.Add(time.Hour), MonitorOn}, MonitorChange{"m1", now.Add(-time.Hour), MonitorOff},
		)
		states, asked := c.monitorStates()
		equal(t, "now", states, "m1 off, m2 off, m3 on")
		equal(t, "pages", asked, pages)
		s.ChangeMonitors(MonitorChange{"m1", now, MonitorRemoved})
		states, _ = c.monitorStates()
		equal(t, "later", states, "m2 off, m3 on")
		equal(t, "lists of alerts", s.Stats().Pages, 0)
		equal(t, "requests", s.Stats().ByKind[Monitors], s.Stats().Requests)
	}
}

func TestMonitorsGoWrong(t *testing.T) {
	s := New(Options{LinkOnLastPage: true}, row(1))
	c := newDirectClient(t, s)
	s.ChangeMonitors(MonitorChange{"m", past, MonitorOn})
	r := c.get("/dtm/monitors")
	r = c.get("/dtm/monitors?page=" + r.next)
	equal(t, "an empty page with a link", r.body+r.next[:1], `{"monitors":[]}`+"\n"+r.next[:1])
	equal(t, "a token of no list", c.get("/dtm/monitors?page=x").status, 404)
	s.AddFault(Fault{Kind: Monitors, MalformedElement: "7", Times: 1})
	equal(t, "an element that is none", strings.HasPrefix(c.get("/dtm/monitors").body, `{"monitors":[7,{"id":"m",`), true)
	s.AddFault(Fault{Kind: Monitors, Status: 403})
	equal(t, "refused", c.get("/dtm/monitors").status, 403)
	equal(t, "and nothing else is", c.list("").status, 200)
}
