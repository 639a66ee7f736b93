package drain_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// history is all that chance decides about a world and what happens in it. It is
// drawn before the world begins, so that a failure can be repeated and shrunk.
// Moments are counted from the world's beginning.
type history struct {
	Server       dtmsim.Options
	Feed         drain.Options
	PageLimit    int64
	PageMemory   int64
	StoreTakes   time.Duration // a call of the database
	PublishTakes time.Duration // a call of the topics
	Alerts       []alert
	Steps        []step
}

// alert is an alert of the world, with its whole life.
type alert struct {
	Created time.Duration
	Late    time.Duration // until it is in the index; less than OVERLAP
	// Rewritten is when it gets a new version soon after its creation, within SETTLE; 0: never.
	Rewritten time.Duration
	// Closed and Edited are when it gets a new version later; 0: never.
	Closed, Edited time.Duration
	Element        string // it is this unusable element instead
	Huge           bool   // a page can't hold it with its document
	Refused        bool   // the topic refuses its messages
}

// step is a run of the feed, a while after the one before ended, and what
// happens to it.
type step struct {
	After time.Duration
	Ask   ask
	// Cancel is when, counted from the run's beginning, the oldest backfill that is
	// unfinished is cancelled; 0: never.
	Cancel   time.Duration
	Troubles []trouble
	// Crash ends the process at its nth call to the world outside, before or
	// after the call had its effect; 0: never.
	Crash       int
	CrashBefore bool
	// Freeze stops the process at its nth call for FreezeFor, before or after the
	// call had its effect; 0: never. The next step doesn't wait for it longer than
	// Leave.
	Freeze           int
	FreezeBefore     bool
	FreezeFor, Leave time.Duration
	// Second is when another process runs the feed too; 0: none does.
	Second time.Duration
	// Shutdown is when the platform ends the process; 0: never.
	Shutdown time.Duration
	DryRun   bool
	WrongKey bool // GTI doesn't accept the key, nor the one that the secret holds then
}

// ask is a backfill that is asked for before a run. Its range is counted back
// from the live position; Back is 0 when none is.
type ask struct {
	Back, Short time.Duration
	Filter      dtm.Filter
	Republish   bool
}

// trouble is something that goes wrong with one call.
type trouble struct {
	Where string
	Nth   int // of the calls of its kind in the process
	What  string
}

// calm reports whether nothing went wrong and nobody else ran.
func (h history) calm() bool {
	for _, s := range h.Steps {
		if len(s.Troubles) > 0 || s.Crash+s.Freeze > 0 || s.Second+s.Shutdown > 0 || s.WrongKey {
			return false
		}
	}
	return true
}

// asks is how many backfills are asked for.
func (h history) asks() (n int) {
	for _, s := range h.Steps {
		if s.Ask.Back > 0 {
			n++
		}
	}
	return n
}

// changeable reports whether anything is listed by what may change of an alert.
func (h history) changeable() bool {
	return h.Feed.Filter.Changeable() || slices.ContainsFunc(h.Steps, func(s step) bool { return s.Ask.Filter.Changeable() })
}

// alone reports whether no two holders of the lease can have overlapped.
func (h history) alone() bool {
	return !slices.ContainsFunc(h.Steps, func(s step) bool { return s.Second > 0 || s.Freeze > 0 })
}

func pick[T any](t *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(t, label)
}

// oneIn is true once in n.
func oneIn(t *rapid.T, n int, label string) bool {
	return rapid.IntRange(1, n).Draw(t, label) == n
}

const (
	kib         = 1 << 10
	docOfHuge   = 70 * kib
	limitOfHuge = 64 * kib
)

