package main

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"dtmrelay.internal/dtmrelay/internal/emulatortest"
	"dtmrelay.internal/dtmrelay/internal/message"
)

const (
	deadTopic   = "projects/p/topics/dead"
	deadSub     = "projects/p/subscriptions/dead"
	statusTopic = "projects/p/topics/status"
	statusSub   = "projects/p/subscriptions/status"
)

// pubsubWorld is a Pub/Sub with a topic of dead letters, their subscription, and a topic
// to which they go back.
func pubsubWorld(t *testing.T) *pubsubServer {
	t.Helper()
	t.Parallel() // most of the time is waiting
	server := pstest.NewServer()
	t.Cleanup(func() { _ = server.Close() })
	fillPubSub(t, server.Addr)
	return &pubsubServer{server}
}

type pubsubServer struct{ *pstest.Server }

// redriveUntil runs the command until it says something: it ends when nothing has come for a
// while, and a slow machine may need longer than that.
func redriveUntil(t *testing.T, address, says string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	args = append([]string{"redrive", "--subscription", deadSub}, args...)
	for _, wait := range []string{"6s", "1m", "10m"} {
		code, stdout, stderr = programWith(t, "PUBSUB_EMULATOR_HOST="+address, append(args, "--wait", wait)...)
		if strings.Contains(stdout+stderr, says) {
			break
		}
	}
	return code, stdout, stderr
}

// program runs this program against the server, see [program].
func (s *pubsubServer) program(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return programWith(t, "PUBSUB_EMULATOR_HOST="+s.Addr, args...)
}

func fillPubSub(t *testing.T, address string) *pubsub.Client {
	t.Helper()
	client, err := pubsub.NewClient(t.Context(), "p", option.WithEndpoint(address), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	for _, name := range []string{deadTopic, statusTopic} {
		if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	for name, topic := range map[string]string{deadSub: deadTopic, statusSub: statusTopic} {
		if _, err := client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: name, Topic: topic}); err != nil {
			t.Fatal(err)
		}
	}
	return client
}

