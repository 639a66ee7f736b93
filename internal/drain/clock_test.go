package drain

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// everyMinute are alerts from so long before now until so long after it.
func everyMinute(before, after time.Duration) []dtmsim.Alert {
	var all []dtmsim.Alert
	for at := -before; at <= after; at += time.Minute {
		all = append(all, dtmsim.Alert{ID: fmt.Sprintf("a%05d", len(all)), CreatedAt: time.Now().Add(at).Truncate(ms)})
	}
	return all
}

// TestWrongClocks: whatever the clock of an instance says in one run, the alerts
// that are created meanwhile come with the next ones, and no position is ahead of
// GTI's time where GTI tells it.
func TestWrongClocks(t *testing.T) {
	for _, ahead := range []time.Duration{40 * time.Second, time.Hour, 5 * 24 * time.Hour, -time.Hour, -5 * 24 * time.Hour} {
		for _, noDate := range []bool{false, true} {
			for _, first := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v ahead, without a Date %t, in the first run %t", ahead, noDate, first), func(t *testing.T) {
					s := newStore(t)
					synctest.Test(t, func(t *testing.T) {
						alerts := everyMinute(3*time.Hour, 3*time.Hour)
						api := dtmsim.New(dtmsim.Options{NoDate: noDate}, alerts)
						var logs bytes.Buffer
						to := &topic{}
						run := func(wrong time.Duration) {
							r := newRun(t, s, api.RoundTripper(), to)
							r.Options.InitialLookback = 4 * time.Hour
							r.Log = slog.New(slog.NewJSONHandler(&logs, nil))
							r.Now = func() time.Time { return time.Now().Add(wrong) }
							for _, session := range []*Session{&r.LiveAPI, &r.SweepAPI, &r.BackfillAPI} {
								*session = elsewhere{*session, wrong, false}
							}
							report, err := r.Live(t.Context(), "schedule", false)
							if err != nil {
								t.Fatalf("a run with the clock %v ahead: %v", wrong, err)
							}
							if !noDate && report.PositionAfter.After(time.Now()) {
								t.Errorf("%v ahead the position is %v, and now is %v", wrong, report.PositionAfter, time.Now())
							}
							time.Sleep(5 * time.Minute)
						}
						if !first {
							run(0)
						}
						run(ahead)
						for range 24 {
							run(0)
						}
						seen := map[string]int{}
						for _, id := range to.ids {
							seen[id]++
						}
						for _, a := range alerts {
							switch age := time.Since(a.CreatedAt); {
							case age < 6*time.Minute: // not yet
							case seen[a.ID] == 0:
								t.Fatalf("%s of %v was never published:\n%s", a.ID, a.CreatedAt, logs.String())
							case seen[a.ID] > 1:
								t.Errorf("%s was published %d times", a.ID, seen[a.ID])
							}
						}
						if warned := strings.Contains(logs.String(), `"event":"clock"`); !warned && (!noDate || ahead > 2*time.Minute) {
							t.Errorf("nobody was told of it:\n%s", logs.String())
						}
					})
				})
			}
		}
	}
}

