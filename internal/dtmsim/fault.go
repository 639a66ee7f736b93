package dtmsim

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Kind is what a request asks for.
type Kind string

// Kinds of requests.
const (
	List     Kind = "list"     // GET /dtm/alerts
	Page     Kind = "page"     // GET /dtm/alerts?page=…
	Get      Kind = "get"      // GET /dtm/alerts/{id}
	Patch    Kind = "patch"    // PATCH /dtm/alerts/{id}
	Bulk     Kind = "bulk"     // POST /dtm/alerts/bulk
	Monitors Kind = "monitors" // GET /dtm/monitors
	Other    Kind = "other"    // anything else
)

// Fault is a rule for something to go wrong. Which requests it hits is said by
// Kind to Times; the other fields are what happens to them. Of several faults
// that hit a request, the one that was added first acts.
type Fault struct {
	// Kind of the requests it hits; empty is any.
	Kind Kind
	// When, if set, must agree. It is called with the server locked, so it must
	// not call the server.
	When func(*http.Request) bool
	// Nth hits only the nth of these requests, counted from 1 when the fault was
	// added; 0 is any.
	Nth int
	// Every hits each so many of them; 0 is all.
	Every int
	// Chance hits one by this probability, drawn with Options.Seed; 0 is always.
	Chance float64
	// Times ends the fault after so many hits; 0 is never.
	Times int

	// Delay is added to the latency.
	Delay time.Duration
	// Status answers with this status instead of doing the work, with Body, or
	// with the API's own body for the status when Body is empty.
	Status int
	Body   string
	// Instead answers 200, or Status, with something else than what was asked for.
	Instead Instead
	// IgnoreChange answers a change with the alert as it was, and doesn't make it.
	IgnoreChange bool
	// HTML answers with a page of HTML as a proxy would, with Status or else 200.
	HTML bool
	// RetryAfter is the answer's Retry-After header, verbatim.
	RetryAfter string
	// Redirect sends the client to this URL, with Status or else 302.
	Redirect string
	// AfterWork does the work before Status, Instead, HTML, Redirect or Hang act: the page
	// token is used up, the alert is changed, but the client doesn't learn it.
	AfterWork bool

	// ResetBefore resets the connection before the work is done, ResetAfter after it.
	ResetBefore, ResetAfter bool
	// Hang says nothing until the client goes. With Truncate it falls silent after
	// so many bytes of the body.
	Hang bool
	// Truncate ends the connection after so many bytes of the body, at the latest
	// before its last byte; 0 is off.
	Truncate int
	// Slow is the speed of the body in bytes a second; 0 is at once.
	Slow int

	// EmptyPage answers a page that has alerts with an empty one and a Link.
	EmptyPage EmptyPage
	// NullAlerts answers with "alerts":null. What a page had comes after its Link.
	NullAlerts bool
	// RepeatToken makes the Link of a page repeat the token that the page was
	// asked with. It leads on to the next page.
	RepeatToken bool
	// Again makes the Link of a later page lead to that page once more, under a fresh
	// token. Without Times the listing has no end.
	Again bool
	// Disorder turns the order of a page's alerts around.
	Disorder bool
	// MalformedElement is put into the middle of a page; see MalformedElements and BrokenElements.
	MalformedElement string
	// ForeignLinkHost is the base URL in the Link header.
	ForeignLinkHost string
}

// Instead is something else than what was asked for.
type Instead string

// What may come in place of what was asked for.
const (
	InsteadError  Instead = "error" // of the gateway; beside a list without alerts
	InsteadNull   Instead = "null"
	InsteadObject Instead = "object" // {}
	InsteadList   Instead = "list"   // []
	InsteadOther  Instead = "other"  // another alert than the one of that id
)

// body is what is sent; kind is what was asked for.
func (i Instead) body(kind Kind) []byte {
	switch i {
	case InsteadError:
		failure := ErrorBody("TransientError", "Transient error. Retry might work.")
		if kind == List || kind == Page {
			failure = `{"alerts":[],` + strings.TrimPrefix(failure, "{")
		}
		return []byte(failure)
	case InsteadNull:
		return []byte("null\n")
	case InsteadObject:
		return []byte("{}\n")
	case InsteadList:
		return []byte("[]\n")
	default:
		return []byte(`{"id":"another","created_at":"2026-03-02T10:00:00.5Z","updated_at":"2026-03-02T10:00:00.5Z","status":"closed","tags":["another"]}` + "\n")
	}
}

// EmptyPage is what becomes of the alerts of a page that is answered empty.
type EmptyPage string

// Kinds of empty pages with a Link.
const (
	// EmptyWithheld leaves them out: the Link leads past them.
	EmptyWithheld EmptyPage = "withheld"
	// EmptyExtra keeps them: the Link leads to them.
	EmptyExtra EmptyPage = "extra"
)

// MalformedElements are elements of a list that are legal JSON, but no usable alerts.
func MalformedElements() []string {
	var all []string
	for i := range malformedKinds {
		all = append(all, malformed(i))
	}
	return all
}

