package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// Cache is what an instance knows to be published, because it has read or recorded
// it: the sweep shows an alert many times, and most reads of the ledger would only say
// again that nothing is new. A published version never goes back, so what is known once
// stays true, whoever else writes the ledger; all else is looked up.
type Cache struct {
	mu sync.Mutex
	// Only the latest are remembered: those of now, and as many before them.
	now, before map[alertKey]int64 // an alert's published version, in milliseconds

	generation int64 // of the feed's document, as a run saw it last
}

// maxCached is how many alerts a Cache remembers, of about 40 bytes each.
const maxCached = 20_000

// alertKey stands for an alert's id. It takes a third of the memory of the id, and the
// garbage collector doesn't look at it. No two ids have the same: it is half of a SHA-256.
type alertKey [16]byte

func keyOf(id string) alertKey {
	sum := sha256.Sum256([]byte(id))
	return alertKey(sum[:len(alertKey{})])
}

// Opened takes note of the generation of the feed's document, which grows with each run.
// When it is less than before, the database was restored, or made anew: its ledger may
// lack what was published, and a change of an alert that it lacks would be left alone. So
// all is forgotten, and looked up again.
func (c *Cache) Opened(generation int64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation < c.generation {
		c.now, c.before = nil, nil
	}
	c.generation = generation
}

// version is the published version of an alert, if it is this one or a newer one.
func (c *Cache) version(a dtm.Alert) (time.Time, bool) {
	if c == nil || a.Invalid != "" || a.Ahead {
		return time.Time{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := keyOf(a.ID)
	known, ok := c.now[key]
	if !ok {
		if known, ok = c.before[key]; ok {
			c.put(key, known)
		}
	}
	version := time.UnixMilli(known).UTC()
	return version, ok && !a.UpdatedAt.After(version)
}

// note remembers what a record says.
func (c *Cache) note(rec state.Record) {
	if c == nil || rec.PublishedVersion.IsZero() || !rec.PublishedVersion.Equal(rec.HandledVersion) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(keyOf(rec.ID), rec.PublishedVersion.UnixMilli())
}

// put remembers a version, unless a newer one is known. The lock is held.
func (c *Cache) put(key alertKey, version int64) {
	if known, ok := c.now[key]; ok && known >= version {
		return
	}
	if len(c.now) >= maxCached/2 {
		c.before, c.now = c.now, nil
	}
	if c.now == nil {
		c.now = map[alertKey]int64{}
	}
	c.now[key] = version
}

// lookUp returns the records of alerts. Of those that are known to be published it
// returns no more than that.
func (p *Processor) lookUp(ctx context.Context, alerts []dtm.Alert) ([]state.Entry, error) {
	entries := make([]state.Entry, len(alerts))
	var unknown []string
	var places []int
	for i, a := range alerts {
		// A backfill also asks what became of a version for it.
		if version, ok := p.Cache.version(a); ok && p.Mode != Backfill && p.Mode != Republish {
			entries[i].Record = state.Record{ID: a.ID, HandledVersion: version, PublishedVersion: version}
			continue
		}
		unknown, places = append(unknown, ID(a)), append(places, i)
	}
	if len(unknown) == 0 {
		return entries, nil
	}
	found, err := p.Store.Records(ctx, p.Feed, unknown)
	if err != nil {
		return nil, fmt.Errorf("looking up %d alerts in the ledger: %w", len(unknown), err)
	}
	for i, e := range found {
		entries[places[i]] = e
		p.Cache.note(e.Record)
	}
	return entries, nil
}
