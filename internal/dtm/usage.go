package dtm

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// Share is the part of a key's budgets that one kind of work may use, so that
// side work never stops the feed.
type Share struct {
	Errors   int     // answers of 400 and above in an hour
	Requests float64 // part of the day's requests, 0 to 1
}

const (
	budgetErrors   = "errors"
	budgetRequests = "requests"
)

// Meter counts what one API key asked, and the answers that the API counts as
// errors, and says when a budget is used up. It may be used by several goroutines.
type Meter struct {
	perDay int

	mu       sync.Mutex
	requests counter
	errors   counter
	underWay int64         // requests that were admitted, and not answered yet
	answered chan struct{} // is closed when one is
}

// NewMeter returns a meter for a key that may send so many requests in any 24 hours.
func NewMeter(requestsPerDay int) *Meter {
	return &Meter{
		perDay:   requestsPerDay,
		requests: newCounter(time.Hour, 24),
		errors:   newCounter(5*time.Minute, 12),
		answered: make(chan struct{}),
	}
}

// Load takes over what the database knows. It replaces what was loaded or taken
// before; what was counted here since the last Take stays on top. The keys are
// the buckets' starts in Unix seconds: hours for requests, five minutes for errors.
func (m *Meter) Load(requests, errors map[int64]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests.load(requests)
	m.errors.load(errors)
}

// Take returns what was counted since the last Take, for the caller to add to the
// database. From here on it counts as known to the database.
func (m *Meter) Take() (requests, errors map[int64]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.requests.take(), m.errors.take()
}

// Return gives back what Take has returned, when it could not be added: the next Take has
// it once more.
func (m *Meter) Return(requests, errors map[int64]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests.giveBack(requests)
	m.errors.giveBack(errors)
}

// Used returns the requests of the last 24 hours and the errors of the last hour.
func (m *Meter) Used() (requests, errors int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	return m.requests.used(now), m.errors.used(now)
}

// admit counts a request, or returns a *BudgetError when the share has nothing left. ended
// is to be called when the request is over. Each one under way may be answered with an
// error, and several together may pass what is left (DTM API: at its limit the user is
// locked out): then admit waits for one of them.
func (m *Meter) admit(ctx context.Context, s Share) (ended func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if err := m.spent(s); err != nil {
			return nil, err
		}
		now := time.Now()
		if m.underWay == 0 || m.errors.used(now)+m.underWay < int64(s.Errors) {
			m.requests.add(now)
			m.underWay++
			return sync.OnceFunc(m.ended), nil
		}
		answered := m.answered
		m.mu.Unlock()
		select {
		case <-answered:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		m.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
}

// spent returns a *BudgetError when a share has nothing left. The lock is held.
func (m *Meter) spent(s Share) error {
	now := time.Now()
	for _, b := range []struct {
		what    string
		counter *counter
		limit   int64
	}{
		{budgetErrors, &m.errors, int64(s.Errors)},
		{budgetRequests, &m.requests, part(m.perDay, s.Requests)},
	} {
		if used := b.counter.used(now); used >= b.limit {
			return &BudgetError{What: b.what, Used: used, Limit: b.limit, RetryAfter: b.counter.below(b.limit, now)}
		}
	}
	return nil
}

// part is a part of n, rounded down. Of a huge n a float64 can be more than an int64 holds.
func part(n int, part float64) int64 {
	if of := float64(n) * part; of < math.MaxInt64 {
		return int64(of)
	}
	return math.MaxInt64
}

// ended notes that a request is over.
func (m *Meter) ended() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.underWay--
	close(m.answered)
	m.answered = make(chan struct{})
}

// failed counts an answer of 400 or above.
func (m *Meter) failed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errors.add(time.Now())
}

// counter counts in buckets of one length, of which the newest are kept.
type counter struct {
	bucket time.Duration
	keep   int
	known  map[int64]int64 // by the database
	own    map[int64]int64 // since the last take
}

func newCounter(bucket time.Duration, keep int) counter {
	return counter{bucket: bucket, keep: keep, known: map[int64]int64{}, own: map[int64]int64{}}
}

func (c *counter) add(now time.Time) { c.own[now.Truncate(c.bucket).Unix()]++ }

func (c *counter) load(known map[int64]int64) {
	c.known = make(map[int64]int64, len(known))
	maps.Copy(c.known, known)
}

func (c *counter) take() map[int64]int64 {
	taken := c.own
	c.own = map[int64]int64{}
	for start, n := range taken {
		c.known[start] += n
	}
	// Nothing else shrinks the map of a process that never loads.
	oldest := c.oldest(time.Now())
	maps.DeleteFunc(c.known, func(start, _ int64) bool { return start < oldest })
	return taken
}

func (c *counter) giveBack(taken map[int64]int64) {
	oldest := c.oldest(time.Now())
	for start, n := range taken {
		if start >= oldest {
			c.own[start] += n
		}
		c.known[start] = max(0, c.known[start]-n)
	}
}

// oldest is the start of the oldest bucket that counts.
func (c *counter) oldest(now time.Time) int64 {
	return now.Truncate(c.bucket).Add(-time.Duration(c.keep-1) * c.bucket).Unix()
}

// counting adds up the buckets that count. A bucket ahead of this clock counts
// too, up to the difference that clocks may have.
func (c *counter) counting(now time.Time) map[int64]int64 {
	oldest, newest := c.oldest(now), now.Add(c.bucket).Unix()
	sum := map[int64]int64{}
	for _, counts := range []map[int64]int64{c.known, c.own} {
		for start, n := range counts {
			if start >= oldest && start <= newest {
				sum[start] += n
			}
		}
	}
	return sum
}

func (c *counter) used(now time.Time) (n int64) {
	for _, count := range c.counting(now) {
		n += count
	}
	return n
}

// below returns the time until fewer than limit are left in the window.
func (c *counter) below(limit int64, now time.Time) time.Duration {
	wait := c.bucket
	counts := c.counting(now)
	left := c.used(now)
	for _, start := range slices.Sorted(maps.Keys(counts)) {
		if left < limit {
			break
		}
		left -= counts[start]
		wait = time.Unix(start, 0).Add(time.Duration(c.keep) * c.bucket).Sub(now)
	}
	return wait
}
