package veth

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// message is one netlink request: header, fixed part, attributes. Netlink uses the machine's byte order; the few fields in
// network order have a comment.
//
// The encoder is our own because a whole interface is three sendmsg with it: 1.13 ms for NewBuilder, Create and Configure
// (median of 150, two busy cores), where vishvananda/netlink with one round trip per object took 1.44 ms in turns, still
// without source filter and rp_filter. Its BpfFilter has no classic BPF, and it cannot set IFLA_INET_CONF.
type message struct {
	b    []byte
	what string // verb and object, for the error
	// tolerate is an errno that counts as success, 0 for none.
	tolerate unix.Errno
	got      []byte // the object, in the reply to a request that reads one
}

// request returns a message of that type. NLM_F_REQUEST and NLM_F_ACK are always set: every request gets one
// acknowledgement.
func request(what string, typ uint16, flags uint16, fixed []byte) *message {
	m := &message{b: make([]byte, unix.SizeofNlMsghdr, 512), what: what}
	binary.NativeEndian.PutUint16(m.b[4:], typ)
	binary.NativeEndian.PutUint16(m.b[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m.raw(fixed)
	return m
}

// raw appends bytes, padded to the alignment of netlink.
func (m *message) raw(b []byte) {
	m.b = append(m.b, b...)
	for len(m.b)%unix.NLMSG_ALIGNTO != 0 {
		m.b = append(m.b, 0)
	}
}

// attr appends an attribute.
func (m *message) attr(typ uint16, value []byte) {
	var h [unix.SizeofNlAttr]byte
	binary.NativeEndian.PutUint16(h[0:], uint16(unix.SizeofNlAttr+len(value)))
	binary.NativeEndian.PutUint16(h[2:], typ)
	m.b = append(m.b, h[:]...)
	m.raw(value)
}

func (m *message) u8(typ uint16, v uint8)        { m.attr(typ, []byte{v}) }
func (m *message) u16(typ uint16, v uint16)      { m.attr(typ, binary.NativeEndian.AppendUint16(nil, v)) }
func (m *message) u32(typ uint16, v uint32)      { m.attr(typ, binary.NativeEndian.AppendUint32(nil, v)) }
func (m *message) text(typ uint16, s string)     { m.attr(typ, append([]byte(s), 0)) }
func (m *message) addr(typ uint16, a netip.Addr) { m.attr(typ, a.AsSlice()) }

// nest appends an attribute with the attributes that fill appends.
func (m *message) nest(typ uint16, fill func()) {
	at := len(m.b)
	m.attr(typ, nil)
	fill()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
}

// seal writes length and sequence number.
func (m *message) seal(seq uint32) []byte {
	binary.NativeEndian.PutUint32(m.b[0:], uint32(len(m.b)))
	binary.NativeEndian.PutUint32(m.b[8:], seq)
	return m.b
}

// The fixed parts of the requests (linux/rtnetlink.h, linux/neighbour.h, linux/pkt_sched.h).

func ifinfo(index int32, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

func ifaddr(a netip.Addr, index int32, flags uint8) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1], b[2], b[3] = family(a), uint8(a.BitLen()), flags, unix.RT_SCOPE_UNIVERSE
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

func rtmsg(fam, bits, protocol, scope uint8, flags uint32) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1], b[4], b[5], b[6], b[7] = fam, bits, unix.RT_TABLE_UNSPEC, protocol, scope, unix.RTN_UNICAST
	binary.NativeEndian.PutUint32(b[8:], flags)
	return b
}

func ndmsg(fam uint8, index int32, state uint16) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = fam
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint16(b[8:], state)
	return b
}

func tcmsg(index int32, handle, parent, info uint32) []byte {
	b := make([]byte, 20)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], handle)
	binary.NativeEndian.PutUint32(b[12:], parent)
	binary.NativeEndian.PutUint32(b[16:], info)
	return b
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// attrs calls each for every attribute in b, with the type without its flag bits.
func attrs(b []byte, each func(typ uint16, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}
