// Package writeback writes changes of alerts back to GTI, as messages ask for, and
// tells a version that is the echo of such a change from what others have changed
// (MatchEcho).
//
// GTI's change of an alert replaces its tags, and takes no condition (DTM API). So a
// change that was computed from an older state of the alert undoes what another
// process has written since, and nobody can call back one that is on its way.
// Therefore one process at a time changes an alert: the one that holds the lease in
// the alert's record. This package writes a record only on the condition that it is as
// it was read (delivery.record).
//
// A push request brings a message to Writer.Handle. These are its steps:
//
//  1. ParseRequest reads the message's request, and Request.intents makes an intent of
//     each change that it asks for.
//  2. Writer.write waits until no other message of this process is at work on the alert
//     (alertLocks.lock). Then delivery.run goes through the steps 3 to 11.
//  3. delivery.awaitLeaseEnd reads the record. While somebody holds its lease, it waits
//     and reads again. When the message's time (workTime) is over, that is an error.
//  4. planFor compares the intents with those of the record. One that is recorded as
//     done needs nothing more, nor does one that repeats what its sender asks for only
//     once (isRepeat). Nor does one that a later request supersedes, unless it is
//     recorded as open: delivery.completeUnchanged then records it as done. If that is
//     all, the message is acknowledged. A later request that is itself open supersedes
//     nothing yet, because GTI may refuse it: then the message ends with an error, and
//     comes again.
//  5. delivery.acquireSlot waits until the message may talk to GTI. The rest is
//     delivery.attempt.
//  6. delivery.getNewest reads the alert from GTI, again while GTI shows an older version than
//     the record has. Then delivery.change computes the change.
//  7. If there is nothing to change, delivery.completeUnchanged records the intents as
//     done, on the condition that the record is as in step 3, and the message is
//     acknowledged. The condition proves that nobody took the lease since step 3, so
//     that the alert was read with all changes in it. If it fails: step 3.
//     What an earlier delivery of this message has written shows in the alert now:
//     delivery.recoverVersion takes the alert's version for that of its echo.
//  8. Else delivery.begin records the intents as open, the change's echo, and this
//     process as the lease's holder, on the same condition. If it fails: step 3.
//  9. delivery.update sends the PATCH, within patchTime of step 8. A process that stood
//     still meanwhile sends nothing.
//  10. If that fails, delivery.giveUp gives the lease back when the change can't happen
//     any more: it was not sent, or GTI itself has answered (isOver). After anything
//     else, such as a connection that broke, the change may still happen: the lease
//     stays, until its time is over.
//  11. After success, delivery.attempt looks whether GTI's answer shows the change, and
//     reads the alert once more if it doesn't. Then delivery.completeChanged records the
//     intents as done, the echo's version, and that nobody holds the lease, and the
//     message is acknowledged. If the lease was lost, because the process stood still
//     for longer than leaseTime: step 3.
//
// After an error Pub/Sub delivers the message again, because the push request fails. The
// message begins at step 1, and an open intent of its own says that an earlier delivery
// came as far as step 8. An error that no further delivery changes is a permanentError:
// ParseRequest, delivery.change and asPermanent, which looks at GTI's errors, return
// them. Then the message's intents are taken out of the record, and Writer.Handle sends
// the message to the rejects topic. A message that is to be skipped (errConflict) is
// withdrawn likewise, and acknowledged. Two deliveries of one message may be at work at
// once, and read different alerts, so this write has a condition too. In step 6 it is that
// the record is as in step 3 (delivery.withdraw), and it makes the other delivery's
// condition fail in step 7 or 8. After step 8 it is that this delivery still holds the
// lease, which it gives back (delivery.withdrawBegun). If it fails: step 3.
//
// So this may be under way at GTI when a message is acknowledged: nothing that was
// sent for it, by any delivery, and nothing that was sent before step 3. A change
// that another process sends after that belongs to a message that is not
// acknowledged, and was computed with what this one has done. Hence, of two
// requests for a field the later one stands, every tag that nobody named is kept,
// and after the last acknowledgement nothing is sent.
//
// Two things are beyond this. Somebody who changes the alert in GTI between steps 6
// and 9 may lose a tag. And a machine that stands still between its last look at
// the clock and the sending, for the rest of leaseTime, sends a change too late.
//
// A crash, or an answer that is lost, costs the alert's write-backs the lease's
// time, and no other alert anything.
package writeback

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/state"
)

