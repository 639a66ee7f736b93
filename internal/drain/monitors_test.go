package drain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// looks is a feed whose monitors are looked at once a day.
type looks struct {
	t     *testing.T
	store state.Store
	sim   *dtmsim.Server
	log   bytes.Buffer
}

func newLooks(t *testing.T, o dtmsim.Options) *looks {
	t.Helper()
	now := time.Now()
	l := &looks{t: t, store: newStore(t)}
	l.sim = dtmsim.New(o, nil)
	for _, id := range []string{"m1", "m2", "m3"} {
		l.sim.ChangeMonitors(dtmsim.MonitorChange{ID: id, At: now, State: dtmsim.MonitorOn})
	}
	return l
}

// run is a run, and what it tells of monitors, a line each.
func (l *looks) run(change func(*Runner)) (told []string) {
	l.t.Helper()
	l.log.Reset()
	r := newRun(l.t, l.store, l.sim.RoundTripper(), &topic{})
	r.Log = slog.New(slog.NewJSONHandler(&l.log, nil))
	r.Options.MonitorsCheck = 24 * time.Hour
	if change != nil {
		change(r)
	}
	if report, err := r.Live(l.t.Context(), "schedule", false); err != nil || report.Outcome != OK {
		l.t.Fatalf("the run ends as %s: %v", report.Outcome, err)
	}
	for text := range strings.Lines(l.log.String()) {
		var line struct{ Level, Event, ID, Code, Error string }
		var code struct {
			Code string `json:"disabled_code"`
		}
		if err := errors.Join(json.Unmarshal([]byte(text), &line), json.Unmarshal([]byte(text), &code)); err != nil {
			l.t.Fatal(err)
		}
		if strings.HasPrefix(line.Event, "monitor") {
			told = append(told, strings.TrimSpace(fmt.Sprintln(line.Level, line.Event, line.ID, code.Code)))
		}
	}
	return told
}

func (l *looks) change(id string, s dtmsim.MonitorState) {
	l.sim.ChangeMonitors(dtmsim.MonitorChange{ID: id, At: time.Now(), State: s})
}

func (l *looks) asked() int { return l.sim.Stats().ByKind[dtmsim.Monitors] }

func (l *looks) stored() state.Monitors {
	l.t.Helper()
	found, err := l.store.Open(l.t.Context(), "f", "")
	if err != nil {
		l.t.Fatal(err)
	}
	return found.Feed.Monitors
}

func (l *looks) want(what string, got []string, want ...string) {
	l.t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		l.t.Errorf("%s (-want +got)\n%s", what, diff)
	}
}

// TestAMonitorGoesOff: it is told within one check, once, and so is its return; a
// quiet run asks for nothing but the alerts.
func TestAMonitorGoesOff(t *testing.T) {
	for _, pages := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d a page", pages), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLooks(t, dtmsim.Options{MonitorsPage: pages})
				l.want("the first look", l.run(nil))
				each := l.asked()
				if want := max(1, 3*pages); each != want || len(l.stored().Enabled) != 3 {
					t.Errorf("%d requests, want %d: %+v", each, want, l.stored())
				}
				time.Sleep(time.Hour)
				l.change("m2", dtmsim.MonitorOff)
				wentOff := time.Now()
				for time.Since(wentOff) < 22*time.Hour {
					l.want("before it is time", l.run(nil))
					time.Sleep(time.Hour)
				}
				if l.asked() != each {
					t.Errorf("%d requests before it was time", l.asked()-each)
				}
				time.Sleep(time.Hour)
				l.want("after a day", l.run(nil), "ERROR monitor_disabled m2 alert_volume")
				since := l.stored().Disabled[0].Since
				if len(l.stored().Enabled) != 2 || !since.Equal(l.stored().CheckedAt) {
					t.Errorf("stored: %+v", l.stored())
				}
				l.change("m1", dtmsim.MonitorRemoved)
				time.Sleep(24 * time.Hour)
				l.want("another is gone", l.run(nil), "ERROR monitor_disabled m1 gone")
				if m := l.stored().Disabled; len(m) != 2 || !m[0].Since.Equal(since) {
					t.Errorf("stored: %+v", m)
				}
				l.change("m1", dtmsim.MonitorOn)
				l.change("m2", dtmsim.MonitorOn)
				time.Sleep(24 * time.Hour)
				l.want("back", l.run(nil), "INFO monitor_enabled m1", "INFO monitor_enabled m2")
				if m := l.stored(); len(m.Enabled) != 3 || len(m.Disabled) > 0 {
					t.Errorf("stored: %+v", m)
				}
			})
		})
	}
}

