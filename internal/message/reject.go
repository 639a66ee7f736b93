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
)

const (
	// maxElementBytes keeps a rejected element well below MaxSize.
	maxElementBytes = 9_000_000
	// elementHeadBytes is what is left of a larger one.
	elementHeadBytes = 64 << 10
)

// RejectElement is the message for the rejects topic of an array element that
// is not a usable alert: the element byte for byte, not copied, with the reason
// "unusable: " and fault. Of one over 9 MB it has the first 64 KiB, with size
// and sha256 of the whole as attributes.
func RejectElement(raw []byte, fault, feed, runID string) Message {
	reason := "unusable: " + fault
	if len(raw) <= maxElementBytes {
		return Message{Data: raw, Attributes: attributes(
			"reason", reason, "feed", feed, "run_id", runID, "schema", schema,
		)}
	}
	return Message{Data: raw[:elementHeadBytes:elementHeadBytes], Attributes: attributes(
		"reason", reason, "feed", feed, "run_id", runID, "schema", schema,
		"size", strconv.Itoa(len(raw)), "sha256", sha256Hex(raw), "truncated", "true",
	)}
}

// RejectAlert is the message for the rejects topic of an alert that can't be
// sent: which it was, not the alert itself, so that it always fits.
func RejectAlert(a dtm.Alert, reason, feed, runID string) Message {
	reason = Cut(reason)
	// Strings and a number always marshal.
	data, _ := json.Marshal(struct {
		AlertID string `json:"alert_id"`
		Size    int    `json:"size"`
		SHA256  string `json:"sha256"`
		Reason  string `json:"reason"`
	}{a.ID, len(a.Raw), sha256Hex(a.Raw), reason})
	return Message{Data: data, Attributes: attributes(
		"alert_id", a.ID, "reason", reason, "feed", feed, "run_id", runID, "schema", schema,
	)}
}

// ElementID is the name under which an element that is not a usable alert is
// remembered: it has no id of its own that could be trusted.
func ElementID(raw []byte) string {
	return "x-" + sha256Hex(raw)
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
