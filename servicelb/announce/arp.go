package announce

import (
	"encoding/binary"
	"net/netip"
)

// parseARP completes o from an ARP packet.
func parseARP(o observation, b []byte) (observation, bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != arpHardware || binary.BigEndian.Uint16(b[2:]) != etherIPv4 ||
		b[4] != arpHardwareLen || b[5] != arpProtocolLen {
		return o, false
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	copy(o.mac[:], b[arpSenderOffset:])
	if o.mac[0]&1 != 0 || o.mac == zeroMAC {
		return o, false
	}
	if !sender.IsUnspecified() {
		o.claimed = sender
	}
	switch binary.BigEndian.Uint16(b[arpOpOffset:]) {
	case arpRequest:
		if sender == target {
			return o, true // an announcement (RFC 5227 section 3)
		}
		o.target = target
		if !sender.IsUnspecified() {
			o.requester = sender
		}
	case arpReply:
	default:
		return o, false
	}
	return o, true
}

// arpPacket is an ARP packet that this package sends. The sender's MAC address is also the source of the frame.
type arpPacket struct {
	to        mac // destination of the frame
	operation uint16
	senderMAC mac
	sender    netip.Addr
	targetMAC mac
	target    netip.Addr
}

// frame returns the packet in an Ethernet frame.
func (p arpPacket) frame() []byte {
	b := ethernet(make([]byte, 0, etherMinLen), p.to, p.senderMAC, etherARP)
	b = binary.BigEndian.AppendUint16(b, arpHardware)
	b = binary.BigEndian.AppendUint16(b, etherIPv4)
	b = append(b, arpHardwareLen, arpProtocolLen)
	b = binary.BigEndian.AppendUint16(b, p.operation)
	b = append(append(b, p.senderMAC[:]...), p.sender.AsSlice()...)
	b = append(append(b, p.targetMAC[:]...), p.target.AsSlice()...)
	return b[:etherMinLen] // the padding is zero
}

// arpProbe queries whether another machine has the address (RFC 5227 section 2.1.1).
func arpProbe(from mac, a netip.Addr) []byte {
	return arpPacket{to: broadcast, operation: arpRequest, senderMAC: from, sender: netip.IPv4Unspecified(), target: a}.frame()
}

// arpAnnounce announces the address as a request (RFC 5227 section 2.3) and as a reply. Some hosts accept only one of them.
func arpAnnounce(from mac, a netip.Addr) [][]byte {
	p := arpPacket{to: broadcast, operation: arpRequest, senderMAC: from, sender: a, target: a}
	request := p.frame()
	p.operation, p.targetMAC = arpReply, broadcast
	return [][]byte{request, p.frame()}
}

// arpAnswer answers a request for the address.
func arpAnswer(from mac, a netip.Addr, request observation) []byte {
	to := request.requester
	if !to.IsValid() {
		to = netip.IPv4Unspecified()
	}
	return arpPacket{to: request.mac, operation: arpReply, senderMAC: from, sender: a, targetMAC: request.mac, target: to}.frame()
}
