package dtm

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ErrorKind is what an error means to those who act on it.
type ErrorKind string

// The kinds of errors.
const (
	Unknown       ErrorKind = "unknown"
	Wait          ErrorKind = "wait"
	NoKey         ErrorKind = "no key"
	KeyRefused    ErrorKind = "key refused"
	BudgetSpent   ErrorKind = "budget spent"
	QuotaSpent    ErrorKind = "quota spent"
	TokenSpent    ErrorKind = "token spent"
	NoMemory      ErrorKind = "no memory"
	PageTooLarge  ErrorKind = "page too large"
	Redirected    ErrorKind = "redirected"
	Undone        ErrorKind = "undone"
	NoAnswer      ErrorKind = "no answer"
	Unreadable    ErrorKind = "unreadable"
	Throttled     ErrorKind = "throttled"
	Interrupted   ErrorKind = "interrupted"
	Unavailable   ErrorKind = "unavailable"
	NotFound      ErrorKind = "not found"
	BadRequest    ErrorKind = "bad request"
	Unprocessable ErrorKind = "unprocessable"
	Refused       ErrorKind = "refused"
)

// Kind tells what an error means, however it is wrapped or joined. Of an error that
// holds several, the first in this table counts: what stops all requests comes before
// what ends one listing, and that before the answer that was its cause.
//
//	Kind           Error              Meaning                              Who acts, and how
//	Wait           WaitError          the wait outlives the run            the next run
//	NoKey          ErrNoKey           there is no usable key               the operator stores one
//	KeyRefused     KeyError           401, 403, also of the renewed key    the operator stores another
//	BudgetSpent    BudgetError        the share of the key is used up      others go on; this one after RetryAfter
//	QuotaSpent     QuotaError         429 of the user's quota              all stop until RetryAfter
//	TokenSpent     RestartError       the page can't be asked for again    the reader lists anew
//	NoMemory       ErrMemory          no memory beside the other pages     the reader asks with Query.Alone
//	PageTooLarge   PageTooLargeError  the page can't be held or read       the reader asks for a smaller one
//	Redirected     RedirectError      not sent where GTI redirects         the operator checks GTI_BASE_URL
//	Undone         UndoneError        success, and nothing was changed     the message is delivered again
//	NoAnswer       NoAnswerError      the way to GTI broke                 the client repeats it; a change may be done
//	Unreadable     NoAnswerError      success that can't be read           the client repeats it; a change may be done
//	Throttled      APIError           429                                  the client holds all requests back
//	Interrupted    APIError           408, 502, 504                        the client repeats it; a change may be done
//	Unavailable    APIError           500 and above                        the client repeats it
//	NotFound       APIError           404 of GTI itself                    the caller does without
//	BadRequest     APIError           400 of GTI itself                    the caller asks for something else
//	Unprocessable  APIError           422 of GTI itself                    the caller asks for something else
//	Refused        APIError           any other answer                     nobody knows: it is not repeated
//	Unknown        all else, nil      the database, a topic, a context     not this package
func Kind(err error) ErrorKind {
	var (
		wait     *WaitError
		key      *KeyError
		budget   *BudgetError
		quota    *QuotaError
		restart  *RestartError
		large    *PageTooLargeError
		redirect *RedirectError
		undone   *UndoneError
		lost     *NoAnswerError
		api      *APIError
	)
	switch {
	case errors.As(err, &wait):
		return Wait
	case errors.Is(err, ErrNoKey):
		return NoKey
	case errors.As(err, &key):
		return KeyRefused
	case errors.As(err, &budget):
		return BudgetSpent
	case errors.As(err, &quota):
		return QuotaSpent
	case errors.As(err, &restart):
		return TokenSpent
	case errors.Is(err, ErrMemory):
		return NoMemory
	case errors.As(err, &large):
		return PageTooLarge
	case errors.As(err, &redirect):
		return Redirected
	case errors.As(err, &undone):
		return Undone
	case errors.As(err, &lost) && lost.Answered:
		return Unreadable
	case lost != nil:
		return NoAnswer
	case errors.As(err, &api):
		return api.kind()
	}
	return Unknown
}

