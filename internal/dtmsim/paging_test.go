package dtmsim

import (
	"encoding/base32"
	"encoding/binary"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func ids(from, to int) []string {
	var all []string
	for _, a := range row(to)[from:] {
		all = append(all, a.ID)
	}
	return all
}

func TestTokens(t *testing.T) {
	for _, tt := range []struct {
		name         string
		options      Options
		secondStatus int
		second       []string // what asking again for the second page gives
	}{
		{"once", Options{}, 404, nil},
		{"once, 400", Options{Tokens: Once, ExpiredStatus: 400}, 400, nil},
		{"scroll", Options{Tokens: Scroll}, 200, ids(20, 30)},
		{"many", Options{Tokens: Many}, 200, ids(10, 20)},
	} {
		for _, paging := range []PagingMode{Snapshot, Offset} {
			t.Run(tt.name+", "+string(paging), func(t *testing.T) {
				tt.options.Paging = paging
				c := newDirectClient(t, New(tt.options, row(45)))
				equal(t, "all", c.all("order=asc", 99), ids(0, 45))

				first := c.list("order=asc")
				page := c.page(first.next)
				equal(t, "second page", page.ids, ids(10, 20))
				again := c.page(first.next)
				equal(t, "status of asking again", again.status, tt.secondStatus)
				equal(t, "asking again", again.ids, tt.second)
				equal(t, "unknown token", c.page("00000000000000000000").status, max(tt.options.ExpiredStatus, 404*(1-min(1, tt.options.ExpiredStatus))))
			})
		}
	}
}

func TestTokenIsNewXid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newDirectClient(t, New(Options{}, generateBefore(50)))
		seen := map[string]bool{}
		for r := c.list(""); r.next != ""; r = c.page(r.next) {
			if !regexp.MustCompile(`^[0-9a-v]{20}$`).MatchString(r.next) || seen[r.next] {
				t.Fatalf("token %q", r.next)
			}
			seen[r.next] = true
			b, err := base32.HexEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(r.next))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "second in the token", int64(binary.BigEndian.Uint32(b)), time.Now().Unix())
			time.Sleep(3 * time.Second)
		}
		equal(t, "tokens", len(seen), 4)
	})
}

// generateBefore makes alerts that are there in a bubble, whose time begins in 2000.
func generateBefore(n int) []Alert {
	return Generate(1, n, time.Now().Add(-time.Hour), time.Now(), Shape{})
}

func TestLife(t *testing.T) {
	for _, tt := range []struct {
		name, life string
		wait       time.Duration
		status     int
	}{
		{"default, in time", "", time.Minute, 200},
		{"default, late", "", time.Minute + time.Millisecond, 404},
		{"asked for", "&life=90s", 90 * time.Second, 200},
		{"asked for, late", "&life=90s", 91 * time.Second, 404},
		{"longest", "&life=1h", 10 * time.Minute, 200},
		{"longer than the longest", "&life=1h", 10*time.Minute + time.Second, 404},
	} {
		for _, mode := range []TokenMode{Once, Scroll, Many} {
			t.Run(tt.name+" "+string(mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newDirectClient(t, New(Options{Tokens: mode}, generateBefore(30)))
					r := c.list("size=10" + tt.life)
					time.Sleep(tt.wait)
					r = c.page(r.next)
					equal(t, "second page", r.status, tt.status)
					if tt.status == 200 {
						// Each page renews the life.
						time.Sleep(tt.wait)
						equal(t, "third page", c.page(r.next).status, 200)
					}
				})
			})
		}
	}
}

func TestExtraParametersWithPage(t *testing.T) {
	for reject, want := range map[bool]int{false: 200, true: 400} {
		c := newDirectClient(t, New(Options{RejectExtraParams: reject}, row(30)))
		equal(t, "status", c.page(c.list("").next+"&size=5").status, want)
	}
}

