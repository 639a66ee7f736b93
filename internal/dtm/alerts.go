package dtm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// maxChanged is how much of the answer to a change is read: without a document
// an alert is far smaller (DTM API: 1.2 KB recorded).
const maxChanged = 1 << 20

var errOther = errors.New("it is not the alert that was asked for")

// Get fetches one alert by its id, in a page of its own that the caller releases.
// The page holds exactly that alert, which may have no created_at, and so be Invalid.
// When there is no such alert the error is an *APIError with status 404 that is
// Final. Any other answer is a *NoAnswerError: it says nothing about the alert. Other
// errors are those of a listing's first page, among them *PageTooLargeError and
// ErrMemory.
func (s *Session) Get(ctx context.Context, id string, refs bool) (Page, error) {
	req, err := s.client.single(http.MethodGet, id)
	if err != nil {
		return Page{}, err
	}
	req.target.RawQuery = url.Values{"refs": {strconv.FormatBool(refs)}}.Encode()
	req.size, req.refs = 1, refs
	req.read = func(got response) ([]Alert, error) {
		alert := ParseAlert(trim(got.body))
		switch {
		case alert.Unreadable:
			return nil, errInvalid
		case alert.ID != id:
			return nil, cmp.Or(errorOf(alert.Raw), errOther)
		}
		alert.Ahead = got.ahead(alert)
		return []Alert{alert}, nil
	}
	got, err := s.fetch(ctx, req)
	if err != nil {
		return Page{}, err
	}
	return got.page(), nil
}

// Patch is a change of an alert. What is nil stays as it is.
type Patch struct {
	Status *string `json:"status,omitempty"`
	// Tags replaces the whole list (DTM API).
	Tags *[]string `json:"tags,omitempty"`
}

// Update asks for a change of an alert and returns the alert as the API answered
// it, without its document: only that says what was changed. An answer of success
// that is not this alert gives an Alert without an ID and no error: whether the
// change was made is not known then, and Get tells. An error in its place is a
// *NoAnswerError. Other errors are those of Get but the ones of pages. After a
// *NoAnswerError, the answer of a proxy or the end of ctx the change may still be made.
func (s *Session) Update(ctx context.Context, id string, p Patch) (Alert, error) {
	req, err := s.client.single(http.MethodPatch, id)
	if err != nil {
		return Alert{}, err
	}
	if p.Tags != nil && *p.Tags == nil {
		p.Tags = &[]string{} // null is no list
	}
	if req.body, err = json.Marshal(p); err != nil {
		return Alert{}, fmt.Errorf("writing the change of alert %s: %w", id, err)
	}
	req.read = func(got response) ([]Alert, error) {
		alert := ParseAlert(trim(got.body))
		if alert.Invalid != "" || alert.ID != id {
			if err := errorOf(alert.Raw); err != nil {
				return nil, err
			}
			alert = Alert{}
		}
		return []Alert{alert}, nil
	}
	got, err := s.fetch(ctx, req)
	if err != nil {
		return Alert{}, err
	}
	got.release()
	return got.alerts[0], nil
}

// errorOf is the error that a body holds in place of an alert; nil when there is none.
func errorOf(body []byte) error {
	object, ok := object(body)
	if !ok {
		return nil
	}
	var err error
	for name, value := range members(object) {
		if string(name) == "error" && !isNull(value) {
			err = answeredError(value)
		}
	}
	return err
}

// single is a request for one alert.
func (c *Client) single(method, id string) (request, error) {
	if !ValidID(id) {
		return request{}, errors.New("the alert's id is not 1 to 128 letters, digits, _ and -")
	}
	return request{method: method, target: *c.alerts.JoinPath(id)}, nil
}
