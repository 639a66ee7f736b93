// Package transforms tests the JavaScript that Pub/Sub runs in the subscriptions of
// terraform/: notifications, rows of BigQuery and lines of the archive. It is here,
// and not beside the scripts, because terraform/ is not uploaded, and the cloud's
// "go mod tidy" must find the same imports.
package transforms

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dop251/goja"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/message"
)

const (
	terraform  = "../../terraform/"
	routingKey = "0123456789abcdef0123456789ABCDEF"

	// Google's bound for the code of a function:
	// https://cloud.google.com/pubsub/docs/smts/udfs-overview
	maxCode = 20_000
)

// receivers are the scripts of notify.
var receivers = []string{"slack", "google_chat", "pagerduty", "webhook"}

// function is a script's transform.
type function struct {
	t    testing.TB
	vm   *goja.Runtime
	call goja.Callable
}

// result is what a function makes of a message.
type result struct {
	data       string
	attributes map[string]any
}

func load(t testing.TB, files ...string) function {
	t.Helper()
	var code strings.Builder
	if files[len(files)-1] == "notify/pagerduty.js" { // as notify.tf does
		fmt.Fprintf(&code, "const ROUTING_KEY = %q;\n", routingKey)
	}
	for _, file := range files {
		text, err := os.ReadFile(terraform + file)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
		code.WriteByte('\n')
	}
	if code.Len() > maxCode {
		t.Errorf("%v: %d bytes of code, and Pub/Sub takes %d", files, code.Len(), maxCode)
	}
	return run(t, code.String())
}

func run(t testing.TB, code string) function {
	t.Helper()
	f := function{t: t, vm: goja.New()}
	if _, err := f.vm.RunString(code); err != nil {
		t.Fatal(err)
	}
	var ok bool
	if f.call, ok = goja.AssertFunction(f.vm.Get("transform")); !ok {
		t.Fatal("no function transform")
	}
	return f
}

func loadNotify(t testing.TB, to string) function {
	t.Helper()
	return load(t, "notify/common.js", "notify/"+to+".js")
}

var metadata = map[string]any{"message_id": "12345", "publish_time": "2026-11-29T12:00:00Z"}

// apply gives the function a message, as Pub/Sub would.
func (f function) apply(m message.Message) result {
	f.t.Helper()
	in := map[string]any{"data": string(m.Data)}
	if m.Attributes != nil {
		attributes := f.vm.NewObject()
		for k, v := range m.Attributes {
			if err := attributes.Set(k, v); err != nil {
				f.t.Fatal(err)
			}
		}
		in["attributes"] = attributes
	}
	out, err := f.call(goja.Undefined(), f.vm.ToValue(in), f.vm.ToValue(metadata))
	if err != nil {
		f.t.Fatalf("the function throws %v at %.200s", err, m.Data)
	}
	if goja.IsNull(out) || goja.IsUndefined(out) {
		f.t.Fatalf("the function drops the message %.200s", m.Data)
	}
	object, ok := out.Export().(map[string]any)
	if !ok {
		f.t.Fatalf("the function returns %v", out)
	}
	data, ok := object["data"].(string)
	if !ok {
		f.t.Fatalf("data is no string: %v", object["data"])
	}
	attributes, ok := object["attributes"].(map[string]any)
	if !ok {
		f.t.Fatalf("attributes are no object: %v", object["attributes"])
	}
	return result{data: data, attributes: attributes}
}

// sample is one alert as a message, in one of the formats.
type sample struct {
	name  string
	alert dtm.Alert
	title string // as the alert has it
	message.Message
}

// samples are every type of alert, with all that is odd in some, in both formats.
func samples(t testing.TB) []sample {
	t.Helper()
	var elements []json.RawMessage
	text, err := os.ReadFile("../dtm/testdata/all_types_refs_true.json")
	if err != nil {
		t.Fatal(err)
	}
	var page struct{ Alerts []json.RawMessage }
	if err := json.Unmarshal(text, &page); err != nil {
		t.Fatal(err)
	}
	elements = append(elements, page.Alerts...)
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, a := range dtmsim.Generate(1, 500, from, from.Add(24*time.Hour), dtmsim.Typical()) {
		elements = append(elements, a.Element(true, true))
	}
	types := map[string]bool{}
	var all []sample
	for i, raw := range elements {
		a := dtm.ParseAlert(raw)
		if a.Invalid != "" {
			t.Fatalf("%s in %s", a.Invalid, raw)
		}
		types[a.Type] = true
		event := []string{"created", "updated", "status_changed"}[i%3]
		m := message.FromAlert(a, message.Envelope{
			Event: event, Priority: message.Priority(a.Severity), Origin: "gti", Feed: "default", RunID: "run",
		})
		var fields struct{ Title string }
		if err := json.Unmarshal(raw, &fields); err != nil {
			t.Fatal(err)
		}
		s := sample{name: "raw " + a.ID, alert: a, title: fields.Title, Message: m}
		all = append(all, s)
		s.name, s.Data = "incident "+a.ID, incident(t, s)
		all = append(all, s)
	}
	for _, alertType := range dtmsim.Types {
		if !types[alertType] {
			t.Errorf("no alert of type %s among the samples", alertType)
		}
	}
	return all
}

// incident is the data of the format incident.
func incident(t testing.TB, s sample) []byte {
	t.Helper()
	title := s.title
	if title == "" {
		title = wantTitle(s)
	}
	data, err := json.Marshal(map[string]any{
		"schema": "dtmrelay.incident/v1", "source": "dtm", "event": s.Attributes["event"],
		"dedupe_key": s.Attributes["dedupe_key"], "title": title, "summary": "a summary that stays inside",
		"severity": s.alert.Severity, "status": s.alert.Status, "type": s.alert.Type,
		"monitor": map[string]any{"id": s.alert.MonitorID, "name": s.alert.MonitorName},
		"alert":   s.alert.Raw,
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// decode reads JSON that must be whole.
func decode(t testing.TB, text string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return object
}

// leaves returns all strings in a value, but not the names of members.
func leaves(value any) []string {
	var found []string
	switch v := value.(type) {
	case string:
		found = append(found, v)
	case []any:
		for _, item := range v {
			found = append(found, leaves(item)...)
		}
	case map[string]any:
		for _, item := range v {
			found = append(found, leaves(item)...)
		}
	}
	return found
}
