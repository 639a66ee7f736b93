package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// batchSize is how many alerts are fetched by their id at a time, and held in
// memory until they are published.
const batchSize = 8

// hydrate publishes the items, after fetching with their document the alerts that are
// published for the first time, young ones, and those in which something was masked. What
// needs no fetching goes first, in one bulk: one alert to fetch must not cut a page of
// changes into many writes.
func (p *Processor) hydrate(ctx context.Context, items []*item, counts *Counts) error {
	var listed, toFetch []*item
	for _, it := range items {
		// What was written back has changed nothing of the document.
		young := !p.FullSince.IsZero() && !it.alert.CreatedAt.Before(p.FullSince) && it.origin == state.FromGTI
		if it.alert.Invalid == "" && (it.event == Created || young || p.needsDocument(it)) {
			toFetch = append(toFetch, it)
		} else {
			listed = append(listed, it)
		}
	}
	if err := p.publishAndRecord(ctx, listed, counts); err != nil {
		return err
	}
	for batch := range slices.Chunk(toFetch, batchSize) {
		if err := p.hydrateBatch(ctx, batch, counts); err != nil {
			return err
		}
	}
	return nil
}

func (p *Processor) hydrateBatch(ctx context.Context, batch []*item, counts *Counts) error {
	pages, results := make([]dtm.Page, len(batch)), make([]fetchResult, len(batch))
	release := func() {
		for _, page := range pages {
			page.Release()
		}
	}
	defer release()
	var group errgroup.Group
	for i, it := range batch {
		group.Go(func() (err error) {
			pages[i], results[i], err = p.fetch(ctx, it)
			return err
		})
	}
	// The alerts that came are published whatever became of the others. The next
	// attempt then has fewer to fetch, also where one alert takes longer than any run.
	failure := group.Wait()
	var ready, newer, again []*item
	for i, it := range batch {
		switch {
		case results[i] == fetchFailed:
		case results[i] == fetchNoMemory && len(batch) > 1:
			again = append(again, it)
		default:
			listed := it.alert.UpdatedAt
			p.take(it, pages[i])
			ready = append(ready, it)
			if it.alert.UpdatedAt.After(listed) {
				newer = append(newer, it)
			}
		}
	}
	// A version that came after the listing may be one that the relay has written back since
	// the ledger was looked up: it is noted there before it is written.
	if len(newer) > 0 {
		if err := p.reread(ctx, newer); err != nil {
			return errors.Join(failure, err)
		}
		for _, it := range newer {
			p.classify(it)
		}
	}
	if err := p.publishAndRecord(ctx, ready, counts); err != nil {
		return err
	}
	if failure != nil {
		return failure
	}
	release()
	for _, it := range again {
		if err := p.hydrateBatch(ctx, []*item{it}, counts); err != nil {
			return err
		}
	}
	return nil
}

// fetchResult is what came of fetching an alert.
type fetchResult int

const (
	fetchDone     fetchResult = iota // it came, or is published as it was listed
	fetchNoMemory                    // there was none beside the others
	fetchFailed                      // and ends the page
)

// fetch fetches an item's alert. One that can't be had is published as it was listed,
// since one alert must not stop all others.
func (p *Processor) fetch(ctx context.Context, it *item) (dtm.Page, fetchResult, error) {
	page, err := p.FetchFull(ctx, it.alert.ID)
	kind := dtm.Kind(err)
	it.alert.Truncated = kind == dtm.PageTooLarge || kind == dtm.NoMemory
	it.unseen = err != nil && kind != dtm.PageTooLarge
	switch {
	case err == nil, kind == dtm.PageTooLarge:
		return page, fetchDone, nil
	case kind == dtm.NoMemory:
		return page, fetchNoMemory, nil
	case ctx.Err() != nil:
	case kind.Final(), kind == dtm.Refused, kind == dtm.Redirected, kind == dtm.NoAnswer, kind == dtm.Interrupted, kind == dtm.Unavailable,
		kind == dtm.Unreadable: // after all attempts
		return page, fetchDone, nil
	}
	return page, fetchFailed, fmt.Errorf("fetching alert %s: %w", it.alert.ID, err)
}

// take makes what was fetched of use to an item. What is published as it was listed is
// masked by what the fetched alert tells. An answer that is no such alert tells nothing.
func (p *Processor) take(it *item, page dtm.Page) {
	if len(page.Alerts) == 0 { // it could not be fetched
		return
	}
	a := page.Alerts[0]
	if a.Invalid != "" || a.ID != it.alert.ID {
		it.unseen = true
		return
	}
	if (it.event == Created || !p.needsDocument(it)) && (!a.UpdatedAt.Before(it.alert.UpdatedAt) || it.alert.Ahead) {
		p.replace(it, a)
		return
	}
	if a.HasDoc || !it.entry.Record.HasSecrets {
		if _, masked, valid := p.Redactor.Redact(a.Raw); valid {
			it.masked = &masked
		}
	}
}

// replace makes the fetched alert the item's. Only a listing names the monitor.
func (p *Processor) replace(it *item, a dtm.Alert) {
	if a.MonitorName == "" {
		a.MonitorName = it.alert.MonitorName
	}
	it.alert = a
	p.classify(it)
}