// TestMonitorsThatCannotBeLookedAt: it costs one answer, fails no run, and is not
// asked for again at once.
func TestMonitorsThatCannotBeLookedAt(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault dtmsim.Fault
		again time.Duration
	}{
		{"403", dtmsim.Fault{Status: 403}, 24 * time.Hour},
		{"404", dtmsim.Fault{Status: 404}, 24 * time.Hour},
		{"404 of a proxy", dtmsim.Fault{Status: 404, HTML: true}, 24 * time.Hour},
		{"401", dtmsim.Fault{Status: 401}, time.Hour},
		{"429 of the quota", dtmsim.Fault{Status: 429, Body: dtmsim.QuotaExceeded}, time.Hour},
		{"400", dtmsim.Fault{Status: 400}, time.Hour},
		{"500", dtmsim.Fault{Status: 500}, time.Hour},
		{"an error in place of the list", dtmsim.Fault{Instead: dtmsim.InsteadError}, time.Hour},
		{"half a list", dtmsim.Fault{Truncate: 20}, time.Hour},
		{"no answer", dtmsim.Fault{Hang: true}, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLooks(t, dtmsim.Options{})
				l.run(nil)
				before := l.stored()
				c.fault.Kind = dtmsim.Monitors
				l.sim.AddFault(c.fault)
				time.Sleep(24 * time.Hour)
				l.want("the look", l.run(nil), "WARN monitors")
				time.Sleep(c.again - time.Minute)
				l.want("before it is time again", l.run(nil))
				if n := l.asked(); n != 2 {
					t.Errorf("%d requests, want one that is answered and one that isn't", n)
				}
				if diff := cmp.Diff(before, l.stored(), cmpopts.IgnoreFields(state.Monitors{}, "FailedAt", "Wait")); diff != "" {
					t.Errorf("what was known before is changed\n%s", diff)
				}
				l.sim.ClearFaults()
				l.change("m3", dtmsim.MonitorOff)
				time.Sleep(time.Minute)
				l.want("the next look", l.run(nil), "ERROR monitor_disabled m3 alert_volume")
				if m := l.stored(); !m.FailedAt.IsZero() || m.Wait != 0 {
					t.Errorf("stored: %+v", m)
				}
			})
		})
	}
}

// TestMonitorsWithoutBudget: what is left is for the live feed. The next run looks.
func TestMonitorsWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooks(t, dtmsim.Options{})
		l.want("no budget", l.run(func(r *Runner) {
			r.MonitorsAPI = newRunWith(t, l, dtm.Share{Errors: 35, Requests: 0})
		}))
		if n := l.asked(); n != 0 || !l.stored().FailedAt.IsZero() {
			t.Errorf("%d requests: %+v", n, l.stored())
		}
		time.Sleep(time.Minute)
		l.run(nil)
		if n := l.asked(); n != 1 || l.stored().CheckedAt.IsZero() {
			t.Errorf("%d requests: %+v", n, l.stored())
		}
	})
}

// newRunWith is a session with a share of its own.
func newRunWith(t *testing.T, l *looks, share dtm.Share) MonitorLister {
	t.Helper()
	c, err := dtm.New(dtm.Options{
		BaseURL: "https://gti.example/api/v3", ToolName: "t", UserAgent: "t", Keys: key{}, Meter: dtm.NewMeter(1000), Concurrency: 2, QPS: 100,
		Transport: l.sim.RoundTripper(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c.Session(share).Once()
}

// lossy is a database that loses what a run writes after it has taken the lease.
type lossy struct{ state.Store }

func (s lossy) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (state.Revision, error) {
	if f.Write > 1 {
		<-ctx.Done()
		return "", context.Cause(ctx)
	}
	return s.Store.WriteFeed(ctx, feed, f, v)
}

// TestAMonitorIsToldAgain rather than never: a run that dies before it has stored the
// look leaves it to the next one.
func TestAMonitorIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooks(t, dtmsim.Options{})
		l.run(nil)
		l.change("m1", dtmsim.MonitorOff)
		time.Sleep(24 * time.Hour)
		r := newRun(t, lossy{l.store}, l.sim.RoundTripper(), &topic{})
		l.log.Reset()
		r.Log, r.Options.MonitorsCheck = slog.New(slog.NewJSONHandler(&l.log, nil)), 24*time.Hour
		if report, err := r.Live(t.Context(), "schedule", false); err == nil || !strings.Contains(l.log.String(), `"id":"m1"`) {
			t.Fatalf("the run ends as %s: %v\n%s", report.Outcome, err, &l.log)
		}
		time.Sleep(2 * time.Minute)
		l.want("the next run", l.run(nil), "ERROR monitor_disabled m1 alert_volume")
	})
}

