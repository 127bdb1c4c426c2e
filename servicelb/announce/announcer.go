package announce

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrennet/warren/internal/listen"
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
	// Self is the source address of heartbeats: this node's Pod-net address, so that they go through the tunnel, whose
	// interface is Device.
	Self   netip.Addr
	Device string
	Peers  []Peer
	Links  []Link
	// AnyLink announces an address that is in no link's subnet on all links.
	AnyLink   bool
	Addresses []Address
}

// Announcer announces addresses for one node. Its methods may be called from any goroutine.
type Announcer struct {
	node    string
	log     *slog.Logger
	timing  Timing
	keys    Keys
	sockets *listen.Sockets

	mu      sync.Mutex
	desired *Desired
	wake    chan struct{} // desired has changed

	view      atomic.Pointer[View]
	addresses atomic.Pointer[map[netip.Addr]bool] // readers drop observations about other addresses
}

// Config is what an Announcer works with.
type Config struct {
	Node   string
	Timing Timing // zero: the default
	Keys   Keys
	// Sockets have the socket of heartbeats, and the problem while it cannot be opened.
	Sockets *listen.Sockets
	Log     *slog.Logger
}

// Role is that of the socket of heartbeats.
const Role = "heartbeat"

// part is what does not work on this node while the socket is not open.
const part = "load balancer heartbeats"

// New returns an announcer. It opens and starts nothing.
func New(c Config) *Announcer {
	a := &Announcer{node: c.Node, log: c.Log, timing: c.Timing, keys: c.Keys, sockets: c.Sockets, wake: make(chan struct{}, 1)}
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

// receivedDatagram is one that has the form of an envelope.
type receivedDatagram struct {
	from netip.Addr
	raw  []byte
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
	conn  *net.UDPConn // of heartbeats, on address self and the link with index device
	self  netip.Addr

	device   int
	sessions *sessions

	heartbeats   chan receivedDatagram
	observations chan linkObservation
	readers      sync.WaitGroup
	failed       map[string]string // last error by object: each failure is logged once
}

// Run announces until ctx ends. It leaves nothing behind: the host never has the addresses.
func (a *Announcer) Run(ctx context.Context) error {
	l := &runner{Announcer: a, core: newCore(a.node, a.timing, time.Now()), links: map[string]*link{},
		failed:   map[string]string{},
		sessions: newSessions(a.keys), heartbeats: make(chan receivedDatagram, queueLen),
		observations: make(chan linkObservation, queueLen)}
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
			l.set(ctx, d)
		case h := <-l.heartbeats:
			l.receive(h)
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
func (l *runner) set(ctx context.Context, d *Desired) {
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
	errs := l.sessions.set(time.Now(), d.Peers)
	for _, p := range d.Peers {
		l.logFailure("node "+p.Name, errs[p.Name])
	}
	l.listen(ctx, d.Self, d.Device)
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

// listen opens the heartbeat socket on the node's present address, bound to the tunnel's interface: no datagram from another
// link reaches it. When the interface has been recreated, the socket is, too.
func (l *runner) listen(ctx context.Context, self netip.Addr, device string) {
	index := 0
	if link, err := net.InterfaceByName(device); err == nil {
		index = link.Index
	}
	if l.conn != nil && l.self == self && l.device == index || !self.IsValid() {
		return
	}
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
	k := listen.Socket{Role: Role, Network: "udp", Address: netip.AddrPortFrom(self, Port).String(),
		Options: func(fd int) error { return bindToDevice(fd, device) }}
	l.sockets.Keep(Role, k)
	conn, err := l.sockets.Packet(ctx, k)
	l.sockets.Report(part, err)
	if err != nil {
		return // the next Set tries again
	}
	l.conn, l.self, l.device = conn, self, index
	l.readers.Go(func() { l.readHeartbeats(conn) })
}

// bindToDevice sets SO_BINDTODEVICE.
func bindToDevice(fd int, device string) error {
	if err := unix.BindToDevice(fd, device); err != nil {
		return fmt.Errorf("bind the socket to interface %s: %w", device, err)
	}
	return nil
}

// readHeartbeats passes datagrams to the loop of Run until the socket is closed.
func (l *runner) readHeartbeats(conn *net.UDPConn) {
	buf := make([]byte, maxEnvelopeLen+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if !isEnvelope(buf[:n]) || from.Port() != Port {
			continue
		}
		select {
		case l.heartbeats <- receivedDatagram{from.Addr().Unmap(), slices.Clone(buf[:n])}:
		default:
		}
	}
}

// receive verifies a datagram and passes its heartbeat to the core.
func (l *runner) receive(d receivedDatagram) {
	o, ok := l.sessions.open(d.from, d.raw)
	if !ok {
		return
	}
	if o.reply {
		l.send(o.from, nil)
	}
	if len(o.body) == 0 {
		return
	}
	if h, err := decodeHeartbeat(o.body); err == nil {
		l.core.receive(time.Now(), d.from, h)
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
	body := x.heartbeat.encode()
	for name, m := range l.core.members {
		if m.addr.IsValid() && (x.toAll || !l.core.linkless(m)) {
			l.send(name, body)
		}
	}
}

// send sends a heartbeat, or an empty datagram, to a node.
func (l *runner) send(name string, body []byte) {
	m := l.core.members[name]
	if l.conn == nil || m == nil {
		return
	}
	if raw := l.sessions.seal(name, body); raw != nil {
		// An error counts as a lost heartbeat: DeadInterval tolerates two in a row.
		_, _ = l.conn.WriteToUDPAddrPort(raw, netip.AddrPortFrom(m.addr, Port))
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
