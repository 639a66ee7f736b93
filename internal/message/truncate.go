package message

import (
	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// MaxSize is the largest Size that is sent. Pub/Sub takes publish requests of
// at most 10 MB (https://cloud.google.com/pubsub/quotas, "Resource limits";
// its Go client has it as MaxPublishRequestBytes = 1e7), counted with the
// topic's name: 1 KiB is left for that.
const MaxSize = 10_000_000 - 1<<10

// fieldBytes is more than protobuf puts around a message with its data, or
// around one attribute: a tag byte and at most five bytes of length for each.
const fieldBytes = 16

// Size is how many bytes the message takes in a publish request, rounded up.
func (m Message) Size() int {
	n := fieldBytes + len(m.Data)
	for k, v := range m.Attributes {
		n += fieldBytes + len(k) + len(v)
	}
	return n
}

// Fit is FromAlert where that is not larger than MaxSize. The message of a larger
// alert comes without the alert's doc, topics and labels, which are what makes alerts
// large, and says so in its attributes (truncated=true, refs=false). False, and no
// message, when it doesn't fit even so.
func Fit(a dtm.Alert, e Envelope) (Message, bool) {
	if m := FromAlert(a, e); m.Size() <= MaxSize {
		return m, true
	}
	var ok bool
	if a.Raw, ok = dtm.Without(a.Raw, "doc", "topics", "labels"); !ok {
		return Message{}, false
	}
	a.HasDoc, e.Truncated = false, true
	m := FromAlert(a, e)
	if m.Size() > MaxSize {
		return Message{}, false
	}
	return m, true
}

// Cut makes a value what Pub/Sub takes: valid UTF-8 of at most maxValueBytes,
// ended between two runes.
func Cut(v string) string {
	return dtm.Cut(v, maxValueBytes)
}