func TestPagingWhileAlertsChange(t *testing.T) {
	for _, tt := range []struct {
		paging PagingMode
		want   []string
	}{
		{Snapshot, ids(0, 30)},
		// Ten have left in front: as many are skipped, and never seen.
		{Offset, append(ids(0, 10), ids(20, 30)...)},
	} {
		t.Run(string(tt.paging), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alerts := row(30)
				for i := range alerts {
					alerts[i].CreatedAt = time.Now().Add(time.Duration(i-1000) * time.Millisecond)
				}
				s := New(Options{Paging: tt.paging}, alerts)
				c := newDirectClient(t, s)
				r := c.list("order=asc&status=new")
				got := r.ids
				time.Sleep(time.Second)
				for _, id := range r.ids {
					s.Update(id, func(a *Alert) { a.Status = "closed" })
				}
				for r.next != "" {
					r = c.page(r.next)
					got = append(got, r.ids...)
				}
				equal(t, "alerts", got, tt.want)
			})
		})
	}
}

func TestIndexMovesWithTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		s := New(Options{}, []Alert{
			{ID: "future", CreatedAt: now.Add(time.Minute)},
			{ID: "late", CreatedAt: now.Add(-time.Minute), VisibleAt: now.Add(2 * time.Minute)},
			{ID: "rewritten", CreatedAt: now.Add(-time.Second), Changes: []Change{
				{At: now.Add(-time.Millisecond), Apply: func(a *Alert) { a.Set("ai_doc_summary", "done") }},
				{At: now.Add(3 * time.Minute), Apply: func(a *Alert) { a.Status = "closed" }},
			}},
		})
		c := newDirectClient(t, s)
		equal(t, "at first", c.list("order=asc").ids, []string{"rewritten"})
		if body := c.list("").body; !strings.Contains(body, `"ai_doc_summary":"done"`) {
			t.Errorf("a change of the past hasn't happened: %s", body)
		}
		equal(t, "by id", c.get("/dtm/alerts/late").status, 200)
		equal(t, "by id, not yet created", c.get("/dtm/alerts/future").status, 404)

		ahead, err := s.Visible(now.Add(time.Hour), map[string][]string{"status": {"closed"}})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "closed in an hour", len(ahead), 1)

		// A change by hand in between isn't undone by one that was planned before.
		s.Update("rewritten", func(a *Alert) { a.Tags = []string{"mine"} })
		time.Sleep(time.Minute)
		equal(t, "a minute later", c.list("order=asc").ids, []string{"rewritten", "future"})
		time.Sleep(time.Minute)
		equal(t, "two minutes later", c.list("order=asc").ids, []string{"late", "rewritten", "future"})
		time.Sleep(time.Minute)
		equal(t, "three minutes later", c.list("status=closed&tags=mine").ids, []string{"rewritten"})
		if v := s.Versions("rewritten"); len(v) != 3 || !v[2].UpdatedAt.Equal(now.Add(3*time.Minute)) {
			t.Errorf("the versions are %+v", v)
		}
	})
}

func TestLinkOnLastPage(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options Options
		alerts  int
		want    []int // alerts of each page until there is no Link, at most five pages
	}{
		{"short last page", Options{}, 15, []int{10, 5}},
		{"full last page", Options{}, 20, []int{10, 10}},
		{"full last page with a Link", Options{LinkOnFullLast: true}, 20, []int{10, 10, 0}},
		{"short last page, full ones with a Link", Options{LinkOnFullLast: true}, 15, []int{10, 5}},
		{"as in 2023", Options{LinkOnLastPage: true}, 15, []int{10, 5, 0, 0, 0}},
		{"as in 2023, nothing", Options{LinkOnLastPage: true}, 0, []int{0, 0, 0, 0, 0}},
		{"nothing", Options{LinkOnFullLast: true}, 0, []int{0}},
	} {
		for _, mode := range []TokenMode{Once, Scroll, Many} {
			for _, paging := range []PagingMode{Snapshot, Offset} {
				t.Run(tt.name+" "+string(mode)+" "+string(paging), func(t *testing.T) {
					tt.options.Tokens, tt.options.Paging = mode, paging
					c := newDirectClient(t, New(tt.options, row(tt.alerts)))
					r := c.list("")
					got := []int{len(r.ids)}
					for r.next != "" && len(got) < 5 {
						r = c.page(r.next)
						got = append(got, len(r.ids))
					}
					equal(t, "pages", got, tt.want)
				})
			}
		}
	}
}

