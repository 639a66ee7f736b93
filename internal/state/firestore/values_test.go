package firestore

import (
	"testing"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/proto"
)

func text(s string) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_StringValue{StringValue: s}}
}

func integer(n int64) *pb.Value { return integerValue(n) }

func boolean() *pb.Value {
	return &pb.Value{ValueType: &pb.Value_BooleanValue{BooleanValue: true}}
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
