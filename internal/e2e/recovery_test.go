package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/emulatortest"
)

// firestore sends a request to the emulator's REST interface, below the project's
// databases.
func (w *world) firestore(method, path string, body, into any) {
	w.t.Helper()
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			w.t.Fatal(err)
		}
	}
	url := fmt.Sprintf("http://%s/v1/projects/%s/databases/%s", emulatortest.SharedFirestore(w.t), w.project, path)
	req, err := http.NewRequest(method, url, &text)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer owner") // passes the emulator's rules
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(answer, into)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s %s: %s %v\n%s", method, path, resp.Status, err, answer)
	}
}

// copyDatabase copies all documents below a document of the default database, "" for
// all there are, as an export and an import into another database do.
func (w *world) copyDatabase(to, below string) (copied int) {
	w.t.Helper()
	var found struct{ CollectionIDs []string }
	w.firestore(http.MethodPost, "(default)/documents"+below+":listCollectionIds", struct{}{}, &found)
	for _, collection := range found.CollectionIDs {
		for next := ""; ; {
			var page struct {
				Documents []struct {
					Name   string          `json:"name"`
					Fields json.RawMessage `json:"fields"`
				}
				NextPageToken string
			}
			w.firestore(http.MethodGet, "(default)/documents"+below+"/"+collection+"?pageSize=300&pageToken="+next, nil, &page)
			var writes []any
			for _, d := range page.Documents {
				name := strings.Replace(d.Name, "/databases/(default)/", "/databases/"+to+"/", 1)
				writes = append(writes, map[string]any{"update": map[string]any{"name": name, "fields": d.Fields}})
			}
			w.firestore(http.MethodPost, to+"/documents:commit", map[string]any{"writes": writes}, new(any))
			copied += len(writes)
			for _, d := range page.Documents {
				_, path, _ := strings.Cut(d.Name, "/documents")
				copied += w.copyDatabase(to, path)
			}
			if next = page.NextPageToken; next == "" {
				break
			}
		}
	}
	return copied
}

// copies counts the messages of each version of some alerts.
func (w *world) copies(alerts []dtmsim.Alert) (least, most int) {
	w.t.Helper()
	of := map[string]int{}
	for _, a := range alerts {
		of[a.ID] = 0
	}
	w.sub.mu.Lock()
	defer w.sub.mu.Unlock()
	for _, same := range w.sub.alerts {
		if _, ok := of[same[0].Attributes["alert_id"]]; ok {
			of[same[0].Attributes["alert_id"]] += len(same)
		}
	}
	least = int(w.sub.total.Load())
	for _, n := range of {
		least, most = min(least, n), max(most, n)
	}
	return least, most
}

// TestRestoredDatabase: the relay goes on from a database that is older than the truth.
// What it published since then comes again, with the same dedupe_key, and nothing is lost.
func TestRestoredDatabase(t *testing.T) {
	t.Parallel()
	before := recent(50, 400)
	w := newWorld(t, dtmsim.Options{}, before)
	w.env["SETTLE"] = "0s"
	p := w.start()
	w.finish(p)
	if n := w.copyDatabase("restored", ""); n < len(before) {
		t.Fatalf("%d documents were copied, and there are %d alerts", n, len(before))
	}

	now := time.Now()
	since := dtmsim.Generate(51, 150, now.Add(-time.Second), now, dtmsim.Shape{NoDoc: true})
	w.sim.Add(since...)
	await(t, "what came after the copy", func() bool {
		p.post("")
		return w.sub.total.Load() == int64(len(before)+len(since))
	})
	p.kill()

	p = w.start("FIRESTORE_DATABASE=restored")
	w.finish(p)
	await(t, "what came after the copy, once more", func() bool { return w.sub.total.Load() >= int64(len(before)+2*len(since)) })
	after := dtmsim.Generate(52, 50, time.Now().Add(-time.Millisecond), time.Now(), dtmsim.Shape{NoDoc: true})
	w.sim.Add(after...)
	await(t, "what came after the restore", func() bool {
		p.post("")
		return w.sub.total.Load() >= int64(len(before)+2*len(since)+len(after))
	})
	if repeated := w.check(append(append(before, since...), after...)); repeated != len(since) {
		t.Errorf("%d messages have the dedupe_key of an earlier one, want those of the %d alerts since the copy", repeated, len(since))
	}
	for name, c := range map[string]struct {
		alerts []dtmsim.Alert
		want   int
	}{"before the copy": {before, 1}, "after the copy": {since, 2}, "after the restore": {after, 1}} {
		if least, most := w.copies(c.alerts); least != c.want || most != c.want {
			t.Errorf("%s: each version came %d to %d times, want %d", name, least, most, c.want)
		}
	}
}

// TestLostDatabase: with an empty database the relay begins anew. All of INITIAL_LOOKBACK
// comes again with the same dedupe_key; what is older comes by a backfill.
func TestLostDatabase(t *testing.T) {
	t.Parallel()
	lately, older := recent(53, 200), past(54, 200)
	w := newWorld(t, dtmsim.Options{}, append(append([]dtmsim.Alert{}, lately...), older...))
	p := w.start()
	w.finish(p)
	p.kill()
	p = w.start("FIRESTORE_DATABASE=emptied")
	if runs := w.finish(p); runs[len(runs)-1].Published != len(lately) {
		t.Errorf("the runs with an empty database: %+v", runs)
	}
	if status, b := p.backfill(http.MethodPost, "", `{"since":"110h"}`); status != http.StatusOK || b.Published != len(older) {
		t.Errorf("the backfill of what is older: %d %+v", status, b)
	}
	await(t, "all messages", func() bool { return w.sub.total.Load() >= int64(2*len(lately)+len(older)) })
	if repeated := w.check(append(lately, older...)); repeated != len(lately) {
		t.Errorf("%d messages have the dedupe_key of an earlier one, want %d", repeated, len(lately))
	}
}
