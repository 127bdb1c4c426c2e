// Package dnstest generates clusters for the tests and benchmarks of dns and dns/zone.
package dnstest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// Cluster is a cluster of n Services, the first half headless, with endpoints endpoints in all.
func Cluster(n, endpoints int) *model.Snapshot {
	s := &model.Snapshot{Revision: 1, Cluster: model.Cluster{Domain: "cluster.local", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9")}}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}}
	per := 2 * endpoints / n
	for i := range n {
		ns := fmt.Sprintf("ns%02d", i%20)
		svc := model.Service{ObjectName: model.ObjectName{Namespace: ns, Name: fmt.Sprintf("svc-%d", i)}, Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}}}
		if i >= n/2 {
			svc.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)})}
			s.Services = append(s.Services, svc)
			continue
		}
		svc.Headless = true
		sl := model.EndpointSlice{ObjectName: model.ObjectName{Namespace: ns, Name: svc.Name + "-1"}, Service: svc.Name, Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}}}
		for j := range per {
			k := i*per + j
			sl.Endpoints = append(sl.Endpoints, model.Endpoint{Addr: netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), Ready: true, Hostname: fmt.Sprintf("svc-%d-%d", i, j)})
		}
		s.Services, s.Slices = append(s.Services, svc), append(s.Slices, sl)
	}
	return s
}

// ChangeEndpoint returns a snapshot in which one Service's first endpoint has another address.
func ChangeEndpoint(s *model.Snapshot, i int, a netip.Addr) *model.Snapshot {
	next := *s
	next.Revision++
	next.Slices = slices.Clone(s.Slices)
	next.Slices[i].Endpoints = slices.Clone(s.Slices[i].Endpoints)
	next.Slices[i].Endpoints[0].Addr = a
	return &next
}
