package firestore

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"

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

func onEmulator(tb testing.TB, project, database string) *Store {
	tb.Helper()
	tb.Setenv("FIRESTORE_EMULATOR_HOST", emulatortest.SharedFirestore(tb))
	s, err := New(tb.Context(), project, database)
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
		store := s.(*Store)
		name := strings.Join(path, "/")
		if len(path) == 4 {
			name = recordPath(path[1], path[3])
		}
		set(t, store, name, "schema", integer(state.Schema+1))
	})
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

func TestDatabasesApart(t *testing.T) {
	p := project()
	a, b := onEmulator(t, p, "(default)"), onEmulator(t, p, "second")
	if _, err := a.WriteFeed(t.Context(), "default", state.Feed{Write: 1}, ""); err != nil {
		t.Fatal(err)
	}
	if _, v, _, err := b.Open(t.Context(), "default", ""); err != nil || v != "" {
		t.Errorf("a feed of (default) read from second: version %q, %v", v, err)
	}
	if _, v, _, err := a.Open(t.Context(), "default", ""); err != nil || v == "" {
		t.Errorf("the feed read from its own database: version %q, %v", v, err)
	}
}

// TestLayout holds on to the names of documents and fields, on which consoles,
// indexes and the TTL policy depend.
func TestLayout(t *testing.T) {
	s := onEmulator(t, project(), "(default)")
	if _, err := s.WriteFeed(t.Context(), "default", state.Feed{BeginsAt: time.Unix(5, 0), End: time.Unix(9, 0)}, ""); err != nil {
		t.Fatal(err)
	}
	results, err := s.WriteRecords(t.Context(), "default", []state.Entry{{Record: state.Record{ID: "__x__", ExpireAt: time.Unix(7, 0)}}})
	if err != nil || results[0] != nil {
		t.Fatal(results, err)
	}
	if err := s.AddUsage(t.Context(), "k", state.Usage{Requests: map[int64]int64{3600: 2}}, state.Usage{}); err != nil {
		t.Fatal(err)
	}
	docs, err := s.read(t.Context(), "reading", []string{
		"feeds/default",
		"feeds/default/alerts/a9-__x__", // printf %s __x__ | sha256sum
		"keys/k",
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
	if got := docs[1].GetFields()["expire_at"].GetTimestampValue().GetSeconds(); got != 7 {
		t.Errorf("expire_at of the record: %d, want 7", got)
	}
	if got := docs[2].GetFields()["requests"].GetMapValue().GetFields()["3600"].GetIntegerValue(); got != 2 {
		t.Errorf("requests of the key: %d, want 2", got)
	}
}