// TestUnsettledInASlowAnswer: what was younger than SETTLE when it was listed is listed
// again, also when an instance whose clock is ahead has waited for the answer so long that
// it is older by then, and whenever GTI dates its answers.
func TestUnsettledInASlowAnswer(t *testing.T) {
	for _, dated := range []string{"when it was asked", "when it has answered"} {
		t.Run(dated, func(t *testing.T) {
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				rewrite := dtmsim.Change{At: now.Add(2 * time.Second), Apply: func(a *dtmsim.Alert) { a.Severity = "high" }}
				api := dtmsim.New(dtmsim.Options{Latency: 20 * time.Second}, []dtmsim.Alert{
					{ID: "old", CreatedAt: now.Add(-time.Minute)},
					{ID: "young", CreatedAt: now.Add(-time.Second), Changes: []dtmsim.Change{rewrite}},
				})
				to := &severities{of: map[string][]string{}}
				run := func(ahead time.Duration) {
					r := newRun(t, s, api.RoundTripper(), to)
					r.Options.Settle = 10 * time.Second
					r.Now = func() time.Time { return time.Now().Add(ahead) }
					for _, session := range []*Session{&r.LiveAPI, &r.SweepAPI, &r.BackfillAPI} {
						*session = elsewhere{*session, ahead, dated == "when it has answered"}
					}
					if _, err := r.Live(t.Context(), "schedule", false); err != nil {
						t.Fatal(err)
					}
				}
				run(40 * time.Second)
				run(0)
				if diff := cmp.Diff(map[string][]string{"old": {""}, "young": {"high"}}, to.of); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// severities is a topic that remembers which ones each alert was published with.
type severities struct {
	topic
	of map[string][]string
}

func (p *severities) Publish(ctx context.Context, all []message.Message) []error {
	for _, m := range all {
		id := m.Attributes["alert_id"]
		p.of[id] = append(p.of[id], m.Attributes["severity"])
	}
	return p.topic.Publish(ctx, all)
}

// TestDateOfAnotherClock: what alerts of the same page contradict is not GTI's
// time, and neither is what lies months back.
func TestDateOfAnotherClock(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		date    time.Duration   // before now
		created []time.Duration // before now
		ahead   time.Duration
	}{
		{time.Hour, nil, time.Hour},
		{time.Hour, []time.Duration{2 * time.Hour, 59 * time.Minute}, time.Hour},
		{time.Hour, []time.Duration{2 * time.Hour, 10 * time.Minute}, time.Hour},
		{time.Hour, []time.Duration{10 * time.Minute, 9 * time.Minute}, 0},
		{5 * 24 * time.Hour, nil, 5 * 24 * time.Hour},
		{31 * 24 * time.Hour, nil, 0},
		{time.Duration(now.Unix()) * time.Second, nil, 0},
	} {
		k := &clock{ours: func() time.Time { return now }, log: slog.New(slog.DiscardHandler)}
		page := dtm.Page{AskedAt: now, ReceivedAt: now, Date: now.Add(-c.date)}
		for _, ago := range c.created {
			page.Alerts = append(page.Alerts, dtm.Alert{ID: "a", CreatedAt: now.Add(-ago)})
		}
		if k.note(t.Context(), page); k.off() != c.ahead {
			t.Errorf("with a Date of %v and alerts of %v before now the clock is %v ahead, want %v", c.date, c.created, k.off(), c.ahead)
		}
	}
}

// TestAheadOfEverything takes back each time that lies ahead, and no other.
func TestAheadOfEverything(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	c := &clock{ours: func() time.Time { return now }, log: slog.New(slog.DiscardHandler)}
	o := Options{Overlap: 10 * time.Minute, InitialLookback: time.Hour}
	right := state.Feed{
		BeginsAt: ago(48 * time.Hour), FirstRun: ago(24 * time.Hour), End: ago(time.Minute), Newest: ago(2 * time.Minute),
		LastSweep: ago(time.Minute), LastAudit: ago(time.Hour), FilterSince: ago(time.Hour), Refusal: &state.Refusal{At: ago(time.Hour)},
		Slices: []state.Slice{{From: ago(time.Hour), To: ago(time.Minute), DoneUntil: ago(time.Hour)}},
	}
	ahead := now.Add(time.Hour)
	for _, tc := range []struct {
		name         string
		change, want func(*state.Feed)
	}{
		{"nothing", func(*state.Feed) {}, func(*state.Feed) {}},
		{"within what clocks may differ", func(f *state.Feed) { f.End = now.Add(time.Minute) }, func(f *state.Feed) { f.End = now.Add(time.Minute) }},
		{
			"the end", func(f *state.Feed) { f.End, f.Slices = ahead, nil },
			func(f *state.Feed) { f.End, f.RereadFrom, f.Slices = ago(12*time.Minute), ago(12*time.Minute), nil },
		},
		{
			"the end, with slices", func(f *state.Feed) {
				f.End = ahead
				f.Slices = append(f.Slices, state.Slice{From: ago(5 * time.Minute), To: ahead, DoneUntil: ago(5 * time.Minute)})
			},
			func(f *state.Feed) {
				f.End, f.RereadFrom = ago(12*time.Minute), ago(12*time.Minute)
				f.Slices = []state.Slice{{From: ago(time.Hour), To: ago(12 * time.Minute), DoneUntil: ago(time.Hour)}}
			},
		},
		{
			"the end, and nothing was ever read", func(f *state.Feed) { f.End, f.Newest, f.Slices = ahead, time.Time{}, nil },
			func(f *state.Feed) {
				f.End, f.RereadFrom, f.Newest, f.Slices = f.BeginsAt, f.BeginsAt, time.Time{}, nil
			},
		},
		{
			"the begin", func(f *state.Feed) {
				f.BeginsAt, f.FirstRun, f.FilterSince, f.End, f.Newest, f.Slices = ahead, ahead, ahead, ahead, time.Time{}, nil
			},
			func(f *state.Feed) {
				f.BeginsAt, f.FirstRun, f.FilterSince, f.End = ago(time.Hour), ago(time.Hour), ago(time.Hour), ago(time.Hour)
				f.RereadFrom, f.Newest, f.Slices = ago(time.Hour), time.Time{}, nil
			},
		},
		{
			"the sweep", func(f *state.Feed) { f.LastSweep = ahead },
			func(f *state.Feed) { f.LastSweep, f.RereadFrom = f.Newest, ago(12*time.Minute) },
		},
		{"the audit", func(f *state.Feed) { f.LastAudit = ahead }, func(f *state.Feed) { f.LastAudit = time.Time{} }},
		{"the filter", func(f *state.Feed) { f.FilterSince = ahead }, func(f *state.Feed) { f.FilterSince = now }},
		{"a refusal", func(f *state.Feed) { f.Refusal = &state.Refusal{At: ahead} }, func(f *state.Feed) { f.Refusal = nil }},
		{
			"the newest alert: it is our clock that is late",
			func(f *state.Feed) { f.Newest, f.End, f.LastSweep = ahead, ahead, ahead },
			func(f *state.Feed) { f.Newest, f.End, f.LastSweep = ahead, ahead, ahead },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, want := right.Clone(), right.Clone()
			tc.change(&got)
			c.takeBack(t.Context(), &got, o, now)
			tc.want(&want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRequestsAreHigh: a run that needs many more requests than its alerts would
// have taken says so.
func TestRequestsAreHigh(t *testing.T) {
	for _, c := range []struct {
		name   string
		alerts int
		onPage int // at most
		high   bool
	}{
		{"full pages", 2000, 100, false},
		{"one alert on each page", 60, 1, true},
		{"few requests", 20, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				var alerts []dtmsim.Alert
				for i := range c.alerts {
					alerts = append(alerts, dtmsim.Alert{ID: fmt.Sprint("a", i), CreatedAt: time.Now().Add(-time.Duration(i+60) * time.Second)})
				}
				api := dtmsim.New(dtmsim.Options{MaxSize: c.onPage}, alerts)
				to := &topic{}
				r := newRun(t, s, api.RoundTripper(), to)
				var logs bytes.Buffer
				r.Log = slog.New(slog.NewJSONHandler(&logs, nil))
				r.Options.Workers, r.Options.InitialLookback = 1, 2*time.Hour
				report, err := r.Live(t.Context(), "schedule", false)
				if err != nil || len(to.ids) != c.alerts {
					t.Fatalf("published %d: %v", len(to.ids), err)
				}
				if high := strings.Contains(logs.String(), `"event":"requests_high"`); high != c.high {
					t.Errorf("with %d requests it is told: %t\n%s", report.Requests, high, logs.String())
				}
			})
		})
	}
}

// elsewhere is a session of a machine whose clock is ahead.
type elsewhere struct {
	Session
	ahead     time.Duration
	datedLate bool // GTI dates its answers when they are complete
}

func (s elsewhere) List(ctx context.Context, q dtm.Query) iter.Seq2[dtm.Page, error] {
	return func(yield func(dtm.Page, error) bool) {
		for page, err := range s.Session.List(ctx, q) {
			if s.datedLate {
				page.Date = page.ReceivedAt.Truncate(clockStep)
			}
			page.AskedAt, page.ReceivedAt = page.AskedAt.Add(s.ahead), page.ReceivedAt.Add(s.ahead)
			if !yield(page, err) {
				return
			}
		}
	}
}

// dated replaces the Date of a run's first answer: a proxy has kept that for long.
type dated struct {
	http.RoundTripper
	first *atomic.Bool
	by    time.Duration
}

func (d dated) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := d.RoundTripper.RoundTrip(r)
	if err == nil && d.first.CompareAndSwap(true, false) {
		resp.Header.Set("Date", time.Now().Add(d.by).UTC().Format(http.TimeFormat))
	}
	return resp, err
}

// TestOldDate: one old Date takes a quiet feed's position back by no more than the
// overlap that each run reads again.
func TestOldDate(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		api := dtmsim.New(dtmsim.Options{}, everyMinute(3*time.Hour, -time.Hour))
		to, first := &topic{}, &atomic.Bool{}
		run := func() Report {
			r := newRun(t, s, dated{api.RoundTripper(), first, -24 * time.Hour}, to)
			r.Options.InitialLookback = 4 * time.Hour
			report, err := r.Live(t.Context(), "schedule", false)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Minute)
			return report
		}
		before := run()
		published := len(to.ids)
		first.Store(true)
		if after := run(); first.Load() || after.PositionAfter.Before(before.PositionAfter.Add(-10*time.Minute)) || after.Fetched > 0 {
			t.Errorf("after an old Date the position is %v, it was %v, and %d alerts were read", after.PositionAfter, before.PositionAfter, after.Fetched)
		}
		if next := run(); next.PositionAfter.Before(time.Now().Add(-10*time.Minute)) || len(to.ids) != published {
			t.Errorf("the next run leaves the position at %v, and %d alerts were published again", next.PositionAfter, len(to.ids)-published)
		}
	})
}

