package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

// sample measures the processes, from outside and by what they tell. A sample that
// fails is left out: one of a process that has just ended.
func (w *world) sample() {
	for name, url := range w.gauges {
		var own struct {
			PID, Goroutines, Heap int
		}
		if err := w.get(url, nil, &own); err != nil {
			continue
		}
		at := time.Since(w.began)
		w.add(name+goroutines, at, float64(own.Goroutines))
		w.add(name+heap, at, float64(own.Heap))
		dir := "/proc/" + strconv.Itoa(own.PID)
		if status, err := os.ReadFile(filepath.Join(dir, "status")); err == nil {
			w.add(name+memory, at, 1024*field(string(status), "VmRSS:"))
			w.add(name+threads, at, field(string(status), "Threads:"))
		}
		if open, err := os.ReadDir(filepath.Join(dir, "fd")); err == nil {
			w.add(name+files, at, float64(len(open)))
		}
	}
}

// field is a number of /proc/PID/status.
func field(status, name string) float64 {
	_, rest, _ := strings.Cut(status, name)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	n, _ := strconv.ParseFloat(words[0], 64)
	return n
}

// count asks the database how many alerts are in the ledger.
func (w *world) count() {
	url := fmt.Sprintf("http://%s/v1/projects/%s/databases/(default)/documents/feeds/default:runAggregationQuery", w.firestore, w.project)
	query := `{"structuredAggregationQuery":{"aggregations":[{"alias":"n","count":{}}],"structuredQuery":{"from":[{"collectionId":"alerts"}]}}}`
	var answer []struct {
		Result struct {
			AggregateFields struct {
				N struct {
					IntegerValue string
				}
			}
		}
	}
	if err := w.get(url, strings.NewReader(query), &answer); err != nil || len(answer) == 0 {
		return
	}
	if n, err := strconv.ParseFloat(answer[0].Result.AggregateFields.N.IntegerValue, 64); err == nil {
		w.add(records, time.Since(w.began), n)
	}
}

// get reads JSON. With a body it posts.
func (w *world) get(url string, body *strings.Reader, into any) error {
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, url, http.NoBody)
	if body != nil {
		req, err = http.NewRequestWithContext(w.ctx, http.MethodPost, url, body)
	}
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer owner") // passes the emulator's rules
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}