func TestLinkHeader(t *testing.T) {
	const mandiant = "https://api.intelligence.mandiant.com/v4"
	for style, want := range map[LinkStyle][]string{
		LinkPlain:    {`<https://api.intelligence.mandiant.com/v4/dtm/alerts?page=T>; rel="next"`},
		LinkUnquoted: {`<https://api.intelligence.mandiant.com/v4/dtm/alerts?page=T>; rel=next`},
		LinkFirst:    {`<https://api.intelligence.mandiant.com/v4/dtm/alerts>; rel="first", <https://api.intelligence.mandiant.com/v4/dtm/alerts?page=T>; rel="next"`},
		LinkSeveral: {
			`<https://api.intelligence.mandiant.com/v4/dtm/alerts>; rel="first"`,
			`<https://api.intelligence.mandiant.com/v4/dtm/alerts/stats>; rel="related"`,
			`<https://api.intelligence.mandiant.com/v4/dtm/alerts?page=T>; rel="next"`,
		},
		LinkRelative: {`</api/v3/dtm/alerts?page=T>; rel="next"`},
		LinkParams:   {`<https://api.intelligence.mandiant.com/v4/dtm/alerts?life=1m&page=T&v=1>; title="more, and; rel=\"prev\""; rel="next"`},
		LinkManyRels: {`<https://api.intelligence.mandiant.com/v4/dtm/alerts?page=T>; rel="last NEXT"`},
		LinkRelLast:  {`<https://api.intelligence.mandiant.com/v4/dtm/alerts?page=T>;type="application/json";REL="next"`},
	} {
		c := newDirectClient(t, New(Options{LinkStyle: style, LinkHost: mandiant}, row(30)))
		got := c.list("").header.Values("Link")
		for i := range got {
			got[i] = regexp.MustCompile(`page=[0-9a-v]{20}`).ReplaceAllString(got[i], "page=T")
		}
		equal(t, string(style), got, want)
	}

	c := newClient(t, New(Options{}, row(30)))
	link := c.list("").header.Get("Link")
	target, _, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-apikey", testKey)
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	equal(t, "following "+link, res.StatusCode, 200)
}

// TestOutOfOrder: what lists are sorted by is not always what since and until look at.
func TestOutOfOrder(t *testing.T) {
	alerts := row(6)
	alerts[4].Place = alerts[1].CreatedAt
	c := newDirectClient(t, New(Options{}, alerts))
	want := []string{alerts[0].ID, alerts[1].ID, alerts[4].ID, alerts[2].ID, alerts[3].ID, alerts[5].ID}
	equal(t, "one out of place", c.all("order=asc", 9), want)
	since := alerts[3].CreatedAt.Format(time.RFC3339Nano)
	equal(t, "since looks at created_at", c.all("order=asc&since="+since, 9), []string{alerts[4].ID, alerts[3].ID, alerts[5].ID})

	coarse := New(Options{Coarse: time.Hour, Ties: TiesReverse}, row(4))
	equal(t, "sorted to the hour", newDirectClient(t, coarse).all("order=asc", 9), []string{row(4)[3].ID, row(4)[2].ID, row(4)[1].ID, row(4)[0].ID})
}

// TestPageAgain: a page that leads to itself, for ever.
func TestPageAgain(t *testing.T) {
	s := New(Options{}, row(25))
	s.AddFault(Fault{Kind: Page, Again: true})
	c := newDirectClient(t, s)
	first := c.list("order=asc")
	second := c.page(first.next)
	third := c.page(second.next)
	equal(t, "second page", second.ids, ids(10, 20))
	equal(t, "third page", third.ids, ids(10, 20))
	if third.next == "" || third.next == second.next {
		t.Errorf("the token %q leads on to %q", second.next, third.next)
	}
}

// TestClock: the API's time governs what it lists, and it says what it is.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		alerts := []Alert{{ID: "old", CreatedAt: now.Add(-2 * time.Hour)}, {ID: "young", CreatedAt: now.Add(-time.Minute)}}
		c := newDirectClient(t, New(Options{Clock: -time.Hour}, alerts))
		r := c.list("order=asc")
		equal(t, "an hour late", r.ids, []string{"old"})
		equal(t, "its Date", r.header.Get("Date"), now.Add(-time.Hour).UTC().Format(http.TimeFormat))
		equal(t, "without a Date", newDirectClient(t, New(Options{NoDate: true}, alerts)).list("").header.Get("Date"), "")
	})
}
