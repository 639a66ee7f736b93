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
	Bare         int           // the most alerts that the API puts on a page without documents
	Refilter     bool          // the filter is changed when all is over
	Alerts       []alert
	Steps        []step

	Asks []request // write-backs
	// WriteTakes is how long a request for a single alert takes.
	WriteTakes time.Duration
	Syncs      []step // what happens to the processes that do them, one after the other
	// Ordered: which of several calls at one moment goes first is drawn too, as Order.
	Ordered bool
	Order   uint64
	Warm    bool   // one instance runs all steps, and knows what it has published
	Ruled   bool   // the operator has rules (rulesOfModel)
	Masked  bool   // passwords are masked
	Mirror  string // what the other side answers each event with, unless it is its own: a status, or +tag
}

// alert is an alert of the world, with its whole life.
type alert struct {
	Created time.Duration
	Late    time.Duration // until it is in the index; OVERLAP or more only where there are audits
	// Rewritten is when it gets a new version soon after its creation, within SETTLE; 0: never.
	Rewritten time.Duration
	// Closed and Edited are when it gets a new version later; 0: never.
	Closed, Edited time.Duration
	Walk           []walk
	Tags           []string
	Element        string // it is this unusable element instead
	// Astray is by how much its created_at is off its place in the lists; at most one
	// alert is. ByPlace: since and until look at its place, and not at its created_at.
	Astray  time.Duration
	ByPlace bool
	Huge    bool // a page can't hold it with its document
	Refused bool // the topic refuses its messages
	Noise   bool // a rule drops it unless it is escalated
}

// walk is a later version of an alert: a status, or something else that is new.
type walk struct {
	After  time.Duration // its creation
	Status string        // empty: it keeps its status
	Ahead  bool          // its updated_at lies far in the future
}

// farAhead is how far.
const farAhead = 60 * 24 * time.Hour

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
	// Skew is by how much the clock of the process is ahead.
	Skew     time.Duration
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
	for _, s := range slices.Concat(h.Steps, h.Syncs) {
		if len(s.Troubles) > 0 || s.Crash+s.Freeze > 0 || s.Second+s.Shutdown > 0 || s.WrongKey || s.Skew != 0 {
			return false
		}
	}
	return true
}

// skewed reports whether the clock of any process was wrong.
func (h history) skewed() bool {
	return slices.ContainsFunc(h.Steps, func(s step) bool { return s.Skew != 0 })
}

// untold reports whether the clock of a process was wrong, and GTI told it no time.
func (h history) untold() bool { return h.Server.NoDate && h.skewed() }

// unnoticed is by how much the clock of a process was ahead without anybody noticing: GTI
// told it no time, and the next process takes back only what lies further ahead. A sweep of
// that process counts as so much later than it was.
func (h history) unnoticed() (ahead time.Duration) {
	if !h.untold() {
		return 0
	}
	for _, s := range h.Steps {
		if s.Skew <= 2*time.Minute {
			ahead = max(ahead, s.Skew)
		}
	}
	return ahead
}

// ordered reports whether the API's lists are in the order of created_at.
func (h history) ordered() bool {
	return h.Server.Coarse == 0 && !slices.ContainsFunc(h.Alerts, func(a alert) bool { return a.Astray != 0 })
}

// brokenElements are made once: one of them is large.
var brokenElements = dtmsim.BrokenElements()

