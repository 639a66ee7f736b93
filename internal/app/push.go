package app

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"dtmrelay.internal/dtmrelay/internal/drain"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/observe"
	"dtmrelay.internal/dtmrelay/internal/writeback"
)

// maxPush bounds the body of a push request: a message of Pub/Sub's 10 MB takes a
// third more as base64.
const maxPush = 16 << 20

// syncHandler is the HTTP interface of the function SyncStatus: Pub/Sub pushes
// write-backs to it.
func (a *App) syncHandler(writer *writeback.Writer) http.Handler {
	s := &statusSync{app: a, writer: writer}
	return observe.Recover(a.log, http.HandlerFunc(s.push))
}

// newWriter makes what writes back to GTI. Its limits are the process', so an app has one.
func (a *App) newWriter() *writeback.Writer {
	return writeback.NewWriter(writeback.WriterOptions{
		Ledger: a.parts.Store, Rejects: a.parts.Publisher, Feed: a.cfg.Feed, TTL: a.cfg.LedgerTTL,
		Session: func() writeback.Session {
			s := a.client.Session(a.shares.sync).Once()
			return writeback.Session{Known: s, Unknown: s.Within(a.shares.syncUnknown)}
		},
		KeyID: a.keyID, Counter: a.usage,
	})
}

// atOnce does what rules ask for where there is no topic that would bring it to SyncStatus.
type atOnce struct{ writer *writeback.Writer }

func (o atOnce) Request(ctx context.Context, messages []message.Message) []error {
	errs := make([]error, len(messages))
	for i, m := range messages {
		_, errs[i] = o.writer.Handle(ctx, writeback.Message{Data: m.Data, PublishedAt: time.Now()})
	}
	return errs
}

type statusSync struct {
	app    *App
	writer *writeback.Writer
}

// push answers a push request on any path: 200 when the message is done with,
// 5xx when it is to be delivered again.
func (s *statusSync) push(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		problem{Status: http.StatusMethodNotAllowed, Detail: r.Method + " is not allowed here; allowed: POST"}.write(w)
		return
	}
	log := s.app.log.With("event", "writeback", "feed", s.app.cfg.Feed)
	msg, p := readPush(w, r)
	if p != nil {
		log.WarnContext(r.Context(), "a request is no push message", "problem", p.Detail)
		p.write(w)
		return
	}
	out, err := s.writer.Handle(r.Context(), msg)
	log = log.With("alert_id", out.AlertID, "message_id", msg.MessageID)
	if err != nil {
		level, reason := slog.LevelWarn, drain.Reason(err)
		if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
			level, reason = slog.LevelInfo, drain.StopShutdown
		}
		log.Log(r.Context(), level, "a write-back has to be delivered again", "outcome", "transient", "reason", reason, "error", err.Error())
		status, after := statusOfPush(err)
		retryAfter(w, after)
		problem{Status: status, Detail: err.Error()}.write(w)
		return
	}
	report(r.Context(), log, out)
	answer(w, http.StatusOK, "application/json", struct {
		Outcome string `json:"outcome"`
		AlertID string `json:"alert_id,omitempty"`
		Reason  string `json:"reason,omitempty"`
	}{out.Result, out.AlertID, out.Reason})
}

// report logs what became of a message, without tags and the requester's words.
func report(ctx context.Context, log *slog.Logger, out writeback.Outcome) {
	if out.Result == writeback.Rejected {
		log.WarnContext(ctx, "a write-back is rejected", "outcome", out.Result, "reason", out.Reason)
		return
	}
	log.InfoContext(ctx, "a write-back is done", "outcome", out.Result, "status", out.Status, "requested_by", out.By)
}

// statusOfPush is the HTTP status of a message that is to be delivered again, and
// how long to wait when the failure says so.
func statusOfPush(err error) (status int, after time.Duration) {
	var paused *writeback.PausedError
	status, after = statusOf(err)
	switch {
	case errors.As(err, &paused):
		return http.StatusServiceUnavailable, paused.RetryAfter
	case status == http.StatusInternalServerError: // the database, a topic, or the end of this instance
		return http.StatusServiceUnavailable, 0
	case status == http.StatusBadGateway:
		after = dtm.RetryAfter(err)
	}
	return status, after
}

// pushed is the envelope of a push request, as far as it is needed
// (https://cloud.google.com/pubsub/docs/push, "Receive push messages"): both
// spellings are sent.
type pushed struct {
	Message *struct {
		Data        string    `json:"data"` // base64
		MessageID   string    `json:"messageId"`
		MessageID2  string    `json:"message_id"`
		PublishedAt time.Time `json:"publishTime"`
		Published2  time.Time `json:"publish_time"`
	} `json:"message"`
}

// readPush reads the message out of its envelope.
func readPush(w http.ResponseWriter, r *http.Request) (writeback.Message, *problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPush))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return writeback.Message{}, &problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body is larger than %d bytes", maxPush)}
	case err != nil:
		return writeback.Message{}, &problem{Status: http.StatusBadRequest, Detail: "the body could not be read"}
	}
	msg, err := parsePush(body, time.Now())
	if err != nil {
		return writeback.Message{}, &problem{Status: http.StatusBadRequest, Detail: err.Error()}
	}
	return msg, nil
}

// parsePush reads an envelope that came now. A message without a publish time
// counts as published now.
func parsePush(body []byte, now time.Time) (writeback.Message, error) {
	var p pushed
	var kind *json.UnmarshalTypeError
	err := json.Unmarshal(body, &p)
	switch {
	case errors.As(err, &kind) && kind.Field == "":
		return writeback.Message{}, fmt.Errorf("the body is no push request: it is a JSON %s", kind.Value)
	case errors.As(err, &kind):
		return writeback.Message{}, fmt.Errorf("the body is no push request: %q of it is a JSON %s", kind.Field, kind.Value)
	case err != nil && json.Valid(body):
		return writeback.Message{}, errors.New("the push request's publish time is none")
	case err != nil:
		return writeback.Message{}, errors.New("the body is not valid JSON")
	case p.Message == nil:
		return writeback.Message{}, errors.New(`the body is no push request: it has no "message"`)
	}
	data, err := base64.StdEncoding.DecodeString(p.Message.Data)
	if err != nil {
		return writeback.Message{}, errors.New("the push request's data is not base64")
	}
	msg := writeback.Message{Data: data, MessageID: p.Message.MessageID, PublishedAt: p.Message.PublishedAt}
	if msg.MessageID == "" {
		msg.MessageID = p.Message.MessageID2
	}
	if msg.PublishedAt.IsZero() {
		msg.PublishedAt = p.Message.Published2
	}
	if msg.PublishedAt.IsZero() {
		msg.PublishedAt = now
	}
	return msg, nil
}