const (
	// workTime bounds a message's work, with its waiting for others: far below the
	// 600 s after which Pub/Sub delivers it again, and longer than leaseTime, so that
	// the delivery after a crash waits for the lease's end and then does the work.
	workTime = 60 * time.Second
	// patchTime is how long after the lease was taken a change may be sent, and its
	// answer awaited.
	patchTime = 10 * time.Second
	// leaseTime is how long a lease lasts that nobody gives back. What it is longer
	// than patchTime is for GTI to be done with a request that was given up, and for
	// the difference between two processes' clocks.
	leaseTime = 30 * time.Second
	// A delivery that finds the lease taken looks again after firstLook, then after
	// twice as long each time, up to lastLook: mostly it is given back within a second.
	firstLook = 100 * time.Millisecond
	lastLook  = 2 * time.Second
	// finishTime is what a message that is being worked has when its context ends
	// (Cloud Run: 10 s between SIGTERM and SIGKILL).
	finishTime = 6 * time.Second
	// atOnce is how many messages talk to GTI at a time. The API's limits are the
	// user's, and the feed needs them too.
	atOnce = 4
	// maxAttempts bounds how often a message starts over because others write to the
	// alert's record.
	maxAttempts = 12
	// A read that shows an older version than the record has is made again this often, each
	// time after staleLook (DTM API: whether a read follows a change at once is not known).
	staleTries = 4
	staleLook  = time.Second
	// versionGrain is how much older a version may seem: after a change GTI gives it in whole
	// seconds (DTM API).
	versionGrain = time.Second
	// maxEchoes is how many echoes a record keeps, and maxEchoBytes how many bytes of
	// tags they hold together: a database takes no record above 1 MiB.
	maxEchoes    = 8
	maxEchoBytes = 128 << 10
)

// Ledger keeps the alerts' records (state.Store).
type Ledger interface {
	Records(ctx context.Context, feed string, ids []string) ([]state.Entry, error)
	WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error)
}

// API reads and changes single alerts (dtm.Session).
type API interface {
	Get(ctx context.Context, id string, refs bool) (dtm.Page, error)
	Update(ctx context.Context, id string, p dtm.Patch) (dtm.Alert, error)
}

// Session is a session with GTI, by what it may use of the key's budgets for errors. A
// sender who names alerts that don't exist earns an error with each message.
type Session struct {
	Known   API // for alerts that are in the ledger
	Unknown API // for those of which the ledger has no version
}

// Rejecter sends to the rejects topic.
type Rejecter interface {
	Reject(ctx context.Context, m []message.Message) []error
}

// Counter keeps the database's count of a key's requests.
type Counter interface {
	// Load makes the count that limits the requests up to date.
	Load(ctx context.Context, keyID string) error
	// Add adds what was sent.
	Add(ctx context.Context, keyID string)
}

// WriterOptions are what a Writer needs.
type WriterOptions struct {
	Ledger  Ledger
	Rejects Rejecter
	// Session makes a session that sends its requests once: Pub/Sub delivers a
	// message again.
	Session func() Session
	// KeyID names the API key that there is now.
	KeyID   func(ctx context.Context) (string, error)
	Counter Counter
	Feed    string
	// TTL is how long a record is kept after it was last written.
	TTL time.Duration
}

// Writer does what write-back messages ask for. There is one in a process. It is safe
// for concurrent use.
type Writer struct {
	options WriterOptions
	owner   string // names this process in leases
	slots   *semaphore.Weighted
	locks   alertLocks
	breaker breaker
}

// NewWriter returns a writer.
func NewWriter(o WriterOptions) *Writer {
	return &Writer{options: o, owner: rand.Text(), slots: semaphore.NewWeighted(atOnce), breaker: breaker{open: o.Session}}
}

// Message asks for a change of an alert, as Pub/Sub delivered it.
type Message struct {
	Data        []byte
	MessageID   string
	PublishedAt time.Time
}

// What became of a request.
const (
	Written    = "written"    // GTI has the change
	Already    = "already"    // there was nothing to change, or it was done before
	Superseded = "superseded" // a later request was there, or another status than expected, and on_conflict is skip
	Rejected   = "rejected"   // it can't be done; the message is in the rejects topic
)

