package state

import "time"

// Usage counts requests to GTI by one API key, by the start of each bucket in
// Unix seconds: requests by the hour, answers of 400 and above by five minutes.
type Usage struct {
	Requests map[int64]int64 `json:"requests"`
	Errors   map[int64]int64 `json:"errors"`
}

// Bucket lengths of Usage, and how many of each are kept.
const (
	RequestBucket  = time.Hour
	RequestBuckets = 24
	ErrorBucket    = 5 * time.Minute
	ErrorBuckets   = 12
)
