package tunnel

import "sync/atomic"

// Reason says why a packet was dropped in the tunnel; a hook counts its own drops itself.
type Reason uint8

// The reasons, in the order of a packet's way.
const (
	DropMalformed   Reason = iota // no packet: Parse or the virtio header found a fault
	DropNoPeer                    // no peer owns the destination (or a source that must belong to one)
	DropMulticast                 // multicast and broadcast have no owner by nature; counted apart because kernels send it unasked
	DropTooBig                    // larger than the peer's MTU and not to be fragmented; answered with packet-too-big
	DropBadChecksum               // would have been hidden by computing a new one
	DropQueueFull                 // no buffer for a packet between queues, or for an injected one
	DropLinkDown                  // warren0 is down
	DropWrite                     // the kernel refused the packet
	DropSource                    // a peer sent a source address that it does not own
	DropNoEndpoint                // handshake with a peer whose address is not known
	DropSend                      // the underlay refused the datagram
	DropReceive                   // datagrams that fit in no buffer
	reasonCount
)

var reasonNames = [reasonCount]string{"malformed", "no_peer", "multicast", "too_big", "bad_checksum", "queue_full",
	"link_down", "write", "source_not_allowed", "no_endpoint", "send", "receive"}

func (r Reason) String() string { return reasonNames[r] }

// counters are written by the packet path. Each is bumped once per super-packet or batch, not per segment.
type counters struct {
	drops      [reasonCount]atomic.Uint64
	reads      atomic.Uint64 // Read calls of the engine that returned packets
	supers     atomic.Uint64 // packets read from the TUN, super or not
	segments   atomic.Uint64 // packets handed to the engine
	reflected  atomic.Uint64
	replied    atomic.Uint64
	injected   atomic.Uint64
	writes     atomic.Uint64 // packets written to the TUN, super or not
	written    atomic.Uint64 // segments inside them
	sends      atomic.Uint64 // UDP messages sent, each up to 64 datagrams
	datagrams  atomic.Uint64 // datagrams inside them
	receives   atomic.Uint64 // UDP messages received
	received   atomic.Uint64 // datagrams inside them
	copied     atomic.Uint64 // received datagrams that had to be moved because the size was guessed wrong
	fallbacks  atomic.Uint64 // UDP_SEGMENT sends repeated datagram by datagram
	downgrades atomic.Uint64
	handshakes atomic.Uint64 // handshakes that completed
	rotations  atomic.Uint64 // endpoints given up for the next one
	reopens    atomic.Uint64 // TUN devices made anew because somebody deleted the old one
}

func (c *counters) drop(r Reason) { c.drops[r].Add(1) }

// Stats is a reading of the tunnel's counters. All of them only grow while the Tunnel lives.
type Stats struct {
	// Drops counts packets by reason; all reasons are present.
	Drops map[string]uint64
	// Reads are the batches handed to the engine, Supers the packets read from the TUN in them (a super-packet is
	// one), Segments the packets after segmentation.
	Reads, Supers, Segments uint64
	// Reflected, Replied and Injected are packets by verdict Reflect or Reply and by the Inject methods.
	Reflected, Replied, Injected uint64
	// Writes are packets written to the TUN, Written the segments they stand for.
	Writes, Written uint64
	// Sends are UDP messages sent, Datagrams the datagrams in them; Fallbacks the messages repeated singly.
	Sends, Datagrams, Fallbacks uint64
	// Receives are UDP messages received, Received the datagrams in them, Copied those that had to be moved.
	Receives, Received, Copied uint64
	// Downgrades counts offload features given up; Offload lists those in use.
	Downgrades uint64
	Offload    []string
	// Handshakes completed, Rotations to another endpoint, Reopens of the TUN device.
	Handshakes, Rotations, Reopens uint64
}

func (c *counters) read() Stats {
	s := Stats{Drops: make(map[string]uint64, reasonCount),
		Reads: c.reads.Load(), Supers: c.supers.Load(), Segments: c.segments.Load(),
		Reflected: c.reflected.Load(), Replied: c.replied.Load(), Injected: c.injected.Load(),
		Writes: c.writes.Load(), Written: c.written.Load(),
		Sends: c.sends.Load(), Datagrams: c.datagrams.Load(), Fallbacks: c.fallbacks.Load(),
		Receives: c.receives.Load(), Received: c.received.Load(), Copied: c.copied.Load(),
		Downgrades: c.downgrades.Load(), Handshakes: c.handshakes.Load(),
		Rotations: c.rotations.Load(), Reopens: c.reopens.Load()}
	for r := range reasonCount {
		s.Drops[r.String()] = c.drops[r].Load()
	}
	return s
}
