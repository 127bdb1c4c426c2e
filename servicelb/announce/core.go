package announce

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// Who announces an address:
//
//  1. Candidates are the nodes whose heartbeats arrive, that have a link whose subnet holds the address (or announce on any
//     link), and, with externalTrafficPolicy Local, that have a ready endpoint.
//  2. While nobody announces it, the candidate with the highest rendezvous hash begins; the next ones wait their turn, in
//     case that one knows less than they do.
//  3. Who begins probes for duplicates first, then takes an epoch above all that were ever heard of for the address.
//  4. Of two that announce, the higher epoch goes on (then the higher hash), the other one withdraws. Two sides of a
//     partition each have one; when it heals, one is left.
//  5. Once nobody came back for a while, the candidate with the highest hash takes its addresses over from whoever has
//     them, by a higher epoch: the old one answers until it hears the new one, so nobody is without an answer.
//  6. A node that answers on the LAN although its heartbeats do not arrive is alive and cannot be talked to: nobody takes
//     its addresses over; of two such, the lower hash withdraws.

// Address is one address to be announced by some node.
type Address struct {
	Addr netip.Addr
	// Nodes may announce it; nil: every node.
	Nodes []string
}

// Peer is another node of the cluster and where its heartbeats come from.
type Peer struct {
	Name string
	Addr netip.Addr
}

// lan is a link that this node announces on.
type lan struct {
	name    string
	hw      mac
	subnets []netip.Prefix
}

// core is the state machine of one node. The caller hands in the time, heartbeats and sightings, and carries out what it
// finds in out. It is not for concurrent use.
type core struct {
	me   string
	t    Timing
	born int64

	any     bool // announce addresses outside of the links' subnets on all of them
	lans    []lan
	members map[string]*member
	addrs   map[netip.Addr]*address
	order   []netip.Addr // of addrs, sorted

	since    time.Time // there has been something to announce since
	calmFrom time.Time // the last time somebody came back
	lastBeat time.Time
	lastAll  time.Time
	lastLook time.Time
	seq      uint64
	turn     int  // of claims, where one datagram does not hold them all
	hasty    bool // something to tell the others at once
	greet    bool // and those that are told seldom too

	out   []action
	stats Stats
}

// Stats counts what happened since the start.
type Stats struct {
	Announced  int // addresses that this node announces now
	Healthy    int // other nodes whose heartbeats arrive
	Takeovers  uint64
	Duplicates uint64
}

// act is a kind of action.
type act uint8

const (
	actProbe act = iota
	actAnnounce
	actAnswer
	actJoin
	actLeave
	actBeat
)

// action is something to be done on a link, or a heartbeat to be sent.
type action struct {
	do   act
	lan  string
	addr netip.Addr
	to   sighting // that an answer is for
	beat *beat
	all  bool // the heartbeat goes to those that are told seldom too
}

func newCore(me string, t Timing, now time.Time) *core {
	return &core{me: me, t: t.defaults(), born: now.UnixNano(), members: map[string]*member{}, addrs: map[netip.Addr]*address{}}
}

// set takes over what is wanted now.
func (c *core) set(now time.Time, addrs []Address, peers []Peer, lans []lan, any bool) {
	c.setPeers(peers)
	if len(c.addrs) == 0 && len(addrs) > 0 {
		c.since, c.calmFrom = now, now
		for _, m := range c.members {
			m.known = false // without addresses nobody sends heartbeats
		}
	}
	c.any = any
	c.setLANs(lans)
	wanted := map[netip.Addr]bool{}
	for _, w := range addrs {
		wanted[w.Addr] = true
		a := c.addrs[w.Addr]
		if a == nil {
			a = &address{addr: w.Addr, vacant: now}
			c.addrs[w.Addr] = a
		}
		a.nodes = w.Nodes
	}
	for k, a := range c.addrs {
		if !wanted[k] {
			c.stop(a, "")
			delete(c.addrs, k)
		}
	}
	c.order = c.order[:0]
	for k := range c.addrs {
		c.order = append(c.order, k)
	}
	slices.SortFunc(c.order, netip.Addr.Compare)
}

// setLANs: an address that is announced on another set of links now begins anew. A link whose device changed has to go
// before it comes back.
func (c *core) setLANs(lans []lan) {
	c.lans = lans
	for _, k := range c.order {
		if a := c.addrs[k]; a.lans != nil && !slices.Equal(a.lans, c.on(k)) {
			c.stop(a, "")
		}
	}
}

// tick does what time brings. It is called several times within a heartbeat's interval.
func (c *core) tick(now time.Time) {
	look := now.Sub(c.lastLook) >= c.t.Beat
	for _, m := range c.members {
		if m.healthy && now.Sub(m.heard) > c.pace(m)*c.t.Dead {
			m.healthy, look = false, true
		}
		for a, h := range m.claims {
			if now.After(h.until) {
				delete(m.claims, a)
			}
		}
	}
	if look {
		c.lastLook = now
	}
	for _, k := range c.order {
		if a := c.addrs[k]; look || a.state == probing || a.state == announcing && !now.Before(a.next) {
			c.step(now, a)
		}
	}
	if len(c.addrs) > 0 && (c.hasty || c.greet || now.Sub(c.lastBeat) >= c.t.Beat) {
		c.lastBeat, c.hasty = now, false
		c.sendBeat(now)
	}
}

// on lists the links that an address is announced on.
func (c *core) on(a netip.Addr) (out []string) {
	for _, l := range c.lans {
		if within(l.subnets, a) {
			out = append(out, l.name)
		}
	}
	if out == nil && c.any && !edge(c.lans, a) {
		for _, l := range c.lans {
			out = append(out, l.name)
		}
	}
	return out
}

// within reports whether a host of one of the subnets can have the address.
func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) && !isEdge(p, a) })
}

// edge reports whether an address is some link's network or broadcast address.
func edge(lans []lan, a netip.Addr) bool {
	return slices.ContainsFunc(lans, func(l lan) bool {
		return slices.ContainsFunc(l.subnets, func(p netip.Prefix) bool { return isEdge(p, a) })
	})
}

func isEdge(p netip.Prefix, a netip.Addr) bool {
	if !p.Contains(a) || !a.Is4() || p.Bits() >= 31 {
		return false
	}
	b, host := a.As4(), ^uint32(0)>>p.Bits()
	n := binary.BigEndian.Uint32(b[:]) & host
	return n == 0 || n == host
}

// take returns the actions since the last call.
func (c *core) take() []action {
	out := c.out
	c.out = nil
	return out
}
