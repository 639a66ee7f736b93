// Package publish puts messages where consumers get them: into Pub/Sub topics,
// or into files of JSON lines for the command line.
package publish

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"cloud.google.com/go/pubsub/v2"
	vkit "cloud.google.com/go/pubsub/v2/apiv1"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dtmrelay.internal/dtmrelay/internal/message"
)

const (
	// batchBytes is about the size of one call. Larger calls are hardly faster,
	// and gRPC servers take 4 MiB unless told otherwise.
	batchBytes = 4_000_000
	// inFlightBytes bounds the calls under way of all callers together: gRPC
	// holds a second copy of what it sends. It is more than one largest message.
	inFlightBytes = 4 * batchBytes
)

// NewClient connects to Pub/Sub, or to the emulator at PUBSUB_EMULATOR_HOST.
func NewClient(ctx context.Context, project string) (*pubsub.Client, error) {
	client, err := pubsub.NewClient(ctx, project)
	if err != nil {
		return nil, fmt.Errorf("making the Pub/Sub client of project %q: %w", project, err)
	}
	return client, nil
}

// PubSub publishes to the topics of a feed. It is safe for concurrent use.
//
// It calls the API itself: the library's publisher gathers single messages into
// batches and waits 10 ms for more, but a page is a batch already.
type PubSub struct {
	client                  *vkit.TopicAdminClient
	alerts, rejects, status string              // full names
	inFlight                *semaphore.Weighted // bytes
}

// New publishes with client. Topics are ids of the client's project, or full
// names (projects/…/topics/…). statusTopic is empty when nobody calls Request.
func New(client *pubsub.Client, alertsTopic, rejectsTopic, statusTopic string) *PubSub {
	return &PubSub{
		client:   client.TopicAdminClient,
		alerts:   topicName(client.Project(), alertsTopic),
		rejects:  topicName(client.Project(), rejectsTopic),
		status:   topicName(client.Project(), statusTopic),
		inFlight: semaphore.NewWeighted(inFlightBytes),
	}
}

func topicName(project, topic string) string {
	if strings.HasPrefix(topic, "projects/") {
		return topic
	}
	return "projects/" + project + "/topics/" + topic
}

// Publish sends the messages to the alerts topic and returns one error for each:
// nil is acknowledged by Pub/Sub; one that wraps message.ErrRefused will never be
// taken; any other leaves it open whether the message was published.
//
// No call goes on for more than 15 seconds, or after ctx has ended. After a
// failed call no further one is begun.
func (p *PubSub) Publish(ctx context.Context, messages []message.Message) []error {
	return p.publish(ctx, p.alerts, messages)
}

// Reject is Publish to the rejects topic.
func (p *PubSub) Reject(ctx context.Context, messages []message.Message) []error {
	return p.publish(ctx, p.rejects, messages)
}

// Request is Publish to the topic of write-backs.
func (p *PubSub) Request(ctx context.Context, messages []message.Message) []error {
	return p.publish(ctx, p.status, messages)
}

func (p *PubSub) publish(ctx context.Context, topic string, messages []message.Message) []error {
	errs := make([]error, len(messages))
	var failure atomic.Pointer[error]
	var calls sync.WaitGroup
	for _, b := range batches(messages) {
		part, results := messages[b.from:b.to], errs[b.from:b.to]
		if b.bytes > message.MaxSize {
			results[0] = fmt.Errorf("publishing to %s: a message of %d bytes: %w", topic, b.bytes, message.ErrRefused)
			continue
		}
		if err := p.inFlight.Acquire(ctx, int64(b.bytes)); err != nil {
			err = fmt.Errorf("publishing to %s: %w", topic, context.Cause(ctx))
			failure.CompareAndSwap(nil, &err)
			fill(results, err)
			continue
		}
		calls.Go(func() {
			defer p.inFlight.Release(int64(b.bytes))
			p.send(ctx, topic, part, results, &failure)
		})
	}
	calls.Wait()
	return errs
}

// send publishes a batch in one call and sets the messages' results, unless an
// earlier call of the page failed: then that failure is the result.
func (p *PubSub) send(ctx context.Context, topic string, batch []message.Message, results []error, failure *atomic.Pointer[error]) {
	if err := failure.Load(); err != nil {
		fill(results, *err)
		return
	}
	err := p.call(ctx, topic, batch)
	switch {
	case err == nil:
	case status.Code(err) != codes.InvalidArgument:
		failure.CompareAndSwap(nil, &err)
		fill(results, err)
	case len(batch) == 1:
		results[0] = fmt.Errorf("%w: %w", message.ErrRefused, err)
	default:
		// Pub/Sub takes a batch whole or not at all, and doesn't say which
		// message it refuses.
		for i := range batch {
			p.send(ctx, topic, batch[i:i+1], results[i:i+1], failure)
		}
	}
}

func fill(errs []error, err error) {
	for i := range errs {
		errs[i] = err
	}
}

// batch is where the messages of one call begin and end, and their size.
type batch struct{ from, to, bytes int }

// batches cuts messages into batches of at most 1,000 (Pub/Sub's limit for a
// call) and batchBytes; a larger message is alone in its batch.
func batches(messages []message.Message) []batch {
	var list []batch
	for i, m := range messages {
		size := m.Size()
		if n := len(list) - 1; n >= 0 && list[n].bytes+size <= batchBytes &&
			list[n].to-list[n].from < pubsub.MaxPublishRequestCount {
			list[n].to++
			list[n].bytes += size
			continue
		}
		list = append(list, batch{from: i, to: i + 1, bytes: size})
	}
	return list
}
