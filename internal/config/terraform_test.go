package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sethvargo/go-envconfig"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// TestTerraformsEnvironment: the functions are given what they know, and what
// they can't do without.
func TestTerraformsEnvironment(t *testing.T) {
	text, err := os.ReadFile("../../terraform/environment.tf")
	if err != nil {
		t.Fatal(err)
	}
	var given []string
	for _, m := range regexp.MustCompile(`(?m)^\s+([A-Z][A-Z0-9_]*)\s+=`).FindAllSubmatch(text, -1) {
		given = append(given, string(m[1]))
	}
	var known []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[environment]()) {
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		known = append(known, name)
	}
	for _, name := range given {
		if !slices.Contains(known, name) {
			t.Errorf("%s is given, and nobody reads it", name)
		}
	}
	for _, name := range []string{"GTI_API_KEY", "K_SERVICE"} {
		if slices.Contains(given, name) {
			t.Errorf("%s is given: the key stays in its secret, and the platform names the service", name)
		}
	}
	_, _, err = Load(t.Context(), envconfig.MapLookuper(map[string]string{"K_SERVICE": "ingest"}))
	if err == nil {
		t.Fatal("an empty environment is accepted")
	}
	for line := range strings.Lines(err.Error()) {
		if name, _, _ := strings.Cut(line, ":"); !slices.Contains(given, name) {
			t.Errorf("%s is required, and not given", name)
		}
	}
	// What can be set at all can be set by Terraform.
	optional := []string{"GTI_API_KEY", "K_SERVICE"}
	for _, name := range known {
		if !slices.Contains(given, name) && !slices.Contains(optional, name) {
			t.Errorf("%s can't be set", name)
		}
	}
}

// TestTerraformsFilter: what the plan lets stand in DTM_FILTER is what the functions
// take, neither less nor more.
func TestTerraformsFilter(t *testing.T) {
	text, err := os.ReadFile("../../terraform/variables.tf")
	if err != nil {
		t.Fatal(err)
	}
	for list, unknown := range map[string]string{
		"keys(jsondecode(var.gti.filter))":    `{"x":1}`,
		"jsondecode(var.gti.filter).severity": `{"severity":["x"]}`,
		"jsondecode(var.gti.filter).status":   `{"status":["x"]}`,
	} {
		found := regexp.MustCompile(`setsubtract\(` + regexp.QuoteMeta(list) + `, \[([^\]]*)\]`).FindSubmatch(text)
		if found == nil {
			t.Errorf("no list of what %s may hold", list)
			continue
		}
		var allowed []string
		for _, m := range regexp.MustCompile(`"([a-z_]+)"`).FindAllSubmatch(found[1], -1) {
			allowed = append(allowed, string(m[1]))
		}
		_, _, err := dtm.ParseFilter(unknown)
		if want := "(allowed: " + strings.Join(allowed, ", ") + ")"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Terraform's list is %s, and the functions say %v", list, want, err)
		}
	}
}

// BenchmarkRequiredInputs counts what somebody has to give to Terraform: variables without
// a default. The least is the project.
func BenchmarkRequiredInputs(b *testing.B) {
	text, err := os.ReadFile("../../terraform/variables.tf")
	if err != nil {
		b.Fatal(err)
	}
	variables := regexp.MustCompile(`(?ms)^variable "(\w+)" \{\n(.*?)^\}`).FindAllSubmatch(text, -1)
	required := 0
	for b.Loop() {
		required = 0
		for _, v := range variables {
			if !regexp.MustCompile(`(?m)^  default\s+=`).Match(v[2]) {
				required++
			}
		}
	}
	b.ReportMetric(float64(required), "inputs")
	b.ReportMetric(float64(len(variables)-required), "defaults")
}
