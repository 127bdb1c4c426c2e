package lbpool_test

import (
	"fmt"
	"net/netip"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
)

// A dual-stack Service gets an IPv4 address of the pool and waits for an IPv6 address.
func ExampleChoose() {
	r, err := lbpool.ParseRange("192.0.2.10-192.0.2.11")
	if err != nil {
		fmt.Println(err)
		return
	}
	pools := []model.AddressPool{{Name: "lan", Ranges: []model.AddressRange{r}, AutoAssign: true}}
	other := model.Service{ObjectName: model.ObjectName{Namespace: "default", Name: "other"}, UID: "1", Type: model.LoadBalancer,
		LBAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}
	web := model.Service{ObjectName: model.ObjectName{Namespace: "default", Name: "web"}, UID: "2", Type: model.LoadBalancer,
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.43.0.7"), netip.MustParseAddr("fd43::7")}}

	request, err := lbpool.RequestOf(&web)
	if err != nil {
		fmt.Println(err)
		return
	}
	got, pending := lbpool.Choose(request, pools, lbpool.TakenBy([]model.Service{other}))
	fmt.Println(got)
	fmt.Println(pending)
	// Output:
	// [192.0.2.11]
	// [no pool assigns IPv6 addresses to namespace default by itself]
}
