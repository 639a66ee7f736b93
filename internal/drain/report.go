package drain

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// What a run ended with.
const (
	OK      = "ok"
	Partial = "partial" // stopped with the position stored
	Skipped = "skipped" // another run holds the lease
	Failed  = "failed"
)

// Why a run ended.
const (
	StopDone      = "done"
	StopBudget    = "budget"     // RUN_BUDGET is used up
	StopShutdown  = "shutdown"   // the platform, or the caller, ends the run
	StopCap       = "max_alerts" // MAX_ALERTS_PER_RUN is reached
	StopWait      = "wait"       // GTI asks for a wait that outlives the budget
	StopLeaseHeld = "lease_held"

	// The following are of failed runs.
	StopLeaseLost  = "lease_lost"
	StopKeyMissing = "key_missing"
	StopKeyRefused = "key_refused"
	StopErrors     = "error_budget"  // too many answers of 400 and above within the hour
	StopRequests   = "request_limit" // the day's requests are used up
	StopGTI        = "gti"           // GTI, or the way to it, failed
	StopError      = "error"         // all else: the database, a topic, the secret, this program
)

// ListingFailed reports whether a run failed because the API's lists can't be read
// on: it lies in what was asked or how it was answered, and not in this program.
func ListingFailed(err error) bool {
	var listing *listingError
	return errors.As(err, &listing)
}

// Report says what a run did. It is the body of the answer and the one log line
// of the run. Durations are in milliseconds or seconds as the names say.
type Report struct {
	Version        string     `json:"version"`
	Feed           string     `json:"feed"`
	RunID          string     `json:"run_id"`
	Trigger        string     `json:"trigger"`
	RequestedBy    string     `json:"requested_by,omitempty"` // e-mail of the caller, where the platform has checked one
	DryRun         bool       `json:"dry_run,omitempty"`
	Outcome        string     `json:"outcome"`
	StopReason     string     `json:"stop_reason"`
	StartedAt      time.Time  `json:"started_at"`
	FinishedAt     time.Time  `json:"finished_at"`
	DurationMS     int64      `json:"duration_ms"`
	PositionBefore *time.Time `json:"position_before"`
	PositionAfter  *time.Time `json:"position_after"`
	LagSeconds     float64    `json:"lag_seconds"`
	Fetched        int64      `json:"fetched"`
	Published      int64      `json:"published"`
	Created        int64      `json:"created"`
	Updated        int64      `json:"updated"`
	StatusChanged  int64      `json:"status_changed"`
	Suppressed     int64      `json:"suppressed"`
	Superseded     int64      `json:"superseded"`
	Dropped        int64      `json:"dropped"`
	Rejected       int64      `json:"rejected"`
	Redacted       int64      `json:"redacted"`             // of the published and the rejected ones: something was masked
	RulesFailed    int64      `json:"rules_failed"`         // how often a rule has failed
	LeftAlone      int64      `json:"left_alone,omitempty"` // changed, but never published and not this feed's to begin with
	Requests       int64      `json:"requests"`
	Requests24h    int64      `json:"requests_24h"` // of the key, at the end of the run
	Retries        int64      `json:"retries"`
	ThrottledMS    int64      `json:"throttled_ms"`
	ErrorAnswers   int64      `json:"error_answers"` // of 400 and above
	Errors1h       int64      `json:"errors_1h"`     // of the key, at the end of the run
	Pages          int64      `json:"pages"`
	Slices         int64      `json:"slices"`
	Splits         int64      `json:"splits"`
	Checkpoints    int64      `json:"checkpoints"`
	Bytes          int64      `json:"bytes"`
	LateMaxSeconds float64    `json:"late_max_seconds"`

	Gap   *state.TimeRange `json:"gap,omitempty"`
	Error string           `json:"error,omitempty"`

	// Only of a dry run.
	WouldPublish *int64           `json:"would_publish,omitempty"`
	ByType       map[string]int64 `json:"by_type,omitzero"`
	BySeverity   map[string]int64 `json:"by_severity,omitzero"`
	ByRule       map[string]int64 `json:"by_rule,omitzero"` // versions that a rule matched

	// Wait is how long GTI asks to wait, as far as the run was ended by that, and WaitCause
	// is what it answered.
	Wait      time.Duration `json:"-"`
	WaitCause string        `json:"-"`

	// needed is how many requests the alerts of the run would have taken: full pages,
	// listings, and alerts that are fetched by their id.
	needed float64
	// failures are the rules that failed, with the reason of each one's latest failure.
	failures map[string]string
}

// manyRequests is how many requests of a run are worth a second look.
const manyRequests = 50

