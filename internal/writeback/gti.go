package writeback

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// acquireSlot waits until the message may talk to GTI.
func (d *delivery) acquireSlot(ctx, work context.Context) error {
	if d.hasSlot {
		return nil
	}
	if err := d.writer.slots.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	d.hasSlot = true
	var err error
	if d.keyID, err = d.writer.options.KeyID(work); err != nil {
		return err
	}
	return d.writer.options.Counter.Load(work, d.keyID)
}

func (d *delivery) releaseSlot(ctx context.Context) {
	if !d.hasSlot {
		return
	}
	d.hasSlot = false
	defer d.writer.slots.Release(1)
	if d.keyID != "" {
		d.writer.options.Counter.Add(ctx, d.keyID)
	}
}

// get reads the alert.
func (d *delivery) get(ctx context.Context) (current, error) {
	api, err := d.writer.breaker.session(d.keyID, d.known)
	if err != nil {
		return current{}, err
	}
	page, err := api.Get(ctx, d.id, false)
	d.writer.breaker.note(api, d.keyID, err)
	if !d.known && dtm.Kind(err) == dtm.BudgetSpent {
		err = fmt.Errorf("this feed has relayed no alert with this id, and write-backs to such stop first: %w", err)
	}
	if err != nil {
		if !d.known && dtm.IsGone(err) {
			return current{}, permanentError(reasonUnknown)
		}
		return current{}, asPermanent(err)
	}
	defer page.Release()
	return currentOf(page.Alerts[0]), nil // without a created_at, it has all that is needed here
}

// errStale ends a delivery that would undo what was written just before.
var errStale = errors.New("GTI shows an older version of the alert than the relay has seen")

// getNewest reads the alert. A change that is computed from an older version than the
// record's would take back the tags that were written since.
func (d *delivery) getNewest(ctx context.Context, rec state.Record) (current, error) {
	for try := 1; ; try++ {
		alert, err := d.get(ctx)
		switch {
		case err != nil || alert.undated || !isStale(alert.version, rec):
			return alert, err
		case try == staleTries:
			return current{}, errStale
		}
		select {
		case <-time.After(staleLook):
		case <-ctx.Done():
			return current{}, context.Cause(ctx)
		}
	}
}

// isStale reports whether a version is older than one that the record has of the last
// minutes. Where GTI's clock is further off than that, nothing is stale.
func isStale(version time.Time, rec state.Record) bool {
	isNewer := func(known time.Time) bool {
		return time.Since(known).Abs() < underWay && version.Add(versionGrain).Before(known)
	}
	return isNewer(rec.PublishedVersion) || slices.ContainsFunc(rec.Echoes, func(e state.Echo) bool { return isNewer(e.Version) })
}

func currentOf(alert dtm.Alert) current {
	tags, all := alert.Tags()
	return current{
		status: alert.Status, tags: tags, all: all, version: alert.UpdatedAt, undated: alert.Undated || alert.Invalid != "",
	}
}

var (
	errUnsent = errors.New("this process stood still before it sent the change")
	errSlow   = fmt.Errorf("GTI did not answer to the change within %v: %w", patchTime, context.DeadlineExceeded)
)

// update changes the alert, while the lease is fresh.
func (d *delivery) update(ctx context.Context, change dtm.Patch) (current, error) {
	api, err := d.writer.breaker.session(d.keyID, d.known)
	if err != nil {
		return current{}, err
	}
	end := d.takenAt.Add(patchTime)
	// Round(0): on some systems a machine that was suspended goes on with a clock that
	// stood still too; the time of day did not.
	if !time.Now().Round(0).Before(end.Round(0)) {
		return current{}, errUnsent
	}
	ctx, cancel := context.WithDeadlineCause(ctx, end, errSlow)
	defer cancel()
	alert, err := api.Update(ctx, d.id, change)
	d.writer.breaker.note(api, d.keyID, err)
	if err != nil {
		return current{}, asPermanent(err)
	}
	return currentOf(alert), nil
}

// isOver reports whether a change that failed can't happen any more: it was not
// sent, or GTI itself has answered. The answer of a gateway tells nothing of the API
// that it stands before, nor does a connection that broke.
func isOver(err error) bool {
	var paused *PausedError
	if errors.As(err, &paused) || errors.Is(err, errUnsent) {
		return true
	}
	switch dtm.Kind(err) {
	case dtm.Wait, dtm.BudgetSpent, dtm.Redirected, dtm.Throttled, dtm.QuotaSpent: // a 429, whoever says it: nothing was done
		return true
	case dtm.NoAnswer, dtm.Unreadable, dtm.Interrupted:
		return false
	default:
		return isOwnAnswer(err)
	}
}

// isOwnAnswer reports whether an error is an answer of GTI itself.
func isOwnAnswer(err error) bool {
	var api *dtm.APIError
	return errors.As(err, &api) && !api.Foreign
}

// reasonUnknown is why a request for an alert is rejected that GTI doesn't have. Where the
// feed has relayed it, only GTI's own words say so: another 404 may be a proxy's, and the
// request is worth another delivery.
const reasonUnknown = "unknown alert"

// isForGood reports whether a status says that the same request will never be taken. Others
// of GTI's, such as 409 and 424, may pass.
func isForGood(status int) bool {
	switch status {
	case http.StatusMethodNotAllowed, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusUnsupportedMediaType:
		return true
	}
	return false
}

// asPermanent makes a permanentError of an error that no further delivery changes.
func asPermanent(err error) error {
	var api *dtm.APIError
	switch kind := dtm.Kind(err); {
	case kind == dtm.PageTooLarge:
		return permanentError("the alert is too large to be read")
	case kind == dtm.NotFound:
		return permanentError(reasonUnknown)
	case errors.As(err, &api) && (kind.Final() || !api.Foreign && isForGood(api.Status)):
		return permanentError("refused by GTI: " + api.Error())
	}
	return err
}
