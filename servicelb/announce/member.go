package announce

import (
	"net/netip"
	"time"
)

// member is another node.
type member struct {
	addr         netip.Addr
	known        bool // a heartbeat arrived since there is an address to announce
	healthy      bool // its heartbeats arrive: false after DeadInterval without one (see Timing)
	lastReceived time.Time
	last         heartbeat
	macs         map[mac]bool // every MAC address that it ever sent
	claims       map[netip.Addr]memberClaim
}

// memberClaim is the claim of a member. It expires when the member does not repeat it.
type memberClaim struct {
	epoch uint64
	until time.Time
}

func (c *core) setPeers(peers []Peer) {
	names := map[string]bool{}
	for _, p := range peers {
		names[p.Name] = true
		m := c.members[p.Name]
		if m == nil {
			m = &member{macs: map[mac]bool{}, claims: map[netip.Addr]memberClaim{}}
			c.members[p.Name] = m
		}
		m.addr = p.Addr
	}
	for n := range c.members {
		if !names[n] {
			delete(c.members, n)
		}
	}
}

// receive processes a heartbeat. Heartbeats of unknown sources and reordered ones are ignored. A node that was unreachable
// may return with an earlier clock.
func (c *core) receive(now time.Time, from netip.Addr, b heartbeat) {
	name, m := c.memberAt(from)
	if m == nil || m.healthy && (b.started < m.last.started || b.started == m.last.started && b.seq <= m.last.seq) {
		return
	}
	if !m.healthy {
		c.lastReturn = now
		c.heartbeatsResumed(name)
	}
	c.heartbeatToAll = c.heartbeatToAll || !m.known || b.started != m.last.started // it has no heartbeat of this node yet
	m.known, m.healthy, m.lastReceived, m.last = true, true, now, b
	for _, h := range b.macs {
		if len(m.macs) < 8*maxMACs {
			m.macs[h] = true
		}
	}
	if b.total <= maxClaims {
		clear(m.claims)
	}
	rounds := time.Duration(b.total/maxClaims + 1)
	for _, x := range b.claims {
		if a := c.addresses[x.addr]; a != nil {
			life := c.intervalFactor(m) * (c.timing.DeadInterval + 3*rounds*c.timing.HeartbeatInterval)
			epoch := min(x.epoch, maxEpoch)
			m.claims[x.addr] = memberClaim{epoch, now.Add(life)}
			a.highestEpoch = max(a.highestEpoch, epoch)
			a.lastOwner, a.lastAnnounced = name, now
		}
	}
}

func (c *core) memberAt(a netip.Addr) (string, *member) {
	for n, m := range c.members {
		if m.addr == a {
			return n, m
		}
	}
	return "", nil
}

// linklessFactor is how many times longer the heartbeat interval, and the time until a node counts as unreachable, are
// when one of the two nodes has no link to announce on. No address depends on such a node, and a heartbeat costs both sides.
const linklessFactor = 7

// linkless reports whether this node or a member has no link to announce on.
func (c *core) linkless(m *member) bool {
	return len(c.links) == 0 || m.known && len(m.last.macs) == 0
}

// intervalFactor is by how much the heartbeats of a member are rarer.
func (c *core) intervalFactor(m *member) time.Duration {
	if c.linkless(m) {
		return linklessFactor
	}
	return 1
}

// settled reports whether a heartbeat of every node has arrived, or ListenTime has passed. Before that this node begins no
// announcement, which could take an address away from another node.
func (c *core) settled(now time.Time) bool {
	if now.Sub(c.activeSince) >= c.timing.ListenTime {
		return true
	}
	for _, m := range c.members {
		if !m.known {
			return false
		}
	}
	return now.Sub(c.activeSince) >= 2*c.timing.HeartbeatInterval // an earlier heartbeat may precede the first address
}

// sendHeartbeat sends this node's claims to the other nodes, and to linkless nodes at every linklessFactor-th interval.
func (c *core) sendHeartbeat(now time.Time) {
	all := c.heartbeatToAll || now.Sub(c.lastToAll) >= linklessFactor*c.timing.HeartbeatInterval
	if all {
		c.lastToAll, c.heartbeatToAll = now, false
	}
	c.seq++
	b := &heartbeat{started: c.started, seq: c.seq, anyLink: c.anyLink}
	for _, l := range c.links {
		b.macs = append(b.macs, l.mac)
		b.subnets = append(b.subnets, l.subnets...)
	}
	var mine []claim
	for _, k := range c.order {
		if a := c.addresses[k]; a.state == announcing {
			mine = append(mine, claim{k, a.epoch})
		}
	}
	b.total = len(mine)
	if len(mine) > maxClaims {
		at := c.claimOffset % len(mine)
		mine = append(mine[at:], mine[:at]...)[:maxClaims]
		c.claimOffset = at + maxClaims
	}
	b.claims = mine
	c.actions = append(c.actions, action{do: actHeartbeat, heartbeat: b, toAll: all})
}
