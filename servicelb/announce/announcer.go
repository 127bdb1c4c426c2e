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

	"github.com/warrennet/warren/internal/model"
)

// Port is the UDP port of heartbeats. It is below every port that policy routing redirects to the tunnel.
const Port = 9552

// queueLen bounds the heartbeats and the observations that wait for the loop of Run.
const queueLen = 64

// Link is a network link on which addresses are announced.
type Link struct {
	Name    string
	Index   int
	MAC     net.HardwareAddr
	Subnets []netip.Prefix // of the link's own addresses
}

// Desired is which addresses to announce, together with which nodes, on which links.
type Desired struct {
	// Self is the source address of heartbeats: this node's Pod-net address, so that they go through the tunnel.
	Self  netip.Addr
	Peers []Peer
	Links []Link
	// AnyLink announces an address that is in no link's subnet on all links.
	AnyLink   bool
	Addresses []Address
}

// Announcer announces addresses for one node. Its methods may be called from any goroutine.
type Announcer struct {
	node   string
	log    *slog.Logger
	timing Timing

	mu      sync.Mutex
	desired *Desired
	wake    chan struct{} // desired has changed

	view      atomic.Pointer[View]
	addresses atomic.Pointer[map[netip.Addr]bool] // readers drop observations about other addresses
}

// New returns an announcer. It opens and starts nothing.
func New(node string, t Timing, log *slog.Logger) *Announcer {
	a := &Announcer{node: node, log: log, timing: t, wake: make(chan struct{}, 1)}
	a.view.Store(&View{})
	a.addresses.Store(&map[netip.Addr]bool{})
	return a
}

// Set replaces the desired state. It does not wait for Run to apply it.
func (a *Announcer) Set(d Desired) {
	a.mu.Lock()
	a.desired = &d
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// View returns the present state of all announcements, as received by this node.
func (a *Announcer) View() View { return *a.view.Load() }

type receivedHeartbeat struct {
	from      netip.Addr
	heartbeat heartbeat
}

type linkObservation struct {
	link        string
	observation observation
}

// runner is the state of Run. Only its goroutine uses it; readers send on the two channels.
type runner struct {
	*Announcer
	core  *core
	links map[string]*link
	conn  *net.UDPConn // of heartbeats, on address self
	self  netip.Addr

	heartbeats   chan receivedHeartbeat
	observations chan linkObservation
	readers      sync.WaitGroup
	failed       map[string]string // last error by object: each failure is logged once
}

// Run announces until ctx ends. It leaves nothing behind: the host never has the addresses.
func (a *Announcer) Run(ctx context.Context) error {
	l := &runner{Announcer: a, core: newCore(a.node, a.timing, time.Now()), links: map[string]*link{}, failed: map[string]string{},
		heartbeats: make(chan receivedHeartbeat, queueLen), observations: make(chan linkObservation, queueLen)}
	defer l.close()
	t := time.NewTicker(l.core.timing.HeartbeatInterval / 3)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
			a.mu.Lock()
			d := a.desired
			a.mu.Unlock()
			l.set(d)
		case h := <-l.heartbeats:
			l.core.receive(time.Now(), h.from, h.heartbeat)
		case o := <-l.observations:
			l.core.observe(time.Now(), o.link, o.observation)
		case <-t.C:
			l.core.tick(time.Now())
			l.publish()
		}
		l.execute(l.core.takeActions())
	}
}

// set opens and closes the sockets of links and passes the desired state to the core.
func (l *runner) set(d *Desired) {
	addresses := map[netip.Addr]bool{}
	for _, x := range d.Addresses {
		addresses[x.Addr] = true
	}
	l.addresses.Store(&addresses)
	l.closeRemoved(d.Links)
	var links []localLink
	for _, w := range d.Links {
		if k := l.open(w); k != nil {
			links = append(links, k.localLink)
		}
	}
	l.core.set(time.Now(), electorate{addresses: d.Addresses, peers: d.Peers, links: links, anyLink: d.AnyLink})
	l.listen(d.Self)
	l.core.tick(time.Now())
	l.publish()
}

// closeRemoved closes links that were removed, or whose device was recreated. The core leaves their groups before.
func (l *runner) closeRemoved(desired []Link) {
	unchanged := func(name string) bool {
		return slices.ContainsFunc(desired, func(w Link) bool {
			mac, _ := parseMAC(w.MAC)
			k := l.links[name]
			return w.Name == name && k != nil && k.index == w.Index && k.mac == mac
		})
	}
	l.core.setLinks(slices.DeleteFunc(slices.Clone(l.core.links), func(x localLink) bool { return !unchanged(x.name) }))
	l.execute(l.core.takeActions())
	for n, k := range l.links {
		if !unchanged(n) {
			k.close()
			delete(l.links, n)
		}
	}
}

