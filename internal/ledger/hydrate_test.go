package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dtmrelay.internal/dtmrelay/internal/dtm"
	"dtmrelay.internal/dtmrelay/internal/dtmsim"
	"dtmrelay.internal/dtmrelay/internal/ledger"
	"dtmrelay.internal/dtmrelay/internal/state"
)

// bare is an alert as a listing without documents shows it.
func bare(id string, seconds int) dtm.Alert {
	a := version(id, "new", seconds)
	a.HasDoc, a.MonitorName = false, "Brand"
	return a
}

var errThrottled = &dtm.APIError{Status: http.StatusTooManyRequests}

// TestHydrate: a listing without documents is enough to see an alert, but its
// first message has the document where there is a way to get it.
func TestHydrate(t *testing.T) {
	for _, c := range []struct {
		name   string
		fetch  func(times int) (dtm.Page, error)
		counts ledger.Counts
		took   []string
		err    error
	}{
		{
			name:   "fetched",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{Alerts: []dtm.Alert{version("a", "new", 0)}}, nil },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"a created of Brand"},
		},
		{
			name:   "changed in the meantime",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{Alerts: []dtm.Alert{version("a", "read", 9)}}, nil },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"a created of Brand"},
		},
		{
			name:   "older than what was listed",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{Alerts: []dtm.Alert{version("a", "new", -9)}}, nil },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"a created bare of Brand"},
		},
		{
			name:   "listed, and not there by its id",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{}, &dtm.APIError{Status: 404} },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"a created bare of Brand"},
		},
		{
			name:   "gone, a proxy says",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{}, &dtm.APIError{Status: 404, Foreign: true} },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"a created bare of Brand"},
		},
		{
			name:   "too large for memory",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{}, &dtm.PageTooLargeError{} },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"a created truncated bare of Brand"},
		},
		{
			name:   "one that GTI can't show stops nothing",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{}, fmt.Errorf("gave up: %w", &dtm.APIError{Status: 500}) },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"a created bare of Brand"},
		},
		{
			name:   "the key is refused",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{}, &dtm.KeyError{API: &dtm.APIError{Status: 401}} },
			counts: ledger.Counts{Handled: 1}, err: &dtm.KeyError{},
		},
		{
			name:   "GTI asks for less at a time",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{}, errThrottled },
			counts: ledger.Counts{Handled: 1}, err: errThrottled,
		},
		{
			name:   "the network is down",
			fetch:  func(int) (dtm.Page, error) { return dtm.Page{}, errDown },
			counts: ledger.Counts{Handled: 1}, err: errDown,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			processor, _, topic := newProcessor()
			times := 0
			processor.FetchFull = func(context.Context, string) (dtm.Page, error) {
				times++
				return c.fetch(times)
			}
			counts, err := processor.Process(t.Context(), []dtm.Alert{bare("a", 0)}, all)
			key := (*dtm.KeyError)(nil)
			if (err == nil) != (c.err == nil) || c.err != nil && !errors.Is(err, c.err) && !errors.As(err, &key) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.counts, counts, anyOldest); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.took, topic.took); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHydratedIsWhatItIsPublishedAs: the version that was fetched may be a later one
// than was listed, and is published for what it is.
func TestHydratedIsWhatItIsPublishedAs(t *testing.T) {
	for _, c := range []struct {
		name   string
		before []dtm.Alert // published
		echo   state.Echo
		took   string
	}{
		{"a new one, that was written back since", nil, state.Echo{Version: second(9), Status: "closed"}, "a created by writeback of Brand"},
		{"once more, and changed since", []dtm.Alert{version("a", "new", 0)}, state.Echo{}, "a status_changed from new of Brand"},
	} {
		t.Run(c.name, func(t *testing.T) {
			processor, book, topic := newProcessor()
			if _, err := processor.Process(t.Context(), c.before, all); err != nil {
				t.Fatal(err)
			}
			topic.took = nil
			processor.BackfillID, processor.Mode = "b", ledger.Republish
			processor.FetchFull = func(context.Context, string) (dtm.Page, error) {
				// The ledger was looked up before.
				e := book.records["a"]
				e.Record.ID, e.Record.Echoes = "a", []state.Echo{c.echo}
				book.put(e)
				return dtm.Page{Alerts: []dtm.Alert{version("a", "closed", 9)}}, nil
			}
			if _, err := processor.Process(t.Context(), []dtm.Alert{bare("a", 0)}, all); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{c.took}, topic.took); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
		})
	}
}

type key struct{}

func (key) Key(context.Context) (string, error)           { return "key-1", nil }
func (key) Renew(context.Context, string) (string, error) { return "key-1", nil }

