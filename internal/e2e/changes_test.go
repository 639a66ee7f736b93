package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// old makes alerts of weeks ago, beside those of the last hours.
func old(seed uint64, n int) []dtmsim.Alert {
	now := time.Now().UTC()
	shape := dtmsim.Typical()
	shape.Late, shape.Rewritten, shape.Closed = 0, 0, 0
	return dtmsim.Generate(seed, n, now.Add(-20*24*time.Hour), now.Add(-3*24*time.Hour), shape)
}

// other is a status that a has not.
func other(a dtmsim.Alert) string {
	if a.Status == "closed" {
		return "read"
	}
	return "closed"
}

// TestChangesSinceTheLastSweep: 2,000 changes are found with the pages that they
// take and two requests, each is published as what it is, and what is from
// before the feed began is left alone.
func TestChangesSinceTheLastSweep(t *testing.T) {
	t.Parallel()
	alerts, before := recent(31, 2500), old(32, 500)
	w := newWorld(t, dtmsim.Options{LogSize: 1 << 14, Latency: 2 * time.Millisecond}, append(slices.Clone(alerts), before...))
	w.env["OVERLAP"] = "1ms"
	p := w.start()
	w.finish(p)

	changed := map[string]string{}
	for i, a := range alerts[:2000] {
		if i%4 == 0 {
			w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Set("ai_doc_summary", "new") })
			continue
		}
		changed[a.ID] = a.Status
		w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Status = other(*a) })
	}
	for _, a := range before[:20] {
		w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Status = other(*a) })
	}
	asked := w.sim.Stats().Requests
	status, r := p.post("")
	if status != http.StatusOK || r.Outcome != "ok" || r.StatusChanged != 1500 || r.Updated != 500 || r.Created != 0 || r.LeftAlone != 20 {
		t.Errorf("%d %+v", status, r)
	}
	// One for the live feed, and 2,020 changes in pages of 100.
	requests := w.sim.Stats().Requests - asked - 1
	t.Logf("%d requests for 2,020 changes: %.3f × the 21 pages", requests, float64(requests)/21)
	if limit := 21*1.05 + 2; float64(requests) > limit {
		t.Errorf("%d requests, want at most %.0f", requests, limit)
	}
	await(t, "the changes in the subscription", func() bool { return w.sub.total.Load() >= 4500 })
	w.sub.mu.Lock()
	for _, copies := range w.sub.alerts {
		a := copies[0].Attributes
		if len(copies) > 1 {
			t.Errorf("%s came %d times", a["dedupe_key"], len(copies))
		}
		if was, ok := changed[a["alert_id"]]; ok && a["event"] == "status_changed" && a["previous_status"] != was {
			t.Errorf("%s was %s, and previous_status is %s", a["alert_id"], was, a["previous_status"])
		}
	}
	w.sub.mu.Unlock()

	w.finish(p) // what was changed within the overlap is looked at once more
	calls := w.store.calls()
	if _, r := p.post(""); r.Published != 0 || r.Requests != 2 {
		t.Errorf("a run with nothing new: %+v", r)
	}
	if n := w.store.calls() - calls; n > 4 {
		t.Errorf("a run with nothing new calls Firestore %d times", n)
	}
}

// TestTimeline: GET /alerts/{id} tells every status with its time and origin.
func TestTimeline(t *testing.T) {
	t.Parallel()
	alerts := recent(33, 50)
	w := newWorld(t, dtmsim.Options{}, alerts)
	p := w.start()
	w.finish(p)
	first := other(alerts[3])
	for _, s := range []string{first, "escalated"} {
		w.sim.Update(alerts[3].ID, func(a *dtmsim.Alert) { a.Status = s })
		w.finish(p)
	}
	_, text := p.do(http.MethodGet, "/alerts/"+alerts[3].ID, "")
	var timeline struct {
		Status   string
		Statuses []struct{ Status, Origin string }
		Versions []struct{ Event, Outcome string }
	}
	if err := json.Unmarshal(text, &timeline); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("{escalated [{%s gti} {%s gti} {escalated gti}] [{created published} {status_changed published} {status_changed published}]}", alerts[3].Status, first)
	if got := fmt.Sprint(timeline); got != want {
		t.Errorf("the timeline is %s, want %s", got, want)
	}
}

// TestSinceRefused: where the API refuses to look back as far as UPDATES_WINDOW,
// the sweep looks as far as it is known to answer, and says so.
func TestSinceRefused(t *testing.T) {
	t.Parallel()
	alerts := recent(34, 50)
	w := newWorld(t, dtmsim.Options{SinceMaxAge: 120 * time.Hour, SinceTooOld: dtmsim.Reject}, alerts)
	p := w.start()
	w.finish(p)
	w.finish(p) // the first sweep
	w.sim.Update(alerts[3].ID, func(a *dtmsim.Alert) { a.Status = other(*a) })
	if runs := w.finish(p); runs[0].StatusChanged != 1 || runs[0].Errors != 0 {
		t.Errorf("%+v", runs)
	}
	if n := w.sim.Stats().Errors; n != 1 {
		t.Errorf("the refusal was earned %d times", n)
	}
	_, text := p.do(http.MethodGet, "/status", "")
	var status struct {
		LastSweep time.Time `json:"last_sweep"`
		Reaches   time.Time `json:"sweep_reaches_back_to"`
	}
	if err := json.Unmarshal(text, &status); err != nil {
		t.Fatal(err)
	}
	if back := status.LastSweep.Sub(status.Reaches); back < 119*time.Hour || back > 120*time.Hour {
		t.Errorf("the sweep reaches %s back: %s", back, text)
	}
}

