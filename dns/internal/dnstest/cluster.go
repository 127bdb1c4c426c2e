// Package dnstest generates clusters for the tests and benchmarks of dns and dns/zone.
package dnstest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/model"
)

// Cluster returns a cluster of n Services, the first half headless, with endpoints endpoints in all.
func Cluster(n, endpoints int) *model.Snapshot {
	s := &model.Snapshot{Revision: 1, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")},
		Cluster: model.Cluster{Domain: "cluster.local", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9")}}}
	for i := range n {
		svc := model.Service{Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}}}
		svc.Namespace, svc.Name = fmt.Sprintf("ns%02d", i%20), fmt.Sprintf("svc-%d", i)
		if i < n/2 {
			svc.Headless = true
			s.Slices = append(s.Slices, slice(svc.ObjectName, i, 2*endpoints/n))
		} else {
			svc.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)})}
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// slice returns the EndpointSlice of the i-th Service, with n endpoints.
func slice(service model.ObjectName, i, n int) model.EndpointSlice {
	sl := model.EndpointSlice{Service: service.Name, Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}}}
	sl.Namespace, sl.Name = service.Namespace, service.Name+"-1"
	for j := range n {
		k := i*n + j
		a := netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)})
		sl.Endpoints = append(sl.Endpoints, model.Endpoint{Addr: a, Ready: true, Hostname: fmt.Sprintf("svc-%d-%d", i, j)})
	}
	return sl
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
