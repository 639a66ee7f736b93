package dtmsim

import "time"

// Options choose one reading of the API wherever its documentation is silent.
// The zero value is a friendly server: the most likely readings, no limits, no latency.
type Options struct {
	// Prefix is the path in front of /dtm; empty means /api/v3.
	Prefix string
	// Key is the accepted API key; empty accepts any key, but not a missing one.
	Key string
	// Seed makes tokens, jitter, shuffled ties and the faults' chances repeatable.
	Seed uint64

	// Since and Until say whether the bounds on created_at take in their own
	// millisecond; empty means Inclusive.
	Since, Until Bound
	// SinceMaxAge is how old since may be; 0 is no limit.
	SinceMaxAge time.Duration
	// SinceTooOld is what happens before SinceMaxAge; empty means Reject.
	SinceTooOld TooOld
	// MaxSize is the most alerts that a page has, whatever is asked for; 0 is the
	// API's own most.
	MaxSize int
	// MonitorsPage is how many monitors a page of their list has; 0 is all of them.
	MonitorsPage int
	// RejectOversize answers 400 to a size over the maximum instead of clamping it.
	RejectOversize bool
	// TagsAll takes repeated tags parameters as AND instead of OR.
	TagsAll bool
	// MScoreMissingPasses lets alerts without indicator_mscore through mscore_gte.
	MScoreMissingPasses bool
	// Coarse is how exactly created_at is sorted; 0 is to the millisecond.
	Coarse time.Duration
	// Ties orders alerts with an equal sort key; empty means TiesByID.
	Ties TieOrder

	// Tokens says what a page token is good for; empty means Once.
	Tokens TokenMode
	// Paging says what the pages of one listing are cut from; empty means Snapshot.
	Paging PagingMode
	// DefaultLife and MaxLife bound a page context's life between two requests;
	// 0 means the documented 1 and 10 minutes. A longer life asked for is clamped.
	DefaultLife, MaxLife time.Duration
	// ExpiredStatus answers an unknown, used or expired token; 0 means 404.
	ExpiredStatus int
	// RejectExtraParams answers 400 when other parameters stand beside page;
	// otherwise they are ignored.
	RejectExtraParams bool

	// LinkOnLastPage puts a Link on every page, as recorded in 2023: after the
	// last page come empty pages with a Link, without end.
	LinkOnLastPage bool
	// LinkOnFullLast puts a Link on a last page that is full; after it comes
	// an empty page without one.
	LinkOnFullLast bool
	// LinkHost is the base URL in the Link header, for instance
	// https://api.intelligence.mandiant.com/v4; empty means the one that was asked.
	LinkHost string
	// LinkStyle is how the Link header is written; empty means LinkPlain.
	LinkStyle LinkStyle
	// Empty is how a list without alerts is written; empty means EmptyArray.
	Empty EmptyStyle

	// MaxConcurrent is how many list and page requests may run at once; one more
	// gets a 429. 0 is no limit; the API's is 10.
	MaxConcurrent int
	// RequestsPerDay is how many requests are answered in a UTC day; further ones
	// get a 429 QuotaExceededError. 0 is no limit; the API's is 50,000.
	RequestsPerDay int
	// ErrorsPerHour locks the user out for an hour, with a 429 for everything,
	// once so many answers of 400 and above were given within one. 0 is no limit;
	// the API's is 100.
	ErrorsPerHour int
	// RetryAfter is how the simulator's own 429 say when to come back; empty means NoRetryAfter.
	RetryAfter RetryAfterStyle

	// Latency is added to every list and page request, and up to Jitter more. A
	// page's content is settled when the request arrives, not when it is answered.
	Latency, Jitter time.Duration
	// Clock is by how much the API's time is ahead of this machine's. It governs what
	// is in the index, and the Date header.
	Clock time.Duration
	// NoDate leaves the Date header out.
	NoDate bool
	// Gzip compresses answers for clients that accept it.
	Gzip bool
	// LogSize is how many requests are kept for Requests; 0 means 10,000.
	LogSize int
}

