// Package caseworker is an example of a consumer of the relay's messages in the
// format incident: it opens, updates and closes a case for each alert, and writes to
// GTI what people decide in the case system. It is meant to be copied and changed;
// nothing of the relay uses it.
//
// It needs a subscription of its own to the alerts topic, and the right to publish to
// the status topic (docs/incidents.md has the Terraform lines):
//
//	sub := client.Subscriber("dtm-alerts-cases")
//	topic := client.Publisher("dtm-status-updates")
//	w := &caseworker.Worker{Cases: cases, Publish: func(ctx context.Context, data []byte) error {
//		_, err := topic.Publish(ctx, &pubsub.Message{Data: data}).Get(ctx)
//		return err
//	}}
//	err := w.Run(ctx, sub, logger)
//
// What keeps it right, whatever comes twice, late or out of order:
//
//   - A message is acknowledged only once its case is stored.
//   - A case keeps the version of its alert. What is not newer is acknowledged and
//     changes nothing.
//   - An incident is never answered with a write-back. What people decide comes by
//     SetStatus alone, which says nothing to GTI that GTI knows already.
//   - The echo of a write-back (origin=writeback) brings the case up to date, but does
//     not undo what people have decided since.
package caseworker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"

	"dtmrelay.internal/dtmrelay/internal/message"
)

// Case is what a case system keeps of an alert.
type Case struct {
	AlertID  string
	Title    string
	Summary  string
	Severity string // empty: unknown
	Priority string // P1 to P4
	Link     string // the alert in Google's console
	URL      string // where the document was found; may be harmful

	State  string // open or closed
	Status string // in GTI, of the version that the case has
	// Requested is the status that was asked of GTI and has not come back yet; empty
	// when there is none.
	Requested string

	Version   time.Time // of the alert: its updated_at
	DedupeKey string    // of the message with that version
}

// ErrNoCase is what Find returns when an alert has no case.
var ErrNoCase = errors.New("the alert has no case")

// Cases is the case system. What Open, Update and Close return nil for is stored.
type Cases interface {
	// Find returns a case as it is now, with the state that people gave it.
	Find(ctx context.Context, alertID string) (Case, error)
	// Open makes a case, in whichever state c has: an alert may be closed when it is
	// first seen.
	Open(ctx context.Context, c Case) error
	// Update stores a case that stays open or closed as it is, or is reopened.
	Update(ctx context.Context, c Case) error
	// Close stores a case that was open and is closed now.
	Close(ctx context.Context, c Case) error
}

// Worker keeps Cases as the incidents say. One process is enough, and only one may
// run: two could both find that an alert has no case.
type Worker struct {
	Cases Cases
	// Publish publishes data to the status topic. It returns nil once Pub/Sub has it.
	Publish func(ctx context.Context, data []byte) error

	mu sync.Mutex // held while a case is read, changed and stored
}

// incident is what the worker reads of a message's data; docs/schemas/incident-v1.json
// has all of it.
type incident struct {
	Schema    string    `json:"schema"`
	DedupeKey string    `json:"dedupe_key"`
	Title     string    `json:"title"`
	Summary   string    `json:"summary"`
	Severity  string    `json:"severity"`
	Priority  string    `json:"priority"`
	State     string    `json:"state"`
	Status    string    `json:"status"`
	URL       string    `json:"url"`
	Link      string    `json:"link"`
	UpdatedAt time.Time `json:"updated_at"`
	Alert     struct {
		ID string `json:"id"`
	} `json:"alert"`
}

// Run works the messages of a subscription until ctx ends, which is no error. A
// message that fails is delivered again by Pub/Sub, with the subscription's back-off.
func (w *Worker) Run(ctx context.Context, sub *pubsub.Subscriber, log *slog.Logger) error {
	// A message waits for the one before it: what is fetched beyond that only waits here.
	sub.ReceiveSettings.NumGoroutines = 1
	sub.ReceiveSettings.MaxOutstandingMessages = 10
	err := sub.Receive(ctx, func(ctx context.Context, m *pubsub.Message) {
		if err := w.Handle(ctx, m); err != nil {
			log.ErrorContext(ctx, "an incident has to be delivered again", "dedupe_key", m.Attributes["dedupe_key"], "error", err.Error())
			m.Nack()
			return
		}
		m.Ack()
	})
	if err != nil {
		return fmt.Errorf("receiving incidents: %w", err)
	}
	return nil
}

