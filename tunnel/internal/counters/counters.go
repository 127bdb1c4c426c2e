// Package counters has the counters of the packet path and the reasons for which the tunnel drops packets. It owns nothing but
// these numbers.
package counters

import "sync/atomic"

// Reason is why the tunnel dropped a packet. A hook counts its own drops.
type Reason uint8

// The reasons, in the order of the packet path.
const (
	DropMalformed   Reason = iota // Parse or the virtio header found a fault
	DropNoPeer                    // no peer owns the destination (or a source that must belong to one)
	DropMulticast                 // multicast and broadcast never have an owner; separate because kernels send them by themselves
	DropTooBig                    // larger than the peer's MTU and not to be fragmented; answered with packet-too-big
	DropBadChecksum               // a new checksum would have hidden the damage
	DropQueueFull                 // no buffer for a packet between queues, or for an injected one
	DropLinkDown                  // warren0 is down
	DropWrite                     // the kernel refused the packet
	DropSource                    // a peer sent a source address that it does not own
	DropNoEndpoint                // handshake with a peer that has no endpoint
	DropSend                      // the underlay refused the datagram
	DropReceive                   // datagrams that fit in no buffer
	reasonCount
)

var reasonNames = [reasonCount]string{"malformed", "no_peer", "multicast", "too_big", "bad_checksum", "queue_full",
	"link_down", "write", "source_not_allowed", "no_endpoint", "send", "receive"}

func (r Reason) String() string { return reasonNames[r] }

// Set has the counters of one tunnel. The packet path adds to each once per super-packet or batch, not per segment.
type Set struct {
	Drops      [reasonCount]atomic.Uint64
	Reads      atomic.Uint64 // Read calls of the WireGuard device that returned packets
	Supers     atomic.Uint64 // packets read from the TUN, super or not
	Segments   atomic.Uint64 // packets passed to the WireGuard device
	Reflected  atomic.Uint64
	Replied    atomic.Uint64
	Injected   atomic.Uint64
	Writes     atomic.Uint64 // packets written to the TUN, super or not
	Written    atomic.Uint64 // segments inside them
	Sends      atomic.Uint64 // UDP messages sent, each up to 64 datagrams
	Datagrams  atomic.Uint64 // datagrams inside them
	Receives   atomic.Uint64 // UDP messages received
	Received   atomic.Uint64 // datagrams inside them
	Copied     atomic.Uint64 // received datagrams that were moved because the predicted size was wrong
	Fallbacks  atomic.Uint64 // UDP_SEGMENT sends repeated datagram by datagram
	Downgrades atomic.Uint64 // segmentation offloads that the kernel refused
	Handshakes atomic.Uint64 // handshakes that completed
	Rotations  atomic.Uint64 // changes to the next endpoint of a peer
	Reopens    atomic.Uint64 // TUN devices recreated because another process deleted the old one
}

// Drop counts one dropped packet.
func (c *Set) Drop(r Reason) { c.Drops[r].Add(1) }

// Stats is a reading of the tunnel's counters. All of them only grow while the Tunnel lives.
type Stats struct {
	// Drops counts packets by reason; all reasons are present.
	Drops map[string]uint64
	// Reads are the batches passed to the WireGuard device, Supers the packets read from the TUN in them (a super-packet is
	// one), Segments the packets after segmentation.
	Reads, Supers, Segments uint64
	// Reflected, Replied and Injected are packets by verdict Reflect or Reply and by the Inject methods.
	Reflected, Replied, Injected uint64
	// Writes are packets written to the TUN, Written the segments they stand for.
	Writes, Written uint64
	// Sends are UDP messages sent, Datagrams the datagrams in them; Fallbacks the messages repeated singly.
	Sends, Datagrams, Fallbacks uint64
	// Receives are UDP messages received, Received the datagrams in them, Copied the datagrams that were moved.
	Receives, Received, Copied uint64
	// Downgrades counts segmentation offloads switched off because the kernel refused them; SegmentationOffload lists those in use.
	Downgrades          uint64
	SegmentationOffload []string
	// Handshakes completed, Rotations to another endpoint, Reopens of the TUN device.
	Handshakes, Rotations, Reopens uint64
}

// Read returns the current values.
func (c *Set) Read() Stats {
	s := Stats{Drops: make(map[string]uint64, reasonCount),
		Reads: c.Reads.Load(), Supers: c.Supers.Load(), Segments: c.Segments.Load(),
		Reflected: c.Reflected.Load(), Replied: c.Replied.Load(), Injected: c.Injected.Load(),
		Writes: c.Writes.Load(), Written: c.Written.Load(),
		Sends: c.Sends.Load(), Datagrams: c.Datagrams.Load(), Fallbacks: c.Fallbacks.Load(),
		Receives: c.Receives.Load(), Received: c.Received.Load(), Copied: c.Copied.Load(),
		Downgrades: c.Downgrades.Load(), Handshakes: c.Handshakes.Load(),
		Rotations: c.Rotations.Load(), Reopens: c.Reopens.Load()}
	for r := range reasonCount {
		s.Drops[r.String()] = c.Drops[r].Load()
	}
	return s
}
