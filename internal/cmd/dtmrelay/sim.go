package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

type simCmd struct {
	Port uint16 `default:"8089" help:"Port of 127.0.0.1 to listen on (${default}); 0 picks a free one."`
	JSON bool   `help:"Print the statistics as JSON."`

	Alerts       int           `group:"Alerts" default:"1000" placeholder:"N" help:"How many alerts there are at the start, 0 to 1000000 (${default})."`
	Span         time.Duration `group:"Alerts" default:"24h" placeholder:"D" help:"How far back they reach (${default})."`
	NewPerMinute int           `group:"Alerts" default:"0" placeholder:"N" help:"How many come every minute while it runs, up to 60000 (${default})."`
	Seed         uint64        `group:"Alerts" default:"1" placeholder:"N" help:"The same seed gives the same alerts at other times (${default})."`

	MonitorOff []monitorOff `group:"Alerts" sep:"none" placeholder:"ID@D" help:"The API disables this monitor so long after the start (ID alone: from the start). GET /dtm/monitors lists them. Its alerts stay. May be repeated."`

	Key            string                 `group:"Limits" placeholder:"KEY" help:"The API key that is accepted (any)."`
	MaxConcurrent  int                    `group:"Limits" default:"0" placeholder:"N" help:"How many list requests may run at once; 0 is no limit, the API's is 10."`
	RequestsPerDay int                    `group:"Limits" default:"0" placeholder:"N" help:"How many requests are answered in a day (UTC); 0 is no limit, the API's is 50000."`
	ErrorsPerHour  int                    `group:"Limits" default:"0" placeholder:"N" help:"Lock the user out for an hour after so many answers of 400 and above within one; 0 is never, the API's is 100."`
	RetryAfter     dtmsim.RetryAfterStyle `group:"Limits" default:"none" enum:"none,seconds,date" placeholder:"FORM" help:"How a 429 of these limits says when to come back: ${enum} (${default})."`

	Latency time.Duration `group:"Answers" default:"0s" placeholder:"D" help:"Time that every list request takes (${default})."`
	Jitter  time.Duration `group:"Answers" default:"0s" placeholder:"D" help:"Up to so much more (${default})."`
	Gzip    bool          `group:"Answers" default:"true" negatable:"" help:"Compress answers for clients that accept it (on)."`
	Fault   []fault       `group:"Answers" sep:"none" placeholder:"RULE" help:"Something to go wrong, see above; may be repeated, the first that fits acts."`

	Since         dtmsim.Bound    `group:"Readings of the API" default:"inclusive" enum:"inclusive,exclusive" placeholder:"BOUND" help:"Whether since takes in its own millisecond: ${enum} (${default})."`
	Until         dtmsim.Bound    `group:"Readings of the API" default:"inclusive" enum:"inclusive,exclusive" placeholder:"BOUND" help:"The same for until: ${enum} (${default})."`
	SinceMaxAge   time.Duration   `group:"Readings of the API" default:"0s" placeholder:"D" help:"How old since may be; 0s is no limit."`
	SinceTooOld   dtmsim.TooOld   `group:"Readings of the API" default:"reject" enum:"reject,clamp" placeholder:"WHAT" help:"What happens to an older one: ${enum} (${default})."`
	Ties          dtmsim.TieOrder `group:"Readings of the API" default:"id" enum:"id,reverse,shuffled" placeholder:"ORDER" help:"Order of alerts with an equal sort key: ${enum} (${default})."`
	Coarse        time.Duration   `group:"Readings of the API" default:"0s" placeholder:"D" help:"How exactly created_at is sorted; 0s is to the millisecond."`
	Clock         time.Duration   `group:"Readings of the API" default:"0s" placeholder:"D" help:"By how much its time is ahead of this machine's; may be negative (--clock=-1h)."`
	NoDate        bool            `group:"Readings of the API" help:"Leave the Date header out."`
	TagsAll       bool            `group:"Readings of the API" help:"An alert must have all tags that are asked for, not one of them."`
	MonitorsPage  int             `group:"Readings of the API" default:"0" placeholder:"N" help:"How many monitors a page of their list has; 0 is all of them."`
	MScoreMissing bool            `group:"Readings of the API" name:"mscore-missing-passes" help:"Alerts without a score pass mscore_gte."`

	Tokens            dtmsim.TokenMode  `group:"Readings of the API" default:"once" enum:"once,scroll,many" placeholder:"MODE" help:"What a page token is good for: ${enum} (${default})."`
	Paging            dtmsim.PagingMode `group:"Readings of the API" default:"snapshot" enum:"snapshot,offset" placeholder:"MODE" help:"What the pages of a listing are cut from: ${enum} (${default})."`
	DefaultLife       time.Duration     `group:"Readings of the API" default:"1m" placeholder:"D" help:"How long a page token lives when the request doesn't say (${default})."`
	MaxLife           time.Duration     `group:"Readings of the API" default:"10m" placeholder:"D" help:"How long it lives at most (${default})."`
	ExpiredStatus     int               `group:"Readings of the API" default:"404" placeholder:"STATUS" help:"Answer to an unknown, used or expired token (${default})."`
	RejectOversize    bool              `group:"Readings of the API" help:"Answer 400 to a size above the maximum instead of cutting it."`
	RejectExtraParams bool              `group:"Readings of the API" help:"Answer 400 when other parameters stand beside a page token."`

	LinkOnLastPage bool              `group:"Readings of the API" help:"Put a Link on every page, also on the last and on empty ones, as recorded in 2023."`
	LinkOnFullLast bool              `group:"Readings of the API" help:"Put a Link on a last page that is full."`
	LinkHost       string            `group:"Readings of the API" placeholder:"URL" help:"Base URL in the Link header, like https://api.intelligence.mandiant.com/v4 (its own)."`
	LinkStyle      dtmsim.LinkStyle  `group:"Readings of the API" default:"plain" enum:"plain,unquoted,first,several,relative,params,many-rels,rel-last" placeholder:"STYLE" help:"How the Link header is written: ${enum} (${default})."`
	Empty          dtmsim.EmptyStyle `group:"Readings of the API" default:"array" enum:"array,null,no-content" placeholder:"STYLE" help:"How a list without alerts is written: ${enum} (${default})."`
}

