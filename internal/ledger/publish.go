package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/redact"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// publish publishes the items' messages and waits for every acknowledgement; what
// can't be published goes to the rejects topic. Each acknowledged item has its
// outcome afterwards. It returns the first failure.
func (p *Processor) publish(ctx context.Context, items []*item) error {
	var publishes, rejects []*item
	for _, it := range items {
		if it.rules.Drop {
			it.outcome = state.Dropped
			continue
		}
		raw, masked, readable := p.Redactor.RedactPart(it.alert.Raw, p.secrets(it))
		switch {
		case it.alert.Invalid != "":
			it.reason = it.alert.Invalid
			it.msg = message.RejectElement(it.alert, raw, readable, masked.Any(), p.Feed, p.RunID)
			it.redacted = masked.Any()
			rejects = append(rejects, it)
		case it.alert.Digest != nil:
			rejects = append(rejects, p.reject(it, message.ReasonTooLarge))
		case !readable:
			rejects = append(rejects, p.reject(it, message.ReasonUnmaskable))
		default:
			var fits bool
			if it.msg, fits = message.Fit(p.seen(it, raw, masked)); fits {
				it.redacted, it.secret = masked.Any(), masked.Secret() || it.masked != nil && it.masked.Secret()
				if !it.unseen {
					it.fingerprint = masked.Fingerprint()
				}
				publishes = append(publishes, it)
			} else {
				rejects = append(rejects, p.reject(it, message.ReasonTooLarge))
			}
		}
	}

	var failed error
	if len(publishes) > 0 {
		for i, err := range p.Publisher.Publish(ctx, messages(publishes)) {
			it := publishes[i]
			switch {
			case err == nil:
				it.outcome = state.Published
			case errors.Is(err, message.ErrRefused):
				rejects = append(rejects, p.reject(it, message.ReasonRefused))
			case failed == nil:
				failed = fmt.Errorf("publishing alert %s: %w", it.alert.ID, err)
			}
		}
	}
	if len(rejects) == 0 {
		return failed
	}
	if err := p.CheckLease(); err != nil {
		return errors.Join(failed, err)
	}
	var unrejected error
	for i, err := range p.Publisher.Reject(ctx, messages(rejects)) {
		it := rejects[i]
		switch {
		case err == nil:
			it.outcome = state.Rejected
		case unrejected == nil:
			unrejected = fmt.Errorf("rejecting %s: %w", ID(it.alert), err)
		}
	}
	return errors.Join(failed, unrejected)
}

// needsDocument reports whether a version without its document may hold a secret that only
// the document would tell: one was masked before, or its texts are others than those that
// were looked at together with it.
func (p *Processor) needsDocument(it *item) bool {
	if p.hasSecrets(it) {
		return true
	}
	return p.FetchFull != nil && !it.alert.HasDoc && p.Redactor.Masks() && it.entry.Record.Fingerprint != p.Redactor.Fingerprint(it.alert.Raw)
}

// hasSecrets reports whether the version may hold what was masked in an earlier one, and
// has no document, which alone tells what that is.
func (p *Processor) hasSecrets(it *item) bool {
	return it.entry.Record.HasSecrets && !it.alert.HasDoc && p.Redactor.Masks()
}

// secrets are what is to be masked beside what the version itself tells.
func (p *Processor) secrets(it *item) redact.Masked {
	switch {
	case it.masked != nil:
		return *it.masked
	case p.hasSecrets(it), it.unseen && (it.event == Created || p.needsDocument(it)):
		return redact.Everything()
	}
	return redact.Masked{}
}

func (p *Processor) reject(it *item, reason string) *item {
	it.reason = reason
	it.msg = message.RejectAlert(it.alert, reason, p.Feed, p.RunID)
	return it
}

// seen is an item's alert as it may be seen, with what its message says beside it.
func (p *Processor) seen(it *item, raw []byte, masked redact.Masked) (dtm.Alert, message.Envelope) {
	a, previous := it.alert, it.previousStatus()
	a.Raw, a.MonitorName = raw, masked.Text(a.MonitorName)
	if p.Redactor.Hides("monitor_name") {
		a.MonitorName = redact.At(it.alert.MonitorName)
	}
	// What an attribute and the incident say of a member is hidden with it.
	for _, m := range [...]struct {
		name string
		said *string
	}{
		{"monitor_id", &a.MonitorID},
		{"aggregated_under_id", &a.GroupID},
		{"indicator_mscore", &a.MScore},
		{"severity", &a.Severity},
		{"alert_type", &a.Type},
		{"status", &a.Status},
		{"status", &previous},
	} {
		if p.Redactor.Hides(m.name) {
			*m.said = ""
		}
	}
	return a, message.Envelope{
		Format: p.Format, Event: it.event, PreviousStatus: previous, Priority: it.rules.Priority, Origin: it.origin,
		Escalated: it.rules.Escalate, Rules: masked.Text(strings.Join(it.rules.Matched, ",")), Redacted: masked.Any(), Truncated: a.Truncated,
		Feed: p.Feed, RunID: p.RunID, Backfill: p.BackfillID,
	}
}

func messages(items []*item) []message.Message {
	out := make([]message.Message, len(items))
	for i, it := range items {
		out[i] = it.msg
	}
	return out
}
