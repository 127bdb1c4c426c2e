package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// state is how far this node is with an address.
type state uint8

const (
	idle state = iota
	probing
	waiting // something stood in the way; trying again later
	announcing
)

// address is one address as this node sees it.
type address struct {
	addr  netip.Addr
	nodes []string // that may announce it, nil for all
	state state
	epoch uint64 // of our own claim while announcing
	top   uint64 // the highest epoch ever heard of

	vacant      time.Time // nobody announces it since
	last        string    // the node that announced it last
	announcedAt time.Time // when that one did
	next        time.Time // when the next probe, announcement or try is due
	count       int       // of probes or announcements sent
	lans        []string  // joined, while probing or announcing
	note        string    // what is in the way, or was
	noteUntil   time.Time
	mute        string // the node that the note is about, "" when it is about none
	foreign     mac    // who else has it
	defended    time.Time
}

// rival is the strongest claim of another healthy candidate.
type rival struct {
	node  string
	epoch uint64
}

func (c *core) rival(a *address) (r rival) {
	for n, m := range c.members {
		if x, ok := m.claims[a.addr]; ok && m.healthy && (r.node == "" || x.epoch > r.epoch || x.epoch == r.epoch && before(a.addr, n, r.node)) {
			r = rival{n, x.epoch}
		}
	}
	return r
}

// mayHere and may report whether this node, or another one, is a candidate.
func (c *core) mayHere(a *address) bool {
	return (a.nodes == nil || slices.Contains(a.nodes, c.me)) && len(c.on(a.addr)) > 0
}

func (c *core) may(name string, m *member, a *address) bool {
	return m.healthy && (a.nodes == nil || slices.Contains(a.nodes, name)) && (m.last.any && len(m.last.macs) > 0 || within(m.last.subnets, a.addr))
}

// rank is how many healthy candidates go before this node.
func (c *core) rank(a *address) (n int) {
	for name, m := range c.members {
		if c.may(name, m, a) && before(a.addr, name, c.me) {
			n++
		}
	}
	return n
}

// step decides about one address (the rules are in core.go).
func (c *core) step(now time.Time, a *address) {
	r := c.rival(a)
	if r.node != "" || a.state == announcing || !c.settled(now) {
		a.vacant = now
	}
	if now.After(a.noteUntil) {
		a.note, a.foreign = "", nobody
	}
	if !c.mayHere(a) {
		c.stop(a, "")
		return
	}
	if a.state == announcing {
		a.announcedAt = now
		if r.node != "" && (r.epoch > a.epoch || r.epoch == a.epoch && before(a.addr, r.node, c.me)) {
			c.stop(a, "")
			return
		}
		c.repeat(now, a)
		return
	}
	if !c.turnHere(now, a, r) {
		if a.state == probing {
			c.stop(a, "")
		}
		return
	}
	switch {
	case a.state == idle, a.state == waiting && !now.Before(a.next):
		c.begin(now, a)
	case a.state == probing && !now.Before(a.next):
		c.probed(now, a)
	}
}

// turnHere reports whether this node should begin to announce.
func (c *core) turnHere(now time.Time, a *address, r rival) bool {
	switch {
	case !c.settled(now):
		return false
	case r.node == "":
		return now.Sub(a.vacant) >= time.Duration(c.rank(a))*c.t.Patience
	}
	return now.Sub(c.calmFrom) >= c.t.Calm && c.rank(a) == 0
}

// begin joins the groups and sends the first probe.
func (c *core) begin(now time.Time, a *address) {
	c.stop(a, "")
	a.state, a.count, a.lans = probing, 1, c.on(a.addr)
	c.each(a, actJoin)
	c.each(a, actProbe)
	a.next = now.Add(c.t.Probe)
	if !a.announcedAt.IsZero() && now.Sub(a.announcedAt) < 10*c.t.Dead {
		a.count, a.next = probes, now.Add(c.t.Handover)
	}
}

