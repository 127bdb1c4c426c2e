package servicelb

import (
	"encoding/binary"

	"github.com/warrennet/warren/internal/packet"
)

// A status holds the state in its low byte, bits above it, and the slot's incarnation in the upper half, so that a
// compare-and-swap can never take one flow for the one that had the slot before.
const (
	free  uint32 = iota
	dying        // being unlinked by whoever made it so; lookups do not see it
	tcpSyn
	tcpAnswered // SYN-ACK seen
	tcpOpen
	tcpHalfClosed // one FIN seen
	tcpClosing    // both FINs seen
	tcpReset
	udpNew
	udpOpen
	dnsNew
	dnsOpen
	echoNew
	echoOpen
	sctpNew
	sctpOpen
	sctpClosing
	states // how many there are

	stateMask = 0xff
	bitFIN    = 1 << 8  // shifted by the way: a FIN was seen
	bitAlive  = 1 << 10 // shifted by the way: segments after a RST
	bitFailed = 1 << 12 // with tcpSyn: the backend is known not to answer
	stateBits = 0xff00
	life      = 1 << 16 // one incarnation
)

var stateNames = [states]string{"free", "dying", "tcp-syn", "tcp-answered", "tcp-open", "tcp-half-closed", "tcp-closing",
	"tcp-reset", "udp-new", "udp-open", "dns-new", "dns-open", "echo-new", "echo-open", "sctp-new", "sctp-open", "sctp-closing"}

// timeouts are the seconds a flow may be idle in each state.
var timeouts = [states]uint32{tcpSyn: 30, tcpAnswered: 30, tcpOpen: 24 * 3600, tcpHalfClosed: 120, tcpClosing: 10, tcpReset: 10,
	udpNew: 30, udpOpen: 180, dnsNew: 10, dnsOpen: 10, echoNew: 30, echoOpen: 30, sctpNew: 30, sctpOpen: 300, sctpClosing: 10}

// halfOpen are states that a client reaches alone, without anybody's answer: what a flood is made of.
func halfOpen(status uint32) bool {
	switch status & stateMask {
	case tcpSyn, tcpAnswered, udpNew, dnsNew, echoNew, sctpNew:
		return true
	}
	return false
}

// firstState is the state of a new flow.
func (e *entry) firstState() uint32 {
	switch {
	case e.proto == packet.ProtoTCP:
		return tcpSyn
	case e.proto == packet.ProtoSCTP:
		return sctpNew
	case e.proto == packet.ProtoICMP || e.proto == packet.ProtoICMPv6:
		return echoNew
	case e.dns():
		return dnsNew
	}
	return udpNew
}

// advance moves the flow's state by one packet and returns the statuses before and after. It runs under one shard's
// lock, but a packet of the other direction may do the same under another's.
func (e *entry) advance(way int, p *packet.Packet) (before, after uint32) {
	for {
		before = e.status.Load()
		after = before&^(stateMask|stateBits) | e.step(before&(stateMask|stateBits), way, p)
		if before == after || e.status.CompareAndSwap(before, after) {
			return before, after
		}
	}
}

// step is the state machine.
func (e *entry) step(s uint32, way int, p *packet.Packet) uint32 {
	switch s & stateMask {
	case tcpSyn, tcpAnswered, tcpOpen, tcpHalfClosed, tcpClosing, tcpReset:
		return e.stepTCP(s, way, p)
	case udpNew, dnsNew, echoNew:
		if way == reply {
			return s + 1
		}
	case sctpNew, sctpOpen:
		if sctpEnds(p) {
			return sctpClosing
		}
		if way == reply {
			return sctpOpen
		}
	}
	return s
}

// stepTCP follows a connection. A segment outside of the window moves nothing: whoever forged it cannot end the flow.
func (e *entry) stepTCP(s uint32, way int, p *packet.Packet) uint32 {
	if !p.HasL4 || !e.inWindow(way, p) {
		return s
	}
	flags := p.TCPFlags
	switch {
	case flags&packet.RST != 0:
		return tcpReset | s&(bitFIN|bitFIN<<1)
	case s&stateMask == tcpReset:
		if s |= bitAlive << way; s&(bitAlive|bitAlive<<1) == bitAlive|bitAlive<<1 {
			return tcpOpen // both ends went on: the RST was not believed
		}
		return s
	case flags&packet.FIN != 0 && s&stateMask >= tcpAnswered:
		return closing(s, way)
	case s&stateMask == tcpSyn && way == reply && flags&(packet.SYN|packet.ACK) == packet.SYN|packet.ACK:
		return tcpAnswered
	case s&stateMask == tcpSyn && way == reply && flags&packet.ACK != 0:
		return tcpOpen // a shortcut of the process before has seen the handshake
	case s == tcpSyn && way == orig && flags&(packet.SYN|packet.ACK) == packet.SYN && e.seen.Load()-e.created >= unanswered:
		return s | bitFailed
	case s == tcpAnswered && way == orig && flags&(packet.SYN|packet.ACK) == packet.ACK:
		return tcpOpen
	}
	return s
}

// closing is the state after a FIN.
func closing(s uint32, way int) uint32 {
	s = s&^stateMask | bitFIN<<way
	if s&(bitFIN|bitFIN<<1) == bitFIN|bitFIN<<1 {
		return s | tcpClosing
	}
	return s | tcpHalfClosed
}

// window is how far a sequence number may be from what the other end has acknowledged: more than any flow has in
// flight, and a chance of one in 128 for who must guess.
const window = 1 << 24

// inWindow compares the sequence number with the other end's newest acknowledgement, and notes this end's.
func (e *entry) inWindow(way int, p *packet.Packet) bool {
	h := p.Buf[p.L4:]
	if base := e.acks[1-way].Load(); base != 0 {
		if d := int32(binary.BigEndian.Uint32(h[4:]) - base); d > window || d < -window {
			return false
		}
	}
	if p.TCPFlags&(packet.ACK|packet.RST) == packet.ACK {
		if ack := binary.BigEndian.Uint32(h[8:]); e.acks[way].Load() != ack {
			e.acks[way].Store(ack)
		}
	}
	return true
}

// sctpEnds reports whether the first chunk is ABORT or SHUTDOWN COMPLETE (RFC 9260).
func sctpEnds(p *packet.Packet) bool {
	return p.HasL4 && len(p.Buf) > p.L4+12 && (p.Buf[p.L4+12] == 6 || p.Buf[p.L4+12] == 14)
}
