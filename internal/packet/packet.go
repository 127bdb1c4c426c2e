// Package packet parses and rewrites IP packets in place: one parse, no allocation, checksums updated by differences
// (RFC 1624) instead of sums over the payload.
//
// A Packet may be a super-packet: up to 64 KB of one TCP or UDP flow under a single header, as a TUN device with a
// virtio-net header delivers it. Its transport checksum is then only the sum of the pseudo-header, to be completed after
// segmentation; every rewrite handles both forms. The package owns no memory except the Packet, starts no goroutine and
// imports the standard library only. Packets are hostile: lengths are checked before each read, and an invalid packet is
// a Fault, not an error.
package packet

import "net/netip"

// IP protocol numbers.
const (
	ProtoICMP    = 1
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoICMPv6  = 58
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// TCP flags in byte 13 of the header (RFC 9293).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Packet is one IP packet or super-packet. Parse fills it; the setters change Buf and the parsed fields together.
// The zero value is ready for Parse. A Packet is used by one goroutine at a time.
type Packet struct {
	// Buf starts with the IP header and ends with the packet. When the tunnel has coalesced segments it ends with the first
	// segment instead, and Length is larger than Buf. Its capacity beyond its length is free for answers (Become).
	Buf []byte
	// Vnet is the virtio-net header of the packet; zero means a single packet with complete checksums.
	Vnet Vnet

	// Src and Dst are the addresses of the IP header, never IPv4-mapped.
	Src, Dst netip.Addr
	// Length is the size of the whole IP packet in bytes, from its header.
	Length int
	// L4 is the offset of the transport header in Buf. It is valid only with HasL4.
	L4 int
	// FragID and FragOff (in bytes) identify a fragment; see Fragment.
	FragID  uint32
	FragOff int
	// SrcPort and DstPort are set for TCP, UDP, UDP-Lite and SCTP.
	SrcPort, DstPort uint16

	// Version is 4 or 6.
	Version uint8
	// Proto is the transport protocol, behind all IPv6 extension headers.
	Proto uint8
	// TCPFlags are FIN to CWR, zero for other protocols.
	TCPFlags uint8
	// ICMPType and ICMPCode are set for ICMP and ICMPv6.
	ICMPType, ICMPCode uint8
	// MoreFrags is the IP header's more-fragments bit.
	MoreFrags bool
	// DontFrag is IPv4's DF; for IPv6 it is always true.
	DontFrag bool
	// HasL4: the fixed part of the transport header is in Buf. It is false for fragments except the first, and when the IPv6
	// extension headers do not end with a transport protocol.
	HasL4 bool
}

// Fragment reports whether the packet is a part of a larger one.
func (p *Packet) Fragment() bool { return p.MoreFrags || p.FragOff != 0 }

// FragmentSize returns how many bytes of the original packet's payload a fragment has. It is unknown if there are IPv6
// extension headers other than the fragment header.
func (p *Packet) FragmentSize() (size int, ok bool) {
	switch {
	case p.Version == 4:
		return p.Length - int(p.Buf[0]&15)*4, p.Fragment()
	case p.Buf[6] == 44:
		return p.Length - 48, p.Fragment()
	}
	return 0, false
}

// HasPorts reports whether SrcPort and DstPort are set.
func (p *Packet) HasPorts() bool {
	if !p.HasL4 {
		return false
	}
	switch p.Proto {
	case ProtoTCP, ProtoUDP, ProtoUDPLite, ProtoSCTP:
		return true
	}
	return false
}

// Source returns source address and port; the port is 0 where the protocol has none.
func (p *Packet) Source() netip.AddrPort { return netip.AddrPortFrom(p.Src, p.SrcPort) }

// Destination returns destination address and port; the port is 0 where the protocol has none.
func (p *Packet) Destination() netip.AddrPort { return netip.AddrPortFrom(p.Dst, p.DstPort) }

// HeaderLen returns the bytes from the start of the IP header to the end of the transport header: what every
// segment of a super-packet repeats. It is 0 when the transport header is not in Buf or has no known length.
func (p *Packet) HeaderLen() int {
	if !p.HasL4 {
		return 0
	}
	switch p.Proto {
	case ProtoTCP:
		return p.L4 + int(p.Buf[p.L4+12]>>4)*4
	case ProtoUDP, ProtoUDPLite, ProtoICMP, ProtoICMPv6:
		return p.L4 + 8
	}
	return 0
}

// TTL returns IPv4's time to live or IPv6's hop limit.
func (p *Packet) TTL() uint8 {
	if p.Version == 4 {
		return p.Buf[8]
	}
	return p.Buf[7]
}
