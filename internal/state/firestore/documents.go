package firestore

import (
	"fmt"
	"reflect"
	"strconv"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// feedDocument is feeds/{feed}.
type feedDocument struct {
	state.Feed
	// Position is Feed.Position, for readers in the console and for a document that somebody
	// has repaired there.
	Position time.Time `json:"position"`
}

// recordDocument is feeds/{feed}/alerts/{document}. Nothing queries it, and each write
// would pay for each index. One exemption takes the indexes off a map with all that is
// in it (https://firebase.google.com/docs/firestore/solutions/index-map-field).
type recordDocument struct {
	Record state.Record `json:"record"` // without its ExpireAt
	// ExpireAt is here because a TTL policy looks at a field of the document itself.
	ExpireAt time.Time `json:"expire_at"`
}

// unfinishedDocument is feeds/{feed}/unfinished/backfills.
type unfinishedDocument struct {
	IDs []string `json:"ids"`
}

var (
	feedCodec       = codecOf[feedDocument]()
	recordCodec     = codecOf[recordDocument]()
	backfillCodec   = codecOf[state.Backfill]()
	unfinishedCodec = codecOf[unfinishedDocument]()
	usageCodec      = codecOf[state.Usage]() // keys/{key}

	// The fields that a write of a document replaces or, without a value, deletes. All
	// others stay: a newer program of the same schema may have added them.
	feedMask     = maskOf(feedCodec)
	recordMask   = maskOf(recordCodec)
	backfillMask = maskOf(backfillCodec)
)

func maskOf(c *codec) *pb.DocumentMask {
	return &pb.DocumentMask{FieldPaths: append(c.paths(""), "schema")}
}

func encodeFeed(f state.Feed) ([]byte, error) {
	return feedCodec.encode(&feedDocument{Feed: f, Position: f.Position()})
}

func decodeFeed(path string, fields map[string]*pb.Value) (state.Feed, error) {
	var doc feedDocument
	err := feedCodec.decode(path, fields, &doc)
	f := doc.Feed
	if err == nil {
		err = checkSlices(path, f.Slices)
	}
	if to := f.Position(); err == nil && !doc.Position.IsZero() && doc.Position.Before(to) {
		// Somebody has deleted what was pending from there on. It is read once more, or its
		// alerts would be passed.
		f.Slices = append([]state.Slice{{From: doc.Position, To: to, DoneUntil: doc.Position}}, f.Slices...)
	}
	return f, err
}

// checkSlices tells of times that a slice lacks. A slice without its end would pass for one
// that is done.
func checkSlices(path string, slices []state.Slice) error {
	var p problems
	for i, s := range slices {
		for _, at := range []struct {
			field string
			time  time.Time
		}{{"from", s.From}, {"to", s.To}, {"done_until", s.DoneUntil}} {
			if at.time.IsZero() {
				p = append(p, problem{fmt.Sprintf("slices[%d].%s", i, at.field), "missing"})
			}
		}
	}
	return p.damage(path)
}

func encodeRecord(r state.Record) ([]byte, error) {
	doc := recordDocument{Record: r, ExpireAt: r.ExpireAt}
	doc.Record.ExpireAt = time.Time{}
	return recordCodec.encode(&doc)
}

func decodeRecord(path string, fields map[string]*pb.Value) (state.Record, error) {
	var doc recordDocument
	err := recordCodec.decode(path, fields, &doc)
	doc.Record.ExpireAt = doc.ExpireAt
	return doc.Record, err
}

func encodeBackfill(b state.Backfill) ([]byte, error) { return backfillCodec.encode(&b) }

func decodeBackfill(path string, fields map[string]*pb.Value) (state.Backfill, error) {
	var b state.Backfill
	if err := backfillCodec.decode(path, fields, &b); err != nil {
		return b, err
	}
	return b, checkSlices(path, b.Slices)
}

func decodeUnfinished(path string, fields map[string]*pb.Value) ([]string, error) {
	var doc unfinishedDocument
	err := unfinishedCodec.decode(path, fields, &doc)
	return doc.IDs, err
}

func decodeUsage(path string, fields map[string]*pb.Value) (state.Usage, error) {
	u := state.Usage{Requests: map[int64]int64{}, Errors: map[int64]int64{}}
	err := usageCodec.decode(path, fields, &u)
	return u, err
}

// encodeUnfinished is the write that puts a backfill at the end of the list of
// unfinished ones, or takes it off when it is finished.
func encodeUnfinished(name string, b state.Backfill) *pb.Write {
	ids := &pb.ArrayValue{Values: []*pb.Value{{ValueType: &pb.Value_StringValue{StringValue: b.ID}}}}
	change := &pb.DocumentTransform_FieldTransform{FieldPath: unfinishedCodec.fields[0].name}
	if b.Finished() {
		change.TransformType = &pb.DocumentTransform_FieldTransform_RemoveAllFromArray{RemoveAllFromArray: ids}
	} else {
		change.TransformType = &pb.DocumentTransform_FieldTransform_AppendMissingElements{AppendMissingElements: ids}
	}
	write := transform(name)
	write.UpdateTransforms = append(write.UpdateTransforms, change)
	return write
}

// encodeUsage is the write that adds to the counters in a key's document.
func encodeUsage(name string, add, old state.Usage) *pb.Write {
	write := transform(name)
	for _, f := range usageCodec.fields {
		added := reflect.ValueOf(add).Field(f.index).Interface().(map[int64]int64)
		dropped := reflect.ValueOf(old).Field(f.index).Interface().(map[int64]int64)
		for bucket, n := range added {
			write.UpdateTransforms = append(write.UpdateTransforms, &pb.DocumentTransform_FieldTransform{
				FieldPath:     bucketPath(f.name, bucket),
				TransformType: &pb.DocumentTransform_FieldTransform_Increment{Increment: integerValue(n)},
			})
		}
		for bucket := range dropped {
			if _, ok := added[bucket]; !ok { // a field can't be in the mask and in a transform
				write.UpdateMask.FieldPaths = append(write.UpdateMask.FieldPaths, bucketPath(f.name, bucket))
			}
		}
	}
	return write
}

// transform is a write that changes a document, or makes it, without reading it.
// The schema is a maximum, so that an older program doesn't hide that a newer
// one wrote the document.
func transform(name string) *pb.Write {
	return &pb.Write{
		Operation: &pb.Write_Update{Update: &pb.Document{Name: name}},
		// A field in the mask that the document doesn't have is deleted. Without
		// a mask the whole document would be.
		UpdateMask: &pb.DocumentMask{},
		UpdateTransforms: []*pb.DocumentTransform_FieldTransform{{
			FieldPath:     "schema",
			TransformType: &pb.DocumentTransform_FieldTransform_Maximum{Maximum: integerValue(state.Schema)},
		}},
	}
}

// bucketPath quotes the bucket, because a bare name may not begin with a digit.
func bucketPath(field string, bucket int64) string {
	return field + ".`" + strconv.FormatInt(bucket, 10) + "`"
}

func integerValue(n int64) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_IntegerValue{IntegerValue: n}}
}
