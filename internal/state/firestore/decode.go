package firestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/proto"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// A missing field is zero or empty, as encode.go writes it. A field of another
// type was written by someone else, and is an error that names it.

func decodeFeed(path string, fields map[string]*pb.Value) (state.Feed, error) {
	r, err := newReader(path, fields)
	if err != nil {
		return state.Feed{}, err
	}
	f := state.Feed{
		BeginsAt:    r.time("begins_at"),
		End:         r.time("end"),
		RereadFrom:  r.time("reread_from"),
		Newest:      r.time("newest"),
		Slices:      each(r, "slices", readSlice),
		Gaps:        each(r, "gaps", readGap),
		Filter:      r.text("filter"),
		FilterSince: r.time("filter_since"),
		FilterPast:  each(r, "filter_past", readGap),
		FirstRun:    r.time("first_run"),
		LastSweep:   r.time("last_sweep"),
		SweepSince:  r.time("sweep_since"),
		LastAudit:   r.time("last_audit"),
		LateMax:     time.Duration(r.integer("late_max_ms")) * time.Millisecond,
		KeyID:       r.text("key_id"),
		LastRun:     r.json("last_run"),
		Writer:      r.text("writer"),
		Generation:  r.integer("generation"),
		Write:       r.integer("write"),
	}
	if r, ok := r.object("refusal"); ok {
		f.Refusal = &state.Refusal{
			At:  r.time("at"),
			Age: time.Duration(r.integer("age_ms")) * time.Millisecond,
		}
	}
	f.Lease = readLease(r, "lease")
	return f, errors.Join(*r.errs...)
}

func readLease(r reader, field string) *state.Lease {
	l, ok := r.object(field)
	if !ok {
		return nil
	}
	return &state.Lease{Owner: l.text("owner"), ExpiresAt: l.time("expires_at")}
}

func readSlice(r reader) state.Slice {
	return state.Slice{From: r.time("from"), To: r.time("to"), DoneUntil: r.time("done_until")}
}

func readGap(r reader) state.Gap {
	return state.Gap{Since: r.time("since"), Until: r.time("until"), Suspected: r.boolean("suspected")}
}

// decodeRecord leaves the id to the caller, who asked for it.
func decodeRecord(path string, fields map[string]*pb.Value) (state.Record, error) {
	r, err := newReader(path, fields)
	if err != nil {
		return state.Record{}, err
	}
	return state.Record{
		Type:             r.text("type"),
		Severity:         r.text("severity"),
		MonitorID:        r.text("monitor_id"),
		Priority:         r.text("priority"),
		Status:           r.text("status"),
		CreatedAt:        r.time("created_at"),
		FirstSeen:        r.time("first_seen"),
		PublishedVersion: r.time("published_version"),
		HandledVersion:   r.time("handled_version"),
		Backfill:         r.text("backfill"),
		Intents: each(r, "intents", func(r reader) state.Intent {
			return state.Intent{
				Field:  r.text("field"),
				Values: r.texts("values"),
				At:     r.time("at"),
				By:     r.text("by"),
				Expect: r.text("expect"),
				Seq:    r.integer("seq"),
				Open:   r.boolean("open"),
				Rest:   r.rest("field", "values", "at", "by", "expect", "seq", "open"),
			}
		}),
		IntentSeq: r.integer("intent_seq"),
		Echoes: each(r, "echoes", func(r reader) state.Echo {
			return state.Echo{
				Version: r.time("version"),
				At:      r.time("at"),
				Seq:     r.integer("seq"),
				Status:  r.text("status"),
				Tags:    r.texts("tags"),
				Rest:    r.rest("version", "at", "seq", "status", "tags"),
			}
		}),
		WriteLease: readLease(r, "write_lease"),
		Statuses: each(r, "statuses", func(r reader) state.StatusChange {
			return state.StatusChange{
				Status: r.text("status"),
				At:     r.time("at"),
				Origin: r.text("origin"),
				Rest:   r.rest("status", "at", "origin"),
			}
		}),
		Versions: each(r, "versions", func(r reader) state.AlertVersion {
			return state.AlertVersion{
				UpdatedAt: r.time("updated_at"),
				At:        r.time("at"),
				RunID:     r.text("run_id"),
				Event:     r.text("event"),
				Outcome:   r.text("outcome"),
				Reason:    r.text("reason"),
				Rest:      r.rest("updated_at", "at", "run_id", "event", "outcome", "reason"),
			}
		}),
		ExpireAt: r.time("expire_at"),
	}, errors.Join(*r.errs...)
}

