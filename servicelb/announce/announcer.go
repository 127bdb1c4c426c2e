package announce

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Port is the UDP port of heartbeats, below the ports that are steered to the tunnel.
const Port = 9552

// Link is a network link to announce on.
type Link struct {
	Name    string
	Index   int
	MAC     net.HardwareAddr
	Subnets []netip.Prefix // of the link's own addresses
}

// Desired is what should be announced, with whom and where.
type Desired struct {
	// Self is the address that heartbeats come from: this node's in the Pod network, so that the tunnel carries them.
	Self  netip.Addr
	Peers []Peer
	Links []Link
	// Any announces addresses that lie in no link's subnet on all of the links.
	Any       bool
	Addresses []Address
}

// Announcer is one node's part. New prepares it, Run does everything.
type Announcer struct {
	node   string
	log    *slog.Logger
	timing Timing

	mu   sync.Mutex
	want *Desired // not yet taken over
	wake chan struct{}

	view atomic.Pointer[View]
	mine atomic.Pointer[map[netip.Addr]bool] // what sightings may be about
}

// New prepares an announcer; it touches nothing.
func New(node string, t Timing, log *slog.Logger) *Announcer {
	a := &Announcer{node: node, log: log, timing: t, wake: make(chan struct{}, 1)}
	a.view.Store(&View{})
	a.mine.Store(&map[netip.Addr]bool{})
	return a
}

// Set says what is wanted from now on. It does not wait.
func (a *Announcer) Set(d Desired) {
	a.mu.Lock()
	a.want = &d
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// View returns what this node sees.
func (a *Announcer) View() View { return *a.view.Load() }

// heardBeat and seen are what the readers hand to the loop.
type heardBeat struct {
	from netip.Addr
	beat beat
}

type seen struct {
	on string
	s  sighting
}

// loop is what Run works with; only its goroutine uses it.
type loop struct {
	*Announcer
	core  *core
	links map[string]*link
	conn  *net.UDPConn
	self  netip.Addr

	beats   chan heardBeat
	sights  chan seen
	readers sync.WaitGroup
	failed  map[string]string // by subject, so that each failure is logged once
}

// Run announces until ctx ends. What it leaves behind is nothing: addresses are never given to the host.
func (a *Announcer) Run(ctx context.Context) error {
	l := &loop{Announcer: a, core: newCore(a.node, a.timing, time.Now()), links: map[string]*link{},
		beats: make(chan heardBeat, 64), sights: make(chan seen, 64), failed: map[string]string{}}
	defer l.close()
	t := time.NewTicker(l.core.t.Beat / 3)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
			a.mu.Lock()
			d := a.want
			a.mu.Unlock()
			l.set(d)
		case b := <-l.beats:
			l.core.heard(time.Now(), b.from, b.beat)
		case s := <-l.sights:
			l.core.saw(time.Now(), s.on, s.s)
		case <-t.C:
			l.core.tick(time.Now())
			l.show()
		}
		l.carryOut(l.core.take())
	}
}

// set opens and closes what the links need and tells the core.
func (l *loop) set(d *Desired) {
	mine := map[netip.Addr]bool{}
	for _, x := range d.Addresses {
		mine[x.Addr] = true
	}
	l.mine.Store(&mine)
	l.closeOthers(d.Links)
	var lans []lan
	for _, w := range d.Links {
		if k := l.open(w); k != nil {
			lans = append(lans, k.lan)
		}
	}
	l.core.set(time.Now(), d.Addresses, d.Peers, lans, d.Any)
	l.listen(d.Self)
	l.core.tick(time.Now())
	l.show()
}

// closeOthers closes the links that are gone, or whose device is another one now. Their groups are left before.
func (l *loop) closeOthers(want []Link) {
	stays := func(name string) bool {
		return slices.ContainsFunc(want, func(w Link) bool {
			hw, _ := parseMAC(w.MAC)
			k := l.links[name]
			return w.Name == name && k != nil && k.index == w.Index && k.hw == hw
		})
	}
	l.core.setLANs(slices.DeleteFunc(slices.Clone(l.core.lans), func(x lan) bool { return !stays(x.name) }))
	l.carryOut(l.core.take())
	for n, k := range l.links {
		if !stays(n) {
			k.close()
			delete(l.links, n)
		}
	}
}

