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

func (c *Client) listing(q Query) request {
	sort, order := "created_at", "asc"
	switch q.Order {
	case OldestFirst:
	case NewestFirst:
		order = "desc"
	case UpdatedFirst:
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
	req := request{method: http.MethodGet, target: *c.alerts, size: q.Size, refs: q.Refs, alone: q.Alone, once: q.Once}
	req.last = q.Size == 1 && !q.Refs
	req.read = func(got response) ([]Alert, error) { return readPageOf(got, q.Size == 1) }
	req.target.RawQuery = v.Encode()
	return req
}

// List returns the pages of a listing. A page is requested when the consumer asks for
// it, and its memory is the consumer's to release.
// After an error the iteration ends. It yields every typed error of this package
// and, when ctx is done, ctx's cause.
func (s *Session) List(ctx context.Context, q Query) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		req := s.client.listing(q)
		for {
			got, err := s.fetch(ctx, req)
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
			req.target.RawQuery = "page=" + url.QueryEscape(next)
			req.expires = got.receivedAt.Add(pageLife)
		}
	}
}

// ahead reports whether an alert's updated_at lies too far in the API's future.
func (r response) ahead(alert Alert) bool {
	now := r.date
	if now.IsZero() {
		now = r.askedAt
	}
	return alert.Invalid == "" && alert.UpdatedAt.After(now.Add(maxAhead))
}

// readPageOf reads the answer to a list request. alone says that it asked for one alert.
func readPageOf(got response, alone bool) ([]Alert, error) {
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
	latest := got.latest().Add(maxAhead)
	for i, a := range alerts {
		// Such a created_at is later than all that a listing will ever ask for.
		if a.CreatedAt.After(latest) {
			alerts[i] = Alert{Raw: a.Raw, Digest: a.Digest, Invalid: "its created_at lies in the future"}
		}
		alerts[i].Ahead = got.ahead(alerts[i])
	}
	return alerts, nil
}
