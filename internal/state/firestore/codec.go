package firestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// A codec turns a struct into the fields of a document, or of a map in one, and back.
// A field has the name that its json tag gives it; a duration's has "_ms" after it.
//
// What is zero or empty has no field, but for what the tag store:"always" is at; of
// lists of texts only nil has none. A missing field is zero or empty. A field of
// another type was written by someone else, and is an error that names it.
//
// Documents are made in protobuf's wire form: by way of the generated types, of
// which each field takes three allocations, the same bytes cost three times the
// processor time (BenchmarkRecordCodec).
type codec struct {
	fields []codecField
	rest   int // index of the field of type state.Rest, else -1
}

type codecField struct {
	name   string
	key    []byte // name, up to the value
	index  int
	always bool
	// inner is of a struct, of what a pointer points to, or of a list's elements. The
	// fields of an embedded struct, which has no name, are fields of this map.
	inner  *codec
	nested bool // it is a struct itself
}

func codecOf[T any]() *codec { return newCodec(reflect.TypeFor[T]()) }

func newCodec(t reflect.Type) *codec {
	c := &codec{rest: -1}
	for i := range t.NumField() {
		of := t.Field(i)
		name, _, _ := strings.Cut(of.Tag.Get("json"), ",")
		f := codecField{name: name, index: i, always: of.Tag.Get("store") == "always"}
		switch inner := of.Type; {
		case inner == reflect.TypeFor[state.Rest]():
			c.rest = i
			continue
		case name == "-":
			continue
		case inner == reflect.TypeFor[time.Duration]():
			f.name += "_ms"
		case inner == reflect.TypeFor[time.Time]():
		case inner.Kind() == reflect.Struct:
			f.inner, f.nested = newCodec(inner), true
		case (inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice) && inner.Elem().Kind() == reflect.Struct:
			f.inner = newCodec(inner.Elem())
		}
		f.key = fieldKey(f.name)
		c.fields = append(c.fields, f)
	}
	return c
}

// paths are the names of all fields, those of a struct in it one by one.
func (c *codec) paths(prefix string) []string {
	var all []string
	for _, f := range c.fields {
		switch {
		case f.name == "":
			all = append(all, f.inner.paths(prefix)...)
		case f.nested:
			all = append(all, f.inner.paths(prefix+f.name+".")...)
		default:
			all = append(all, prefix+f.name)
		}
	}
	return all
}

// encode makes the fields of a document of the struct that doc points to, in wire form.
func (c *codec) encode(doc any) ([]byte, error) {
	e := encoder{raw: make([]byte, 0, 1024)}
	entry, value := e.beginField(documentFields, fieldKey("schema"))
	e.raw = appendInteger(e.raw, state.Schema)
	e.endField(entry, value)
	c.encodeFields(&e, documentFields, reflect.ValueOf(doc).Elem())
	if err := e.join(""); err != nil {
		return nil, err
	}
	return e.raw, nil
}

func (c *codec) encodeFields(e *encoder, number protowire.Number, v reflect.Value) {
	for i := range c.fields {
		f := &c.fields[i]
		value := v.Field(f.index)
		switch {
		case f.name == "":
			f.inner.encodeFields(e, number, value)
			continue
		case value.IsZero() && !f.always:
			continue
		}
		before, known := len(e.raw), len(e.problems)
		entry, start := e.beginField(number, f.key)
		if f.encode(e, value) {
			e.endField(entry, start)
		} else {
			e.raw = e.raw[:before]
		}
		e.within(known, f.name)
	}
	if c.rest >= 0 {
		e.raw = append(e.raw, v.Field(c.rest).String()...)
	}
}

// encode appends a value. It reports false when the field is to be left out.
func (f *codecField) encode(e *encoder, v reflect.Value) bool {
	switch value := v.Addr().Interface().(type) {
	case *string:
		e.raw = appendText(e.raw, *value)
	case *int64:
		e.raw = appendInteger(e.raw, *value)
	case *bool:
		e.raw = appendBoolean(e.raw, *value)
	case *time.Duration:
		e.raw = appendInteger(e.raw, value.Milliseconds())
		return value.Milliseconds() != 0
	case *time.Time:
		e.time(state.Milliseconds(*value))
	case *[]string:
		list := e.begin(arrayNumber)
		for _, s := range *value {
			element := e.begin(arrayValues)
			e.raw = appendText(e.raw, s)
			e.end(element)
		}
		e.end(list)
	case *json.RawMessage:
		return e.rawJSON(*value)
	default:
		return f.encodeInner(e, v)
	}
	return true
}