// TestLagOfAClockAhead: an instance whose clock stays ahead relays as promptly as any.
func TestLagOfAClockAhead(t *testing.T) {
	for _, ahead := range []time.Duration{0, 20 * time.Second, time.Minute, 5 * time.Minute, 5 * 24 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			s := newStore(t)
			synctest.Test(t, func(t *testing.T) {
				var logs bytes.Buffer
				api, to := dtmsim.New(dtmsim.Options{}, everyMinute(time.Hour, time.Hour)), &topic{}
				for i := range 12 {
					r := newRun(t, s, api.RoundTripper(), to)
					r.Log = slog.New(slog.NewJSONHandler(&logs, nil))
					r.Now = func() time.Time { return time.Now().Add(ahead) }
					for _, session := range []*Session{&r.LiveAPI, &r.SweepAPI, &r.BackfillAPI} {
						*session = elsewhere{*session, ahead, false}
					}
					report, err := r.Live(t.Context(), "schedule", false)
					if err != nil {
						t.Fatal(err)
					}
					if lag := time.Since(*report.PositionAfter); lag < r.Options.Settle || lag > r.Options.Settle+3*time.Second {
						t.Errorf("after run %d the position is %v old", i, lag)
					}
					time.Sleep(75 * time.Second)
				}
				if strings.Contains(logs.String(), `"ERROR"`) {
					t.Errorf("an error that is none:\n%s", logs.String())
				}
			})
		})
	}
}

