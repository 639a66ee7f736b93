package firestore

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"dtmrelay.internal/dtmrelay/internal/state"
)

func TestMistypedFields(t *testing.T) {
	for _, tc := range []struct {
		field string // as the error names it
		name  string
		value *pb.Value
	}{
		{"begins_at", "begins_at", text("2026")},
		{"end", "end", integer(5)},
		{"filter", "filter", integer(5)},
		{"write", "write", text("5")},
		{"slices", "slices", text("none")},
		{"slices[0]", "slices", array([]*pb.Value{text("none")})},
		{"slices[0]", "slices", array([]*pb.Value{nil})},
		{"slices[1].to", "slices", array([]*pb.Value{object(nil), object(map[string]*pb.Value{"to": boolean()})})},
		{"gaps[0].suspected", "gaps", array([]*pb.Value{object(map[string]*pb.Value{"suspected": integer(1)})})},
		{"lease", "lease", text("me")},
		{"lease.owner", "lease", object(map[string]*pb.Value{"owner": integer(1)})},
		{"refusal.age_ms", "refusal", object(map[string]*pb.Value{"age_ms": text("long")})},
		{"last_run", "last_run", text("{")},
		{"last_run", "last_run", object(map[string]*pb.Value{"x": {ValueType: &pb.Value_DoubleValue{DoubleValue: math.NaN()}}})},
		{"last_run", "last_run", object(map[string]*pb.Value{"x": {ValueType: &pb.Value_BytesValue{}}})},
		{"schema", "schema", text("1")},
		{"schema", "schema", nil},
	} {
		fields := map[string]*pb.Value{"schema": integer(state.Schema), tc.name: tc.value}
		_, err := decodeFeed("feeds/default", fields)
		if want := "document feeds/default, field " + tc.field + ":"; err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "pb.") {
			t.Errorf("%s as %v: %v, want %q in it", tc.name, tc.value, err, want)
		}
	}

	unfinished := map[string]*pb.Value{"schema": integer(1), "ids": array([]*pb.Value{text("a"), integer(1), nil})}
	_, listErr := decodeUnfinished("feeds/f/unfinished/backfills", unfinished)
	backfill := map[string]*pb.Value{"schema": integer(1), "slices": array([]*pb.Value{object(map[string]*pb.Value{"to": text("1")})})}
	_, backfillErr := decodeBackfill("feeds/f/backfills/b", backfill)
	record := map[string]*pb.Value{
		"schema": integer(1),
		"record": object(map[string]*pb.Value{
			"intents":    array([]*pb.Value{object(map[string]*pb.Value{"values": text("closed"), "seq": text("1")})}),
			"intent_seq": text("1"),
			"echoes":     array([]*pb.Value{object(nil), object(map[string]*pb.Value{"tags": array([]*pb.Value{integer(1)})})}),
		}),
		"expire_at": text("tomorrow"),
	}
	_, mapErr := decodeRecord("feeds/f/alerts/m", map[string]*pb.Value{"schema": integer(1), "record": text("new")})
	_, recordErr := decodeRecord("feeds/f/alerts/r", record)
	for want, err := range map[string]error{
		"document feeds/f/unfinished/backfills, field ids[1]:":       listErr,
		"document feeds/f/unfinished/backfills, field ids[2]:":       listErr,
		"document feeds/f/backfills/b, field slices[0].to:":          backfillErr,
		"document feeds/f/alerts/m, field record:":                   mapErr,
		"document feeds/f/alerts/r, field expire_at:":                recordErr,
		"document feeds/f/alerts/r, field record.intents[0].values:": recordErr,
		"document feeds/f/alerts/r, field record.intents[0].seq:":    recordErr,
		"document feeds/f/alerts/r, field record.intent_seq:":        recordErr,
		"document feeds/f/alerts/r, field record.echoes[1].tags[0]:": recordErr,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}

	usage := map[string]*pb.Value{"schema": integer(1), "requests": object(map[string]*pb.Value{"soon": integer(1), "5": text("1")})}
	_, err := decodeUsage("keys/k", usage)
	for _, want := range []string{"document keys/k, field requests.soon:", "document keys/k, field requests.5:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("usage: %v, want %q in it", err, want)
		}
	}
}

