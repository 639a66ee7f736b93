package main

import (
	"context"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"dtmrelay.internal/dtmrelay/internal/dtmsim"
)

// New alerts come all the time, not a minute's worth at once.
func TestKeepAdding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := dtmsim.New(dtmsim.Options{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		go (&simCmd{NewPerMinute: 600, Seed: 1}).keepAdding(ctx, server, begin)
		visible := func() int {
			t.Helper()
			alerts, err := server.Visible(time.Now(), url.Values{})
			if err != nil {
				t.Fatal(err)
			}
			return len(alerts)
		}

		before := 0
		for range 15 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			now := visible()
			if now < before+50 || now > before+150 {
				t.Errorf("%d alerts came within ten seconds; want about 100", now-before)
			}
			before = now
		}
		cancel()
		synctest.Wait()
		time.Sleep(time.Hour)
		if n := visible(); n != 1800 {
			t.Errorf("%d alerts in three minutes; want 1800", n)
		}
	})
}
