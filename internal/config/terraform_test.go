package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sethvargo/go-envconfig"
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