func (simCmd) Help() string {
	return `All alerts are invented. It runs until Ctrl-C, and then prints what it was asked and what it answered. Where the API's documentation is silent, flags choose a reading; the defaults are the likeliest.

` + faultHelp + `

Examples:

	# 5000 alerts of the last two days, ten new ones a minute
	dtmrelay sim --alerts 5000 --span 48h --new-per-minute 10

	# the API's limits, and a slow API
	dtmrelay sim --max-concurrent 10 --errors-per-hour 100 --retry-after seconds --latency 300ms

	# every seventh request fails, and the third page is cut after 900 bytes
	dtmrelay sim --fault status=503,every=7 --fault kind=page,nth=3,truncate=900

	# a monitor is disabled after five minutes
	dtmrelay sim --monitor-off d40s1m0gp00000examp1@5m`
}

// monitorOff is a flag's value, ID@DURATION.
type monitorOff struct {
	id    string
	after time.Duration
}

func (m *monitorOff) UnmarshalText(text []byte) (err error) {
	id, after, timed := strings.Cut(string(text), "@")
	if timed {
		m.after, err = time.ParseDuration(after)
	}
	if m.id = id; id == "" || err != nil || m.after < 0 {
		return errors.New("it must be the id of a monitor, with @ and a duration after it if it goes off later, like d40s1m0gp00000examp1@5m")
	}
	return nil
}

