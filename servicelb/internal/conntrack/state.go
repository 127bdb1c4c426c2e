package conntrack

import "github.com/warrennet/warren/internal/packet"

// Status holds the state in its low byte, single bits above it, and the incarnation of the slot in its upper half: a
// compare-and-swap never takes a flow for the one that had the slot before.
type Status uint32

// State is the state of a flow's protocol.
type State uint8

// The states. They are stored in the flow file: their order is part of its layout.
const (
	stateFree   State = iota
	stateEnding       // being unlinked by the goroutine that has set it; lookups do not find it
	TCPSyn
	TCPAnswered // SYN-ACK seen
	TCPOpen
	TCPHalfClosed // one FIN seen
	TCPClosing    // both FINs seen
	TCPReset
	UDPNew
	UDPOpen
	DNSNew
	DNSOpen
	EchoNew
	EchoOpen
	SCTPNew
	SCTPOpen
	SCTPClosing
	stateCount
)

const (
	stateMask = 0xff
	bitFIN    = 1 << 8  // shifted by the direction: a FIN was seen
	bitAlive  = 1 << 10 // shifted by the direction: segments were seen after a RST
	bitFailed = 1 << 12 // with TCPSyn: the backend does not answer
	bitsMask  = 0x1f00

	bitOffloaded = 1 << 13 // the offload has forwarded packets of the flow; no packet changes this
	incarnation  = 1 << 16
)

var stateNames = [stateCount]string{"free", "ending", "tcp-syn", "tcp-answered", "tcp-open", "tcp-half-closed", "tcp-closing",
	"tcp-reset", "udp-new", "udp-open", "dns-new", "dns-open", "echo-new", "echo-open", "sctp-new", "sctp-open", "sctp-closing"}

// timeouts are the seconds that a flow may be idle in each state.
var timeouts = [stateCount]uint32{
	TCPSyn: 30, TCPAnswered: 30, TCPOpen: 24 * 3600, TCPHalfClosed: 120, TCPClosing: 10, TCPReset: 10,
	UDPNew: 30, UDPOpen: UDPTimeout, DNSNew: 10, DNSOpen: 10, EchoNew: 30, EchoOpen: 30,
	SCTPNew: 30, SCTPOpen: 300, SCTPClosing: 10,
}

// UDPTimeout is how many seconds a UDP flow with traffic in both directions may be idle.
const UDPTimeout = 180

// UnansweredAfter is after how many seconds a client that still repeats its SYN counts as a failed connection. Linux
// repeats it after 1 and 3 seconds.
const UnansweredAfter = 3

// State returns the state.
func (s Status) State() State { return State(s) }

// Live reports whether the status is that of a flow, neither free nor ending.
func (s Status) Live() bool { return s.State() > stateEnding }

// Failed reports whether the backend of a TCPSyn flow is known not to answer.
func (s Status) Failed() bool { return s&bitFailed != 0 }

// Incarnation distinguishes the flows that have had one slot, one after another.
func (s Status) Incarnation() uint32 { return uint32(s) / incarnation }

func (s Status) with(state State) Status { return s&^stateMask | Status(state) }

// HalfOpen reports whether a client reaches the state alone, without an answer: what a flood consists of.
func (s Status) HalfOpen() bool {
	switch s.State() {
	case TCPSyn, TCPAnswered, UDPNew, DNSNew, EchoNew, SCTPNew:
		return true
	}
	return false
}

// Reopens reports whether a packet starts a new connection although a flow that is ending has its tuple.
func (s Status) Reopens(p *packet.Packet) bool {
	switch s.State() {
	case TCPHalfClosed, TCPClosing, TCPReset:
		return p.TCPFlags&(packet.SYN|packet.ACK) == packet.SYN
	case SCTPClosing:
		return true
	}
	return false
}

// firstState is the state of a new flow.
func (e *Entry) firstState() State {
	switch {
	case e.proto == packet.ProtoTCP:
		return TCPSyn
	case e.proto == packet.ProtoSCTP:
		return SCTPNew
	case e.proto == packet.ProtoICMP || e.proto == packet.ProtoICMPv6:
		return EchoNew
	case e.isDNS():
		return DNSNew
	}
	return UDPNew
}

// lastState is the last of the protocol's states, which begin with first.
func lastState(first State) State {
	switch first {
	case TCPSyn:
		return TCPReset
	case SCTPNew:
		return SCTPClosing
	}
	return first + 1
}

// Advance changes the flow's state according to a packet and returns the status before and after. The direction's shard
// is locked; a packet of the other direction may do the same under the lock of another shard.
func (t *Table) Advance(e *Entry, d Direction, p *packet.Packet) (before, after Status) {
	for {
		before = e.Status()
		after = before&^(stateMask|bitsMask) | e.step(before&(stateMask|bitsMask), d, p)
		if before == after {
			return before, after
		}
		if e.status.CompareAndSwap(uint32(before), uint32(after)) {
			t.leaveHalfOpen(e, before, after)
			return before, after
		}
	}
}

// step is the state machine. s is a Status without incarnation.
func (e *Entry) step(s Status, d Direction, p *packet.Packet) Status {
	switch s.State() {
	case TCPSyn, TCPAnswered, TCPOpen, TCPHalfClosed, TCPClosing, TCPReset:
		return e.nextTCP(s, d, p)
	case UDPNew, DNSNew, EchoNew:
		if d == Reply {
			return s + 1
		}
	case SCTPNew, SCTPOpen:
		if endsSCTP(p) {
			return Status(SCTPClosing)
		}
		if d == Reply {
			return Status(SCTPOpen)
		}
	}
	return s
}

