package firestore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"dtmrelay.internal/dtmrelay/internal/emulatortest"
	"dtmrelay.internal/dtmrelay/internal/state"
	"dtmrelay.internal/dtmrelay/internal/state/statetest"
)

// project returns a project id that no other test has, because the emulator
// keeps the documents of all of them.
func project() string {
	return fmt.Sprintf("test-%d-%d-%d", os.Getpid(), time.Now().Unix(), projects.Add(1))
}

var projects atomic.Int64

func onEmulator(tb testing.TB, project, database string, opts ...option.ClientOption) *Store {
	tb.Helper()
	tb.Setenv("FIRESTORE_EMULATOR_HOST", emulatortest.SharedFirestore(tb))
	s, err := New(tb.Context(), project, database, opts...)
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

func TestContract(t *testing.T) {
	statetest.Run(t, func(t *testing.T) state.Store {
		return onEmulator(t, project(), "(default)")
	}, func(t *testing.T, s state.Store, path ...string) {
		t.Helper()
		set(t, s.(*Store), documentPath(path), "schema", integer(state.Schema+1))
	}, func(t *testing.T, s state.Store, path ...string) (left func() int) {
		return extend(t, s.(*Store), documentPath(path))
	}, func(t *testing.T, s state.Store, field string, path ...string) {
		t.Helper()
		if field != "" && path[2] == "alerts" {
			field = "record." + field
		}
		remove(t, s.(*Store), documentPath(path), field)
	})
}

func documentPath(path []string) string {
	if len(path) == 4 && path[2] == "alerts" {
		return recordPath(path[1], path[3])
	}
	return strings.Join(path, "/")
}

// extend adds a field "later" to a document, to the map record in it, and to the
// elements of that one's lists.
func extend(t *testing.T, s *Store, path string) (left func() int) {
	t.Helper()
	fields := func() map[string]*pb.Value {
		docs, err := s.read(t.Context(), "reading", []string{path})
		if err != nil {
			t.Fatal(err)
		}
		return docs[0].GetFields()
	}
	later := object(map[string]*pb.Value{"since": integer(3), "of": array([]*pb.Value{text("a")})})
	// maps are the map record and the elements of its lists.
	maps := func(record *pb.Value) (all []*pb.MapValue) {
		if record.GetMapValue() == nil {
			return nil
		}
		all = append(all, record.GetMapValue())
		for _, list := range record.GetMapValue().GetFields() {
			for _, e := range list.GetArrayValue().GetValues() {
				all = append(all, e.GetMapValue())
			}
		}
		return all
	}
	set(t, s, path, "later", later)
	if record := fields()["record"]; record != nil {
		for _, m := range maps(record) {
			m.Fields["later"] = later
		}
		set(t, s, path, "record", record)
	}
	return func() (n int) {
		doc := fields()
		if proto.Equal(doc["later"], later) {
			n++
		}
		for _, m := range maps(doc["record"]) {
			if proto.Equal(m.GetFields()["later"], later) {
				n++
			}
		}
		return n
	}
}

// set changes one field of an existing document.
func set(t *testing.T, s *Store, path, field string, v *pb.Value) {
	t.Helper()
	_, err := s.client.Commit(t.Context(), &pb.CommitRequest{Database: s.databaseName(), Writes: []*pb.Write{{
		Operation:       &pb.Write_Update{Update: &pb.Document{Name: s.name(path), Fields: map[string]*pb.Value{field: v}}},
		UpdateMask:      &pb.DocumentMask{FieldPaths: []string{field}},
		CurrentDocument: &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: true}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
}

// remove deletes a field of an existing document, or the document where the field is empty.
func remove(t *testing.T, s *Store, path, field string) {
	t.Helper()
	write := &pb.Write{
		Operation:       &pb.Write_Delete{Delete: s.name(path)},
		CurrentDocument: &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: true}},
	}
	if field != "" {
		write.Operation = &pb.Write_Update{Update: &pb.Document{Name: s.name(path)}}
		write.UpdateMask = &pb.DocumentMask{FieldPaths: []string{field}}
	}
	if _, err := s.client.Commit(t.Context(), &pb.CommitRequest{Database: s.databaseName(), Writes: []*pb.Write{write}}); err != nil {
		t.Fatal(err)
	}
}

func TestDatabasesApart(t *testing.T) {
	p := project()
	a, b := onEmulator(t, p, "(default)"), onEmulator(t, p, "second")
	if _, err := a.WriteFeed(t.Context(), "default", state.Feed{Write: 1}, ""); err != nil {
		t.Fatal(err)
	}
	if found, err := b.Open(t.Context(), "default", ""); err != nil || found.Revision != "" {
		t.Errorf("a feed of (default) read from second: revision %q, %v", found.Revision, err)
	}
	if found, err := a.Open(t.Context(), "default", ""); err != nil || found.Revision == "" {
		t.Errorf("the feed read from its own database: revision %q, %v", found.Revision, err)
	}
}

// TestLayout holds on to the names of documents and fields, on which consoles,
// indexes and the TTL policy depend.
func TestLayout(t *testing.T) {
	s := onEmulator(t, project(), "(default)")
	feed := state.Feed{
		BeginsAt: time.Unix(5, 0), End: time.Unix(9, 0), Lease: &state.Lease{Owner: "r"}, LastRun: []byte(`{"outcome":"ok"}`),
		LastSweep: time.Unix(6, 0), LastAudit: time.Unix(6, 0),
	}
	if _, err := s.WriteFeed(t.Context(), "default", feed, ""); err != nil {
		t.Fatal(err)
	}
	results, err := s.WriteRecords(t.Context(), "default", []state.Entry{{Record: state.Record{ID: "__x__", ExpireAt: time.Unix(7, 0)}}})
	if err != nil || results[0] != nil {
		t.Fatal(results, err)
	}
	if err := s.AddUsage(t.Context(), "k", state.Usage{Requests: map[int64]int64{3600: 2}}, state.Usage{}); err != nil {
		t.Fatal(err)
	}
	b := state.Backfill{ID: "b", State: state.Pending, RequestedAt: time.Unix(8, 0), ExpireAt: time.Unix(7, 0)}
	if err := s.CreateBackfill(t.Context(), "default", b); err != nil {
		t.Fatal(err)
	}
	docs, err := s.read(t.Context(), "reading", []string{
		"feeds/default",
		"feeds/default/alerts/a9-__x__", // printf %s __x__ | sha256sum
		"keys/k",
		"feeds/default/backfills/b",
		"feeds/default/unfinished/backfills",
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, doc := range docs {
		if doc.GetFields()["schema"].GetIntegerValue() != 1 {
			t.Fatalf("document %d is missing or has no schema 1: %v", i, doc)
		}
	}
	if got := docs[0].GetFields()["position"].GetTimestampValue().GetSeconds(); got != 9 {
		t.Errorf("position of the feed: %d, want 9", got)
	}
	for _, field := range []string{"lease", "last_run", "last_sweep", "last_audit"} {
		if docs[0].GetFields()[field] == nil {
			t.Errorf("the feed has no %s", field)
		}
	}
	if got := docs[1].GetFields()["expire_at"].GetTimestampValue().GetSeconds(); got != 7 {
		t.Errorf("expire_at of the record: %d, want 7", got)
	}
	if got := slices.Sorted(maps.Keys(docs[1].GetFields())); !slices.Equal(got, []string{"expire_at", "record", "schema"}) {
		t.Errorf("fields of the record's document: %v", got)
	}
	if got := docs[2].GetFields()["requests"].GetMapValue().GetFields()["3600"].GetIntegerValue(); got != 2 {
		t.Errorf("requests of the key: %d, want 2", got)
	}
	for field, want := range map[string]int64{"expire_at": 7, "requested_at": 8} {
		if got := docs[3].GetFields()[field].GetTimestampValue().GetSeconds(); got != want {
			t.Errorf("%s of the backfill: %d, want %d", field, got, want)
		}
	}
	if got := docs[4].GetFields()["ids"].GetArrayValue().GetValues(); len(got) != 1 || got[0].GetStringValue() != "b" {
		t.Errorf("ids of unfinished backfills: %v, want b", got)
	}
}

// TestCalls holds on to the calls that each method costs, repetitions aside.
func TestCalls(t *testing.T) {
	var calls []string
	count := func(method string) { calls = append(calls, method[strings.LastIndexByte(method, '/')+1:]) }
	s := onEmulator(t, project(), "(default)",
		option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			count(method)
			return invoke(ctx, method, req, reply, cc, opts...)
		})),
		option.WithGRPCDialOption(grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			count(method)
			return stream(ctx, desc, cc, method, opts...)
		})),
	)
	const feed = "default"
	ctx := t.Context()
	var found state.Snapshot
	var version state.Revision
	var next string
	expired := state.Backfill{ID: "old", State: state.Done, ExpireAt: time.Unix(1, 0), RequestedAt: time.Unix(9, 0)}
	for _, tc := range []struct {
		doing string
		do    func() error
		want  []string
	}{
		{"Open", func() (err error) { found, err = s.Open(ctx, feed, "key"); return err }, []string{"BatchGetDocuments"}},
		{"WriteFeed", func() (err error) { _, err = s.WriteFeed(ctx, feed, state.Feed{}, found.Revision); return err }, []string{"Commit"}},
		{"Records", func() (err error) { _, err = s.Records(ctx, feed, []string{"a", "b"}); return err }, []string{"BatchGetDocuments"}},
		{"WriteRecords", func() (err error) {
			_, err = s.WriteRecords(ctx, feed, []state.Entry{{Record: state.Record{ID: "a"}}, {Record: state.Record{ID: "b"}}})
			return err
		}, []string{"BatchWrite"}},
		{"AddUsage", func() error {
			return s.AddUsage(ctx, "key", state.Usage{Requests: map[int64]int64{0: 1}}, state.Usage{})
		}, []string{"Commit"}},
		{"CreateBackfill", func() error { return s.CreateBackfill(ctx, feed, state.Backfill{ID: "b"}) }, []string{"Commit"}},
		{"CreateBackfill, expired already", func() error { return s.CreateBackfill(ctx, feed, expired) }, []string{"Commit"}},
		{"CreateBackfill where it expired", func() error { return s.CreateBackfill(ctx, feed, expired) }, []string{"Commit", "BatchGetDocuments", "Commit"}},
		{"CreateBackfill where the id is taken", func() error {
			if err := s.CreateBackfill(ctx, feed, state.Backfill{ID: "b"}); !errors.Is(err, state.ErrConflict) {
				return fmt.Errorf("%w, want ErrConflict", err)
			}
			return nil
		}, []string{"Commit", "BatchGetDocuments"}},
		{"Backfill", func() (err error) { _, version, err = s.Backfill(ctx, feed, "b"); return err }, []string{"BatchGetDocuments"}},
		{"WriteBackfill, unfinished", func() (err error) {
			version, err = s.WriteBackfill(ctx, feed, state.Backfill{ID: "b", State: state.Running}, version)
			return err
		}, []string{"Commit"}},
		{"WriteBackfill, finished", func() (err error) {
			version, err = s.WriteBackfill(ctx, feed, state.Backfill{ID: "b", State: state.Done}, version)
			return err
		}, []string{"Commit"}},
		{"Backfills, a page of an expired one", func() (err error) { _, next, err = s.Backfills(ctx, feed, "", 1); return err }, []string{"RunQuery"}},
		{"Backfills, the next page", func() (err error) { _, _, err = s.Backfills(ctx, feed, next, 1); return err }, []string{"RunQuery"}},
	} {
		calls = nil
		if err := tc.do(); err != nil {
			t.Fatalf("%s: %v", tc.doing, err)
		}
		if diff := cmp.Diff(tc.want, calls); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.doing, diff)
		}
	}
}
