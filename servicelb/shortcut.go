package servicelb

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/fastpath"
)

// A flow between two Pods of this node may take a shortcut: the kernel translates its packets where they enter the node
// (package fastpath). The flow stays in the table, and the balancer stays its master:
//
//	take     a connection at its first packet, an exchange of datagrams at its third: it gets a place in the path
//	catch up what the path tells of it (packets, flags, acknowledgements) is brought into the table at every tick, and
//	         before any packet of it that comes the long way is judged
//	confirm  whatever may change a verdict (a table, a Pod) stops all shortcuts at once; those that the table still
//	         confirms are armed again, and both ends of connections that it does not are told; what they or others
//	         still send comes the long way, where it is judged as ever
//	leave    when the flow ends; its place is free once no packet can be in the path any more
//
// Arming happens under a shard's lock and is taken back if the table has changed meanwhile, so no old verdict survives.
//
// A flow stays in the path once it is there, and flows of the process before are brought back at the first table, without
// waiting for a packet: a host that tracks connections has not seen those in the path, calls what comes the long way in
// the middle of one invalid, and may have a rule that drops such packets.
type shortcuts struct {
	path *fastpath.Path // nil: there are none
	pods atomic.Pointer[map[netip.Addr]fastpath.Pod]
	of   []atomic.Uint32 // by slot: the flow's place plus one, or a mark; 0: none

	mu      sync.Mutex // locked after a shard, never before one
	places  []place
	free    []uint32
	high    uint32 // places from here on were never used
	used    int
	id      uint32            // of the last flow that took a place
	owners  map[wayKey]uint32 // the place that last wrote a key of the path's table
	leaving []uint32          // places disarmed since the last tick
	left    []uint32          // and before it: nothing is in the path any more
}

// Marks in shortcuts.of.
const (
	marks  = 1<<32 - 2
	unable = 1<<32 - 2 // an end of the flow is no Pod that the path knows
	taking = 1<<32 - 1 // somebody is about to give it a place
)

// place is one flow's in the path. It is written before its number appears in shortcuts.of and stays as it is until the
// flow has left.
type place struct {
	slot, life uint32 // the flow and its incarnation
	id         uint32
	proto      uint8
	hash       uint64 // of the flow's first tuple
	ways       [2]fastpath.Way
	age        uint32 // ticks; only Run uses it
}

// wayKey is what the path's table knows one way of a flow by.
type wayKey struct {
	in    fastpath.Tuple
	link  int32
	proto uint8
}

func (p *place) key(way int) wayKey { return wayKey{p.ways[way].In, p.ways[way].From.Link, p.proto} }

// Places are given up by a connection that has no answer after this many ticks, and, while they are short, by flows that
// have been idle for some seconds.
const (
	patientTicks = 8
	restless     = 30
)

func newShortcuts(path *fastpath.Path, slots int) *shortcuts {
	s := &shortcuts{path: path}
	if path != nil {
		s.of = make([]atomic.Uint32, slots)
		s.places = make([]place, path.Size())
		s.owners = map[wayKey]uint32{}
		s.pods.Store(&map[netip.Addr]fastpath.Pod{})
	}
	return s
}

// SetPods says by which interfaces the Pods of this node are reached, by address. Without a fast path it does nothing.
func (b *Balancer) SetPods(pods map[netip.Addr]fastpath.Pod) {
	if b.short.path == nil {
		return
	}
	b.set.Lock()
	defer b.set.Unlock()
	b.short.pods.Store(&pods)
	b.confirmShortcuts()
}

// confirmShortcuts compares all flows in the path with the table and the Pods. set is locked.
func (b *Balancer) confirmShortcuts() {
	b.short.disarm()
	v := b.view.Load()
	for n := range b.short.everUsed() {
		b.confirmShortcut(v, n)
	}
}

func (b *Balancer) confirmShortcut(v *view, n uint32) {
	p, e, unlock := b.holdPlace(n)
	if p == nil {
		return
	}
	st := b.short.path.State(n)
	b.catchUp(v, e, st)
	status := e.status.Load()
	if v.confirms(e) {
		e.gen.Store(v.gen)
		if e.shortens(status) {
			b.arm(v, p, st)
		}
		unlock()
		return
	}
	b.short.leave(p.slot)
	ends := e.bothEnds()
	if len(ends) > 0 {
		e.status.CompareAndSwap(status, status&^(stateMask|stateBits)|tcpReset)
	}
	unlock()
	for _, f := range ends {
		b.tell(v, f)
	}
}

