package lifecycle

import (
	"context"
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
	// 600 s after which Pub/Sub delivers it again.
	workTime = 60 * time.Second
	// finishTime is what a message that is being worked has when its context ends
	// (Cloud Run: 10 s between SIGTERM and SIGKILL).
	finishTime = 6 * time.Second
	// atOnce is how many messages talk to GTI at a time. The API's limits are the
	// user's, and the feed needs them too.
	atOnce = 4
	// maxRounds bounds how often a message starts over because others write to the
	// same alert.
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
// GTI's change of an alert replaces its tags, and neither asks what was there.
// So the record of the alert in the ledger stands between the writers of several
// processes: each writes down what it is about to write before it does (Wish,
// Echo), on the condition that the record is as it was before the alert was read,
// and looks afterwards whether others came meanwhile, whose change it may have
// undone. What a crash leaves open its message repairs when it is delivered again.
type Writer struct {
	WriterOptions

	slots   *semaphore.Weighted
	turns   turns
	breaker breaker
}

// NewWriter returns a writer.
func NewWriter(o WriterOptions) *Writer {
	return &Writer{WriterOptions: o, slots: semaphore.NewWeighted(atOnce), breaker: breaker{open: o.Session}}
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
	t := &task{Writer: w, id: req.AlertID, asked: req.wishes(), expect: req.Expect, known: -1}
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

	// known is the record's WishSeq when this task last began to write; negative
	// before. A later wish may be undone by what was written.
	known   int64
	written bool
	// alone: GTI refused a change that held wishes of others. From then on they are
	// left to their own messages.
	alone bool
	wrote []state.Echo // by this delivery
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
		entry, err := t.read(work)
		if err != nil {
			return "", err
		}
		p := planFor(entry.Record, t.asked, t.known, time.Now())
		if t.alone {
			p.others, p.lost = nil, nil
		}
		switch {
		case len(p.mine)+len(p.beaten) == 0 && len(t.stamps) == 0:
			return t.result(p), nil
		case len(p.mine)+len(p.beaten) == 0: // another delivery has settled it
			if ok, err := t.settle(work, entry, p); ok || err != nil {
				return t.result(p), err
			}
			continue
		case t.written && len(p.lost) == 0:
			if ok, err := t.settle(work, entry, p); ok || err != nil {
				return Written, err
			}
			continue
		}
		if err := t.enter(ctx, work); err != nil {
			return "", err
		}
		ok, err := t.round(work, entry, p)
		switch {
		case err != nil:
			return "", err
		case ok:
			return t.result(p), nil
		}
	}
	return "", errors.New("others write to the same alert all the time")
}

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
	t.wrote = append(t.wrote, echo)
	changed, err := t.update(ctx, change)
	var refused refusal
	switch {
	case errors.As(err, &refused) && len(p.others)+len(p.lost) > 0:
		t.alone = true
		t.stamps = append(t.stamps, stamp{echo: echo})
		return false, nil
	case errors.As(err, &refused):
		t.stamps = append(t.stamps, stamp{echo: echo})
		return false, t.refuse(ctx, err)
	case err != nil:
		return false, err
	}
	t.written = true
	if changed.ID != "" {
		t.stamps = append(t.stamps, stamp{echo, changed.UpdatedAt})
	} else if alert, err := t.get(ctx); err == nil && shows(alert, echo) { // the answer was lost
		t.stamps = append(t.stamps, stamp{echo, alert.version})
	}
	return false, nil
}

// change is what is to be written now: nothing when the alert is as this message
// wants it, even if others want more.
func (t *task) change(rec state.Record, p plan, alert current) (dtm.Patch, error) {
	mine := p.mine
	if t.written {
		mine = nil
	}
	if len(mine) > 0 && t.expect != "" && alert.status != t.expect && !isEmpty(apply(alert, mine, rec.Wishes)) {
		return dtm.Patch{}, refusal(fmt.Sprintf("the alert's status is %q, and expect_status is %q", shorten(alert.status), t.expect))
	}
	own := slices.Concat(mine, t.undone(rec, p, alert))
	if isEmpty(apply(alert, own, rec.Wishes)) {
		return dtm.Patch{}, nil
	}
	for _, w := range p.others {
		if w.Expect == "" || w.Expect == alert.status {
			own = append(own, w)
		}
	}
	return apply(alert, own, rec.Wishes), nil
}

// undone are the wishes of others that a write of this message may have undone:
// it is to be seen in the alert, and theirs is not.
func (t *task) undone(rec state.Record, p plan, alert current) []state.Wish {
	wrote := slices.Clone(t.wrote)
	for _, e := range rec.Echoes {
		if e.Seq == p.seq() {
			wrote = append(wrote, e)
		}
	}
	var undone []state.Wish
	for _, w := range p.lost {
		if slices.ContainsFunc(wrote, func(e state.Echo) bool {
			if w.Field == state.WishStatus {
				return e.Status != "" && e.Status == alert.status
			}
			return e.Tags != nil
		}) {
			undone = append(undone, w)
		}
	}
	return undone
}
