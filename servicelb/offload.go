package servicelb

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/offload"
)

// A flow between two Pods of this node may take a shortcut: the kernel translates its packets where they enter the node
// (package fastpath). The flow stays in the table, and the balancer stays its master:
//
//	take     a connection at its first packet, an exchange of datagrams at its third: it gets a place in the path
//	catch up what the path tells of it (packets, flags, acknowledgements) is brought into the table at every tick, and
//	         before any packet of it that comes the long way is judged
//	confirm  whatever may change a verdict (a table, a Pod) stops all offloads at once; those that the table still
//	         confirms are armed again, and both ends of connections that it does not are told; what they or others
//	         still send comes the long way, where it is judged as ever
//	leave    when the flow ends; its place is free once no packet can be in the path any more
//
// Arming happens under a shard's lock and is taken back if the table has changed meanwhile, so no old verdict survives.
//
// A flow stays in the path once it is there, and flows of the process before are brought back at the first table, without
// waiting for a packet: a host that tracks connections has not seen those in the path, calls what comes the long way in
// the middle of one invalid, and may have a rule that drops such packets.
type offloads struct {
	path *offload.Program // nil: there are none
	log  *slog.Logger
	pods atomic.Pointer[map[netip.Addr]offload.Pod]
	of   []atomic.Uint32 // by slot: the flow's place plus one, or a mark; 0: none
	full atomic.Bool     // no place is free: so that no packet asks for mu in vain

	mu      sync.Mutex // locked after a shard, never before one
	places  []place
	free    []uint32
	high    uint32 // places from here on were never used
	used    int
	id      uint32            // of the last flow that took a place
	owners  map[wayKey]uint32 // the place that last wrote a key of the path's table
	leaving []uint32          // places disarmed since the last tick
	left    []uint32          // and before it: nothing is in the path any more
	refused bool              // the kernel has refused a flow, and that was said
}

// Marks in offloads.of.
const (
	marks  = unable
	unable = 1<<32 - 2 // an end of the flow is no Pod that the path knows, or the kernel does not take it
	taking = 1<<32 - 1 // somebody is about to give it a place
)

// place is one flow's in the path. It is written before its number appears in offloads.of and stays as it is until the
// flow has left.
type place struct {
	slot, life uint32 // the flow and its incarnation
	id         uint32
	proto      uint8
	hash       uint64 // of the flow's first tuple
	ways       [2]offload.Translation
	age        uint32 // ticks; only Run uses it
}

// wayKey is what the path's table knows one way of a flow by.
type wayKey struct {
	in    offload.Tuple
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

func newOffloads(path *offload.Program, slots int, log *slog.Logger) *offloads {
	s := &offloads{path: path, log: log}
	if path != nil {
		s.of = make([]atomic.Uint32, slots)
		s.places = make([]place, path.Size())
		s.owners = map[wayKey]uint32{}
		s.pods.Store(&map[netip.Addr]offload.Pod{})
	}
	return s
}

// disarm stops all offloads.
func (s *offloads) disarm() {
	if s.path == nil {
		return
	}
	for i := range s.everUsed() {
		if armed := &s.path.State(i).Armed; armed.Load() != 0 {
			armed.Store(0)
		}
	}
}

func (s *offloads) everUsed() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.high
}

func (s *offloads) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used - len(s.leaving) - len(s.left)
}

// place returns a flow's and what the path knows of it, or nil.
func (s *offloads) place(slot uint32) (*place, *offload.State) {
	if s == nil || s.path == nil {
		return nil, nil
	}
	n := s.of[slot].Load()
	if n == 0 || n >= marks {
		return nil, nil
	}
	return &s.places[n-1], s.path.State(n - 1)
}

// offloadable reports whether flows of this kind can have a shortcut: their ends know each other by their own addresses, and
// there is more to come than the answer to one question.
func (e *entry) offloadable(status uint32) bool { return offloadable(e.flags, status) }

func offloadable(flags uint8, status uint32) bool {
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
	s := b.offloads
	if s.path == nil {
		return false
	}
	status := e.status.Load()
	p, st := s.place(slot)
	switch {
	case p == nil:
		return !s.full.Load() && s.of[slot].Load() == 0 && e.offloadable(status) && (way == orig || e.proto != packet.ProtoUDP)
	case !e.offloadable(status):
		s.leave(slot) // it is ending: every packet counts now
	case st.Armed.Load() == 0:
		b.arm(v, p, st)
	}
	return false
}

// arm lets the kernel carry a flow, unless what it was confirmed by is outdated already. A shard of it is locked.
func (b *Balancer) arm(v *view, p *place, st *offload.State) {
	pods := b.offloads.pods.Load()
	if !p.holds(*pods) {
		b.offloads.leave(p.slot)
		return
	}
	st.Armed.Store(p.id)
	if b.view.Load() != v || b.offloads.pods.Load() != pods {
		st.Armed.Store(0)
	}
}

// holds reports whether both Pods are where they were.
func (p *place) holds(pods map[netip.Addr]offload.Pod) bool {
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
	s := b.offloads
	if s.path == nil || !offloadable(c.flags, c.status) || !s.of[c.slot].CompareAndSwap(0, taking) {
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
func (s *offloads) enter(c candidate, hash uint64) (n, mark uint32) {
	pods := *s.pods.Load()
	o, r := &c.way[orig], &c.way[reply]
	here, ok := pods[o.source().Addr()]
	there, too := pods[r.source().Addr()]
	if !ok || !too {
		return 0, unable
	}
	p := place{slot: c.slot, life: c.status / life, proto: c.proto, hash: hash}
	p.ways = [2]offload.Translation{
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
		if !s.refused {
			s.refused = true
			s.log.Warn("the kernel does not take a flow between Pods of this node; the agent carries it, and others that are refused", "err", err)
		}
		return 0, unable
	}
	return n, 0
}

func (t *tuple) fast() offload.Tuple {
	return offload.Tuple{Src: t.src, Dst: t.dst, Sport: t.sport, Dport: t.dport}
}

// mirrored is what goes the other way.
func (t *tuple) mirrored() offload.Tuple {
	return offload.Tuple{Src: t.dst, Dst: t.src, Sport: t.dport, Dport: t.sport}
}
