package firestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"dtmrelay.internal/dtmrelay/internal/state"
)

const backfillCollection = "backfills"

func backfillPath(feed, id string) string {
	return feedPath(feed) + "/" + backfillCollection + "/" + id
}

// unfinishedPath is a document of its own, because all writes of the feed's come
// from the holder of the lease, and outside of the collection that is listed.
func unfinishedPath(feed string) string { return feedPath(feed) + "/unfinished/backfills" }

// CreateBackfill implements state.Store with one Commit. Where the id is taken,
// it reads who has it, and replaces one that has expired with another Commit.
func (s *Store) CreateBackfill(ctx context.Context, feed string, b state.Backfill) error {
	doing := fmt.Sprintf("creating backfill %s of feed %s", b.ID, feed)
	_, err := s.writeBackfill(ctx, doing, feed, b, "", nil)
	if !errors.Is(err, state.ErrConflict) {
		return err
	}
	old, v, readErr := s.readBackfill(ctx, doing, feed, b.ID)
	if readErr != nil {
		return readErr
	}
	if v != "" && !old.Expired(time.Now()) {
		return err
	}
	_, err = s.writeBackfill(ctx, doing, feed, b, v, nil)
	return err
}

// Backfill implements state.Store with one BatchGetDocuments.
func (s *Store) Backfill(ctx context.Context, feed, id string) (state.Backfill, state.Revision, error) {
	b, v, err := s.readBackfill(ctx, fmt.Sprintf("reading backfill %s of feed %s", id, feed), feed, id)
	if err != nil || b.Expired(time.Now()) {
		return state.Backfill{}, "", err
	}
	return b, v, nil
}

// WriteBackfill implements state.Store with one Commit.
func (s *Store) WriteBackfill(ctx context.Context, feed string, b state.Backfill, v state.Revision) (state.Revision, error) {
	return s.writeBackfill(ctx, fmt.Sprintf("writing backfill %s of feed %s", b.ID, feed), feed, b, v, backfillMask)
}

// Backfills implements state.Store with one RunQuery. Both orders go down, so
// that the index that Firestore keeps of each field is enough. Expired ones are
// left out here and not by the query, which would need an index of its own.
func (s *Store) Backfills(ctx context.Context, feed, next string, limit int) ([]state.Backfill, string, error) {
	doing := "listing backfills of feed " + feed
	page, err := state.ParsePage(next, limit)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", doing, err)
	}
	query := &pb.StructuredQuery{
		From: []*pb.StructuredQuery_CollectionSelector{{CollectionId: backfillCollection}},
		OrderBy: []*pb.StructuredQuery_Order{
			{Field: &pb.StructuredQuery_FieldReference{FieldPath: "requested_at"}, Direction: pb.StructuredQuery_DESCENDING},
			{Field: &pb.StructuredQuery_FieldReference{FieldPath: "__name__"}, Direction: pb.StructuredQuery_DESCENDING},
		},
		Limit: wrapperspb.Int32(int32(limit + 1)), // one more tells whether this is the last page
	}
	if next != "" {
		query.StartAt = &pb.Cursor{Values: []*pb.Value{
			{ValueType: &pb.Value_TimestampValue{TimestampValue: timestamppb.New(page.RequestedAt)}},
			{ValueType: &pb.Value_ReferenceValue{ReferenceValue: s.name(backfillPath(feed, page.ID))}},
		}}
	}
	docs, err := s.query(ctx, doing, feedPath(feed), query)
	if err != nil {
		return nil, "", err
	}

	following := ""
	all := make([]state.Backfill, 0, len(docs))
	for i, doc := range docs[:min(limit, len(docs))] {
		id := doc.GetName()[strings.LastIndexByte(doc.GetName(), '/')+1:]
		b, err := decodeBackfill(backfillPath(feed, id), doc.GetFields())
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", doing, err)
		}
		b.ID = id
		if !b.Expired(time.Now()) {
			all = append(all, b)
		}
		if i == limit-1 && len(docs) > limit {
			following = state.Cursor{RequestedAt: b.RequestedAt, ID: id}.String()
		}
	}
	return all, following, nil
}

// readBackfill also reads one that has expired.
func (s *Store) readBackfill(ctx context.Context, doing, feed, id string) (state.Backfill, state.Revision, error) {
	path := backfillPath(feed, id)
	docs, err := s.read(ctx, doing, []string{path})
	if err != nil || docs[0] == nil {
		return state.Backfill{}, "", err
	}
	b, err := decodeBackfill(path, docs[0].GetFields())
	if err != nil {
		return state.Backfill{}, "", fmt.Errorf("%s: %w", doing, err)
	}
	b.ID = id
	return b, revisionOf(docs[0].GetUpdateTime()), nil
}

// writeBackfill writes the fields in the mask, or with none a new record, and what
// follows from it for the list of unfinished ones, both or neither. Only the record
// has a condition.
func (s *Store) writeBackfill(ctx context.Context, doing, feed string, b state.Backfill, v state.Revision, mask *pb.DocumentMask) (state.Revision, error) {
	fields, err := encodeBackfill(b)
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	write, err := s.update(backfillPath(feed, b.ID), fields, mask, v)
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	writes := []*pb.Write{write}
	if b.Finished() || mask == nil {
		writes = append(writes, encodeUnfinished(s.name(unfinishedPath(feed)), b))
	}
	return s.commit(ctx, doing, writes, v)
}

// query reads the documents of one query below parent, in its order.
func (s *Store) query(ctx context.Context, doing, parent string, q *pb.StructuredQuery) ([]*pb.Document, error) {
	req := &pb.RunQueryRequest{
		Parent:    s.name(parent),
		QueryType: &pb.RunQueryRequest_StructuredQuery{StructuredQuery: q},
	}
	var docs []*pb.Document
	err := s.call(ctx, doing, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends a stream that is not read to its end
		docs = nil
		stream, err := s.client.RunQuery(ctx, req)
		if err != nil {
			return err
		}
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if doc := res.GetDocument(); doc != nil { // else it tells only the time
				docs = append(docs, doc)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return docs, nil
}
