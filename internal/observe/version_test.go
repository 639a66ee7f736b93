package observe

import (
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

// TestVersion: one line has it, as Terraform looks for it, and the changelog's newest
// entry is about it.
func TestVersion(t *testing.T) {
	source, err := os.ReadFile("version.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`const Version = "([^"]*)"`).FindAllStringSubmatch(string(source), -1)
	if len(found) != 1 || found[0][1] != Version {
		t.Errorf("version.go has the versions %q, want %q once", found, Version)
	}
	if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(Version) {
		t.Errorf("%q is no version", Version)
	}
	changelog, err := os.ReadFile("../../docs/changelog.md")
	if err != nil {
		t.Fatal(err)
	}
	newest := regexp.MustCompile(`(?m)^## \[([^\]]*)\].*$`).FindStringSubmatch(string(changelog))
	if newest == nil || newest[1] != Version {
		t.Errorf("the newest entry of the changelog is %q, want %s", newest, Version)
	}
}

func TestBuild(t *testing.T) {
	if !strings.HasPrefix(Build(), Version) {
		t.Errorf("got %q", Build())
	}
	for want, settings := range map[string][]debug.BuildSetting{
		Version:                      {{Key: "GOOS", Value: "linux"}},
		Version + " (abc1)":          {{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "abc1"}, {Key: "vcs.modified", Value: "false"}},
		Version + " (abc1, changed)": {{Key: "vcs.revision", Value: "abc1"}, {Key: "vcs.modified", Value: "true"}},
	} {
		if got := build(settings); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
