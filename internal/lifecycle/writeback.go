package lifecycle

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
	// Who finds the lease taken looks again after firstLook, then after twice as
	// long each time, up to lastLook: mostly it is given back within a second.
	firstLook = 100 * time.Millisecond
	lastLook  = 2 * time.Second
	// finishTime is what a message that is being worked has when its context ends
	// (Cloud Run: 10 s between SIGTERM and SIGKILL).
	finishTime = 6 * time.Second
	// atOnce is how many messages talk to GTI at a time. The API's limits are the
	// user's, and the feed needs them too.
	atOnce = 4
	// maxRounds bounds how often a message starts over because others write to the
	// alert's record.
	maxRounds = 12
	// maxEchoes is how many marks a record keeps, and maxEchoBytes how many bytes of
	// tags they hold together: a database takes no record above 1 MiB.
	maxEchoes    = 8
	maxEchoBytes = 128 << 10
)

// API reads and changes single alerts (dtm.Session).
type API interface {
	Get(ctx context.Context, id string, refs bool) (dtm.Page, error)
	Update(ctx context.Context, id string, p dtm.Patch) (dtm.Alert, error)
}

// Rejecter sends to the rejects topic (Publisher).
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
	Session func() API
	// KeyID names the API key that there is now.
	KeyID   func(ctx context.Context) (string, error)
	Counter Counter
	Feed    string
	// TTL is how long a record is kept after it was last written.
	TTL time.Duration
}

// Writer writes changes of alerts back to GTI, as messages ask for. There is one
// in a process.
//
// GTI's change of an alert replaces its tags, and takes no condition (DTM API).
// So a change that was computed from an older state of the alert undoes what
// another process has written since, and nobody can call back one that is on its
// way. Therefore one process at a time changes an alert: the one that holds the
// lease in the alert's record, to which every write is conditional on the record
// being as it was read. These are the steps of a message:
//
//  1. The process works one message for an alert at a time (turns.take).
//  2. It reads the record. While somebody holds the lease, it waits and reads
//     again (task.free). When its time is over, the message is delivered again.
//  3. Intents that the record has as done, or that a later request supersedes, are
//     settled (planFor). If that is all of the message, it is acknowledged.
//  4. It reads the alert from GTI, and computes the change (task.change).
//  5. If there is nothing to change, it records the intents as done, on the
//     condition that the record is as in step 2 (task.settle), and the message is
//     acknowledged. The condition proves that nobody took the lease since step 2,
//     so that the alert was read with all changes in it.
//  6. Else it records the intents as open, the change's echo mark, and itself as the
//     lease's holder, on the same condition (task.begin). If it fails: step 2.
//  7. It sends the change, within patchTime of step 6. A process that stood still
//     meanwhile sends nothing (task.update).
//  8. If GTI itself answers with an error, the change is over, and the lease is given
//     back (task.giveUp). After anything else, such as a connection that broke, the
//     change may still happen: the lease stays, until its time is over. Either way
//     the message is rejected or delivered again; then it begins at step 1, and an
//     open intent of its own says that an earlier delivery came as far as step 6.
//  9. After success it records the intents as done, the mark's version, and that
//     nobody holds the lease (task.complete), and the message is acknowledged. If it
//     has lost the lease, because it stood still for longer than leaseTime: step 2.
//
// So this may be under way at GTI when a message is acknowledged: nothing that was
// sent for it, by any delivery, and nothing that was sent before step 2. A change
// that another process sends after that belongs to a message that is not
// acknowledged, and was computed with what this one has done. Hence, of two
// requests for a field the later one stands, every tag that nobody named is kept,
// and after the last acknowledgement nothing is sent.
//
// Two things are beyond this. Somebody who changes the alert in GTI between steps 4
// and 7 may lose a tag. And a machine that stands still between its last look at
// the clock and the sending, for the rest of leaseTime, sends a change too late.
//
// A crash, or an answer that is lost, costs the alert's write-backs the lease's
// time, and no other alert anything.
type Writer struct {
	WriterOptions

	owner   string // names this process in leases
	slots   *semaphore.Weighted
	turns   turns
	breaker breaker
}

// NewWriter returns a writer.
func NewWriter(o WriterOptions) *Writer {
	return &Writer{WriterOptions: o, owner: rand.Text(), slots: semaphore.NewWeighted(atOnce), breaker: breaker{open: o.Session}}
}

// Delivery is one delivery of a message.
type Delivery struct {
	Data        []byte
	MessageID   string
	PublishedAt time.Time
}

// What became of a request.
const (
	Written    = "written"    // GTI has the change
	Already    = "already"    // there was nothing to change, or it was done before
	Superseded = "superseded" // a later request for the same was there
	Refused    = "rejected"   // it can't be done; the message is in the rejects topic
)

// Outcome is what became of a message.
type Outcome struct {
	Result  string
	AlertID string // empty when the message has none that is valid
	Status  string // that was asked for
	By      string // who asked
	Reason  string // why it was rejected
}

// refusal is an error that no further delivery changes.
type refusal string

func (r refusal) Error() string { return string(r) }

// Handle does what a message asks for. A message that can't be done is rejected,
// which is an outcome. An error means that another delivery may succeed.
//
// When ctx ends, what is under way has some seconds to be finished.
func (w *Writer) Handle(ctx context.Context, d Delivery) (Outcome, error) {
	req, err := ParseRequest(d.Data, w.Feed, d.PublishedAt)
	out := Outcome{AlertID: req.AlertID, Status: req.Status, By: req.By}
	if err != nil {
		err = refusal(err.Error())
	} else {
		out.Result, err = w.write(ctx, req)
	}
	var refused refusal
	switch {
	case err == nil:
		return out, nil
	case !errors.As(err, &refused):
		return out, fmt.Errorf("writing back to alert %s: %w", req.AlertID, err)
	}
	out.Result, out.Reason = Refused, message.Cut(string(refused))
	m := message.RejectWriteback(d.Data, out.Reason, w.Feed, d.MessageID, out.AlertID)
	if err := w.Rejects.Reject(ctx, []message.Message{m})[0]; err != nil {
		return out, fmt.Errorf("rejecting a write-back (%s): %w", out.Reason, err)
	}
	return out, nil
}

