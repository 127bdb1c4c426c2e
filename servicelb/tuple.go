package servicelb

import (
	"hash/maphash"
	"net/netip"
	"unsafe"

	"github.com/warrennet/warren/internal/packet"
)

// tuple is one direction of a flow as it is received: IPv4 addresses in their mapped form. ICMP echo has its
// identifier as source port in requests and as destination port in replies, so that the two never meet by accident.
type tuple struct {
	src, dst     [16]byte
	sport, dport uint16
}

// key is what the index looks up.
type key struct {
	tuple
	proto uint8
	_     [3]byte
}

func tupleOf(src, dst netip.AddrPort) tuple {
	return tuple{src.Addr().As16(), dst.Addr().As16(), src.Port(), dst.Port()}
}

func (t *tuple) source() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(t.src).Unmap(), t.sport)
}

func (t *tuple) destination() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(t.dst).Unmap(), t.dport)
}

// keyOf reads the key of a packet that can belong to a flow: one with ports, or an ICMP echo.
func keyOf(p *packet.Packet) (k key, ok bool) {
	k.proto = p.Proto
	switch {
	case p.HasPorts():
		k.sport, k.dport = p.SrcPort, p.DstPort
	default:
		id, request, echo := p.Echo()
		if !echo || (p.Proto == packet.ProtoICMP) != (p.Version == 4) {
			return k, false
		}
		if request {
			k.sport = id
		} else {
			k.dport = id
		}
	}
	k.src, k.dst = p.Src.As16(), p.Dst.As16()
	return k, true
}

// hash is keyed by a seed of this process: nobody outside can aim at one bucket.
func (k *key) hash(seed maphash.Seed) uint64 {
	return maphash.Bytes(seed, unsafe.Slice((*byte)(unsafe.Pointer(k)), unsafe.Sizeof(*k)))
}
