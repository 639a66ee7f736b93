package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"go.uber.org/goleak"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"dtmrelay.internal/dtmrelay/internal/message"
)

// A handler answers publish calls.
type handler func(context.Context, *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error)

type server struct {
	pubsubpb.UnimplementedPublisherServer
	handler
}

func (s server) Publish(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
	return s.handler(ctx, r)
}

// acknowledge is what Pub/Sub answers when all is well.
func acknowledge(_ context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
	return &pubsubpb.PublishResponse{MessageIds: make([]string, len(r.Messages))}, nil
}

// serve is a publisher whose calls h answers, without the network, so that it
// works under synctest. Requests over 10 MB are refused as Pub/Sub does.
func serve(t testing.TB, alertsTopic string, h handler) *PubSub {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.MaxRecvMsgSize(10_000_000))
	pubsubpb.RegisterPublisherServer(s, server{handler: h})
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	client, err := pubsub.NewClient(t.Context(), "p", option.WithGRPCConn(conn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return New(client, alertsTopic, "rejects", "")
}

// page is n messages with their index as attribute n and data of size bytes.
func page(n, size int) []message.Message {
	data := bytes.Repeat([]byte("x"), size)
	messages := make([]message.Message, n)
	for i := range messages {
		messages[i] = message.Message{Data: data, Attributes: map[string]string{"n": strconv.Itoa(i)}}
	}
	return messages
}

func number(m *pubsubpb.PubsubMessage) int {
	n, err := strconv.Atoi(m.Attributes["n"])
	if err != nil {
		panic(err)
	}
	return n
}

func TestMain(m *testing.M) {
	// The libraries' metrics have a worker for the life of the process.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

func TestBatchesCoverThePageInOrder(t *testing.T) {
	for _, c := range []struct {
		name  string
		sizes []int
		want  []int // messages in each batch
	}{
		{"nothing", nil, nil},
		{"a page of small ones", slices.Repeat([]int{2000}, 100), []int{100}},
		{"more than a call takes", slices.Repeat([]int{10}, 2500), []int{1000, 1000, 500}},
		{"up to 4 MB", []int{1_999_000, 1_999_000, 1_999_000}, []int{2, 1}},
		{"a larger one is alone", []int{100, 5_000_000, 100, 100}, []int{1, 1, 2}},
		{"32 MB of large ones", slices.Repeat([]int{8_000_000}, 4), []int{1, 1, 1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var messages []message.Message
			for _, size := range c.sizes {
				messages = append(messages, message.Message{Data: make([]byte, size)})
			}
			var got []int
			next := 0
			for _, b := range batches(messages) {
				if b.from != next || b.to <= b.from {
					t.Fatalf("batch %v after %d", b, next)
				}
				next = b.to
				got = append(got, b.to-b.from)
			}
			if next != len(messages) || !slices.Equal(got, c.want) {
				t.Errorf("batches of %v messages, want %v", got, c.want)
			}
		})
	}
}

func TestAPageArrivesWithItsBytesAndAttributes(t *testing.T) {
	var mu sync.Mutex
	arrived := map[string]*pubsubpb.PubsubMessage{}
	calls := 0
	p := serve(t, "projects/q/topics/elsewhere", func(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		for i, m := range r.Messages {
			if i > 0 && number(m) != number(r.Messages[i-1])+1 {
				t.Errorf("message %d follows %d", number(m), number(r.Messages[i-1]))
			}
			arrived[r.Topic+" "+m.Attributes["n"]] = m
		}
		return acknowledge(ctx, r)
	})
	messages, rejects := page(100, 100_000), page(1, 5)
	messages[7].Data = []byte("\xff no JSON \x00")
	if err := errors.Join(append(p.Publish(t.Context(), messages), p.Reject(t.Context(), rejects)...)...); err != nil {
		t.Fatal(err)
	}
	if len(arrived) != 101 || calls != 4 {
		t.Errorf("%d messages arrived in %d calls, want 101 in 4", len(arrived), calls)
	}
	for topic, messages := range map[string][]message.Message{"projects/q/topics/elsewhere": messages, "projects/p/topics/rejects": rejects} {
		for _, m := range messages {
			got := arrived[topic+" "+m.Attributes["n"]]
			if !bytes.Equal(got.GetData(), m.Data) || !maps.Equal(got.GetAttributes(), m.Attributes) {
				t.Errorf("message %s of %s arrived as %v", m.Attributes["n"], topic, got)
			}
		}
	}
}

func TestARefusedMessageDoesNotStopTheOthers(t *testing.T) {
	refused := []int{3, 9}
	var published []int
	p := serve(t, "alerts", func(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
		var numbers []int
		for _, m := range r.Messages {
			if slices.Contains(refused, number(m)) {
				return nil, status.Error(codes.InvalidArgument, "an attribute is wrong")
			}
			numbers = append(numbers, number(m))
		}
		published = append(published, numbers...)
		return acknowledge(ctx, r)
	})
	for i, err := range p.Publish(t.Context(), page(10, 10)) {
		if want := slices.Contains(refused, i); errors.Is(err, message.ErrRefused) != want || (err != nil) != want {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if want := []int{0, 1, 2, 4, 5, 6, 7, 8}; !slices.Equal(published, want) {
		t.Errorf("published %v, want %v", published, want)
	}
}

func TestAFailureInTheMiddleOfOneByOne(t *testing.T) {
	p := serve(t, "alerts", func(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
		switch {
		case len(r.Messages) > 1 || number(r.Messages[0]) == 0:
			return nil, status.Error(codes.InvalidArgument, "an attribute is wrong")
		case number(r.Messages[0]) == 2:
			return nil, status.Error(codes.FailedPrecondition, "key disabled")
		}
		return acknowledge(ctx, r)
	})
	errs := p.Publish(t.Context(), page(4, 10))
	if !errors.Is(errs[0], message.ErrRefused) || errs[1] != nil {
		t.Errorf("before the failure: %v, %v", errs[0], errs[1])
	}
	for i, err := range errs[2:] {
		if status.Code(err) != codes.FailedPrecondition || errors.Is(err, message.ErrRefused) {
			t.Errorf("message %d: %v", i+2, err)
		}
	}
}

func TestErrorsNameTheTopicAndWhatToDo(t *testing.T) {
	const topic = "projects/p/topics/alerts"
	for _, c := range []struct {
		code codes.Code
		says []string
	}{
		{codes.NotFound, []string{topic, `"gcloud pubsub topics create ` + topic + `"`}},
		{codes.PermissionDenied, []string{topic, "roles/pubsub.publisher"}},
		{codes.Unauthenticated, []string{topic, "injected"}},
	} {
		t.Run(c.code.String(), func(t *testing.T) {
			calls := 0
			p := serve(t, "alerts", func(context.Context, *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
				calls++
				return nil, status.Error(c.code, "injected")
			})
			for _, err := range p.Publish(t.Context(), page(3, 10)) {
				if status.Code(err) != c.code || errors.Is(err, message.ErrRefused) {
					t.Errorf("got %v", err)
				}
				for _, want := range c.says {
					if !strings.Contains(fmt.Sprint(err), want) {
						t.Errorf("%q does not say %q", err, want)
					}
				}
			}
			if calls != 1 {
				t.Errorf("%d calls, want 1: repeating can't help", calls)
			}
		})
	}
}

func TestPassingFaultsAreRepeated(t *testing.T) {
	for _, code := range []codes.Code{
		codes.Aborted, codes.Canceled, codes.DeadlineExceeded, codes.Internal,
		codes.ResourceExhausted, codes.Unavailable, codes.Unknown,
	} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				p := serve(t, "alerts", func(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
					if calls++; calls <= 2 {
						return nil, status.Error(code, "not yet")
					}
					return acknowledge(ctx, r)
				})
				if err := errors.Join(p.Publish(t.Context(), page(2, 10))...); err != nil || calls != 3 {
					t.Errorf("%d calls, %v", calls, err)
				}
			})
		})
	}
}