var histories = rapid.Custom(func(t *rapid.T) history {
	latency := pick(t, "latency", 0, 100*time.Millisecond, time.Second, 3*time.Second, 10*time.Second)
	h := history{
		Server: dtmsim.Options{
			Seed:           rapid.Uint64().Draw(t, "seed"),
			Since:          pick(t, "since", dtmsim.Inclusive, dtmsim.Exclusive),
			Until:          pick(t, "until", dtmsim.Inclusive, dtmsim.Exclusive),
			Ties:           pick(t, "ties", dtmsim.TiesByID, dtmsim.TiesReverse, dtmsim.TiesShuffled),
			Tokens:         pick(t, "tokens", dtmsim.Once, dtmsim.Scroll, dtmsim.Scroll, dtmsim.Many),
			Paging:         pick(t, "paging", dtmsim.Snapshot, dtmsim.Offset),
			LinkOnLastPage: oneIn(t, 5, "link on last page"),
			LinkOnFullLast: oneIn(t, 4, "link on full last page"),
			LinkStyle:      pick(t, "link style", dtmsim.LinkPlain, dtmsim.LinkSeveral, dtmsim.LinkManyRels),
			Empty:          pick(t, "empty", dtmsim.EmptyArray, dtmsim.EmptyNull, dtmsim.EmptyNoContent),
			Latency:        latency, Jitter: latency / 2,
		},
		Feed: drain.Options{
			Workers:         rapid.IntRange(1, 4).Draw(t, "workers"),
			PageSize:        pick(t, "page size", 1, 2, 2, 3, 3, 4, 5, 7, 10),
			Refs:            rapid.Bool().Draw(t, "refs"),
			Overlap:         pick(t, "overlap", 2*time.Minute, 10*time.Minute),
			Settle:          pick(t, "settle", 10*time.Second, 30*time.Second),
			InitialLookback: pick(t, "initial lookback", 5*time.Minute, 30*time.Minute, 3*time.Hour),
			MaxLookback:     120 * time.Hour,
			MaxAlerts:       pick(t, "max alerts", 0, 0, 0, 0, 0, 1, 3, 10),
			Budget:          pick(t, "budget", time.Minute, 9*time.Minute),
		},
		PageLimit: 32 << 20, PageMemory: 96 << 20,
		StoreTakes:   pick(t, "store takes", 0, 10*time.Millisecond, 300*time.Millisecond),
		PublishTakes: pick(t, "publish takes", 0, 20*time.Millisecond, 2*time.Second),
	}
	switch rapid.IntRange(1, 6).Draw(t, "filter") {
	case 5:
		h.Feed.Filter = dtm.Filter{AlertType: []string{"Message"}}
	case 6:
		h.Feed.Filter = dtm.Filter{Status: []string{"new"}}
	}
	if oneIn(t, 6, "since has an age") {
		h.Server.SinceMaxAge = pick(t, "since max age", time.Hour, 2*time.Hour)
		h.Server.SinceTooOld = pick(t, "since too old", dtmsim.Reject, dtmsim.Clamp)
		h.Feed.MaxLookback = h.Server.SinceMaxAge + pick(t, "hopeful", 0, 5*time.Minute)
	}
	theme := pick(t, "theme", anything, anything, late, leaving)
	if theme == leaving {
		h.Feed.Filter, h.Server.Paging = dtm.Filter{Status: []string{"new"}}, dtmsim.Offset
	}
	huge := h.Feed.Refs && oneIn(t, 6, "huge alerts")
	if huge || oneIn(t, 8, "little memory") {
		h.PageLimit = limitOfHuge
		h.PageMemory = h.PageLimit * pick(t, "pages in memory", int64(1), 2, 10)
	}
	troubled, backfilled := !oneIn(t, 4, "calm"), rapid.Bool().Draw(t, "backfills")
	for range rapid.IntRange(1, 5).Draw(t, "steps") {
		s := step{After: pick(t, "after", time.Second, 20*time.Second, 70*time.Second, 5*time.Minute, 20*time.Minute, time.Hour)}
		if troubled {
			drawTrouble(t, &s)
		}
		s.DryRun = oneIn(t, 15, "dry run")
		if backfilled {
			drawBackfill(t, h.Feed, &s)
		}
		h.Steps = append(h.Steps, s)
	}
	if backfilled && !huge && oneIn(t, 3, "slow") {
		theme, latency = past, 3*time.Second
		h.Server.Latency, h.Server.Jitter = latency, latency/2
		h.Feed.Workers, h.Feed.PageSize, h.Feed.MaxAlerts, h.Feed.Budget = 1, 2, 0, 9*time.Minute
		h.Steps[0].Ask = ask{Back: 5 * time.Hour, Republish: rapid.Bool().Draw(t, "republish")}
		h.Steps[0].After = time.Second
	}
	h.Alerts = drawAlerts(t, h, theme, huge)
	if ties := most(h.Alerts); h.changeable() && h.Server.Paging == dtmsim.Offset && h.Feed.PageSize < ties+2 {
		// Where a page holds a single moment tokens are all there is to go on with,
		// and by offset these skip alerts.
		h.Feed.PageSize = ties + 2
	}
	if huge || h.Feed.PageSize > 25 {
		h.Feed.PageSize, h.Server.Paging = min(h.Feed.PageSize, 25), dtmsim.Snapshot
	}
	pages := most(h.Alerts)/h.Feed.PageSize + 8
	if huge {
		pages = 3*most(h.Alerts) + 20 // one by one
	}
	if time.Duration(pages)*latency > h.Feed.Budget/4 {
		h.Server.Latency, h.Server.Jitter = 0, 0 // a run gets past one moment's alerts, or it never does
	}
	if !h.Server.LinkOnLastPage {
		pages -= 4
	}
	if h.asks() > 0 && time.Duration(pages)*latency*3/2 > time.Minute {
		h.Server.Latency, h.Server.Jitter = 0, 0 // so does a backfill in its minute
	}
	return h
})

