package servicelb

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// Packets and bytes are counted in the flows' entries, each way under the lock that its packets take anyway. They come
// to their Service's meter when an entry's counters are half full, when the flow ends, and when somebody asks.

// maxServices bounds the Services that Stats names: those that have carried the most packets.
const maxServices = 50

// OtherServices is the name under which Stats has all other Services.
const OtherServices = "other"

// Traffic is what went through a Service.
type Traffic struct {
	Connections uint64
	// Ejections of backends, see EjectAnnotation.
	Ejections uint64
	// Requests went to backends, Replies came from them.
	Requests, Replies Volume
}

// Volume counts packets, a super-packet as one, and their bytes from the IP header on.
type Volume struct{ Packets, Bytes uint64 }

// sums are the counters of a meter: connections, packets of each way, bytes of each way, ejections.
type sums [6]uint64

const (
	sumOpened  = 0
	sumPackets = 1 // plus the way
	sumBytes   = 3 // likewise
	sumEjected = 5
)

func (s *sums) add(o sums) {
	for i := range s {
		s[i] += o[i]
	}
}

func (s sums) less(o sums) sums {
	for i := range s {
		s[i] -= o[i]
	}
	return s
}

func (s sums) packets() uint64 { return s[sumPackets+orig] + s[sumPackets+reply] }

func (s sums) traffic() Traffic {
	return Traffic{s[sumOpened], s[sumEjected], Volume{s[sumPackets+orig], s[sumBytes+orig]}, Volume{s[sumPackets+reply], s[sumBytes+reply]}}
}

// meter belongs to a Service, or to a Pod with host ports, through all its changes. A nil one counts nothing.
type meter struct {
	name string
	n    [len(sums{})]atomic.Uint64
	// named and other are how much of n was shown under the name and under OtherServices; guarded by ledger.mu.
	named, other sums
}

func (t *meter) open() {
	if t != nil {
		t.n[sumOpened].Add(1)
	}
}

func (t *meter) eject() {
	if t != nil {
		t.n[sumEjected].Add(1)
	}
}

func (t *meter) carry(way int, packets, bytes uint64) {
	if t != nil {
		t.n[sumPackets+way].Add(packets)
		t.n[sumBytes+way].Add(bytes)
	}
}

func (t *meter) now() (s sums) {
	for i := range t.n {
		s[i] = t.n[i].Load()
	}
	return s
}

// ledger divides the meters into those that have a name and the rest. What was shown on one side stays there, so that no
// sum ever shrinks when Services change sides.
type ledger struct {
	mu    sync.Mutex
	other sums
	gone  meter // of flows that outlived their Service
}

func (l *ledger) show(all []*meter) map[string]Traffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	type line struct {
		*meter
		now sums
	}
	lines := make([]line, 0, len(all))
	for _, t := range all {
		lines = append(lines, line{t, t.now()})
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(cmp.Compare(b.now.packets(), a.now.packets()), cmp.Compare(b.now[sumOpened], a.now[sumOpened]), cmp.Compare(a.name, b.name))
	})
	out := map[string]Traffic{}
	busy := min(len(lines), maxServices)
	for _, x := range lines[:busy] {
		x.named = x.now.less(x.other)
		out[x.name] = x.named.traffic()
	}
	for _, x := range append(lines[busy:], line{&l.gone, l.gone.now()}) {
		l.other.add(x.now.less(x.named).less(x.other))
		x.other = x.now.less(x.named)
	}
	out[OtherServices] = l.other.traffic()
	return out
}

// carry counts a packet of one way and reports whether the counters want to be emptied. The way's shard is locked.
func (e *entry) carry(way, size int) (full bool) {
	e.packets[way]++
	e.bytes[way] += uint32(size)
	return e.packets[way] >= 1<<15 || e.bytes[way] >= 1<<31
}

// spend empties the counters of one way. The way's shard is locked, or the entry is the caller's alone.
func (e *entry) spend(way int) (packets uint16, bytes uint32) {
	packets, bytes = e.packets[way], e.bytes[way]
	e.packets[way], e.bytes[way] = 0, 0
	return packets, bytes
}

// credit brings a flow's counters of one way to its Service.
func (b *Balancer) credit(v *view, e *entry, way int) {
	packets, bytes := e.spend(way)
	if packets > 0 && e.flags&flagMasquerade == 0 {
		b.meterOf(v, e.front()).carry(way, uint64(packets), uint64(bytes))
	}
}

func (b *Balancer) meterOf(v *view, k frontKey) *meter {
	if f := v.front(k); f != nil {
		return f.meter
	}
	return &b.ledger.gone
}

// settle brings in what an ended flow has carried, and that it was never answered.
func (b *Balancer) settle(slot, status uint32) {
	v, e := b.view.Load(), &b.flows.slots[slot]
	if p, st := b.offloads.place(slot); p != nil {
		b.catchUp(v, e, st)
	}
	b.offloads.leave(slot)
	if v.ejecting > 0 && status&(stateMask|bitFailed) == tcpSyn && b.now()-e.created >= unanswered {
		b.tried(v, e, false)
	}
	b.credit(v, e, orig)
	b.credit(v, e, reply)
}

// carried is what one flow has carried one way.
type carried struct {
	front   frontKey
	way     int
	packets uint16
	bytes   uint32
}

// gather brings in what the living flows have carried.
func (b *Balancer) gather() {
	v := b.view.Load()
	var part []carried
	for i := range b.flows.shards {
		part = b.flows.gather(part[:0], uint64(i))
		for _, c := range part {
			b.meterOf(v, c.front).carry(c.way, uint64(c.packets), uint64(c.bytes))
		}
	}
}

// gather empties the counters that a shard guards.
func (f *flows) gather(out []carried, shard uint64) []carried {
	s := &f.shards[shard]
	s.Lock()
	defer s.Unlock()
	for bucket := shard; bucket < uint64(len(f.heads)); bucket += shards {
		for ref := f.heads[bucket]; ref != 0; {
			e, way := f.at(ref)
			if packets, bytes := e.spend(way); packets > 0 && e.flags&flagMasquerade == 0 {
				out = append(out, carried{e.front(), way, packets, bytes})
			}
			ref = e.next[way]
		}
	}
	return out
}
