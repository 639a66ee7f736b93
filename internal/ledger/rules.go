package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/rules"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

// applyRules says what the operator's rules make of each item.
func (p *Processor) applyRules(items []*item) {
	now := time.Now().UTC()
	for _, it := range items {
		first := it.event == Created && !it.entry.Record.Known()
		it.rules = Evaluate(p.Rules, it.alert, it.event, it.previousStatus(), first, now)
	}
}

// Evaluate says what rules make of a version that would be published as an event. first:
// no version of the alert was published before, and only then is something written back.
// An element that is no usable alert, or was too large to be held, goes to the rejects
// topic whatever they say, so that none of them is looked at.
func Evaluate(r *rules.Rules, a dtm.Alert, event, previousStatus string, first bool, now time.Time) rules.Result {
	if a.Invalid != "" || a.Digest != nil {
		return rules.Result{Priority: message.Priority(a.Severity)}
	}
	// Without a status to expect, the repeat of a write-back could undo an analyst's change.
	canWriteBack := !first || slices.Contains(dtm.Statuses, a.Status)
	result := r.Evaluate(a, event, previousStatus, canWriteBack, now)
	if !first {
		result.WriteBacks = nil
	}
	return result
}

// previousStatus is what the status of a status_changed was; else empty.
func (it *item) previousStatus() string {
	if it.event != StatusChanged {
		return ""
	}
	return it.entry.Record.Status
}

// requestWritebacks asks for what the rules want written to GTI, before anything is
// published. It returns the items that may be published: with an error of the topic all
// but those whose requests were not acknowledged, with any other none.
//
// The records say first which status each request expects. Without that, a run after
// a crash would take the status that an analyst has set meanwhile for the expected
// one, and the rule would undo it.
func (p *Processor) requestWritebacks(ctx context.Context, items []*item) (ready []*item, err error) {
	var asking []*item
	for _, it := range items {
		if len(it.unsent()) > 0 {
			asking = append(asking, it)
		}
	}
	if len(asking) == 0 {
		return items, nil
	}
	contended, err := p.write(ctx, asking, func(it *item, rec *state.Record, now time.Time) {
		it.noteRequests(rec)
		rec.ExpireAt = now.Add(p.TTL)
	})
	if err == nil && len(contended) > 0 {
		err = fmt.Errorf("recording the write-backs of %d alerts: %w", len(contended), state.ErrContended)
	}
	if err == nil {
		err = p.reread(ctx, asking)
	}
	if err == nil {
		err = p.CheckLease()
	}
	if err != nil {
		return nil, err
	}
	var messages []message.Message
	for _, it := range asking {
		for _, w := range it.unsent() {
			messages = append(messages, p.request(it, w))
		}
	}
	errs := p.Writebacks.Request(ctx, messages)
	for _, it := range asking {
		n := len(it.unsent())
		failed := errors.Join(errs[:n]...)
		errs = errs[n:]
		if it.requested = failed == nil; !it.requested && err == nil {
			err = fmt.Errorf("asking for the write-backs of alert %s: %w", it.alert.ID, failed)
		}
	}
	for _, it := range items {
		if it.requested || !slices.Contains(asking, it) {
			ready = append(ready, it)
		}
	}
	if lost := p.CheckLease(); lost != nil {
		return nil, errors.Join(err, lost)
	}
	return ready, err
}

// unsent are the write-backs that no earlier version of the alert has had sent.
func (it *item) unsent() []rules.WriteBack {
	return slices.DeleteFunc(slices.Clone(it.rules.WriteBacks), func(w rules.WriteBack) bool {
		known := it.entry.Record.RuleRequest(w.Rule)
		return known != nil && known.Sent
	})
}

// noteRequests notes in a record what is about to be asked for.
func (it *item) noteRequests(rec *state.Record) {
	for _, w := range it.rules.WriteBacks {
		if rec.RuleRequest(w.Rule) == nil {
			rec.RuleRequests = append(slices.Clone(rec.RuleRequests), state.RuleRequest{Rule: w.Rule, Expect: it.alert.Status})
		}
	}
}

// noteSent notes in a record that the requests were acknowledged.
func (it *item) noteSent(rec *state.Record) {
	it.noteRequests(rec)
	rec.RuleRequests = slices.Clone(rec.RuleRequests)
	for _, w := range it.rules.WriteBacks {
		rec.RuleRequest(w.Rule).Sent = true
	}
}

// request is the message that asks for a write-back. Of two rules that match, one may
// set the status: the other's tags then don't wait for the status to be as it was.
func (p *Processor) request(it *item, w rules.WriteBack) message.Message {
	expect := it.entry.Record.RuleRequest(w.Rule).Expect
	if w.Status == "" && slices.ContainsFunc(it.rules.WriteBacks, func(o rules.WriteBack) bool { return o.Status != "" }) {
		expect = ""
	}
	return writeback.RuleMessage(it.alert.ID, w.Rule, w.Status, w.Tags, expect, p.Feed)
}
