package caseworker

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
)

// newClient is one of a project of its own: the emulator may serve other tests as well.
func newClient(ctx context.Context, t *testing.T) *pubsub.Client {
	t.Helper()
	client, err := pubsub.NewClient(ctx, "p"+strings.ToLower(rand.Text()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// newTopic makes a topic and a subscription to it.
func newTopic(ctx context.Context, t *testing.T, client *pubsub.Client, id string) (*pubsub.Publisher, *pubsub.Subscriber) {
	t.Helper()
	topic := "projects/" + client.Project() + "/topics/" + id
	if _, err := client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{
		Name: "projects/" + client.Project() + "/subscriptions/" + id, Topic: topic, AckDeadlineSeconds: 60,
	}); err != nil {
		t.Fatal(err)
	}
	p := client.Publisher(id)
	t.Cleanup(p.Stop)
	return p, client.Subscriber(id)
}
