// Package firestore keeps the state in Cloud Firestore.
//
// It stands on the generated client, because the library's own bulk writer has
// a rate limit of its own and sends at most 20 documents at once, and because
// the processor time of a document counts. Which documents there are and how
// they look is in documents.go; console users, Terraform's indexes and the TTL
// policy on expire_at depend on it.
package firestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	apiv1 "cloud.google.com/go/firestore/apiv1"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// maxWrites is how many writes Firestore takes in one BatchWrite.
const maxWrites = 500

// Store is a state.Store in one database of Cloud Firestore.
type Store struct {
	client   *apiv1.Client
	project  string
	database string
}

var _ state.Store = (*Store)(nil)

// New connects to a database, "(default)" or a named one. It does no call yet:
// a missing database or role is an error of the first method. With
// FIRESTORE_EMULATOR_HOST set it connects to the emulator there, without
// credentials.
func New(ctx context.Context, project, database string, opts ...option.ClientOption) (*Store, error) {
	client, err := apiv1.NewClient(ctx, append(defaultOptions(), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connecting to Firestore: %w", err)
	}
	// It would repeat more codes, for longer, and never a stream that breaks
	// while it is read. See call.
	client.CallOptions = &apiv1.CallOptions{}
	return &Store{client: client, project: project, database: database}, nil
}

func defaultOptions() []option.ClientOption {
	opts := []option.ClientOption{
		// A connection that a firewall forgot is silent, not closed.
		option.WithGRPCDialOption(grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second,
		})),
		option.WithTelemetryDisabled(), // nobody collects it, and it costs time with each call
	}
	if host := os.Getenv("FIRESTORE_EMULATOR_HOST"); host != "" {
		opts = append(opts,
			option.WithEndpoint(strings.TrimPrefix(host, "http://")),
			option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
			option.WithGRPCDialOption(grpc.WithPerRPCCredentials(emulatorOwner{})),
		)
	}
	return opts
}

// emulatorOwner makes the emulator skip its security rules.
type emulatorOwner struct{}

func (emulatorOwner) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer owner"}, nil
}

func (emulatorOwner) RequireTransportSecurity() bool { return false }

// Close closes the connection.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("closing the connection to Firestore: %w", err)
	}
	return nil
}

func (s *Store) databaseName() string {
	return "projects/" + s.project + "/databases/" + s.database
}

func (s *Store) name(path string) string { return s.databaseName() + "/documents/" + path }

func feedPath(feed string) string { return "feeds/" + feed }

func keyPath(keyID string) string { return "keys/" + keyID }

// recordPath begins the document's id with two hex digits that spread over all
// documents: ids of alerts grow with time, and Firestore slows down on ranges of
// keys that only grow. The prefix also makes any id a legal one, which __x__
// alone isn't.
func recordPath(feed, id string) string {
	sum := sha256.Sum256([]byte(id))
	return feedPath(feed) + "/alerts/" + hex.EncodeToString(sum[:1]) + "-" + id
}

// Open implements state.Store with one BatchGetDocuments.
func (s *Store) Open(ctx context.Context, feed, keyID string) (state.Snapshot, error) {
	doing := "reading feed " + feed
	paths := []string{feedPath(feed), unfinishedPath(feed)}
	if keyID != "" {
		paths = append(paths, keyPath(keyID))
	}
	docs, err := s.read(ctx, doing, paths)
	if err != nil {
		return state.Snapshot{}, err
	}

	found := state.Snapshot{Usage: state.Usage{Requests: map[int64]int64{}, Errors: map[int64]int64{}}}
	var feedErr, listErr, usageErr error
	if docs[0] != nil {
		found.Feed, feedErr = decodeFeed(paths[0], docs[0].GetFields())
		found.Revision = revisionOf(docs[0].GetUpdateTime())
	}
	if docs[1] != nil {
		found.Feed.Unfinished, listErr = decodeUnfinished(paths[1], docs[1].GetFields())
	}
	if keyID != "" && docs[2] != nil {
		found.Usage, usageErr = decodeUsage(paths[2], docs[2].GetFields())
	}
	if err := errors.Join(feedErr, listErr, usageErr); err != nil {
		return state.Snapshot{}, fmt.Errorf("%s: %w", doing, err)
	}
	return found, nil
}

