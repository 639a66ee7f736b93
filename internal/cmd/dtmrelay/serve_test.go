package main

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"dtmrelay.internal/dtmrelay/internal/emulatortest"
)

// TestPortThatAnotherGotFirst: between the choice of a free port and listening on it
// another program may get it. Then another port is chosen, but not in place of one that
// was asked for.
func TestPortThatAnotherGotFirst(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, test := range map[string]struct {
		port          string
		inUse, serves int32 // how often another has it, and how often it is tried
		fails         bool
	}{
		"twice":       {port: "0", inUse: 2, serves: 3},
		"always":      {port: "0", inUse: 1000, serves: portTries, fails: true},
		"a fixed one": {port: emulatortest.FreePort(t), inUse: 1, serves: 1, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := &serveCmd{Host: "127.0.0.1", Port: test.port}
			var serves atomic.Int32
			end := make(chan struct{})
			address, ended, err := c.begin(func(host, port string) error {
				at := net.JoinHostPort(host, port)
				if serves.Add(1) <= test.inUse {
					at = taken.Addr().String()
				}
				l, err := net.Listen("tcp", at)
				if err != nil {
					return err
				}
				<-end
				return l.Close()
			})
			close(end)
			if errors.Is(err, syscall.EADDRINUSE) != test.fails || err != nil != test.fails || serves.Load() != test.serves {
				t.Fatalf("%q, %v after %d", address, err, serves.Load())
			}
			if !test.fails {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		})
	}
}
