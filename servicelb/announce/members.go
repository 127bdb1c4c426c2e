package announce

import (
	"net/netip"
	"time"
)

// member is another node.
type member struct {
	addr    netip.Addr
	known   bool // heard since there is something to announce
	healthy bool
	heard   time.Time
	last    beat
	macs    map[mac]bool // that it ever had
	claims  map[netip.Addr]heldClaim
}

type heldClaim struct {
	epoch uint64
	until time.Time
}

func (c *core) setPeers(peers []Peer) {
	names := map[string]bool{}
	for _, p := range peers {
		names[p.Name] = true
		m := c.members[p.Name]
		if m == nil {
			m = &member{macs: map[mac]bool{}, claims: map[netip.Addr]heldClaim{}}
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

// heard takes a heartbeat of a member in.
func (c *core) heard(now time.Time, from netip.Addr, b beat) {
	name, m := c.memberAt(from)
	if m == nil || m.healthy && (b.born < m.last.born || b.born == m.last.born && b.seq <= m.last.seq) {
		return // a stranger, or a datagram that others overtook; but one that was silent may have had its clock set back
	}
	if !m.healthy {
		c.calmFrom = now
		c.speaks(name)
	}
	c.greet = c.greet || !m.known || b.born != m.last.born // it waits to hear of us
	m.known, m.healthy, m.heard, m.last = true, true, now, b
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
		if a := c.addrs[x.addr]; a != nil {
			m.claims[x.addr] = heldClaim{x.epoch, now.Add(c.pace(m) * (c.t.Dead + 3*rounds*c.t.Beat))}
			a.top = max(a.top, x.epoch)
			a.last, a.announcedAt = name, now
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

// seldom is how many times rarer heartbeats are to and from nodes without a link to announce on: nothing depends on their
// end, and every datagram costs both sides.
const seldom = 7

// slow reports whether this node and a member tell each other little.
func (c *core) slow(m *member) bool {
	return len(c.lans) == 0 || m.known && len(m.last.macs) == 0
}

// pace is by how much heartbeats from a member are rarer than usual.
func (c *core) pace(m *member) time.Duration {
	if c.slow(m) {
		return seldom
	}
	return 1
}

// settled reports whether this node has heard of everybody, or waited for them long enough. Before that it begins nothing:
// it would take away what the others have.
func (c *core) settled(now time.Time) bool {
	if now.Sub(c.since) >= c.t.Listen {
		return true
	}
	for _, m := range c.members {
		if !m.known {
			return false
		}
	}
	return now.Sub(c.since) >= 2*c.t.Beat // a beat that was under way when this node had no address yet says too little
}

// sendBeat tells the others what this node announces, those that are told seldom only now and then.
func (c *core) sendBeat(now time.Time) {
	all := c.greet || now.Sub(c.lastAll) >= seldom*c.t.Beat
	if all {
		c.lastAll, c.greet = now, false
	}
	c.seq++
	b := &beat{born: c.born, seq: c.seq, any: c.any}
	for _, l := range c.lans {
		b.macs = append(b.macs, l.hw)
		b.subnets = append(b.subnets, l.subnets...)
	}
	var mine []claim
	for _, k := range c.order {
		if a := c.addrs[k]; a.state == announcing {
			mine = append(mine, claim{k, a.epoch})
		}
	}
	b.total = len(mine)
	if len(mine) > maxClaims {
		at := c.turn % len(mine)
		mine = append(mine[at:], mine[:at]...)[:maxClaims]
		c.turn = at + maxClaims
	}
	b.claims = mine
	c.out = append(c.out, action{do: actBeat, beat: b, all: all})
}