// The emulator answers a pull as Pub/Sub does: after a while, with none.
func TestRedriveWithEmulator(t *testing.T) {
	t.Parallel()
	address := emulatortest.PubSub(t)
	client := fillPubSub(t, address)
	_, err := client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: deadTopic, Messages: []*pubsubpb.PubsubMessage{
		{Data: []byte("dead"), Attributes: map[string]string{deadLetterSource: "status", deadLetterProject: "p", "by": "soar"}},
		{Data: []byte("digest"), Attributes: map[string]string{"reason": "too_large"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, more := range [][]string{{"--dry-run"}, nil} {
		code, out, failed := redriveUntil(t, address, `"left":1,`, append([]string{"--topic", statusTopic}, more...)...)
		if code != exitPartial || !strings.HasPrefix(out, `{"redriven":1,"left":1,"newer":0,`) {
			t.Fatalf("%q: %d, %s%s", more, code, out, failed)
		}
	}
	for sub, want := range map[string]*pubsubpb.PubsubMessage{
		statusSub: {Data: []byte("dead"), Attributes: map[string]string{"by": "soar"}},
		deadSub:   {Data: []byte("digest"), Attributes: map[string]string{"reason": "too_large"}},
	} {
		answer, err := client.SubscriptionAdminClient.Pull(t.Context(), &pubsubpb.PullRequest{Subscription: sub, MaxMessages: 10})
		if err != nil || len(answer.GetReceivedMessages()) != 1 {
			t.Fatalf("%s has %v, error %v; want one message", sub, answer, err)
		}
		got := answer.GetReceivedMessages()[0].GetMessage()
		if !bytes.Equal(got.GetData(), want.GetData()) || !maps.Equal(got.GetAttributes(), want.GetAttributes()) {
			t.Errorf("%s has %v; want %v", sub, got, want)
		}
	}
}

// program runs this program and returns its exit code.
func program(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return programWith(t, "", args...)
}

// programWith is program with a variable, as NAME=VALUE.
func programWith(t *testing.T, variable string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	path, err := exec.LookPath("dtmrelay")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env, cmd.Dir = append(os.Environ(), variable), t.TempDir()
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), failed.String()
}

// published are the messages of the topic to which dead letters go back, by their data.
func published(server *pubsubServer) map[string]map[string]string {
	found := map[string]map[string]string{}
	for _, m := range server.Messages() {
		if m.Topic == statusTopic {
			found[string(m.Data)] = m.Attributes
		}
	}
	return found
}

// unacknowledged are the messages of the dead letters that stay, by their data.
func unacknowledged(server *pubsubServer) (left []string) {
	for _, m := range server.Messages() {
		if m.Topic == deadTopic && m.Acks == 0 {
			left = append(left, string(m.Data))
		}
	}
	return left
}

func TestRedrive(t *testing.T) {
	server := pubsubWorld(t)
	server.Publish(deadTopic, []byte("dead"), map[string]string{
		deadLetterSource: "status", "CloudPubSubDeadLetterSourceDeliveryCount": "100", "by": "soar", "feed": "default", "message_id": "of the soar",
	})
	rejected := message.RejectWriteback([]byte("rejected"), "no such alert", "default", "m1", "a1")
	server.Publish(deadTopic, rejected.Data, rejected.Attributes)
	server.Publish(deadTopic, []byte("head"), map[string]string{"reason": "writeback: too long", "truncated": "true"})
	server.Publish(deadTopic, []byte("digest"), map[string]string{"reason": "too_large", "alert_id": "a"})

	code, out, failed := redriveUntil(t, server.Addr, `"left":2,`, "--topic", statusTopic, "--dry-run")
	want := `{"redriven":2,"left":2,"newer":0,"dry_run":true,"by_reason":{"dead letter of status":1,"too_large":1,"writeback: no such alert":1,"writeback: too long":1}}`
	if code != exitPartial || strings.TrimSpace(out) != want || len(published(server)) > 0 || len(unacknowledged(server)) != 4 {
		t.Fatalf("a dry run: %d, %s%s; %v is published", code, out, failed, published(server))
	}

	if code, out, failed := redriveUntil(t, server.Addr, "reason,", "--topic", statusTopic, "--limit", "1", "--format", "csv"); !strings.Contains(out, "reason,messages,redriven,left,newer\r\n") {
		t.Fatalf("with a limit: %d, %s%s", code, out, failed)
	}
	if n := len(published(server)); n > 1 {
		t.Fatalf("%d are published, with a limit of 1", n)
	}

	code, out, failed = redriveUntil(t, server.Addr, " 2 left,", "--topic", statusTopic, "--format", "table")
	if code != exitPartial || !strings.Contains(out, "redriven, 2 left, 0 newer\n") || !strings.Contains(failed, "some messages are left") {
		t.Errorf("%d, %s%s", code, out, failed)
	}
	wantPublished := map[string]map[string]string{"dead": {"by": "soar", "feed": "default", "message_id": "of the soar"}, "rejected": nil}
	if diff := cmp.Diff(wantPublished, published(server)); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"head", "digest"}, unacknowledged(server)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// What is rejected at once again comes after the start, and stays.
func TestRedriveLeavesWhatIsNewer(t *testing.T) {
	server := pubsubWorld(t)
	server.SetTimeNowFunc(func() time.Time { return time.Now().Add(time.Hour) })
	server.Publish(deadTopic, []byte("newer"), nil)
	code, out, failed := redriveUntil(t, server.Addr, `"newer":1`, "--topic", statusTopic)
	if code != 0 || !strings.Contains(out, `"redriven":0,"left":0,"newer":1`) || len(published(server)) > 0 || len(unacknowledged(server)) != 1 {
		t.Errorf("%d, %s%s", code, out, failed)
	}
}

// Nothing is acknowledged that is not published.
func TestRedriveToMissingTopic(t *testing.T) {
	server := pubsubWorld(t)
	server.Publish(deadTopic, []byte("dead"), nil)
	code, _, failed := redriveUntil(t, server.Addr, "no such topic", "--topic", "projects/p/topics/none")
	if code != exitFailed || !strings.Contains(failed, "there is no such topic") || len(unacknowledged(server)) != 1 {
		t.Errorf("%d, %s; %v is left", code, failed, unacknowledged(server))
	}
}

// One topic of dead letters may have those of several topics.
func TestRedriveToItsTopic(t *testing.T) {
	server := pubsubWorld(t)
	for data, source := range map[string]string{"of status": "status", "of another": "dead", "of what is gone": "gone"} {
		server.Publish(deadTopic, []byte(data), map[string]string{deadLetterSource: source, deadLetterProject: "p"})
	}
	code, out, failed := redriveUntil(t, server.Addr, `"left":1,`, "--topic", statusTopic)
	if code != exitPartial || !strings.Contains(out, `"redriven":2,"left":1,`) {
		t.Errorf("%d, %s%s", code, out, failed)
	}
	if diff := cmp.Diff([]string{"of another"}, unacknowledged(server)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestRedriveRefuses(t *testing.T) {
	server := pubsubWorld(t)
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"in a circle":     {[]string{"--subscription", deadSub, "--topic", deadTopic}, exitFailed, "is a subscription of " + deadTopic + " itself"},
		"no subscription": {[]string{"--subscription", "projects/p/subscriptions/none", "--topic", statusTopic}, exitFailed, "there is no subscription projects/p/subscriptions/none"},
		"short names":     {[]string{"--subscription", "s", "--topic", "t"}, exitUsage, `--topic is "t": it must be projects/PROJECT/topics/NAME`},
		"no flags":        {nil, exitUsage, "missing flags: --subscription"},
		"limit":           {[]string{"--subscription", deadSub, "--topic", statusTopic, "--limit", "0"}, exitUsage, "--limit is 0: it must be 1 or more"},
		"wait":            {[]string{"--subscription", deadSub, "--topic", statusTopic, "--wait", "1ms"}, exitUsage, "--wait is 1ms: it must be 1s to 10m"},
	}
	for name, test := range tests {
		code, out, failed := server.program(t, append([]string{"redrive"}, test.args...)...)
		if code != test.code || !strings.Contains(failed, test.want) {
			t.Errorf("%s: %d, %s%s; want %d with %q", name, code, out, failed, test.code, test.want)
		}
	}
}

func TestAlertSetByTopic(t *testing.T) {
	server := pubsubWorld(t)
	code, out, failed := server.program(t, "alert", "set", "a1", "--status", "closed", "--add-tag", "a<b", "--topic", statusTopic)
	if code != 0 || strings.TrimSpace(out) != `{"outcome":"published","alert_id":"a1","topic":"`+statusTopic+`"}` {
		t.Fatalf("%d, %s%s", code, out, failed)
	}
	for data := range published(server) {
		if !strings.HasPrefix(data, `{"alert_id":"a1","status":"closed","add_tags":["a<b"],"requested_by":"dtmrelay alert set`) {
			t.Errorf("published is %s", data)
		}
	}
	if len(published(server)) != 1 {
		t.Errorf("%d messages are published", len(published(server)))
	}
	code, _, failed = server.program(t, "alert", "set", "a1", "--status", "closed", "--topic", "projects/p/topics/none")
	if code != exitFailed || !strings.Contains(failed, "there is no such topic") {
		t.Errorf("%d, %s", code, failed)
	}
}

func TestRedrivenAsCSV(t *testing.T) {
	for _, c := range []struct {
		result redriven
		want   string
	}{
		{redriven{Redriven: 3, Left: 1, Newer: 2, ByReason: map[string]int{"a": 3, "b": 1}}, "a,3,3,1,2\r\nb,1,3,1,2\r\n"},
		{redriven{Newer: 2}, ",0,0,0,2\r\n"},
	} {
		var out bytes.Buffer
		if err := c.result.print(&out, formatCSV); err != nil || out.String() != "reason,messages,redriven,left,newer\r\n"+c.want {
			t.Errorf("%v: %v, %q, want %q", c.result, err, &out, c.want)
		}
	}
}
