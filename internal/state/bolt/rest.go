package bolt

import (
	"encoding/json"
	"maps"
	"reflect"
	"strings"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// A document that holds members that this program doesn't know is read twice and
// merged when it is written again. Others cost nothing more.

type members = map[string]json.RawMessage

// readRests fills in what the elements of a value's lists hold beside what was decoded
// from raw, the document.
func readRests(value reflect.Value, raw []byte) error {
	var d struct {
		Value members `json:"value"`
	}
	if value.Kind() != reflect.Struct { // a list of ids
		return nil
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return err
	}
	return eachRest(value, d.Value, func(element reflect.Value, rest *state.Rest, m members) error {
		for _, f := range reflect.VisibleFields(element.Type()) {
			delete(m, nameOf(f))
		}
		if len(m) == 0 {
			return nil
		}
		raw, err := json.Marshal(m)
		*rest = state.Rest(raw)
		return err
	})
}

// merge adds to a document's JSON what the one that it takes the place of has and
// this program doesn't know.
func merge(raw, old []byte, value reflect.Value) ([]byte, error) {
	d, before, err := union(raw, old)
	if err != nil {
		return nil, err
	}
	if value.Kind() == reflect.Struct {
		v, _, err := union(d["value"], before["value"])
		if err != nil {
			return nil, err
		}
		err = eachRest(value, v, func(_ reflect.Value, rest *state.Rest, m members) error {
			if *rest == "" {
				return nil
			}
			return json.Unmarshal([]byte(*rest), &m) // adds to it
		})
		if err != nil {
			return nil, err
		}
		if d["value"], err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	return json.Marshal(d)
}

// union is an object with the members of another one that it doesn't have.
func union(raw, other []byte) (all, before members, err error) {
	if err := json.Unmarshal(other, &before); err != nil {
		return nil, nil, err
	}
	all = maps.Clone(before)
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, nil, err
	}
	return all, before, nil
}

// eachRest lets f change the Rest of each element of a value's lists, or the element's
// members in the value's JSON.
func eachRest(value reflect.Value, in members, f func(element reflect.Value, rest *state.Rest, m members) error) error {
	for i := range value.NumField() {
		list := value.Field(i)
		if list.Kind() != reflect.Slice || list.Type().Elem().Kind() != reflect.Struct {
			continue
		}
		at, ok := list.Type().Elem().FieldByName("Rest")
		if !ok {
			continue
		}
		name := nameOf(value.Type().Field(i))
		raw, ok := in[name]
		if !ok { // a missing list is empty
			continue
		}
		var all []members
		if err := json.Unmarshal(raw, &all); err != nil {
			return err
		}
		for j, m := range all {
			element := list.Index(j)
			if err := f(element, element.FieldByIndex(at.Index).Addr().Interface().(*state.Rest), m); err != nil {
				return err
			}
		}
		var err error
		if in[name], err = json.Marshal(all); err != nil {
			return err
		}
	}
	return nil
}

func nameOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
