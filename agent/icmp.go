package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Nothing steers ICMP that arrives for the node's own addresses: that would break neighbour discovery and the node's
// own pings. So the errors and echo replies that belong to node ports and masqueraded flows are read beside the kernel,
// from raw sockets with a type filter; the kernel goes on handling its own copy.

// watchICMP feeds what arrives for one family to the balancer until ctx ends.
func (a *Agent) watchICMP(ctx context.Context, v6 bool) error {
	network, addr := "ip4:icmp", "0.0.0.0"
	if v6 {
		network, addr = "ip6:ipv6-icmp", "::"
	}
	c, err := icmp.ListenPacket(network, addr)
	if err != nil {
		return fmt.Errorf("raw socket %s: %w", network, err)
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := filterICMP(c, v6); err != nil {
		c.Close()
		return fmt.Errorf("filter of raw socket %s: %w", network, err)
	}
	buf := make([]byte, 40+65535)
	for {
		n, src, dst, err := readICMP(c, v6, buf[40:])
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			continue // a truncated or odd message is not worth the loop
		}
		a.fromHost(rebuild(buf, n, icmpOf(v6), src, dst))
	}
}

func filterICMP(c *icmp.PacketConn, v6 bool) error {
	if v6 {
		p := c.IPv6PacketConn()
		var f ipv6.ICMPFilter
		f.SetAll(true) // block
		for _, t := range []ipv6.ICMPType{ipv6.ICMPTypeDestinationUnreachable, ipv6.ICMPTypePacketTooBig, ipv6.ICMPTypeTimeExceeded, ipv6.ICMPTypeParameterProblem, ipv6.ICMPTypeEchoReply} {
			f.Accept(t)
		}
		return errors.Join(p.SetICMPFilter(&f), p.SetControlMessage(ipv6.FlagDst, true))
	}
	p := c.IPv4PacketConn()
	var f ipv4.ICMPFilter
	f.SetAll(true)
	for _, t := range []ipv4.ICMPType{ipv4.ICMPTypeDestinationUnreachable, ipv4.ICMPTypeTimeExceeded, ipv4.ICMPTypeParameterProblem, ipv4.ICMPTypeEchoReply} {
		f.Accept(t)
	}
	return errors.Join(p.SetICMPFilter(&f), p.SetControlMessage(ipv4.FlagDst, true))
}

// readICMP returns the length of the ICMP message and its addresses.
func readICMP(c *icmp.PacketConn, v6 bool, b []byte) (n int, src, dst netip.Addr, err error) {
	var from net.Addr
	var to net.IP
	if v6 {
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
	ip, ok := from.(*net.IPAddr)
	if !ok {
		return 0, src, dst, fmt.Errorf("sender %v is no IP address", from)
	}
	src, okSrc := netip.AddrFromSlice(ip.IP)
	dst, okDst := netip.AddrFromSlice(to)
	if !okSrc || !okDst {
		return 0, src, dst, errors.New("no addresses")
	}
	return n, src.Unmap(), dst.Unmap(), nil
}

func icmpOf(v6 bool) uint8 {
	if v6 {
		return packet.ProtoICMPv6
	}
	return packet.ProtoICMP
}

// rebuild puts an IP header before the message at buf[40:], because raw sockets hand the message alone.
func rebuild(buf []byte, n int, proto uint8, src, dst netip.Addr) []byte {
	if src.Is4() {
		b := buf[20 : 40+n]
		clear(b[:20])
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		q := packet.Packet{Buf: b, Version: 4}
		q.FixIPChecksum()
		return b
	}
	b := buf[:40+n]
	clear(b[:40])
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return b
}

// fromHost translates one message and sends it on, if it belongs to a flow.
func (a *Agent) fromHost(b []byte) {
	var p packet.Packet
	if p.Parse(b) != packet.OK {
		return
	}
	a.inject(p.Buf, a.lb.FromHost(&p))
}

// inject sends a packet that the load balancer built or translated.
func (a *Agent) inject(pkt []byte, to packet.Verdict) {
	var err error
	switch to {
	case packet.VerdictReflect, packet.VerdictReply:
		err = a.tun.InjectHost(pkt)
	case packet.VerdictPeer:
		err = a.tun.InjectPeer(pkt)
	}
	if err != nil {
		a.log.Debug("packet of the load balancer lost", "err", err)
	}
}
