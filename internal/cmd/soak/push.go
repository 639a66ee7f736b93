package main

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// push is a message that asks for a write-back.
type push struct {
	id        string
	data      []byte
	published time.Time
}

// deliver pushes messages to SyncStatus until each is acknowledged, as Pub/Sub does.
func (w *world) deliver() {
	for {
		select {
		case <-w.ctx.Done():
			return
		case p := <-w.pushes:
			for !w.push(p) && w.ctx.Err() == nil {
				w.pause(10 * time.Second)
			}
		}
	}
}

// push delivers a message once, and reports whether it is acknowledged.
func (w *world) push(p push) bool {
	envelope, err := json.Marshal(map[string]any{
		"message":      map[string]any{"data": p.data, "messageId": p.id, "publishTime": p.published.UTC().Format(time.RFC3339Nano)},
		"subscription": "projects/" + w.project + "/subscriptions/" + statusTopic,
	})
	if err != nil {
		return false
	}
	deadline, cancel := context.WithTimeout(w.ctx, 70*time.Second)
	defer cancel()
	status, _, err := w.functions[syncStatus].Post(deadline, string(envelope))
	if err != nil || status != http.StatusOK {
		return false
	}
	w.unacked.Add(-1)
	w.acked.Add(1)
	return true
}