// holdPlace locks a shard of the living flow that has a place. The place is nil if there is none.
func (b *Balancer) holdPlace(n uint32) (p *place, e *entry, unlock func()) {
	s := b.short
	s.mu.Lock()
	slot, hash := s.places[n].slot, s.places[n].hash
	s.mu.Unlock()
	if s.of[slot].Load() != n+1 {
		return nil, nil, nil
	}
	shard := b.flows.shard(hash)
	shard.Lock()
	p, e = &s.places[n], &b.flows.slots[slot]
	status := e.status.Load()
	if s.of[slot].Load() != n+1 || status/life != p.life || status&stateMask <= dying { // whoever ends it takes it out
		shard.Unlock()
		return nil, nil, nil
	}
	return p, e, shard.Unlock
}

// disarm stops all shortcuts.
func (s *shortcuts) disarm() {
	if s.path == nil {
		return
	}
	for i := range s.everUsed() {
		if armed := &s.path.State(i).Armed; armed.Load() != 0 {
			armed.Store(0)
		}
	}
}

func (s *shortcuts) everUsed() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.high
}

func (s *shortcuts) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used - len(s.leaving) - len(s.left)
}

// place returns a flow's and what the path knows of it, or nil.
func (s *shortcuts) place(slot uint32) (*place, *fastpath.State) {
	if s == nil || s.path == nil {
		return nil, nil
	}
	n := s.of[slot].Load()
	if n == 0 || n >= marks {
		return nil, nil
	}
	return &s.places[n-1], s.path.State(n - 1)
}

// shortens reports whether flows of this kind can have a shortcut: their ends know each other by their own addresses, and
// there is more to come than the answer to one question.
func (e *entry) shortens(status uint32) bool { return shortens(e.flags, status) }

func shortens(flags uint8, status uint32) bool {
	if flags&(flagMasquerade|flagSNAT|flagNodeSource) != 0 {
		return false
	}
	switch status & stateMask {
	case tcpSyn, tcpAnswered, tcpOpen, tcpHalfClosed, udpOpen:
		return true
	}
	return false
}

// renew arms the shortcut of a flow that the table has just confirmed. It reports whether the flow has none and should
// have one. The way's shard is locked.
func (b *Balancer) renew(v *view, e *entry, slot uint32, way int) (take bool) {
	s := b.short
	if s.path == nil {
		return false
	}
	status := e.status.Load()
	p, st := s.place(slot)
	switch {
	case p == nil:
		return s.of[slot].Load() == 0 && e.shortens(status) && (way == orig || e.proto != packet.ProtoUDP)
	case !e.shortens(status):
		s.leave(slot) // it is ending: every packet counts now
	case st.Armed.Load() == 0:
		b.arm(v, p, st)
	}
	return false
}

// arm lets the kernel carry a flow, unless what it was confirmed by is outdated already. A shard of it is locked.
func (b *Balancer) arm(v *view, p *place, st *fastpath.State) {
	pods := b.short.pods.Load()
	if !p.holds(*pods) {
		b.short.leave(p.slot)
		return
	}
	st.Armed.Store(p.id)
	if b.view.Load() != v || b.short.pods.Load() != pods {
		st.Armed.Store(0)
	}
}

// holds reports whether both Pods are where they were.
func (p *place) holds(pods map[netip.Addr]fastpath.Pod) bool {
	for i := range p.ways {
		if now, ok := pods[netip.AddrFrom16(p.ways[i].In.Src).Unmap()]; !ok || now != p.ways[i].From {
			return false
		}
	}
	return true
}

// candidate is a flow that may get a place, as it was while it was locked: it may end at any moment.
type candidate struct {
	slot, status uint32
	way          [2]tuple
	proto, flags uint8
}

func (e *entry) candidate(slot, status uint32) candidate {
	return candidate{slot, status, e.way, e.proto, e.flags}
}

