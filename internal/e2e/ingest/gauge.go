//go:build gauge

package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"runtime/metrics"
	"time"
)

// With the tag gauge, a request to GAUGE_PORT tells what only the process itself knows
// of its size. The end of standard input is that of the process, so that none outlives
// whoever started it. internal/cmd/soak builds the function so.
func init() {
	go func() {
		server := http.Server{
			Addr: "127.0.0.1:" + os.Getenv("GAUGE_PORT"), Handler: http.HandlerFunc(gauge), ReadHeaderTimeout: time.Minute,
		}
		log.Fatal(server.ListenAndServe())
	}()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
}

func gauge(w http.ResponseWriter, _ *http.Request) {
	// What the last collection has found in use: garbage is not counted, and no collection
	// is made for it, which would change what is measured.
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	_ = json.NewEncoder(w).Encode(map[string]uint64{
		"pid": uint64(os.Getpid()), "goroutines": uint64(runtime.NumGoroutine()), "heap": live[0].Value.Uint64(),
	})
}
