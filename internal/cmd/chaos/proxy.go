package main

import (
	"net"
	"sync"
	"time"
)

// proxy stands between the function and what it talks to, and passes TCP connections
// on as its mode says.
type proxy struct {
	addr     string
	target   string
	listener net.Listener

	mu      sync.Mutex
	mode    mode
	changed chan struct{} // closed when the mode changes
	conns   map[net.Conn]bool
	pieces  int
	moments map[int][]moment // by number of pieces
}

type mode int

const (
	passes  mode = iota
	slow         // each piece comes late
	silent       // connections are accepted and kept, and nothing passes
	refuses      // connections are closed
)

// late is by how much each piece comes late through a slow proxy.
const late = 40 * time.Millisecond

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{
		addr: l.Addr().String(), target: target, listener: l,
		changed: make(chan struct{}), conns: map[net.Conn]bool{}, moments: map[int][]moment{},
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c)
		}
	}()
	return p, nil
}

// set changes the mode, also for open connections.
func (p *proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
	if m == refuses {
		p.closeAll()
	}
}

// cut closes the open connections in the middle of what they carry.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeAll()
}

// closeAll resets what is open. The lock is held.
func (p *proxy) closeAll() {
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(p.conns)
}

// moment is when so many pieces have come. What happens then happens in the middle of
// the work, on a machine of any speed: the last piece passes when it has begun.
type moment struct{ reached, begun chan struct{} }

func (p *proxy) moment(pieces int) moment {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := moment{make(chan struct{}), make(chan struct{})}
	p.moments[pieces] = append(p.moments[pieces], m)
	return m
}

func (p *proxy) count() {
	p.mu.Lock()
	p.pieces++
	now := p.moments[p.pieces]
	p.mu.Unlock()
	for _, m := range now {
		close(m.reached)
		<-m.begun
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.set(refuses)
}

// hold waits until a piece may pass, and reports whether it may.
func (p *proxy) hold() bool {
	for {
		p.mu.Lock()
		m, changed := p.mode, p.changed
		p.mu.Unlock()
		switch m {
		case silent:
			<-changed
		case slow:
			time.Sleep(late)
			return true
		default:
			return m == passes
		}
	}
}

func (p *proxy) pass(near net.Conn) {
	far, err := net.Dial("tcp", p.target) //nolint:noctx // it is this machine's
	if err != nil {
		_ = near.Close()
		return
	}
	p.mu.Lock()
	p.conns[near], p.conns[far] = true, true
	if p.mode == refuses {
		p.closeAll()
	}
	p.mu.Unlock()
	copying := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		buf := make([]byte, 16<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				p.count()
				if !p.hold() {
					return
				}
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go copying(far, near)
	copying(near, far)
	p.mu.Lock()
	delete(p.conns, near)
	delete(p.conns, far)
	p.mu.Unlock()
}
