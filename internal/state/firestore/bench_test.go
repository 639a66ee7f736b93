package firestore

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"dtmrelay.internal/dtmrelay/internal/state"
)

const page = 100

// newRecords is what a page of new alerts leaves in the ledger.
func newRecords() (ids []string, entries []state.Entry) {
	now := time.Now()
	for i := range page {
		id := fmt.Sprintf("d2a7f3c4b5%06d", i)
		ids = append(ids, id)
		entries = append(entries, state.Entry{Record: state.Record{
			ID: id, Type: "Compromised Credentials", Severity: "high", MonitorID: "monitor-1", Priority: "P1", Status: "new",
			CreatedAt: now, FirstSeen: now, PublishedVersion: now, HandledVersion: now,
			Statuses: []state.StatusChange{{Status: "new", At: now, Origin: state.FromGTI}},
			Versions: []state.AlertVersion{{UpdatedAt: now, At: now, RunID: "20260102-030405-abcdef", Event: "created", Outcome: state.Published}},
			ExpireAt: now.Add(4320 * time.Hour),
		}})
	}
	return ids, entries
}

// atOnce answers every call without work: no document exists, each write is done.
func atOnce() *fake {
	now := timestamppb.Now()
	return &fake{
		get: func(r *pb.BatchGetDocumentsRequest, stream pb.Firestore_BatchGetDocumentsServer) error {
			for _, name := range r.GetDocuments() {
				res := missing(name)
				res.ReadTime = now
				if err := stream.Send(res); err != nil {
					return err
				}
			}
			return nil
		},
		write: func(r *pb.BatchWriteRequest) (*pb.BatchWriteResponse, error) {
			res := &pb.BatchWriteResponse{}
			for range r.GetWrites() {
				res.Status = append(res.Status, &status.Status{})
				res.WriteResults = append(res.WriteResults, &pb.WriteResult{UpdateTime: now})
			}
			return res, nil
		},
	}
}

// BenchmarkProcessorTime measures reading and writing the records of a page of
// new alerts, in µs of this process's time a document: by the store, and by the
// same two calls made on the generated client with ready requests, the floor
// that protobuf, gRPC and the fake server set. The difference is the store's.
func BenchmarkProcessorTime(b *testing.B) {
	ids, entries := newRecords()
	b.Run("store", func(b *testing.B) {
		s := onFake(b, atOnce())
		perDocument(b, page, func() error {
			if _, err := s.Records(b.Context(), "default", ids); err != nil {
				return err
			}
			results, err := s.WriteRecords(b.Context(), "default", entries)
			return errors.Join(append(results, err)...)
		})
	})
	b.Run("floor", func(b *testing.B) {
		s := onFake(b, atOnce())
		get := &pb.BatchGetDocumentsRequest{Database: s.databaseName()}
		write := &pb.BatchWriteRequest{Database: s.databaseName()}
		for _, e := range entries {
			path := recordPath("default", e.Record.ID)
			get.Documents = append(get.Documents, s.name(path))
			fields, err := encodeRecord(e.Record)
			if err != nil {
				b.Fatal(err)
			}
			w, err := s.update(path, nil, recordMask, "")
			if err != nil {
				b.Fatal(err)
			}
			w.GetUpdate().Fields = parse(b, fields)
			write.Writes = append(write.Writes, w)
		}
		perDocument(b, page, func() error {
			stream, err := s.client.BatchGetDocuments(b.Context(), get)
			for err == nil {
				_, err = stream.Recv()
			}
			if !errors.Is(err, io.EOF) {
				return err
			}
			_, err = s.client.BatchWrite(b.Context(), write)
			return err
		})
	})
}

// perDocument reports the processor time of f, which works that many documents.
func perDocument(b *testing.B, documents int, f func() error) {
	b.Helper()
	if err := f(); err != nil { // connects
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := processorTime(b)
	for b.Loop() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
	used := processorTime(b) - before
	b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(b.N)/float64(documents), "cpu-µs/document")
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRecordCodec measures the record's way to bytes and back, and what the
// way to bytes takes with the generated types, which the encoder goes without.
func BenchmarkRecordCodec(b *testing.B) {
	_, entries := newRecords()
	r := entries[0].Record
	raw, err := encodeRecord(r)
	if err != nil {
		b.Fatal(err)
	}
	doc := &pb.Document{Name: "feeds/default/alerts/a", Fields: parse(b, raw)}
	b.Run("encode", func(b *testing.B) {
		perDocument(b, 1, func() error {
			fields, err := encodeRecord(r)
			if err != nil {
				return err
			}
			_, err = proto.Marshal(document(doc.GetName(), fields))
			return err
		})
	})
	b.Run("marshal generated", func(b *testing.B) {
		perDocument(b, 1, func() error {
			_, err := proto.Marshal(doc)
			return err
		})
	})
	b.Run("unmarshal generated", func(b *testing.B) {
		perDocument(b, 1, func() error {
			return proto.Unmarshal(raw, new(pb.Document))
		})
	})
	b.Run("encode and decode", func(b *testing.B) {
		perDocument(b, 1, func() error {
			fields, err := encodeRecord(r)
			if err != nil {
				return err
			}
			if _, err := proto.Marshal(document(doc.GetName(), fields)); err != nil {
				return err
			}
			_, err = decodeRecord(doc.GetName(), doc.GetFields())
			return err
		})
	})
	b.Run("decode", func(b *testing.B) {
		perDocument(b, 1, func() error {
			_, err := decodeRecord(doc.GetName(), doc.GetFields())
			return err
		})
	})
}

// BenchmarkEmulator measures the methods as a run uses them.
func BenchmarkEmulator(b *testing.B) {
	s := onEmulator(b, project(), "(default)")
	ids, entries := newRecords()
	if _, err := s.Open(b.Context(), "default", "key"); err != nil { // connects
		b.Fatal(err)
	}
	var v state.Revision
	write := int64(0)
	b.Run("WriteFeed", func(b *testing.B) {
		for b.Loop() {
			write++
			var err error
			if v, err = s.WriteFeed(b.Context(), "default", state.Feed{Write: write}, v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Open(b.Context(), "default", "key"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("WriteRecords", func(b *testing.B) {
		feed := 0
		for b.Loop() {
			feed++
			results, err := s.WriteRecords(b.Context(), fmt.Sprintf("feed-%d-%d", b.N, feed), entries)
			if err := errors.Join(append(results, err)...); err != nil {
				b.Fatal(err)
			}
		}
	})
	if _, err := s.WriteRecords(b.Context(), "default", entries); err != nil {
		b.Fatal(err)
	}
	b.Run("Records", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Records(b.Context(), "default", ids); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("AddUsage", func(b *testing.B) {
		for b.Loop() {
			if err := s.AddUsage(b.Context(), "key", state.Usage{Requests: map[int64]int64{3600: 1}}, state.Usage{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