// WriteFeed implements state.Store with one Commit. The condition on the update
// time costs one call; the client's transactions take three.
func (s *Store) WriteFeed(ctx context.Context, feed string, f state.Feed, v state.Revision) (state.Revision, error) {
	doing := "writing feed " + feed
	fields, err := encodeFeed(f)
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	write, err := s.update(feedPath(feed), fields, feedMask, v)
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	return s.commit(ctx, doing, []*pb.Write{write}, v)
}

// Records implements state.Store with one BatchGetDocuments.
func (s *Store) Records(ctx context.Context, feed string, ids []string) ([]state.Entry, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	doing := "reading records of feed " + feed
	unique := make(map[string]int, len(ids))
	paths := make([]string, 0, len(ids))
	for _, id := range ids {
		if _, ok := unique[id]; !ok {
			unique[id] = len(paths)
			paths = append(paths, recordPath(feed, id))
		}
	}
	docs, err := s.read(ctx, doing, paths)
	if err != nil {
		return nil, err
	}

	now := time.Now()
	entries := make([]state.Entry, len(ids))
	for i, id := range ids {
		at := unique[id]
		var r state.Record
		var v state.Revision
		if doc := docs[at]; doc != nil {
			if r, err = decodeRecord(paths[at], doc.GetFields()); err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			v = revisionOf(doc.GetUpdateTime())
		}
		entries[i] = state.EntryOf(id, r, v, now)
	}
	return entries, nil
}

// WriteRecords implements state.Store with one BatchWrite for each 500 entries.
func (s *Store) WriteRecords(ctx context.Context, feed string, entries []state.Entry) ([]error, error) {
	results := state.FirstOfEach(entries)
	writes := make([]*pb.Write, 0, len(entries))
	index := make([]int, 0, len(entries)) // of the entry that a write is for
	for i, e := range entries {
		if results[i] != nil {
			continue
		}
		fields, err := encodeRecord(e.Record)
		var write *pb.Write
		if err == nil {
			write, err = s.update(recordPath(feed, e.Record.ID), fields, recordMask, e.Revision)
		}
		if err != nil {
			results[i] = recordError(e.Record.ID, err)
			continue
		}
		writes = append(writes, write)
		index = append(index, i)
	}

	doing := "writing records of feed " + feed
	for from := 0; from < len(writes); from += maxWrites {
		to := min(from+maxWrites, len(writes))
		outcomes, err := s.writeBulk(ctx, doing, writes[from:to])
		if err != nil && from == 0 {
			return nil, err
		}
		for i, at := range index[from:to] {
			e := entries[at]
			switch {
			case err != nil:
				results[at] = recordError(e.Record.ID, err)
			case failedCondition(outcomes[i].Code(), e.Revision):
				results[at] = recordError(e.Record.ID, state.ErrConflict)
			case outcomes[i].Code() != codes.OK:
				results[at] = recordError(e.Record.ID, s.explain(outcomes[i].Err()))
			}
		}
	}
	return results, nil
}

func recordError(id string, err error) error {
	return fmt.Errorf("writing record %s: %w", id, err)
}

// writeBulk writes what fits into one BatchWrite, and repeats those writes that
// Firestore had no room for. A write that was done without its answer then
// shows as a conflict.
func (s *Store) writeBulk(ctx context.Context, doing string, writes []*pb.Write) ([]*status.Status, error) {
	outcomes := make([]*status.Status, len(writes))
	pending := make([]int, len(writes))
	for i := range pending {
		pending[i] = i
	}
	answered := false
	err := s.call(ctx, doing, func(ctx context.Context) error {
		req := &pb.BatchWriteRequest{Database: s.databaseName(), Writes: make([]*pb.Write, len(pending))}
		for i, at := range pending {
			req.Writes[i] = writes[at]
		}
		res, err := s.client.BatchWrite(ctx, req)
		if err != nil {
			return err
		}
		if len(res.GetStatus()) != len(pending) {
			return fmt.Errorf("%d results to %d writes", len(res.GetStatus()), len(pending))
		}
		answered = true
		var again []int
		for i, at := range pending {
			outcomes[at] = status.FromProto(res.GetStatus()[i])
			if transient(outcomes[at].Code()) {
				again = append(again, at)
			}
		}
		pending = again
		if len(pending) > 0 {
			return outcomes[pending[0]].Err()
		}
		return nil
	})
	if err != nil && !answered {
		return nil, err
	}
	return outcomes, nil
}