// nextTCP follows a connection. A segment outside of the window changes nothing, nor does a RST or FIN that mayEnd refuses,
// so that a forged one cannot end the flow.
func (e *Entry) nextTCP(s Status, d Direction, p *packet.Packet) Status {
	if !p.HasL4 || !e.inWindow(d, p) || p.TCPFlags&(packet.RST|packet.FIN) != 0 && !e.mayEnd(d, p) {
		return s
	}
	e.recordSegment(d, p)
	flags := p.TCPFlags
	state := s.State()
	switch {
	case flags&packet.RST != 0:
		return Status(TCPReset) | s&(bitFIN|bitFIN<<1)
	case state == TCPReset:
		if s |= bitAlive << d; s&(bitAlive|bitAlive<<1) == bitAlive|bitAlive<<1 {
			return Status(TCPOpen) // both ends continued: neither has accepted the RST
		}
		return s
	case flags&packet.FIN != 0 && state >= TCPAnswered:
		return afterFIN(s, d)
	case state == TCPSyn && d == Reply && flags&(packet.SYN|packet.ACK) == packet.SYN|packet.ACK:
		return Status(TCPAnswered)
	case state == TCPSyn && d == Reply && flags&packet.ACK != 0:
		return Status(TCPOpen) // only the offload of the previous process has seen the handshake
	case s == Status(TCPSyn) && d == Original && flags&(packet.SYN|packet.ACK) == packet.SYN &&
		e.Seen()-e.created >= UnansweredAfter:
		return s | bitFailed
	case s == Status(TCPAnswered) && d == Original && flags&(packet.SYN|packet.ACK) == packet.ACK:
		return Status(TCPOpen)
	}
	return s
}

// afterFIN is the status after a FIN.
func afterFIN(s Status, d Direction) Status {
	s = s&^stateMask | bitFIN<<d
	if s&(bitFIN|bitFIN<<1) == bitFIN|bitFIN<<1 {
		return s | Status(TCPClosing)
	}
	return s | Status(TCPHalfClosed)
}

// AdvanceByFlags changes a connection's state by one step according to the TCP flags that each direction has sent since
// the last call. The offload reports them. Call it until moved is false: single packets would have made the same steps.
func (t *Table) AdvanceByFlags(e *Entry, flags [2]uint32) (d Direction, before, after Status, moved bool) {
	for {
		before = e.Status()
		s := before & (stateMask | bitsMask)
		var next Status
		if d, next = nextByFlags(s, flags); next == s {
			return d, before, before, false
		}
		after = before&^(stateMask|bitsMask) | next
		if e.status.CompareAndSwap(uint32(before), uint32(after)) {
			t.leaveHalfOpen(e, before, after)
			return d, before, after, true
		}
	}
}

// nextByFlags is one step of a connection that has sent these flags; s itself if there is none.
func nextByFlags(s Status, flags [2]uint32) (d Direction, next Status) {
	const synAck = uint32(packet.SYN | packet.ACK)
	state := s.State()
	for d := range flags {
		if flags[d]&packet.RST != 0 && state >= TCPSyn && state < TCPClosing {
			return Direction(d), Status(TCPReset) | s&(bitFIN|bitFIN<<1)
		}
	}
	switch state {
	case TCPSyn:
		if flags[Reply]&synAck == synAck {
			return Reply, Status(TCPAnswered)
		}
		if flags[Reply]&packet.ACK != 0 {
			return Reply, Status(TCPOpen)
		}
	case TCPAnswered:
		if flags[Original]&packet.ACK != 0 {
			return Original, Status(TCPOpen)
		}
	case TCPOpen, TCPHalfClosed:
		for d := range flags {
			if flags[d]&packet.FIN != 0 && s&(bitFIN<<d) == 0 {
				return Direction(d), afterFIN(s, Direction(d))
			}
		}
	}
	return Original, s
}

// MarkFailed records that the backend of a TCPSyn flow is unreachable. It reports false if it was known before, or if the
// flow is in another state.
func (e *Entry) MarkFailed() bool {
	s := e.Status()
	return s&(stateMask|bitFailed) == Status(TCPSyn) && e.status.CompareAndSwap(uint32(s), uint32(s|bitFailed))
}

// MarkOffloaded records that the offload forwards the flow: from now on not every packet is tracked.
func (e *Entry) MarkOffloaded() {
	for {
		s := e.status.Load()
		if s&bitOffloaded != 0 || e.status.CompareAndSwap(s, s|bitOffloaded) {
			return
		}
	}
}

// MarkReset sets the state after the balancer has reset both ends, unless the status has changed since it was read.
func (e *Entry) MarkReset(s Status) {
	e.status.CompareAndSwap(uint32(s), uint32(s&^(stateMask|bitsMask)|Status(TCPReset)))
}

// endsSCTP reports whether the first chunk is ABORT or SHUTDOWN COMPLETE (RFC 9260).
func endsSCTP(p *packet.Packet) bool {
	const abort, shutdownComplete = 6, 14
	return p.HasL4 && len(p.Buf) > p.L4+12 && (p.Buf[p.L4+12] == abort || p.Buf[p.L4+12] == shutdownComplete)
}