// open makes sure that a link's sockets are open; nil if it is no Ethernet link or they cannot be.
func (l *loop) open(w Link) *link {
	hw, ok := parseMAC(w.MAC)
	if !ok {
		return nil
	}
	if k := l.links[w.Name]; k != nil {
		k.subnets = w.Subnets
		return k
	}
	k, err := openLink(lan{w.Name, hw, w.Subnets}, w.Index)
	l.problem("open "+w.Name, err)
	if err != nil {
		return nil
	}
	l.links[w.Name] = k
	for _, f := range k.files {
		l.readers.Go(func() {
			k.read(f, func(s sighting) {
				if m := *l.mine.Load(); m[s.asked] || m[s.claimed] {
					l.hand(seen{w.Name, s})
				}
			})
		})
	}
	return k
}

// hand passes a sighting on; in a flood some are lost, and asked again.
func (l *loop) hand(s seen) {
	select {
	case l.sights <- s:
	default:
	}
}

// listen opens the heartbeat socket on the node's present address.
func (l *loop) listen(self netip.Addr) {
	if l.conn != nil && l.self == self || !self.IsValid() {
		return
	}
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(self, Port)))
	l.problem("heartbeats", err)
	if err != nil {
		return // tried again with the next Set
	}
	l.conn, l.self = conn, self
	l.readers.Go(func() {
		buf := make([]byte, maxBeat+1)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			b, err := decodeBeat(buf[:n])
			if err != nil || from.Port() != Port {
				continue
			}
			select {
			case l.beats <- heardBeat{from.Addr().Unmap(), b}:
			default:
			}
		}
	})
}

// carryOut does what the core decided. A failure is told once and does not stop the rest.
func (l *loop) carryOut(list []action) {
	for _, x := range list {
		if x.do == actBeat {
			l.beat(x)
			continue
		}
		k := l.links[x.lan]
		if k == nil {
			continue
		}
		var err error
		switch x.do {
		case actJoin:
			err = k.join(x.addr)
		case actLeave:
			err = k.leave(x.addr)
		default:
			for _, f := range frames(k.hw, x) {
				if e := k.send(f); e != nil {
					err = e
				}
			}
		}
		l.problem("announce "+x.addr.String(), err)
	}
}

// frames are what an action puts on the wire.
func frames(hw mac, x action) [][]byte {
	v4 := x.addr.Is4()
	switch {
	case x.do == actProbe && v4:
		return [][]byte{arpProbe(hw, x.addr)}
	case x.do == actProbe:
		return [][]byte{ndProbe(hw, x.addr)}
	case x.do == actAnnounce && v4:
		return arpAnnounce(hw, x.addr)
	case x.do == actAnnounce:
		return [][]byte{ndAnnounce(hw, x.addr)}
	case v4:
		return [][]byte{arpAnswer(hw, x.addr, x.to)}
	}
	return [][]byte{ndAnswer(hw, x.addr, x.to)}
}

func (l *loop) beat(x action) {
	if l.conn == nil {
		return
	}
	raw := x.beat.encode()
	for _, m := range l.core.members {
		if m.addr.IsValid() && (x.all || !l.core.slow(m)) {
			_, _ = l.conn.WriteToUDPAddrPort(raw, netip.AddrPortFrom(m.addr, Port)) // one that is lost is one that is missed
		}
	}
}

// problem logs a failure when it begins.
func (l *loop) problem(what string, err error) {
	if err == nil {
		delete(l.failed, what)
		return
	}
	if l.failed[what] != err.Error() {
		l.failed[what] = err.Error()
		l.log.Warn("cannot announce load balancer addresses as wanted", "what", what, "err", err)
	}
}

func (l *loop) close() {
	if l.conn != nil {
		l.conn.Close()
	}
	for _, k := range l.links {
		k.close()
	}
	l.readers.Wait()
}
