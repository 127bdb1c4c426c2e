package agent

import (
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/tunnel"
)

// hook joins the load balancer to the tunnel: the two know nothing of each other, their verdicts are the same four.
type hook struct{ b *servicelb.Balancer }

func (h hook) Outbound(p *packet.Packet) tunnel.Verdict { return verdicts[h.b.Outbound(p)&3] }
func (h hook) Inbound(p *packet.Packet) tunnel.Verdict  { return verdicts[h.b.Inbound(p)&3] }

var verdicts = [4]tunnel.Verdict{
	servicelb.Peer:    tunnel.ToPeer,
	servicelb.Reflect: tunnel.Reflect,
	servicelb.Drop:    tunnel.Drop,
	servicelb.Reply:   tunnel.Reply,
}
