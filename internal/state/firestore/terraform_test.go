package firestore

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// TestTerraformsExemptions: no field of a ledger record but expire_at, which is
// its TTL, has an index that each write would pay for.
func TestTerraformsExemptions(t *testing.T) {
	text, err := os.ReadFile("../../../terraform/database.tf")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?s)ledger_fields = \[(.*?)\]`).FindSubmatch(text)
	if list == nil {
		t.Fatal("database.tf has no ledger_fields")
	}
	exempt := []string{"expire_at"}
	for _, m := range regexp.MustCompile(`"([a-z_]+)"`).FindAllSubmatch(list[1], -1) {
		exempt = append(exempt, string(m[1]))
	}
	slices.Sort(exempt)
	at := time.Unix(1_700_000_000, 0)
	record := state.Record{
		ID: "a", Type: "Paste", Severity: "high", MonitorID: "m", Priority: "P1", Status: "new", CreatedAt: at, FirstSeen: at,
		PublishedVersion: at, HandledVersion: at, Backfill: "b", Intents: []state.Intent{{}}, IntentSeq: 1, Echoes: []state.Echo{{}}, WriteLease: &state.Lease{},
		Statuses: []state.StatusChange{{}}, Versions: []state.AlertVersion{{}}, ExpireAt: at,
	}
	for i, v := 0, reflect.ValueOf(record); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("give %s a value here", v.Type().Field(i).Name)
		}
	}
	doc, err := encodeRecord(record)
	if err != nil {
		t.Fatal(err)
	}
	fields := slices.Sorted(maps.Keys(parse(t, doc)))
	if diff := cmp.Diff(fields, exempt); diff != "" {
		t.Errorf("fields of a record (-) and fields without an index (+):\n%s", diff)
	}
}