// kind is the one place that tells statuses apart. A status that may pass is
// Unavailable, or Interrupted where a change that was answered so may still be done.
func (e *APIError) kind() ErrorKind {
	switch e.Status {
	case http.StatusTooManyRequests:
		return Throttled
	case http.StatusRequestTimeout, http.StatusBadGateway, http.StatusGatewayTimeout:
		return Interrupted
	}
	switch {
	case e.Status >= 500:
		return Unavailable
	case e.Foreign:
		return Refused
	case e.Status == http.StatusNotFound && (e.Code == "" || e.Code == "NotFoundError"):
		return NotFound
	case e.Status == http.StatusBadRequest && e.Code != "NotAvailableYet":
		return BadRequest
	case e.Status == http.StatusUnprocessableEntity:
		return Unprocessable
	}
	return Refused // the key's faults too: they are no fault of what was asked for
}

// Final reports whether GTI itself has said that what was asked for can't be done,
// now or later: there is no such thing, or it can't be asked for so. All else may pass.
func (k ErrorKind) Final() bool {
	return k == NotFound || k == BadRequest || k == Unprocessable
}

// Failed reports whether GTI, or the way to it, failed. All else is the key's, a
// budget's, a quota's or our own fault, or asks for a wait.
func Failed(err error) bool {
	switch Kind(err) {
	case Unknown, Wait, NoKey, KeyRefused, BudgetSpent, QuotaSpent, NoMemory:
		return false
	default:
		return true
	}
}

// RetryAfter is how long to wait before the next request, as far as the error says: 0
// when it doesn't.
func RetryAfter(err error) time.Duration {
	var (
		wait   *WaitError
		budget *BudgetError
		quota  *QuotaError
		api    *APIError
	)
	switch {
	case errors.As(err, &wait):
		return wait.Wait
	case errors.As(err, &budget):
		return budget.RetryAfter
	case errors.As(err, &quota):
		return quota.RetryAfter
	case errors.As(err, &api):
		return api.RetryAfter
	}
	return 0
}

// ErrMemory is answered when the page's share of the memory that all pages have
// together could not grow. What was read is dropped: list again with Query.Alone.
var ErrMemory = errors.New("no memory left for this page beside the others: list again with the memory of a whole page reserved")

// APIError is an answer of the API that is not what was asked for.
type APIError struct {
	Status int
	// Code is the API's name of the error ("WrongCredentialsError"), often empty.
	Code string
	// Message is the API's text without the key; Code and Message together are
	// at most 512 bytes.
	Message string
	// RetryAfter is what the header of that name asked for, 0 when it said nothing usable.
	RetryAfter time.Duration
	// Foreign: the body has not the form of GTI's errors (DTM API: {"error":{"code"}},
	// or {"message"} of the backend), so that it may be the word of a proxy on the way.
	Foreign bool
	// WebPage: the body is one. No API writes that.
	WebPage bool
	// Repeated: a Foreign 400 or 422 that was answered to the same request before.
	Repeated bool
}

// isDoubtful reports whether an answer may be a proxy's that would mean much as GTI's: that
// the since of a listing is too old.
func (e *APIError) isDoubtful() bool { return e.Foreign && !e.Repeated && e.isOfQuery() }

// isOfQuery reports whether the status says that something else is to be asked for.
func (e *APIError) isOfQuery() bool {
	return e.Status == http.StatusBadRequest || e.Status == http.StatusUnprocessableEntity
}

// IsSinceRefused reports whether an error can mean that the since of a listing was too old:
// a 400 or 422, in GTI's own words or twice in other ones (DTM API: neither the limit nor the
// form of such an answer is known).
func IsSinceRefused(err error) bool {
	var api *APIError
	return errors.As(err, &api) && api.isOfQuery() && (!api.Foreign || api.Repeated)
}

// IsGone reports whether an error can mean that GTI has no such alert: a 404 that is no web
// page (DTM API: the form of such an answer is not known).
func IsGone(err error) bool {
	var api *APIError
	return errors.As(err, &api) && api.Status == http.StatusNotFound && !api.WebPage
}

func (e *APIError) Error() string {
	text := fmt.Sprintf("GTI answered %d", e.Status)
	if e.Code != "" {
		text += " " + e.Code
	}
	switch {
	case e.Message != "":
		text += ": " + e.Message
	case e.Code == "":
		text += " " + http.StatusText(e.Status)
	}
	return strings.TrimSpace(text)
}

