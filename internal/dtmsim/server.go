// Package dtmsim simulates the Digital Threat Monitoring API: an independent
// reading of its documentation, for tests, benchmarks and the demo.
//
// A [Server] is an http.Handler. Where the documentation is silent, [Options]
// choose a reading; [Fault] makes things go wrong; [Generate] invents alerts.
// All times come from package time, so that in a testing/synctest bubble its
// clock governs latency, the life of tokens and what is in the index. A bubble
// has no sockets: there, [Server.RoundTripper] serves a client directly.
package dtmsim

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Server simulates the API for one user. It is safe for concurrent use.
type Server struct {
	options Options

	mu     sync.Mutex
	key    string
	index  index
	tokens tokens
	faults faults
	// monitorChanges are ordered by their time.
	monitorChanges []MonitorChange
	limits         limits
	journal        *journal
	rng            *rand.Rand
}

// New returns a server that holds the alerts.
func New(o Options, alerts []Alert) *Server {
	o.setDefaults()
	s := &Server{
		options: o,
		key:     o.Key,
		index:   index{coarse: o.Coarse, byID: map[string]*record{}},
		tokens:  tokens{mode: o.Tokens, places: map[string]tokenPlace{}, machine: o.Seed ^ 0x5bd1e995a1},
		faults:  faults{rng: rand.New(rand.NewPCG(o.Seed, 1))},
		journal: newJournal(o.LogSize),
		rng:     rand.New(rand.NewPCG(o.Seed, 2)),
	}
	s.limits.options = &s.options
	s.index.add(alerts, s.now())
	return s
}

// now is the API's time.
func (s *Server) now() time.Time { return time.Now().Add(s.options.Clock) }

// Add puts alerts into the index.
func (s *Server) Add(alerts ...Alert) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.add(alerts, s.now())
}

// Update makes a new version of an alert: change alters its fields, updated_at
// becomes now, and the bytes are written anew where they must. It reports whether
// the alert is there.
func (s *Server) Update(id string, change func(*Alert)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.update(id, s.now(), change) != nil
}

func (s *Server) update(id string, now time.Time, change func(*Alert)) *Alert {
	r := s.index.byID[id]
	if r == nil || r.created.After(now) {
		return nil
	}
	r.advance(now)
	return r.change(now, change)
}

// SetKey rotates the API key: from now on only this one is accepted.
func (s *Server) SetKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// AddFault adds a rule after those that are there.
func (s *Server) AddFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.rules = append(s.faults.rules, &faultRule{Fault: f})
}

// ClearFaults removes all rules.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.rules = nil
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.stats()
}

// Requests returns the latest requests, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.latest()
}

// Visible returns what a listing at that time shows with these parameters, of
// which only the bounds and the filter count, in the order of created_at: the
// versions as they are then. Elements with Raw bytes are among them.
func (s *Server) Visible(at time.Time, params url.Values) ([]Alert, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := parseQuery(params, &s.options, at)
	if err != nil {
		return nil, err
	}
	now := s.now()
	var found []Alert
	for _, r := range s.index.between(q.since, q.until) {
		r.advance(now)
		if a := r.listedAt(at); a != nil && q.matches(a) {
			found = append(found, *a)
		}
	}
	return found, nil
}

// Versions returns every version of an alert until now, oldest first.
func (s *Server) Versions(id string) []Alert {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.index.byID[id]
	if r == nil {
		return nil
	}
	r.advance(s.now())
	all := make([]Alert, len(r.versions))
	for i, v := range r.versions {
		all[i] = v.alert
	}
	return all
}