// unreadable reports whether an element of the lists is no JSON.
func (h history) unreadable() bool {
	return slices.ContainsFunc(h.Alerts, func(a alert) bool { return a.Element != "" && slices.Contains(brokenElements, a.Element) })
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
	return h.Feed.Filter.HasMutable() || h.Refilter || slices.ContainsFunc(h.Steps, func(s step) bool { return s.Ask.Filter.HasMutable() })
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
			RequestsPerDay:  pick(t, "requests a day", 0, 100, 40_000),
			Budget:          pick(t, "budget", time.Minute, 9*time.Minute),
		},
		PageLimit: 32 << 20, PageMemory: 96 << 20,
		StoreTakes:   pick(t, "store takes", 0, 10*time.Millisecond, 300*time.Millisecond),
		PublishTakes: pick(t, "publish takes", 0, 20*time.Millisecond, 2*time.Second),
		Bare:         pick(t, "bare page", 1, 2, 3, 5, 100),
		Refilter:     oneIn(t, 4, "refilter"),
		Ordered:      true, Order: rapid.Uint64().Draw(t, "order"), Warm: rapid.Bool().Draw(t, "warm"),
	}
	h.Feed.UpdatesWindow = pick(t, "updates window", 0, time.Hour, 3*time.Hour, 30*24*time.Hour, 30*24*time.Hour)
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
	theme := pick(t, "theme", anything, anything, late, leaving, changing, changing, coming, audited)
	if (theme == changing || theme == coming) && oneIn(t, 3, "slow topics") {
		h.PublishTakes = 9 * time.Second // a sweep does not end in its minute
	}
	switch theme { //nolint:exhaustive // the others are about the alerts alone
	case leaving:
		h.Feed.Filter, h.Server.Paging = dtm.Filter{Status: []string{"new"}}, dtmsim.Offset
	case coming:
		h.Feed.Filter = dtm.Filter{Status: pick(t, "wanted", []string{"in_progress"}, []string{"closed", "new"}, []string{"escalated", "in_progress", "read"})}
	case audited:
		h.Feed.AuditWindow = pick(t, "audit window", 3*time.Hour, 20*time.Hour, 72*time.Hour)
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
		if theme == audited {
			s.After = pick(t, "hours", time.Minute, time.Hour, 5*time.Hour, 11*time.Hour, 26*time.Hour)
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
	if !backfilled && oneIn(t, 5, "wrong clocks") {
		h.Server.NoDate = rapid.Bool().Draw(t, "no date")
		for i := range h.Steps {
			h.Steps[i].Skew = pick(t, "skew", 0, 0, 40*time.Second, time.Hour, 5*24*time.Hour, -time.Hour)
		}
	}
	h.Alerts = drawAlerts(t, h, theme, huge)
	switch plain := func(a alert) bool {
		return a.Late+a.Rewritten+a.Closed+a.Edited == 0 && a.Element == "" && !a.Huge && len(a.Walk) == 0
	}; {
	case !h.changeable() && h.PageLimit > limitOfHuge && oneIn(t, 10, "coarse order"):
		h.Server.Coarse = time.Second
		// The position trails by a second: a run gets past all that is in one.
		latency, h.Server.Latency, h.Server.Jitter, h.PublishTakes = 0, 0, 0, 0
	case oneIn(t, 6, "one is astray") && slices.ContainsFunc(h.Alerts, plain):
		i := slices.IndexFunc(h.Alerts, plain)
		h.Alerts[i].Astray = pick(t, "astray", -time.Hour, -5*time.Minute, 5*time.Millisecond, 90*time.Second, time.Hour)
		h.Alerts[i].ByPlace = rapid.Bool().Draw(t, "by place")
	case !backfilled && h.Feed.UpdatesWindow > 0 && oneIn(t, 6, "a version lies ahead") && slices.ContainsFunc(h.Alerts, plain):
		i := slices.IndexFunc(h.Alerts, plain)
		after := time.Duration(rapid.IntRange(10, 2*3600).Draw(t, "ahead after")) * time.Second
		h.Alerts[i].Walk = []walk{{After: after, Status: pick(t, "status ahead", "", "read"), Ahead: true}}
		if rapid.Bool().Draw(t, "and one after it") {
			h.Alerts[i].Walk = append(h.Alerts[i].Walk, walk{After: after + 2*time.Minute, Status: pick(t, "status after it", "", "closed")})
		}
	case oneIn(t, 6, "one is no JSON") && slices.ContainsFunc(h.Alerts, plain):
		one := slices.IndexFunc(h.Alerts, plain)
		for i := range h.Alerts {
			h.Alerts[i].Element = "" // two in a row can't be told apart
		}
		h.Alerts[one].Element = pick(t, "broken element", brokenElements...)
	}
	if isAstray := func(a alert) bool { return a.Astray != 0 }; (h.asks() > 0 || h.Refilter) &&
		slices.ContainsFunc(h.Alerts, isAstray) && time.Duration(3*len(h.Alerts))*latency > time.Minute {
		// Of few alerts, one that is a little out of place holds the position: a backfill then
		// reads all of them in its minute, twice, in pages of one at the worst.
		latency, h.Server.Latency, h.Server.Jitter = 0, 0, 0
	}
	if ties := most(h.Alerts) + unusable(h.Alerts); h.changeable() && h.Server.Paging == dtmsim.Offset && h.Feed.PageSize < ties+2 {
		// Where a page holds a single moment tokens are all there is to go on with,
		// and by offset these skip alerts.
		h.Feed.PageSize = ties + 2
	}
	if h.changeable() {
		h.Bare = max(h.Bare, most(h.Alerts)+unusable(h.Alerts)+2)
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
	if (h.asks() > 0 || h.Refilter) && 2*time.Duration(pages)*(latency*3/2+4*h.StoreTakes) > time.Minute {
		// So does a backfill in its minute, which sees only from a second listing that there is
		// nothing more.
		h.Server.Latency, h.Server.Jitter = 0, 0
		h.StoreTakes = min(h.StoreTakes, 10*time.Millisecond)
	}
	if bare := pages - most(h.Alerts)/h.Feed.PageSize + most(h.Alerts)/h.Bare; h.Feed.UpdatesWindow+h.Feed.AuditWindow > 0 {
		if h.asks() > 0 || h.Refilter {
			bare = max(bare, pages)
		}
		if time.Duration(bare)*latency*3 > time.Minute {
			h.Server.Latency, h.Server.Jitter = 0, 0 // and one that the relay asks itself for, in what a sweep leaves of it
		}
	}
	h.Masked = rapid.Bool().Draw(t, "masked")
	if h.Ruled = oneIn(t, 3, "ruled"); h.Ruled {
		h.PublishTakes = min(h.PublishTakes, 5*time.Second) // three topics, in the time that a run leaves for one page
		for i := range h.Alerts {
			h.Alerts[i].Noise = !h.Alerts[i].Refused && oneIn(t, 3, "noise")
		}
		if troubled {
			for i := range h.Steps {
				if oneIn(t, 4, "trouble with a request") && !h.Steps[i].WrongKey {
					h.Steps[i].Troubles = append(h.Steps[i].Troubles, trouble{"request", pick(t, "nth request", 1, 1, 2, 4), pick(t, "what",
						"some", "some lost", "before", "after", "hang before", "hang after")})
				}
			}
		}
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
	late     theme = "late"     // they come into the index late
	leaving  theme = "leaving"  // they leave the filter while they are listed
	past     theme = "past"     // they are all there when the first backfill begins, and take it minutes
	changing theme = "changing" // they change again and again
	coming   theme = "coming"   // they come to match the filter
	audited  theme = "audited"  // they come into the index later than the overlap
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
			bases = append(bases, aRun()-millis(0, h.Feed.Overlap+h.Feed.Settle+min(h.Feed.AuditWindow, 30*time.Hour), "before"))
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
		case theme == audited && oneIn(t, 2, "very late"):
			a.Late = millis(h.Feed.Overlap, 30*time.Hour, "hours late")
		}
		if (theme == changing || theme == coming) && oneIn(t, 2, "walks") || oneIn(t, 10, "walks all the same") {
			for range rapid.IntRange(1, 4).Draw(t, "changes") {
				after := seconds(10, 4*3600, "changes")
				if rapid.Bool().Draw(t, "during a run") {
					after = max(aRun()+millis(0, 2*time.Minute, "changes during a run")-a.Created, 10*time.Second)
				}
				a.Walk = append(a.Walk, walk{After: after, Status: pick(t, "status", "", "new", "read", "in_progress", "escalated", "closed")})
			}
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

// unusable is how many elements at most stand in a row: a listing can't begin
// anew between them.
func unusable(alerts []alert) int {
	longest, n := 0, 0
	for _, a := range alerts {
		if n++; a.Element == "" {
			n = 0
		}
		longest = max(longest, n)
	}
	return longest
}

// lying troubles make the API say something that is not so. One of them is what
// the engine promises to see through; of two in a row it can't know.
var lying = []string{"withheld", "extra", "null", "repeat", "disorder", "unlink", "again", "endless"}

func drawTrouble(t *rapid.T, s *step) {
	// Most runs are short.
	nth := func() int { return pick(t, "nth", 1, 1, 1, 2, 2, 3, 4, 6) }
	page := func() string { return pick(t, "kind of page", "list", "page", "page") }
	for range rapid.IntRange(0, 3).Draw(t, "troubles") {
		switch rapid.IntRange(1, 5).Draw(t, "side") {
		case 5:
			s.Troubles = append(s.Troubles, trouble{"get", nth(), pick(t, "what",
				"reset before", "reset after", "truncate", "500", "503 wait", "408", "429", "429 wait", "html", "hang", "quota",
				"instead error", "instead null", "instead object", "instead list", "instead other")})
		case 1, 2:
			s.Troubles = append(s.Troubles, trouble{page(), nth(), pick(t, "what",
				"reset before", "reset after", "truncate", "500", "503 wait", "408", "429", "429 wait", "html", "hang", "quota",
				"instead error", "instead null", "instead object", "instead list", "instead other")})
		case 3:
			where := pick(t, "store call", "open", "write feed", "write feed", "records", "write records", "write records", "usage",
				"backfill", "write backfill", "create backfill")
			what := pick(t, "what", "before", "after", "hang before", "hang after")
			if where == "write records" && oneIn(t, 3, "concurrent write") {
				what = "concurrent write"
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
	out := dtmsim.Alert{ID: id(i), CreatedAt: created, VisibleAt: created.Add(a.Late), Type: "Message", Tags: a.Tags}
	if a.Element != "" {
		out.Raw = []byte(a.Element)
		return out
	}
	doc := "short"
	if a.Huge {
		doc = strings.Repeat("long", docOfHuge/4)
	}
	tags := ""
	if a.Tags != nil {
		tags = fmt.Sprintf(`"tags":["%s"],`, strings.Join(a.Tags, `","`))
	}
	at := created.Format("2006-01-02T15:04:05.999Z07:00")
	switch place := created.Add(-a.Astray); {
	case a.Astray == 0:
	case a.ByPlace:
		out.CreatedAt, out.UpdatedAt, out.VisibleAt = place, created, place
	default:
		out.Place, out.VisibleAt = place, place
	}
	title := "an alert"
	if a.Noise {
		title = "noise"
	}
	// The simulator would find out for each alert what is left without the document.
	bare := fmt.Sprintf(`{"id":%q,"created_at":%q,"updated_at":%q,%s"status":"new","alert_type":"Message","title":%q,"alert_summary":"of %s"`,
		out.ID, at, at, tags, title, password)
	out.Body = fmt.Appendf(nil, `%s,"doc":{"text":%q,"password":%q}}`, bare, doc, password)
	out.Slim = []byte(bare + "}")
	ahead := slices.ContainsFunc(a.Walk, func(c walk) bool { return c.Ahead })
	for i, c := range a.changes() {
		out.Changes = append(out.Changes, dtmsim.Change{At: created.Add(c.After), Apply: func(a *dtmsim.Alert) {
			if ahead { // each version says its own time, whatever the one before says
				a.UpdatedAt = created.Add(c.After).UTC().Truncate(time.Millisecond)
			}
			if c.Ahead {
				a.UpdatedAt = a.UpdatedAt.Add(farAhead)
			}
			if c.Status == "" {
				a.Set("ai_doc_summary", fmt.Sprintf("summary %d", i))
			} else {
				a.Status = c.Status
			}
		}})
	}
	return out
}

// changes are an alert's later versions in their order.
func (a alert) changes() []walk {
	all := slices.Concat([]walk{{After: a.Rewritten}, {After: a.Edited}, {After: a.Closed, Status: "closed"}}, a.Walk)
	all = slices.DeleteFunc(all, func(c walk) bool { return c.After == 0 })
	slices.SortStableFunc(all, func(a, b walk) int { return cmp.Compare(a.After, b.After) })
	return all
}

// GoString is what rapid prints of a history.
func (h history) GoString() string {
	var b strings.Builder
	fmt.Fprintf(&b, "API %+v\nfeed %+v\npages of %d bytes, %d together; database %v, topics %v\n", h.Server, h.Feed, h.PageLimit, h.PageMemory, h.StoreTakes, h.PublishTakes)
	for i, a := range h.Alerts {
		a.Element = a.Element[:min(len(a.Element), 200)]
		fmt.Fprintf(&b, "%s %+v\n", id(i), a)
	}
	for i, s := range h.Steps {
		fmt.Fprintf(&b, "step %d %+v\n", i+1, s)
	}
	for i, s := range h.Syncs {
		fmt.Fprintf(&b, "writing process %d %+v\n", i+1, s)
	}
	for i, r := range h.Asks {
		fmt.Fprintf(&b, "write-back %d %+v\n", i+1, r)
	}
	if h.Mirror != "" {
		fmt.Fprintf(&b, "mirror %s\n", h.Mirror)
	}
	return b.String()
}
