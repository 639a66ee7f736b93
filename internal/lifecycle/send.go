package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// send publishes the jobs' messages and waits for every acknowledgement; what
// can't be published goes to the rejects topic. Each acknowledged job has its
// outcome afterwards. It returns the first failure.
func (d *Desk) send(ctx context.Context, jobs []*job) error {
	var publish, reject []*job
	for _, j := range jobs {
		if j.alert.Fault != "" {
			j.reason = j.alert.Fault
			j.msg = message.RejectElement(j.alert, d.Feed, d.RunID)
			reject = append(reject, j)
			continue
		}
		if j.alert.Cut != nil {
			reject = append(reject, d.refuse(j, message.ReasonTooLarge))
			continue
		}
		var fits bool
		if j.msg, fits = message.Fit(message.FromAlert(j.alert, d.envelope(j))); fits {
			publish = append(publish, j)
		} else {
			reject = append(reject, d.refuse(j, message.ReasonTooLarge))
		}
	}

	var failed error
	if len(publish) > 0 {
		for i, err := range d.Publisher.Publish(ctx, messages(publish)) {
			j := publish[i]
			switch {
			case err == nil:
				j.outcome = state.Published
			case errors.Is(err, message.ErrRefused):
				reject = append(reject, d.refuse(j, message.ReasonRefused))
			case failed == nil:
				failed = fmt.Errorf("publishing alert %s: %w", j.alert.ID, err)
			}
		}
	}
	if len(reject) == 0 {
		return failed
	}
	if err := d.Alive(); err != nil {
		return errors.Join(failed, err)
	}
	var unrejected error
	for i, err := range d.Publisher.Reject(ctx, messages(reject)) {
		j := reject[i]
		switch {
		case err == nil:
			j.outcome = state.Rejected
		case unrejected == nil:
			unrejected = fmt.Errorf("rejecting %s: %w", LedgerID(j.alert), err)
		}
	}
	return errors.Join(failed, unrejected)
}

func (d *Desk) refuse(j *job, reason string) *job {
	j.reason = reason
	j.msg = message.RejectAlert(j.alert, reason, d.Feed, d.RunID)
	return j
}

func (d *Desk) envelope(j *job) message.Envelope {
	e := message.Envelope{
		Event: j.event, Priority: message.Priority(j.alert.Severity), Origin: j.origin,
		Feed: d.Feed, RunID: d.RunID, Backfill: d.Backfill,
	}
	if j.event == StatusChanged {
		e.PreviousStatus = j.entry.Record.Status
	}
	return e
}

func messages(jobs []*job) []message.Message {
	out := make([]message.Message, len(jobs))
	for i, j := range jobs {
		out[i] = j.msg
	}
	return out
}