func TestTheCauseSurvivesTheDeadline(t *testing.T) {
	errLost := errors.New("the lease is lost")
	unavailable := func(context.Context, *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
		return nil, status.Error(codes.Unavailable, "injected")
	}
	silent := func(ctx context.Context, _ *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, c := range []struct {
		name    string
		handler handler
		lost    time.Duration // when the caller's context ends, 0 is never
		after   time.Duration
		is      error
		code    codes.Code
		says    string
	}{
		{"refusing for 15 s", unavailable, 0, 15 * time.Second, context.DeadlineExceeded, codes.Unavailable, "injected"},
		{"silent for 15 s", silent, 0, 15 * time.Second, context.DeadlineExceeded, codes.Unknown, "no acknowledgement within 15s"},
		{"refusing, and the lease is lost", unavailable, 5 * time.Second, 5 * time.Second, errLost, codes.Unavailable, "injected"},
		{"silent, and the lease is lost", silent, 5 * time.Second, 5 * time.Second, errLost, codes.Unknown, "lease"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := serve(t, "alerts", c.handler)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if c.lost > 0 {
					time.AfterFunc(c.lost, func() { cancel(errLost) })
				}
				start := time.Now()
				for _, err := range p.Publish(ctx, page(2, 10)) {
					if !errors.Is(err, c.is) || status.Code(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
						t.Errorf("code %v: %v", status.Code(err), err)
					}
				}
				if took := time.Since(start); took != c.after {
					t.Errorf("took %v, want %v", took, c.after)
				}
			})
		})
	}
}