func (c *simCmd) Validate() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(c.Alerts < 0 || c.Alerts > 1_000_000, "--alerts is %d: it must be 0 to 1000000", c.Alerts)
	refuse(c.Span < time.Second, "--span is %s: it must be 1s or more", c.Span)
	refuse(c.NewPerMinute < 0 || c.NewPerMinute > 60_000, "--new-per-minute is %d: it must be 0 to 60000", c.NewPerMinute)
	refuse(c.ExpiredStatus < 400 || c.ExpiredStatus > 599, "--expired-status is %d: it must be 400 to 599", c.ExpiredStatus)
	for name, n := range map[string]int{
		"monitors-page": c.MonitorsPage, "max-concurrent": c.MaxConcurrent, "requests-per-day": c.RequestsPerDay, "errors-per-hour": c.ErrorsPerHour,
	} {
		refuse(n < 0, "--%s is %d: it must be 0 or more", name, n)
	}
	for name, d := range map[string]time.Duration{
		"latency": c.Latency, "jitter": c.Jitter, "since-max-age": c.SinceMaxAge, "coarse": c.Coarse,
	} {
		refuse(d < 0, "--%s is %s: it must be 0s or more", name, d)
	}
	refuse(c.DefaultLife <= 0 || c.MaxLife < c.DefaultLife,
		"--default-life is %s and --max-life is %s: the first must be more than 0s, the second not less", c.DefaultLife, c.MaxLife)
	return errors.Join(errs...)
}

func (c *simCmd) Run(ctx context.Context) error {
	now := time.Now().Add(c.Clock)
	fmt.Fprintf(os.Stderr, "inventing %d alerts\n", c.Alerts)
	server, err := unlessInterrupted(ctx, func() (*dtmsim.Server, error) {
		return dtmsim.New(c.options(), dtmsim.Generate(c.Seed, c.Alerts, now.Add(-c.Span), now, dtmsim.Typical())), nil
	})
	if err != nil {
		return err
	}
	for _, f := range c.Fault {
		server.AddFault(f.Fault)
	}
	for _, m := range c.MonitorOff {
		server.ChangeMonitors(dtmsim.MonitorChange{ID: m.id, At: now.Add(m.after), State: dtmsim.MonitorOff})
	}
	if c.NewPerMinute > 0 {
		go c.keepAdding(ctx, server, now)
	}
	base, closeSim, err := listenAndServe(server, c.Port)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, listening+base)
	c.printUse(os.Stderr, base)
	<-ctx.Done()
	if err := closeSim(); err != nil {
		return err
	}
	if c.JSON {
		return printStatsJSON(os.Stdout, server.Stats())
	}
	return printStats(os.Stdout, server.Stats())
}

// unlessInterrupted is what work makes, which can take a minute and asks no context. When
// ctx ends before, it is left to the end of the process.
func unlessInterrupted[T any](ctx context.Context, work func() (T, error)) (made T, err error) {
	done := make(chan struct{})
	var result T
	var failure error
	go func() {
		defer close(done)
		result, failure = work()
	}()
	select {
	case <-ctx.Done():
		return made, errors.New("interrupted")
	case <-done:
		return result, failure
	}
}

func (c *simCmd) options() dtmsim.Options {
	return dtmsim.Options{
		Key: c.Key, Seed: c.Seed, MonitorsPage: c.MonitorsPage,
		Since: c.Since, Until: c.Until, SinceMaxAge: c.SinceMaxAge, SinceTooOld: c.SinceTooOld,
		RejectOversize: c.RejectOversize, TagsAll: c.TagsAll, MScoreMissingPasses: c.MScoreMissing, Ties: c.Ties,
		Coarse: c.Coarse, Clock: c.Clock, NoDate: c.NoDate,
		Tokens: c.Tokens, Paging: c.Paging, DefaultLife: c.DefaultLife, MaxLife: c.MaxLife,
		ExpiredStatus: c.ExpiredStatus, RejectExtraParams: c.RejectExtraParams,
		LinkOnLastPage: c.LinkOnLastPage, LinkOnFullLast: c.LinkOnFullLast, LinkHost: c.LinkHost,
		LinkStyle: c.LinkStyle, Empty: c.Empty,
		MaxConcurrent: c.MaxConcurrent, RequestsPerDay: c.RequestsPerDay, ErrorsPerHour: c.ErrorsPerHour,
		RetryAfter: c.RetryAfter,
		Latency:    c.Latency, Jitter: c.Jitter, Gzip: c.Gzip,
	}
}