// TestWhoLooksAtMonitors: nobody without MONITORS_CHECK, and no dry run.
func TestWhoLooksAtMonitors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooks(t, dtmsim.Options{})
		l.change("m1", dtmsim.MonitorOff)
		l.want("off", l.run(func(r *Runner) { r.Options.MonitorsCheck, r.MonitorsAPI = 0, nil }))
		r := newRun(t, l.store, l.sim.RoundTripper(), &topic{})
		r.Options.MonitorsCheck = time.Hour
		if report, err := r.Live(t.Context(), "schedule", true); err != nil {
			t.Errorf("the dry run ends as %s: %v", report.Outcome, err)
		}
		if n := l.asked(); n > 0 {
			t.Errorf("%d requests", n)
		}
		l.want("the first look", l.run(nil), "WARN monitor_disabled m1 alert_volume")
		l.want("the second", l.run(func(r *Runner) { r.Options.MonitorsCheck = 1 }))
	})
}

// TestALookWritesNothingMore: it is stored with what is written anyway.
func TestALookWritesNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooks(t, dtmsim.Options{})
		l.run(nil)
		writes := func() int64 {
			found, err := l.store.Open(t.Context(), "f", "")
			if err != nil {
				t.Fatal(err)
			}
			return found.Feed.Write
		}
		time.Sleep(time.Minute)
		l.run(nil)
		quiet := writes()
		time.Sleep(24 * time.Hour)
		l.run(func(r *Runner) { r.Options.AuditWindow = 0 })
		if l.asked() != 2 || writes() != quiet {
			t.Errorf("%d looks; %d writes with the second, and %d without", l.asked(), writes(), quiet)
		}
	})
}

// TestALookBesideTheAlerts: a worker that has nothing to do looks, and the run takes as
// long as without. A look that the run's end cuts short says nothing.
func TestALookBesideTheAlerts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := func(alerts int, f dtmsim.Fault, change func(*Options)) (took time.Duration, l *looks) {
			var served []dtmsim.Alert
			for i := range alerts {
				created := time.Now().Add(-time.Hour + time.Duration(i)*55*time.Minute/time.Duration(alerts))
				served = append(served, dtmsim.Alert{ID: fmt.Sprint("a", i), Type: "Message", Status: "new", CreatedAt: created})
			}
			l = &looks{t: t, store: newStore(t), sim: dtmsim.New(dtmsim.Options{Latency: time.Second}, served)}
			f.Kind = dtmsim.Monitors
			l.sim.AddFault(f)
			r := newRun(t, l.store, l.sim.RoundTripper(), &topic{})
			r.Log = slog.New(slog.NewJSONHandler(&l.log, nil))
			change(&r.Options)
			began := time.Now()
			if report, err := r.Live(t.Context(), "schedule", false); err != nil {
				t.Fatalf("the run ends as %s: %v", report.Outcome, err)
			}
			return time.Since(began), l
		}
		late := dtmsim.Fault{Delay: time.Second}
		for _, alerts := range []int{10, 90} { // one page; four, which one worker reads
			without, _ := first(alerts, late, func(*Options) {})
			took, l := first(alerts, late, func(o *Options) { o.MonitorsCheck = time.Hour })
			want := without
			if alerts == 10 {
				want += time.Second // nobody can look before the only answer shows that the key is good
			}
			if l.asked() != 1 || l.stored().CheckedAt.IsZero() || took != want {
				t.Errorf("%d alerts: %d looks in %s, want one in %s", alerts, l.asked(), took, want)
			}
		}
		_, l := first(90, dtmsim.Fault{Hang: true}, func(o *Options) { o.MonitorsCheck, o.MaxAlerts = time.Hour, 60 })
		if l.asked() != 1 || !l.stored().FailedAt.IsZero() || strings.Contains(l.log.String(), "WARN") {
			t.Errorf("%d looks, %+v:\n%s", l.asked(), l.stored(), &l.log)
		}
	})
}