func drawBackfill(t *rapid.T, feed drain.Options, s *step) {
	if rapid.Bool().Draw(t, "ask") {
		s.Ask = ask{
			Back:      pick(t, "back", time.Minute, 10*time.Minute, feed.InitialLookback+15*time.Minute, 5*time.Hour),
			Short:     pick(t, "short", 0, 0, 30*time.Second, 10*time.Minute),
			Filter:    pick(t, "backfill's filter", feed.Filter, feed.Filter, dtm.Filter{}, dtm.Filter{Status: []string{"new"}}),
			Republish: rapid.Bool().Draw(t, "republish"),
		}
	}
	if oneIn(t, 4, "cancel") {
		s.Cancel = pick(t, "cancel after", time.Nanosecond, 100*time.Millisecond, 2*time.Second, 20*time.Second, time.Minute)
	}
}

// theme is what many alerts of a world have in common.
type theme string

const (
	anything theme = "anything"
	late     theme = "late"    // they come into the index late
	leaving  theme = "leaving" // they leave the filter while they are listed
	past     theme = "past"    // they are all there when the first backfill begins, and take it minutes
)

func drawAlerts(t *rapid.T, h history, theme theme, huge bool) []alert {
	from, to := -h.Feed.InitialLookback-10*time.Minute, 2*time.Hour
	if h.asks() > 0 {
		from -= pick(t, "what only backfills see", 0, 20*time.Minute, 2*time.Hour)
	}
	seconds := func(low, high int, label string) time.Duration {
		return time.Duration(rapid.IntRange(low, high).Draw(t, label)) * time.Second
	}
	millis := func(low, high time.Duration, label string) time.Duration {
		return time.Duration(rapid.Int64Range(low.Milliseconds(), high.Milliseconds()).Draw(t, label)) * time.Millisecond
	}
	// aRun is about when one of the runs begins.
	aRun := func() (begins time.Duration) {
		for _, s := range h.Steps[:rapid.IntRange(1, len(h.Steps)).Draw(t, "run")] {
			begins += s.After
		}
		return begins
	}
	var bases []time.Duration
	for range rapid.IntRange(1, 4).Draw(t, "bases") {
		if rapid.Bool().Draw(t, "before a run") {
			bases = append(bases, aRun()-millis(0, h.Feed.Overlap+h.Feed.Settle, "before"))
			continue
		}
		bases = append(bases, millis(from, to, "base"))
	}
	spread := pick(t, "spread", time.Millisecond, 3*time.Millisecond, 2*time.Second, 2*time.Minute, 20*time.Minute)
	odd := pick(t, "odd", 1, 3, 10)
	alerts := make([]alert, pick(t, "alerts", 0, 1, 3, 10, 20, 30, 40, 60))
	if theme == past {
		bases, spread, alerts = []time.Duration{millis(-3*time.Hour, -time.Hour, "past")}, 20*time.Minute, make([]alert, 60)
	}
	for i := range alerts {
		a := alert{Created: rapid.SampledFrom(bases).Draw(t, "base of an alert")}
		a.Created += millis(0, spread, "offset")
		if oneIn(t, odd, "odd") {
			switch rapid.IntRange(1, 8).Draw(t, "oddity") {
			case 1, 2:
				a.Late = millis(time.Millisecond, h.Feed.Overlap-time.Millisecond, "late")
			case 3, 4:
				a.Rewritten = seconds(2, 8, "rewritten")
			case 5:
				a.Closed = seconds(60, 7200, "closed")
			case 6:
				a.Edited = seconds(60, 7200, "edited")
			case 7:
				elements := dtmsim.MalformedElements()
				a.Element = pick(t, "element", elements...)
			case 8:
				if huge {
					a.Huge = true
				} else {
					a.Refused = true
				}
			}
		}
		switch {
		case theme == late && oneIn(t, 2, "late"):
			a.Late = millis(time.Millisecond, h.Feed.Overlap-time.Millisecond, "late")
		case theme == leaving && oneIn(t, 2, "leaves"):
			a.Closed = max(a.Closed, aRun()+millis(0, 2*time.Minute, "leaves during a run")-a.Created, 10*time.Second)
		}
		alerts[i] = a
	}
	slices.SortFunc(alerts, func(a, b alert) int { return cmp.Compare(a.Created, b.Created) })
	return alerts
}

// most is how many alerts at most lie within the moment that a listing begins
// with and the two next to it.
func most(alerts []alert) int {
	n := 0
	for i, from := 0, 0; i < len(alerts); i++ {
		for alerts[from].Created < alerts[i].Created-2*time.Millisecond {
			from++
		}
		n = max(n, i-from+1)
	}
	return n
}

