package conntrack

// Admission is the result of Admit.
type Admission uint8

// The results.
const (
	Admitted  Admission = iota
	OverQuota           // the table is nearly full and the client has more than its share
	TableFull
)

// Admit allocates a slot for a new flow of a client. While the table is nearly full a client may have neither more than
// its share of half-open flows nor half of the table: the remaining slots are reserved for other clients. The caller
// passes the slot to Insert or to Release.
func (t *Table) Admit(client ClientBucket, now uint32) (slot uint32, a Admission) {
	if t.NearCapacity() && t.overQuota(client) {
		return 0, OverQuota
	}
	slot, ok := t.allocate()
	if !ok && t.reclaim(now) {
		slot, ok = t.allocate()
	}
	if !ok {
		return 0, TableFull
	}
	return slot, Admitted
}

// NearCapacity reports whether less than an eighth of the slots is free.
func (t *Table) NearCapacity() bool {
	return t.free.used.Load() >= int64(t.free.limit)-int64(t.free.limit)/8
}

// overQuota reports whether a client has more flows than it may have while the table is nearly full.
func (t *Table) overQuota(client ClientBucket) bool {
	c := &t.clients[client]
	limit := int32(t.free.limit)
	return c.halfOpen.Load() > max(limit/64, 8) || c.all.Load() > limit/2
}

// reclaimScan is how many slots one new flow examines at most to free one.
const reclaimScan = 64

// reclaim ends one of the next few flows: a closing one if possible, else a half-open one, else an idle exchange.
// An established connection is never ended.
func (t *Table) reclaim(now uint32) bool {
	n := t.free.limit
	start := t.free.hand.Add(reclaimScan)
	var victim, best uint32
	var victimStatus Status
	for i := range min(reclaimScan, n) {
		slot := (start + i) % n
		e := &t.slots[slot]
		status := e.Status()
		if rank := reclaimRank(status, now-e.Seen()); rank > best {
			victim, victimStatus, best = slot, status, rank
		}
	}
	return best > 0 && t.End(victim, victimStatus)
}

// reclaimRank ranks a flow for reclaim: zero is never ended, the highest is ended first.
func reclaimRank(status Status, idle uint32) uint32 {
	idle = min(idle, 1<<16)
	switch s := status.State(); {
	case s == TCPClosing || s == TCPReset || s == SCTPClosing:
		return 3<<20 + idle
	case status.HalfOpen():
		return 2<<20 + idle
	case s == UDPOpen || s == DNSOpen || s == EchoOpen || s == TCPHalfClosed || s == SCTPOpen:
		if idle >= 20 {
			return 1<<20 + idle
		}
	}
	return 0
}

// Sweep ends the flows that have been idle for longer than the timeout of their state and returns how many.
func (t *Table) Sweep(now uint32) (ended int) {
	hurry := t.NearCapacity()
	for slot := range t.EverUsed() {
		e := &t.slots[slot]
		status := e.Status()
		if !status.Live() {
			continue
		}
		limit := timeouts[status.State()]
		if hurry && limit <= 30 {
			limit /= 3
		}
		if idle := int32(now - e.Seen()); idle > int32(limit) && t.End(slot, status) {
			ended++
		}
	}
	return ended
}
