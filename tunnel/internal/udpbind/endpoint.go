package udpbind

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// Endpoint is a peer's underlay address, with the local address to send from: the one that the peer's last datagram was sent to.
// So a host with several addresses answers from the right one. Endpoints are shared between goroutines; only source, tooBig and
// skip change, atomically.
type Endpoint struct {
	dst    netip.AddrPort
	sa     [unix.SizeofSockaddrInet6]byte // sockaddr of the kernel
	salen  uint32
	source atomic.Pointer[source]
	// tooBig is the UDP_SEGMENT size in bytes that the path refused, 0: none; skip counts the sends until that size is
	// used again.
	tooBig, skip atomic.Uint32
}

var _ conn.Endpoint = (*Endpoint)(nil)

// source is a local address. The interface is set for link-local addresses only: for others it would override the host's own
// routing where that is asymmetric.
type source struct {
	addr    netip.Addr
	ifindex uint32
}

// NewEndpoint returns the endpoint of an underlay address.
func NewEndpoint(dst netip.AddrPort) *Endpoint {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	e := &Endpoint{dst: dst}
	if a := dst.Addr(); a.Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&e.sa))
		sa.Family, sa.Addr = unix.AF_INET, a.As4()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], dst.Port())
		e.salen = unix.SizeofSockaddrInet4
	} else {
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&e.sa))
		sa.Family, sa.Addr = unix.AF_INET6, a.As16()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], dst.Port())
		sa.Scope_id = zoneIndex(a.Zone())
		e.salen = unix.SizeofSockaddrInet6
	}
	return e
}

// stick stores the local address that a datagram was sent to.
func (e *Endpoint) stick(s source) {
	if old := e.source.Load(); old == nil || *old != s {
		fresh := s // only a change costs an allocation
		e.source.Store(&fresh)
	}
}

// ClearSrc forgets the local address; the WireGuard device calls it when handshakes fail.
func (e *Endpoint) ClearSrc() { e.source.Store(nil) }

// SrcToString returns the local address, or "" when the kernel selects it.
func (e *Endpoint) SrcToString() string {
	if s := e.source.Load(); s != nil {
		return s.addr.String()
	}
	return ""
}

// DstToString returns address and port, with IPv6 in brackets.
func (e *Endpoint) DstToString() string { return e.dst.String() }

// DstToBytes returns the bytes that WireGuard cookies are bound to.
func (e *Endpoint) DstToBytes() []byte {
	b, _ := e.dst.MarshalBinary()
	return b
}

// AddrPort returns the peer's underlay address and port.
func (e *Endpoint) AddrPort() netip.AddrPort { return e.dst }

// DstIP returns the peer's underlay address.
func (e *Endpoint) DstIP() netip.Addr { return e.dst.Addr() }

// SrcIP returns the local address, or the zero Addr when the kernel selects it.
func (e *Endpoint) SrcIP() netip.Addr {
	if s := e.source.Load(); s != nil {
		return s.addr
	}
	return netip.Addr{}
}
