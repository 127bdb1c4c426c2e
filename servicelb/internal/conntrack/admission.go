package conntrack

// Admission is the result of Admit.
type Admission uint8

// The results.
const (
	Admitted  Admission = iota
	OverQuota           // the table is nearly full and the client has its share, or more than its half-open flows
	TableFull
)

// quota is how a client compares with its share of a table that is nearly full.
type quota uint8

const (
	withinShare quota = iota
	aboveShare        // its flows take an eighth of the table or more: a new one replaces one of its own
	flooding          // it has more half-open flows than a 64th of the table
)

// reclaimTries bounds how often Admit frees a slot: a packet of another client may allocate what was freed.
const reclaimTries = 4

// Admit allocates a slot for a new flow of a client. While the table is nearly full a client has at most an eighth of it.
// While it is full, a client that has fewer flows than others gets a slot of one of those. So the table is shared equally
// at any time, in whatever order it was filled. The caller passes the slot to Insert or to Release.
func (t *Table) Admit(c Client, now uint32) (slot uint32, a Admission) {
	q := t.quota(c)
	if q == flooding {
		return 0, OverQuota
	}
	if q == withinShare {
		if slot, ok := t.allocate(); ok {
			return slot, Admitted
		}
	}
	for range reclaimTries {
		if !t.reclaim(c, q, now) {
			break
		}
		if slot, ok := t.allocate(); ok {
			return slot, Admitted
		}
	}
	if q == aboveShare {
		return 0, OverQuota
	}
	return 0, TableFull
}

// NearCapacity reports whether less than an eighth of the slots is free.
func (t *Table) NearCapacity() bool {
	return t.free.used.Load() >= int64(t.free.limit)-int64(t.free.limit)/8
}

func (t *Table) quota(client Client) quota {
	if !t.NearCapacity() {
		return withinShare
	}
	c := t.clients.of(client)
	limit := int32(t.free.limit)
	switch {
	case c.halfOpen.Load() > max(limit/64, 8):
		return flooding
	case c.all.Load() >= max(limit/8, 8):
		return aboveShare
	}
	return withinShare
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
