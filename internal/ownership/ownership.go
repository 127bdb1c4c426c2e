// Package ownership decides which object owns an address, or an address and a port.
//
// Addresses come from users' objects (externalIPs, status.loadBalancer, host ports), from pools, from records of other nodes and
// from configuration. A class precedes the ones behind it: what the node and the control plane need, then Pods, ClusterIPs, load
// balancer addresses, node ports, externalIPs and host ports. Within a class the older object is the owner, never the first by
// name. The package is pure: values in, decisions out.
package ownership

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/netx"
)

// Class is the kind of a claim. A lower class precedes a higher one.
type Class uint8

// The classes, the first one precedes all others.
const (
	Node Class = iota // what the node and the control plane need
	Pod
	ClusterIP
	LoadBalancer
	NodePort
	ExternalIP
	HostPort
)

var classNames = [...]string{Node: "node address", Pod: "Pod address", ClusterIP: "ClusterIP", LoadBalancer: "load balancer address",
	NodePort: "node port", ExternalIP: "external IP", HostPort: "host port"}

func (c Class) String() string { return classNames[c] }

// Whole reports whether a claim of the class covers the whole address: ports without a Service are rejected there. All other
// claims cover one port.
func (c Class) Whole() bool { return c <= LoadBalancer }

// Claim is an object's claim of an address, or of an address and a port.
type Claim struct {
	Class   Class
	Owner   model.ObjectName
	Created time.Time // of the object
	UID     string
}

// Compare orders claims of the same address: the first one is the owner. Claims of different objects are never equal if their
// objects have UIDs; the name decides for objects without.
func (c *Claim) Compare(o *Claim) int {
	return cmp.Or(cmp.Compare(c.Class, o.Class), c.Created.Compare(o.Created), strings.Compare(c.UID, o.UID), c.Owner.Compare(o.Owner))
}

// Port is a port of a protocol.
type Port struct {
	Proto model.Protocol
	Port  uint16
}

// Rules are what no object can own, and which external IPs the operator permits.
type Rules struct {
	// Needed are the addresses that the node and the control plane need, each with its use, such as "address of node n1".
	Needed map[netip.Addr]string
	// NodeAddrs are the addresses of this node that may serve host ports.
	NodeAddrs []netip.Addr
	// NodeUses are ports of this node's addresses that warren or the control plane uses, each with its use.
	NodeUses map[Port]string
	// PodRanges and ServiceRanges are assigned by the cluster.
	PodRanges, ServiceRanges []netip.Prefix
	// ExternalIPs are the permitted ranges of externalIPs; none: externalIPs have no effect.
	ExternalIPs []netip.Prefix
}

// RefuseAddress returns why no object may claim the address in that class, or "".
func (r *Rules) RefuseAddress(c Class, a netip.Addr) string {
	if c == NodePort || c == HostPort {
		return "" // addresses of the node itself
	}
	if !a.IsGlobalUnicast() {
		return "it is not a unicast address that routers forward"
	}
	if use, needed := r.Needed[a]; needed {
		return "it is the " + use
	}
	if c > Pod && netx.Contains(r.PodRanges, a) {
		return "it lies in the Pod ranges"
	}
	if c > ClusterIP && netx.Contains(r.ServiceRanges, a) {
		return "it lies in the Service ranges"
	}
	if c == ExternalIP && !netx.Contains(r.ExternalIPs, a) {
		return "the setting service.externalIPs does not permit it"
	}
	return ""
}

// RefuseNodePort returns why no object may have a port of this node, or "". addr is the address that the object names, the zero or
// an unspecified address for all.
func (r *Rules) RefuseNodePort(addr netip.Addr, p Port) string {
	if use, used := r.NodeUses[p]; used {
		return fmt.Sprintf("port %d/%s is %s", p.Port, p.Proto, use)
	}
	if !addr.IsValid() || addr.IsUnspecified() {
		return ""
	}
	for _, a := range r.NodeAddrs {
		if a == addr {
			return ""
		}
	}
	return fmt.Sprintf("%s is not an address of this node", addr)
}
