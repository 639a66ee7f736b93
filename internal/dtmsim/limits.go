package dtmsim

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// limits are what the API allows a user.
type limits struct {
	options *Options

	day         time.Time
	today       int         // requests of the day
	running     int         // list and page requests under way
	failed      []time.Time // when the answers of 400 and above of the last hour were given
	lockedUntil time.Time
}

// lockedOut answers every request while the user is locked out.
func (l *limits) lockedOut(now time.Time) *answer {
	if !now.Before(l.lockedUntil) {
		return nil
	}
	return l.tooMany(gatewayError(http.StatusTooManyRequests), l.lockedUntil, now)
}

// daily counts a request. VirusTotal's quotas are reset at midnight UTC.
func (l *limits) daily(now time.Time) *answer {
	if day := now.UTC().Truncate(24 * time.Hour); !day.Equal(l.day) {
		l.day, l.today = day, 0
	}
	l.today++
	if l.options.RequestsPerDay == 0 || l.today <= l.options.RequestsPerDay {
		return nil
	}
	return l.tooMany(newAnswer(http.StatusTooManyRequests, []byte(QuotaExceeded)), l.day.Add(24*time.Hour), now)
}

// concurrent refuses a list or page request when the others under way are too many.
func (l *limits) concurrent(kind Kind, now time.Time) *answer {
	if kind != List && kind != Page || l.options.MaxConcurrent == 0 || l.running <= l.options.MaxConcurrent {
		return nil
	}
	return l.tooMany(gatewayError(http.StatusTooManyRequests), now.Add(time.Second), now)
}

// count notes an answer; the user is locked out when too many were errors.
func (l *limits) count(status int, now time.Time) {
	if l.options.ErrorsPerHour == 0 || status < http.StatusBadRequest {
		return
	}
	for len(l.failed) > 0 && !l.failed[0].After(now.Add(-errorWindow)) {
		l.failed = l.failed[1:]
	}
	l.failed = append(l.failed, now)
	if len(l.failed) >= l.options.ErrorsPerHour {
		l.failed = nil
		l.lockedUntil = now.Add(lockOutDuration)
	}
}

func (l *limits) tooMany(a *answer, until, now time.Time) *answer {
	switch l.options.RetryAfter {
	case RetryAfterSeconds:
		a.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(until.Sub(now).Seconds()))))
	case RetryAfterDate:
		// A date has whole seconds: rounded up, or the client comes too early.
		a.header.Set("Retry-After", until.UTC().Add(time.Second-1).Truncate(time.Second).Format(http.TimeFormat))
	default: // says nothing
	}
	return a
}
