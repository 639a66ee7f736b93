package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// spaced are alerts that are so far apart, the last of them created so long ago.
func spaced(n int, apart, ago time.Duration) []dtmsim.Alert {
	alerts := make([]dtmsim.Alert, n)
	last := time.Now().UTC().Add(-ago).Truncate(time.Millisecond)
	for i := range alerts {
		alerts[i] = dtmsim.Alert{ID: fmt.Sprintf("alert-%03d", i), CreatedAt: last.Add(-time.Duration(n-1-i) * apart)}
	}
	return alerts
}

// saying makes the bytes of alerts say when they were created, but of those that
// say something else.
func saying(alerts []dtmsim.Alert) []dtmsim.Alert {
	for i, a := range alerts {
		if a.Body == nil {
			alerts[i].Body = body(a.ID, a.CreatedAt)
		}
		alerts[i].Slim = alerts[i].Body
	}
	return alerts
}

func body(id string, created time.Time) []byte {
	at := created.Format("2006-01-02T15:04:05.999Z07:00")
	return fmt.Appendf(nil, `{"id":%q,"created_at":%q,"updated_at":%q,"status":"new","alert_type":"Paste"}`, id, at, at)
}

// TestAnErrorWithStatus200 is no list without alerts, and no alert that is unknown.
func TestAnErrorWithStatus200(t *testing.T) {
	t.Parallel()
	alerts := saying(spaced(20, time.Minute, time.Hour))
	w := newWorld(t, dtmsim.Options{}, alerts)
	p := w.start()
	for _, instead := range []dtmsim.Instead{dtmsim.InsteadError, dtmsim.InsteadNull, dtmsim.InsteadObject, dtmsim.InsteadList} {
		w.sim.AddFault(dtmsim.Fault{Kind: dtmsim.List, Instead: instead, Times: 1})
	}
	if status, r := p.post(""); status != http.StatusOK || r.Published != len(alerts) {
		t.Errorf("the live feed: %d %+v", status, r)
	}
	w.check(alerts)
	// A change that the sweep is told of in the same way.
	w.sim.ClearFaults()
	w.sim.Update(alerts[3].ID, func(a *dtmsim.Alert) { a.Status = "closed" })
	w.sim.AddFault(dtmsim.Fault{Kind: dtmsim.List, Instead: dtmsim.InsteadError, Times: 1, When: func(r *http.Request) bool {
		return r.URL.Query().Get("sort") == "updated_at"
	}})
	if status, r := p.post(""); status != http.StatusOK || r.StatusChanged != 1 {
		t.Errorf("the sweep: %d %+v", status, r)
	}
}

// TestAListWithoutEnd costs a few requests.
func TestAListWithoutEnd(t *testing.T) {
	t.Parallel()
	alerts := saying(spaced(300, time.Second, time.Hour))
	w := newWorld(t, dtmsim.Options{}, alerts)
	w.env["MAX_CONCURRENCY"] = "1"
	p := w.start()
	pages := 0
	w.sim.AddFault(dtmsim.Fault{Kind: dtmsim.Page, Again: true, When: func(*http.Request) bool { pages++; return pages > 1 }})
	if status, r := p.post(""); status != http.StatusOK || r.Outcome != "ok" || r.Requests > 12 || r.Published != len(alerts) {
		t.Errorf("%d %+v", status, r)
	}
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

// TestAClockThatIsAhead: GTI's time is an hour earlier than this machine's, and an
// hour later it is right. What is created meanwhile comes.
func TestAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	alerts := saying(spaced(180, time.Minute, 2*time.Minute))
	w := newWorld(t, dtmsim.Options{Clock: -time.Hour}, alerts)
	p := w.start()
	status, r := p.post("")
	if status != http.StatusOK || r.Published < 100 || r.Published > 125 {
		t.Errorf("an hour ahead: %d %+v", status, r)
	}
	var stands struct{ Position time.Time }
	_, text := p.do(http.MethodGet, "/status", "")
	if err := json.Unmarshal(text, &stands); err != nil || stands.Position.IsZero() || stands.Position.After(time.Now().Add(-time.Hour)) {
		t.Errorf("the position is %v, and GTI's time was an hour before %v: %v", stands.Position, time.Now(), err)
	}
	// GTI tells its time in whole seconds, and the answer may take its time: what the
	// log says is an hour within a second, and less when the machine is busy.
	told := regexp.MustCompile(`"event":"clock".*"ahead_seconds":(\d+)[,}]`).FindAllStringSubmatch(w.log(), -1)
	if len(told) != 1 || len(told[0][1]) != 4 || told[0][1] < "3000" || told[0][1] > "3601" {
		t.Errorf("it is told as:\n%s", w.log())
	}
	w.sim = dtmsim.New(dtmsim.Options{Key: apiKey}, alerts)
	w.finish(p)
	if repeated := w.check(alerts); repeated != 0 {
		t.Errorf("%d alerts came more than once", repeated)
	}
}

