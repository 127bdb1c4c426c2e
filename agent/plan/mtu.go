package plan

import (
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
)

// tunnelOverhead is the outer IPv6, UDP and WireGuard headers and the tag: 40 + 8 + 16 + 16 bytes.
const tunnelOverhead = 80

// MinMTU is the smallest MTU in bytes that IPv6 allows (RFC 8200 section 5), minMTU4 the least that IPv4 hosts must be able to
// reassemble (RFC 791).
const (
	MinMTU  = 1280
	minMTU4 = 576
)

// TunnelMTU derives the MTU of warren0 from the underlay's: it leaves room for the outer headers. With IPv6 Pods it is at least
// 1,280 bytes, even where the underlay is too narrow for that: the tunnel lets the kernel fragment the outer datagram then.
func (in *Input) TunnelMTU() int {
	mtu := in.MTU
	if mtu == 0 {
		mtu = 1500 - tunnelOverhead
		if in.Underlay.MTU > 0 {
			mtu = in.Underlay.MTU - tunnelOverhead
		}
	}
	least := minMTU4
	if in.has(model.IPv6) {
		least = MinMTU
	}
	return min(max(mtu, least), 65535-tunnelOverhead)
}

// narrowOwnDatagrams gives the routes of tableOwnDatagrams an MTU that fits every path to a backend. When a datagram of the
// node to its own node port is too large, the kernel looks up the route to its own address without a port and stores the path
// MTU in table local, where no datagram to a node port looks. TCP stores it in the socket, clients on other machines in a route.
func (p *Plan) narrowOwnDatagrams() {
	least := min(MinMTU, p.MTU)
	for _, peer := range p.Peers {
		if peer.MTU > 0 {
			least = min(least, peer.MTU)
		}
	}
	for i := range p.Host.Routes {
		if r := &p.Host.Routes[i]; r.Table == tableOwnDatagrams && r.Type == hostnet.Unicast {
			r.MTU = least
			if r.Dst.Addr().Is6() {
				r.MTU = MinMTU
			}
		}
	}
}
