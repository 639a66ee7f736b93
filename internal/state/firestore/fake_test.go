package firestore

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// fake answers calls as the test says, for what the emulator never does.
type fake struct {
	pb.UnimplementedFirestoreServer
	get    func(*pb.BatchGetDocumentsRequest, pb.Firestore_BatchGetDocumentsServer) error
	write  func(*pb.BatchWriteRequest) (*pb.BatchWriteResponse, error)
	commit func(context.Context, *pb.CommitRequest) (*pb.CommitResponse, error)
	query  func(*pb.RunQueryRequest, pb.Firestore_RunQueryServer) error
}

func (f *fake) BatchGetDocuments(r *pb.BatchGetDocumentsRequest, s pb.Firestore_BatchGetDocumentsServer) error {
	return f.get(r, s)
}

func (f *fake) BatchWrite(_ context.Context, r *pb.BatchWriteRequest) (*pb.BatchWriteResponse, error) {
	return f.write(r)
}

func (f *fake) Commit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	return f.commit(ctx, r)
}

func (f *fake) RunQuery(r *pb.RunQueryRequest, s pb.Firestore_RunQueryServer) error {
	return f.query(r, s)
}

func onFake(tb testing.TB, f *fake) *Store {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterFirestoreServer(server, f)
	go func() { _ = server.Serve(l) }()
	tb.Cleanup(server.Stop)
	tb.Setenv("FIRESTORE_EMULATOR_HOST", l.Addr().String())
	s, err := New(tb.Context(), "p", "d")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func found(s *Store, path string, fields map[string]*pb.Value) *pb.BatchGetDocumentsResponse {
	return &pb.BatchGetDocumentsResponse{Result: &pb.BatchGetDocumentsResponse_Found{Found: &pb.Document{
		Name: s.name(path), Fields: fields, UpdateTime: timestamppb.New(time.Unix(1, 0)),
	}}}
}

// recordOf are the fields of a ledger record.
func recordOf(status string) map[string]*pb.Value {
	return map[string]*pb.Value{"schema": integer(1), "record": object(map[string]*pb.Value{"status": text(status)})}
}

func missing(name string) *pb.BatchGetDocumentsResponse {
	return &pb.BatchGetDocumentsResponse{Result: &pb.BatchGetDocumentsResponse_Missing{Missing: name}}
}

func TestStreamThatBreaksIsReadAgain(t *testing.T) {
	var s *Store
	calls := 0
	f := &fake{get: func(r *pb.BatchGetDocumentsRequest, stream pb.Firestore_BatchGetDocumentsServer) error {
		calls++
		if calls == 1 {
			_ = stream.Send(found(s, recordPath("f", "b"), recordOf("stale")))
			return grpcstatus.Error(codes.Unavailable, "the server goes away")
		}
		_ = stream.Send(missing(r.GetDocuments()[1])) // in any order
		return stream.Send(found(s, recordPath("f", "a"), recordOf("new")))
	}}
	s = onFake(t, f)
	entries, err := s.Records(t.Context(), "f", []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if entries[0].Record.Status != "new" || entries[1].Revision != "" {
		t.Errorf("entries %+v, want only what the second answer says", entries)
	}
	if calls != 2 {
		t.Errorf("%d calls, want 2", calls)
	}
}

func TestQueryThatBreaksIsAskedAgain(t *testing.T) {
	var s *Store
	calls := 0
	s = onFake(t, &fake{query: func(_ *pb.RunQueryRequest, stream pb.Firestore_RunQueryServer) error {
		calls++
		_ = stream.Send(&pb.RunQueryResponse{Document: &pb.Document{
			Name: s.name("feeds/f/backfills/b"), Fields: map[string]*pb.Value{"schema": integer(1)},
		}})
		if calls == 1 {
			return grpcstatus.Error(codes.Unavailable, "the server goes away")
		}
		return stream.Send(&pb.RunQueryResponse{ReadTime: timestamppb.Now()})
	}})
	all, next, err := s.Backfills(t.Context(), "f", "", 5)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].ID != "b" || next != "" {
		t.Errorf("%+v and then %q, want what the second answer says", all, next)
	}
	if calls != 2 {
		t.Errorf("%d calls, want 2", calls)
	}
}

// TestCreatedAndDeleted: the database deletes an expired backfill between the
// write that it stood in the way of and the look at it.
func TestCreatedAndDeleted(t *testing.T) {
	var conditions []string
	s := onFake(t, &fake{
		get: func(r *pb.BatchGetDocumentsRequest, stream pb.Firestore_BatchGetDocumentsServer) error {
			return stream.Send(missing(r.GetDocuments()[0]))
		},
		commit: func(_ context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
			conditions = append(conditions, r.GetWrites()[0].GetCurrentDocument().String())
			if len(conditions) == 1 {
				return nil, grpcstatus.Error(codes.AlreadyExists, "no")
			}
			return &pb.CommitResponse{WriteResults: []*pb.WriteResult{{}, {}}}, nil
		},
	})
	if err := s.CreateBackfill(t.Context(), "f", state.Backfill{ID: "b"}); err != nil {
		t.Error(err)
	}
	if len(conditions) != 2 || conditions[0] != conditions[1] {
		t.Errorf("commits with %q, want two on the condition that it doesn't exist", conditions)
	}
}

// TestWritesCarryTheirCondition: without it a run that has lost its lease would write over
// the position of its successor, and one writer of a record over another.
func TestWritesCarryTheirCondition(t *testing.T) {
	revision := revisionOf(timestamppb.New(time.Unix(7, 0)))
	var conditions []*pb.Precondition
	s := onFake(t, &fake{
		write: func(r *pb.BatchWriteRequest) (*pb.BatchWriteResponse, error) {
			conditions = append(conditions, r.GetWrites()[0].GetCurrentDocument())
			return &pb.BatchWriteResponse{Status: []*status.Status{{}}}, nil
		},
		commit: func(_ context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
			conditions = append(conditions, r.GetWrites()[0].GetCurrentDocument())
			return &pb.CommitResponse{WriteResults: make([]*pb.WriteResult, len(r.GetWrites()))}, nil
		},
	})
	for _, v := range []state.Revision{"", revision} {
		conditions = nil
		_, feedErr := s.WriteFeed(t.Context(), "f", state.Feed{}, v)
		results, recordErr := s.WriteRecords(t.Context(), "f", []state.Entry{{Record: state.Record{ID: "a"}, Revision: v}})
		_, backfillErr := s.WriteBackfill(t.Context(), "f", state.Backfill{ID: "b"}, v)
		if err := errors.Join(append(results, feedErr, recordErr, backfillErr)...); err != nil {
			t.Fatal(err)
		}
		for i, c := range conditions {
			_, absent := c.GetConditionType().(*pb.Precondition_Exists)
			switch {
			case v == "" && (!absent || c.GetExists()):
				t.Errorf("write %d of a new document is on the condition %v", i, c)
			case v != "" && c.GetUpdateTime().AsTime().Unix() != 7:
				t.Errorf("write %d at the revision %s is on the condition %v", i, v, c)
			}
		}
		if len(conditions) != 3 {
			t.Errorf("%d writes, want 3", len(conditions))
		}
	}
}

func TestStreamThatEndsEarlyIsAnError(t *testing.T) {
	s := onFake(t, &fake{get: func(r *pb.BatchGetDocumentsRequest, stream pb.Firestore_BatchGetDocumentsServer) error {
		return stream.Send(missing(r.GetDocuments()[0]))
	}})
	if _, err := s.Records(t.Context(), "f", []string{"a", "b"}); err == nil || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("one answer to two ids: %v", err)
	}
}

