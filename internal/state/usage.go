package state

import "time"

// Usage counts requests to GTI by one API key, by the start of each bucket in
// Unix seconds: requests by the hour, answers of 400 and above by five minutes.
type Usage struct {
	Requests map[int64]int64 `json:"requests"`
	Errors   map[int64]int64 `json:"errors"`
}

// Bucket lengths of Usage, and how many of each are kept. dtm.Meter counts in the same
// ones, and a test of internal/app compares them.
const (
	RequestBucket  = time.Hour
	RequestBuckets = 24
	ErrorBucket    = 5 * time.Minute
	ErrorBuckets   = 12
)

// Outdated are the buckets that have left their window.
func (u Usage) Outdated(now time.Time) Usage {
	return Usage{
		Requests: older(u.Requests, now.Add(-RequestBuckets*RequestBucket)),
		Errors:   older(u.Errors, now.Add(-ErrorBuckets*ErrorBucket)),
	}
}

func older(buckets map[int64]int64, than time.Time) map[int64]int64 {
	out := map[int64]int64{}
	for start, n := range buckets {
		if start <= than.Unix() {
			out[start] = n
		}
	}
	return out
}
