package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// beat is a heartbeat: what a node tells every other one several times a second, in one datagram through the tunnel.
//
//	"WRNB" version(1) flags(1)=bit 0: any  macs(1) subnets(1) claims(1) 0(3)  total(4) sequence(8) born(8)
//	macs of 6 bytes; subnets: bits(1) address(16); claims: address(16) epoch(8)
//
// IPv4 addresses are mapped into IPv6 (RFC 4291 section 2.5.5.2). Who sent it follows from its source address, which the
// tunnel vouches for: a peer can only send from its own blocks, a Pod only from its own address.
type beat struct {
	born    int64 // when the sender's agent started, Unix nanoseconds: an older one's datagrams are void
	seq     uint64
	any     bool // it announces addresses outside of its subnets too
	macs    []mac
	subnets []netip.Prefix
	claims  []claim
	total   int // claims the node has; more than one datagram holds are sent by turns
}

// claim says that its sender announces an address. Of two nodes that do, the higher epoch goes on.
type claim struct {
	addr  netip.Addr
	epoch uint64
}

// What one datagram holds at most: it must pass a tunnel of 1,280 bytes whole.
const (
	maxMACs    = 8
	maxSubnets = 16
	maxClaims  = 32

	beatHead    = 32
	beatVersion = 1
	beatMagic   = "WRNB"
	maxBeat     = beatHead + maxMACs*6 + maxSubnets*17 + maxClaims*24
)

func (h *beat) encode() []byte {
	b := append(make([]byte, 0, maxBeat), beatMagic...)
	flags := byte(0)
	if h.any {
		flags = 1
	}
	macs, subnets, claims := h.macs[:min(len(h.macs), maxMACs)], h.subnets[:min(len(h.subnets), maxSubnets)], h.claims[:min(len(h.claims), maxClaims)]
	b = append(b, beatVersion, flags, byte(len(macs)), byte(len(subnets)), byte(len(claims)), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(h.total))
	b = binary.BigEndian.AppendUint64(b, h.seq)
	b = binary.BigEndian.AppendUint64(b, uint64(h.born))
	for _, m := range macs {
		b = append(b, m[:]...)
	}
	for _, p := range subnets {
		a := p.Addr().As16()
		b = append(append(b, byte(p.Bits())), a[:]...)
	}
	for _, c := range claims {
		a := c.addr.As16()
		b = binary.BigEndian.AppendUint64(append(b, a[:]...), c.epoch)
	}
	return b
}

func decodeBeat(b []byte) (h beat, err error) {
	if len(b) < beatHead || string(b[:4]) != beatMagic {
		return h, errors.New("no heartbeat")
	}
	if b[4] != beatVersion {
		return h, fmt.Errorf("heartbeat of version %d, expected %d", b[4], beatVersion)
	}
	macs, subnets, claims := int(b[6]), int(b[7]), int(b[8])
	if macs > maxMACs || subnets > maxSubnets || claims > maxClaims || len(b) != beatHead+macs*6+subnets*17+claims*24 {
		return h, errors.New("heartbeat of a wrong length")
	}
	h.any = b[5]&1 != 0
	h.total = int(binary.BigEndian.Uint32(b[12:]) & 0xffffff)
	h.seq, h.born = binary.BigEndian.Uint64(b[16:]), int64(binary.BigEndian.Uint64(b[24:]))
	b = b[beatHead:]
	for range macs {
		h.macs, b = append(h.macs, mac(b[:6])), b[6:]
	}
	for range subnets {
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte(b[1:17])).Unmap(), int(b[0]))
		if !p.IsValid() || p != p.Masked() {
			return h, errors.New("heartbeat with a wrong subnet")
		}
		h.subnets, b = append(h.subnets, p), b[17:]
	}
	for range claims {
		h.claims, b = append(h.claims, claim{netip.AddrFrom16([16]byte(b[:16])).Unmap(), binary.BigEndian.Uint64(b[16:])}), b[24:]
	}
	return h, nil
}