// keepAdding adds every minute the alerts of the next one: none is served before
// its created_at.
func (c *simCmd) keepAdding(ctx context.Context, server *dtmsim.Server, from time.Time) {
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for seed := c.Seed + 1; ; seed++ {
		to := from.Add(time.Minute)
		server.Add(dtmsim.Generate(seed, c.NewPerMinute, from, to, dtmsim.Typical())...)
		from = to
		select {
		case <-ctx.Done():
			return
		case <-minute.C:
		}
	}
}

// listenAndServe serves on a port of the loopback interface until it is closed.
func listenAndServe(handler http.Handler, port uint16) (base string, closeServer func() error, err error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	return "http://" + listener.Addr().String(), server.Close, nil
}

// apiPath is where the simulator serves the API (dtmsim.Options.Prefix).
const apiPath = "/api/v3"

func (c *simCmd) printUse(w io.Writer, base string) {
	key := c.Key
	if key == "" {
		key = "any-key"
	}
	fmt.Fprintf(w, `
To relay from it, in another terminal:

  export GTI_BASE_URL=%s
  export GTI_API_KEY=%s
  export INITIAL_LOOKBACK=%s
  %s serve --local
  curl -X POST http://127.0.0.1:8080/

Ctrl-C ends it.
`, base+apiPath, key, (c.Span + time.Hour).Round(time.Second), self())
}

// simStats is dtmsim.Stats as JSON.
type simStats struct {
	Requests      int                 `json:"requests"`
	ByKind        map[dtmsim.Kind]int `json:"by_kind"`
	ByStatus      map[string]int      `json:"by_status"` // "none" is no answer
	Errors        int                 `json:"errors"`
	Pages         int                 `json:"pages"`
	Alerts        int                 `json:"alerts"`
	Faults        int                 `json:"faults"`
	MaxConcurrent int                 `json:"max_concurrent"`
	KeyByHost     map[string]int      `json:"key_by_host"`
}

func statusName(status int) string {
	if status == 0 {
		return "none"
	}
	return strconv.Itoa(status)
}

func printStatsJSON(w io.Writer, s dtmsim.Stats) error {
	byStatus := map[string]int{}
	for status, n := range s.ByStatus {
		byStatus[statusName(status)] = n
	}
	return json.NewEncoder(w).Encode(simStats{
		Requests: s.Requests, ByKind: s.ByKind, ByStatus: byStatus, Errors: s.Errors, Pages: s.Pages,
		Alerts: s.Alerts, Faults: s.Faults, MaxConcurrent: s.MaxConcurrent, KeyByHost: s.KeyByHost,
	})
}

func printStats(w io.Writer, s dtmsim.Stats) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, n int) { fmt.Fprintf(t, "%s\t%d\n", name, n) }
	row("requests", s.Requests)
	for _, kind := range slices.Sorted(maps.Keys(s.ByKind)) {
		row("  "+string(kind), s.ByKind[kind])
	}
	for _, status := range slices.Sorted(maps.Keys(s.ByStatus)) {
		row("answered "+statusName(status), s.ByStatus[status])
	}
	row("answers of 400 and above", s.Errors)
	row("pages", s.Pages)
	row("alerts in them", s.Alerts)
	row("faults", s.Faults)
	row("most list requests at once", s.MaxConcurrent)
	for _, host := range slices.Sorted(maps.Keys(s.KeyByHost)) {
		row("API key sent to "+host, s.KeyByHost[host])
	}
	return t.Flush()
}