// Outcome is what became of a message.
type Outcome struct {
	Result  string
	AlertID string // empty when the message has none that is valid
	Status  string // that was asked for
	By      string // who asked
	Reason  string // why it was rejected
}

// permanentError is an error that no further delivery changes.
type permanentError string

func (e permanentError) Error() string { return string(e) }

// errConflict ends a message whose expect_status isn't met, and which asks for nothing
// to be done then.
var errConflict = errors.New("the alert has another status than expected")

// errUndecided ends a delivery that a later request would supersede if GTI took it.
var errUndecided = errors.New("a later request for the same field has begun, and its end is not known yet")

// Handle does what a message asks for. A message that can't be done is rejected,
// which is an outcome. An error means that another delivery may succeed.
//
// When ctx ends, what is under way has some seconds to be finished.
func (w *Writer) Handle(ctx context.Context, msg Message) (Outcome, error) {
	req, err := ParseRequest(msg.Data, w.options.Feed, msg.PublishedAt)
	out := Outcome{AlertID: req.AlertID, Status: req.Status, By: req.By}
	if err != nil {
		err = permanentError(err.Error())
	} else {
		out.Result, err = w.write(ctx, req)
	}
	var permanent permanentError
	switch {
	case err == nil:
		return out, nil
	case !errors.As(err, &permanent):
		return out, fmt.Errorf("writing back to alert %s: %w", req.AlertID, err)
	}
	out.Result, out.Reason = Rejected, message.Cut(string(permanent))
	m := message.RejectWriteback(msg.Data, out.Reason, w.options.Feed, msg.MessageID, out.AlertID)
	if err := w.options.Rejects.Reject(ctx, []message.Message{m})[0]; err != nil {
		return out, fmt.Errorf("rejecting a write-back (%s): %w", out.Reason, err)
	}
	return out, nil
}

func (w *Writer) write(ctx context.Context, req Request) (string, error) {
	work, finish := outlive(ctx)
	defer finish()
	ctx, cancel := context.WithTimeoutCause(ctx, workTime, errLate)
	defer cancel()
	unlock, err := w.locks.lock(ctx, req.AlertID)
	if err != nil {
		return "", err
	}
	defer unlock()
	d := &delivery{writer: w, id: req.AlertID, asked: req.intents(), expect: req.Expect, skip: req.Skip}
	defer d.releaseSlot(work)
	return d.run(ctx, work)
}

var errLate = fmt.Errorf("not done within %v: %w", workTime, context.DeadlineExceeded)

// outlive returns a context that ends after workTime, or a while after ctx does.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	work, end := context.WithTimeoutCause(base, workTime, errLate)
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(finishTime, func() { cancel(context.Cause(ctx)) })
	})
	return work, func() {
		stop()
		end()
		cancel(nil)
	}
}

// delivery is one message's work on its alert.
type delivery struct {
	writer *Writer
	id     string
	asked  []state.Intent
	expect string
	skip   bool // when expect isn't met

	// lease is the one that this delivery took last, at takenAt by this process' clock.
	lease   state.Lease
	takenAt time.Time
	written bool
	// confirmations are what is known about echoes and not yet recorded.
	confirmations []confirmation

	hasSlot bool // it has a slot
	keyID   string
	known   bool // a version of the alert was published, dropped or rejected
}

// confirmation is the version that an echo turned out to have; zero when there is none
// to come.
type confirmation struct {
	echo    state.Echo
	version time.Time
}

// run goes on until the message's intents are completed.
func (d *delivery) run(ctx, work context.Context) (string, error) {
	for range maxAttempts {
		entry, err := d.awaitLeaseEnd(ctx, work)
		if err != nil {
			return "", err
		}
		p := planFor(entry.Record, d.asked)
		completed := false
		switch {
		case p.undecided:
			err = errUndecided
		case len(p.mine)+len(p.superseded) == 0:
			completed = true
		case len(p.mine) == 0: // it was begun, and superseded since
			completed, err = d.completeUnchanged(work, entry, p)
		default:
			d.known = !entry.Record.HandledVersion.IsZero()
			if err = d.acquireSlot(ctx, work); err == nil {
				completed, err = d.attempt(work, entry, p)
			}
		}
		switch {
		case errors.Is(err, errConflict):
			return Superseded, nil
		case err != nil:
			return "", err
		case completed:
			return d.result(p), nil
		}
	}
	return "", state.ErrContended
}

