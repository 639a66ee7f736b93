package state_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/state"
)

// document is a database that holds one feed's document.
type document struct {
	mu      sync.Mutex
	feed    state.Feed
	version int
	began   time.Time
	calls   []string // what was called, and when
	// on, if set, is what becomes of the nth write: it applies the write or doesn't.
	on map[int]func(ctx context.Context, apply func() (state.Revision, error)) (state.Revision, error)

	writes int
}

func newDocument() *document {
	return &document{began: time.Now(), on: map[int]func(context.Context, func() (state.Revision, error)) (state.Revision, error){}}
}

func (d *document) note(what string) {
	d.calls = append(d.calls, fmt.Sprintf("%s %s", time.Since(d.began), what))
}

func (d *document) Open(ctx context.Context, _, _ string) (state.Snapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note("open")
	return state.Snapshot{Feed: d.feed.Clone(), Revision: d.at()}, ctx.Err()
}

func (d *document) at() state.Revision { return state.Revision(fmt.Sprint(d.version)) }

func (d *document) WriteFeed(ctx context.Context, _ string, f state.Feed, v state.Revision) (state.Revision, error) {
	d.mu.Lock()
	d.writes++
	d.note(fmt.Sprintf("write %s", f.Filter))
	on := d.on[d.writes]
	d.mu.Unlock()
	apply := func() (state.Revision, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if v != d.at() {
			return "", state.ErrConflict
		}
		d.feed = f
		d.version++
		return d.at(), nil
	}
	if on != nil {
		return on(ctx, apply)
	}
	return apply()
}

var errDown = errors.New("the database is down")

func lost(_ context.Context, apply func() (state.Revision, error)) (state.Revision, error) {
	if _, err := apply(); err != nil {
		return "", err
	}
	return "", errDown
}

func down(context.Context, func() (state.Revision, error)) (state.Revision, error) {
	return "", errDown
}

