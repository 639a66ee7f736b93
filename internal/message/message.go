// Package message turns an alert into the message that consumers get: its data,
// its attributes, and what to do when it is too large.
package message

import "errors"

// Message is what is published: the data, and attributes to filter and route by.
type Message struct {
	Data       []byte
	Attributes map[string]string
}

// ErrRefused is what a publisher answers for a message that the topic will
// never take (Pub/Sub: InvalidArgument), as against one that may pass later.
var ErrRefused = errors.New("the topic refuses the message")
