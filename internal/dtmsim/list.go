package dtmsim

import (
	"cmp"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// listing is a page context: what a list request leaves on the server.
type listing struct {
	query
	at         time.Time // when it was asked for
	candidates []*record // in the order of the listing; of a snapshot
	cursor     int       // where the next page begins, of a scroll
	expires    time.Time
	shuffle    uint64
}

// list begins a listing and answers its first page.
func (s *Server) list(r *http.Request, f Fault, now time.Time) *answer {
	q, err := parseQuery(r.URL.Query(), &s.options, now)
	if err != nil {
		return backendError(http.StatusBadRequest, err.Error())
	}
	l := &listing{query: q, at: now, shuffle: s.rng.Uint64()}
	l.candidates = s.candidates(l, now)
	return s.page(r, f, l, 0, "", now)
}

// next answers a page request.
func (s *Server) next(r *http.Request, f Fault, now time.Time) *answer {
	v := r.URL.Query()
	if s.options.RejectExtraParams && len(v) > 1 {
		return backendError(http.StatusBadRequest, "page allows no other parameters")
	}
	token := v.Get("page")
	l, from, ok := s.tokens.take(token, now)
	if !ok {
		return backendError(s.options.ExpiredStatus, "unknown page")
	}
	return s.page(r, f, l, from, token, now)
}

// page answers the part of a listing that begins at from. used is the token it
// was asked with, empty for the first page.
func (s *Server) page(r *http.Request, f Fault, l *listing, from int, used string, now time.Time) *answer {
	alerts, end, more := s.cut(l, from, now)
	full := len(alerts) == l.size
	link := more || s.options.LinkOnLastPage || s.options.LinkOnFullLast && full

	if len(alerts) > 0 && (f.EmptyPage != "" || f.NullAlerts) {
		if f.EmptyPage != EmptyWithheld {
			end = from
		}
		alerts, link = nil, true
	}
	if f.Again && used != "" {
		end, link = from, true
	}
	if f.Disorder {
		slices.Reverse(alerts)
	}

	elements := make([][]byte, 0, 2*len(alerts)+3)
	for i, a := range alerts {
		if i > 0 {
			elements = append(elements, comma)
		}
		elements = a.pieces(elements, l.refs, l.monitorName)
		if f.MalformedElement != "" && i == len(alerts)/2 {
			elements = append(elements, comma, []byte(f.MalformedElement))
		}
	}
	if f.MalformedElement != "" && len(alerts) == 0 {
		elements = append(elements, []byte(f.MalformedElement))
	}

	a := s.listAnswer(elements, f)
	a.alerts = len(alerts)
	if link {
		reuse := ""
		if f.RepeatToken {
			reuse = used
		}
		token := s.tokens.give(l, end, reuse, now)
		for _, value := range s.links(r, f, "alerts", token) {
			a.header.Add("Link", value)
		}
	}
	return a
}

var (
	comma      = []byte(",")
	listBegin  = []byte(`{"alerts":[`)
	listEnd    = []byte("]}\n") // recorded: a body ends with a newline
	listOfNull = []byte(`{"alerts":null}` + "\n")
)

func (s *Server) listAnswer(elements [][]byte, f Fault) *answer {
	a := newAnswer(http.StatusOK, nil)
	switch {
	case len(elements) > 0:
		a.body = slices.Concat([][]byte{listBegin}, elements, [][]byte{listEnd})
	case s.options.Empty == EmptyNull || f.NullAlerts:
		a.body = [][]byte{listOfNull}
	case s.options.Empty == EmptyNoContent:
		a.status = http.StatusNoContent
	default:
		a.body = [][]byte{listBegin, listEnd}
	}
	a.header.Set("Access-Control-Expose-Headers", "Link")
	return a
}

// candidates are the records that a listing may show, in its order.
func (s *Server) candidates(l *listing, at time.Time) []*record {
	c := s.index.between(l.since, l.until)
	if l.sort != "created_at" {
		for _, r := range c {
			r.advance(at)
		}
		c = slices.DeleteFunc(slices.Clone(c), func(r *record) bool { return r.listedAt(at) == nil })
		slices.SortStableFunc(c, func(x, y *record) int { return l.compare(x.at(at), y.at(at)) })
	}
	if s.options.Ties == "" || s.options.Ties == TiesByID {
		return c
	}
	c = slices.Clone(c)
	for from := 0; from < len(c); {
		to := from + 1
		for to < len(c) && l.tie(c[from], c[to], at) {
			to++
		}
		if s.options.Ties == TiesReverse {
			slices.Reverse(c[from:to])
		} else {
			slices.SortFunc(c[from:to], func(x, y *record) int { return cmp.Compare(l.lot(x), l.lot(y)) })
		}
		from = to
	}
	return c
}

// tie reports whether two records have an equal sort key.
func (l *listing) tie(x, y *record, at time.Time) bool {
	if l.sort == "created_at" {
		return x.place.Equal(y.place)
	}
	return l.compare(x.at(at), y.at(at)) == 0
}

// lot is a record's place among its ties in this listing. It doesn't depend on
// the other records, so that offset paging isn't disturbed by the shuffling itself.
func (l *listing) lot(r *record) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, r.id) // a hash takes all
	return rand.NewPCG(l.shuffle, h.Sum64()).Uint64()
}

