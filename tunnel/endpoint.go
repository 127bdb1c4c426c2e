package tunnel

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// endpoint is a peer's underlay address, and the local address that it should see us with: the one it reached us at
// last, so that a host with several addresses answers from the right one. Endpoints are shared between goroutines;
// only source changes, atomically.
type endpoint struct {
	dst    netip.AddrPort
	sa     [unix.SizeofSockaddrInet6]byte // as the kernel wants it
	salen  uint32
	source atomic.Pointer[source]
	// tooBig is the UDP_SEGMENT size in bytes that the path refused, 0 if none did; skip counts the sends until it
	// is tried again.
	tooBig, skip atomic.Uint32
}

var _ conn.Endpoint = (*endpoint)(nil)

// source is a local address. The interface matters for link-local addresses only: forcing it for others would work
// against the host's own routing when that is asymmetric.
type source struct {
	addr    netip.Addr
	ifindex uint32
}

func newEndpoint(dst netip.AddrPort) *endpoint {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	e := &endpoint{dst: dst}
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

// stick remembers the local address a datagram came to.
func (e *endpoint) stick(s source) {
	if old := e.source.Load(); old == nil || *old != s {
		fresh := s // only a change may cost an allocation
		e.source.Store(&fresh)
	}
}

// ClearSrc forgets the local address; the engine asks for it when handshakes fail.
func (e *endpoint) ClearSrc() { e.source.Store(nil) }

// SrcToString returns the local address, or "" when the kernel chooses.
func (e *endpoint) SrcToString() string {
	if s := e.source.Load(); s != nil {
		return s.addr.String()
	}
	return ""
}

// DstToString returns address and port, with IPv6 in brackets.
func (e *endpoint) DstToString() string { return e.dst.String() }

// DstToBytes is what the engine's cookies are bound to.
func (e *endpoint) DstToBytes() []byte {
	b, _ := e.dst.MarshalBinary()
	return b
}

// DstIP returns the peer's underlay address.
func (e *endpoint) DstIP() netip.Addr { return e.dst.Addr() }

// SrcIP returns the local address, or the zero Addr when the kernel chooses.
func (e *endpoint) SrcIP() netip.Addr {
	if s := e.source.Load(); s != nil {
		return s.addr
	}
	return netip.Addr{}
}
