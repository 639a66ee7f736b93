// Command plain is a feed in two hundred lines: it lists, looks up, publishes and records,
// with the usual clients in their usual way, one page after the other. What the relay's
// processor time is compared with.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/pubsub/v2"
	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
)

// alert is what the attributes and the record need of an alert.
type alert struct {
	ID          string    `json:"id"`
	Type        string    `json:"alert_type"`
	Severity    string    `json:"severity"`
	Status      string    `json:"status"`
	MonitorID   string    `json:"monitor_id"`
	MonitorName string    `json:"monitor_name"`
	GroupID     string    `json:"aggregated_under_id"`
	MScore      float64   `json:"indicator_mscore"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

// record is what is known of an alert.
type record struct {
	Type      string    `firestore:"type"`
	Severity  string    `firestore:"severity"`
	MonitorID string    `firestore:"monitor_id"`
	Status    string    `firestore:"status"`
	CreatedAt time.Time `firestore:"created_at"`
	FirstSeen time.Time `firestore:"first_seen"`
	Published time.Time `firestore:"published_version"`
	Versions  []version `firestore:"versions"`
	ExpireAt  time.Time `firestore:"expire_at"`
}

type version struct {
	UpdatedAt time.Time `firestore:"updated_at"`
	At        time.Time `firestore:"at"`
	Event     string    `firestore:"event"`
	Outcome   string    `firestore:"outcome"`
}

type feed struct {
	store *firestore.Client
	topic *pubsub.Publisher
}

func init() {
	connect := sync.OnceValues(func() (*feed, error) {
		project := os.Getenv("GOOGLE_CLOUD_PROJECT")
		store, err := firestore.NewClient(context.Background(), project)
		if err != nil {
			return nil, err
		}
		client, err := pubsub.NewClient(context.Background(), project)
		if err != nil {
			return nil, err
		}
		return &feed{store, client.Publisher(os.Getenv("PUBSUB_TOPIC"))}, nil
	})
	functions.HTTP("Plain", func(w http.ResponseWriter, r *http.Request) {
		f, err := connect()
		n := 0
		if err == nil && r.Method == http.MethodPost {
			n, err = f.run(r.Context())
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"outcome":"ok","published":%d}`, n)
	})
}

// run publishes what it can list, and returns how many alerts that were.
func (f *feed) run(ctx context.Context) (published int, err error) {
	query := "?sort=created_at&order=asc&monitor_name=true&refs=false&size=100"
	for next := regexp.MustCompile(`[?&]page=([^&>]+)`); ; {
		raw, link, err := list(ctx, query)
		if err != nil {
			return published, err
		}
		n, err := f.page(ctx, raw)
		if published += n; err != nil {
			return published, err
		}
		m := next.FindStringSubmatch(link)
		if m == nil {
			return published, nil
		}
		query = "?page=" + url.QueryEscape(m[1])
		if _, err := f.store.Doc("plain/feed").Set(ctx, map[string]any{"position": query, "at": time.Now()}); err != nil {
			return published, err
		}
	}
}

func list(ctx context.Context, query string) (alerts []json.RawMessage, link string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("GTI_BASE_URL")+"/dtm/alerts"+query, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("X-Apikey", os.Getenv("GTI_API_KEY"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", errors.New(resp.Status)
	}
	var body struct {
		Alerts []json.RawMessage `json:"alerts"`
	}
	err = json.NewDecoder(resp.Body).Decode(&body)
	return body.Alerts, resp.Header.Get("Link"), err
}

// page publishes the alerts of a page that no record has in this version, and records them.
func (f *feed) page(ctx context.Context, raw []json.RawMessage) (published int, err error) {
	alerts := make([]alert, len(raw))
	refs := make([]*firestore.DocumentRef, len(raw))
	for i := range raw {
		if err := json.Unmarshal(raw[i], &alerts[i]); err != nil {
			return 0, err
		}
		if alerts[i].UpdatedAt.IsZero() { // some alerts have none
			alerts[i].UpdatedAt = alerts[i].CreatedAt
		}
		refs[i] = f.store.Doc("plain/feed/alerts/" + alerts[i].ID)
	}
	documents, err := f.store.GetAll(ctx, refs)
	if err != nil {
		return 0, err
	}
	results := map[int]*pubsub.PublishResult{}
	for i, a := range alerts {
		var known record
		if documents[i].Exists() {
			if err := documents[i].DataTo(&known); err != nil {
				return 0, err
			}
		}
		if known.Published.Before(a.UpdatedAt) {
			results[i] = f.topic.Publish(ctx, &pubsub.Message{Data: raw[i], Attributes: map[string]string{
				"source": "dtm", "alert_id": a.ID, "alert_type": a.Type, "severity": a.Severity, "status": a.Status,
				"monitor_id": a.MonitorID, "monitor_name": a.MonitorName, "group_id": a.GroupID, "mscore": strconv.FormatFloat(a.MScore, 'f', -1, 64),
				"created_at": a.CreatedAt.Format(time.RFC3339), "updated_at": a.UpdatedAt.Format(time.RFC3339),
				"event": "created", "feed": "plain", "dedupe_key": a.ID + "@" + a.UpdatedAt.Format(time.RFC3339Nano),
			}})
		}
	}
	writer := f.store.BulkWriter(ctx)
	var jobs []*firestore.BulkWriterJob
	for i, result := range results {
		if _, err := result.Get(ctx); err != nil {
			return published, err
		}
		published++
		a, now := alerts[i], time.Now()
		job, err := writer.Set(refs[i], record{
			a.Type, a.Severity, a.MonitorID, a.Status, a.CreatedAt, now, a.UpdatedAt,
			[]version{{a.UpdatedAt, now, "created", "published"}},
			now.Add(180 * 24 * time.Hour),
		})
		if err != nil {
			return published, err
		}
		jobs = append(jobs, job)
	}
	writer.End()
	for _, job := range jobs {
		if _, err := job.Results(); err != nil {
			return published, err
		}
	}
	return published, nil
}

func main() {
	if err := funcframework.StartHostPort("127.0.0.1", os.Getenv("PORT")); err != nil {
		log.Fatal(err)
	}
}
