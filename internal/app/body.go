package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/strictjson"
)

// maxBody bounds a request's body.
const maxBody = 1 << 20

// readBody reads an optional JSON object; it is nil when there is no body.
// Its Content-Type says nothing: curl's -d and Cloud Scheduler send others.
func readBody(w http.ResponseWriter, r *http.Request) (*strictjson.Object, *problem) {
	if r.URL.RawQuery != "" { // "?dry_run=true" would be a real run
		return nil, &problem{Status: http.StatusBadRequest, Detail: "this request takes no query; its fields belong into the body, as JSON"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	case err != nil:
		return nil, &problem{Status: http.StatusBadRequest, Detail: "the body could not be read"}
	}
	if len(bytes.Trim(body, " \t\r\n")) == 0 { // JSON's white space, and no other
		return nil, nil
	}
	o, err := strictjson.Parse(body)
	if err != nil {
		return nil, &problem{Status: http.StatusBadRequest, Detail: "the body is " + err.Error()}
	}
	o.AddRepeated()
	return o, nil
}

// bodyProblem is everything that is wrong with a body, unknown fields among it; nil
// when nothing is.
func bodyProblem(o *strictjson.Object) *problem {
	o.AddUnknown()
	problems := o.Problems()
	if len(problems) == 0 {
		return nil
	}
	p := &problem{Status: http.StatusBadRequest}
	p.list(problems)
	p.Detail = strings.Join(p.Errors, "; ")
	if more := p.Problems - len(p.Errors); more > 0 {
		p.Detail += fmt.Sprintf("; and %d more", more)
	}
	return p
}