// decodeBackfill leaves the id to the caller, who knows the document's name.
func decodeBackfill(path string, fields map[string]*pb.Value) (state.Backfill, error) {
	r, err := newReader(path, fields)
	if err != nil {
		return state.Backfill{}, err
	}
	return state.Backfill{
		Kind:         r.text("kind"),
		State:        r.text("state"),
		Since:        r.time("since"),
		Until:        r.time("until"),
		Filter:       r.text("filter"),
		Republish:    r.boolean("republish"),
		DryRun:       r.boolean("dry_run"),
		Request:      r.text("request_sha256"),
		Latest:       r.integer("latest"),
		RequestedAt:  r.time("requested_at"),
		RequestedBy:  r.text("requested_by"),
		Slices:       each(r, "slices", readSlice),
		Fetched:      r.integer("fetched"),
		Published:    r.integer("published"),
		Suppressed:   r.integer("suppressed"),
		Dropped:      r.integer("dropped"),
		Rejected:     r.integer("rejected"),
		Requests:     r.integer("requests"),
		WouldPublish: r.integer("would_publish"),
		ByType:       r.counts("by_type"),
		BySeverity:   r.counts("by_severity"),
		Refused:      each(r, "refused", readGap),
		LateMax:      time.Duration(r.integer("late_max_ms")) * time.Millisecond,
		WorkedFor:    time.Duration(r.integer("worked_for_ms")) * time.Millisecond,
		Error:        r.text("error"),
		FinishedAt:   r.time("finished_at"),
		ExpireAt:     r.time("expire_at"),
	}, errors.Join(*r.errs...)
}

func decodeUnfinished(path string, fields map[string]*pb.Value) ([]string, error) {
	r, err := newReader(path, fields)
	if err != nil {
		return nil, err
	}
	return r.texts("ids"), errors.Join(*r.errs...)
}

func decodeUsage(path string, fields map[string]*pb.Value) (state.Usage, error) {
	r, err := newReader(path, fields)
	if err != nil {
		return state.Usage{}, err
	}
	return state.Usage{Requests: r.buckets("requests"), Errors: r.buckets("errors")}, errors.Join(*r.errs...)
}

// reader reads the fields of a document or of a map in it.
type reader struct {
	path   string // of the document
	parent string // the field that the map is in; empty for the document itself
	index  int    // of the map in a list, else -1
	fields map[string]*pb.Value
	errs   *[]error // of the document, shared with its maps
}

// newReader checks the schema, and nothing else of a document that is newer.
func newReader(path string, fields map[string]*pb.Value) (reader, error) {
	r := reader{path: path, index: -1, fields: fields, errs: new([]error)}
	switch schema := r.integer("schema"); {
	case len(*r.errs) > 0:
		return reader{}, (*r.errs)[0]
	case schema > state.Schema:
		return reader{}, fmt.Errorf("document %s has schema %d: %w", path, schema, state.ErrSchema)
	case schema < 1:
		return reader{}, fmt.Errorf("document %s, field schema: missing or less than 1, so DTM Relay did not write it", path)
	}
	return r, nil
}

func (r reader) fail(name, problem string) {
	if r.index >= 0 {
		name = fmt.Sprintf("%s[%d].%s", r.parent, r.index, name)
	} else if r.parent != "" {
		name = r.parent + "." + name
	}
	*r.errs = append(*r.errs, fmt.Errorf("document %s, field %s: %s", r.path, name, problem))
}

// get returns the field as a T, or the zero value when it is missing or null.
func get[T any](r reader, name, kind string) (value T) {
	switch v := r.fields[name].GetValueType().(type) {
	case nil, *pb.Value_NullValue:
	case T:
		value = v
	default:
		r.fail(name, fmt.Sprintf("not %s but %T", kind, v))
	}
	return value
}

func (r reader) text(name string) string {
	if v := get[*pb.Value_StringValue](r, name, "a string"); v != nil {
		return v.StringValue
	}
	return ""
}

func (r reader) integer(name string) int64 {
	if v := get[*pb.Value_IntegerValue](r, name, "an integer"); v != nil {
		return v.IntegerValue
	}
	return 0
}

func (r reader) boolean(name string) bool {
	v := get[*pb.Value_BooleanValue](r, name, "a boolean")
	return v != nil && v.BooleanValue
}

