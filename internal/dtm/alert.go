// Package dtm talks to the Google Threat Intelligence Digital Threat Monitoring
// API: it lists alerts page by page, fetches and changes single ones, and keeps
// every alert as the bytes that came.
package dtm

import (
	"encoding/json"
	"iter"
	"strings"
	"time"
	"unicode/utf8"
)

// Alert is one element of a list page: its bytes as received, and the few
// fields that routing needs.
type Alert struct {
	// Raw is the element byte for byte. The alerts of a page share the memory that
	// Page.Release gives back; nothing writes to it.
	Raw json.RawMessage
	// Digest, unless nil, says that the alert was too large to be held: Raw is only its
	// first 64 KiB then.
	Digest *Digest
	// Invalid says why the element is not a usable alert (not an object, no
	// created_at, an id outside [A-Za-z0-9_-]{1,128}); empty for a usable one.
	// Of an alert that is invalid only Raw counts, and of one that has an id, but no
	// created_at, also ID, Status and Tags.
	Invalid string
	// Unreadable: the element is no JSON at all, and Raw is what stands between its
	// neighbours. It is Invalid too.
	Unreadable bool

	ID          string
	Type        string // alert_type; the API's list of types grows, so any value is possible
	Status      string
	Severity    string // may be empty: old alerts have none
	MonitorID   string
	MonitorName string // only when asked for with monitor_name=true
	MScore      string // indicator_mscore as the number was written; empty when absent
	GroupID     string // aggregated_under_id: alike alerts of one monitor share it; empty when absent
	HasDoc      bool   // whether the document is in it (refs=true, and there is one)
	// Truncated: whoever asked for the alert has left its document out, because even a page
	// of one alert was too large with it.
	Truncated bool

	// CreatedAt is in UTC and whole milliseconds.
	CreatedAt time.Time
	// UpdatedAt is in UTC and whole milliseconds: together with ID it names one
	// version of the alert. A missing or unreadable updated_at counts as CreatedAt.
	UpdatedAt time.Time
	// Undated: the alert has no usable updated_at of its own, so that its place in a
	// list by updated_at says nothing.
	Undated bool
	// Ahead: UpdatedAt lies more than a day in the future. Such a version must not
	// count as the newest one, or every later change would pass for an older one.
	Ahead bool
}

// Members gives the names and values at the alert's top level, in their order. A
// name may come more than once. It gives nothing when the alert is invalid or was not
// held, because a part of an alert must not pass for all of it.
func (a Alert) Members() iter.Seq2[[]byte, []byte] {
	object := trim(a.Raw)
	if a.Invalid != "" || a.Digest != nil || len(object) == 0 || object[0] != '{' {
		return func(func(name, value []byte) bool) {}
	}
	return members(object)
}

// Tags returns the alert's tags in their order, and whether these are all that it
// has. They are not when the list holds something that is no string, or a string
// with half a character (U+FFFD stands for it here), when there is something else
// in its place or it is there twice, or when the alert was not held. Who writes the
// list back then would delete what is missing here. Null, and no list at all, mean
// that there are none (DTM API: recorded answers lack the list).
func (a Alert) Tags() (tags []string, all bool) {
	object := trim(a.Raw)
	if a.ID == "" || a.Digest != nil || len(object) == 0 {
		return nil, false
	}
	var list []byte
	all = true
	for name, value := range members(object) {
		if string(name) == "tags" {
			all = list == nil
			list = value
		}
	}
	if len(list) == 0 || list[0] != '[' {
		return nil, all && (list == nil || string(list) == "null")
	}
	for item := range elements(list) {
		tag, ok := stringValue(item)
		if ok {
			tags = append(tags, tag)
		}
		all = all && ok && !strings.ContainsRune(tag, utf8.RuneError)
	}
	return tags, all
}

// NoToken is the Next of a page whose next link holds no usable token, so that
// it does not pass for the last page.
const NoToken = "(no usable token)"

// Page is one answer to a list request, or to one for a single alert.
type Page struct {
	Alerts []Alert
	// Next is the token of the following page, empty when the answer has no next
	// link. It lives in memory only and serves one request (DTM API: the page
	// context lives 1 to 10 minutes, and may have moved on after one request). It
	// is NoToken when there is a next link that can't be asked for.
	Next string
	// AskedAt is when the request was sent: what came into the index later
	// can't be in the page.
	AskedAt time.Time
	// ReceivedAt is when the answer began to come.
	ReceivedAt time.Time
	// Date is the API's clock when it answered (HTTP Date, whole seconds, cut off);
	// zero when the answer has no usable one.
	Date time.Time

	release func()
}

// Release gives the page's memory back to the share that all workers have
// together. It is called once its alerts are no longer needed; further calls do nothing.
func (p *Page) Release() {
	if p.release != nil {
		p.release()
		p.release = nil
	}
}

// PageSize is the most alerts that a page may have (DTM API: 25 with the document,
// 100 without).
func PageSize(refs bool) int {
	if refs {
		return 25
	}
	return 100
}

// Order is the order of a listing.
type Order int

// The orders that the API has.
const (
	OldestFirst  Order = iota // by created_at
	NewestFirst               // by created_at
	UpdatedFirst              // by updated_at, the latest first; Since and Until bound created_at all the same (DTM API)
)

// Query is one listing.
type Query struct {
	// Since and Until bound created_at. Whether the API takes them as inclusive
	// is unknown, so callers ask for a millisecond more and look for themselves.
	Since, Until time.Time
	// Size is the page size asked for, at most PageSize.
	Size int
	// Refs embeds the document, labels and topics.
	Refs   bool
	Filter Filter
	Order  Order
	// Alone waits until a whole page's memory is reserved before asking: set when
	// an earlier try ended with ErrMemory.
	Alone bool
	// Once asks for each page once, without a repetition after a failure.
	Once bool
}