// RestartError says that a page request ended in a way after which its token
// can't be asked again, because the server may have moved on: list anew from
// what has been handled.
type RestartError struct{ Cause error }

func (e *RestartError) Error() string {
	return fmt.Sprintf("the listing has to start again: %v", e.Cause)
}

func (e *RestartError) Unwrap() error { return e.Cause }

// PageTooLargeError says that a page has more than Limit bytes (unpacked), or that
// its alerts can't be told from one that is no JSON: ask for fewer alerts, and at
// last without Refs.
type PageTooLargeError struct {
	Size    int // the page size that was asked for
	Refs    bool
	Limit   int64
	Tangled bool // not of a page of one alert, which is taken as it is
}

func (e *PageTooLargeError) Error() string {
	if e.Tangled {
		return fmt.Sprintf("a page of %d alerts (refs=%t) can't be taken apart: %v", e.Size, e.Refs, errTangled)
	}
	return fmt.Sprintf("a page of %d alerts (refs=%t) is larger than %d bytes", e.Size, e.Refs, e.Limit)
}

// WaitError says that a wait would outlive the context's deadline, so it was not begun.
type WaitError struct {
	Wait  time.Duration
	Cause error // what asked for the wait
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("the next request may be sent in %v, after the end of this run: %v", e.Wait.Round(time.Millisecond), e.Cause)
}

func (e *WaitError) Unwrap() error { return e.Cause }

// BudgetError says that a share of what the key may do is used up.
type BudgetError struct {
	What        string // "errors" (answers of 400 and above in an hour) or "requests" (in a day)
	Used, Limit int64
	// RetryAfter is the time until enough of what was used has left the window.
	RetryAfter time.Duration
}

func (e *BudgetError) Error() string {
	window := "24 hours"
	if e.What == budgetErrors {
		window = "one hour"
	}
	return fmt.Sprintf("the budget of %s to GTI is used up: %d of %d within %s, again in %v",
		e.What, e.Used, e.Limit, window, e.RetryAfter.Round(time.Second))
}

// QuotaError says that the user's quota at GTI is used up, so that no retry helps.
type QuotaError struct {
	API *APIError
	// RetryAfter is what the answer asked for, else the time until 00:00 UTC,
	// when the API's daily quota starts again.
	RetryAfter time.Duration
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the API key's quota is used up, again in %v: %v", e.RetryAfter.Round(time.Second), e.API)
}

func (e *QuotaError) Unwrap() error { return e.API }

// RedirectError says that the API sent the request elsewhere, and that it was not
// sent there.
type RedirectError struct {
	Status int    // of the answer
	Host   string // scheme and host of the target; empty when there is none that can be read
	Why    string // it was not sent there
}

// Why a redirect is not followed.
const (
	whyElsewhere = "the API key goes to no other place"
	whyChange    = "a change would only be read there"
	whyOther     = "something else would be asked for there"
	whyOften     = "there were too many of them"
	whyNowhere   = "it names no place that can be read"
)

func (e *RedirectError) Error() string {
	to := ""
	if e.Host != "" {
		to = fmt.Sprintf(" to %q", e.Host)
	}
	return fmt.Sprintf("GTI redirects%s (%d), where the request is not sent (%s): check GTI_BASE_URL", to, e.Status, e.Why)
}

// KeyError says that the API refused the key, also after the secret was read again.
type KeyError struct {
	Status int // 401 or 403
	API    *APIError
	// Replaced: the secret holds another key by now, and no attempt was left for it.
	Replaced bool
}

func (e *KeyError) Error() string {
	switch {
	case e.Replaced:
		return fmt.Sprintf("GTI does not accept the API key, and the secret holds another one by now, which is used from here on: %v", e.API)
	case e.Status == http.StatusForbidden:
		return fmt.Sprintf("the API key's user may not read or change DTM alerts: use the key of a user with a Digital Threat Monitoring entitlement: %v", e.API)
	}
	return fmt.Sprintf("GTI does not accept the API key: store a valid key as a new version of the secret: %v", e.API)
}

func (e *KeyError) Unwrap() error { return e.API }

