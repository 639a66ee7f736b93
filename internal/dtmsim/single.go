package dtmsim

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"
)

// maxRequestBody bounds what a client may send; no documented request is near it.
const maxRequestBody = 1 << 20

func readBody(r *http.Request) ([]byte, *answer) {
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxRequestBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, backendError(http.StatusRequestEntityTooLarge, "Request Entity Too Large")
	case err != nil:
		return nil, backendError(http.StatusBadRequest, "unreadable body")
	}
	return body, nil
}

// get answers one alert without an envelope. It is there as soon as it is
// created: only the listings wait for the index.
func (s *Server) get(r *http.Request, id string, now time.Time) *answer {
	rec := s.index.byID[id]
	if rec == nil || rec.created.After(now) {
		return gatewayError(http.StatusNotFound)
	}
	p := parameters{values: r.URL.Query()}
	refs := p.bool("refs", true)
	if p.err != nil {
		return backendError(http.StatusBadRequest, p.err.Error())
	}
	rec.advance(now)
	return alertAnswer(rec.latest(), refs)
}

func alertAnswer(a *Alert, refs bool) *answer {
	out := newAnswer(http.StatusOK, nil)
	out.body = append(a.pieces(nil, refs, false), []byte("\n"))
	return out
}

// alertPatch is what can be changed of an alert; an absent member stays as it is.
type alertPatch struct {
	ID     string    `json:"id"` // in a bulk request
	Status *string   `json:"status"`
	Tags   *[]string `json:"tags"`
}

func (p *alertPatch) valid() bool {
	return p.Status == nil || slices.Contains(Statuses, *p.Status)
}

// apply replaces: tags are not added to those that are there.
func (p *alertPatch) apply(a *Alert) {
	if p.Status != nil {
		a.Status = *p.Status
	}
	if p.Tags != nil {
		a.Tags = *p.Tags
	}
}

// patch changes an alert and answers it as with refs=false.
func (s *Server) patch(id string, body []byte, f Fault, now time.Time) *answer {
	var p alertPatch
	if err := json.Unmarshal(body, &p); err != nil {
		return backendError(http.StatusBadRequest, "unreadable body")
	}
	if !p.valid() {
		return backendError(http.StatusBadRequest, "invalid status")
	}
	if rec := s.index.byID[id]; f.IgnoreChange && rec != nil && !rec.created.After(now) {
		rec.advance(now)
		return alertAnswer(rec.latest(), false)
	}
	a := s.update(id, now, p.apply)
	if a == nil {
		return gatewayError(http.StatusNotFound)
	}
	return alertAnswer(a, false)
}

// bulk changes several alerts; its answer is empty.
func (s *Server) bulk(body []byte, now time.Time) *answer {
	var b struct {
		Patch []alertPatch `json:"patch"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return backendError(http.StatusBadRequest, "unreadable body")
	}
	for i := range b.Patch {
		if !b.Patch[i].valid() {
			return backendError(http.StatusBadRequest, "invalid status")
		}
	}
	for i := range b.Patch {
		s.update(b.Patch[i].ID, now, b.Patch[i].apply)
	}
	return newAnswer(http.StatusOK, nil)
}
