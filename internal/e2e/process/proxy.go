package process

import (
	"net"
	"sync"
	"time"
)

// Proxy stands between the function and what it talks to, and passes TCP connections
// on as its mode says.
type Proxy struct {
	Addr     string // where the function has to connect to
	target   string
	listener net.Listener

	mu      sync.Mutex
	mode    Mode
	changed chan struct{} // closed when the mode changes
	conns   map[net.Conn]bool
	pieces  int
	moments map[int][]Moment // by number of pieces
}

// Mode is how a proxy passes connections on.
type Mode int

// The modes.
const (
	Passes  Mode = iota
	Slow         // each piece comes late
	Silent       // connections are accepted and kept, and nothing passes
	Refuses      // connections are closed
)

// late is by how much each piece comes late through a slow proxy.
const late = 40 * time.Millisecond

// NewProxy starts one on a free port of this machine.
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		Addr: l.Addr().String(), target: target, listener: l,
		changed: make(chan struct{}), conns: map[net.Conn]bool{}, moments: map[int][]Moment{},
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

// Set changes the mode, also for open connections.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
	if m == Refuses {
		p.closeAll()
	}
}

// Cut closes the open connections in the middle of what they carry.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeAll()
}

// closeAll resets what is open. The lock is held.
func (p *Proxy) closeAll() {
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(p.conns)
}

// Moment is when so many pieces have come. What happens then happens in the middle of
// the work, on a machine of any speed: the last piece passes when it has begun.
type Moment struct{ Reached, Begun chan struct{} }

// Moment returns the one at which so many pieces have come.
func (p *Proxy) Moment(pieces int) Moment {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := Moment{make(chan struct{}), make(chan struct{})}
	p.moments[pieces] = append(p.moments[pieces], m)
	return m
}

func (p *Proxy) count() {
	p.mu.Lock()
	p.pieces++
	now := p.moments[p.pieces]
	p.mu.Unlock()
	for _, m := range now {
		close(m.Reached)
		<-m.Begun
	}
}

// Close ends what passes, and takes no more connections.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.Set(Refuses)
}

// hold waits until a piece may pass, and reports whether it may.
func (p *Proxy) hold() bool {
	for {
		p.mu.Lock()
		m, changed := p.mode, p.changed
		p.mu.Unlock()
		switch m {
		case Silent:
			<-changed
		case Slow:
			time.Sleep(late)
			return true
		default:
			return m == Passes
		}
	}
}

func (p *Proxy) pass(near net.Conn) {
	far, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = near.Close()
		return
	}
	p.mu.Lock()
	p.conns[near], p.conns[far] = true, true
	if p.mode == Refuses {
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