func TestCompareMonitors(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	long := now.Add(-40 * 24 * time.Hour)
	on := func(ids ...string) (all []state.Monitor) {
		for _, id := range ids {
			all = append(all, state.Monitor{ID: id, Name: "the " + id})
		}
		return all
	}
	off := func(id, code string, since time.Time) state.DisabledMonitor {
		m := state.DisabledMonitor{Monitor: state.Monitor{ID: id, Name: "the " + id}, Code: code, Reason: "much", Since: since}
		if code == state.MonitorGone {
			m.Reason = "GTI lists it no more"
		}
		return m
	}
	isOn := func(id string) dtm.Monitor { return dtm.Monitor{ID: id, Name: "the " + id, Enabled: true} }
	isOff := func(id string) dtm.Monitor {
		return dtm.Monitor{ID: id, Name: "the " + id, DisabledCode: "c", DisabledReason: "much"}
	}
	nameless := off("a", state.MonitorGone, now)
	nameless.Name = ""
	for _, c := range []struct {
		name      string
		before    state.Monitors
		list      []dtm.Monitor
		some      bool // the list is not complete
		named     []string
		enabled   []state.Monitor
		disabled  []state.DisabledMonitor
		news      string
		newsSince time.Time
	}{
		{name: "none"},
		{name: "new ones are no news", list: []dtm.Monitor{isOn("a"), isOn("b")}, enabled: on("a", "b")},
		{name: "off at the first look", list: []dtm.Monitor{isOn("a"), isOff("b")}, enabled: on("a"), disabled: []state.DisabledMonitor{off("b", "c", now)}, news: "WARN b"},
		{name: "… and named", list: []dtm.Monitor{isOff("a"), isOff("b")}, named: []string{"b"}, disabled: []state.DisabledMonitor{off("b", "c", now)}, news: "ERROR b"},
		{name: "named and not there", list: []dtm.Monitor{isOn("b")}, named: []string{"a", "b"}, enabled: on("b"), disabled: []state.DisabledMonitor{nameless}, news: "ERROR a"},
		{name: "named and not there, perhaps", list: []dtm.Monitor{isOn("b")}, some: true, named: []string{"a", "b"}, enabled: on("b")},
		{name: "goes off", before: state.Monitors{Enabled: on("a", "b")}, list: []dtm.Monitor{isOff("a"), isOn("b")}, enabled: on("b"), disabled: []state.DisabledMonitor{off("a", "c", now)}, news: "ERROR a"},
		{name: "stays off", before: state.Monitors{Disabled: []state.DisabledMonitor{off("a", "old", long)}}, list: []dtm.Monitor{isOff("a")}, disabled: []state.DisabledMonitor{off("a", "c", long)}},
		{name: "comes back", before: state.Monitors{Disabled: []state.DisabledMonitor{off("a", "c", long)}}, list: []dtm.Monitor{isOn("a")}, enabled: on("a"), news: "INFO a", newsSince: long},
		{name: "is gone", before: state.Monitors{Enabled: on("a", "b")}, list: []dtm.Monitor{isOn("b")}, enabled: on("b"), disabled: []state.DisabledMonitor{off("a", state.MonitorGone, now)}, news: "ERROR a"},
		{name: "stays gone", before: state.Monitors{Disabled: []state.DisabledMonitor{off("a", state.MonitorGone, now.Add(-time.Hour))}}, disabled: []state.DisabledMonitor{off("a", state.MonitorGone, now.Add(-time.Hour))}},
		{name: "is forgotten", before: state.Monitors{Disabled: []state.DisabledMonitor{off("a", state.MonitorGone, long)}}},
		{name: "is named, and not forgotten", before: state.Monitors{Disabled: []state.DisabledMonitor{off("a", state.MonitorGone, long)}}, named: []string{"a"}, disabled: []state.DisabledMonitor{off("a", state.MonitorGone, long)}},
		{name: "off, then removed", before: state.Monitors{Disabled: []state.DisabledMonitor{off("a", "c", now.Add(-time.Hour))}}, disabled: []state.DisabledMonitor{off("a", state.MonitorGone, now.Add(-time.Hour))}},
		{name: "gone, then off", before: state.Monitors{Disabled: []state.DisabledMonitor{off("a", state.MonitorGone, long)}}, list: []dtm.Monitor{isOff("a")}, disabled: []state.DisabledMonitor{off("a", "c", long)}},
		{
			name: "some of the list", before: state.Monitors{Enabled: on("a", "b"), Disabled: []state.DisabledMonitor{off("d", "c", long)}}, list: []dtm.Monitor{isOff("b")}, some: true,
			enabled: on("a"), disabled: []state.DisabledMonitor{off("b", "c", now), off("d", "c", long)}, news: "ERROR b",
		},
		{name: "another filter", before: state.Monitors{Enabled: on("a", "b")}, list: []dtm.Monitor{isOff("a"), isOn("b")}, named: []string{"b"}, enabled: on("b")},
	} {
		t.Run(c.name, func(t *testing.T) {
			after, news := compareMonitors(c.before, c.list, !c.some, c.named, now)
			if diff := cmp.Diff(state.Monitors{CheckedAt: now, Enabled: c.enabled, Disabled: c.disabled}, after, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			var told []string
			for _, n := range news {
				told = append(told, n.level.String()+" "+n.monitor.ID)
				if !c.newsSince.IsZero() && !n.monitor.Since.Equal(c.newsSince) {
					t.Errorf("told with %s", n.monitor.Since)
				}
			}
			if got := strings.Join(told, ", "); got != c.news {
				t.Errorf("told %q, want %q", got, c.news)
			}
			// Nothing is told twice.
			if _, again := compareMonitors(after, c.list, !c.some, c.named, now.Add(time.Hour)); len(again) > 0 {
				t.Errorf("told again: %v", again)
			}
		})
	}
}

// TestStoredMonitorsAreBounded: the feed's document has 1 MiB at most.
func TestStoredMonitorsAreBounded(t *testing.T) {
	var m state.Monitors
	for day := range 10 {
		list := make([]dtm.Monitor, dtm.MaxMonitors)
		for i := range list {
			list[i] = dtm.Monitor{
				ID: fmt.Sprintf("%0*d", 128, 1000*day+i), Name: strings.Repeat("n", 100), Enabled: day%2 == 0,
				DisabledCode: strings.Repeat("c", 50), DisabledReason: strings.Repeat("r", 200),
			}
		}
		m, _ = compareMonitors(m, list, day < 5, nil, at(day))
		text, err := json.Marshal(m)
		if err != nil || len(text) > 300_000 || len(m.Enabled)+len(m.Disabled) == 0 {
			t.Fatalf("day %d: %d bytes of %d and %d monitors: %v", day, len(text), len(m.Enabled), len(m.Disabled), err)
		}
	}
}

func TestLookIsDue(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, c := range []struct {
		name    string
		checked time.Duration // ago; 0 is never
		failed  time.Duration
		wait    time.Duration
		want    bool
	}{
		{"never", 0, 0, 0, true},
		{"just now", time.Second, 0, 0, false},
		{"almost", 24*time.Hour - 1, 0, 0, false},
		{"a day ago", 24 * time.Hour, 0, 0, true},
		{"by a clock that is a little ahead", -time.Minute, 0, 0, false},
		{"by a clock that is wrong", -time.Hour, 0, 0, true},
		{"failed", 48 * time.Hour, time.Minute, time.Hour, false},
		{"failed at the first look", 0, time.Minute, time.Hour, false},
		{"failed an hour ago", 48 * time.Hour, time.Hour, time.Hour, true},
		{"failed by a clock that is wrong", 48 * time.Hour, -time.Hour, time.Hour, true},
	} {
		ago := func(d time.Duration) (t time.Time) {
			if d != 0 {
				t = now.Add(-d)
			}
			return t
		}
		m := state.Monitors{CheckedAt: ago(c.checked), FailedAt: ago(c.failed), Wait: c.wait}
		if got := isDue(m, 24*time.Hour, now); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

// TestRefusalOf: a page that is not found is no list that isn't there.
func TestRefusalOf(t *testing.T) {
	forbidden, lost := &dtm.APIError{Status: http.StatusForbidden}, &dtm.APIError{Status: http.StatusNotFound}
	for i, c := range []struct {
		err  error
		want *dtm.APIError
	}{
		{&dtm.KeyError{Status: http.StatusForbidden, API: forbidden}, forbidden},
		{fmt.Errorf("x: %w", lost), lost},
		{&dtm.RestartError{Cause: lost}, nil},
		{&dtm.APIError{Status: http.StatusBadRequest}, nil},
		{errors.New("x"), nil},
	} {
		if got := refusalOf(c.err); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}
