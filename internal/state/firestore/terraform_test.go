package firestore

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTerraformsExemptions: no field of a ledger record's document has an index that
// each write would pay for. That of expire_at is taken off with its TTL policy.
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
	fields := []string{"schema"}
	for _, f := range recordCodec.fields {
		fields = append(fields, f.name)
	}
	slices.Sort(exempt)
	slices.Sort(fields)
	if diff := cmp.Diff(fields, exempt); diff != "" {
		t.Errorf("fields of a record's document (-) and fields without an index (+):\n%s", diff)
	}
}