// open opens the sockets of a link, once. It returns nil when the link is not Ethernet or its sockets cannot be opened.
func (l *runner) open(w Link) *link {
	mac, ok := parseMAC(w.MAC)
	if !ok {
		return nil
	}
	if k := l.links[w.Name]; k != nil {
		k.subnets = w.Subnets
		return k
	}
	k, err := openLink(localLink{w.Name, mac, w.Subnets}, w.Index)
	l.logFailure("link "+w.Name, err)
	if err != nil {
		return nil
	}
	l.links[w.Name] = k
	for _, f := range k.files {
		l.readers.Go(func() {
			k.read(f, func(o observation) {
				if m := *l.addresses.Load(); m[o.target] || m[o.claimed] {
					l.deliver(linkObservation{w.Name, o})
				}
			})
		})
	}
	return k
}

// deliver passes an observation to the loop of Run. When the queue is full it is dropped; hosts repeat their requests.
func (l *runner) deliver(o linkObservation) {
	select {
	case l.observations <- o:
	default:
	}
}

// listen opens the heartbeat socket on the node's present address.
func (l *runner) listen(self netip.Addr) {
	if l.conn != nil && l.self == self || !self.IsValid() {
		return
	}
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(self, Port)))
	l.logFailure("heartbeat socket", err)
	if err != nil {
		return // the next Set tries again
	}
	l.conn, l.self = conn, self
	l.readers.Go(func() { l.readHeartbeats(conn) })
}

// readHeartbeats passes heartbeats to the loop of Run until the socket is closed.
func (l *runner) readHeartbeats(conn *net.UDPConn) {
	buf := make([]byte, maxHeartbeatLen+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		h, err := decodeHeartbeat(buf[:n])
		if err != nil || from.Port() != Port {
			continue
		}
		select {
		case l.heartbeats <- receivedHeartbeat{from.Addr().Unmap(), h}:
		default:
		}
	}
}

// execute does what the core decided. A failure is logged once and does not prevent the other actions.
func (l *runner) execute(list []action) {
	for _, x := range list {
		if x.do == actHeartbeat {
			l.sendHeartbeat(x)
			continue
		}
		k := l.links[x.link]
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
			for _, f := range frames(k.mac, x) {
				if e := k.send(f); e != nil {
					err = e
				}
			}
		}
		l.logFailure("address "+x.addr.String(), err)
	}
}

// frames returns the frames of an action that sends.
func frames(from mac, x action) [][]byte {
	family := model.FamilyOf(x.addr)
	switch {
	case x.do == actProbe && family == model.IPv4:
		return [][]byte{arpProbe(from, x.addr)}
	case x.do == actProbe:
		return [][]byte{ndProbe(from, x.addr)}
	case x.do == actAnnounce && family == model.IPv4:
		return arpAnnounce(from, x.addr)
	case x.do == actAnnounce:
		return [][]byte{ndAnnounce(from, x.addr)}
	case family == model.IPv4:
		return [][]byte{arpAnswer(from, x.addr, x.request)}
	}
	return [][]byte{ndAnswer(from, x.addr, x.request)}
}

func (l *runner) sendHeartbeat(x action) {
	if l.conn == nil {
		return
	}
	raw := x.heartbeat.encode()
	for _, m := range l.core.members {
		if m.addr.IsValid() && (x.toAll || !l.core.linkless(m)) {
			// An error counts as a lost heartbeat: DeadInterval tolerates two in a row.
			_, _ = l.conn.WriteToUDPAddrPort(raw, netip.AddrPortFrom(m.addr, Port))
		}
	}
}

// logFailure logs the failure of an object when it begins or changes.
func (l *runner) logFailure(object string, err error) {
	if err == nil {
		delete(l.failed, object)
		return
	}
	if l.failed[object] != err.Error() {
		l.failed[object] = err.Error()
		l.log.Warn("cannot apply announcement configuration", "object", object, "err", err)
	}
}

func (l *runner) close() {
	if l.conn != nil {
		l.conn.Close()
	}
	for _, k := range l.links {
		k.close()
	}
	l.readers.Wait()
}