// route says what a request asks for, and of which alert.
func (s *Server) route(r *http.Request) (kind Kind, id string, refused *answer) {
	path, ok := strings.CutPrefix(r.URL.Path, s.options.Prefix+"/dtm/")
	if !ok {
		return Other, "", gatewayError(http.StatusNotFound)
	}
	only := func(method string, kind Kind) (Kind, string, *answer) {
		if r.Method != method {
			return kind, "", methodNotAllowed(method)
		}
		return kind, "", nil
	}
	switch {
	case path == "alerts" && r.URL.Query().Get("page") != "":
		return only(http.MethodGet, Page)
	case path == "alerts":
		return only(http.MethodGet, List)
	case path == "alerts/bulk":
		return only(http.MethodPost, Bulk)
	case path == "monitors":
		return only(http.MethodGet, Monitors)
	}
	id, ok = strings.CutPrefix(path, "alerts/")
	switch {
	case !ok || id == "" || strings.Contains(id, "/"):
		return Other, "", gatewayError(http.StatusNotFound)
	case r.Method == http.MethodGet:
		return Get, id, nil
	case r.Method == http.MethodPatch:
		return Patch, id, nil
	}
	return Other, "", methodNotAllowed("GET, PATCH")
}

// answer settles a request at once and returns when its latency is over, or with
// the context's error when the client went before.
func (s *Server) answer(r *http.Request) (*answer, error) {
	body, refused := readBody(r)
	kind, id, unknown := s.route(r)
	if refused == nil {
		refused = unknown
	}
	counted := kind == List || kind == Page

	s.mu.Lock()
	now := s.now()
	if counted {
		s.limits.running++
		s.journal.MaxConcurrent = max(s.journal.MaxConcurrent, s.limits.running)
	}
	var fault Fault
	var faulty bool
	a := s.limits.lockedOut(now)
	locked := a != nil
	if !locked {
		fault, faulty = s.faults.pick(kind, r)
	}
	if fault.replaces() && !fault.afterWork() {
		a = fault.answer(kind)
	}
	if a == nil {
		a = s.refuse(r, kind, now)
	}
	delay := fault.Delay
	if a == nil {
		if counted {
			delay += s.latency()
		}
		if a = refused; a == nil {
			a = s.work(r, kind, id, body, fault, now)
		}
	}
	if fault.replaces() && fault.afterWork() {
		a = fault.answer(kind)
	}
	if !locked {
		fault.apply(a)
		s.limits.count(a.status, now)
	}
	s.journal.note(r, kind, a, faulty, now)
	s.mu.Unlock()
	if a.header != nil {
		a.header["Date"] = nil // net/http would add the machine's
		if !s.options.NoDate {
			a.header.Set("Date", now.UTC().Format(http.TimeFormat))
		}
	}

	err := sleep(r.Context(), delay)
	if err == nil && a.hang && a.keep == 0 {
		<-r.Context().Done()
		err = context.Cause(r.Context())
	}
	if counted {
		s.mu.Lock()
		s.limits.running--
		s.mu.Unlock()
	}
	return a, err
}

// refuse answers for the gateway: the key and the quotas.
func (s *Server) refuse(r *http.Request, kind Kind, now time.Time) *answer {
	switch key := r.Header.Get(keyHeader); {
	case key == "":
		return gatewayErrorWith(http.StatusUnauthorized, "AuthenticationRequiredError", "X-Apikey header is missing")
	case s.key != "" && key != s.key:
		return gatewayError(http.StatusUnauthorized)
	}
	if a := s.limits.daily(now); a != nil {
		return a
	}
	return s.limits.concurrent(kind, now)
}

func (s *Server) work(r *http.Request, kind Kind, id string, body []byte, f Fault, now time.Time) *answer {
	switch kind {
	case List:
		return s.list(r, f, now)
	case Page:
		return s.next(r, f, now)
	case Get:
		return s.get(r, id, now)
	case Patch:
		return s.patch(id, body, f, now)
	case Bulk:
		return s.bulk(body, now)
	case Monitors:
		return s.monitors(r, f, now)
	default:
		return gatewayError(http.StatusNotFound)
	}
}

func (s *Server) latency() time.Duration {
	d := s.options.Latency
	if s.options.Jitter > 0 {
		d += time.Duration(s.rng.Int64N(int64(s.options.Jitter)))
	}
	return d
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
