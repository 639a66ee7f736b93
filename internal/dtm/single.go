package dtm

import (
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

// Get fetches one alert by its id, in a page of its own that the caller releases.
// The page holds exactly that alert; as in a list, it may have a Fault. When there
// is no such alert the error is an *APIError with status 404. Other errors are
// those of a listing's first page, among them *PageTooLargeError and ErrMemory.
func (s *Session) Get(ctx context.Context, id string, refs bool) (Page, error) {
	a, err := s.client.single(http.MethodGet, id)
	if err != nil {
		return Page{}, err
	}
	a.target.RawQuery = url.Values{"refs": {strconv.FormatBool(refs)}}.Encode()
	a.size, a.refs = 1, refs
	a.read = func(got answer) ([]Alert, error) {
		alert := ParseAlert(trim(got.body))
		switch {
		case alert.Unreadable:
			return nil, errInvalid
		case alert.Fault == "" && alert.ID != id:
			alert = Alert{Raw: alert.Raw, Fault: "another alert than the one that was asked for"}
		}
		return []Alert{alert}, nil
	}
	got, err := s.fetch(ctx, a)
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

// Update changes an alert and returns it as the API answered it, without its
// document. An answer that can't be read gives an Alert without an ID and no
// error, since the change was made. Its errors are those of Get but the ones of
// pages; as a change replaces, it may be repeated after any of them.
func (s *Session) Update(ctx context.Context, id string, p Patch) (Alert, error) {
	a, err := s.client.single(http.MethodPatch, id)
	if err != nil {
		return Alert{}, err
	}
	if p.Tags != nil && *p.Tags == nil {
		p.Tags = &[]string{} // null is no list
	}
	if a.body, err = json.Marshal(p); err != nil {
		return Alert{}, fmt.Errorf("writing the change of alert %s: %w", id, err)
	}
	a.read = func(got answer) ([]Alert, error) {
		alert := ParseAlert(trim(got.body))
		if alert.Fault != "" || alert.ID != id {
			alert = Alert{}
		}
		return []Alert{alert}, nil
	}
	got, err := s.fetch(ctx, a)
	if err != nil {
		return Alert{}, err
	}
	got.release()
	return got.alerts[0], nil
}

// single is a request for one alert.
func (c *Client) single(method, id string) (ask, error) {
	if !validID(id) {
		return ask{}, errors.New("the alert's id is not 1 to 128 letters, digits, _ and -")
	}
	return ask{method: method, target: *c.alerts.JoinPath(id)}, nil
}
