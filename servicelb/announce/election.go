package announce

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/warrennet/warren/internal/model"
)

// Rules of the election, for each address:
//
//  1. A candidate is a node whose heartbeats arrive and which has a link whose subnet contains the address, or announces on
//     any link. With externalTrafficPolicy Local it also has a ready endpoint.
//  2. While no node announces the address, the candidate of the highest rank (rendezvous hash) begins. Each further
//     candidate begins TakeoverDelay later, in case the first one has not received the latest configuration.
//  3. A node that begins first probes for duplicates. Then it takes an epoch above every epoch that it has received for the
//     address.
//  4. Of two nodes that announce, the one with the lower epoch withdraws; with equal epochs, the one of lower rank. Both
//     sides of a partition announce. After the partition one node is left.
//  5. When no node has returned for StableTime, the candidate of the highest rank takes over, with a higher epoch. The
//     previous node answers until it receives that epoch, so some node always answers.
//  6. A node that answers on the link without its heartbeats arriving is alive. No node takes over its addresses. Of two
//     such nodes the one of lower rank withdraws.

// Address is one address that some node is to announce.
type Address struct {
	Addr netip.Addr
	// Nodes are the nodes that may announce it; nil: every node.
	Nodes []string
}

// Peer is another node of the cluster, with the source address of its heartbeats, its WireGuard key, and the key that replaces
// it, zero for none.
type Peer struct {
	Name         string
	Addr         netip.Addr
	Key, NextKey model.Key
}

// localLink is a link on which this node announces.
type localLink struct {
	name    string
	mac     mac
	subnets []netip.Prefix
}

// electorate is what the election of every address depends on.
type electorate struct {
	addresses []Address
	peers     []Peer
	links     []localLink
	anyLink   bool // announce addresses outside of the links' subnets on all links
}

// core is the state machine of one node. The caller passes the time, heartbeats and observations, and executes the
// actions. It is not for concurrent use.
type core struct {
	node    string
	timing  Timing
	started int64 // Unix nanoseconds, in every heartbeat

	anyLink   bool
	links     []localLink
	members   map[string]*member
	addresses map[netip.Addr]*address
	order     []netip.Addr // the keys of addresses, sorted

	activeSince    time.Time // since then there is an address to announce
	lastReturn     time.Time // when an unreachable node's heartbeats last resumed
	lastHeartbeat  time.Time
	lastToAll      time.Time // last heartbeat that included linkless nodes
	lastReview     time.Time // last step of every address
	seq            uint64
	claimOffset    int  // first claim of the next heartbeat, when one does not hold all
	urgent         bool // send a heartbeat at the next tick
	heartbeatToAll bool // the same, to linkless nodes too

	actions []action
	stats   Stats
}

// Stats are the counters since the start.
type Stats struct {
	Announced  int // addresses that this node announces now
	Healthy    int // other nodes whose heartbeats arrive
	Takeovers  uint64
	Duplicates uint64
}

// act is the kind of an action.
type act uint8

const (
	actProbe act = iota
	actAnnounce
	actAnswer
	actJoin
	actLeave
	actHeartbeat
)

// action is something to do on a link, or a heartbeat to send.
type action struct {
	do        act
	link      string
	addr      netip.Addr
	request   observation // the request that an answer is for
	heartbeat *heartbeat
	toAll     bool // send the heartbeat to linkless nodes too
}

func newCore(node string, t Timing, now time.Time) *core {
	return &core{node: node, timing: t.withDefaults(), started: now.UnixNano(),
		members: map[string]*member{}, addresses: map[netip.Addr]*address{}}
}

// set replaces the configuration.
func (c *core) set(now time.Time, e electorate) {
	c.setPeers(e.peers)
	if len(c.addresses) == 0 && len(e.addresses) > 0 {
		c.activeSince, c.lastReturn = now, now
		for _, m := range c.members {
			m.known = false // a node without addresses sends no heartbeats
		}
	}
	c.anyLink = e.anyLink
	c.setLinks(e.links)
	wanted := map[netip.Addr]bool{}
	for _, w := range e.addresses {
		wanted[w.Addr] = true
		a := c.addresses[w.Addr]
		if a == nil {
			a = &address{addr: w.Addr, unownedSince: now}
			c.addresses[w.Addr] = a
		}
		a.nodes = w.Nodes
	}
	for k, a := range c.addresses {
		if !wanted[k] {
			c.stop(a, "")
			delete(c.addresses, k)
		}
	}
	c.order = c.order[:0]
	for k := range c.addresses {
		c.order = append(c.order, k)
	}
	slices.SortFunc(c.order, netip.Addr.Compare)
}

// setLinks stops the announcement of an address whose links have changed; step starts it again. A link whose device was
// recreated must be removed in a call of its own first.
func (c *core) setLinks(links []localLink) {
	c.links = links
	for _, k := range c.order {
		if a := c.addresses[k]; a.links != nil && !slices.Equal(a.links, c.linksFor(k)) {
			c.stop(a, "")
		}
	}
}

// tick does what is due. The caller calls it several times per HeartbeatInterval.
func (c *core) tick(now time.Time) {
	review := now.Sub(c.lastReview) >= c.timing.HeartbeatInterval
	for _, m := range c.members {
		if m.healthy && now.Sub(m.lastReceived) > c.intervalFactor(m)*c.timing.DeadInterval {
			m.healthy, review = false, true
		}
		for a, h := range m.claims {
			if now.After(h.until) {
				delete(m.claims, a)
			}
		}
	}
	if review {
		c.lastReview = now
	}
	for _, k := range c.order {
		if a := c.addresses[k]; review || a.state == probing || a.state == announcing && !now.Before(a.due) {
			c.step(now, a)
		}
	}
	if len(c.addresses) > 0 && (c.urgent || c.heartbeatToAll || now.Sub(c.lastHeartbeat) >= c.timing.HeartbeatInterval) {
		c.lastHeartbeat, c.urgent = now, false
		c.sendHeartbeat(now)
	}
}

// linksFor returns the links on which an address is announced.
func (c *core) linksFor(a netip.Addr) (out []string) {
	for _, l := range c.links {
		if holdsHost(l.subnets, a) {
			out = append(out, l.name)
		}
	}
	if out == nil && c.anyLink && !anyNetworkOrBroadcast(c.links, a) {
		for _, l := range c.links {
			out = append(out, l.name)
		}
	}
	return out
}

// holdsHost reports whether the address is a host address of one of the subnets.
func holdsHost(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) && !isNetworkOrBroadcast(p, a) })
}

// anyNetworkOrBroadcast reports whether the address is the network or broadcast address of a link.
func anyNetworkOrBroadcast(links []localLink, a netip.Addr) bool {
	return slices.ContainsFunc(links, func(l localLink) bool {
		return slices.ContainsFunc(l.subnets, func(p netip.Prefix) bool { return isNetworkOrBroadcast(p, a) })
	})
}

func isNetworkOrBroadcast(p netip.Prefix, a netip.Addr) bool {
	if !p.Contains(a) || !a.Is4() || p.Bits() >= 31 {
		return false
	}
	b, host := a.As4(), ^uint32(0)>>p.Bits()
	n := binary.BigEndian.Uint32(b[:]) & host
	return n == 0 || n == host
}

// takeActions returns the actions since the last call.
func (c *core) takeActions() []action {
	out := c.actions
	c.actions = nil
	return out
}
