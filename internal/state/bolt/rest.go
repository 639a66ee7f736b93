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

// elements are the lists of a record whose elements have a Rest.
type elements struct {
	Intents, Echoes, Statuses, Versions []members
}

// readRests fills in what a record's elements hold beside what was decoded from raw.
func readRests(r *state.Record, raw []byte) error {
	var d struct {
		Value elements `json:"value"`
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return err
	}
	for i := range r.Intents {
		r.Intents[i].Rest = restOf[state.Intent](d.Value.Intents[i])
	}
	for i := range r.Echoes {
		r.Echoes[i].Rest = restOf[state.Echo](d.Value.Echoes[i])
	}
	for i := range r.Statuses {
		r.Statuses[i].Rest = restOf[state.StatusChange](d.Value.Statuses[i])
	}
	for i := range r.Versions {
		r.Versions[i].Rest = restOf[state.AlertVersion](d.Value.Versions[i])
	}
	return nil
}

// restOf is the JSON object of those members that a T has no field for.
func restOf[T any](m members) state.Rest {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		delete(m, name)
	}
	if len(m) == 0 {
		return ""
	}
	raw, _ := json.Marshal(m) // members that were just decoded
	return state.Rest(raw)
}

// merge adds to a document's JSON what the one that it takes the place of has and
// this program doesn't know.
func merge(raw, old []byte, value any) ([]byte, error) {
	d, err := union(raw, old)
	if err != nil {
		return nil, err
	}
	var before struct {
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(old, &before); err != nil {
		return nil, err
	}
	if v, err := union(d["value"], before.Value); err == nil { // else a list
		if r, ok := value.(state.Record); ok {
			if err := writeRests(r, v); err != nil {
				return nil, err
			}
		}
		if d["value"], err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	return json.Marshal(d)
}

// union is an object with the members of another one that it doesn't have.
func union(raw, other []byte) (members, error) {
	var all, m members
	if err := json.Unmarshal(other, &all); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	maps.Copy(all, m)
	return all, nil
}

// writeRests puts the rests of a record's elements into the members of its JSON.
func writeRests(r state.Record, value members) error {
	for name, rests := range map[string][]state.Rest{
		"Intents":  rests(r.Intents, func(w state.Intent) state.Rest { return w.Rest }),
		"Echoes":   rests(r.Echoes, func(e state.Echo) state.Rest { return e.Rest }),
		"Statuses": rests(r.Statuses, func(s state.StatusChange) state.Rest { return s.Rest }),
		"Versions": rests(r.Versions, func(v state.AlertVersion) state.Rest { return v.Rest }),
	} {
		var list []members
		if err := json.Unmarshal(value[name], &list); err != nil {
			return err
		}
		for i, rest := range rests {
			if rest == "" {
				continue
			}
			if err := json.Unmarshal([]byte(rest), &list[i]); err != nil { // adds to it
				return err
			}
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return err
		}
		value[name] = raw
	}
	return nil
}

func rests[T any](list []T, of func(T) state.Rest) []state.Rest {
	all := make([]state.Rest, len(list))
	for i, e := range list {
		all[i] = of(e)
	}
	return all
}