// NoAnswerError is a request without a usable answer: the network failed, or the
// body was cut or is no page.
type NoAnswerError struct {
	// Answered: the API did answer, with success, and what it sent can't be read.
	Answered bool
	endpoint string // host and path
	err      error
}

func (e *NoAnswerError) Error() string {
	return "no usable answer from " + e.endpoint + ": " + e.err.Error()
}
func (e *NoAnswerError) Unwrap() error { return e.err }

// UndoneError says that the API answered to a change with success, and has not made it.
type UndoneError struct{ ID string }

func (e *UndoneError) Error() string {
	return fmt.Sprintf("GTI's answer to the change of alert %s was a success, and the alert is not as it was asked for", e.ID)
}

// ErrNoKey is answered when what the source of the key holds can't be one.
var ErrNoKey = errors.New("the API key is empty or holds something else than printable ASCII: store the key as a new version of the secret")

const maxMessage = 512

var htmlTitle = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)

// newAPIError reads an error's body. Which of the forms the DTM backend uses is
// not documented, so all that other clients have met are understood:
// {"error":{"code","message"}}, {"error":"…"}, {"message":"…"}, HTML and plain text.
func newAPIError(resp *http.Response, body []byte, key string) *APIError {
	e := &APIError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header)}
	var own bool
	e.Code, e.Message, own = errorText(body)
	e.Foreign, e.WebPage = !own, isWebPage(body)
	e.Code = Cut(clean(e.Code, key), maxMessage)
	e.Message = Cut(clean(e.Message, key), maxMessage-len(e.Code))
	return e
}

func isWebPage(body []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(body), []byte("<")) }

// errorText also says whether the body is one that GTI itself writes.
func errorText(body []byte) (code, message string, own bool) {
	text := strings.TrimSpace(string(body))
	if isWebPage(body) {
		if m := htmlTitle.FindStringSubmatch(text); m != nil {
			return "", html.UnescapeString(m[1]), false
		}
		return "", "", false
	}
	top, ok := object([]byte(strings.TrimPrefix(text, "\ufeff")))
	if !ok {
		// Where JSON begins in it there may be alerts, and no path tells where their
		// passwords are.
		if at := strings.IndexAny(text, "{["); at >= 0 {
			text = text[:at]
		}
		return "", text, false
	}
	backend := false
	for name, value := range members(top) {
		switch string(name) {
		case "error":
			if value[0] != '{' {
				if s, ok := stringValue(value); ok {
					message = s
				}
				continue
			}
			for name, value := range members(value) {
				switch s, _ := stringValue(value); string(name) {
				case "code":
					code = s
				case "message":
					message = s
				}
			}
		case "message":
			if s, ok := stringValue(value); ok && message == "" {
				message, backend = s, true
			}
		}
	}
	return code, message, code != "" || backend && message != ""
}

// answeredError is an answer of success that holds an error in place of what was
// asked for: nothing follows from it. Of the error only a name is told.
func answeredError(value []byte) error {
	code := ""
	if value[0] == '{' {
		for name, value := range members(value) {
			if string(name) == "code" {
				code, _ = stringValue(value)
			}
		}
	}
	if !errorCode.MatchString(code) {
		return errAnswered
	}
	return fmt.Errorf("%w: %s", errAnswered, code)
}

var errAnswered = errors.New("an error in place of what was asked for")

var errorCode = regexp.MustCompile(`^[A-Z][A-Za-z]{1,63}$`)

func isNull(value []byte) bool { return value[0] == 'n' }

// clean makes a text from outside fit for one line of a log: without the key,
// valid UTF-8, no control characters.
func clean(text, key string) string {
	text = maskKey(text, key)
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ")
}

func maskKey(text, key string) string {
	if key == "" {
		return text
	}
	// A URL's scheme and host come back in small letters.
	return regexp.MustCompile("(?i)"+regexp.QuoteMeta(key)).ReplaceAllString(text, "[API key]")
}

// Cut makes valid UTF-8 of at most n bytes of a text: it ends between two characters.
func Cut(text string, n int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// Shorten keeps a value that an error quotes within a line.
func Shorten(text string) string {
	const most = 100
	if len(text) <= most {
		return text
	}
	return Cut(text, most) + "…"
}
