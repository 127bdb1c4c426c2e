package conntrack

import (
	"encoding/binary"

	"github.com/warrennet/warren/internal/packet"
)

// window is how far a sequence number may be from the other end's acknowledgement: more than any flow has in flight.
// A sender that guesses hits it with a probability of one in 128.
const window = 1 << 24

// endSlack is how far behind the tracked data in flight a RST or FIN may be: the data between was lost before it came here.
const endSlack = 1 << 16

func sequence(p *packet.Packet) uint32        { return binary.BigEndian.Uint32(p.Buf[p.L4+4:]) }
func acknowledgement(p *packet.Packet) uint32 { return binary.BigEndian.Uint32(p.Buf[p.L4+8:]) }

// inWindow compares the sequence number with the other end's newest acknowledgement.
func (e *Entry) inWindow(d Direction, p *packet.Packet) bool {
	base := e.acks[d.Opposite()].Load()
	diff := int32(sequence(p) - base)
	return base == 0 || diff <= window && diff >= -window
}

// inFlight returns how many bytes a direction has sent that the other end has not acknowledged, as far as segments were
// tracked. The acknowledgement is known.
func (e *Entry) inFlight(d Direction) uint32 {
	if n := e.sent[d].Load() - e.acks[d.Opposite()].Load(); n <= window {
		return n
	}
	return 0 // nothing was tracked since, or the acknowledgement is ahead of what was
}

// mayEnd reports whether an end of the connection would accept a RST or FIN. From the first acknowledgement on its sequence
// number is known: the one that is expected next (RFC 5961 section 3.2), or one of the data in flight, which the other end
// may have received without an acknowledgement that was seen here. The checksum must be correct. That of a partial one was
// verified when the segments were coalesced, or is completed by this host.
func (e *Entry) mayEnd(d Direction, p *packet.Packet) bool {
	if base := e.acks[d.Opposite()].Load(); base != 0 {
		last := e.inFlight(d)
		if last > 0 {
			last += endSlack
		}
		if sequence(p)-base > last {
			return false
		}
	}
	return p.Partial() || !p.Fragment() && len(p.Buf) == p.Length && p.ChecksumOK()
}

// recordSegment stores the acknowledgement, and the end of new data. Data behind a gap counts because a segment may be lost
// or late, but only with an acknowledgement that its sender may have sent: a forger must guess that too.
func (e *Entry) recordSegment(d Direction, p *packet.Packet) {
	if p.TCPFlags&packet.RST != 0 {
		return
	}
	plausible := e.plausibleAck(d, p)
	if p.TCPFlags&packet.ACK != 0 {
		if ack := acknowledgement(p); e.acks[d].Load() != ack {
			e.acks[d].Store(ack)
		}
	}
	length := uint32(p.Length-p.HeaderLen()) + uint32(p.TCPFlags&packet.FIN) + uint32(p.TCPFlags&packet.SYN)/packet.SYN
	if length == 0 {
		return
	}
	end, base := sequence(p)+length, e.acks[d.Opposite()].Load()
	if base == 0 {
		if p.TCPFlags&packet.SYN != 0 {
			e.sent[d].Store(end)
		}
		return
	}
	inFlight, start := e.inFlight(d), sequence(p)-base
	inOrder := start == 0 || start == inFlight || start <= window && plausible
	if inOrder && end-base > inFlight && end-base <= window {
		e.sent[d].Store(end)
	}
}

// plausibleAck reports whether a segment repeats the newest acknowledgement of its direction, or acknowledges data in flight.
func (e *Entry) plausibleAck(d Direction, p *packet.Packet) bool {
	base := e.acks[d].Load()
	return base != 0 && p.TCPFlags&packet.ACK != 0 && acknowledgement(p)-base <= e.inFlight(d.Opposite())
}

// forgetSequence makes all sequence numbers unknown: those of another flow, or outdated ones.
func (e *Entry) forgetSequence() {
	for d := range e.sent {
		e.sent[d].Store(0)
		e.acks[d].Store(0)
	}
}
