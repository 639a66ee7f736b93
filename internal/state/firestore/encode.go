package firestore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/encoding/protowire"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// What is zero or empty has no field; only a list of texts tells empty from nil.
// decode.go is the mirror of this file.
//
// Documents are made in protobuf's wire form: by way of the generated types, of
// which each field takes three allocations, the same bytes cost three times the
// processor time (BenchmarkRecordCodec).

func encodeFeed(f state.Feed) ([]byte, error) {
	w := newDocument()
	w.integer("schema", state.Schema)
	w.time("begins_at", f.BeginsAt)
	w.time("end", f.End)
	w.time("position", f.Position()) // for readers in the console; never read back
	w.time("reread_from", f.RereadFrom)
	w.time("newest", f.Newest)
	list(w, "slices", f.Slices, writeSlice)
	list(w, "gaps", f.Gaps, writeGap)
	if f.Refusal != nil {
		w.object("refusal", func(w *writer) {
			w.time("at", f.Refusal.At)
			w.integer("age_ms", f.Refusal.Age.Milliseconds())
		})
	}
	w.text("filter", f.Filter)
	w.time("filter_since", f.FilterSince)
	list(w, "filter_past", f.FilterPast, writeGap)
	w.time("first_run", f.FirstRun)
	w.time("last_sweep", f.LastSweep)
	w.time("sweep_since", f.SweepSince)
	w.time("last_audit", f.LastAudit)
	w.integer("late_max_ms", f.LateMax.Milliseconds())
	w.text("key_id", f.KeyID)
	w.json("last_run", f.LastRun)
	writeLease(w, "lease", f.Lease)
	w.text("writer", f.Writer)
	w.integer("generation", f.Generation)
	w.integer("write", f.Write)
	return w.raw, w.err
}

func writeLease(w *writer, field string, l *state.Lease) {
	if l == nil {
		return
	}
	w.object(field, func(w *writer) {
		w.text("owner", l.Owner)
		w.time("expires_at", l.ExpiresAt)
	})
}

func writeSlice(w *writer, s state.Slice) {
	w.time("from", s.From)
	w.time("to", s.To)
	w.time("done_until", s.DoneUntil)
}

func writeGap(w *writer, g state.Gap) {
	w.time("since", g.Since)
	w.time("until", g.Until)
	w.boolean("suspected", g.Suspected)
}

func encodeRecord(r state.Record) ([]byte, error) {
	w := newDocument()
	w.integer("schema", state.Schema)
	w.text("id", r.ID)
	w.text("type", r.Type)
	w.text("severity", r.Severity)
	w.text("monitor_id", r.MonitorID)
	w.text("priority", r.Priority)
	w.text("status", r.Status)
	w.time("created_at", r.CreatedAt)
	w.time("first_seen", r.FirstSeen)
	w.time("published_version", r.PublishedVersion)
	w.time("handled_version", r.HandledVersion)
	w.text("backfill", r.Backfill)
	list(w, "intents", r.Intents, func(w *writer, in state.Intent) {
		w.text("field", in.Field)
		w.texts("values", in.Values)
		w.time("at", in.At)
		w.text("by", in.By)
		w.text("expect", in.Expect)
		w.integer("seq", in.Seq)
		w.boolean("open", in.Open)
		w.rest(in.Rest)
	})
	w.integer("intent_seq", r.IntentSeq)
	list(w, "echoes", r.Echoes, func(w *writer, e state.Echo) {
		w.time("version", e.Version)
		w.time("at", e.At)
		w.integer("seq", e.Seq)
		w.text("status", e.Status)
		w.texts("tags", e.Tags)
		w.rest(e.Rest)
	})
	writeLease(w, "write_lease", r.WriteLease)
	list(w, "statuses", r.Statuses, func(w *writer, s state.StatusChange) {
		w.text("status", s.Status)
		w.time("at", s.At)
		w.text("origin", s.Origin)
		w.rest(s.Rest)
	})
	list(w, "versions", r.Versions, func(w *writer, v state.AlertVersion) {
		w.time("updated_at", v.UpdatedAt)
		w.time("at", v.At)
		w.text("run_id", v.RunID)
		w.text("event", v.Event)
		w.text("outcome", v.Outcome)
		w.text("reason", v.Reason)
		w.rest(v.Rest)
	})
	w.time("expire_at", r.ExpireAt)
	return w.raw, w.err
}

