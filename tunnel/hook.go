package tunnel

import "github.com/warrennet/warren/internal/packet"

// Verdict is what a Hook decides about a packet.
type Verdict uint8

// The verdicts. They mean the same in both directions, so a hook can turn a packet around.
const (
	// ToPeer encrypts the packet to the peer that owns its destination; without an owner it is dropped and counted.
	ToPeer Verdict = iota
	// Reflect writes the packet to the host through the TUN; a super-packet goes whole.
	Reflect
	// Drop forgets the packet; the hook has counted the reason.
	Drop
	// Reply sends the packet back where it came from (the host for Outbound, the peer that owns the new
	// destination for Inbound), after the hook has replaced it by its own answer with packet.Become.
	Reply
)

// Hook sees each packet or super-packet once, may rewrite its headers in place, and says where it goes.
//
// Both methods are called from several goroutines at once: Outbound from one per TUN queue, Inbound from one per
// peer. They must not keep p or p.Buf, not block, not allocate. For Inbound p may be coalesced: p.Length covers
// all of it while p.Buf ends after the first segment; only a packet whose p.Super() is false may be read beyond its
// headers or replaced.
type Hook interface {
	Outbound(p *packet.Packet) Verdict
	Inbound(p *packet.Packet) Verdict
}

// passHook is the nil hook: out to the peers, in to the host.
type passHook struct{}

func (passHook) Outbound(*packet.Packet) Verdict { return ToPeer }
func (passHook) Inbound(*packet.Packet) Verdict  { return Reflect }
