package dtmsim

import (
	"net/http"
	"strconv"
)

// answer is a response that is not yet on its way.
type answer struct {
	status int
	header http.Header
	body   [][]byte // pieces that others may hold too: not to be changed
	alerts int      // how many alerts are in it

	reset bool // the connection is reset instead
	hang  bool // nothing comes; with keep, nothing after those bytes
	keep  int  // the connection ends after so many bytes; 0 is off
	slow  int  // bytes a second; 0 is at once
}

func newAnswer(status int, body []byte) *answer {
	a := &answer{status: status, header: http.Header{
		"Content-Type": {"application/json; charset=UTF-8"},
		"Vary":         {"Origin"},
	}}
	if len(body) > 0 {
		a.body = [][]byte{body}
	}
	return a
}

// backendError is an error of the DTM backend. Its shape is a guess by the style
// of the server's other answers (DTM API: status codes and bodies).
func backendError(status int, message string) *answer {
	return newAnswer(status, append(mustJSON(map[string]string{"message": message}), '\n'))
}

// ErrorBody is an error's body as the gateway in front of the API writes it.
func ErrorBody(code, message string) string {
	type inner struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	return string(mustJSON(map[string]inner{"error": {code, message}})) + "\n"
}

// QuotaExceeded is the body of a 429 that lasts until the quota is reset.
var QuotaExceeded = ErrorBody("QuotaExceededError", "Quota exceeded")

// gatewayError is the gateway's usual error with a status.
func gatewayError(status int) *answer {
	var code, message string
	switch status {
	case http.StatusBadRequest:
		code, message = "BadRequestError", "The API request is invalid or malformed."
	case http.StatusUnauthorized:
		code, message = "WrongCredentialsError", "Wrong API key"
	case http.StatusForbidden:
		code, message = "ForbiddenError", "You are not authorized to perform the requested operation"
	case http.StatusNotFound:
		code, message = "NotFoundError", "Resource not found."
	case http.StatusTooManyRequests:
		code, message = "TooManyRequestsError", "Too many requests"
	case http.StatusServiceUnavailable:
		code, message = "TransientError", "Transient error. Retry might work."
	case http.StatusGatewayTimeout:
		code, message = "DeadlineExceededError", "The operation took too long to complete."
	default:
		return backendError(status, http.StatusText(status))
	}
	return newAnswer(status, []byte(ErrorBody(code, message)))
}

func gatewayErrorWith(status int, code, message string) *answer {
	return newAnswer(status, []byte(ErrorBody(code, message)))
}

func methodNotAllowed(allow string) *answer {
	a := backendError(http.StatusMethodNotAllowed, "Method Not Allowed")
	a.header.Set("Allow", allow)
	return a
}

func (a *answer) size() int {
	n := 0
	for _, piece := range a.body {
		n += len(piece)
	}
	return n
}

func (a *answer) statusLine() string {
	return strconv.Itoa(a.status) + " " + http.StatusText(a.status)
}
