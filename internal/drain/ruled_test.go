package drain_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
	"dtmrelay.internal/dtmrelay/internal/redact"
	"dtmrelay.internal/dtmrelay/internal/rules"
)

// password is in the document of each alert.
const password = "correct-horse-42"

// The operator's rules and masks, where a history has them.
var (
	rulesOfModel = func() *rules.Rules {
		_, r, err := rules.Compile(`[
			{"name": "noise", "when": "alert.title == 'noise' && alert.status != 'escalated'", "then": {"drop": true}},
			{"name": "urgent", "when": "alert.status == 'escalated'", "then": {"escalate": true, "priority": "P1"}},
			{"name": "seen", "when": "true", "then": {"tags": ["seen"]}}
		]`, "model")
		return must(r, err)
	}()
	masksOfModel = func() *redact.Redactor {
		r, _, err := redact.Parse(`["credentials", "doc.password"]`)
		return must(r, err)
	}()
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (w *world) rules() *rules.Rules {
	if w.Ruled {
		return rulesOfModel
	}
	return nil
}

func (w *world) redactor() *redact.Redactor {
	if w.Masked {
		return masksOfModel
	}
	return nil
}

// isNoise reports whether rules drop an alert, at least as it is at first.
func (w *world) isNoise(a *knownAlert) bool { return w.Ruled && a.Noise && a.Element == "" }

// isEscalated reports whether a version of an alert has that status.
func (w *world) isEscalated(a *knownAlert, version time.Time) bool {
	return slices.ContainsFunc(w.api.Versions(a.served), func(v dtmsim.Alert) bool {
		return v.UpdatedAt.Equal(version) && v.Status == "escalated"
	})
}

// checkRuled checks a message against the rules. The lock is held.
func (w *world) checkRuled(p *proc, a *knownAlert, m message.Message) {
	escalated := m.Attributes["status"] == "escalated"
	switch {
	case !w.Ruled:
	// Law: what a rule drops is not published.
	case w.isNoise(a) && !escalated:
		w.fail("%s publishes %s, which a rule drops", p.name, a.id)
	case escalated != (m.Attributes["escalated"] == "true"):
		w.fail("%s publishes %s with the attributes %v", p.name, a.id, m.Attributes)
	// Law: a rule's write-back is asked for before its alert is published.
	case m.Attributes["event"] == "created" && !w.asksOf[a.id]:
		w.fail("%s publishes %s, and what a rule writes back was not asked for", p.name, a.id)
	}
}

// requests are a process's client of the topic of write-backs.
type requests struct{ *proc }

func (r requests) Request(ctx context.Context, messages []message.Message) []error {
	if !r.Ruled {
		panic(fmt.Sprint("a write-back without rules: ", messages))
	}
	// The topic's client is that of the others, which says what a call is about by an attribute.
	marked := make([]message.Message, len(messages))
	for i, m := range messages {
		marked[i].Attributes = map[string]string{"alert_id": alertOf(m)}
	}
	return topics{proc: r.proc}.send(ctx, "request", marked, func(m message.Message) error {
		r.asksOf[m.Attributes["alert_id"]] = true
		return nil
	})
}

// alertOf is the alert that a write-back is about.
func alertOf(m message.Message) string {
	var asked struct {
		AlertID string `json:"alert_id"`
	}
	if err := json.Unmarshal(m.Data, &asked); err != nil {
		panic(err)
	}
	return asked.AlertID
}

// rejectOf is the message for the rejects topic about an element.
func (w *world) rejectOf(a *knownAlert) message.Message {
	element := dtm.Alert{Raw: []byte(a.Element), Invalid: "it is none"}
	raw, masked, readable := w.redactor().Redact(element.Raw)
	return message.RejectElement(element, raw, readable, masked.Any(), w.feed, "")
}

// elementsLike is of how many elements a message of the rejects topic may tell: masked,
// several look alike.
func (w *world) elementsLike(m message.Message) int {
	alike := map[string]bool{}
	for _, a := range w.known {
		if a.Element != "" && look(w.rejectOf(a)) == look(m) {
			alike[a.id] = true
		}
	}
	return len(alike)
}

// look is what a message of the rejects topic shows of an element: the hash, where
// nobody could tell what to mask in it.
func look(m message.Message) string {
	var about struct{ SHA256 string }
	if json.Unmarshal(m.Data, &about) == nil && about.SHA256 != "" {
		return about.SHA256
	}
	return string(m.Data)
}
