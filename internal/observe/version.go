package observe

import (
	"runtime/debug"
	"slices"
)

// Version is this program's, as run reports, /status, the user agent and
// dtmrelay --version say it. Terraform reads this line for its labels.
const Version = "1.0.0"

// Build is the version, and the revision of the repository that the program was built
// from. Go knows none where the repository isn't: what is deployed is built from a zip.
func Build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Version
	}
	return build(info.Settings)
}

func build(settings []debug.BuildSetting) string {
	value := func(key string) string {
		i := slices.IndexFunc(settings, func(s debug.BuildSetting) bool { return s.Key == key })
		if i < 0 {
			return ""
		}
		return settings[i].Value
	}
	revision := value("vcs.revision")
	switch {
	case revision == "":
		return Version
	case value("vcs.modified") == "true":
		return Version + " (" + revision + ", changed)"
	}
	return Version + " (" + revision + ")"
}