func (l *listing) compare(x, y *Alert) int {
	switch l.sort {
	case "updated_at":
		return x.UpdatedAt.Compare(y.UpdatedAt)
	case "id":
		return cmp.Compare(x.ID, y.ID)
	case "monitor_id":
		return cmp.Compare(x.MonitorID, y.MonitorID)
	default:
		return x.CreatedAt.Compare(y.CreatedAt)
	}
}

// cut takes a page out of a listing: its alerts, where the next one begins, and
// whether that has any. A snapshot counts candidates and looks at them as they
// were at the time of the listing; with offset paging, alerts as they are now.
func (s *Server) cut(l *listing, from int, now time.Time) (alerts []*Alert, end int, more bool) {
	candidates, at, first, skip := l.candidates, l.at, from, 0
	if s.options.Paging == Offset {
		candidates, at, first, skip = s.candidates(l, now), now, 0, from
	}
	end = from
	alerts = make([]*Alert, 0, min(l.size, max(0, len(candidates)-first)))
	for i := first; i < len(candidates); i++ {
		r := candidates[i]
		if l.desc {
			r = candidates[len(candidates)-1-i]
		}
		r.advance(now)
		a := r.listedAt(at)
		if a == nil || !l.matches(a) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if len(alerts) == l.size {
			return alerts, end, true
		}
		alerts = append(alerts, a)
		end = i + 1
		if s.options.Paging == Offset {
			end = from + len(alerts)
		}
	}
	return alerts, end, false
}

// links writes the Link header's values for the next page of a list.
func (s *Server) links(r *http.Request, f Fault, list, token string) []string {
	base := cmp.Or(f.ForeignLinkHost, s.options.LinkHost, s.ownBase(r))
	path := strings.TrimSuffix(base, "/") + "/dtm/" + list
	next := path + "?page=" + url.QueryEscape(token)
	switch s.options.LinkStyle {
	case LinkUnquoted:
		return []string{"<" + next + ">; rel=next"}
	case LinkFirst:
		return []string{"<" + path + `>; rel="first", <` + next + `>; rel="next"`}
	case LinkSeveral:
		return []string{"<" + path + `>; rel="first"`, "<" + path + `/stats>; rel="related"`, "<" + next + `>; rel="next"`}
	case LinkRelative:
		return []string{"<" + s.options.Prefix + "/dtm/" + list + "?page=" + url.QueryEscape(token) + `>; rel="next"`}
	case LinkParams:
		return []string{"<" + path + "?life=1m&page=" + url.QueryEscape(token) + `&v=1>; title="more, and; rel=\"prev\""; rel="next"`}
	case LinkManyRels:
		return []string{"<" + next + `>; rel="last NEXT"`}
	case LinkRelLast:
		return []string{"<" + next + `>;type="application/json";REL="next"`}
	default:
		return []string{"<" + next + `>; rel="next"`}
	}
}

// ownBase is the base URL that the request was sent to.
func (s *Server) ownBase(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil || r.URL.Scheme == "https" {
		scheme = "https"
	}
	return scheme + "://" + cmp.Or(r.Host, r.URL.Host) + s.options.Prefix
}