// TestComesToMatch: with a filter on what changes, an alert is published as
// created, with its document, once it comes to match.
func TestComesToMatch(t *testing.T) {
	t.Parallel()
	alerts, before := recent(35, 300), old(36, 100)
	all := append(slices.Clone(alerts), before...)
	w := newWorld(t, dtmsim.Options{LogSize: 1 << 14}, all)
	for _, a := range all {
		w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Status = "new" })
	}
	w.env["DTM_FILTER"], w.env["DTM_REFS"] = `{"status":["escalated"]}`, "true"
	p := w.start()
	w.finish(p)
	for _, a := range []dtmsim.Alert{alerts[0], alerts[150], alerts[299], before[5]} {
		w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Status = "escalated" })
	}
	w.sim.Update(alerts[7].ID, func(a *dtmsim.Alert) { a.Status = "closed" })
	runs := w.finish(p)
	if r := runs[0]; r.Created != 3 || r.Published != 3 {
		t.Errorf("%+v", r)
	}
	// It no longer matches, but is known: its changes are published all the same.
	w.sim.Update(alerts[0].ID, func(a *dtmsim.Alert) { a.Status = "closed" })
	runs = w.finish(p)
	if r := runs[0]; r.StatusChanged != 1 || r.Published != 1 {
		t.Errorf("%+v", r)
	}
	await(t, "4 messages", func() bool { return w.sub.total.Load() == 4 })
	w.sub.mu.Lock()
	defer w.sub.mu.Unlock()
	for _, copies := range w.sub.alerts {
		a := copies[0].Attributes
		if bare := a["refs"] == "false"; bare != (a["event"] == "status_changed") && w.hasDoc(a["alert_id"]) {
			t.Errorf("%s as %s: refs is %q", a["alert_id"], a["event"], a["refs"])
		}
	}
	// And the listing is asked with what never changes of the filter, and with all of it.
	seen := map[string]bool{}
	for _, r := range w.sim.Requests() {
		if r.Query.Get("sort") == "updated_at" {
			seen[r.Query.Get("status")+" "+r.Query.Get("refs")] = true
		}
	}
	if !seen[" false"] || !seen["escalated false"] || len(seen) != 2 {
		t.Errorf("the sweep asked for %v", seen)
	}
}

func (w *world) hasDoc(id string) bool {
	found, err := w.sim.Visible(time.Now(), url.Values{})
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(found, func(a dtmsim.Alert) bool { return a.ID == id })
	return i >= 0 && strings.Contains(string(found[i].Element(true, false)), `"doc":`)
}

// TestSweepOutOfTime: what a sweep can't read in its run becomes a backfill, and
// no change is lost.
func TestSweepOutOfTime(t *testing.T) {
	t.Parallel()
	alerts := recent(37, 1500)
	w := newWorld(t, dtmsim.Options{LogSize: 1 << 14}, alerts)
	p := w.start()
	w.finish(p)
	p.kill()
	for _, a := range alerts[:1200] {
		w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Status = other(*a) })
	}
	var pages atomic.Int32
	w.sim.AddFault(dtmsim.Fault{Kind: dtmsim.Page, Hang: true, When: func(*http.Request) bool { return pages.Add(1) > 2 }})
	p = w.start("RUN_BUDGET=20s")
	_, r := p.post("")
	if r.Outcome != "partial" || r.StopReason != "budget" {
		t.Fatalf("%+v", r)
	}
	_, text := p.do(http.MethodGet, "/status", "")
	var status struct {
		Backfills []struct{ ID, State string }
	}
	if err := json.Unmarshal(text, &status); err != nil || len(status.Backfills) != 1 || !strings.HasPrefix(status.Backfills[0].ID, "sweep-") {
		t.Fatalf("status: %s", text)
	}
	p.kill()
	w.sim.ClearFaults()
	p = w.start()
	w.finish(p)
	await(t, "1,200 changes", func() bool { return w.sub.total.Load() >= 2700 })
	w.sub.mu.Lock()
	if n := len(w.sub.alerts); n != 2700 {
		t.Errorf("%d versions were published, want 2,700", n)
	}
	w.sub.mu.Unlock()
	_, text = p.do(http.MethodGet, "/backfill/"+status.Backfills[0].ID, "")
	var b struct{ State, Kind string }
	if err := json.Unmarshal(text, &b); err != nil || b.State != "done" || b.Kind != "changes" {
		t.Errorf("the backfill: %s", text)
	}
}

// TestChangedFilter is stored, logged, and shown with the backfill that would
// cover the past; when that is done, it is shown no more.
func TestChangedFilter(t *testing.T) {
	t.Parallel()
	alerts := recent(38, 200)
	w := newWorld(t, dtmsim.Options{}, alerts)
	p := w.start(`DTM_FILTER={"severity":["high"]}`)
	w.finish(p)
	p.kill()
	p = w.start(`DTM_FILTER={}`)
	w.finish(p)
	past := func() (spans []struct{ Since, Until time.Time }) {
		_, text := p.do(http.MethodGet, "/status", "")
		var status struct {
			Past []struct{ Since, Until time.Time } `json:"filter_past"`
		}
		if err := json.Unmarshal(text, &status); err != nil {
			t.Fatal(err)
		}
		return status.Past
	}
	spans := past()
	if len(spans) != 1 || strings.Count(w.log(), `"event":"filter"`) != 1 {
		t.Fatalf("shown: %v", spans)
	}
	body := fmt.Sprintf(`{"since":%q,"until":%q}`, spans[0].Since.Format(time.RFC3339Nano), spans[0].Until.Format(time.RFC3339Nano))
	if status, text := p.do(http.MethodPost, "/backfill", body); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if spans := past(); len(spans) != 0 {
		t.Errorf("still shown: %v", spans)
	}
	w.check(alerts)
}