// TestHydrateWhenGTIAnswersBadly: an alert that can't be had after all attempts is published
// as it was listed. Its listing came through a moment before, so a network that is down
// costs the document of a few; an alert at which every connection ends would stop the sweep
// for good.
func TestHydrateWhenGTIAnswersBadly(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault dtmsim.Fault
	}{
		{"no JSON to the end", dtmsim.Fault{Status: 200, Body: `{"id":"bad","created_at":`}},
		{"cut off", dtmsim.Fault{Truncate: 40}},
		{"silent within", dtmsim.Fault{Truncate: 40, Hang: true}},
		{"a proxy's page", dtmsim.Fault{HTML: true}},
		{"503, each time", dtmsim.Fault{Status: 503}},
		{"silent", dtmsim.Fault{Hang: true}},
		{"a network that is down", dtmsim.Fault{ResetBefore: true}},
		{"a redirect", dtmsim.Fault{Status: 302}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				created := time.Now().UTC().Add(-time.Hour)
				api := dtmsim.New(dtmsim.Options{}, []dtmsim.Alert{
					{ID: "bad", Status: "new", CreatedAt: created},
					{
						ID: "good", Status: "new", CreatedAt: created,
						Body: fmt.Appendf(nil, `{"id":"good","created_at":%q,"doc":{}}`, created.Format(time.RFC3339)),
					},
				})
				c.fault.Kind = dtmsim.Get
				c.fault.When = func(r *http.Request) bool { return path.Base(r.URL.Path) == "bad" }
				api.AddFault(c.fault)
				client, err := dtm.New(dtm.Options{
					BaseURL: "https://gti.example/api/v3", ToolName: "test", UserAgent: "test", Keys: key{}, Meter: dtm.NewMeter(100_000),
					Concurrency: 10, QPS: 1000, Transport: api.RoundTripper(), Rand: func() float64 { return 0.5 },
				})
				if err != nil {
					t.Fatal(err)
				}
				session := client.Session(dtm.Share{Errors: 35, Requests: 0.6})
				processor, _, topic := newProcessor()
				processor.FetchFull = func(ctx context.Context, id string) (dtm.Page, error) { return session.Get(ctx, id, true) }
				page := []dtm.Alert{bare("bad", 0), bare("good", 0)}
				for i := range page {
					page[i].CreatedAt, page[i].UpdatedAt = created, created
				}
				_, err = processor.Process(t.Context(), page, all)
				if diff := cmp.Diff([]string{"bad created bare of Brand", "good created of Brand"}, topic.took); diff != "" || err != nil {
					t.Errorf("%v, published (-want +got):\n%s", err, diff)
				}
			})
		})
	}
}

// TestHydrateWithinMemory: those for which there was no memory beside the others
// are fetched by themselves, and what is known is not fetched at all.
func TestHydrateWithinMemory(t *testing.T) {
	processor, _, topic := newProcessor()
	if _, err := processor.Process(t.Context(), []dtm.Alert{version("known", "new", 0)}, all); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := map[string]int{}
	processor.FetchFull = func(_ context.Context, id string) (dtm.Page, error) {
		mu.Lock()
		defer mu.Unlock()
		asked[id]++
		if id != "a-0" && asked[id] == 1 {
			return dtm.Page{}, dtm.ErrMemory
		}
		return dtm.Page{Alerts: []dtm.Alert{version(id, "new", 0)}}, nil
	}
	changed := bare("known", 5)
	changed.Status = "read"
	page := []dtm.Alert{changed}
	for i := range 20 {
		page = append(page, bare(fmt.Sprintf("a-%d", i), 0))
	}
	counts, err := processor.Process(t.Context(), page, all)
	if err != nil || counts.Created != 20 || counts.StatusChanged != 1 {
		t.Fatalf("%+v %v", counts, err)
	}
	if asked["known"] != 0 || asked["a-0"] != 1 || asked["a-19"] != 2 {
		t.Errorf("asked for %v", asked)
	}
	for _, text := range topic.took {
		if text != "known created" && text != "known status_changed from new bare of Brand" && !strings.HasSuffix(text, " created of Brand") {
			t.Errorf("published %s", text)
		}
	}
}

// server answers the client's requests in place of a network.
type server func(r *http.Request) (*http.Response, error)

func (s server) RoundTrip(r *http.Request) (*http.Response, error) { return s(r) }

// TestHydrateReleasesAll: an alert that there was no memory for beside the others is
// fetched when all of these are released, wherever it stands among them.
func TestHydrateReleasesAll(t *testing.T) {
	for _, last := range []string{"a", "b", "c"} {
		synctest.Test(t, func(t *testing.T) {
			text := strings.Repeat("x", 300<<10)
			// Two alerts fit into the memory; this one comes when both are there.
			api := server(func(r *http.Request) (*http.Response, error) {
				id := path.Base(r.URL.Path)
				if id == last {
					time.Sleep(time.Second)
				}
				body := fmt.Sprintf(`{"id":%q,"created_at":%q,"status":"new","doc":{"text":%q}}`, id, day.Format(time.RFC3339), text)
				return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
			})
			client, err := dtm.New(dtm.Options{
				BaseURL: "https://gti.example/api/v3", ToolName: "t", UserAgent: "t", Keys: key{}, Meter: dtm.NewMeter(1000),
				Concurrency: 10, QPS: 1000, Transport: api, PageLimit: 400 << 10, PageMemory: 1 << 20,
			})
			if err != nil {
				t.Fatal(err)
			}
			session := client.Session(dtm.Share{Errors: 50, Requests: 1})
			processor, _, topic := newProcessor()
			processor.FetchFull = func(ctx context.Context, id string) (dtm.Page, error) { return session.Get(ctx, id, true) }
			counts, err := processor.Process(t.Context(), []dtm.Alert{bare("a", 0), bare("b", 0), bare("c", 0)}, all)
			if err != nil || counts.Created != 3 {
				t.Fatalf("%+v %v", counts, err)
			}
			for _, took := range topic.took {
				if strings.Contains(took, "bare") {
					t.Errorf("%s comes last, and published is %q", last, topic.took)
				}
			}
		})
	}
}