// take gives a flow a place in the path and arms it. No lock is held.
func (b *Balancer) take(v *view, c candidate) {
	s := b.short
	if s.path == nil || !shortens(c.flags, c.status) || !s.of[c.slot].CompareAndSwap(0, taking) {
		return
	}
	k := key{tuple: c.way[orig], proto: c.proto}
	hash := k.hash(b.flows.seed)
	n, mark := s.enter(c, hash)
	if mark != 0 {
		s.of[c.slot].CompareAndSwap(taking, mark%taking) // a mark, or 0: another packet may try again
		return
	}
	shard := b.flows.shard(hash)
	shard.Lock()
	defer shard.Unlock()
	e := &b.flows.slots[c.slot]
	now := e.status.Load()
	if now/life != c.status/life || now&stateMask <= dying {
		s.of[c.slot].CompareAndSwap(taking, 0)
		s.retire(n)
		return
	}
	if !s.of[c.slot].CompareAndSwap(taking, n+1) {
		s.retire(n)
		return
	}
	if e.gen.Load() == v.gen {
		b.arm(v, &s.places[n], s.path.State(n))
	}
}

// enter finds a place for a flow and writes the flow into the path's table. Without success it returns a mark.
func (s *shortcuts) enter(c candidate, hash uint64) (n, mark uint32) {
	pods := *s.pods.Load()
	o, r := &c.way[orig], &c.way[reply]
	here, ok := pods[o.source().Addr()]
	there, too := pods[r.source().Addr()]
	if !ok || !too {
		return 0, unable
	}
	p := place{slot: c.slot, life: c.status / life, proto: c.proto, hash: hash}
	p.ways = [2]fastpath.Way{
		{In: o.fast(), Out: r.mirrored(), From: here, To: there},
		{In: r.fast(), Out: o.mirrored(), From: there, To: here},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok = s.vacant(halfOpen(c.status)); !ok {
		return 0, taking
	}
	if s.id++; s.id == 0 {
		s.id++
	}
	p.id = s.id
	s.places[n] = p
	s.path.State(n).Reset()
	for way := range p.ways {
		s.owners[p.key(way)] = n
	}
	if err := s.path.Put(n, p.id, p.proto, &p.ways); err != nil {
		s.clear(n)
		return 0, taking
	}
	return n, 0
}

// adopted are the flows of the process before that may have a place. No packet passes yet.
func (b *Balancer) adopted() (list []candidate) {
	if b.short.path == nil {
		return nil
	}
	pods := *b.short.pods.Load()
	for slot := range b.flows.ever() {
		e := &b.flows.slots[slot]
		status := e.status.Load()
		if status&stateMask <= dying || !shortens(e.flags, status) || len(list) == b.short.path.Size() {
			continue
		}
		if _, ok := pods[e.way[orig].source().Addr()]; ok {
			list = append(list, e.candidate(slot, status))
		}
	}
	return list
}

// readmit gives adopted flows that the table confirms a place.
func (b *Balancer) readmit(v *view, list []candidate) {
	for _, c := range list {
		k := key{tuple: c.way[orig], proto: c.proto}
		h := k.hash(b.flows.seed)
		shard := b.flows.shard(h)
		shard.Lock()
		e := &b.flows.slots[c.slot]
		ok := b.flows.find(h, &k) == refOf(c.slot, orig) && v.confirms(e)
		if ok {
			e.gen.Store(v.gen)
		}
		shard.Unlock()
		if ok {
			b.take(v, c)
		}
	}
}

func (t *tuple) fast() fastpath.Tuple {
	return fastpath.Tuple{Src: t.src, Dst: t.dst, Sport: t.sport, Dport: t.dport}
}

// mirrored is what goes the other way.
func (t *tuple) mirrored() fastpath.Tuple {
	return fastpath.Tuple{Src: t.dst, Dst: t.src, Sport: t.dport, Dport: t.sport}
}

// vacant takes a free place. The last quarter is for flows that have been answered. mu is locked.
func (s *shortcuts) vacant(unproven bool) (n uint32, ok bool) {
	if unproven && s.short() || s.used == len(s.places) {
		return 0, false
	}
	if last := len(s.free) - 1; last >= 0 {
		n, s.free = s.free[last], s.free[:last]
	} else if s.high < uint32(len(s.places)) {
		n = s.high
		s.high++
	} else {
		return 0, false
	}
	s.used++
	return n, true
}

// short reports whether less than a quarter of the places is free. mu is locked.
func (s *shortcuts) short() bool { return s.used*4 >= len(s.places)*3 }

// leave takes a flow out of the path. Its shard is locked, or it is no longer linked.
func (s *shortcuts) leave(slot uint32) {
	if s.path == nil {
		return
	}
	if n := s.of[slot].Swap(0); n != 0 && n < marks {
		s.retire(n - 1)
	}
}

// retire disarms a place that belongs to no flow any more.
func (s *shortcuts) retire(n uint32) {
	s.path.State(n).Armed.Store(0)
	s.mu.Lock()
	s.leaving = append(s.leaving, n)
	s.mu.Unlock()
}

// reap frees the places that were left before the last tick.
func (s *shortcuts) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.left {
		s.clear(n)
	}
	s.left, s.leaving = s.leaving, s.left[:0]
}

