package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dtmrelay.internal/dtmrelay/internal/config"
	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/emulatortest"
	"dtmrelay.internal/dtmrelay/internal/publish"
	"dtmrelay.internal/dtmrelay/internal/secret"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// states are the findings without their words.
func states(findings []finding) [][2]string {
	out := [][2]string{}
	for _, f := range findings {
		out = append(out, [2]string{f.Check, f.State})
	}
	return out
}

// TestDoctorInTheCloud looks at a deployed configuration, against the emulators. They have
// no permissions, which is not red.
func TestDoctorInTheCloud(t *testing.T) {
	t.Setenv("FIRESTORE_EMULATOR_HOST", emulatortest.Firestore(t))
	t.Setenv("PUBSUB_EMULATOR_HOST", emulatortest.PubSub(t))
	now := time.Now()
	api := httptest.NewServer(dtmsim.New(dtmsim.Options{}, dtmsim.Generate(1, 20, now.Add(-time.Hour), now, dtmsim.Typical())))
	t.Cleanup(api.Close)
	for name, value := range map[string]string{
		"GOOGLE_CLOUD_PROJECT": "doctor", "PUBSUB_TOPIC": "dtm-alerts", "REJECTS_TOPIC": "dtm-rejects",
		"GTI_API_KEY": "any-key", "GTI_API_KEY_SECRET": "", "GTI_BASE_URL": api.URL + "/api/v3",
	} {
		t.Setenv(name, value)
	}
	client, err := publish.NewClient(t.Context(), "doctor")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/doctor/topics/dtm-alerts"}); err != nil {
		t.Fatal(err)
	}

	d := &doctor{now: time.Now}
	new(doctorCmd).examine(t.Context(), d)
	want := [][2]string{
		{"configuration", isGreen},
		{"key", isGreen},
		{"entitlement", isGreen},
		{"clock", isGreen},
		{"monitors", isGreen},
		{"filter", isGreen},
		{"topics", isGreen},
		{"permissions", isGreen},
		{"topics", isRed}, // nobody made the one of rejects
		{"firestore", isGreen},
		{"quota", isGreen},
		{"quota", isGreen},
	}
	if diff := cmp.Diff(want, states(d.findings)); diff != "" {
		t.Errorf("findings (-want +got):\n%s\n%+v", diff, d.findings)
	}
}

// TestDoctorWithoutQuota: the first request is the last one of the day, whatever the time
// is at which the test runs.
func TestDoctorWithoutQuota(t *testing.T) {
	sim := dtmsim.New(dtmsim.Options{}, nil)
	requests := 0
	sim.AddFault(dtmsim.Fault{Status: http.StatusTooManyRequests, Body: dtmsim.QuotaExceeded, When: func(*http.Request) bool {
		requests++
		return requests > 1
	}})
	api := httptest.NewServer(sim)
	t.Cleanup(api.Close)
	t.Setenv("GTI_API_KEY", "any-key")
	t.Setenv("GTI_BASE_URL", api.URL+"/api/v3")
	for _, want := range [][][2]string{
		{{"configuration", isGreen}, {"key", isGreen}, {"entitlement", isGreen}, {"clock", isGreen}, {"monitors", isYellow}, {"filter", isYellow}, {"data", isYellow}},
		{{"configuration", isGreen}, {"key", isGreen}, {"quota", isRed}, {"data", isYellow}},
	} {
		d := &doctor{now: time.Now}
		c := doctorCmd{Data: filepath.Join(t.TempDir(), "there-is-none")}
		c.examine(t.Context(), d)
		if diff := cmp.Diff(want, states(d.findings)); diff != "" {
			t.Errorf("findings (-want +got):\n%s\n%+v", diff, d.findings)
		}
		for _, f := range d.findings {
			if f.Check == "quota" && !strings.HasPrefix(f.Found, "the API key's quota is used up") || f.Check == "monitors" && !strings.HasPrefix(f.Found, "they can't be looked at") {
				t.Errorf("%+v", f)
			}
		}
	}
}

// TestDoctorOnTheClock: GTI says 10:00:00 and means any moment of that second, in which
// it was between the question and the answer.
func TestDoctorOnTheClock(t *testing.T) {
	gti := time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		asked, received time.Duration // from gti, by this machine's clock
		state, found    string
	}{
		"at once":            {999 * time.Millisecond, 999 * time.Millisecond, isGreen, "agrees with GTI's"},
		"a slow answer":      {-5 * time.Minute, 5 * time.Minute, isGreen, "agrees with GTI's"},
		"asked later":        {6 * time.Second, 7 * time.Second, isGreen, "6s fast"},
		"answered before":    {-8 * time.Second, -7 * time.Second, isGreen, "8s slow"},
		"half a minute off":  {30500 * time.Millisecond, 30500 * time.Millisecond, isYellow, "30s fast"},
		"half a minute late": {-29500 * time.Millisecond, -29500 * time.Millisecond, isYellow, "30s slow"},
		"nearly":             {299 * time.Second, 300 * time.Second, isYellow, "4m59s fast"},
		"five minutes off":   {301 * time.Second, 301 * time.Second, isRed, "5m1s fast"},
		"minutes late":       {-300 * time.Second, -300 * time.Second, isRed, "5m1s slow"},
	} {
		t.Run(name, func(t *testing.T) {
			d := new(doctor)
			d.examineClock(dtm.Page{Date: gti, AskedAt: gti.Add(test.asked), ReceivedAt: gti.Add(test.received)})
			if len(d.findings) != 1 || d.findings[0].State != test.state || d.findings[0].Found != test.found {
				t.Errorf("findings %+v, want one that is %s: %s", d.findings, test.state, test.found)
			}
		})
	}
}

