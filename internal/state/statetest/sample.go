package statetest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// at is a time in whole milliseconds, i seconds from a fixed one.
func at(i int) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 67_000_000, time.UTC).Add(time.Duration(i) * time.Second)
}

// odd is like at, but with a zone and digits that a store cuts off.
func odd(i int) time.Time {
	return at(i).Add(891_234 * time.Nanosecond).In(time.FixedZone("", 2*60*60))
}

// sampleFeed has no empty field.
func sampleFeed() state.Feed {
	return state.Feed{
		BeginsAt:   odd(1),
		End:        odd(2),
		RereadFrom: odd(3),
		Newest:     odd(13),
		Slices: []state.Slice{
			{From: odd(4), To: odd(5), DoneUntil: odd(4)},
			{From: odd(6), To: odd(7), DoneUntil: odd(7)},
		},
		Gaps:        []state.Gap{{TimeRange: state.TimeRange{Since: odd(-9), Until: odd(-8)}, Suspected: true}},
		Refusal:     &state.Refusal{At: odd(10), Age: 120 * time.Hour},
		Filter:      `{"severity":["high"]}`,
		FilterSince: odd(11),
		FilterPast:  []state.TimeRange{{Since: odd(-7), Until: odd(-6)}},
		FirstRun:    odd(15),
		LastSweep:   odd(16),
		SweepSince:  odd(17),
		LastAudit:   odd(18),
		LateMax:     19*time.Second + 20_891_234*time.Nanosecond,

		AuditedUntil: odd(26), AuditedAgainUntil: odd(27), SweptOverlap: odd(28), Owed: state.TimeRange{Since: odd(29), Until: odd(30)},

		Monitors: state.Monitors{
			CheckedAt: odd(21), FailedAt: odd(22), Wait: 23*time.Second + 24_891_234*time.Nanosecond,
			Enabled:  []state.Monitor{{ID: "monitor-1", Name: "Example Corp: brand"}, {ID: "monitor-2", Name: "two"}},
			Disabled: []state.DisabledMonitor{{Monitor: state.Monitor{ID: "monitor-3", Name: "three"}, Code: "code", Reason: "too many alerts", Since: odd(25)}},
		},
		KeyID:      keyID,
		LastRun:    json.RawMessage(`{"run_id":"r1","published":3}`),
		Unfinished: []string{"b1", "b2"},
		Lease:      &state.Lease{Owner: "r2", ExpiresAt: odd(12)},
		Writer:     "r2",
		Generation: 13,
		Write:      14,
	}
}

// sampleRecord has no empty field.
func sampleRecord(id string) state.Record {
	return state.Record{
		ID:               id,
		Type:             "Compromised Credentials",
		Severity:         "high",
		MonitorID:        "monitor-1",
		Priority:         "P1",
		Status:           "new",
		CreatedAt:        odd(1),
		FirstSeen:        odd(2),
		PublishedVersion: odd(3),
		HandledVersion:   odd(4),
		Backfill:         "back-1",
		Intents: []state.Intent{
			{Field: state.IntentStatus, Values: []string{"closed"}, At: odd(6), By: "analyst@example.com", Expect: "new", Once: true, Seq: 7, Open: true},
			{Field: state.IntentTags, Values: []string{"b", "a", "b"}, At: odd(8), By: "soar", Expect: "read", Once: true, Seq: 9, Open: true},
		},
		HasSecrets:   true,
		Fingerprint:  "0123456789abcdef",
		IntentSeq:    10,
		Echoes:       []state.Echo{{Version: odd(11), At: odd(12), Seq: 31, Status: "closed", Tags: []string{"b", "a", "b"}}},
		WriteLease:   &state.Lease{Owner: "instance-1", ExpiresAt: odd(13)},
		RuleRequests: []state.RuleRequest{{Rule: "noise", Expect: "new", Sent: true}},
		Statuses:     []state.StatusChange{{Status: "new", At: odd(3), Origin: state.FromGTI}},
		Versions: []state.AlertVersion{{
			UpdatedAt: odd(3), At: odd(5), RunID: "r1", Event: "created", Outcome: state.Published, Reason: "none",
		}},
		ExpireAt: time.Now().Add(4320 * time.Hour).Truncate(time.Hour).Add(odd(0).Sub(at(0))),
	}
}

// sampleBackfill has no field empty that is stored, though no backfill is unfinished and
// has all.
func sampleBackfill(id string) state.Backfill {
	return state.Backfill{
		ID:          id,
		Kind:        state.Audit,
		State:       state.Running,
		Since:       odd(1),
		Until:       odd(2),
		Filter:      `{"severity":["high"]}`,
		Republish:   true,
		Request:     strings.Repeat("0f", 32),
		RequestedAt: odd(3),
		RequestedBy: "analyst@example.com",
		Slices:      []state.Slice{{From: odd(4), To: odd(6), DoneUntil: odd(5)}, {From: odd(7), To: odd(9), DoneUntil: odd(8)}},
		Fetched:     10,
		Published:   11,
		Suppressed:  12,
		Dropped:     13,
		Rejected:    14,
		Requests:    15,
		Refused:     []state.Gap{{TimeRange: state.TimeRange{Since: odd(24), Until: odd(25)}, Suspected: true}},
		LateMax:     27*time.Second + 28_891_234*time.Nanosecond,
		WorkedFor:   26*time.Minute + 27_891_234*time.Nanosecond,
		Error:       "the API refused",
		FinishedAt:  odd(28),
		ExpireAt:    time.Now().Add(2160 * time.Hour).Truncate(time.Hour).Add(odd(0).Sub(at(0))),
	}
}

var timeType = reflect.TypeFor[time.Time]()

// walk calls visit with every value in v that is no struct, list or pointer
// itself, and with every empty list and nil pointer. It passes over what is empty and
// not stored.
func walk(path string, v reflect.Value, visit func(path string, v reflect.Value)) {
	switch {
	case v.Type() == timeType:
		visit(path, v)
	case v.Kind() == reflect.Pointer && !v.IsNil():
		walk(path, v.Elem(), visit)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("json") != "-" || !v.Field(i).IsZero() {
				walk(path+"."+f.Name, v.Field(i), visit)
			}
		}
	case v.Kind() == reflect.Slice && v.Len() > 0:
		for i := range v.Len() {
			walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i), visit)
		}
	default:
		visit(path, v)
	}
}

// zeroFields names what is empty in a value.
func zeroFields(value any) []string {
	var empty []string
	walk("", reflect.ValueOf(value), func(path string, v reflect.Value) {
		if v.IsZero() {
			empty = append(empty, path)
		}
	})
	return empty
}

// badTimes names the times that are not as the contract says.
func badTimes(value any) []string {
	var bad []string
	walk("", reflect.ValueOf(value), func(path string, v reflect.Value) {
		if t, ok := v.Interface().(time.Time); ok && (t.Location() != time.UTC || t.Nanosecond()%1_000_000 != 0) {
			bad = append(bad, path)
		}
	})
	return bad
}

// normalize makes the times and durations in *value as the contract says.
func normalize(value any) {
	walk("", reflect.ValueOf(value), func(_ string, v reflect.Value) {
		switch t := v.Interface().(type) {
		case time.Time:
			v.Set(reflect.ValueOf(t.Truncate(time.Millisecond).UTC()))
		case time.Duration:
			v.Set(reflect.ValueOf(t.Truncate(time.Millisecond)))
		}
	})
}
