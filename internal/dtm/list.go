package dtm

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// pageLife is how long the server is asked to keep a page context, the most
	// that the API allows.
	pageLife      = 10 * time.Minute
	pageLifeValue = "10m"

	queryTime = "2006-01-02T15:04:05.000Z"

	// maxAhead is how far ahead of the clocks a time of an alert may be.
	maxAhead = 24 * time.Hour
)

func (c *Client) listing(q Query) ask {
	sort, order := "created_at", "asc"
	if q.Newest {
		sort, order = "updated_at", "desc"
	}
	v := url.Values{
		"sort":         {sort},
		"order":        {order},
		"refs":         {strconv.FormatBool(q.Refs)},
		"monitor_name": {"true"},
		"life":         {pageLifeValue},
	}
	if q.Size > 0 {
		v.Set("size", strconv.Itoa(q.Size))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(queryTime))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.UTC().Format(queryTime))
	}
	q.Filter.addTo(v)
	a := ask{method: http.MethodGet, target: *c.alerts, size: q.Size, refs: q.Refs, alone: q.Alone}
	a.last = q.Size == 1 && !q.Refs
	a.read = func(got answer) ([]Alert, error) { return readPageOf(got, q.Size == 1) }
	a.target.RawQuery = v.Encode()
	return a
}

// List returns the pages of a listing, the alerts that were created first coming
// first, or with Query.Newest those that were changed last. A page is requested
// when the consumer asks for it, and its memory is the consumer's to release.
// After an error the iteration ends. It yields every typed error of this package
// and, when ctx is done, ctx's cause.
func (s *Session) List(ctx context.Context, q Query) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		a := s.client.listing(q)
		for {
			got, err := s.fetch(ctx, a)
			if err != nil {
				yield(Page{}, err)
				return
			}
			s.count(func(st *Stats) { st.Pages++ })
			page := got.page()
			next, found := nextPage(got.header)
			if found && next == "" {
				next = NoToken
			}
			page.Next = next
			if !yield(page, nil) || next == "" {
				return
			}
			if next == NoToken {
				yield(Page{}, &RestartError{Cause: errors.New("the next link has no usable page value")})
				return
			}
			// DTM API: nothing may accompany the page parameter.
			a.target.RawQuery = "page=" + url.QueryEscape(next)
			a.expires = got.receivedAt.Add(pageLife)
		}
	}
}

// ahead reports whether an alert's updated_at lies too far in the API's future.
func (a answer) ahead(alert Alert) bool {
	now := a.date()
	if now.IsZero() {
		now = a.askedAt
	}
	return alert.Fault == "" && alert.UpdatedAt.After(now.Add(maxAhead))
}

// readPageOf reads the answer to a list request. alone says that it asked for one alert.
func readPageOf(got answer, alone bool) ([]Alert, error) {
	if got.status == http.StatusNoContent { // which stands for an empty list
		return nil, nil
	}
	alerts := got.alerts
	if alerts == nil { // else it is one that was not kept
		var err error
		if alerts, err = decodePage(got.body, alone); err != nil {
			return nil, err
		}
	}
	for i, a := range alerts {
		// It is later than all that a listing of created_at will ever ask for.
		if a.CreatedAt.After(got.latest().Add(maxAhead)) {
			alerts[i] = Alert{Raw: a.Raw, Cut: a.Cut, Fault: "its created_at lies in the future"}
		}
		alerts[i].Ahead = got.ahead(alerts[i])
	}
	return alerts, nil
}