func TestOnlyRefusedWritesAreRepeated(t *testing.T) {
	var sizes []int
	s := onFake(t, &fake{write: func(r *pb.BatchWriteRequest) (*pb.BatchWriteResponse, error) {
		sizes = append(sizes, len(r.GetWrites()))
		res := &pb.BatchWriteResponse{}
		for i := range r.GetWrites() {
			code := codes.OK
			if len(sizes) == 1 && i == 1 {
				code = codes.Aborted
			}
			if len(sizes) == 1 && i == 2 {
				code = codes.InvalidArgument
			}
			res.Status = append(res.Status, &status.Status{Code: int32(code)})
			res.WriteResults = append(res.WriteResults, &pb.WriteResult{})
		}
		return res, nil
	}})
	results, err := s.WriteRecords(t.Context(), "f", []state.Entry{
		{Record: state.Record{ID: "a"}}, {Record: state.Record{ID: "b"}}, {Record: state.Record{ID: "c"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if results[0] != nil || results[1] != nil || grpcstatus.Code(results[2]) != codes.InvalidArgument {
		t.Errorf("results %v", results)
	}
	if len(sizes) != 2 || sizes[0] != 3 || sizes[1] != 1 {
		t.Errorf("bulks of %v writes, want 3 and 1", sizes)
	}
}

func TestBulkThatFailsBehindOneThatWorked(t *testing.T) {
	calls := 0
	s := onFake(t, &fake{write: func(r *pb.BatchWriteRequest) (*pb.BatchWriteResponse, error) {
		if calls++; calls == 2 {
			return nil, grpcstatus.Error(codes.DataLoss, "broken")
		}
		res := &pb.BatchWriteResponse{}
		for range r.GetWrites() {
			res.Status = append(res.Status, &status.Status{})
		}
		return res, nil
	}})
	entries := make([]state.Entry, maxWrites+1)
	for i := range entries {
		entries[i].Record.ID = strings.Repeat("a", i+1)
	}
	results, err := s.WriteRecords(t.Context(), "f", entries)
	if err != nil {
		t.Fatalf("an error for all, though most were written: %v", err)
	}
	for i, err := range results {
		if (err != nil) != (i == maxWrites) {
			t.Errorf("result %d: %v", i, err)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	var code codes.Code
	s := onFake(t, &fake{
		get: func(*pb.BatchGetDocumentsRequest, pb.Firestore_BatchGetDocumentsServer) error {
			return grpcstatus.Error(code, "no")
		},
		write: func(*pb.BatchWriteRequest) (*pb.BatchWriteResponse, error) { return nil, grpcstatus.Error(code, "no") },
		commit: func(context.Context, *pb.CommitRequest) (*pb.CommitResponse, error) {
			return nil, grpcstatus.Error(code, "no")
		},
		query: func(*pb.RunQueryRequest, pb.Firestore_RunQueryServer) error { return grpcstatus.Error(code, "no") },
	})
	for _, tc := range []struct {
		code codes.Code
		want []string
	}{
		{codes.NotFound, []string{"database d", "project p", "gcloud firestore databases create"}},
		{codes.PermissionDenied, []string{"database d", "project p", "roles/datastore.user"}},
		{codes.DataLoss, []string{"DataLoss"}},
	} {
		code = tc.code
		_, openErr := s.Open(t.Context(), "default", "k")
		_, feedErr := s.WriteFeed(t.Context(), "default", state.Feed{}, "")
		_, readErr := s.Records(t.Context(), "default", []string{"a"})
		_, writeErr := s.WriteRecords(t.Context(), "default", []state.Entry{{}})
		usageErr := s.AddUsage(t.Context(), "k", state.Usage{}, state.Usage{})
		createErr := s.CreateBackfill(t.Context(), "default", state.Backfill{ID: "b"})
		_, _, backfillErr := s.Backfill(t.Context(), "default", "b")
		_, writeBackfillErr := s.WriteBackfill(t.Context(), "default", state.Backfill{ID: "b"}, "")
		_, _, listErr := s.Backfills(t.Context(), "default", "", 1)
		for doing, err := range map[string]error{
			"reading feed default: ":                openErr,
			"writing feed default: ":                feedErr,
			"reading records of feed default: ":     readErr,
			"writing records of feed default: ":     writeErr,
			"counting requests of key k: ":          usageErr,
			"creating backfill b of feed default: ": createErr,
			"reading backfill b of feed default: ":  backfillErr,
			"writing backfill b of feed default: ":  writeBackfillErr,
			"listing backfills of feed default: ":   listErr,
		} {
			for _, want := range append(tc.want, doing) {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, want %q in it", tc.code, err, want)
				}
			}
			if errors.Is(err, state.ErrConflict) {
				t.Errorf("%s: %v is taken for a conflict", tc.code, err)
			}
		}
	}
}

func TestRetry(t *testing.T) {
	for _, tc := range []struct {
		code  codes.Code
		again bool
	}{
		{codes.Unavailable, true},
		{codes.ResourceExhausted, true},
		{codes.Aborted, true},
		{codes.Internal, true},
		{codes.DeadlineExceeded, true},
		{codes.InvalidArgument, false},
		{codes.PermissionDenied, false},
		{codes.NotFound, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			err := new(Store).call(t.Context(), "testing", func(context.Context) error {
				if calls++; calls <= 2 {
					return grpcstatus.Error(tc.code, "no")
				}
				return nil
			})
			if tc.again && (err != nil || calls != 3) || !tc.again && (grpcstatus.Code(err) != tc.code || calls != 1) {
				t.Errorf("%s: %d calls, %v", tc.code, calls, err)
			}
		})
	}
}

func TestDeadDatabase(t *testing.T) {
	for name, f := range map[string]func(context.Context) error{
		"silent": func(ctx context.Context) error {
			<-ctx.Done()
			return grpcstatus.FromContextError(ctx.Err()).Err()
		},
		"refused": func(context.Context) error { return grpcstatus.Error(codes.Unavailable, "no") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := new(Store).call(t.Context(), "testing", f)
				if took := time.Since(start); err == nil || took != callTimeout {
					t.Errorf("ended after %s with %v, want an error after %s", took, err, callTimeout)
				}
				// Its caller would take that for the end of its own context.
				if errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v is a context's error", err)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				err := new(Store).call(ctx, "testing", f)
				if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
					t.Errorf("ended after %s with %v, want the context's error after a second", took, err)
				}
			})
		})
	}
}

func TestEmulatorNeedsNoCredentials(t *testing.T) {
	var owner atomic.Bool
	s := onFake(t, &fake{commit: func(ctx context.Context, _ *pb.CommitRequest) (*pb.CommitResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		owner.Store(strings.Join(md.Get("authorization"), ",") == "Bearer owner")
		return &pb.CommitResponse{}, nil
	}})
	if err := s.AddUsage(t.Context(), "k", state.Usage{}, state.Usage{}); err != nil {
		t.Fatal(err)
	}
	if !owner.Load() {
		t.Error("the emulator was not called as its owner")
	}
}
