package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// state is the state of an address on this node.
type state uint8

const (
	idle state = iota
	probing
	waiting // another machine answers for the address; probing starts again later
	announcing
)

// address is one address with this node's view of its announcement.
type address struct {
	addr         netip.Addr
	nodes        []string // nodes that may announce it, nil: all
	state        state
	epoch        uint64 // of this node's claim while announcing
	highestEpoch uint64 // of all claims received

	unownedSince  time.Time // since then no node announces it
	lastOwner     string    // the node that announced it last
	lastAnnounced time.Time // when that node did
	due           time.Time // of the next probe, announcement or attempt
	sent          int       // probes, then announcements
	links         []string  // with joined groups, while probing or announcing
	note          string    // the reason why it is not announced, or a duplicate
	noteUntil     time.Time
	silentNode    string // the node that answers on the link without heartbeats, "" for none
	duplicate     mac    // of a machine outside of the cluster that has the address
	lastDefended  time.Time
}

// claimant is a node with its claim.
type claimant struct {
	node  string
	epoch uint64
}

// maxEpoch bounds epochs. No cluster reaches it, but a compromised node can claim it. Of two claims with it, rank decides.
const maxEpoch = 1 << 62

func nextEpoch(highest uint64) uint64 { return min(highest+1, maxEpoch) }

// winsOver compares two claims to an address: the higher epoch wins, then the higher rank.
func (r claimant) winsOver(o claimant, addr netip.Addr) bool {
	return r.epoch > o.epoch || r.epoch == o.epoch && ranksBefore(addr, r.node, o.node)
}

// strongestClaim returns the claim of a healthy node that wins over all other claims (rule 4).
func (c *core) strongestClaim(a *address) (r claimant) {
	for n, m := range c.members {
		if x, ok := m.claims[a.addr]; ok && m.healthy {
			if c := (claimant{n, x.epoch}); r.node == "" || c.winsOver(r, a.addr) {
				r = c
			}
		}
	}
	return r
}

// isCandidate reports whether this node is a candidate (rule 1).
func (c *core) isCandidate(a *address) bool {
	return (a.nodes == nil || slices.Contains(a.nodes, c.node)) && len(c.linksFor(a.addr)) > 0
}

// memberIsCandidate reports whether another node is a candidate (rule 1).
func (c *core) memberIsCandidate(name string, m *member, a *address) bool {
	allowed := a.nodes == nil || slices.Contains(a.nodes, name)
	return m.healthy && allowed && (m.last.anyLink && len(m.last.macs) > 0 || holdsHost(m.last.subnets, a.addr))
}

// rank is the number of candidates of higher rank than this node.
func (c *core) rank(a *address) (n int) {
	for name, m := range c.members {
		if c.memberIsCandidate(name, m, a) && ranksBefore(a.addr, name, c.node) {
			n++
		}
	}
	return n
}

// step applies the rules of election.go to one address.
func (c *core) step(now time.Time, a *address) {
	r := c.strongestClaim(a)
	if r.node != "" || a.state == announcing || !c.settled(now) {
		a.unownedSince = now
	}
	if now.After(a.noteUntil) {
		a.note, a.duplicate = "", zeroMAC
	}
	if !c.isCandidate(a) {
		c.stop(a, "")
		return
	}
	if a.state == announcing {
		a.lastAnnounced = now
		if r.node != "" && r.winsOver(claimant{c.node, a.epoch}, a.addr) {
			c.stop(a, "")
			return
		}
		c.announceIfDue(now, a)
		return
	}
	if !c.shouldBegin(now, a, r) {
		if a.state == probing {
			c.stop(a, "")
		}
		return
	}
	switch {
	case a.state == idle, a.state == waiting && !now.Before(a.due):
		c.startProbing(now, a)
	case a.state == probing && !now.Before(a.due):
		c.continueProbing(now, a)
	}
}

// shouldBegin reports whether this node should begin to announce (rules 2 and 5).
func (c *core) shouldBegin(now time.Time, a *address, r claimant) bool {
	switch {
	case !c.settled(now):
		return false
	case r.node == "":
		return now.Sub(a.unownedSince) >= time.Duration(c.rank(a))*c.timing.TakeoverDelay
	}
	return now.Sub(c.lastReturn) >= c.timing.StableTime && c.rank(a) == 0
}

// startProbing joins the groups and sends the first probe. One probe is enough when a node announced the address a moment ago.
func (c *core) startProbing(now time.Time, a *address) {
	c.stop(a, "")
	a.state, a.sent, a.links = probing, 1, c.linksFor(a.addr)
	c.emit(a, actJoin)
	c.emit(a, actProbe)
	a.due = now.Add(c.timing.ProbeInterval)
	if !a.lastAnnounced.IsZero() && now.Sub(a.lastAnnounced) < 10*c.timing.DeadInterval {
		a.sent, a.due = probeCount, now.Add(c.timing.HandoverProbe)
	}
}

