package dtmsim

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestConcurrencyLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{MaxConcurrent: 3, Latency: time.Second, RetryAfter: RetryAfterSeconds}, nil)
		c := newDirectClient(t, s)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { equal(t, "within the limit", c.list("").status, 200) })
		}
		synctest.Wait()
		r := c.list("")
		equal(t, "one more", r.status, 429)
		equal(t, "Retry-After", r.header.Get("Retry-After"), "1")
		equal(t, "not a listing", c.get("/dtm/monitors").status, 200)
		wg.Wait()
		equal(t, "afterwards", c.list("").status, 200)
		equal(t, "most at once", s.Stats().MaxConcurrent, 4)
	})
}

func TestDailyQuota(t *testing.T) {
	for style, want := range map[RetryAfterStyle]string{
		NoRetryAfter: "", RetryAfterSeconds: "75600", RetryAfterDate: "Sun, 02 Jan 2000 00:00:00 GMT",
	} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(3 * time.Hour) // a bubble begins at midnight
			c := newDirectClient(t, New(Options{RequestsPerDay: 2, RetryAfter: style}, nil))
			c.list("")
			equal(t, "second", c.list("").status, 200)
			r := c.list("")
			if r.status != 429 || !strings.Contains(r.body, "QuotaExceededError") {
				t.Errorf("third: %d %s", r.status, r.body)
			}
			equal(t, "Retry-After", r.header.Get("Retry-After"), want)
			time.Sleep(21 * time.Hour)
			equal(t, "the next day", c.list("").status, 200)
		})
	}
}

func TestLockOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newDirectClient(t, New(Options{ErrorsPerHour: 3}, nil))
		bad := func() { equal(t, "bad request", c.list("size=x").status, 400) }
		bad()
		time.Sleep(time.Hour)
		bad()
		bad()
		// The first is an hour old: it doesn't count any more.
		equal(t, "two errors in an hour", c.list("").status, 200)
		bad()
		equal(t, "locked out", c.list("").status, 429)
		equal(t, "everything is", c.get("/dtm/monitors").status, 429)
		time.Sleep(time.Hour - time.Second)
		equal(t, "still", c.list("").status, 429)
		time.Sleep(time.Second)
		equal(t, "free again", c.list("").status, 200)
	})
}
