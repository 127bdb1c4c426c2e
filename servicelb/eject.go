package servicelb

import (
	"net/netip"
	"strconv"
	"sync/atomic"

	"github.com/warrennet/warren/internal/packet"
)

// A backend that fails several TCP connections in a row, as this node sees them, stands out of the choice for a while
// where the Service asks for that. Then one connection tries it: an answer lets it back, a failure puts it out for
// twice as long. Connections that stand, and their packets, have no part in this.

// EjectAnnotation says after how many failed connections in a row a backend is ejected; without it none is.
const EjectAnnotation = "warren.dev/eject-after"

const (
	firstEjection   = 10  // seconds
	longestEjection = 300 // likewise
	trialTime       = 10  // seconds until another connection may try, if nothing is heard of the first
	// unanswered is after how many seconds a client that still repeats its SYN counts as failed: Linux does so after 1
	// and 3 seconds.
	unanswered = 3
)

// ejectAfter reads the annotation; what is no number from 1 on is off.
func ejectAfter(annotations map[string]string) uint16 {
	n, _ := strconv.ParseUint(annotations[EjectAnnotation], 10, 10)
	return uint16(n)
}

// record is a standing that packets change. It belongs to a backend of a Service port through all changes of the table.
type record struct{ atomic.Uint64 }

// recordKey names a record within its Service.
type recordKey struct {
	port uint64 // frontend.id
	backend
}

// standing is what a record holds.
type standing struct {
	until uint32 // seconds of CLOCK_BOOTTIME at which a trial is due; 0: not ejected
	times uint8  // ejections since a connection succeeded
	trial bool   // a connection tries the backend; the next may do so at until
	fails uint16 // in a row
}

func (s standing) pack() uint64 {
	return uint64(s.until)<<32 | uint64(s.times)<<24 | uint64(b2i(s.trial))<<16 | uint64(s.fails)
}

func unpack(x uint64) standing {
	return standing{uint32(x >> 32), uint8(x >> 24), x>>16&1 != 0, uint16(x)}
}

func (r *record) ejected() bool { return r.Load()>>32 != 0 }

// takes reports whether a new connection may go to the backend. If a trial is due, it is this one.
func (r *record) takes(now uint32) bool {
	x := r.Load()
	s := unpack(x)
	switch {
	case s.until == 0:
		return true
	case now < s.until:
		return false
	}
	s.until, s.trial = now+trialTime, true
	return r.CompareAndSwap(x, s.pack())
}

// succeed lets the backend back.
func (r *record) succeed() {
	if r.Load() != 0 {
		r.Store(0)
	}
}

// fail counts a failed connection and reports whether it has ejected the backend. spare says that it must stay.
func (r *record) fail(limit uint16, now uint32, spare bool) bool {
	for {
		x := r.Load()
		s := unpack(x)
		switch {
		case s.until != 0 && now < s.until && !s.trial:
			return false // one that began before the ejection
		case s.until == 0 && (s.fails+1 < limit || spare):
			s.fails = min(s.fails+1, limit)
		default:
			s = standing{until: now + min(uint32(firstEjection)<<min(uint32(s.times), 8), longestEjection), times: min(s.times+1, 100)}
		}
		if r.CompareAndSwap(x, s.pack()) {
			return s.until != 0
		}
	}
}

// avoid replaces the choice of an ejected backend by one of the others, which pick chooses.
func (p *pool) avoid(i int, pick uint64, now uint32) int {
	if p.records == nil || p.records[i].takes(now) {
		return i
	}
	left := p.left(nil)
	if p.tooFew(left) {
		return i
	}
	n := int(pick % uint64(left))
	for j, r := range p.records {
		if r.ejected() {
			continue
		}
		if n == 0 {
			return j
		}
		n--
	}
	return i // another one was ejected meanwhile
}

// left counts the backends that are not ejected, without one.
func (p *pool) left(without *record) (n int) {
	for _, r := range p.records {
		if r != without && !r.ejected() {
			n++
		}
	}
	return n
}

// tooFew: where more than half would be out, ejection says more about this node than about the backends.
func (p *pool) tooFew(left int) bool { return left*2 < len(p.backends) }

// moved follows a flow from one state to another. The way's shard is locked.
func (b *Balancer) moved(v *view, e *entry, way int, before, after uint32) {
	if halfOpen(before) && !halfOpen(after) {
		b.flows.sources.settle(e.source.Load())
	}
	if v.ejecting == 0 || before&stateMask != tcpSyn {
		return
	}
	switch known := before&bitFailed != 0; {
	case after&stateMask == tcpAnswered, after&stateMask == tcpOpen:
		b.tried(v, e, true)
	case !known && after&bitFailed != 0, !known && after&stateMask == tcpReset && way == reply:
		b.tried(v, e, false)
	}
}

// tried notes what came of a connection to a backend. The entry is locked, or the caller's alone.
func (b *Balancer) tried(v *view, e *entry, success bool) {
	f := v.front(e.front())
	if f == nil || f.ejectAfter == 0 {
		return
	}
	in := f.pool(e.flags&flagOutside != 0)
	i, ok := in.find(e.way[reply].source())
	if !ok {
		return
	}
	r := in.records[i]
	if success {
		r.succeed()
	} else if r.fail(f.ejectAfter, b.now(), in.tooFew(in.left(r))) {
		f.meter.eject()
	}
}

// unreached notes an ICMP error about a SYN. k is the key of the packets that would have answered.
func (b *Balancer) unreached(v *view, k *key) {
	f := b.flows
	h := k.hash(f.seed)
	s := f.shard(h)
	s.Lock()
	defer s.Unlock()
	ref := f.find(h, k)
	if ref == 0 {
		return
	}
	e, way := f.at(ref)
	status := e.status.Load()
	if way == reply && status&(stateMask|bitFailed) == tcpSyn && e.status.CompareAndSwap(status, status|bitFailed) {
		b.tried(v, e, false)
	}
}

// unreachable reports whether an error says that something cannot be reached at all, and not that it is too large or late.
func unreachable(p *packet.Packet) bool {
	if p.Version == 4 {
		return p.ICMPType == 3 && p.Buf[p.L4+1] != 4
	}
	return p.ICMPType == 1
}

// Ejection is a backend that stands out of the choice.
type Ejection struct {
	Service string // namespace/name
	Port    string // name of the Service port
	Backend netip.AddrPort
	// Left are the seconds until a connection tries it; 0: the next one does, or one just has.
	Left int
}

// Ejections lists the backends that are out on this node.
func (b *Balancer) Ejections() (out []Ejection) {
	v, now := b.view.Load(), b.now()
	if v.ejecting == 0 {
		return nil
	}
	seen := map[*record]bool{}
	for _, f := range v.fronts.all {
		for _, p := range []*pool{f.internal, f.external} {
			for i, r := range p.records {
				s := unpack(r.Load())
				if s.until == 0 || seen[r] {
					continue
				}
				seen[r] = true
				x := Ejection{Service: f.name.String(), Port: f.port, Backend: p.backends[i].addrPort()}
				if !s.trial {
					x.Left = int(max(int32(s.until-now), 0))
				}
				out = append(out, x)
			}
		}
	}
	return out
}