// TestOutOfPlace: an alert that stands elsewhere than its created_at says is
// published like any other, and holds up nothing.
func TestOutOfPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		options dtmsim.Options
		change  func(alerts []dtmsim.Alert)
	}{
		{"an hour late, since looks at its place", dtmsim.Options{}, func(alerts []dtmsim.Alert) { displace(&alerts[150], -time.Hour) }},
		{"an hour early, since looks at its place", dtmsim.Options{}, func(alerts []dtmsim.Alert) { displace(&alerts[150], time.Hour) }},
		{"an hour early, since looks at created_at", dtmsim.Options{}, func(alerts []dtmsim.Alert) {
			alerts[150].Place = alerts[150].CreatedAt.Add(-time.Hour)
		}},
		{"sorted to the second", dtmsim.Options{Coarse: time.Second, Ties: dtmsim.TiesShuffled}, func(alerts []dtmsim.Alert) {
			for i := range alerts {
				alerts[i].CreatedAt = alerts[0].CreatedAt.Add(time.Duration(i) * 130 * time.Millisecond)
			}
		}},
		{"two 5 ms the wrong way round on the last page", dtmsim.Options{}, func(alerts []dtmsim.Alert) {
			last := len(alerts) - 1
			alerts[last].Place = alerts[last-1].CreatedAt.Add(-time.Millisecond)
			alerts[last].CreatedAt = alerts[last-1].CreatedAt.Add(5 * time.Millisecond)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			alerts := spaced(300, 90*time.Second, time.Hour)
			c.change(alerts)
			saying(alerts)
			w := newWorld(t, c.options, alerts)
			p := w.start()
			for range 2 {
				if status, r := p.post(""); status != http.StatusOK || r.Outcome != "ok" {
					t.Errorf("%d %+v", status, r)
				}
			}
			if repeated := w.check(alerts); repeated != 0 {
				t.Errorf("%d alerts came more than once", repeated)
			}
			status, b := p.backfill(http.MethodPost, "", `{"since":"20h","republish":true}`)
			if status != http.StatusOK || b.State != "done" || b.Published < len(alerts)-1 {
				t.Errorf("a backfill: %d %+v", status, b)
			}
		})
	}
}

// displace gives an alert another created_at than the one by which it is listed.
func displace(a *dtmsim.Alert, by time.Duration) { a.Body = body(a.ID, a.CreatedAt.Add(by)) }

// TestNoJSON: one element of a list that can't be read is rejected once, and the
// others come.
func TestNoJSON(t *testing.T) {
	t.Parallel()
	for i, element := range dtmsim.BrokenElements() {
		t.Run(fmt.Sprint("element ", i), func(t *testing.T) {
			t.Parallel()
			alerts := saying(spaced(60, time.Minute, time.Hour))
			broken := alerts[37]
			broken.Raw = []byte(element)
			w := newWorld(t, dtmsim.Options{}, append(slices.Delete(slices.Clone(alerts), 37, 38), broken))
			p := w.start()
			requests := 0
			for range 3 {
				status, r := p.post("")
				if status != http.StatusOK || r.Outcome != "ok" {
					t.Errorf("%d %+v", status, r)
				}
				requests = max(requests, r.Requests)
			}
			w.check(slices.Delete(alerts, 37, 38))
			await(t, "the rejected element", func() bool {
				w.sub.mu.Lock()
				defer w.sub.mu.Unlock()
				return len(w.sub.rejects) > 0
			})
			w.sub.mu.Lock()
			defer w.sub.mu.Unlock()
			if len(w.sub.rejects) != 1 || string(w.sub.rejects[0].Data) != element {
				t.Errorf("%d elements are rejected", len(w.sub.rejects))
			}
			if requests > 12 {
				t.Errorf("a run takes %d requests", requests)
			}
		})
	}
}
