package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// alertType is the type of the variable alert.
var alertType = cel.ObjectType("dtmrelay.Alert")

// field is one member of an alert that expressions know by name.
type field struct {
	kind *cel.Type
	// zero is the value where the alert has none; nil makes reading it an error then,
	// so that an expression has to ask with has() first.
	zero ref.Val
	// get, unless nil, is where the value comes from in place of the member.
	get func(*view) (ref.Val, error)
	set func(*view) bool
	at  int // its place in view.members
}

// schema is what expressions know of an alert. It is made at the first use: a cold
// start without rules needs none of it.
var schema = sync.OnceValue(func() map[string]*field {
	var (
		text    = field{kind: cel.StringType, zero: types.String("")}
		number  = field{kind: cel.DoubleType, zero: types.Double(0)}
		boolean = field{kind: cel.BoolType, zero: types.False}
		texts   = field{kind: cel.ListType(cel.StringType), zero: types.NewStringList(types.DefaultTypeAdapter, nil)}
		list    = field{kind: cel.ListType(cel.DynType), zero: types.NewDynamicList(types.DefaultTypeAdapter, []any{})}
		object  = field{kind: cel.MapType(cel.StringType, cel.DynType), zero: types.NewStringInterfaceMap(types.DefaultTypeAdapter, map[string]any{})}
		rest    = field{kind: cel.DynType}
	)
	// The members that the DTM API documents, and those that recorded alerts have.
	fields := map[string]*field{}
	for name, f := range map[string]field{
		"id": text, "monitor_id": text, "monitor_name": text, "monitor_version": number,
		"alert_type": text, "status": text, "severity": text,
		"indicator_mscore": number, "confidence": number, "similarity_score": number,
		"title": text, "alert_summary": text, "ai_doc_summary": text, "aggregated_under_id": text,
		"has_analysis": boolean, "ignore": boolean,
		"tags": texts, "topic_matches": list, "label_matches": list, "doc_matches": list,
		"doc": object, "labels": list, "topics": list,
		"analysis": rest, "attachments": rest, "severity_reasoning": rest, "confidence_reasoning": rest,
		"indicator_attributions": rest, "email_sent_at": rest, "meets_password_policy": rest,
		"doc_url": rest, "labels_url": rest, "topics_url": rest,
		"relevance_class": rest, "relevance_probability": rest,
	} {
		f.at = len(fields)
		fields[name] = &f
	}
	// The API's times are texts without a fixed number of digits, and can't be compared
	// as such.
	fields["created_at"] = &field{
		kind: cel.TimestampType,
		get:  func(v *view) (ref.Val, error) { return v.createdAt, nil },
		set:  func(*view) bool { return true },
	}
	fields["updated_at"] = &field{
		kind: cel.TimestampType,
		get:  func(v *view) (ref.Val, error) { return types.Timestamp{Time: v.alert.UpdatedAt}, nil },
		set:  func(v *view) bool { return !v.alert.Undated },
	}
	// What the API adds after this version was made is here. The members that have a
	// name of their own are too: one that gets a name later must not vanish here.
	fields["raw"] = &field{
		kind: cel.MapType(cel.StringType, cel.DynType),
		get:  (*view).decodeAll,
		set:  func(*view) bool { return true },
	}
	return fields
})

// provider adds the type of an alert to those that CEL has.
type provider struct {
	types.Provider
	fields map[string]*field
}

func (p provider) FindStructType(name string) (*types.Type, bool) {
	if name == alertType.TypeName() {
		return types.NewTypeTypeWithParam(alertType), true
	}
	return p.Provider.FindStructType(name)
}

func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	if name == alertType.TypeName() {
		return slices.Sorted(maps.Keys(p.fields)), true
	}
	return p.Provider.FindStructFieldNames(name)
}

func (p provider) FindStructFieldType(structType, name string) (*types.FieldType, bool) {
	if structType != alertType.TypeName() {
		return p.Provider.FindStructFieldType(structType, name)
	}
	f, ok := p.fields[name]
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type: f.kind,
		IsSet: func(target any) bool {
			v, ok := target.(*view)
			return ok && v.has(f)
		},
		GetFrom: func(target any) (any, error) {
			v, ok := target.(*view)
			if !ok {
				return nil, errors.New("no such overload")
			}
			value, err := v.value(name, f)
			if err != nil {
				return nil, err
			}
			return value, nil
		},
	}, true
}