func (w *Writer) write(ctx context.Context, req Request) (string, error) {
	work, finish := outlive(ctx)
	defer finish()
	ctx, cancel := context.WithTimeoutCause(ctx, workTime, errLate)
	defer cancel()
	give, err := w.turns.take(ctx, req.AlertID)
	if err != nil {
		return "", err
	}
	defer give()
	t := &task{Writer: w, id: req.AlertID, asked: req.wishes(), expect: req.Expect}
	defer t.leave(work)
	return t.run(ctx, work)
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

// task is one message's work on its alert.
type task struct {
	*Writer
	id     string
	asked  []state.Wish
	expect string

	// lease is the one that this task took last, at takenAt by this process' clock.
	lease   state.Lease
	takenAt time.Time
	written bool
	// stamps are what is known about echoes and not yet recorded.
	stamps []stamp

	in    bool // it has a slot
	keyID string
}

// stamp is the version that an echo turned out to have; zero when there is none
// to come.
type stamp struct {
	echo    state.Echo
	version time.Time
}

// run goes on until the message's wishes are settled.
func (t *task) run(ctx, work context.Context) (string, error) {
	for range maxRounds {
		entry, err := t.free(ctx, work)
		if err != nil {
			return "", err
		}
		p := planFor(entry.Record, t.asked)
		settled := false
		switch {
		case len(p.mine)+len(p.beaten) == 0:
			settled = true
		case len(p.mine) == 0: // it was begun, and superseded since
			settled, err = t.settle(work, entry, p)
		default:
			if err = t.enter(ctx, work); err == nil {
				settled, err = t.round(work, entry, p)
			}
		}
		switch {
		case err != nil:
			return "", err
		case settled:
			return t.result(p), nil
		}
	}
	return "", errors.New("others write to the alert's record all the time")
}

// free returns the record once nobody else may be changing the alert.
func (t *task) free(ctx, work context.Context) (state.Entry, error) {
	var seen state.Lease
	var since time.Time
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		entry, err := t.read(work)
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
		t.leave(work)
		select {
		case <-time.After(min(pause, left)):
		case <-ctx.Done():
			return state.Entry{}, fmt.Errorf("another change of the alert is under way: %w", context.Cause(ctx))
		}
	}
}

func sameLease(a, b state.Lease) bool { return a.Owner == b.Owner && a.ExpiresAt.Equal(b.ExpiresAt) }

func (t *task) result(p plan) string {
	switch {
	case t.written:
		return Written
	case len(p.mine) == 0 && !p.done:
		return Superseded
	default:
		return Already
	}
}

// round reads the alert, and changes it if it must. It reports whether the
// message is settled.
func (t *task) round(ctx context.Context, entry state.Entry, p plan) (settled bool, err error) {
	alert, err := t.get(ctx)
	if err != nil {
		return false, t.refuse(ctx, err)
	}
	change, err := t.change(entry.Record, p, alert)
	if err != nil {
		return false, t.refuse(ctx, err)
	}
	if isEmpty(change) {
		t.adopt(entry.Record, p, alert)
		return t.settle(ctx, entry, p)
	}
	echo := echoOf(change, p.seq())
	if ok, err := t.begin(ctx, entry, p, echo); !ok {
		return false, err
	}
	done := func(alert current) bool {
		return (change.Tags == nil || alert.all) && isEmpty(apply(alert, p.mine, entry.Record.Wishes))
	}
	changed, err := t.update(ctx, change)
	if err != nil {
		return false, t.giveUp(ctx, echo, err)
	}
	// An answer without tags may be none of GTI's, or leave them out: it shows no removal.
	if leftOut := change.Tags != nil && len(changed.tags) == 0; leftOut || !done(changed) {
		if changed, err = t.get(ctx); err != nil {
			return false, t.refuse(ctx, err)
		}
		if !done(changed) {
			return false, &dtm.UndoneError{ID: t.id}
		}
	}
	t.written = true
	t.stamps = append(t.stamps, stamp{echo, changed.version})
	return t.complete(ctx)
}

// change is what this message has to write.
func (t *task) change(rec state.Record, p plan, alert current) (dtm.Patch, error) {
	change := apply(alert, p.mine, rec.Wishes)
	if t.expect != "" && alert.status != t.expect && !isEmpty(change) {
		return dtm.Patch{}, refusal(fmt.Sprintf("the alert's status is %q, and expect_status is %q", shorten(alert.status), t.expect))
	}
	unsure := slices.ContainsFunc(p.mine, func(w state.Wish) bool {
		return w.Field == state.WishTags || w.Field == state.WishRemoveTag // one that can't be read may be what it names
	})
	if !alert.all && (change.Tags != nil || unsure) {
		return dtm.Patch{}, refusal("the alert's tags in GTI can't all be read, and a change of its tags would delete the others")
	}
	return change, nil
}

// giveUp says what follows from a change that failed with err.
func (t *task) giveUp(ctx context.Context, echo state.Echo, err error) error {
	var refused refusal
	switch {
	case errors.As(err, &refused): // nothing comes round
		t.stamps = append(t.stamps, stamp{echo: echo})
		return t.refuse(ctx, err)
	case isOver(err):
		// If this fails, the lease ends by its time.
		_, _ = t.giveBack(ctx, func(*state.Record) {})
	}
	return err
}
