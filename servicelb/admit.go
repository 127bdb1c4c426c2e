package servicelb

import "net/netip"

// admit finds a slot for a new flow of that client. While the table is nearly full a client may neither hold more
// than its share of half-open flows nor half of the table: the rest is for the others.
func (b *Balancer) admit(v *view, client netip.Addr, n *birth) (slot uint32, why reason) {
	f := b.flows
	n.now = b.now()
	if !client.Is4() && !v.inPods(client) {
		client = network(client)
	}
	n.source = f.sources.bucket(f.seed, client)
	if f.pressed() && f.greedy(n.source) {
		return 0, dropFlood
	}
	slot, ok := f.take()
	if !ok && f.reclaim(n.now) {
		slot, ok = f.take()
	}
	if !ok {
		return 0, dropTableFull
	}
	return slot, 0
}

// network is what one IPv6 site has at least: within it, addresses are free.
func network(a netip.Addr) netip.Addr {
	b := a.As16()
	clear(b[8:])
	return netip.AddrFrom16(b)
}

// pressed reports whether less than an eighth of the slots is free.
func (f *flows) pressed() bool {
	return f.room.used.Load() >= int64(f.room.limit)-int64(f.room.limit)/8
}

// greedy reports whether a client already has more than it may under pressure.
func (f *flows) greedy(bucket uint32) bool {
	c := &f.sources[bucket]
	limit := int32(f.room.limit)
	return c.half.Load() > max(limit/64, 8) || c.all.Load() > limit/2
}

// look is how many slots one packet examines at most to make room.
const look = 64

// reclaim ends the least worthy of the next few flows: one that is closing, else half-open, else an idle exchange.
// A connection that stands is never taken.
func (f *flows) reclaim(now uint32) bool {
	n := f.room.limit
	start := f.room.hand.Add(look)
	var victim, victimStatus, worst uint32
	for i := range min(look, n) {
		slot := (start + i) % n
		e := &f.slots[slot]
		status := e.status.Load()
		if w := worth(status, now-e.seen.Load()); w > worst {
			victim, victimStatus, worst = slot, status, w
		}
	}
	return worst > 0 && f.end(victim, victimStatus)
}

// worth ranks a flow for reclaim: zero is untouchable, more goes first.
func worth(status, idle uint32) uint32 {
	idle = min(idle, 1<<16)
	switch s := status & stateMask; {
	case s == tcpClosing || s == tcpReset || s == sctpClosing:
		return 3<<20 + idle
	case halfOpen(status):
		return 2<<20 + idle
	case s == udpOpen || s == dnsOpen || s == echoOpen || s == tcpHalfClosed || s == sctpOpen:
		if idle >= 20 {
			return 1<<20 + idle
		}
	}
	return 0
}

// sweep ends the flows whose time is over.
func (f *flows) sweep(now uint32) (ended int) {
	hurry := f.pressed()
	for slot := range f.ever() {
		e := &f.slots[slot]
		status := e.status.Load()
		if status&stateMask <= dying {
			continue
		}
		limit := timeouts[status&stateMask]
		if hurry && limit <= 30 {
			limit /= 3
		}
		if idle := int32(now - e.seen.Load()); idle > int32(limit) && f.end(slot, status) {
			ended++
		}
	}
	return ended
}
