package dtmsim

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Stats count what a server was asked and what it answered.
type Stats struct {
	Requests int
	ByKind   map[Kind]int
	// ByStatus counts answers; 0 are those that had none: resets and hangs.
	ByStatus map[int]int
	Errors   int // answers of 400 and above
	Pages    int // list and page requests answered with success
	Alerts   int // alerts in these, repeated ones too
	Faults   int // requests that a fault acted on
	// MaxConcurrent is the most list and page requests that were under way at once.
	MaxConcurrent int
	// KeyByHost counts the requests that carried an API key by the host that they
	// were meant for.
	KeyByHost map[string]int
}

// Request is a request as the server saw it.
type Request struct {
	At     time.Time
	Kind   Kind
	Method string
	Host   string
	Path   string
	Query  url.Values
	Header http.Header // without the key
	// Key is the first 16 hex digits of the SHA-256 of the API key; empty without one.
	Key    string
	Status int // of the answer; 0 when there was none
	Alerts int // in the answer
	Fault  bool
}

const keyHeader = "X-Apikey"

// journal keeps the counts and the latest requests.
type journal struct {
	Stats
	size     int
	requests []Request
	oldest   int // in requests, once it is full
}

func newJournal(size int) *journal {
	return &journal{size: size, Stats: Stats{
		ByKind: map[Kind]int{}, ByStatus: map[int]int{}, KeyByHost: map[string]int{},
	}}
}

func (j *journal) note(r *http.Request, kind Kind, a *answer, fault bool, now time.Time) {
	host := cmp.Or(r.Host, r.URL.Host)
	header := r.Header.Clone()
	header.Del(keyHeader)
	entry := Request{
		At: now, Kind: kind, Method: r.Method, Host: host, Path: r.URL.Path, Query: r.URL.Query(),
		Header: header, Status: a.status, Alerts: a.alerts, Fault: fault,
	}
	if key := r.Header.Get(keyHeader); key != "" {
		sum := sha256.Sum256([]byte(key))
		entry.Key = hex.EncodeToString(sum[:8])
		j.KeyByHost[host]++
	}
	j.Requests++
	j.ByKind[kind]++
	j.ByStatus[a.status]++
	if a.status >= http.StatusBadRequest {
		j.Errors++
	}
	if (kind == List || kind == Page) && (a.status == http.StatusOK || a.status == http.StatusNoContent) {
		j.Pages++
		j.Alerts += a.alerts
	}
	if fault {
		j.Faults++
	}
	if len(j.requests) < j.size {
		j.requests = append(j.requests, entry)
		return
	}
	j.requests[j.oldest] = entry
	j.oldest = (j.oldest + 1) % j.size
}

func (j *journal) stats() Stats {
	s := j.Stats
	s.ByKind, s.ByStatus, s.KeyByHost = maps.Clone(s.ByKind), maps.Clone(s.ByStatus), maps.Clone(s.KeyByHost)
	return s
}

func (j *journal) latest() []Request {
	return slices.Concat(j.requests[j.oldest:], j.requests[:j.oldest])
}
