package tundev

import "github.com/warrennet/warren/internal/packet"

// Hook receives each packet or super-packet once, may rewrite its headers in place, and returns a verdict.
//
// Both methods are called from several goroutines at once: Outbound from one per TUN queue, Inbound from one per peer. They must
// not keep p or p.Buf, not block and not allocate. For Inbound p may be coalesced: p.Length covers all of it while p.Buf ends after
// the first segment. Only a packet whose p.Super() is false may be read beyond its headers or replaced.
type Hook interface {
	Outbound(p *packet.Packet) packet.Verdict
	Inbound(p *packet.Packet) packet.Verdict
}

// passHook stands for a nil hook: packets of the host go to peers, packets of peers to the host.
type passHook struct{}

func (passHook) Outbound(*packet.Packet) packet.Verdict { return packet.VerdictPeer }
func (passHook) Inbound(*packet.Packet) packet.Verdict  { return packet.VerdictReflect }