func TestAnEndedContextPublishesNothing(t *testing.T) {
	errLost := errors.New("the lease is lost")
	p := serve(t, "alerts", func(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
		t.Error("a call was made")
		return acknowledge(ctx, r)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errLost)
	for _, err := range p.Publish(ctx, page(3, 10)) {
		if !errors.Is(err, errLost) {
			t.Errorf("got %v", err)
		}
	}
}

func TestCallsUnderWayAreBoundedOverAllCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		underWay := 0
		proceed := make(chan struct{})
		p := serve(t, "alerts", func(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
			mu.Lock()
			underWay++
			mu.Unlock()
			<-proceed
			return acknowledge(ctx, r)
		})
		var callers sync.WaitGroup
		for range 2 {
			callers.Go(func() {
				if err := errors.Join(p.Publish(t.Context(), page(4, 3_900_000))...); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		mu.Lock()
		if underWay != 4 {
			t.Errorf("%d calls of 3.9 MB under way, want 4", underWay)
		}
		mu.Unlock()
		close(proceed)
		callers.Wait()
		if underWay != 8 {
			t.Errorf("%d calls, want 8", underWay)
		}
	})
}

func TestNothingIsSentAfterAFailedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		sent := map[int]bool{}
		p := serve(t, "alerts", func(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
			n := number(r.Messages[0])
			mu.Lock()
			sent[n] = true
			mu.Unlock()
			if n == 1 {
				return nil, status.Error(codes.PermissionDenied, "injected")
			}
			time.Sleep(time.Second)
			return acknowledge(ctx, r)
		})
		for n, err := range p.Publish(t.Context(), page(8, 3_900_000)) {
			if acknowledged := sent[n] && n != 1; (err == nil) != acknowledged {
				t.Errorf("batch %d, sent %v: %v", n, sent[n], err)
			}
			if err != nil && status.Code(err) != codes.PermissionDenied {
				t.Errorf("batch %d has another error: %v", n, err)
			}
		}
		if len(sent) > 4 {
			t.Errorf("batches %v were sent", sent)
		}
	})
}

func TestAnAnswerThatDoesNotLineUpAcknowledgesNothing(t *testing.T) {
	for _, ids := range [][]string{nil, {"1", "2"}, {"1", "2", "3", "4"}} {
		p := serve(t, "alerts", func(context.Context, *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
			return &pubsubpb.PublishResponse{MessageIds: ids}, nil
		})
		for i, err := range p.Publish(t.Context(), page(3, 10)) {
			if err == nil || errors.Is(err, message.ErrRefused) {
				t.Errorf("%d ids, message %d: %v", len(ids), i, err)
			}
		}
	}
}

func TestTheLargestMessageFitsIntoTenMegabytes(t *testing.T) {
	// The longest names: 30 letters for a project, 255 for a topic.
	topic := "projects/" + strings.Repeat("p", 30) + "/topics/" + strings.Repeat("t", 255)
	p := serve(t, topic, acknowledge)
	largest := func(over int) message.Message {
		m := page(1, 0)[0]
		m.Data = make([]byte, message.MaxSize-m.Size()+over)
		return m
	}
	errs := p.Publish(t.Context(), []message.Message{page(1, 1)[0], largest(0), largest(1), page(1, 9_900_000)[0]})
	for i, err := range errs {
		if tooLarge := i == 2; errors.Is(err, message.ErrRefused) != tooLarge || (err != nil) != tooLarge {
			t.Errorf("message %d: %v", i, err)
		}
	}
}

func TestAttributesAreEncodedAsTheLibraryDoes(t *testing.T) {
	for _, size := range []int{0, 1, 20, 127, 128, 1024, 20_000} {
		want := &pubsubpb.PubsubMessage{Attributes: map[string]string{"": "", "k": strings.Repeat("v", size), strings.Repeat("k", size): "€"}}
		got := &pubsubpb.PubsubMessage{}
		if err := proto.Unmarshal(encode(want.Attributes), got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, want) {
			t.Errorf("of size %d: %v", size, got)
		}
		if got, want := len(encode(want.Attributes)), proto.Size(want); got != want {
			t.Errorf("of size %d: %d bytes, want %d", size, got, want)
		}
	}
}