// encodeBackfill leaves the id to the document's name.
func encodeBackfill(b state.Backfill) ([]byte, error) {
	w := newDocument()
	w.integer("schema", state.Schema)
	w.text("kind", b.Kind)
	w.text("state", b.State)
	w.time("since", b.Since)
	w.time("until", b.Until)
	w.text("filter", b.Filter)
	w.boolean("republish", b.Republish)
	w.boolean("dry_run", b.DryRun)
	w.text("request_sha256", b.Request)
	w.integer("latest", b.Latest)
	w.timeOrZero("requested_at", b.RequestedAt) // the list goes by it, and leaves out what has none
	w.text("requested_by", b.RequestedBy)
	list(w, "slices", b.Slices, writeSlice)
	w.integer("fetched", b.Fetched)
	w.integer("published", b.Published)
	w.integer("suppressed", b.Suppressed)
	w.integer("dropped", b.Dropped)
	w.integer("rejected", b.Rejected)
	w.integer("requests", b.Requests)
	w.integer("would_publish", b.WouldPublish)
	w.counts("by_type", b.ByType)
	w.counts("by_severity", b.BySeverity)
	list(w, "refused", b.Refused, writeGap)
	w.integer("late_max_ms", b.LateMax.Milliseconds())
	w.integer("worked_for_ms", b.WorkedFor.Milliseconds())
	w.text("error", b.Error)
	w.time("finished_at", b.FinishedAt)
	w.time("expire_at", b.ExpireAt)
	return w.raw, w.err
}

// The fields that a write of a document replaces or, without a value, deletes. All
// others stay: a newer program of the same schema may have added them.
var (
	feedFields = fieldMask("schema", "begins_at", "end", "position", "reread_from", "newest", "slices", "gaps", "refusal", "filter",
		"filter_since", "filter_past", "first_run", "last_sweep", "sweep_since", "last_audit", "late_max_ms", "key_id",
		"last_run", "lease", "writer", "generation", "write")
	recordFields = fieldMask("schema", "id", "type", "severity", "monitor_id", "priority", "status", "created_at", "first_seen",
		"published_version", "handled_version", "backfill", "intents", "intent_seq", "echoes", "write_lease", "statuses", "versions",
		"expire_at")
	backfillFields = fieldMask("schema", "kind", "state", "since", "until", "filter", "republish", "dry_run", "request_sha256",
		"latest", "requested_at", "requested_by", "slices", "fetched", "published", "suppressed", "dropped", "rejected",
		"requests", "would_publish", "by_type", "by_severity", "refused", "late_max_ms", "worked_for_ms", "error",
		"finished_at", "expire_at")
)

func fieldMask(names ...string) *pb.DocumentMask { return &pb.DocumentMask{FieldPaths: names} }

// encodeUnfinished is the write that puts a backfill at the end of the list of
// unfinished ones, or takes it off when it is finished.
func encodeUnfinished(name string, b state.Backfill) *pb.Write {
	ids := &pb.ArrayValue{Values: []*pb.Value{{ValueType: &pb.Value_StringValue{StringValue: b.ID}}}}
	change := &pb.DocumentTransform_FieldTransform{FieldPath: "ids"}
	if b.Finished() {
		change.TransformType = &pb.DocumentTransform_FieldTransform_RemoveAllFromArray{RemoveAllFromArray: ids}
	} else {
		change.TransformType = &pb.DocumentTransform_FieldTransform_AppendMissingElements{AppendMissingElements: ids}
	}
	write := transform(name)
	write.UpdateTransforms = append(write.UpdateTransforms, change)
	return write
}