// Bound says whether a bound on created_at takes in its own millisecond.
type Bound string

// The readings of a bound.
const (
	Inclusive Bound = "inclusive"
	Exclusive Bound = "exclusive"
)

// TooOld is what a server does with a since that is too old for it.
type TooOld string

// What happens to a since that is too old.
const (
	Reject TooOld = "reject" // 400
	Clamp  TooOld = "clamp"  // the oldest allowed since is used, and nothing said
)

// TieOrder is the order of alerts with an equal sort key.
type TieOrder string

// Orders of equal sort keys.
const (
	TiesByID     TieOrder = "id"       // as the listing: ids ascend when it does
	TiesReverse  TieOrder = "reverse"  // against the listing
	TiesShuffled TieOrder = "shuffled" // differently in each listing
)

// TokenMode says what a page token is good for.
type TokenMode string

// Readings of a page token.
const (
	// Once serves one request; the second gets Options.ExpiredStatus.
	Once TokenMode = "once"
	// Scroll names the context only: each request moves on, so asking again for
	// a page whose answer was lost silently skips it.
	Scroll TokenMode = "scroll"
	// Many serves the same page as often as it is asked for.
	Many TokenMode = "many"
)

// PagingMode says what the pages of one listing are cut from.
type PagingMode string

// Readings of paging.
const (
	// Snapshot fixes the listing when it is first asked for.
	Snapshot PagingMode = "snapshot"
	// Offset evaluates the filter anew for each page and skips as many as were
	// served: alerts that leave the list pull others past the reader.
	Offset PagingMode = "offset"
)

// LinkStyle is how the Link header is written.
type LinkStyle string

// Ways to write a Link header, all legal by RFC 8288.
const (
	LinkPlain    LinkStyle = "plain"     // <url>; rel="next", as recorded
	LinkUnquoted LinkStyle = "unquoted"  // rel=next
	LinkFirst    LinkStyle = "first"     // a rel="first" link before it in the same header
	LinkSeveral  LinkStyle = "several"   // several Link headers, next in the last
	LinkRelative LinkStyle = "relative"  // a path instead of a URL
	LinkParams   LinkStyle = "params"    // other parameters around page, a comma and a semicolon in a title
	LinkManyRels LinkStyle = "many-rels" // rel="last NEXT"
	LinkRelLast  LinkStyle = "rel-last"  // other parameters before rel, no space after the semicolons
)

// EmptyStyle is how a list without alerts is written.
type EmptyStyle string

// Ways to write an empty list.
const (
	EmptyArray     EmptyStyle = "array"      // {"alerts":[]}
	EmptyNull      EmptyStyle = "null"       // {"alerts":null}
	EmptyNoContent EmptyStyle = "no-content" // 204 without a body
)

// RetryAfterStyle is how a 429 says when to come back.
type RetryAfterStyle string

// Ways to write Retry-After.
const (
	NoRetryAfter      RetryAfterStyle = "none"
	RetryAfterSeconds RetryAfterStyle = "seconds"
	RetryAfterDate    RetryAfterStyle = "date"
)

// The API's numbers (DTM API: parameters, pagination).
const (
	defaultSize     = 10
	maxSizeRefs     = 25
	maxSizeSlim     = 100
	defaultLife     = time.Minute
	maxLife         = 10 * time.Minute
	defaultLogSize  = 10_000
	defaultPrefix   = "/api/v3"
	errorWindow     = time.Hour
	lockOutDuration = time.Hour
)

func (o *Options) setDefaults() {
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if o.DefaultLife == 0 {
		o.DefaultLife = defaultLife
	}
	if o.MaxLife == 0 {
		o.MaxLife = maxLife
	}
	if o.ExpiredStatus == 0 {
		o.ExpiredStatus = 404
	}
	if o.LogSize == 0 {
		o.LogSize = defaultLogSize
	}
}
