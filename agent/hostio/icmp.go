package hostio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// RunICMP passes the ICMP errors and echo replies of one family that arrive for the node's own addresses to h, as IP packets, until ctx
// ends. No rule redirects ICMP to the node's own addresses, because that would break
// neighbour discovery and the node's own pings. So the messages that belong to node ports and masqueraded flows are read from a raw
// socket with a type filter. The kernel processes its own copy.
func RunICMP(ctx context.Context, family model.Family, h RawHandler) error {
	network, addr, proto := "ip4:icmp", "0.0.0.0", uint8(packet.ProtoICMP)
	if family == model.IPv6 {
		network, addr, proto = "ip6:ipv6-icmp", "::", packet.ProtoICMPv6
	}
	c, err := icmp.ListenPacket(network, addr)
	if err != nil {
		return fmt.Errorf("open raw socket %s: %w", network, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := filterICMP(c, family); err != nil {
		return fmt.Errorf("filter raw socket %s: %w", network, err)
	}
	h.Opened()
	buf := make([]byte, headroom+maxMessage)
	for {
		n, src, dst, err := readICMP(c, family, buf[headroom:])
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err == nil { // a truncated message is dropped
			h.Deliver(rebuild(buf, n, proto, src, dst))
		}
	}
}

func filterICMP(c *icmp.PacketConn, family model.Family) error {
	if family == model.IPv6 {
		p := c.IPv6PacketConn()
		var f ipv6.ICMPFilter
		f.SetAll(true) // block
		for _, t := range []ipv6.ICMPType{ipv6.ICMPTypeDestinationUnreachable, ipv6.ICMPTypePacketTooBig, ipv6.ICMPTypeTimeExceeded,
			ipv6.ICMPTypeParameterProblem, ipv6.ICMPTypeEchoReply} {
			f.Accept(t)
		}
		return errors.Join(p.SetICMPFilter(&f), p.SetControlMessage(ipv6.FlagDst, true))
	}
	p := c.IPv4PacketConn()
	var f ipv4.ICMPFilter
	f.SetAll(true)
	for _, t := range []ipv4.ICMPType{ipv4.ICMPTypeDestinationUnreachable, ipv4.ICMPTypeTimeExceeded, ipv4.ICMPTypeParameterProblem,
		ipv4.ICMPTypeEchoReply} {
		f.Accept(t)
	}
	return errors.Join(p.SetICMPFilter(&f), p.SetControlMessage(ipv4.FlagDst, true))
}

// readICMP returns the length of the ICMP message and its addresses.
func readICMP(c *icmp.PacketConn, family model.Family, b []byte) (n int, src, dst netip.Addr, err error) {
	var from net.Addr
	var to net.IP
	if family == model.IPv6 {
		var cm *ipv6.ControlMessage
		if n, cm, from, err = c.IPv6PacketConn().ReadFrom(b); cm != nil {
			to = cm.Dst
		}
	} else {
		var cm *ipv4.ControlMessage
		if n, cm, from, err = c.IPv4PacketConn().ReadFrom(b); cm != nil {
			to = cm.Dst
		}
	}
	if err != nil {
		return 0, src, dst, err
	}
	src, dst, err = addresses(from, to)
	return n, src, dst, err
}