// Handle brings the case of a message's alert up to date. When it returns nil, the
// message can be acknowledged.
func (w *Worker) Handle(ctx context.Context, m *pubsub.Message) error {
	var in incident
	if err := json.Unmarshal(m.Data, &in); err != nil {
		return fmt.Errorf("the data is no incident: %w", err)
	}
	if in.Schema != "dtmrelay.incident/v1" {
		return fmt.Errorf("the data has the schema %.40q, not dtmrelay.incident/v1: set MESSAGE_FORMAT=incident", in.Schema)
	}
	// Such a time is a mistake of GTI's clock, and the versions that come after it have
	// earlier ones: docs/messages.md, "At least once".
	if in.UpdatedAt.After(m.PublishTime.Add(24 * time.Hour)) {
		in.UpdatedAt = m.PublishTime
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := w.Cases.Find(ctx, in.Alert.ID)
	switch {
	case errors.Is(err, ErrNoCase):
		c = Case{AlertID: in.Alert.ID, State: in.State}
		c.takeOver(in)
		err = w.Cases.Open(ctx, c)
	case err != nil:
	case c.DedupeKey == in.DedupeKey || !in.UpdatedAt.After(c.Version):
		return nil // the case has this version, or a newer one
	default:
		before := c.State
		c.move(in, m.Attributes["origin"] == "writeback")
		c.takeOver(in)
		if before != "closed" && c.State == "closed" {
			err = w.Cases.Close(ctx, c)
		} else {
			err = w.Cases.Update(ctx, c)
		}
	}
	if err != nil {
		return fmt.Errorf("storing the case of alert %s: %w", in.Alert.ID, err)
	}
	return nil
}

// move opens or closes the case when the status in GTI has changed. While a status is
// asked for, an echo says nothing that the case does not say, and the echo of an
// earlier request would undo a later one.
func (c *Case) move(in incident, echo bool) {
	switch {
	case in.Status == c.Status:
	case echo && c.Requested != "":
		if in.Status == c.Requested {
			c.Requested = ""
		}
	default:
		c.State, c.Requested = in.State, ""
	}
}

// takeOver copies what a version says. A version without the document has no URL: the
// one that is known stays.
func (c *Case) takeOver(in incident) {
	c.Title, c.Summary, c.Severity, c.Priority, c.Link = in.Title, in.Summary, in.Severity, in.Priority, in.Link
	c.URL = cmp.Or(in.URL, c.URL)
	c.Status, c.Version, c.DedupeKey = in.Status, in.UpdatedAt, in.DedupeKey
}

// SetStatus asks for a status in GTI. The case system calls it after each change of a
// case's state, its own or a person's: with closed, or another status that closes, for
// a case that was closed, and in_progress for one that was reopened. by is who did it.
//
// It asks for nothing when GTI has a status of that state, or was asked for one: so a
// change that the worker itself made is not sent back to where it came from. After an
// error it is to be called again. It must not be called from within a method of Cases.
func (w *Worker) SetStatus(ctx context.Context, alertID, status, by string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := w.Cases.Find(ctx, alertID)
	if err != nil {
		return fmt.Errorf("reading the case of alert %s: %w", alertID, err)
	}
	expected := cmp.Or(c.Requested, c.Status)
	if message.State(expected) == message.State(status) {
		return nil
	}
	// Strings always marshal.
	data, _ := json.Marshal(struct {
		AlertID      string `json:"alert_id"`
		Status       string `json:"status"`
		ExpectStatus string `json:"expect_status,omitempty"`
		RequestedBy  string `json:"requested_by"`
	}{alertID, status, expected, by})
	if err := w.Publish(ctx, data); err != nil {
		return fmt.Errorf("asking for %s of alert %s: %w", status, alertID, err)
	}
	// Not before: a request that was only noted would never be made.
	c.Requested = status
	if err := w.Cases.Update(ctx, c); err != nil {
		return fmt.Errorf("noting the request for %s of alert %s: %w", status, alertID, err)
	}
	return nil
}
