package firestore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/encoding/protowire"
)

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

// document is a document with the fields that are there in wire form. To
// protobuf they are fields that it doesn't know, which it passes on as they are.
func document(name string, fields []byte) *pb.Document {
	doc := &pb.Document{Name: name}
	doc.ProtoReflect().SetUnknown(fields)
	return doc
}

// encoder appends the fields of a document in wire form.
type encoder struct {
	raw []byte
	problems
}

// begin begins a message. Its length comes before its content: most often it takes the
// one byte that is left for it, else end moves the content, as protobuf's own encoder does.
func (e *encoder) begin(number protowire.Number) (start int) {
	e.raw = append(protowire.AppendTag(e.raw, number, protowire.BytesType), 0)
	return len(e.raw)
}

func (e *encoder) end(start int) {
	length := len(e.raw) - start
	if length < 1<<7 {
		e.raw[start-1] = byte(length)
		return
	}
	more := protowire.SizeVarint(uint64(length)) - 1
	e.raw = append(e.raw, make([]byte, more)...)
	copy(e.raw[start+more:], e.raw[start:start+length])
	protowire.AppendVarint(e.raw[:start-1], uint64(length))
}

// fieldKey makes the beginning of an entry of a map, up to its value.
func fieldKey(name string) []byte {
	b := protowire.AppendString(protowire.AppendTag(nil, entryKey, protowire.BytesType), name)
	return append(protowire.AppendTag(b, entryValue, protowire.BytesType), 0)
}

// beginField begins an entry of a map, up to its value; number is the map's field.
func (e *encoder) beginField(number protowire.Number, key []byte) (entry, value int) {
	entry = e.begin(number)
	e.raw = append(e.raw, key...)
	return entry, len(e.raw)
}

func (e *encoder) endField(entry, value int) {
	e.end(value)
	e.end(entry)
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

// time appends a time in whole milliseconds. Alerts say when they were made, so any
// time that can be written down may come, but Firestore takes the years 1 to 9999.
func (e *encoder) time(t time.Time) {
	if y := t.Year(); y < 1 || y > 9999 {
		e.add(fmt.Sprintf("the year %d is not between 1 and 9999", y))
	}
	value := e.begin(timestampNumber)
	e.raw = appendVarint(e.raw, timestampSeconds, uint64(t.Unix()))
	e.raw = appendVarint(e.raw, timestampNanos, uint64(t.Nanosecond()))
	e.end(value)
}

// rawJSON appends a JSON object as a map, so that it can be read in the console.
// What a map of Firestore can't hold (an array directly in an array, an integer
// beyond 64 bits, an empty or reserved name) is written as text. It reports false for null.
func (e *encoder) rawJSON(raw json.RawMessage) bool {
	if len(raw) == 0 || string(raw) == "null" {
		return false
	}
	if !json.Valid(raw) {
		e.add("not JSON")
		return false
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var fields map[string]any
	before := len(e.raw)
	if d.Decode(&fields) != nil || !e.json(fields) {
		e.raw = appendText(e.raw[:before], string(raw))
	}
	return true
}

// json appends a value as it was decoded with numbers kept as they were written, if
// Firestore can hold it.
func (e *encoder) json(value any) bool {
	switch value := value.(type) {
	case nil:
		e.raw = appendVarint(e.raw, nullNumber, 0)
	case bool:
		e.raw = appendBoolean(e.raw, value)
	case string:
		e.raw = appendText(e.raw, value)
	case json.Number:
		if n, err := value.Int64(); err == nil {
			e.raw = appendInteger(e.raw, n)
			break
		}
		f, err := value.Float64()
		if err != nil || !strings.ContainsAny(value.String(), ".eE") {
			return false
		}
		e.raw = protowire.AppendTag(e.raw, doubleNumber, protowire.Fixed64Type)
		e.raw = protowire.AppendFixed64(e.raw, math.Float64bits(f))
	case []any:
		list := e.begin(arrayNumber)
		for _, element := range value {
			_, nested := element.([]any)
			start := e.begin(arrayValues)
			if nested || !e.json(element) {
				return false
			}
			e.end(start)
		}
		e.end(list)
	case map[string]any:
		m := e.begin(mapNumber)
		for name, element := range value {
			reserved := strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__")
			entry, start := e.beginField(mapFields, fieldKey(name))
			if name == "" || reserved || !e.json(element) {
				return false
			}
			e.endField(entry, start)
		}
		e.end(m)
	}
	return true
}

func (d *decoder) rawJSON(value *pb.Value) json.RawMessage {
	var raw []byte
	var err error
	if s, ok := value.GetValueType().(*pb.Value_StringValue); ok { // what didn't fit into a map
		if raw = []byte(s.StringValue); !json.Valid(raw) {
			err = errors.New("not JSON")
		}
	} else {
		var tree any
		if tree, err = toJSON(value); err == nil {
			raw, err = json.Marshal(tree)
		}
	}
	if err != nil {
		d.add(err.Error())
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
		return nil, fmt.Errorf("%s has no form in JSON", kindOf(value))
	}
}
