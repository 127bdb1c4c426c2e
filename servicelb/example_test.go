package servicelb_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb"
)

// A node has the Pods of 10.42.1.0/24. The Service default/web has one endpoint, in a Pod of another node.
func Example() {
	b, err := servicelb.New(servicelb.Config{MaxFlows: 1024})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }() // ends idle flows
	defer func() {
		stop()
		<-done
	}()

	// At every change of the cluster: compile the snapshot and make the table current. A Builder compiles changes only.
	var builder servicelb.Builder
	self := servicelb.Self{
		Node:      "n1",
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		PodCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")},
	}
	web := model.ObjectName{Namespace: "default", Name: "web"}
	table := builder.Build(self, &model.Snapshot{
		Services: []model.Service{{
			ObjectName: web, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.43.0.5")},
			Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80}},
		}},
		Slices: []model.EndpointSlice{{
			ObjectName: web, Service: "web", Ports: []model.EndpointPort{{Protocol: model.TCP, Port: 8080}},
			Endpoints: []model.Endpoint{{Addr: netip.MustParseAddr("10.42.2.7"), Ready: true, Serving: true, Node: "n2"}},
		}},
	})
	b.Set(table)

	// For every packet that the host has routed to the TUN (Inbound: for every packet of a peer): translate it.
	syn := packet.AppendRST(nil, netip.MustParseAddrPort("10.42.1.3:40000"), netip.MustParseAddrPort("10.43.0.5:80"), 1)
	syn[20+13] = packet.SYN
	var p packet.Packet
	if fault := p.Parse(syn); fault != packet.OK {
		fmt.Println(fault)
		return
	}
	verdict := b.Outbound(&p)
	fmt.Println(verdict, p.Source(), "->", p.Destination())
	// Output: peer 10.42.1.3:40000 -> 10.42.2.7:8080
}
