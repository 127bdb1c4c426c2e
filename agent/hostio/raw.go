package hostio

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// headroom is the space for an IP header before a message, maxMessage the largest message.
const (
	headroom   = 40
	maxMessage = 65535
)

// RawHandler is what a raw socket's reader calls.
type RawHandler struct {
	Opened  func()           // the socket is open
	Deliver func(pkt []byte) // an IP packet; it must not be retained
}

var errNoAddresses = errors.New("message without addresses")

// addresses returns the addresses of a message from a raw socket, unmapped.
func addresses(from net.Addr, to net.IP) (src, dst netip.Addr, err error) {
	ip, ok := from.(*net.IPAddr)
	if !ok {
		return src, dst, errNoAddresses
	}
	src, okSrc := netip.AddrFromSlice(ip.IP)
	dst, okDst := netip.AddrFromSlice(to)
	if !okSrc || !okDst {
		return src, dst, errNoAddresses
	}
	return src.Unmap(), dst.Unmap(), nil
}

// rebuild writes an IP header before the message of n bytes at buf[headroom:] and returns the packet: raw sockets return the
// message alone.
func rebuild(buf []byte, n int, proto uint8, src, dst netip.Addr) []byte {
	if src.Is4() {
		b := buf[headroom-20 : headroom+n]
		clear(b[:20])
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		q := packet.Packet{Buf: b, Version: 4}
		q.FixIPChecksum()
		return b
	}
	b := buf[:headroom+n]
	clear(b[:headroom])
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return b
}
