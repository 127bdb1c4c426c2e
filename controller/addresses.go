package controller

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/kube"
	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
)

// grant has the addresses that a Service of type LoadBalancer should hold.
type grant struct {
	service *corev1.Service
	has     []netip.Addr
	addrs   []netip.Addr
	pending []string // reasons why it lacks addresses
}

// writes reports whether the Service must be written: its addresses differ, or the annotation that lists them.
func (g *grant) writes() bool {
	return !slices.Equal(g.has, g.addrs) || g.service.Annotations[lbpool.RecordAnnotation] != lbpool.Record(g.addrs)
}

// planAddresses decides which addresses each Service of warren's class gets. Services that request a certain address come
// first, then by age. Services are left out if another controller or proxy serves them, if they are being deleted, or if
// another controller wrote their status. before are the addresses that the last call has returned.
func planAddresses(services []*corev1.Service, pools []model.AddressPool, before lbpool.Taken) (out []grant, taken lbpool.Taken) {
	services = slices.Clone(services)
	slices.SortStableFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(cmp.Compare(requests(b), requests(a)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	all := make([]model.Service, len(services))
	had := make([][]netip.Addr, len(services))
	for i, s := range services {
		all[i] = objects.Service(s)
		had[i] = all[i].LBAddresses
	}
	taken = lbpool.Settle(all, before)
	for i, s := range services {
		m := &all[i]
		if !lbpool.Ours(m) || m.OtherProxy || s.DeletionTimestamp != nil || !ownStatus(m, had[i], pools) {
			continue
		}
		g := grant{service: s, has: had[i]}
		if r, err := lbpool.RequestOf(m); err != nil {
			g.addrs, g.pending = m.LBAddresses, []string{err.Error()} // an invalid request keeps the current addresses
		} else {
			if g.addrs, g.pending = lbpool.Choose(r, pools, taken); !slices.Equal(g.addrs, m.LBAddresses) {
				taken.Set(r.Use, g.addrs)
			}
		}
		out = append(out, g)
	}
	return out, taken
}

// requests is 1 for a Service that requests a certain address.
func requests(s *corev1.Service) int {
	if s.Spec.LoadBalancerIP != "" || s.Annotations[lbpool.RequestAnnotation] != "" {
		return 1
	}
	return 0
}

// ownStatus reports whether all addresses in a Service's status were assigned by warren.
func ownStatus(m *model.Service, had []netip.Addr, pools []model.AddressPool) bool {
	return !m.LBExternal && !slices.ContainsFunc(had, func(a netip.Addr) bool { return !lbpool.Given(m, a, pools) })
}

// planPools are the pools without the ranges of Pods and Services and the addresses of nodes.
func planPools(v view, f clusterFile) ([]model.AddressPool, []lbpool.Problem) {
	var kept []lbpool.Reservation
	for _, p := range f.PodCIDRs {
		kept = append(kept, lbpool.Reservation{Range: lbpool.OfPrefix(p), Whose: "(Pods)"})
	}
	for _, p := range f.ServiceCIDRs {
		kept = append(kept, lbpool.Reservation{Range: lbpool.OfPrefix(p), Whose: "(Services)"})
	}
	for _, n := range v.nodes {
		for _, x := range n.Status.Addresses {
			if a, err := netip.ParseAddr(x.Address); err == nil {
				kept = append(kept, lbpool.Address(a.Unmap(), "of node "+n.Name))
			}
		}
	}
	var pools []model.AddressPool
	var problems []lbpool.Problem
	for _, u := range v.pools {
		p, bad := kube.Pool(u)
		pools, problems = append(pools, p), append(problems, bad...)
	}
	pools, more := lbpool.Without(pools, kept)
	return pools, append(problems, more...)
}
