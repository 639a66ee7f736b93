package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"

	"dtmrelay.internal/dtmrelay/internal/dtm"
)

// together is how many alerts are fetched by their id at a time, and held in
// memory until they are published.
const together = 8

// whole delivers the jobs, after fetching the alerts that are published for the
// first time as they are with their document. What needs no fetching goes first,
// in one bulk: one alert to fetch must not cut a page of changes into many writes.
func (d *Desk) whole(ctx context.Context, jobs []*job, tally *Tally) error {
	var listed, toFetch []*job
	for _, j := range jobs {
		if j.event == Created && j.alert.Fault == "" {
			toFetch = append(toFetch, j)
		} else {
			listed = append(listed, j)
		}
	}
	if err := d.deliver(ctx, listed, tally); err != nil {
		return err
	}
	for batch := range slices.Chunk(toFetch, together) {
		if err := d.deliverWhole(ctx, batch, tally); err != nil {
			return err
		}
	}
	return nil
}

func (d *Desk) deliverWhole(ctx context.Context, batch []*job, tally *Tally) error {
	pages := make([]dtm.Page, len(batch))
	gone, crowded, failed := make([]bool, len(batch)), make([]bool, len(batch)), make([]bool, len(batch))
	defer func() {
		for _, p := range pages {
			p.Release()
		}
	}()
	var group errgroup.Group
	for i, j := range batch {
		group.Go(func() (err error) {
			pages[i], err = d.Whole(ctx, j.alert.ID)
			gone[i], crowded[i], err = d.without(ctx, j, err)
			failed[i] = err != nil
			return err
		})
	}
	// Those that came are published whatever became of the others: who tries again
	// finds fewer, also where one takes longer than there ever is time for.
	failure := group.Wait()
	var ready []*job
	for i, j := range batch {
		switch {
		case failed[i]:
		case gone[i]:
			tally.LeftAlone++
		case crowded[i] && len(batch) > 1: // for when the others are released
		default:
			d.replace(j, pages[i])
			ready = append(ready, j)
		}
	}
	if err := d.deliver(ctx, ready, tally); err != nil {
		return err
	}
	if failure != nil {
		return failure
	}
	for i, j := range batch {
		pages[i].Release()
		if crowded[i] && len(batch) > 1 {
			if err := d.deliverWhole(ctx, []*job{j}, tally); err != nil {
				return err
			}
		}
	}
	return nil
}

// without says what follows from an alert that could not be fetched: it is gone,
// there was no memory beside the others, or it is published as it was listed
// (no error), since one alert must not stop all others.
func (d *Desk) without(ctx context.Context, j *job, err error) (gone, crowded bool, failed error) {
	var (
		api   *dtm.APIError
		key   *dtm.KeyError
		quota *dtm.QuotaError
		wait  *dtm.WaitError
		large *dtm.PageTooLargeError
		lost  *dtm.NoAnswerError
	)
	switch {
	case err == nil, errors.As(err, &large):
		return false, false, nil
	case errors.Is(err, dtm.ErrMemory):
		return false, true, nil
	case ctx.Err() != nil, errors.As(err, &key), errors.As(err, &quota), errors.As(err, &wait):
	case errors.As(err, &api) && api.Status == http.StatusNotFound && api.Final():
		return true, false, nil
	case errors.As(err, &api) && api.Status != http.StatusTooManyRequests:
		return false, false, nil
	case errors.As(err, &lost) && lost.Answered: // after all attempts
		return false, false, nil
	}
	return false, false, fmt.Errorf("fetching alert %s: %w", j.alert.ID, err)
}

// replace makes the fetched alert the job's, unless there is none or it is older
// than what was listed, with a time that lies ahead or without. Only a listing
// names the monitor.
func (d *Desk) replace(j *job, page dtm.Page) {
	if len(page.Alerts) != 1 {
		return
	}
	a := page.Alerts[0]
	if a.Fault != "" || a.ID != j.alert.ID || a.UpdatedAt.Before(j.alert.UpdatedAt) && !j.alert.Ahead {
		return
	}
	if a.MonitorName == "" {
		a.MonitorName = j.alert.MonitorName
	}
	j.alert = a
	d.classify(j)
}