// awaitLeaseEnd returns the record once nobody else may be changing the alert.
func (d *delivery) awaitLeaseEnd(ctx, work context.Context) (state.Entry, error) {
	var seen state.Lease
	var since time.Time
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		entry, err := d.read(work)
		if err != nil || entry.Record.WriteLease == nil {
			return entry, err
		}
		if lease := *entry.Record.WriteLease; !sameLease(lease, seen) {
			seen, since = lease, time.Now()
		}
		// A lease that lasts longer than any can is of a clock that is ahead. It has
		// ended when it has been there for as long as a lease lasts.
		left := min(time.Until(seen.ExpiresAt), leaseTime-time.Since(since))
		if left <= 0 {
			return entry, nil
		}
		d.releaseSlot(work)
		select {
		case <-time.After(min(pause, left)):
		case <-ctx.Done():
			return state.Entry{}, fmt.Errorf("another change of the alert is under way: %w", context.Cause(ctx))
		}
	}
}

func sameLease(a, b state.Lease) bool { return a.Owner == b.Owner && a.ExpiresAt.Equal(b.ExpiresAt) }

func (d *delivery) result(p plan) string {
	switch {
	case d.written:
		return Written
	case len(p.mine) == 0 && !p.done:
		return Superseded
	default:
		return Already
	}
}

// attempt reads the alert, and changes it if it must. It reports whether the
// message is completed.
func (d *delivery) attempt(ctx context.Context, entry state.Entry, p plan) (completed bool, err error) {
	alert, err := d.getNewest(ctx, entry.Record)
	if err != nil {
		return false, d.withdraw(ctx, entry, err)
	}
	change, err := d.change(entry.Record, p, alert)
	if err != nil {
		return false, d.withdraw(ctx, entry, err)
	}
	if isEmpty(change) {
		d.recoverVersion(entry.Record, p, alert)
		return d.completeUnchanged(ctx, entry, p)
	}
	echo := echoOf(change, p.seq())
	if ok, err := d.begin(ctx, entry, p, echo); !ok {
		return false, err
	}
	done := func(alert current) bool {
		return (change.Tags == nil || alert.all) && isEmpty(apply(alert, p.mine, entry.Record.Intents))
	}
	changed, err := d.update(ctx, change)
	if err != nil {
		return false, d.giveUp(ctx, echo, err)
	}
	// An answer without tags may be none of GTI's, or leave them out: it shows no removal.
	if leftOut := change.Tags != nil && len(changed.tags) == 0; leftOut || !done(changed) {
		if changed, err = d.get(ctx); err != nil {
			return false, d.withdrawBegun(ctx, err)
		}
		if !done(changed) {
			return false, &dtm.UndoneError{ID: d.id}
		}
	}
	d.written = true
	d.confirmations = append(d.confirmations, confirmation{echo, changed.version})
	return d.completeChanged(ctx)
}

// change is what this message has to write.
func (d *delivery) change(rec state.Record, p plan, alert current) (dtm.Patch, error) {
	change := apply(alert, p.mine, rec.Intents)
	if d.expect != "" && alert.status != d.expect && !isEmpty(change) {
		if d.skip {
			return dtm.Patch{}, errConflict
		}
		return dtm.Patch{}, permanentError(fmt.Sprintf("the alert's status is %q, and expect_status is %q", dtm.Shorten(alert.status), d.expect))
	}
	unsure := slices.ContainsFunc(p.mine, func(in state.Intent) bool {
		return in.Field == state.IntentTags || in.Field == state.IntentRemoveTag // one that can't be read may be what it names
	})
	if !alert.all && (change.Tags != nil || unsure) {
		return dtm.Patch{}, permanentError("the alert's tags in GTI can't all be read, and a change of its tags would delete the others")
	}
	return change, nil
}

// giveUp says what follows from a change that failed with err.
func (d *delivery) giveUp(ctx context.Context, echo state.Echo, err error) error {
	var permanent permanentError
	switch {
	case errors.As(err, &permanent): // there is no echo
		d.confirmations = append(d.confirmations, confirmation{echo: echo})
		return d.withdrawBegun(ctx, err)
	case isOver(err):
		// If this fails, the lease ends by its time.
		_, _ = d.releaseLease(ctx, func(*state.Record) {})
	}
	return err
}