// view is one version of an alert as the expressions of one evaluation see it, with
// the other variables. Members are decoded when they are first read.
type view struct {
	alert                 dtm.Alert
	event, previousStatus types.String
	feed                  types.String
	now, createdAt        ref.Val

	fields  map[string]*field
	members []member
	raw     ref.Val
	// frame is what all evaluations share that don't count their cost; nil when the alert
	// is not small. (One that counts would go on counting from the one before.)
	frame *interpreter.ExecutionFrame
}

type member struct {
	json  []byte
	value ref.Val
	err   error
}

func newView(a dtm.Alert, event, previousStatus, feed string, now time.Time) *view {
	v := &view{
		alert: a, event: types.String(event), previousStatus: types.String(previousStatus),
		feed: types.String(feed), now: types.Timestamp{Time: now.UTC()},
		createdAt: types.Timestamp{Time: a.CreatedAt}, fields: schema(),
	}
	v.members = make([]member, len(v.fields))
	for name, value := range a.Members() {
		// Of several members of one name the last counts, as in dtm.ParseAlert.
		if f, ok := v.fields[string(name)]; ok && f.get == nil {
			v.members[f.at].json = value
		}
	}
	if len(a.Raw) <= smallBytes {
		v.frame, _ = interpreter.NewExecutionFrame(v) // takes every activation
	}
	return v
}

func (v *view) close() {
	if v.frame != nil {
		v.frame.Close()
	}
}

// ResolveName returns a variable.
func (v *view) ResolveName(name string) (any, bool) {
	switch name {
	case "alert":
		return v, true
	case "event":
		return v.event, true
	case "previous_status":
		return v.previousStatus, true
	case "now":
		return v.now, true
	case "feed":
		return v.feed, true
	default:
		return nil, false
	}
}

// Parent returns nil: there are no other variables.
func (v *view) Parent() interpreter.Activation { return nil }

// has reports whether the alert has a field. Null is how a Go server writes one that
// it has not.
func (v *view) has(f *field) bool {
	if f.set != nil {
		return f.set(v)
	}
	raw := v.members[f.at].json
	return raw != nil && string(raw) != "null"
}

func (v *view) value(name string, f *field) (ref.Val, error) {
	if f.get != nil {
		return f.get(v)
	}
	m := &v.members[f.at]
	if m.value == nil && m.err == nil {
		m.value, m.err = v.decode(name, f, m.json)
	}
	return m.value, m.err
}

func (v *view) decode(name string, f *field, raw []byte) (ref.Val, error) {
	if !v.has(f) {
		if f.zero == nil {
			return nil, fmt.Errorf("%s: %s", missing, name)
		}
		return f.zero, nil
	}
	var decoded any
	if err := json.Unmarshal(raw, &decoded); err != nil {
		return nil, fmt.Errorf("%s: %s", wrongType, name) // a number too large for a double
	}
	value := types.DefaultTypeAdapter.NativeToValue(decoded)
	if !f.holds(decoded) {
		return nil, fmt.Errorf("%s: %s", wrongType, name)
	}
	return value, nil
}

// holds reports whether a value from JSON has the field's type.
func (f *field) holds(decoded any) bool {
	switch f.kind.Kind() {
	case types.StringKind:
		_, ok := decoded.(string)
		return ok
	case types.DoubleKind:
		_, ok := decoded.(float64)
		return ok
	case types.BoolKind:
		_, ok := decoded.(bool)
		return ok
	case types.MapKind:
		_, ok := decoded.(map[string]any)
		return ok
	case types.ListKind:
		items, ok := decoded.([]any)
		return ok && (f.kind.Parameters()[0] == cel.DynType || !slices.ContainsFunc(items, func(item any) bool {
			_, text := item.(string)
			return !text
		}))
	default:
		return true
	}
}

// decodeAll decodes the alert with all its members.
func (v *view) decodeAll() (ref.Val, error) {
	if v.raw == nil {
		var all map[string]any
		if err := json.Unmarshal(v.alert.Raw, &all); err != nil {
			return nil, fmt.Errorf("%s: raw", wrongType)
		}
		v.raw = types.NewStringInterfaceMap(types.DefaultTypeAdapter, all)
	}
	return v.raw, nil
}
