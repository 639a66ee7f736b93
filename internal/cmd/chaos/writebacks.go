package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// Of the alerts that are there at the beginning, the first ones get write-backs of
// their status, the next ones of tags, and analysts change the rest.
const statusTargets, tagTargets = 4, 3

// later is the status that an analyst sets after the write-backs are acknowledged.
const later = "escalated"

// request is a message that asks for a write-back.
type request struct {
	id        string
	data      []byte
	published time.Time
	due       time.Duration
	acked     atomic.Bool
}

// drawRequests asks twice for a status of each of the first alerts, in an order that
// may differ from that of the deliveries, and for two tags of each of the next ones.
func (w *world) drawRequests() {
	began := time.Now()
	add := func(name string, at time.Duration, body map[string]any) {
		body["requested_at"] = began.Add(at - time.Minute).UTC().Format(time.RFC3339Nano)
		data, err := json.Marshal(body)
		if err != nil {
			w.fail(err)
		}
		w.requests = append(w.requests, &request{id: name, data: data, published: began, due: between(w.rng, 0, w.storm)})
	}
	for i, a := range w.initial[:statusTargets+tagTargets] {
		for n := range 2 {
			name := fmt.Sprintf("asked-%d-%d", i, n)
			at := time.Duration(n) * time.Second
			if i < statusTargets {
				add(name, at, map[string]any{"alert_id": a.ID, "status": askedStatus(n)})
			} else {
				add(name, at, map[string]any{"alert_id": a.ID, "add_tags": []string{name}})
			}
		}
	}
}

// askedStatus is what the nth write-back of an alert's status asks for.
func askedStatus(n int) string { return []string{"in_progress", "closed"}[n] }

// wants is how the alerts have to stand at the end.
func (w *world) wants() []want {
	var all []want
	for i, a := range w.initial {
		switch {
		case i < statusTargets && i%2 == 0:
			all = append(all, want{id: a.ID, status: later, why: "an analyst's later change"})
		case i < statusTargets:
			all = append(all, want{id: a.ID, status: askedStatus(1), why: "the later one of two write-backs"})
		case i < statusTargets+tagTargets:
			all = append(all, want{id: a.ID, tags: []string{fmt.Sprintf("asked-%d-0", i), fmt.Sprintf("asked-%d-1", i)}, why: "two write-backs of tags"})
		}
	}
	// A rule's write-back is skipped where the status has changed meanwhile.
	w.mu.Lock()
	ids := slices.Clone(w.ids)
	w.mu.Unlock()
	for i, id := range ids {
		versions := w.sim.Versions(id)
		changed := slices.ContainsFunc(versions, func(a dtmsim.Alert) bool { return a.Status != versions[0].Status })
		if i >= statusTargets && versions[0].Severity == "low" && !changed {
			all = append(all, want{id: id, tags: []string{autoTag}, why: "a rule's write-back"})
		}
	}
	return all
}

// asked reports whether GTI has everything that was asked for.
func (w *world) asked() bool {
	e := evidence{truth: map[string][]dtmsim.Alert{}, wants: w.wants()}
	for _, want := range e.wants {
		e.truth[want.id] = w.sim.Versions(want.id)
	}
	var v verdict
	v.checkWritebacks(e)
	return v.Undone == 0
}

// analysts are the alerts whose status analysts change.
func (w *world) analysts() []string { return w.ids[statusTargets+tagTargets : len(w.initial)] }

// deliver pushes a message until it is acknowledged, as Pub/Sub does, to one instance
// of SyncStatus or another.
func (w *world) deliver(ctx context.Context, r *request) {
	w.unacked.Add(1)
	w.work.Go(func() {
		pause(ctx, r.due)
		for n := 0; ctx.Err() == nil; n++ {
			if w.push(ctx, r, n) {
				r.acked.Store(true)
				w.unacked.Add(-1)
				return
			}
			pause(ctx, min(time.Second, 100*time.Millisecond<<n))
		}
	})
}

// push delivers a message once, and reports whether it is acknowledged.
func (w *world) push(ctx context.Context, r *request, n int) bool {
	w.pushes.Add(1)
	envelope, err := json.Marshal(map[string]any{
		"message": map[string]any{
			"data": r.data, "messageId": r.id, "publishTime": r.published.UTC().Format(time.RFC3339Nano), "attributes": map[string]string{},
		},
		"subscription": "projects/" + w.project + "/subscriptions/" + statusTopic,
	})
	if err != nil {
		w.fail(err)
		return false
	}
	deadline, cancel := context.WithTimeout(ctx, 70*time.Second)
	defer cancel()
	status, _, err := w.sync[(len(r.data)+n)%len(w.sync)].Post(deadline, string(envelope))
	if err != nil && deadline.Err() == nil {
		w.fail(err)
	}
	return status == http.StatusOK
}

// forward delivers what rules ask for, from the topic to SyncStatus.
func (w *world) forward(ctx context.Context) {
	seen := map[string]bool{}
	for ; ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		for _, m := range w.topics.Messages() {
			if strings.HasSuffix(m.Topic, "/"+statusTopic) && !seen[m.ID] {
				seen[m.ID] = true
				w.deliver(ctx, &request{id: m.ID, data: m.Data, published: m.PublishTime})
			}
		}
	}
}

// redeliver lets analysts change what was written back, and then delivers the messages
// once more, as Pub/Sub may do with what it has already delivered.
func (w *world) redeliver(ctx context.Context) {
	for i, a := range w.initial[:statusTargets] {
		if i%2 == 0 {
			w.sim.Update(a.ID, func(a *dtmsim.Alert) { a.Status = later })
		}
	}
	for _, r := range w.requests {
		w.deliver(ctx, &request{id: r.id, data: r.data, published: r.published})
	}
}