// BrokenElements are elements of a list that are no JSON, for MalformedElement or
// Alert.Raw. The rest of the page is as it should be.
func BrokenElements() []string {
	const begin = `{"id":"broken","created_at":"2026-03-02T10:00:00.5Z",`
	return []string{
		begin + "\"title\":\"two\nlines\"}",
		begin + "\"title\":\"a \x00 in it\"}",
		begin + `"similarity_score":NaN}`,
		begin + `"title":"\x41"}`,
		begin + `"indicator_mscore":007}`,
		begin + `"tags":["a","b",]}`,
		begin + `"title":"a "word" in quotes"}`,
		begin + `"doc":` + strings.Repeat("[", tooDeep) + strings.Repeat("]", tooDeep) + `}`,
	}
}

// tooDeep is deeper than readers of JSON go (encoding/json: 10,000).
const tooDeep = 10_001

const malformedKinds = 16

// malformed is the nth malformed element; no two are alike where their kind allows it.
func malformed(n int) string {
	const created = `"created_at":"2026-03-02T10:00:00.5Z"`
	switch n % malformedKinds {
	case 0:
		return strconv.Itoa(42 + n)
	case 1:
		return "null"
	case 2:
		return fmt.Sprintf(`"an alert as text, no. %d"`, n)
	case 3:
		return "{}"
	case 4:
		return fmt.Sprintf(`{"id":%d,%s}`, n, created)
	case 5:
		return fmt.Sprintf(`{%s,"status":"new","n":%d}`, created, n)
	case 6:
		return fmt.Sprintf(`{"id":"no-created-at-%d","status":"new"}`, n)
	case 7:
		return fmt.Sprintf(`{"id":"unreadable-created-at-%d","created_at":"yesterday"}`, n)
	case 8:
		return fmt.Sprintf(`{"id":"created-at-number-%d","created_at":1772445600}`, n)
	case 9:
		return fmt.Sprintf(`{"id":"created-at-null-%d","created_at":null}`, n)
	case 10:
		return fmt.Sprintf(`[{"id":"in-a-list-%d",%s}]`, n, created)
	case 11:
		return "true"
	case 12:
		return fmt.Sprintf(`{"id":"",%s,"n":%d}`, created, n)
	case 13:
		return fmt.Sprintf(`{"id":"../of/path/%d",%s}`, n, created)
	case 14:
		return fmt.Sprintf(`{"id":"%0129d",%s}`, n, created)
	default:
		return fmt.Sprintf(`{"id":null,%s,"n":%d}`, created, n)
	}
}

// faults are the rules with their counts.
type faults struct {
	rules []*faultRule
	rng   *rand.Rand
}

type faultRule struct {
	Fault
	seen, hits int
}

// pick counts the request for every rule and returns the first that hits it.
func (fs *faults) pick(kind Kind, r *http.Request) (Fault, bool) {
	var picked *faultRule
	for _, f := range fs.rules {
		if f.hitsNow(kind, r, fs.rng) && picked == nil {
			picked = f
		}
	}
	if picked == nil {
		return Fault{}, false
	}
	picked.hits++
	return picked.Fault, true
}

func (f *faultRule) hitsNow(kind Kind, r *http.Request, rng *rand.Rand) bool {
	if f.Kind != "" && f.Kind != kind || f.When != nil && !f.When(r) {
		return false
	}
	f.seen++
	return (f.Nth == 0 || f.seen == f.Nth) &&
		(f.Every == 0 || f.seen%f.Every == 0) &&
		(f.Times == 0 || f.hits < f.Times) &&
		(f.Chance == 0 || rng.Float64() < f.Chance)
}

// replaces says whether the fault answers in the API's place.
func (f *Fault) replaces() bool {
	return f.Status != 0 || f.Instead != "" || f.HTML || f.Redirect != "" || f.ResetBefore || f.ResetAfter || f.Hang && f.Truncate == 0
}

// afterWork says whether the work is done all the same.
func (f *Fault) afterWork() bool { return f.AfterWork || f.ResetAfter }

const proxyPage = "<!DOCTYPE html>\n<html><head><title>Just a moment</title></head>" +
	"<body><h1>Something went wrong</h1><p>proxy.example is looking into it.</p></body></html>\n"

// answer is what the client gets from a fault that replaces the API's answer.
func (f *Fault) answer(kind Kind) *answer {
	var a *answer
	switch {
	case f.ResetBefore || f.ResetAfter:
		return &answer{reset: true}
	case f.Hang:
		return &answer{hang: true}
	case f.Redirect != "":
		a = newAnswer(http.StatusFound, nil)
		a.header.Set("Location", f.Redirect)
	case f.HTML:
		a = newAnswer(http.StatusOK, []byte(proxyPage))
	case f.Instead != "":
		a = newAnswer(http.StatusOK, f.Instead.body(kind))
	case f.Body != "":
		a = newAnswer(f.Status, []byte(f.Body))
	default:
		a = gatewayError(f.Status)
	}
	if f.Status != 0 {
		a.status = f.Status
	}
	if len(a.body) > 0 && a.body[0][0] == '<' {
		a.header.Set("Content-Type", "text/html; charset=UTF-8")
	}
	return a
}

// apply does to an answer what happens to any answer.
func (f *Fault) apply(a *answer) {
	if f.RetryAfter != "" && a.header != nil {
		a.header.Set("Retry-After", f.RetryAfter)
	}
	a.slow = f.Slow
	a.keep = f.Truncate
	a.hang = a.hang || f.Hang
}
