package conntrack

import (
	"hash/maphash"
	"net/netip"
	"unsafe"

	"github.com/warrennet/warren/internal/packet"
)

// Direction is one of the two directions of a flow, as in Linux' ip_conntrack_dir.
type Direction uint8

// The directions.
const (
	Original Direction = iota // client to backend
	Reply                     // backend to client
)

// Opposite returns the other direction.
func (d Direction) Opposite() Direction { return 1 - d }

// Tuple is one direction of a flow as its packets are received. IPv4 addresses are in their mapped form. ICMP echo has
// its identifier as the source port of requests and as the destination port of replies, so that the tuple of a request
// never equals that of a reply.
type Tuple struct {
	Src, Dst         [16]byte
	SrcPort, DstPort uint16
}

// Key is what the index looks up.
type Key struct {
	Tuple
	Proto uint8
	_     [3]byte
}

// TupleOf returns the tuple of packets from src to dst.
func TupleOf(src, dst netip.AddrPort) Tuple {
	return Tuple{src.Addr().As16(), dst.Addr().As16(), src.Port(), dst.Port()}
}

// Source returns the source address and port.
func (t *Tuple) Source() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(t.Src).Unmap(), t.SrcPort)
}

// Destination returns the destination address and port.
func (t *Tuple) Destination() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(t.Dst).Unmap(), t.DstPort)
}

// KeyOf returns the key of a packet that can belong to a flow: one with ports, or an ICMP echo.
func KeyOf(p *packet.Packet) (k Key, ok bool) {
	k.Proto = p.Proto
	switch {
	case p.HasPorts():
		k.SrcPort, k.DstPort = p.SrcPort, p.DstPort
	default:
		id, request, echo := p.Echo()
		if !echo || (p.Proto == packet.ProtoICMP) != (p.Version == 4) {
			return k, false
		}
		if request {
			k.SrcPort = id
		} else {
			k.DstPort = id
		}
	}
	k.Src, k.Dst = p.Src.As16(), p.Dst.As16()
	return k, true
}

// ReplyKeyOf returns the key of the packets that answer the packet quoted in an ICMP error.
func ReplyKeyOf(p *packet.Packet, quoted *packet.Inner) (k Key, ok bool) {
	k.Proto = quoted.Proto
	k.Src, k.Dst = quoted.Dst.As16(), quoted.Src.As16()
	switch {
	case quoted.HasPorts:
		k.SrcPort, k.DstPort = quoted.DstPort, quoted.SrcPort
	case quoted.Echo && (p.Buf[quoted.L4] == 8 || p.Buf[quoted.L4] == 128): // echo request, ICMPv6 echo request
		k.DstPort = quoted.EchoID
	case quoted.Echo:
		k.SrcPort = quoted.EchoID
	default:
		return k, false
	}
	return k, true
}

// hash is keyed by a seed of this process, so that no sender can aim at one bucket.
func (k *Key) hash(seed maphash.Seed) uint64 {
	return maphash.Bytes(seed, unsafe.Slice((*byte)(unsafe.Pointer(k)), unsafe.Sizeof(*k)))
}
