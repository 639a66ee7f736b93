package ledger

import (
	"context"
	"errors"
	"fmt"

	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// publish publishes the items' messages and waits for every acknowledgement; what
// can't be published goes to the rejects topic. Each acknowledged item has its
// outcome afterwards. It returns the first failure.
func (p *Processor) publish(ctx context.Context, items []*item) error {
	var publishes, rejects []*item
	for _, it := range items {
		if it.alert.Invalid != "" {
			it.reason = it.alert.Invalid
			it.msg = message.RejectElement(it.alert, p.Feed, p.RunID)
			rejects = append(rejects, it)
			continue
		}
		if it.alert.Digest != nil {
			rejects = append(rejects, p.reject(it, message.ReasonTooLarge))
			continue
		}
		var fits bool
		if it.msg, fits = message.Fit(message.FromAlert(it.alert, p.envelope(it))); fits {
			publishes = append(publishes, it)
		} else {
			rejects = append(rejects, p.reject(it, message.ReasonTooLarge))
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

func (p *Processor) reject(it *item, reason string) *item {
	it.reason = reason
	it.msg = message.RejectAlert(it.alert, reason, p.Feed, p.RunID)
	return it
}

func (p *Processor) envelope(it *item) message.Envelope {
	e := message.Envelope{
		Event: it.event, Priority: message.Priority(it.alert.Severity), Origin: it.origin,
		Feed: p.Feed, RunID: p.RunID, Backfill: p.BackfillID,
	}
	if it.event == StatusChanged {
		e.PreviousStatus = it.entry.Record.Status
	}
	return e
}

func messages(items []*item) []message.Message {
	out := make([]message.Message, len(items))
	for i, it := range items {
		out[i] = it.msg
	}
	return out
}