// TestChangeOfARejectedAlert: an alert of which only a version was rejected is
// the feed's. Its next version is published as its first one, with its document,
// also where nothing new is admitted.
func TestChangeOfARejectedAlert(t *testing.T) {
	for _, c := range []struct {
		name     string
		rejected dtm.Alert
		listed   dtm.Alert
		fetch    func() (dtm.Page, error)
		counts   ledger.Counts
		took     []string
		statuses []string
	}{
		{
			name: "refused by the topic", rejected: version("refused", "new", 0), listed: bare("refused", 5),
			fetch:  func() (dtm.Page, error) { return dtm.Page{Alerts: []dtm.Alert{version("refused", "new", 5)}}, nil },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"refused created of Brand"}, statuses: []string{"new gti"},
		},
		{
			name: "too large, and then it isn't", rejected: large("b", false), listed: bare("b", 5),
			fetch:  func() (dtm.Page, error) { return dtm.Page{Alerts: []dtm.Alert{version("b", "read", 9)}}, nil },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"b created of Brand"}, statuses: []string{"read gti"},
		},
		{
			name: "still too large with its document", rejected: large("a", false), listed: bare("a", 5),
			fetch:  func() (dtm.Page, error) { return dtm.Page{}, &dtm.PageTooLargeError{} },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"a created truncated bare of Brand"}, statuses: []string{"new gti"},
		},
		{
			name: "not there by its id", rejected: version("refused", "new", 0), listed: bare("refused", 5),
			fetch:  func() (dtm.Page, error) { return dtm.Page{}, &dtm.APIError{Status: 404} },
			counts: ledger.Counts{Handled: 1, Created: 1}, took: []string{"refused created bare of Brand"}, statuses: []string{"new gti"},
		},
		{
			name: "the version that was rejected", rejected: version("refused", "new", 5), listed: bare("refused", 5),
			counts: ledger.Counts{Handled: 1, Suppressed: 1},
		},
		{
			name: "an older version", rejected: version("refused", "new", 5), listed: bare("refused", 0),
			counts: ledger.Counts{Handled: 1, Superseded: 1},
		},
		{
			name: "an element that is no alert", rejected: element("1"), listed: element("1"),
			counts: ledger.Counts{Handled: 1, LeftAlone: 1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			processor, book, topic := newProcessor()
			topic.refuse = "refused"
			if counts, err := processor.Process(t.Context(), []dtm.Alert{c.rejected}, all); err != nil || counts.Rejected != 1 {
				t.Fatalf("%+v %v", counts, err)
			}
			topic.refuse = ""
			processor.Mode = ledger.Changes
			processor.FetchFull = func(context.Context, string) (dtm.Page, error) { return c.fetch() }
			counts, err := processor.Process(t.Context(), []dtm.Alert{c.listed}, all)
			if diff := cmp.Diff(c.counts, counts, anyOldest); diff != "" || err != nil {
				t.Errorf("%v, counts (-want +got):\n%s", err, diff)
			}
			if diff := cmp.Diff(c.took, topic.took); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
			var statuses []string
			for _, s := range book.records[c.listed.ID].Record.Statuses {
				statuses = append(statuses, s.Status+" "+s.Origin)
			}
			if diff := cmp.Diff(c.statuses, statuses); diff != "" {
				t.Errorf("statuses (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOneFetchHoldsUpNoOthers: a page is recorded in one bulk but for those that
// are fetched.
func TestOneFetchHoldsUpNoOthers(t *testing.T) {
	processor, book, topic := newProcessor()
	topic.refuse = "b"
	page := []dtm.Alert{version("b", "new", 0)}
	for i := range 60 {
		page = append(page, version(fmt.Sprintf("a-%02d", i), "new", 0))
	}
	if _, err := processor.Process(t.Context(), page, all); err != nil {
		t.Fatal(err)
	}
	topic.refuse, topic.took, book.bulks = "", nil, 0
	for i := range page {
		page[i].UpdatedAt = second(5)
	}
	processor.Mode = ledger.Changes
	processor.FetchFull = func(_ context.Context, id string) (dtm.Page, error) {
		return dtm.Page{Alerts: []dtm.Alert{version(id, "new", 5)}}, nil
	}
	counts, err := processor.Process(t.Context(), page, all)
	if err != nil || counts.Created != 1 || counts.Updated != 60 {
		t.Fatalf("%+v %v", counts, err)
	}
	if book.bulks != 2 {
		t.Errorf("%d bulks were written, want one for what was listed and one for what was fetched", book.bulks)
	}
}