// continueProbing sends the next probe. After the last one it begins to announce: no machine has answered.
func (c *core) continueProbing(now time.Time, a *address) {
	if a.sent < probeCount {
		a.sent++
		a.due = now.Add(c.timing.ProbeInterval)
		c.emit(a, actProbe)
		return
	}
	if a.lastOwner != "" && a.lastOwner != c.node {
		c.stats.Takeovers++
	}
	a.lastOwner = c.node
	a.highestEpoch = nextEpoch(a.highestEpoch)
	a.state, a.epoch, a.sent, a.due, a.note = announcing, a.highestEpoch, 0, now, ""
	c.urgent = true // another node may announce it: send the new epoch at once
	c.announceIfDue(now, a)
}

// announceIfDue sends an announcement when the time for it has come.
func (c *core) announceIfDue(now time.Time, a *address) {
	if now.Before(a.due) {
		return
	}
	c.emit(a, actAnnounce)
	a.sent++
	if a.sent < len(initialAnnouncements) {
		a.due = now.Add(initialAnnouncements[a.sent] - initialAnnouncements[a.sent-1])
		return
	}
	a.due = now.Add(c.timing.AnnounceInterval)
}

// stop returns an address to idle from any state. note is the reason, "" keeps the previous one.
func (c *core) stop(a *address, note string) {
	if a.links != nil {
		c.emit(a, actLeave)
	}
	if a.state == announcing {
		c.urgent = true
	}
	if note != "" {
		a.note = note
	}
	a.state, a.links, a.epoch = idle, nil, 0
}

// emit adds an action for every link of the address.
func (c *core) emit(a *address, do act) {
	for _, l := range a.links {
		c.actions = append(c.actions, action{do: do, link: l, addr: a.addr})
	}
}

// observe processes an ARP packet or a neighbor message that arrived on a link.
func (c *core) observe(now time.Time, link string, o observation) {
	for _, l := range c.links {
		if l.mac == o.mac {
			return // sent by this node, on another link of the same network
		}
	}
	if a := c.addresses[o.target]; a != nil && slices.Contains(a.links, link) {
		switch {
		case a.state == announcing:
			c.actions = append(c.actions, action{do: actAnswer, link: link, addr: a.addr, request: o})
		case !o.requester.IsValid():
			c.conflict(now, a, o.mac) // another machine probes for it at the same time
		}
	}
	if a := c.addresses[o.claimed]; a != nil && slices.Contains(a.links, link) {
		c.conflict(now, a, o.mac)
	}
}

// conflict handles a machine that claims, or probes for, an address that this node probes for or announces.
func (c *core) conflict(now time.Time, a *address, hw mac) {
	name, m := c.memberByMAC(hw)
	if m != nil && m.healthy {
		return // its heartbeats decide
	}
	if m != nil {
		note := fmt.Sprintf("node %s answers for the address, but its heartbeats do not arrive", name)
		if a.state == probing || ranksBefore(a.addr, name, c.node) {
			c.backOff(now, a, note, c.timing.TakeoverDelay)
			a.silentNode = name
		}
		return
	}
	if a.duplicate != hw {
		a.duplicate = hw
		c.stats.Duplicates++
	}
	note := fmt.Sprintf("duplicate address: %s, which is not a node of the cluster, has it too", hw)
	if a.state == probing {
		c.backOff(now, a, note, c.timing.DuplicateRetry)
		return
	}
	// Clients use the address on this node: defend it, at a limited rate (RFC 5227 section 2.4, case c).
	a.note, a.noteUntil = note, now.Add(6*c.timing.DuplicateRetry)
	if now.Sub(a.lastDefended) >= c.timing.AnnounceInterval {
		a.lastDefended = now
		c.emit(a, actAnnounce)
	}
}

// backOff stops an address and starts probing again after d, with all probes.
func (c *core) backOff(now time.Time, a *address, note string, d time.Duration) {
	c.stop(a, note)
	a.state, a.due, a.noteUntil, a.unownedSince = waiting, now.Add(d), now.Add(2*d), now
	a.lastAnnounced, a.silentNode = time.Time{}, "" // the next attempt sends all probes
}

// heartbeatsResumed ends the wait for a node that answered on the link without heartbeats: claims decide again.
func (c *core) heartbeatsResumed(node string) {
	for _, a := range c.addresses {
		if a.silentNode == node {
			a.silentNode = ""
			if a.state == waiting {
				c.stop(a, "")
				a.note = ""
			}
		}
	}
}

// memberByMAC returns the member that has, or had, a MAC address.
func (c *core) memberByMAC(hw mac) (string, *member) {
	for n, m := range c.members {
		if m.macs[hw] {
			return n, m
		}
	}
	return "", nil
}