func hangs(ctx context.Context, _ func() (state.Revision, error)) (state.Revision, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

// repeated is a client that repeats a write whose answer was lost.
func repeated(_ context.Context, apply func() (state.Revision, error)) (state.Revision, error) {
	if _, err := apply(); err != nil {
		return "", err
	}
	return apply()
}

// slow is a write that takes three seconds.
func slow(_ context.Context, apply func() (state.Revision, error)) (state.Revision, error) {
	time.Sleep(3 * time.Second)
	return apply()
}

// flush has five seconds.
func flush(t *testing.T, h *state.Holder, want error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := h.Flush(ctx); !errors.Is(err, want) {
		t.Errorf("flush: %v, want %v", err, want)
	}
}

func acquire(t *testing.T, d *document) *state.Holder {
	t.Helper()
	h, err := state.Acquire(t.Context(), d, "feed", "run-1", d.feed, d.at())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func set(text string) func(*state.Feed) { return func(f *state.Feed) { f.Filter = text } }

// TestHolderCalls says when a holder calls the database, and what the document
// is at the end.
func TestHolderCalls(t *testing.T) {
	for _, c := range []struct {
		name   string
		on     map[int]func(context.Context, func() (state.Revision, error)) (state.Revision, error)
		during func(*testing.T, *state.Holder)
		calls  []string
		err    error
	}{
		{
			name:   "nothing to do",
			during: func(*testing.T, *state.Holder) {},
			calls:  []string{"0s write ", "0s write last"},
		},
		{
			name:   "renewed every 15 s",
			during: func(*testing.T, *state.Holder) { time.Sleep(50 * time.Second) },
			calls:  []string{"0s write ", "15s write ", "30s write ", "45s write ", "50s write last"},
		},
		{
			name: "checkpoints gather for a second",
			during: func(_ *testing.T, h *state.Holder) {
				for i := range 30 {
					h.Update(set(fmt.Sprint(i)))
					time.Sleep(150 * time.Millisecond)
				}
			},
			calls: []string{"0s write ", "1s write 6", "2.05s write 13", "3.1s write 20", "4.15s write 27", "4.5s write last"},
		},
		{
			name: "a checkpoint renews the lease",
			during: func(_ *testing.T, h *state.Holder) {
				time.Sleep(10 * time.Second)
				h.Update(set("a"))
				time.Sleep(20 * time.Second)
			},
			calls: []string{"0s write ", "11s write a", "26s write a", "30s write last"},
		},
		{
			name:   "what was changed last is written by the release alone",
			during: func(_ *testing.T, h *state.Holder) { h.Update(set("a")) },
			calls:  []string{"0s write ", "0s write last"},
		},
		{
			name: "a write that fails is tried again after a second",
			on:   on(2, down, 3, down),
			during: func(_ *testing.T, h *state.Holder) {
				h.Update(set("a"))
				time.Sleep(10 * time.Second)
			},
			calls: []string{"0s write ", "1s write a", "2s write a", "3s write a", "10s write last"},
		},
		{
			name: "a write whose answer is lost is recognised",
			on:   on(2, lost),
			during: func(_ *testing.T, h *state.Holder) {
				h.Update(set("a"))
				time.Sleep(2500 * time.Millisecond)
				h.Update(set("b"))
				time.Sleep(2500 * time.Millisecond)
			},
			calls: []string{"0s write ", "1s write a", "2s write a", "2s open", "3s write b", "5s write last"},
		},
		{
			name:   "a write that the client repeats is recognised",
			on:     on(2, repeated),
			during: func(_ *testing.T, h *state.Holder) { h.Update(set("a")); time.Sleep(5 * time.Second) },
			calls:  []string{"0s write ", "1s write a", "1s open", "5s write last"},
		},
		{
			name:   "the release is written again after a lost answer",
			on:     on(2, lost),
			during: func(*testing.T, *state.Holder) {},
			calls:  []string{"0s write ", "0s write last", "1s write last", "1s open", "1s write last"},
		},
		{
			name:   "the release is tried for as long as it may take",
			on:     on(2, down, 3, down, 4, down, 5, down, 6, down, 7, down, 8, down, 9, down, 10, down, 11, down, 12, down),
			during: func(*testing.T, *state.Holder) {},
			calls: []string{
				"0s write ", "0s write last", "1s write last", "2s write last", "3s write last", "4s write last",
				"5s write last", "6s write last", "7s write last", "8s write last", "9s write last", "10s write last",
			},
			err: errDown,
		},
		{
			name:   "a write that hangs does not keep the release",
			on:     on(2, hangs),
			during: func(_ *testing.T, h *state.Holder) { h.Update(set("a")); time.Sleep(2 * time.Second) },
			calls:  []string{"0s write ", "1s write a", "3s write last"},
		},
		{
			name: "a flush writes at once, and what is changed after it a second later",
			during: func(t *testing.T, h *state.Holder) {
				h.Update(set("a"))
				flush(t, h, nil)
				h.Update(set("b"))
				time.Sleep(5 * time.Second)
			},
			calls: []string{"0s write ", "0s write a", "1s write b", "5s write last"},
		},
		{
			name: "a flush waits until its write is stored, as the lost answer of one is recognised",
			on:   on(2, down, 3, lost),
			during: func(t *testing.T, h *state.Holder) {
				h.UpdateLazily(set("a"))
				flush(t, h, nil)
			},
			// The fourth write holds nothing new, but its number says so to nobody.
			calls: []string{"0s write ", "0s write a", "1s write a", "2s write a", "2s open", "3s write a", "3s write last"},
		},
		{
			name: "a flush doesn't count a write that was under way",
			on:   on(2, slow),
			during: func(t *testing.T, h *state.Holder) {
				h.Update(set("a"))
				time.Sleep(1500 * time.Millisecond)
				h.Update(set("b"))
				flush(t, h, nil)
			},
			calls: []string{"0s write ", "1s write a", "4s write b", "4s write last"},
		},
		{
			name: "a flush ends with the time that it has",
			on:   on(2, hangs),
			during: func(t *testing.T, h *state.Holder) {
				h.Update(set("a"))
				flush(t, h, context.DeadlineExceeded)
			},
			calls: []string{"0s write ", "0s write a", "6s write last"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDocument()
				if c.on != nil {
					d.on = c.on
				}
				h := acquire(t, d)
				c.during(t, h)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond)
				defer cancel()
				err := h.Release(ctx, set("last"))
				if !errors.Is(err, c.err) {
					t.Errorf("release: %v, want %v", err, c.err)
				}
				if diff := cmp.Diff(c.calls, d.calls); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				if c.err == nil && (d.feed.Filter != "last" || d.feed.Lease != nil) {
					t.Errorf("the document is %+v", d.feed)
				}
				if h.Context().Err() == nil {
					t.Error("the context outlives the lease")
				}
			})
		})
	}
}

func on(pairs ...any) map[int]func(context.Context, func() (state.Revision, error)) (state.Revision, error) {
	m := map[int]func(context.Context, func() (state.Revision, error)) (state.Revision, error){}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(int)] = pairs[i+1].(func(context.Context, func() (state.Revision, error)) (state.Revision, error))
	}
	return m
}

// take is another run that takes the lease.
func (d *document) take() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.feed.Writer, d.feed.Generation = "run-2", d.feed.Generation+1
	d.version++
}

