package plan

import (
	"net/netip"

	"github.com/warrennet/warren/servicelb/offload"
)

// PodLink is the host's end of a Pod's veth.
type PodLink struct {
	Index int32
	MAC   [6]byte
	// Shaped: a queueing discipline limits the link's traffic.
	Shaped bool
}

// Offload is the Pods whose flows the eBPF program may forward.
type Offload struct {
	Links []int32 // indexes of the interfaces to attach the program to
	Pods  map[netip.Addr]offload.Pod
}

// offloadOf excludes Pods whose interface is being made or removed, and Pods with a limit at their interface: offloaded packets
// pass no queueing discipline.
func offloadOf(in *Input) Offload {
	o := Offload{Pods: map[netip.Addr]offload.Pod{}}
	for _, p := range in.Pods {
		l, ok := in.PodLinks[p.Link]
		if !ok || l.Shaped || p.MAC == [6]byte{} {
			continue
		}
		o.Links = append(o.Links, l.Index)
		for _, addr := range p.Addrs {
			o.Pods[addr] = offload.Pod{Link: l.Index, HostMAC: l.MAC, MAC: p.MAC}
		}
	}
	return o
}