// lying troubles make the API say something that is not so. One of them is what
// the engine promises to see through; of two in a row it can't know.
var lying = []string{"withheld", "extra", "null", "repeat", "disorder", "unlink"}

func drawTrouble(t *rapid.T, s *step) {
	// Most runs are short.
	nth := func() int { return pick(t, "nth", 1, 1, 1, 2, 2, 3, 4, 6) }
	page := func() string { return pick(t, "kind of page", "list", "page", "page") }
	for range rapid.IntRange(0, 3).Draw(t, "troubles") {
		switch rapid.IntRange(1, 4).Draw(t, "side") {
		case 1, 2:
			s.Troubles = append(s.Troubles, trouble{page(), nth(), pick(t, "what",
				"reset before", "reset after", "truncate", "500", "503 wait", "408", "429", "429 wait", "html", "hang", "quota")})
		case 3:
			where := pick(t, "store call", "open", "write feed", "write feed", "records", "write records", "write records", "usage",
				"backfill", "write backfill")
			what := pick(t, "what", "before", "after", "hang before", "hang after")
			if where == "write records" && oneIn(t, 3, "meddle") {
				what = "meddle"
			}
			s.Troubles = append(s.Troubles, trouble{where, nth(), what})
		case 4:
			where := pick(t, "topic call", "publish", "publish", "reject")
			s.Troubles = append(s.Troubles, trouble{where, nth(), pick(t, "what",
				"some", "some", "some lost", "before", "after", "hang before", "hang after")})
		}
	}
	if oneIn(t, 3, "a lie") {
		s.Troubles = append(s.Troubles, trouble{page(), nth(), pick(t, "lie", lying...)})
	}
	switch rapid.IntRange(1, 10).Draw(t, "disaster") {
	case 6:
		s.WrongKey, s.Troubles = true, nil
	case 7:
		s.Shutdown = pick(t, "shutdown", time.Millisecond, 200*time.Millisecond, 2*time.Second, 10*time.Second)
	case 8:
		s.Second = pick(t, "second", time.Millisecond, 500*time.Millisecond, 5*time.Second, 40*time.Second)
	case 9:
		s.Freeze, s.FreezeBefore = rapid.IntRange(1, 25).Draw(t, "freeze at"), rapid.Bool().Draw(t, "freeze before")
		s.FreezeFor = pick(t, "freeze for", 20*time.Second, 58*time.Second, 100*time.Second)
		s.Leave = pick(t, "leave", time.Second, 62*time.Second, 4*time.Minute)
	case 10:
		s.Crash, s.CrashBefore = rapid.IntRange(1, 40).Draw(t, "crash at"), rapid.Bool().Draw(t, "crash before")
	}
}

// id is the id of the ith alert: ids are not in the order of creation.
func id(i int) string { return fmt.Sprintf("a%03d", i*37%1000) }

// served is the ith alert for the simulator, in a world that begins at start.
func (a alert) served(i int, start time.Time) dtmsim.Alert {
	created := start.Add(a.Created)
	out := dtmsim.Alert{ID: id(i), CreatedAt: created, VisibleAt: created.Add(a.Late), Type: "Message"}
	if a.Element != "" {
		out.Raw = []byte(a.Element)
		return out
	}
	doc := "short"
	if a.Huge {
		doc = strings.Repeat("long", docOfHuge/4)
	}
	at := created.Format("2006-01-02T15:04:05.999Z07:00")
	out.Body = fmt.Appendf(nil, `{"id":%q,"created_at":%q,"updated_at":%q,"status":"new","alert_type":"Message","doc":{"text":%q}}`, out.ID, at, at, doc)
	for _, c := range []struct {
		after time.Duration
		apply func(*dtmsim.Alert)
	}{
		{a.Rewritten, func(a *dtmsim.Alert) { a.Set("ai_doc_summary", "a summary") }},
		{a.Edited, func(a *dtmsim.Alert) { a.Set("ai_doc_summary", "another summary") }},
		{a.Closed, func(a *dtmsim.Alert) { a.Status = "closed" }},
	} {
		if c.after > 0 {
			out.Changes = append(out.Changes, dtmsim.Change{At: created.Add(c.after), Apply: c.apply})
		}
	}
	return out
}

// GoString is what rapid prints of a history.
func (h history) GoString() string {
	var b strings.Builder
	fmt.Fprintf(&b, "API %+v\nfeed %+v\npages of %d bytes, %d together; database %v, topics %v\n", h.Server, h.Feed, h.PageLimit, h.PageMemory, h.StoreTakes, h.PublishTakes)
	for i, a := range h.Alerts {
		fmt.Fprintf(&b, "%s %+v\n", id(i), a)
	}
	for i, s := range h.Steps {
		fmt.Fprintf(&b, "step %d %+v\n", i+1, s)
	}
	return b.String()
}
