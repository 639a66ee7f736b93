package message

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// What the reason of a rejected alert begins with; ": " and a detail may follow.
const (
	ReasonTooLarge = "too_large" // it doesn't fit into a message (Fit)
	ReasonRefused  = "refused"   // the topic refuses its message (ErrRefused)
	// ReasonUnmaskable: what secrets it has can't be told (redact.Redactor.Redact).
	ReasonUnmaskable = "unmaskable"
)

const (
	// maxOriginalBytes keeps what is rejected byte for byte well below MaxSize.
	maxOriginalBytes = 9_000_000
	// originalHeadBytes is what is left of something larger.
	originalHeadBytes = 64 << 10
)

// RejectElement is the message for the rejects topic of an array element that
// is not a usable alert, with the reason "unusable: " and what makes it invalid. raw is
// what may be seen of the element, not copied. Of one over 9 MB it has the first 64 KiB,
// with size and sha256 of the whole, as it came, as attributes. When it is not readable,
// so that what is secret in it can't be told, there are only size, hash and reason.
// redacted: something in raw is masked.
func RejectElement(a dtm.Alert, raw []byte, readable, redacted bool, feed, runID string) Message {
	reason := "unusable: " + a.Invalid
	digest := a.Digest
	if !readable {
		if digest == nil {
			digest = digestOf(a.Raw)
		}
		return digestMessage("", digest, reason, feed, runID)
	}
	if digest == nil && len(raw) > maxOriginalBytes {
		digest = digestOf(a.Raw)
	}
	return original(raw, digest, "reason", reason, "feed", feed, "run_id", runID, "redacted", whenTrue(redacted))
}

// RejectWriteback is the message for the rejects topic of a write-back that can't
// be done: the request byte for byte, not copied, with the reason "writeback: "
// and reason, and the id of the message that brought it. Of one over 9 MB it has
// what RejectElement has. alertID is empty when the request has none that is valid.
func RejectWriteback(data []byte, reason, feed, messageID, alertID string) Message {
	return original(data, nil, "reason", "writeback: "+reason, "feed", feed, "message_id", messageID, "alert_id", alertID)
}

// original is a message with data as it came, or its head. With digest, data is no
// more than a head.
func original(data []byte, digest *dtm.Digest, pairs ...string) Message {
	pairs = append(pairs, "schema", schema)
	switch {
	case digest == nil && len(data) <= maxOriginalBytes:
		return Message{Data: data, Attributes: attributes(pairs...)}
	case digest == nil:
		digest = digestOf(data)
	}
	head := min(len(data), originalHeadBytes)
	pairs = append(pairs, "size", strconv.FormatInt(digest.Size, 10), "sha256", digest.SHA256, "truncated", "true")
	return Message{Data: data[:head:head], Attributes: attributes(pairs...)}
}

func digestOf(data []byte) *dtm.Digest {
	return &dtm.Digest{Size: int64(len(data)), SHA256: sha256Hex(data)}
}

// RejectAlert is the message for the rejects topic of an alert that can't be
// sent: which it was, not the alert itself, so that it always fits.
func RejectAlert(a dtm.Alert, reason, feed, runID string) Message {
	reason = Cut(reason)
	digest := a.Digest
	if digest == nil {
		digest = digestOf(a.Raw)
	}
	return digestMessage(a.ID, digest, reason, feed, runID)
}

// digestMessage says which alert or element it was that was rejected, and not what
// was in it. An element has no id.
func digestMessage(id string, digest *dtm.Digest, reason, feed, runID string) Message {
	// Strings and a number always marshal.
	data, _ := json.Marshal(struct {
		AlertID string `json:"alert_id,omitempty"`
		Size    int64  `json:"size"`
		SHA256  string `json:"sha256"`
		Reason  string `json:"reason"`
	}{id, digest.Size, digest.SHA256, reason})
	return Message{Data: data, Attributes: attributes(
		"alert_id", id, "reason", reason, "feed", feed, "run_id", runID, "schema", schema,
	)}
}

// ElementID is the name under which an element that is not a usable alert is
// remembered: it has no id of its own that could be trusted.
func ElementID(a dtm.Alert) string {
	if a.Digest != nil {
		return "x-" + a.Digest.SHA256
	}
	return "x-" + sha256Hex(a.Raw)
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
