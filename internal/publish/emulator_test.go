package publish

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dtmrelay.internal/dtmrelay/internal/emulatortest"
	"dtmrelay.internal/dtmrelay/internal/message"
)

func TestAgainstTheEmulator(t *testing.T) {
	t.Setenv("PUBSUB_EMULATOR_HOST", emulatortest.PubSub(t))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// The emulator may be one that serves other tests as well.
	project := "p" + strings.ToLower(rand.Text())
	topic, subscription := "projects/"+project+"/topics/alerts", "projects/"+project+"/subscriptions/alerts"
	client, err := NewClient(ctx, project)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}()
	p := New(client, "alerts", "rejects", "")

	missing := errors.Join(p.Publish(ctx, page(1, 10))...)
	if status.Code(missing) != codes.NotFound || !strings.Contains(fmt.Sprint(missing), "gcloud pubsub topics create "+topic) {
		t.Errorf("without the topic: %v", missing)
	}
	if _, err := client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{
		Name: subscription, Topic: topic, AckDeadlineSeconds: 60,
	}); err != nil {
		t.Fatal(err)
	}
	receive := func(t *testing.T, n int) map[string]*pubsubpb.PubsubMessage {
		t.Helper()
		got := map[string]*pubsubpb.PubsubMessage{}
		for len(got) < n {
			pulled, err := client.SubscriptionAdminClient.Pull(ctx, &pubsubpb.PullRequest{Subscription: subscription, MaxMessages: 1000})
			if err != nil {
				t.Fatalf("after %d of %d messages: %v", len(got), n, err)
			}
			acknowledge := &pubsubpb.AcknowledgeRequest{Subscription: subscription}
			for _, m := range pulled.ReceivedMessages {
				got[m.Message.Attributes["n"]] = m.Message
				acknowledge.AckIds = append(acknowledge.AckIds, m.AckId)
			}
			if len(acknowledge.AckIds) > 0 {
				if err := client.SubscriptionAdminClient.Acknowledge(ctx, acknowledge); err != nil {
					t.Fatal(err)
				}
			}
		}
		return got
	}

	t.Run("a page", func(t *testing.T) {
		messages := page(100, 2000)
		messages[7].Data = []byte("\xff no JSON \x00")
		messages[8].Attributes["monitor_name"] = strings.Repeat("€", 341) + "\x00"
		if err := errors.Join(p.Publish(ctx, messages)...); err != nil {
			t.Fatal(err)
		}
		got := receive(t, len(messages))
		for n, m := range messages {
			m2 := got[m.Attributes["n"]]
			if !bytes.Equal(m.Data, m2.GetData()) || !maps.Equal(m.Attributes, m2.GetAttributes()) {
				t.Errorf("message %d arrived as %.200v", n, m2)
			}
		}
	})
	t.Run("the largest message", func(t *testing.T) {
		m := page(1, 0)[0]
		m.Data = bytes.Repeat([]byte("x"), message.MaxSize-m.Size())
		if err := errors.Join(p.Publish(ctx, []message.Message{m})...); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, 1)["0"]; !bytes.Equal(got.GetData(), m.Data) {
			t.Errorf("%d bytes arrived, want %d", len(got.GetData()), len(m.Data))
		}
	})
	t.Run("a refused message", func(t *testing.T) {
		messages := page(3, 10)
		messages[1] = message.Message{} // Pub/Sub takes no empty message
		errs := p.Publish(ctx, messages)
		if errs[0] != nil || !errors.Is(errs[1], message.ErrRefused) || errs[2] != nil {
			t.Errorf("got %v", errs)
		}
		receive(t, 2)
	})
}