// probed sends the next probe, or after the last one begins to announce: nobody has objected.
func (c *core) probed(now time.Time, a *address) {
	if a.count < probes {
		a.count++
		a.next = now.Add(c.t.Probe)
		c.each(a, actProbe)
		return
	}
	if a.last != "" && a.last != c.me {
		c.stats.Takeovers++
	}
	a.last = c.me
	a.top++
	a.state, a.epoch, a.count, a.next, a.note = announcing, a.top, 0, now, ""
	c.hasty = true // whoever else announces it shall hear of it at once
	c.repeat(now, a)
}

// repeat announces when it is time to.
func (c *core) repeat(now time.Time, a *address) {
	if now.Before(a.next) {
		return
	}
	c.each(a, actAnnounce)
	a.count++
	if a.count < len(burst) {
		a.next = now.Add(burst[a.count] - burst[a.count-1])
		return
	}
	a.next = now.Add(c.t.Repeat)
}

// stop goes back to idle, whatever the state; the note says why.
func (c *core) stop(a *address, note string) {
	if a.lans != nil {
		c.each(a, actLeave)
	}
	if a.state == announcing {
		c.hasty = true
	}
	if note != "" {
		a.note = note
	}
	a.state, a.lans, a.epoch = idle, nil, 0
}

func (c *core) each(a *address, do act) {
	for _, l := range a.lans {
		c.out = append(c.out, action{do: do, lan: l, addr: a.addr})
	}
}

// saw takes in what was said on a link.
func (c *core) saw(now time.Time, on string, s sighting) {
	for _, l := range c.lans {
		if l.hw == s.hw {
			return // ourselves, by another link of the same LAN
		}
	}
	if a := c.addrs[s.asked]; a != nil && slices.Contains(a.lans, on) {
		switch {
		case a.state == announcing:
			c.out = append(c.out, action{do: actAnswer, lan: on, addr: a.addr, to: s})
		case !s.asker.IsValid():
			c.other(now, a, s.hw) // somebody else probes for it at the same time
		}
	}
	if a := c.addrs[s.claimed]; a != nil && slices.Contains(a.lans, on) {
		c.other(now, a, s.hw)
	}
}

// other is told that somebody else has, or wants, an address that we want.
func (c *core) other(now time.Time, a *address, hw mac) {
	name, m := c.owner(hw)
	if m != nil && m.healthy {
		return // heartbeats settle that
	}
	if m != nil {
		note := fmt.Sprintf("node %s answers for it, but its heartbeats do not arrive", name)
		if a.state == probing || before(a.addr, name, c.me) {
			c.wait(now, a, note, c.t.Patience)
			a.mute = name
		}
		return
	}
	if a.foreign != hw {
		a.foreign = hw
		c.stats.Duplicates++
	}
	note := fmt.Sprintf("%s, which is no node of the cluster, has the address too", hw)
	if a.state == probing {
		c.wait(now, a, note, c.t.Retry)
		return
	}
	// It was ours first, and clients use it: defend it, but not in a fight without end (RFC 5227 section 2.4, case c).
	a.note, a.noteUntil = note, now.Add(6*c.t.Retry)
	if now.Sub(a.defended) >= c.t.Repeat {
		a.defended = now
		c.each(a, actAnnounce)
	}
}

func (c *core) wait(now time.Time, a *address, note string, d time.Duration) {
	c.stop(a, note)
	a.state, a.next, a.noteUntil, a.vacant = waiting, now.Add(d), now.Add(2*d), now
	a.announcedAt, a.mute = time.Time{}, "" // the next probe is a thorough one
}

// speaks ends the waiting for a node that answered on the LAN only: its heartbeats arrive again and settle the rest.
func (c *core) speaks(node string) {
	for _, a := range c.addrs {
		if a.mute == node {
			a.mute = ""
			if a.state == waiting {
				c.stop(a, "")
				a.note = ""
			}
		}
	}
}

// owner finds the member that has a MAC.
func (c *core) owner(hw mac) (string, *member) {
	for n, m := range c.members {
		if m.macs[hw] {
			return n, m
		}
	}
	return "", nil
}
