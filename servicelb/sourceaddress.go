package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/servicelb/internal/conntrack"
)

// clientKind is where the sender of a packet to a Service is.
type clientKind uint8

const (
	clientLocalPod  clientKind = iota
	clientRemotePod            // a Pod of another node
	clientNode                 // this node itself
	clientLoopback             // this node itself, from 127.0.0.0/8
	clientExternal
)

func (v *view) clientKind(a netip.Addr) clientKind {
	switch {
	case a.IsLoopback():
		return clientLoopback
	case v.IsNodeAddr(a):
		return clientNode
	case v.IsLocalPod(a):
		return clientLocalPod
	case v.IsPod(a):
		return clientRemotePod
	}
	return clientExternal
}

// sourceFor returns the source address that the backend sees, and the flag of a flow with it. It reports false if this
// node has no such address. The client's own address is preserved wherever the reply returns through this node:
//
//	client \ backend     local Pod        remote Pod   this node   another node  external
//	local Pod            client (1)       client       client      client        node address
//	this node            SNAT             client       SNAT        client        node address
//	this node, loopback  SNAT             SNAT         SNAT        SNAT          node address
//	remote Pod           client           SNAT         SNAT        SNAT          node address
//	external             client           SNAT         SNAT        SNAT          node address
//
// (1) SNAT if the backend is the client itself (hairpin): a Pod does not accept packets from its own address.
//
// SNAT is the node's SNAT address: its replies are routed to the TUN of this node. A reply to the client's own address
// would be delivered by the other node or the host directly, untranslated. The node address is combined with a
// masquerade port.
func (v *view) sourceFor(c clientKind, client, backend netip.Addr) (src netip.Addr, flag conntrack.Flags, ok bool) {
	preserve := false
	switch isNode := v.IsNodeAddr(backend); {
	case !isNode && !v.IsPod(backend) && !v.IsPeerAddr(backend):
		src = v.NodeAddr(backend)
		return src, conntrack.FlagNodeSource, src.IsValid()
	case c == clientLocalPod:
		preserve = client != backend
	case c == clientNode:
		preserve = v.IsRemote(backend)
	case c == clientRemotePod || c == clientExternal:
		preserve = v.IsLocalPod(backend) && !isNode
	}
	if preserve {
		return client, 0, true
	}
	src = v.Self().SNAT(model.FamilyOf(backend))
	return src, conntrack.FlagSNAT, src.IsValid()
}