// isHigh reports whether a run spent more than twice the requests that its alerts
// needed, and not just a few.
func (r *Report) isHigh() bool {
	return r.Requests > manyRequests && float64(r.Requests) > 2*(r.needed+float64(r.Slices))
}

// count makes the report one of a dry run.
func (r *Report) count() {
	r.DryRun, r.WouldPublish = true, new(int64)
	r.ByType, r.BySeverity, r.ByRule = map[string]int64{}, map[string]int64{}, map[string]int64{}
}

// add adds a page's counts. A dry run published nothing: what it would have
// goes to WouldPublish.
func (r *Report) add(fetched int, c ledger.Counts) {
	r.Fetched += int64(fetched)
	r.Suppressed += int64(c.Suppressed)
	r.Superseded += int64(c.Superseded)
	r.LeftAlone += int64(c.LeftAlone)
	r.Dropped += int64(c.Dropped)
	r.Rejected += int64(c.Rejected)
	r.RulesFailed += int64(c.RulesFailed)
	if r.failures == nil {
		r.failures = map[string]string{}
	}
	maps.Copy(r.failures, c.Failures)
	if r.DryRun {
		for rule, n := range c.ByRule {
			r.ByRule[rule] += int64(n)
		}
		*r.WouldPublish += int64(c.Published())
		for k, n := range c.ByType {
			r.ByType[orUnknown(k)] += int64(n)
		}
		for k, n := range c.BySeverity {
			r.BySeverity[orUnknown(k)] += int64(n)
		}
		return
	}
	r.Created += int64(c.Created)
	r.Updated += int64(c.Updated)
	r.StatusChanged += int64(c.StatusChanged)
	r.Redacted += int64(c.Redacted)
	r.Published += int64(c.Published())
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// finish ends the report with what the key has used by now, as far as is known here.
func (r *Runner) finish(report *Report, outcome, reason string, err error) {
	report.Requests24h, report.Errors1h = r.Usage.meter.Used()
	report.finish(outcome, reason, err)
}

func (r *Report) finish(outcome, reason string, err error) {
	r.Outcome, r.StopReason = outcome, reason
	r.FinishedAt = time.Now().UTC().Truncate(ms)
	r.DurationMS = r.FinishedAt.Sub(r.StartedAt).Milliseconds()
	r.LagSeconds = 0
	if r.PositionAfter != nil {
		r.LagSeconds = r.FinishedAt.Sub(*r.PositionAfter).Seconds()
	}
	if err != nil {
		r.Error = fmt.Sprint(err)
	}
}

// Reason is the stop reason of a run that ends with err.
func Reason(err error) string {
	_, reason, _ := outcomeOf(err)
	return reason
}

// outcomeOf tells a run that was stopped from one that failed.
func outcomeOf(err error) (outcome, reason string, failure error) {
	var budget *dtm.BudgetError
	kind := dtm.Kind(err)
	switch {
	case err == nil:
		return OK, StopDone, nil
	case errors.Is(err, state.ErrLost):
		return Failed, StopLeaseLost, err
	case errors.Is(err, errBudget):
		return Partial, StopBudget, nil
	case errors.Is(err, errShutdown):
		return Partial, StopShutdown, nil
	case errors.Is(err, errCap):
		return Partial, StopCap, nil
	case kind == dtm.Wait:
		return Partial, StopWait, nil
	case errors.Is(err, ErrKeyMissing), kind == dtm.NoKey:
		return Failed, StopKeyMissing, err
	case kind == dtm.KeyRefused:
		return Failed, StopKeyRefused, err
	case errors.As(err, &budget) && budget.What == "errors":
		return Failed, StopErrors, err
	case kind == dtm.BudgetSpent, kind == dtm.QuotaSpent:
		return Failed, StopRequests, err
	case ListingFailed(err), dtm.Failed(err):
		return Failed, StopGTI, err
	default:
		return Failed, StopError, err
	}
}

func (r *Runner) stats(report *Report) {
	all := []dtm.Stats{r.LiveAPI.Stats(), r.SweepAPI.Stats(), r.BackfillAPI.Stats()}
	if r.MonitorsAPI != nil {
		all = append(all, r.MonitorsAPI.Stats())
	}
	for _, s := range all {
		report.Requests += s.Requests
		report.Retries += s.Retries
		report.Pages += s.Pages
		report.Bytes += s.Bytes
		report.ErrorAnswers += s.Errors
		report.ThrottledMS += s.Throttled.Milliseconds()
	}
}

func (r *Report) before(f state.Feed) {
	if !f.BeginsAt.IsZero() {
		p := f.Position()
		r.PositionBefore, r.PositionAfter = &p, &p
	}
}
