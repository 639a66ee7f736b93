package dtmsim

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// BenchmarkServe reports what serving an alert of 2 KB costs, client included.
func BenchmarkServe(b *testing.B) {
	s := New(Options{}, Generate(1, 20_000, past, past.Add(24*time.Hour), Shape{}))
	web := httptest.NewServer(s)
	defer web.Close()
	get := func(query string) string {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, web.URL+"/api/v3/dtm/alerts?"+query, http.NoBody)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("x-apikey", testKey)
		res, err := web.Client().Do(req)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			b.Fatal(err)
		}
		_, next, _ := strings.Cut(res.Header.Get("Link"), "?")
		next, _, _ = strings.Cut(next, ">")
		return next
	}
	const first = "refs=false&size=100&order=asc&monitor_name=true&status=new&status=read"
	next := first
	before := s.Stats().Alerts
	for b.Loop() {
		if next = get(next); next == "" {
			next = first
		}
	}
	served := float64(s.Stats().Alerts - before)
	b.ReportMetric(served/b.Elapsed().Seconds(), "alerts/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/served, "ns/alert")
}

// BenchmarkGenerate reports what inventing an alert costs.
func BenchmarkGenerate(b *testing.B) {
	for b.Loop() {
		Generate(1, 1000, past, past.Add(time.Hour), Typical())
	}
}
