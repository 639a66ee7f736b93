package firestore

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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

// TestTerraformsRole: the functions' role allows deleting a document just if something
// here deletes one.
func TestTerraformsRole(t *testing.T) {
	text, err := os.ReadFile("../../../terraform/identities.tf")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(content)
		}
	}
	// What each call asks for: https://cloud.google.com/firestore/docs/security/iam
	needed := map[string]*regexp.Regexp{
		"get":    regexp.MustCompile(`BatchGetDocumentsRequest`),
		"list":   regexp.MustCompile(`RunQueryRequest`),
		"create": regexp.MustCompile(`Write_Update`),
		"update": regexp.MustCompile(`Write_Update`),
		"delete": regexp.MustCompile(`Write_Delete|DeleteDocument`),
	}
	for right, call := range needed {
		permission := "datastore.entities." + right
		if made, granted := call.MatchString(source.String()), strings.Contains(string(text), `"`+permission+`"`); made != granted {
			t.Errorf("%s: this package makes such calls: %t, the role allows them: %t", permission, made, granted)
		}
	}
}