// TestDamagedSlices: what a document says of what is pending is whole, or no run goes by it.
func TestDamagedSlices(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2026, 1, 2, hour, 0, 0, 0, time.UTC) }
	f := state.Feed{End: at(9), Slices: []state.Slice{{From: at(1), To: at(5), DoneUntil: at(3)}, {From: at(5), To: at(9), DoneUntil: at(6)}}}
	for _, c := range []struct {
		name    string
		damage  func(fields map[string]*pb.Value)
		want    []state.Slice
		problem string
	}{
		{name: "none", damage: func(map[string]*pb.Value) {}, want: f.Slices},
		{
			name: "deleted", damage: func(fields map[string]*pb.Value) { delete(fields, "slices") },
			want: []state.Slice{{From: at(3), To: at(9), DoneUntil: at(3)}},
		},
		{
			name: "the first is deleted", damage: func(fields map[string]*pb.Value) {
				all := fields["slices"].GetArrayValue()
				all.Values = all.Values[1:]
			},
			want: []state.Slice{{From: at(3), To: at(6), DoneUntil: at(3)}, f.Slices[1]},
		},
		{
			name: "all that is known of the position is deleted", damage: func(fields map[string]*pb.Value) { delete(fields, "position") },
			want: f.Slices,
		},
		{
			name: "no end", damage: func(fields map[string]*pb.Value) {
				delete(fields["slices"].GetArrayValue().GetValues()[1].GetMapValue().GetFields(), "to")
			},
			problem: "field slices[1].to: missing",
		},
		{
			name: "no beginning", damage: func(fields map[string]*pb.Value) {
				fields["slices"].GetArrayValue().GetValues()[0].GetMapValue().Fields = nil
			},
			problem: "field slices[0].done_until: missing",
		},
	} {
		encoded, err := encodeFeed(f)
		if err != nil {
			t.Fatal(err)
		}
		fields := parse(t, encoded)
		c.damage(fields)
		got, err := decodeFeed("feeds/default", fields)
		if diff := cmp.Diff(c.want, got.Slices); c.problem == "" && (err != nil || diff != "") {
			t.Errorf("%s: %v (-want +got)\n%s", c.name, err, diff)
		}
		var damaged *state.DamagedError
		if c.problem != "" && (!errors.As(err, &damaged) || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%s: %v, want %q in it", c.name, err, c.problem)
		}
	}
	encoded, err := encodeBackfill(state.Backfill{State: state.Running, Slices: []state.Slice{{From: at(1), DoneUntil: at(1)}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeBackfill("feeds/f/backfills/b", parse(t, encoded)); err == nil || !strings.Contains(err.Error(), "field slices[0].to: missing") {
		t.Errorf("a backfill: %v", err)
	}
}

// A null, a field that this version doesn't know, and a missing one are no errors.
func TestTolerated(t *testing.T) {
	fields := map[string]*pb.Value{
		"schema": integer(1), "end": {ValueType: &pb.Value_NullValue{}}, "lease": {ValueType: &pb.Value_NullValue{}},
		"later": boolean(), "write": nil,
	}
	if f, err := decodeFeed("feeds/default", fields); err != nil || f.Lease != nil || !f.End.IsZero() {
		t.Errorf("%+v, %v", f, err)
	}
	for _, fields := range []map[string]*pb.Value{
		{"schema": integer(1)},
		{"schema": integer(1), "record": {ValueType: &pb.Value_NullValue{}}, "later": boolean()},
		{"schema": integer(1), "record": object(map[string]*pb.Value{"later": boolean(), "status": nil})},
	} {
		if r, err := decodeRecord("feeds/f/alerts/r", fields); err != nil || !cmp.Equal(r, state.Record{}) {
			t.Errorf("%v: %+v, %v", fields, r, err)
		}
	}
}

// A record that nothing was ever written back for is not larger for it.
func TestOrdinaryRecord(t *testing.T) {
	_, entries := newRecords()
	record := entries[0].Record
	emptied := record
	emptied.Intents, emptied.Echoes = []state.Intent{}, []state.Echo{}
	for _, r := range []state.Record{record, emptied} {
		fields, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		for field := range parse(t, fields)["record"].GetMapValue().GetFields() {
			if strings.HasPrefix(field, "intent") || strings.HasPrefix(field, "echo") {
				t.Errorf("it has the field %s", field)
			}
		}
	}
}

// FuzzDecode feeds the decoders with whatever protobuf can carry.
func FuzzDecode(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	feed, err := encodeFeed(state.Feed{
		BeginsAt: now, Slices: []state.Slice{{From: now, To: now, DoneUntil: now}}, Refusal: &state.Refusal{At: now}, Lease: &state.Lease{Owner: "r"},
		LastRun: []byte(`{"a":[1,2.5,"x",null,{"b":true}]}`),
	})
	if err != nil {
		f.Fatal(err)
	}
	record, err := encodeRecord(state.Record{
		ID: "a", Versions: []state.AlertVersion{{At: now, RunID: "r"}}, ExpireAt: now,
		Intents: []state.Intent{{Field: state.IntentAddTag, Values: []string{"x"}, At: now, Open: true}}, IntentSeq: 1,
		Echoes: []state.Echo{{Version: now, Tags: []string{}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	backfill, err := encodeBackfill(state.Backfill{
		State: state.Running, RequestedAt: now, Slices: []state.Slice{{From: now, To: now, DoneUntil: now}}, Refused: []state.Gap{{TimeRange: state.TimeRange{Since: now}}},
		WorkedFor: time.Second, ExpireAt: now,
	})
	if err != nil {
		f.Fatal(err)
	}
	unfinished := map[string]*pb.Value{"schema": integer(1), "ids": array([]*pb.Value{text("b")})}
	usage := map[string]*pb.Value{"schema": integer(1), "requests": object(map[string]*pb.Value{"5": integer(1)})}
	broken := map[string]*pb.Value{
		"schema": integer(1),
		"end":    {ValueType: &pb.Value_TimestampValue{TimestampValue: &timestamppb.Timestamp{Seconds: math.MaxInt64, Nanos: -1}}},
		"slices": array([]*pb.Value{{}, object(nil)}),
	}
	f.Add(feed)
	f.Add(record)
	f.Add(backfill)
	for _, fields := range []map[string]*pb.Value{unfinished, usage, broken, nil} {
		raw, err := proto.Marshal(&pb.Document{Fields: fields})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var doc pb.Document
		if proto.Unmarshal(raw, &doc) != nil {
			return
		}
		// What was read without an error can be written again.
		if feed, err := decodeFeed("f", doc.GetFields()); err == nil {
			if again, err := encodeFeed(feed); err == nil {
				if _, err := decodeFeed("f", parse(t, again)); err != nil {
					t.Errorf("%+v can't be read again: %v", feed, err)
				}
			}
		}
		if record, err := decodeRecord("r", doc.GetFields()); err == nil {
			if again, err := encodeRecord(record); err == nil {
				if _, err := decodeRecord("r", parse(t, again)); err != nil {
					t.Errorf("%+v can't be read again: %v", record, err)
				}
			}
		}
		if backfill, err := decodeBackfill("b", doc.GetFields()); err == nil {
			if again, err := encodeBackfill(backfill); err == nil {
				if _, err := decodeBackfill("b", parse(t, again)); err != nil {
					t.Errorf("%+v can't be read again: %v", backfill, err)
				}
			}
		}
		_, _ = decodeUnfinished("l", doc.GetFields())
		_, _ = decodeUsage("u", doc.GetFields())
		_ = revisionOf(doc.GetUpdateTime())
	})
}