// fakeTopic answers for one topic.
type fakeTopic struct {
	get, test error
	granted   []string
}

func (f fakeTopic) GetTopic(context.Context, *pubsubpb.GetTopicRequest, ...gax.CallOption) (*pubsubpb.Topic, error) {
	return &pubsubpb.Topic{}, f.get
}

func (f fakeTopic) TestIamPermissions(context.Context, *iampb.TestIamPermissionsRequest, ...gax.CallOption) (*iampb.TestIamPermissionsResponse, error) {
	return &iampb.TestIamPermissionsResponse{Permissions: f.granted}, f.test
}

func TestDoctorOnPermissions(t *testing.T) {
	t.Setenv("PUBSUB_EMULATOR_HOST", "")
	may := []string{publishPermission}
	denied, gone := status.Error(codes.PermissionDenied, "no"), status.Error(codes.NotFound, "no")
	for name, test := range map[string]struct {
		topic fakeTopic
		want  [][2]string
	}{
		"all":               {fakeTopic{granted: may}, [][2]string{{"topics", isGreen}, {"permissions", isGreen}}},
		"publisher alone":   {fakeTopic{get: denied, granted: may}, [][2]string{{"topics", isGreen}, {"permissions", isGreen}}},
		"viewer alone":      {fakeTopic{}, [][2]string{{"topics", isGreen}, {"permissions", isRed}}},
		"nothing":           {fakeTopic{get: denied}, [][2]string{{"topics", isOpen}, {"permissions", isRed}}},
		"no topic":          {fakeTopic{get: gone, test: gone}, [][2]string{{"topics", isRed}}},
		"no answer":         {fakeTopic{get: context.DeadlineExceeded}, [][2]string{{"topics", isRed}}},
		"no answer on them": {fakeTopic{test: status.Error(codes.Unimplemented, "no")}, [][2]string{{"topics", isGreen}, {"permissions", isRed}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &doctor{now: time.Now}
			d.examineTopics(t.Context(), test.topic, config.Config{Topic: "projects/p/topics/alerts"})
			if diff := cmp.Diff(test.want, states(d.findings)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			for _, f := range d.findings {
				if f.State == isRed && f.Do == "" {
					t.Errorf("%s is red, and nothing says what to do: %s", f.Check, f.Found)
				}
			}
		})
	}
}

// fakeKeys is a secret that can't be read, or holds a key.
type fakeKeys struct{ err error }

func (f fakeKeys) Key(context.Context) (string, error)           { return "the-key", f.err }
func (f fakeKeys) Renew(context.Context, string) (string, error) { return "the-key", f.err }

func TestDoctorOnTheSecret(t *testing.T) {
	cfg := config.Config{KeySecret: "projects/p/secrets/s/versions/latest"}
	for name, test := range map[string]struct {
		err  error
		want [][2]string
	}{
		"a key":       {nil, [][2]string{{"secret", isGreen}}},
		"none":        {secret.ErrMissing, [][2]string{{"secret", isRed}, {"key", isOpen}}},
		"not allowed": {status.Error(codes.PermissionDenied, "no"), [][2]string{{"secret", isRed}, {"key", isOpen}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &doctor{now: time.Now}
			key, ok := d.examineSecret(t.Context(), cfg, fakeKeys{test.err})
			if diff := cmp.Diff(test.want, states(d.findings)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			if ok != (test.err == nil) || ok && key != "the-key" {
				t.Errorf("got the key %q, %t", key, ok)
			}
		})
	}
}

// fakeState is a database that answers this.
type fakeState struct {
	snapshot state.Snapshot
	err      error
}

func (f fakeState) Open(context.Context, string, string) (state.Snapshot, error) {
	return f.snapshot, f.err
}

func TestDoctorOnTheDatabase(t *testing.T) {
	now := time.Now()
	used := func(requests, failures int64) fakeState {
		return fakeState{snapshot: state.Snapshot{Usage: state.Usage{
			Requests: map[int64]int64{now.Truncate(state.RequestBucket).Unix(): requests},
			Errors:   map[int64]int64{now.Truncate(state.ErrorBucket).Unix(): failures},
		}}}
	}
	cfg := config.Config{Feed: "default", RequestsPerDay: 1000, ErrorsPerHour: 100}
	for name, test := range map[string]struct {
		store fakeState
		want  [][2]string
	}{
		"nothing used":      {used(0, 0), [][2]string{{"firestore", isGreen}, {"quota", isGreen}, {"quota", isGreen}}},
		"less than 80 %":    {used(799, 39), [][2]string{{"firestore", isGreen}, {"quota", isGreen}, {"quota", isGreen}}},
		"80 %":              {used(800, 40), [][2]string{{"firestore", isGreen}, {"quota", isYellow}, {"quota", isYellow}}},
		"all":               {used(1000, 50), [][2]string{{"firestore", isGreen}, {"quota", isRed}, {"quota", isRed}}},
		"not to be reached": {fakeState{err: errors.New("no")}, [][2]string{{"firestore", isRed}, {"quota", isOpen}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &doctor{now: time.Now, keyID: "k"}
			d.examineState(t.Context(), "firestore", test.store, cfg, "(default)")
			if diff := cmp.Diff(test.want, states(d.findings)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}
