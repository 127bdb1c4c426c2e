package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// heartbeat is the datagram that a node sends to every other node through the tunnel, several times per second:
//
//	"WRNB" version(1) flags(1)=bit 0: any link  macs(1) subnets(1) claims(1) 0(3)  total(4) sequence(8) started(8)
//	macs of 6 bytes; subnets: bits(1) address(16); claims: address(16) epoch(8)
//
// IPv4 addresses are IPv4-mapped (RFC 4291 section 2.5.5.2). It is sent in an envelope (envelope.go), which authenticates the
// sender.
type heartbeat struct {
	started int64 // start of the sender's agent, Unix nanoseconds; datagrams of an earlier start are ignored
	seq     uint64
	anyLink bool // the sender announces addresses outside of its subnets too
	macs    []mac
	subnets []netip.Prefix
	claims  []claim
	total   int // claims of the sender; more than one datagram holds are sent in turn
}

// claim is the announcement of an address by the sender. Of two claims the one with the higher epoch wins.
type claim struct {
	addr  netip.Addr
	epoch uint64
}

// The bounds of one datagram. It must pass a tunnel with an MTU of 1280 unfragmented.
const (
	maxMACs    = 8
	maxSubnets = 16
	maxClaims  = 32

	heartbeatHeaderLen = 32
	heartbeatVersion   = 1
	heartbeatMagic     = "WRNB"
	maxHeartbeatLen    = heartbeatHeaderLen + maxMACs*6 + maxSubnets*17 + maxClaims*24
)

func (h *heartbeat) encode() []byte {
	b := append(make([]byte, 0, maxHeartbeatLen), heartbeatMagic...)
	flags := byte(0)
	if h.anyLink {
		flags = 1
	}
	macs, subnets := h.macs[:min(len(h.macs), maxMACs)], h.subnets[:min(len(h.subnets), maxSubnets)]
	claims := h.claims[:min(len(h.claims), maxClaims)]
	b = append(b, heartbeatVersion, flags, byte(len(macs)), byte(len(subnets)), byte(len(claims)), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(h.total))
	b = binary.BigEndian.AppendUint64(b, h.seq)
	b = binary.BigEndian.AppendUint64(b, uint64(h.started))
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

func decodeHeartbeat(b []byte) (h heartbeat, err error) {
	if len(b) < heartbeatHeaderLen || string(b[:4]) != heartbeatMagic {
		return h, errors.New("not a heartbeat")
	}
	if b[4] != heartbeatVersion {
		return h, fmt.Errorf("heartbeat version %d, expected %d", b[4], heartbeatVersion)
	}
	macs, subnets, claims := int(b[6]), int(b[7]), int(b[8])
	if macs > maxMACs || subnets > maxSubnets || claims > maxClaims || len(b) != heartbeatHeaderLen+macs*6+subnets*17+claims*24 {
		return h, fmt.Errorf("heartbeat of %d bytes does not match its counts", len(b))
	}
	h.anyLink = b[5]&1 != 0
	h.total = int(binary.BigEndian.Uint32(b[12:]) & 0xffffff)
	h.seq, h.started = binary.BigEndian.Uint64(b[16:]), int64(binary.BigEndian.Uint64(b[24:]))
	b = b[heartbeatHeaderLen:]
	for range macs {
		h.macs, b = append(h.macs, mac(b[:6])), b[6:]
	}
	for range subnets {
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte(b[1:17])).Unmap(), int(b[0]))
		if !p.IsValid() || p != p.Masked() {
			return h, errors.New("heartbeat with an invalid subnet")
		}
		h.subnets, b = append(h.subnets, p), b[17:]
	}
	for range claims {
		h.claims, b = append(h.claims, claim{netip.AddrFrom16([16]byte(b[:16])).Unmap(), binary.BigEndian.Uint64(b[16:])}), b[24:]
	}
	return h, nil
}