// encodeInner appends a map, or a list of maps.
func (f *codecField) encodeInner(e *encoder, v reflect.Value) bool {
	if v.Kind() != reflect.Slice {
		m := e.begin(mapNumber)
		f.inner.encodeFields(e, mapFields, reflect.Indirect(v))
		e.end(m)
		return true
	}
	list := e.begin(arrayNumber)
	for i := range v.Len() {
		known := len(e.problems)
		element := e.begin(arrayValues)
		m := e.begin(mapNumber)
		f.inner.encodeFields(e, mapFields, v.Index(i))
		e.end(m)
		e.end(element)
		e.within(known, "["+strconv.Itoa(i)+"]")
	}
	e.end(list)
	return v.Len() > 0
}

// decode sets the struct that doc points to. Of a document of a newer schema it reads
// nothing else.
func (c *codec) decode(path string, fields map[string]*pb.Value, doc any) error {
	if schema := fields["schema"].GetIntegerValue(); schema > state.Schema {
		return fmt.Errorf("document %s has schema %d: %w", path, schema, state.ErrSchema)
	} else if schema < 1 {
		return &state.DamagedError{Err: fmt.Errorf("document %s, field schema: no integer of 1 or more, so DTM Relay did not write it", path)}
	}
	var d decoder
	c.decodeFields(&d, fields, reflect.ValueOf(doc).Elem())
	return d.damage(path)
}

// decodeFields returns how many of the fields are known.
func (c *codec) decodeFields(d *decoder, fields map[string]*pb.Value, v reflect.Value) (known int) {
	for i := range c.fields {
		f := &c.fields[i]
		if f.name == "" {
			known += f.inner.decodeFields(d, fields, v.Field(f.index))
			continue
		}
		value, ok := fields[f.name]
		if !ok {
			continue
		}
		known++
		if before := len(d.problems); !isNull(value) {
			f.decode(d, value, v.Field(f.index))
			d.within(before, f.name)
		}
	}
	if c.rest >= 0 && known < len(fields) {
		v.Field(c.rest).SetString(c.others(d, fields))
	}
	return known
}

// others returns the fields that the codec doesn't know as entries of a map in wire
// form, ready to be appended.
func (c *codec) others(d *decoder, fields map[string]*pb.Value) string {
	others := maps.Clone(fields)
	for _, name := range c.paths("") {
		delete(others, name)
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&pb.MapValue{Fields: others})
	if err != nil {
		d.add(err.Error())
	}
	return string(raw)
}

// decode sets a variable to a value that is not null.
func (f *codecField) decode(d *decoder, value *pb.Value, v reflect.Value) {
	switch into := v.Addr().Interface().(type) {
	case *string:
		if s := get[*pb.Value_StringValue](d, value, "a string"); s != nil {
			*into = s.StringValue
		}
	case *int64:
		if n := get[*pb.Value_IntegerValue](d, value, "an integer"); n != nil {
			*into = n.IntegerValue
		}
	case *bool:
		if b := get[*pb.Value_BooleanValue](d, value, "a boolean"); b != nil {
			*into = b.BooleanValue
		}
	case *time.Duration:
		if n := get[*pb.Value_IntegerValue](d, value, "an integer"); n != nil {
			*into = time.Duration(n.IntegerValue) * time.Millisecond
		}
	case *time.Time:
		if t := get[*pb.Value_TimestampValue](d, value, "a timestamp"); t != nil {
			*into = state.Milliseconds(t.TimestampValue.AsTime())
		}
	case *[]string:
		if list := get[*pb.Value_ArrayValue](d, value, "an array"); list != nil {
			*into = make([]string, len(list.ArrayValue.GetValues()))
			for i, e := range list.ArrayValue.GetValues() {
				before := len(d.problems)
				if s := get[*pb.Value_StringValue](d, e, "a string"); s != nil {
					(*into)[i] = s.StringValue
				}
				d.within(before, "["+strconv.Itoa(i)+"]")
			}
		}
	case *json.RawMessage:
		*into = d.rawJSON(value)
	case *map[int64]int64:
		if m := get[*pb.Value_MapValue](d, value, "a map"); m != nil {
			d.buckets(m.MapValue.GetFields(), *into)
		}
	default:
		f.decodeInner(d, value, v)
	}
}