// clear removes what a place wrote into the path's table, unless another flow has overwritten it. mu is locked.
func (s *shortcuts) clear(n uint32) {
	p := &s.places[n]
	for way := range p.ways {
		if k := p.key(way); s.owners[k] == n {
			delete(s.owners, k)
			s.path.Delete(p.proto, &p.ways[way])
		}
	}
	s.free = append(s.free, n)
	s.used--
}

// catchUp brings into the table what the path has seen of a flow. The way's shard is locked, or the flow is the caller's.
func (b *Balancer) catchUp(v *view, e *entry, st *fastpath.State) {
	moved := false
	for way := range 2 {
		if st.Packets[way].Load() == 0 {
			continue
		}
		moved = true
		b.meterOf(v, e.front()).carry(way, st.Packets[way].Swap(0), st.Bytes[way].Swap(0))
		if ack := st.Acks[way].Load(); ack != 0 {
			e.acks[way].Store(ack)
		}
	}
	if moved {
		e.seen.Store(b.now())
		b.fold(v, e, [2]uint32{st.Flags[orig].Swap(0), st.Flags[reply].Swap(0)})
	}
}

// fold moves a connection's state by the flags that each way has sent, step by step, as single packets would.
func (b *Balancer) fold(v *view, e *entry, flags [2]uint32) {
	for {
		before := e.status.Load()
		s := before & (stateMask | stateBits)
		way, next := nextState(s, flags)
		if next == s {
			return
		}
		if after := before&^(stateMask|stateBits) | next; e.status.CompareAndSwap(before, after) {
			b.moved(v, e, way, before, after)
		}
	}
}

// nextState is one step of a connection that has sent these flags, or none.
func nextState(s uint32, flags [2]uint32) (way int, next uint32) {
	const synAck = uint32(packet.SYN | packet.ACK)
	state := s & stateMask
	for way := range flags {
		if flags[way]&packet.RST != 0 && state >= tcpSyn && state < tcpClosing {
			return way, tcpReset | s&(bitFIN|bitFIN<<1)
		}
	}
	switch state {
	case tcpSyn:
		if flags[reply]&synAck == synAck {
			return reply, tcpAnswered
		}
		if flags[reply]&packet.ACK != 0 {
			return reply, tcpOpen
		}
	case tcpAnswered:
		if flags[orig]&packet.ACK != 0 {
			return orig, tcpOpen
		}
	case tcpOpen, tcpHalfClosed:
		for way := range flags {
			if flags[way]&packet.FIN != 0 && s&(bitFIN<<way) == 0 {
				return way, closing(s, way)
			}
		}
	}
	return orig, s
}

// watchShortcuts is done at every tick.
func (b *Balancer) watchShortcuts() {
	s := b.short
	if s.path == nil {
		return
	}
	s.mu.Lock()
	high, crowded := s.high, s.short()
	s.mu.Unlock()
	for n := range high {
		b.watchShortcut(n, crowded)
	}
	s.reap()
}

func (b *Balancer) watchShortcut(n uint32, crowded bool) {
	p, e, unlock := b.holdPlace(n)
	if p == nil {
		return
	}
	defer unlock()
	b.catchUp(b.view.Load(), e, b.short.path.State(n))
	p.age++
	status := e.status.Load()
	unanswered := status&stateMask == tcpSyn && p.age > patientTicks
	idle := crowded && b.now()-e.seen.Load() > restless
	if unanswered || idle || !e.shortens(status) {
		b.short.leave(p.slot)
	}
}
