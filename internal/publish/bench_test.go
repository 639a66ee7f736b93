//go:build unix

package publish

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/message"
)

// BenchmarkPublish measures the processor time of the whole process for an alert
// of 2 KB, from the alert to its acknowledgement, in pages of 100 over loopback.
// The server reads and answers without decoding, so that little of it counts.
func BenchmarkPublish(b *testing.B) {
	const size = 100
	ids := &pubsubpb.PublishResponse{}
	for i := range size {
		ids.MessageIds = append(ids.MessageIds, fmt.Sprint(10000000000000000+i)) // as long as Pub/Sub's
	}
	answer, err := proto.Marshal(ids)
	if err != nil {
		b.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(fixed{answer: answer}), grpc.UnknownServiceHandler(
		func(_ any, stream grpc.ServerStream) error {
			return errors.Join(stream.RecvMsg(&struct{}{}), stream.SendMsg(&struct{}{}))
		},
	))
	go func() { _ = s.Serve(listener) }()
	b.Cleanup(s.Stop)
	b.Setenv("PUBSUB_EMULATOR_HOST", listener.Addr().String())
	client, err := NewClient(b.Context(), "p")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close() })
	p := New(client, "alerts", "rejects", "")

	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	alert := dtm.Alert{
		Raw: bytes.Repeat([]byte("x"), 2048), ID: "d2a7j39s70qdphllj1rg", Type: "Message", Status: "new", Severity: "low",
		MonitorID: "d08auehgkipgjt1puc9g", MonitorName: "Brand names", MScore: "50", CreatedAt: now, UpdatedAt: now,
	}
	before := processorTime(b)
	b.ResetTimer()
	for b.Loop() {
		messages := make([]message.Message, size)
		for i := range messages {
			messages[i], _ = message.Fit(alert, message.Envelope{
				Event: "created", Priority: "P3", Origin: "gti", Feed: "default", RunID: "20250807T100500Z-5f0c9a1e",
			})
		}
		if err := p.Publish(b.Context(), messages)[0]; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N*size), "cpu-ns/alert")
}

// processorTime is what the process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fixed is a codec that decodes nothing and always encodes the same answer.
type fixed struct{ answer []byte }

var _ encoding.CodecV2 = fixed{}

func (f fixed) Marshal(any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(f.answer)}, nil
}

func (fixed) Unmarshal(mem.BufferSlice, any) error { return nil }

func (fixed) Name() string { return "proto" }