// decodeInner reads a map, or a list of maps.
func (f *codecField) decodeInner(d *decoder, value *pb.Value, v reflect.Value) {
	if v.Kind() == reflect.Slice {
		list := get[*pb.Value_ArrayValue](d, value, "an array")
		if list == nil {
			return
		}
		values := list.ArrayValue.GetValues()
		v.Set(reflect.MakeSlice(v.Type(), len(values), len(values)))
		for i, e := range values {
			before := len(d.problems)
			if m := get[*pb.Value_MapValue](d, e, "a map"); m != nil {
				f.inner.decodeFields(d, m.MapValue.GetFields(), v.Index(i))
			}
			d.within(before, "["+strconv.Itoa(i)+"]")
		}
		return
	}
	m := get[*pb.Value_MapValue](d, value, "a map")
	if m == nil {
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	f.inner.decodeFields(d, m.MapValue.GetFields(), v)
}

// buckets reads the counters of a key, which are written by increments only.
func (d *decoder) buckets(fields map[string]*pb.Value, into map[int64]int64) {
	for bucket, value := range fields {
		before := len(d.problems)
		start, err := strconv.ParseInt(bucket, 10, 64)
		if err != nil {
			d.add("the name is not a time in Unix seconds")
		} else if isNull(value) {
			continue
		} else if n := get[*pb.Value_IntegerValue](d, value, "an integer"); n != nil {
			into[start] = n.IntegerValue
		}
		d.within(before, bucket)
	}
}

// problems are what is wrong with the fields of a document, each with the path of
// its field as far as the codec has come back from it.
type problems []problem

type problem struct{ path, text string }

func (p *problems) add(text string) { *p = append(*p, problem{text: text}) }

// within puts the name of a field, or [i] for an element of a list, before the paths
// of the problems from the first on.
func (p problems) within(first int, name string) {
	for i := range p[first:] {
		at := &p[first+i]
		if at.path != "" && at.path[0] != '[' {
			at.path = "." + at.path
		}
		at.path = name + at.path
	}
}

func (p problems) join(prefix string) error {
	errs := make([]error, len(p))
	for i, at := range p {
		errs[i] = fmt.Errorf("%sfield %s: %s", prefix, at.path, at.text)
	}
	return errors.Join(errs...)
}

type decoder struct{ problems }

// damage is what is wrong with a document, nil when nothing is.
func (p problems) damage(path string) error {
	if len(p) == 0 {
		return nil
	}
	return &state.DamagedError{Err: p.join("document " + path + ", ")}
}

func isNull(v *pb.Value) bool {
	switch v.GetValueType().(type) {
	case nil, *pb.Value_NullValue:
		return true
	}
	return false
}

// get returns the value as a T, or nil when it is none.
func get[T any](d *decoder, value *pb.Value, what string) (v T) {
	v, ok := value.GetValueType().(T)
	if !ok {
		d.add(fmt.Sprintf("not %s but %s", what, kindOf(value)))
	}
	return v
}

// kindOf names a value's type for an error.
func kindOf(v *pb.Value) string {
	switch v.GetValueType().(type) {
	case nil, *pb.Value_NullValue:
		return "null"
	case *pb.Value_BooleanValue:
		return "a boolean"
	case *pb.Value_IntegerValue:
		return "an integer"
	case *pb.Value_DoubleValue:
		return "a floating-point number"
	case *pb.Value_TimestampValue:
		return "a timestamp"
	case *pb.Value_BytesValue:
		return "bytes"
	case *pb.Value_StringValue:
		return "a string"
	case *pb.Value_ArrayValue:
		return "an array"
	case *pb.Value_MapValue:
		return "a map"
	default:
		return "a reference, a place or another type"
	}
}
