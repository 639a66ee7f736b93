package firestore

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"dtmrelay.internal/dtmrelay/internal/state"
)

func text(s string) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_StringValue{StringValue: s}}
}

func integer(n int64) *pb.Value { return integerValue(n) }

func boolean(b bool) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_BooleanValue{BooleanValue: b}}
}

func object(fields map[string]*pb.Value) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: fields}}}
}

func array(values []*pb.Value) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_ArrayValue{ArrayValue: &pb.ArrayValue{Values: values}}}
}

// parse reads the fields of a document from their wire form.
func parse(tb testing.TB, fields []byte) map[string]*pb.Value {
	tb.Helper()
	var doc pb.Document
	if err := proto.Unmarshal(fields, &doc); err != nil {
		tb.Fatal(err)
	}
	if unknown := doc.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		tb.Fatalf("%d bytes are none of a document's", len(unknown))
	}
	return doc.GetFields()
}

// fill gives every field of a value something that is written.
func fill(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(1_700_000_000, 0)))
	case v.Type() == reflect.TypeFor[json.RawMessage]():
		v.Set(reflect.ValueOf(json.RawMessage(`{}`)))
	case v.Type() == reflect.TypeFor[state.Rest]():
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case v.Kind() == reflect.Map:
		v.Set(reflect.ValueOf(map[string]int64{"a": 1}))
	case v.Kind() == reflect.String:
		v.SetString("a")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	default:
		v.SetInt(int64(time.Second))
	}
}

// TestFieldMasks: a field that is not in its document's mask would be written once
// and never changed.
func TestFieldMasks(t *testing.T) {
	var feed state.Feed
	var record state.Record
	var backfill state.Backfill
	fill(reflect.ValueOf(&feed).Elem())
	fill(reflect.ValueOf(&record).Elem())
	fill(reflect.ValueOf(&backfill).Elem())
	feedDoc, feedErr := encodeFeed(feed)
	recordDoc, recordErr := encodeRecord(record)
	backfillDoc, backfillErr := encodeBackfill(backfill)
	if err := errors.Join(feedErr, recordErr, backfillErr); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		doc  []byte
		mask *pb.DocumentMask
	}{{"feed", feedDoc, feedFields}, {"record", recordDoc, recordFields}, {"backfill", backfillDoc, backfillFields}} {
		if diff := cmp.Diff(slices.Sorted(maps.Keys(parse(t, c.doc))), slices.Sorted(slices.Values(c.mask.GetFieldPaths()))); diff != "" {
			t.Errorf("fields of a %s (-) and of its mask (+):\n%s", c.name, diff)
		}
	}
}
