// Package emulatortest starts the Firestore and Pub/Sub emulators of the Google
// Cloud SDK for tests, and skips with a reason where there is none.
//
// An emulator that is already running is used instead when
// FIRESTORE_EMULATOR_HOST or PUBSUB_EMULATOR_HOST names it. With
// REQUIRE_EMULATORS=1 a missing emulator fails the test instead of skipping it.
package emulatortest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Firestore starts a Firestore emulator for one test and returns its host:port.
// Tests that share one keep apart by project ids of their own.
func Firestore(tb testing.TB) string {
	tb.Helper()
	return own(tb, firestore)
}

// PubSub starts a Pub/Sub emulator for one test and returns its host:port.
func PubSub(tb testing.TB) string {
	tb.Helper()
	return own(tb, pubsub)
}

// SharedFirestore returns the host:port of the one Firestore emulator of this
// test binary, which the first call starts and Main stops.
func SharedFirestore(tb testing.TB) string {
	tb.Helper()
	return sharedFirestore.address(tb)
}

// SharedPubSub returns the host:port of the one Pub/Sub emulator of this test
// binary, which the first call starts and Main stops.
func SharedPubSub(tb testing.TB) string {
	tb.Helper()
	return sharedPubSub.address(tb)
}

// Main runs the tests, stops the shared emulators that they started, and
// returns the exit code. It is called by TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(emulatortest.Main(m)) }
func Main(m *testing.M) int {
	defer sharedFirestore.stop()
	defer sharedPubSub.stop()
	return m.Run()
}

// An emulator is a jar of the SDK.
type emulator struct {
	name    string
	hostVar string
	jar     string // pattern below the SDK's folder
	ready   string // path of a first request, which loads most of the classes
	java    func(jar string) []string
}

var (
	firestore = emulator{
		name:    "Firestore emulator",
		hostVar: "FIRESTORE_EMULATOR_HOST",
		jar:     "platform/cloud-firestore-emulator/cloud-firestore-emulator*.jar",
		ready:   "/v1/projects/emulatortest/databases/(default)/documents/ready",
		// The serial collector and the first compiler stage alone start a third
		// faster and need less memory and processor time, here as below.
		java: func(jar string) []string {
			return []string{
				"-Xmx2g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.language=en",
				"-cp", jar, "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
			}
		},
	}
	pubsub = emulator{
		name:    "Pub/Sub emulator",
		hostVar: "PUBSUB_EMULATOR_HOST",
		jar:     "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*.jar",
		ready:   "/v1/projects/emulatortest/topics",
		// It keeps every message in memory: with -count=6 internal/e2e fills 1 GiB.
		java: func(jar string) []string {
			return []string{"-Xmx2g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.language=en", "-jar", jar}
		},
	}
)

// errMissing means that a part of the SDK is not on this machine.
var errMissing = errors.New("not available")

func own(tb testing.TB, e emulator) string {
	tb.Helper()
	if host := os.Getenv(e.hostVar); host != "" {
		return host
	}
	p, err := e.start()
	check(tb, err)
	tb.Cleanup(p.stop)
	return p.addr
}

// check skips the test when the emulator is not on this machine, and fails it
// when it is but doesn't start.
func check(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case errors.Is(err, errMissing) && os.Getenv("REQUIRE_EMULATORS") != "1":
		tb.Skip(err)
	default:
		tb.Fatal(err)
	}
}

// shared is an emulator that a whole test binary uses.
type shared struct {
	emulator emulator
	once     sync.Once
	process  *process
	err      error
}

var (
	sharedFirestore = shared{emulator: firestore}
	sharedPubSub    = shared{emulator: pubsub}
)

func (s *shared) address(tb testing.TB) string {
	tb.Helper()
	if host := os.Getenv(s.emulator.hostVar); host != "" {
		return host
	}
	s.once.Do(func() { s.process, s.err = s.emulator.start() })
	check(tb, s.err)
	return s.process.addr
}

func (s *shared) stop() {
	if s.process != nil {
		s.process.stop()
	}
}

// find returns the command that starts the emulator, without its address.
func (e emulator) find() ([]string, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", e.name, errMissing, err)
	}
	root, err := sdkRoot()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", e.name, errMissing, err)
	}
	jars, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(e.jar)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.name, err)
	}
	if len(jars) == 0 {
		return nil, fmt.Errorf("%s: %w: no %s in %s (gcloud components install)", e.name, errMissing, e.jar, root)
	}
	return append([]string{java}, e.java(newest(jars))...), nil
}

var sdkRoot = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("gcloud", "info", "--format=value(installation.sdk_root)").Output()
	if err != nil {
		return "", fmt.Errorf("asking gcloud for its folder: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// newest returns the path with the highest version number in it, so that 0.10
// wins against 0.9.
func newest(paths []string) string {
	return slices.MaxFunc(paths, func(a, b string) int {
		return slices.Compare(numbers(a), numbers(b))
	})
}

func numbers(s string) []int {
	var all []int
	for _, digits := range strings.FieldsFunc(filepath.Base(s), func(r rune) bool { return r < '0' || r > '9' }) {
		n := 0
		for _, d := range digits {
			n = n*10 + int(d-'0')
		}
		all = append(all, n)
	}
	return all
}