// TestHolderLost says when a lease is counted as lost, and that nothing is
// written from then on.
func TestHolderLost(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*document)
		after   time.Duration // since it was acquired
	}{
		{
			name: "35 s without a confirmed write, with a database that is down",
			prepare: func(d *document) {
				for i := range 100 {
					d.on[i+2] = down
				}
			},
			after: 35 * time.Second,
		},
		{
			name: "35 s without a confirmed write, with one that hangs",
			prepare: func(d *document) {
				for i := range 100 {
					d.on[i+2] = hangs
				}
			},
			after: 35 * time.Second,
		},
		{
			name: "35 s since the write that is stored was sent, when its answer took long to get lost",
			prepare: func(d *document) {
				d.on[2] = func(_ context.Context, apply func() (state.Revision, error)) (state.Revision, error) {
					_, _ = apply()
					time.Sleep(18 * time.Second) // from 15 s to 33 s
					return "", errDown
				}
				for i := range 100 {
					d.on[i+4] = down // the third finds out about the second
				}
			},
			after: 50 * time.Second,
		},
		{
			name:    "another run wrote",
			prepare: func(d *document) { time.AfterFunc(10*time.Second, d.take) },
			after:   15 * time.Second,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDocument()
				c.prepare(d)
				h := acquire(t, d)
				<-h.Context().Done()
				// A write that fails is tried again after a second, so it may be noticed so late.
				if after := time.Since(d.began); after < c.after || after >= c.after+time.Second {
					t.Errorf("lost after %s, want %s", after, c.after)
				}
				if err := context.Cause(h.Context()); !errors.Is(err, state.ErrLost) || !errors.Is(h.CheckLease(), state.ErrLost) {
					t.Errorf("ended by %v, alive: %v", err, h.CheckLease())
				}
				writes := d.writes
				time.Sleep(time.Minute)
				if err := h.Release(t.Context(), set("last")); !errors.Is(err, state.ErrLost) {
					t.Errorf("release: %v", err)
				}
				if d.writes != writes {
					t.Errorf("wrote after the lease was lost: %v", d.calls)
				}
			})
		})
	}
}

// TestHolderFrozen: a process that stood still in the middle of a write asks the
// clock before it goes on, and not only its timers.
func TestHolderFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDocument()
		d.on[2] = func(_ context.Context, apply func() (state.Revision, error)) (state.Revision, error) {
			time.Sleep(100 * time.Second)
			d.take()
			return apply()
		}
		h := acquire(t, d)
		time.Sleep(30 * time.Second)
		if err := h.CheckLease(); err != nil {
			t.Errorf("30 s after the last confirmed write: %v", err)
		}
		time.Sleep(10 * time.Second)
		if err := h.CheckLease(); !errors.Is(err, state.ErrLost) {
			t.Errorf("40 s after the last confirmed write: %v", err)
		}
		if err := h.Release(t.Context(), set("last")); !errors.Is(err, state.ErrLost) {
			t.Errorf("release: %v", err)
		}
		if d.feed.Filter != "" || d.feed.Writer != "run-2" {
			t.Errorf("the document of the other run is %+v", d.feed)
		}
	})
}

func TestAcquire(t *testing.T) {
	now := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for _, c := range []struct {
		name    string
		prepare func(*document)
		want    error
	}{
		{name: "nobody holds it", prepare: func(*document) {}},
		{
			name:    "its lease has run out",
			prepare: func(d *document) { d.feed.Lease = &state.Lease{Owner: "run-0", ExpiresAt: now(0)} },
		},
		{
			name:    "another run holds it",
			prepare: func(d *document) { d.feed.Lease = &state.Lease{Owner: "run-0", ExpiresAt: now(time.Millisecond)} },
			want:    state.ErrHeld,
		},
		{
			name: "another run is faster",
			prepare: func(d *document) {
				d.on[1] = func(_ context.Context, apply func() (state.Revision, error)) (state.Revision, error) {
					d.take()
					return apply()
				}
			},
			want: state.ErrHeld,
		},
		{name: "the client repeats the write", prepare: func(d *document) { d.on[1] = repeated }},
		{
			name: "the database refuses what nobody has changed",
			prepare: func(d *document) {
				d.on[1] = func(context.Context, func() (state.Revision, error)) (state.Revision, error) {
					return "", state.ErrConflict
				}
			},
			want: state.ErrConflict,
		},
		{name: "the database is down", prepare: func(d *document) { d.on[1] = down }, want: errDown},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDocument()
				c.prepare(d)
				h, err := state.Acquire(t.Context(), d, "feed", "run-1", d.feed, d.at())
				if !errors.Is(err, c.want) || errors.Is(err, state.ErrHeld) != errors.Is(c.want, state.ErrHeld) {
					t.Fatalf("%v, want %v", err, c.want)
				}
				if err != nil {
					return
				}
				want := state.Feed{
					Writer: "run-1", Generation: 1, Write: 1,
					Lease: &state.Lease{Owner: "run-1", ExpiresAt: d.began.Add(state.LeaseFor)},
				}
				if diff := cmp.Diff(want, d.feed); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if err := h.Release(t.Context(), func(*state.Feed) {}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