// AddUsage implements state.Store with one Commit of increments, which need
// neither a document nor a condition. An increment whose answer was lost and
// that is repeated counts twice: the count of a budget may err upwards only.
// A bucket that is added to is not dropped.
func (s *Store) AddUsage(ctx context.Context, keyID string, add, old state.Usage) error {
	doing := "counting requests of key " + keyID
	if keyID == "" {
		return errors.New("counting requests: no key id")
	}
	req := &pb.CommitRequest{
		Database: s.databaseName(),
		Writes:   []*pb.Write{encodeUsage(s.name(keyPath(keyID)), add, old)},
	}
	return s.call(ctx, doing, func(ctx context.Context) error {
		_, err := s.client.Commit(ctx, req)
		return err
	})
}

// commit does all of the writes or none, and returns the revision that the first
// made, which was conditional on v. state.ErrConflict when that did not hold.
func (s *Store) commit(ctx context.Context, doing string, writes []*pb.Write, v state.Revision) (state.Revision, error) {
	req := &pb.CommitRequest{Database: s.databaseName(), Writes: writes}
	var res *pb.CommitResponse
	err := s.call(ctx, doing, func(ctx context.Context) error {
		var err error
		res, err = s.client.Commit(ctx, req)
		if failedCondition(status.Code(err), v) {
			return state.ErrConflict
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if len(res.GetWriteResults()) != len(writes) {
		return "", fmt.Errorf("%s: %d results to %d writes", doing, len(res.GetWriteResults()), len(writes))
	}
	return revisionOf(res.GetWriteResults()[0].GetUpdateTime()), nil
}

// update is a write of those fields of a document that are in the mask, or of the
// whole document when that is nil or there is none yet, if it is still at v.
func (s *Store) update(path string, fields []byte, mask *pb.DocumentMask, v state.Revision) (*pb.Write, error) {
	condition := &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: false}}
	if v == "" {
		mask = nil
	} else {
		t, err := time.Parse(time.RFC3339Nano, string(v))
		if err != nil {
			return nil, fmt.Errorf("revision %q is none of Firestore's", v)
		}
		condition.ConditionType = &pb.Precondition_UpdateTime{UpdateTime: timestamppb.New(t)}
	}
	return &pb.Write{
		Operation:       &pb.Write_Update{Update: document(s.name(path), fields)},
		UpdateMask:      mask,
		CurrentDocument: condition,
	}, nil
}

func revisionOf(updated *timestamppb.Timestamp) state.Revision {
	return state.Revision(updated.AsTime().Format(time.RFC3339Nano))
}

// failedCondition tells the codes of a condition that did not hold. NotFound is
// one only where a document was expected: else the database is missing.
func failedCondition(c codes.Code, v state.Revision) bool {
	return c == codes.FailedPrecondition || c == codes.AlreadyExists || c == codes.NotFound && v != ""
}

// read reads documents in one call, in the order of paths, which differ; nil
// for one that doesn't exist.
func (s *Store) read(ctx context.Context, doing string, paths []string) ([]*pb.Document, error) {
	req := &pb.BatchGetDocumentsRequest{Database: s.databaseName(), Documents: make([]string, len(paths))}
	index := make(map[string]int, len(paths))
	for i, path := range paths {
		req.Documents[i] = s.name(path)
		index[req.Documents[i]] = i
	}
	var docs []*pb.Document
	err := s.call(ctx, doing, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends a stream that is not read to its end
		docs = make([]*pb.Document, len(paths))
		stream, err := s.client.BatchGetDocuments(ctx, req)
		if err != nil {
			return err
		}
		answers := 0
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			switch res.GetResult().(type) {
			case *pb.BatchGetDocumentsResponse_Found:
				i, ok := index[res.GetFound().GetName()]
				if !ok {
					return fmt.Errorf("a document that was not asked for: %q", res.GetFound().GetName())
				}
				docs[i] = res.GetFound()
				answers++
			case *pb.BatchGetDocumentsResponse_Missing:
				answers++
			}
		}
		if answers != len(paths) {
			return fmt.Errorf("answers to %d of %d documents", answers, len(paths))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return docs, nil
}