// encodeUsage is the write that adds to the maps requests and errors of a key's
// document.
func encodeUsage(name string, add, old state.Usage) *pb.Write {
	write := transform(name)
	for _, c := range []struct {
		field    string
		add, old map[int64]int64
	}{
		{"requests", add.Requests, old.Requests},
		{"errors", add.Errors, old.Errors},
	} {
		for bucket, n := range c.add {
			write.UpdateTransforms = append(write.UpdateTransforms, &pb.DocumentTransform_FieldTransform{
				FieldPath:     bucketPath(c.field, bucket),
				TransformType: &pb.DocumentTransform_FieldTransform_Increment{Increment: integerValue(n)},
			})
		}
		for bucket := range c.old {
			if _, ok := c.add[bucket]; !ok { // a field can't be in the mask and in a transform
				write.UpdateMask.FieldPaths = append(write.UpdateMask.FieldPaths, bucketPath(c.field, bucket))
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

// document is a document with the fields that are there in wire form. To
// protobuf they are fields that it doesn't know, which it passes on as they are.
func document(name string, fields []byte) *pb.Document {
	doc := &pb.Document{Name: name}
	doc.ProtoReflect().SetUnknown(fields)
	return doc
}

// Field numbers of google.firestore.v1 (document.proto) and of protobuf's maps
// and timestamps.
const (
	documentFields protowire.Number = 2
	mapFields      protowire.Number = 1
	arrayValues    protowire.Number = 1

	entryKey   protowire.Number = 1
	entryValue protowire.Number = 2

	booleanNumber   protowire.Number = 1
	integerNumber   protowire.Number = 2
	doubleNumber    protowire.Number = 3
	mapNumber       protowire.Number = 6
	arrayNumber     protowire.Number = 9
	timestampNumber protowire.Number = 10
	nullNumber      protowire.Number = 11
	stringNumber    protowire.Number = 17

	timestampSeconds protowire.Number = 1
	timestampNanos   protowire.Number = 2
)

// writer appends the fields of a document, or of a map in it.
type writer struct {
	number protowire.Number // of the map that the fields are entries of
	raw    []byte
	space  [64]byte // for one short value
	err    error    // the first
}

func newDocument() *writer {
	return &writer{number: documentFields, raw: make([]byte, 0, 1024)}
}

func newMap() *writer { return &writer{number: mapFields, raw: make([]byte, 0, 256)} }

// put appends a field with the value, which is in wire form.
func (w *writer) put(name string, value []byte) {
	size := protowire.SizeTag(entryKey) + protowire.SizeBytes(len(name)) +
		protowire.SizeTag(entryValue) + protowire.SizeBytes(len(value))
	w.raw = protowire.AppendTag(w.raw, w.number, protowire.BytesType)
	w.raw = protowire.AppendVarint(w.raw, uint64(size))
	w.raw = protowire.AppendTag(w.raw, entryKey, protowire.BytesType)
	w.raw = protowire.AppendString(w.raw, name)
	w.raw = appendMessage(w.raw, entryValue, value)
}

func (w *writer) fail(name string, err error) {
	if w.err == nil {
		w.err = fmt.Errorf("field %s: %w", name, err)
	}
}

func (w *writer) text(name, s string) {
	if s != "" {
		w.put(name, appendText(w.space[:0], s))
	}
}

// rest appends what reader.rest has read.
func (w *writer) rest(r state.Rest) { w.raw = append(w.raw, r...) }

// texts writes an empty list too: no tags at all are something else than tags
// that nobody wrote.
func (w *writer) texts(name string, all []string) {
	if all == nil {
		return
	}
	var values []byte
	for _, s := range all {
		values = appendMessage(values, arrayValues, appendText(w.space[:0], s))
	}
	w.put(name, appendMessage(nil, arrayNumber, values))
}

func (w *writer) integer(name string, n int64) {
	if n != 0 {
		w.put(name, appendInteger(w.space[:0], n))
	}
}

func (w *writer) boolean(name string, b bool) {
	if b {
		w.put(name, appendBoolean(w.space[:0], b))
	}
}

// time writes whole milliseconds. Alerts say when they were made, so any time
// that can be written down may come, but Firestore takes the years 1 to 9999.
func (w *writer) time(name string, t time.Time) {
	if t = t.Truncate(time.Millisecond); !t.IsZero() {
		w.timeOrZero(name, t)
	}
}

// timeOrZero is time for a field that is always there.
func (w *writer) timeOrZero(name string, t time.Time) {
	t = t.Truncate(time.Millisecond).UTC()
	if y := t.Year(); y < 1 || y > 9999 {
		w.fail(name, fmt.Errorf("the year %d is not between 1 and 9999", y))
		return
	}
	// A timestamp takes at most 20 bytes, so its size takes one.
	v := protowire.AppendTag(w.space[:0], timestampNumber, protowire.BytesType)
	v = append(v, 0)
	size := len(v)
	v = appendVarint(v, timestampSeconds, uint64(t.Unix()))
	v = appendVarint(v, timestampNanos, uint64(t.Nanosecond()))
	v[size-1] = byte(len(v) - size)
	w.put(name, v)
}

// counts writes a list, because a map takes no empty name and no reserved one,
// and the names come from alerts.
func (w *writer) counts(name string, counts map[string]int64) {
	list(w, name, slices.Sorted(maps.Keys(counts)), func(w *writer, of string) {
		w.text("name", of)
		w.integer("count", counts[of])
	})
}

func (w *writer) object(name string, fill func(*writer)) {
	m := newMap()
	fill(m)
	if m.err != nil {
		w.fail(name, m.err)
	}
	w.put(name, appendMessage(w.space[:0], mapNumber, m.raw))
}

func list[T any](w *writer, name string, all []T, fill func(*writer, T)) {
	if len(all) == 0 {
		return
	}
	m := newMap()
	values := make([]byte, 0, 128*len(all))
	for _, e := range all {
		m.raw = m.raw[:0]
		fill(m, e)
		values = protowire.AppendTag(values, arrayValues, protowire.BytesType)
		values = protowire.AppendVarint(values, uint64(protowire.SizeTag(mapNumber)+protowire.SizeBytes(len(m.raw))))
		values = appendMessage(values, mapNumber, m.raw)
	}
	if m.err != nil {
		w.fail(name, m.err)
	}
	w.put(name, appendMessage(w.space[:0], arrayNumber, values))
}

// json writes a JSON object as a map, so that it can be read in the console.
// What a map of Firestore can't hold (an array directly in an array, an integer
// beyond 64 bits, an empty or reserved name) is written as text.
func (w *writer) json(name string, raw json.RawMessage) {
	if len(raw) == 0 || string(raw) == "null" {
		return
	}
	if !json.Valid(raw) {
		w.fail(name, errors.New("not JSON"))
		return
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var fields map[string]any
	if d.Decode(&fields) == nil {
		if v, ok := appendJSON(w.space[:0], fields); ok {
			w.put(name, v)
			return
		}
	}
	w.text(name, string(raw))
}

// appendJSON appends a value as it was decoded with numbers kept as they were
// written, if Firestore can hold it.
func appendJSON(b []byte, value any) (_ []byte, ok bool) {
	switch value := value.(type) {
	case nil:
		return appendVarint(b, nullNumber, 0), true
	case bool:
		return appendBoolean(b, value), true
	case string:
		return appendText(b, value), true
	case json.Number:
		if n, err := value.Int64(); err == nil {
			return appendInteger(b, n), true
		}
		f, err := value.Float64()
		if err != nil || !strings.ContainsAny(value.String(), ".eE") {
			return nil, false
		}
		b = protowire.AppendTag(b, doubleNumber, protowire.Fixed64Type)
		return protowire.AppendFixed64(b, math.Float64bits(f)), true
	case []any:
		var values []byte
		for _, e := range value {
			if _, nested := e.([]any); nested {
				return nil, false
			}
			v, ok := appendJSON(nil, e)
			if !ok {
				return nil, false
			}
			values = appendMessage(values, arrayValues, v)
		}
		return appendMessage(b, arrayNumber, values), true
	case map[string]any:
		m := newMap()
		for name, e := range value {
			v, ok := appendJSON(nil, e)
			if !ok || name == "" || strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__") {
				return nil, false
			}
			m.put(name, v)
		}
		return appendMessage(b, mapNumber, m.raw), true
	default:
		return nil, false
	}
}

// appendText makes it valid UTF-8, because one string that isn't would fail the
// whole call.
func appendText(b []byte, s string) []byte {
	b = protowire.AppendTag(b, stringNumber, protowire.BytesType)
	return protowire.AppendString(b, strings.ToValidUTF8(s, "\uFFFD"))
}

func appendInteger(b []byte, n int64) []byte {
	return appendVarint(b, integerNumber, uint64(n))
}

func appendBoolean(b []byte, v bool) []byte {
	return appendVarint(b, booleanNumber, protowire.EncodeBool(v))
}

func appendVarint(b []byte, number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), v)
}

func appendMessage(b []byte, number protowire.Number, raw []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), raw)
}
