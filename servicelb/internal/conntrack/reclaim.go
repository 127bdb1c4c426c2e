package conntrack

import "math/bits"

// How many slots one new flow examines at most to free one. A client above its share has an eighth of all slots, so a few
// slots contain one of its own.
const (
	reclaimScan      = 64
	reclaimScanAbove = 16
)

// Seconds without a packet after which a flow may be reclaimed: an exchange, such as a query and its answer, or an
// established connection.
const (
	idleExchange    = 20
	idleEstablished = 60
)

// claim is a client that needs a slot while the table is full.
type claim struct {
	Client
	held  int32 // its flows
	limit int32 // capacity of the table
	// crowded: unverified clients have more than half of the table, which is what they may have together.
	crowded bool
}

// reclaim ends the flow with the highest rank of a few slots. There is no list of the least recently used flows, which every
// packet would have to change: a sample is as good. Its slots are spread over the table: neighbours often belong to one client.
func (t *Table) reclaim(c Client, q quota, now uint32) bool {
	n, scan := t.free.limit, uint32(reclaimScan)
	if q == aboveShare {
		scan = reclaimScanAbove
	}
	start, stride := t.free.hand.Add(1), max(n/scan, 1)
	by := claim{Client: c, held: t.clients.of(c).all.Load(), limit: int32(n),
		crowded: t.clients.unverified.Load() > int32(n)/2}
	var victim, best uint32
	var victimStatus Status
	for i := range min(scan, n) {
		slot := (start + i*stride) % n
		e, owner := &t.slots[slot], Client(t.owners[slot].Load())
		status := e.Status()
		if rank := by.rank(now-e.Seen(), status, owner, t.clients.of(owner).all.Load()); rank > best {
			victim, victimStatus, best = slot, status, rank
		}
	}
	return best > 0 && t.End(victim, victimStatus)
}

// Classes of flows that may be reclaimed, the first to go last.
const (
	classActive uint32 = 1 + iota
	classExchange
	classHalfOpen
	classClosing
)

// rank ranks a flow, whose client has so many flows, for reclaim: zero is never ended, the highest is ended first. Within
// a class the client with the most flows loses one, and of its flows the one that was idle for longest.
func (by *claim) rank(idle uint32, status Status, from Client, theirs int32) uint32 {
	idle = uint32(max(int32(idle), 0)) // the clock may have been read before the last packet
	class := uint32(0)
	switch s := status.State(); {
	case !status.Live():
		return 0
	case s == TCPClosing || s == TCPReset || s == SCTPClosing:
		class = classClosing
	case !by.mayTakeFrom(from, theirs):
		return 0
	case status.HalfOpen():
		class = classHalfOpen
	case s.exchange() && idle >= idleExchange:
		class = classExchange
	case by.maySeize(from, theirs, idle):
		class = classActive
	default:
		return 0
	}
	switch {
	case by.verified() && !from.verified() && by.crowded:
		theirs = by.limit // together
	case !by.verified() && from.verified() && class != classClosing:
		class, theirs = classActive, 0 // the last resort
	}
	return class<<22 | uint32(bits.Len32(uint32(max(theirs, 0))))<<17 | min(idle, 1<<17-1)
}

// exchange reports whether the state is that of queries and answers rather than of a connection that lasts.
func (s State) exchange() bool {
	return s == UDPOpen || s == DNSOpen || s == EchoOpen || s == TCPHalfClosed || s == SCTPOpen
}

// fewFlows is the number of additional flows with which a client still counts as one without others: two clients may share a counter.
const fewFlows = 8

// mayTakeFrom reports whether a flow may be ended for this client that is half-open, or an idle exchange. A client loses none
// to one that has more flows, apart from a few, and a verified one none to an unverified one. Unverified clients lose flows
// to verified ones when they are too many: each may have one flow only.
func (by *claim) mayTakeFrom(from Client, theirs int32) bool {
	if by.verified() && !from.verified() && by.crowded {
		return true
	}
	return theirs+fewFlows >= by.held && (by.verified() || !from.verified() || theirs > by.manyFlows())
}

// maySeize reports whether a flow that may be taken may be ended although it is established. An unverified client
// takes idle flows only, of clients with many flows.
func (by *claim) maySeize(from Client, theirs int32, idle uint32) bool {
	switch {
	case !by.verified():
		return idle >= idleEstablished && theirs > by.manyFlows()
	case by.crowded && !from.verified():
		return true
	case idle >= idleEstablished:
		return theirs >= by.held
	}
	return holdsMore(theirs, by.held)
}

// manyFlows is the number of flows from which on a verified client may lose some to unverified ones.
func (by *claim) manyFlows() int32 { return max(by.limit/64, 8) }

// holdsMore reports whether a client has so much more than another one that the other may take something from it. The
// margin keeps two clients with equal shares from taking the same thing from each other again and again.
func holdsMore(theirs, held int32) bool { return theirs > held+held/4+1 }
