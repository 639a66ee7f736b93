package publish

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	gax "github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"dtmrelay.internal/dtmrelay/internal/message"
)

// callTimeout ends a call with all its repeats. A lease of 60 s counts as lost
// 35 s after its last renewal: a call begun just before ends before another
// holder can start.
const callTimeout = 15 * time.Second

var errTimeout = fmt.Errorf("no acknowledgement within %v: %w", callTimeout, context.DeadlineExceeded)

// call publishes the messages in one request, which Pub/Sub takes whole or not
// at all, and repeats it while that can help.
func (p *PubSub) call(ctx context.Context, topic string, messages []message.Message) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errTimeout)
	defer cancel()

	request := &pubsubpb.PublishRequest{Topic: topic, Messages: make([]*pubsubpb.PubsubMessage, len(messages))}
	for i, m := range messages {
		request.Messages[i] = &pubsubpb.PubsubMessage{Data: m.Data}
		request.Messages[i].ProtoReflect().SetUnknown(encode(m.Attributes))
	}
	attempts := &attempts{Retryer: newRetryer()}
	answer, err := p.client.Publish(ctx, request, gax.WithRetry(func() gax.Retryer { return attempts }))
	switch {
	case err == nil && len(answer.MessageIds) == len(messages):
		return nil
	case err == nil:
		return fmt.Errorf("publishing to %s: %d ids in the answer for %d messages", topic, len(answer.MessageIds), len(messages))
	case ctx.Err() != nil && attempts.said != nil:
		err = fmt.Errorf("%w; the last answer was: %w", context.Cause(ctx), attempts.said)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	switch status.Code(err) {
	case codes.NotFound:
		return fmt.Errorf("publishing to %s: there is no such topic, create it with \"gcloud pubsub topics create %[1]s\": %w", topic, err)
	case codes.PermissionDenied:
		return fmt.Errorf("publishing to %s: not permitted, grant the relay's service account roles/pubsub.publisher on this topic: %w", topic, err)
	default:
		return fmt.Errorf("publishing to %s: %w", topic, err)
	}
}

// encode is the attributes as they are in an encoded PubsubMessage. Fields that
// the library was given encoded it sends as they are; left to it, a map costs
// two passes of reflection, which was half the processor time of publishing.
func encode(attributes map[string]string) []byte {
	const (
		attributesField = 2 // of google.pubsub.v1.PubsubMessage
		keyField        = 1 // of an entry, as in every protobuf map
		valueField      = 2
	)
	size := 0
	for k, v := range attributes {
		size += len(k) + len(v) + 12
	}
	b := make([]byte, 0, size)
	for k, v := range attributes {
		b = protowire.AppendTag(b, attributesField, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(2+protowire.SizeBytes(len(k))+protowire.SizeBytes(len(v))))
		b = protowire.AppendTag(b, keyField, protowire.BytesType)
		b = protowire.AppendString(b, k)
		b = protowire.AppendTag(b, valueField, protowire.BytesType)
		b = protowire.AppendString(b, v)
	}
	return b
}

// newRetryer repeats on the codes for which Pub/Sub's own clients repeat a
// publish (generated from its retry policy), with pauses that fit callTimeout
// rather than their ten minutes.
func newRetryer() gax.Retryer {
	return gax.OnCodes([]codes.Code{
		codes.Aborted,
		codes.Canceled, // by the server: our own ends ctx, and that ends the repeats
		codes.DeadlineExceeded,
		codes.Internal,
		codes.ResourceExhausted,
		codes.Unavailable,
		codes.Unknown,
	}, gax.Backoff{Initial: 100 * time.Millisecond, Max: 3 * time.Second, Multiplier: 2})
}

// attempts remembers what the server last said: when a call's time is up in a
// pause, all that the library returns is that.
type attempts struct {
	gax.Retryer
	said error
}

func (a *attempts) Retry(err error) (time.Duration, bool) {
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Canceled:
		// Most likely the end of our own context, and no reason by itself.
	default:
		a.said = err
	}
	return a.Retryer.Retry(err)
}