func (r reader) time(name string) time.Time {
	v := get[*pb.Value_TimestampValue](r, name, "a timestamp")
	if v == nil {
		return time.Time{}
	}
	return v.TimestampValue.AsTime().Truncate(time.Millisecond)
}

// rest returns the other fields than the known ones as entries of a map in wire
// form, ready for a writer.
func (r reader) rest(known ...string) state.Rest {
	var others map[string]*pb.Value
	for name, v := range r.fields {
		if slices.Contains(known, name) {
			continue
		}
		if others == nil {
			others = map[string]*pb.Value{}
		}
		others[name] = v
	}
	if others == nil {
		return ""
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&pb.MapValue{Fields: others})
	if err != nil {
		r.fail("*", err.Error())
	}
	return state.Rest(raw)
}

func (r reader) object(name string) (reader, bool) {
	v := get[*pb.Value_MapValue](r, name, "a map")
	if v == nil {
		return reader{}, false
	}
	return reader{r.path, name, -1, v.MapValue.GetFields(), r.errs}, true
}

// each reads a list of maps.
func each[T any](r reader, name string, read func(reader) T) []T {
	v := get[*pb.Value_ArrayValue](r, name, "an array")
	if v == nil {
		return nil
	}
	values := v.ArrayValue.GetValues()
	all := make([]T, 0, len(values))
	for i, e := range values {
		if e.GetMapValue() == nil {
			r.fail(fmt.Sprintf("%s[%d]", name, i), "not a map")
			continue
		}
		all = append(all, read(reader{r.path, name, i, e.GetMapValue().GetFields(), r.errs}))
	}
	return all
}

func (r reader) texts(name string) []string {
	v := get[*pb.Value_ArrayValue](r, name, "an array")
	if v == nil {
		return nil
	}
	values := v.ArrayValue.GetValues()
	all := make([]string, 0, len(values))
	for i, e := range values {
		s, ok := e.GetValueType().(*pb.Value_StringValue)
		if !ok {
			r.fail(fmt.Sprintf("%s[%d]", name, i), "not a string")
			continue
		}
		all = append(all, s.StringValue)
	}
	return all
}

func (r reader) counts(name string) map[string]int64 {
	counts := map[string]int64{}
	each(r, name, func(r reader) struct{} {
		counts[r.text("name")] += r.integer("count")
		return struct{}{}
	})
	return counts
}

func (r reader) buckets(name string) map[int64]int64 {
	counts := map[int64]int64{}
	sub, _ := r.object(name)
	for bucket := range sub.fields {
		start, err := strconv.ParseInt(bucket, 10, 64)
		if err != nil {
			sub.fail(bucket, "the name is not a time in Unix seconds")
			continue
		}
		counts[start] = sub.integer(bucket)
	}
	return counts
}

func (r reader) json(name string) json.RawMessage {
	value := r.fields[name]
	var raw []byte
	var err error
	switch v := value.GetValueType().(type) {
	case nil, *pb.Value_NullValue:
		return nil
	case *pb.Value_StringValue: // what didn't fit into a map
		if raw = []byte(v.StringValue); !json.Valid(raw) {
			err = errors.New("not JSON")
		}
	default:
		var tree any
		if tree, err = toJSON(value); err == nil {
			raw, err = json.Marshal(tree)
		}
	}
	if err != nil {
		r.fail(name, err.Error())
		return nil
	}
	return raw
}

func toJSON(value *pb.Value) (any, error) {
	switch v := value.GetValueType().(type) {
	case *pb.Value_NullValue:
		return nil, nil
	case *pb.Value_BooleanValue:
		return v.BooleanValue, nil
	case *pb.Value_IntegerValue:
		return v.IntegerValue, nil
	case *pb.Value_DoubleValue:
		return v.DoubleValue, nil
	case *pb.Value_StringValue:
		return v.StringValue, nil
	case *pb.Value_ArrayValue:
		all := make([]any, 0, len(v.ArrayValue.GetValues()))
		for _, e := range v.ArrayValue.GetValues() {
			e, err := toJSON(e)
			if err != nil {
				return nil, err
			}
			all = append(all, e)
		}
		return all, nil
	case *pb.Value_MapValue:
		fields := make(map[string]any, len(v.MapValue.GetFields()))
		for name, e := range v.MapValue.GetFields() {
			e, err := toJSON(e)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			fields[name] = e
		}
		return fields, nil
	default:
		return nil, fmt.Errorf("%T has no form in JSON", v)
	}
}