// TestCutShortByAWrongClock: a first run with its clock ahead that is stopped early, and
// hours without a run, hide no change.
func TestCutShortByAWrongClock(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		alerts := everyMinute(30*time.Minute, 0)
		at := time.Now().Add(10 * time.Minute)
		alerts[5].Changes = []dtmsim.Change{{At: at, Apply: func(a *dtmsim.Alert) { a.Status = "closed" }}}
		api, to := dtmsim.New(dtmsim.Options{}, alerts), &topic{}
		run := func(ahead time.Duration, limit int) {
			r := newRun(t, s, api.RoundTripper(), to)
			r.Options.InitialLookback, r.Options.MaxAlerts = 4*time.Hour, limit
			r.Now = func() time.Time { return time.Now().Add(ahead) }
			for _, session := range []*Session{&r.LiveAPI, &r.SweepAPI, &r.BackfillAPI} {
				*session = elsewhere{*session, ahead, false}
			}
			if _, err := r.Live(t.Context(), "schedule", false); err != nil {
				t.Fatal(err)
			}
		}
		run(time.Hour, 28)
		time.Sleep(3 * time.Hour)
		for range 3 {
			run(0, 0)
			time.Sleep(5 * time.Minute)
		}
		if n := strings.Count(strings.Join(to.ids, " "), alerts[5].ID); n != 2 {
			t.Errorf("%s was published %d times, want 2", alerts[5].ID, n)
		}
	})
}

// dying is the database and the topic of a process that dies when it has published its
// first alert.
type dying struct {
	state.Store
	topic
	dead atomic.Bool
}

func (d *dying) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (state.Revision, error) {
	if d.dead.Load() {
		<-ctx.Done()
		return "", context.Cause(ctx)
	}
	return d.Store.WriteFeed(ctx, feed, f, v)
}

func (d *dying) Publish(ctx context.Context, m []message.Message) []error {
	errs := make([]error, len(m))
	if !d.dead.Swap(true) {
		d.topic.Publish(ctx, m[:1])
		return errs
	}
	<-ctx.Done()
	for i := range errs {
		errs[i] = context.Cause(ctx)
	}
	return errs
}

// TestFirstRunThatDies: a feed begins with its first run, also where that had a wrong
// clock and died before it stored what it had read.
func TestFirstRunThatDies(t *testing.T) {
	s := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		const ahead = 5 * 24 * time.Hour
		alerts := everyMinute(30*time.Minute, 0)
		api, first, to := dtmsim.New(dtmsim.Options{}, alerts), &dying{Store: s}, &topic{}
		r := newRun(t, first, api.RoundTripper(), first)
		r.Options.PageSize = 1
		r.Now = func() time.Time { return time.Now().Add(ahead) }
		for _, session := range []*Session{&r.LiveAPI, &r.SweepAPI, &r.BackfillAPI} {
			*session = elsewhere{*session, ahead, false}
		}
		if report, err := r.Live(t.Context(), "schedule", false); err == nil || len(first.ids) != 1 {
			t.Fatalf("the first run ends as %s (%v) and has published %v", report.Outcome, err, first.ids)
		}
		time.Sleep(3 * time.Hour)
		if report, err := newRun(t, s, api.RoundTripper(), to).Live(t.Context(), "schedule", false); err != nil {
			t.Fatalf("the next run ends as %s: %v", report.Outcome, err)
		}
		published := slices.Concat(first.ids, to.ids)
		for _, a := range alerts {
			if !slices.Contains(published, a.ID) {
				t.Errorf("%s was never published", a.ID)
			}
		}
	})
}
