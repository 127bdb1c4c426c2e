package lbpool

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// RecordAnnotation lists the addresses in a Service's status that warren assigned, in clusters with Kubernetes. The status
// decides which addresses the Service has. The annotation distinguishes warren's addresses from those of another
// controller, even after their pool was deleted.
const RecordAnnotation = "warren.dev/lb-addresses"

// Record is the annotation's value.
func Record(addrs []netip.Addr) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}

// Given reports whether warren assigned an address in a Service's status: it is in the annotation, or in a pool.
func Given(s *model.Service, a netip.Addr, pools []model.AddressPool) bool {
	return Pool(pools, a) != nil || slices.Contains(strings.Split(s.Annotations[RecordAnnotation], ","), a.String())
}

// Settle returns the addresses that Services of type LoadBalancer hold; services are sorted, the oldest first. If two hold
// an address that they cannot share, which only a stale view can cause, the younger one loses it.
func Settle(services []model.Service) Taken {
	t := Taken{}
	for i := range services {
		s := &services[i]
		if s.Type != model.LoadBalancer {
			continue
		}
		r, _ := RequestOf(s) // a Service with an invalid request holds its addresses, too
		s.LBAddresses = slices.DeleteFunc(slices.Clone(s.LBAddresses), func(a netip.Addr) bool { return r.conflict(a, t) != "" })
		for _, a := range s.LBAddresses {
			t[a] = append(t[a], r.Use)
		}
	}
	return t
}

// Set makes a Service the holder of exactly these addresses.
func (t Taken) Set(u Use, addrs []netip.Addr) {
	for a, uses := range t {
		mine := func(x Use) bool { return x.UID == u.UID }
		if !slices.ContainsFunc(uses, mine) {
			continue
		}
		if t[a] = slices.DeleteFunc(slices.Clone(uses), mine); len(t[a]) == 0 {
			delete(t, a)
		}
	}
	for _, a := range addrs {
		t[a] = append(t[a], u)
	}
}
