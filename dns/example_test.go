package dns_test

import (
	"context"
	"fmt"
	"net/netip"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/dns"
	"github.com/warrennet/warren/internal/model"
)

// A server answers cluster names from the latest snapshot. Query returns what a client would receive.
func ExampleServer() {
	loopback := netip.MustParseAddr("127.0.0.1")
	srv, err := dns.New(dns.Config{Listen: []netip.AddrPort{netip.AddrPortFrom(loopback, 5353)}, Domain: "cluster.local"})
	if err != nil {
		fmt.Println(err)
		return
	}
	srv.Set(&model.Snapshot{Revision: 1, Services: []model.Service{{
		ObjectName: model.ObjectName{Namespace: "default", Name: "web"},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.43.0.5")},
	}}})

	e := srv.Query(context.Background(), "web.default.svc.cluster.local", mdns.TypeA, loopback)
	fmt.Println(e.Rcode, e.Answers)
	e = srv.Query(context.Background(), "api.default.svc.cluster.local", mdns.TypeA, loopback)
	fmt.Println(e.Rcode, e.Answers)
	// Output:
	// NOERROR [web.default.svc.cluster.local. 5 IN A 10.43.0.5]
	// NXDOMAIN []
}
