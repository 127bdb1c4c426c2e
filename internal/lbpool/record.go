package lbpool

import (
	"cmp"
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

// Settle returns the addresses that Services of type LoadBalancer hold. If two hold an address that they cannot share, for instance
// because one of them has changed a port, then the one loses it that did not hold it with these ports before; if both or none did,
// the younger one. before is the result of the last call, nil for the first one. The order of services does not matter.
func Settle(services []model.Service, before Taken) Taken {
	var order []*model.Service
	for i := range services {
		if services[i].Type == model.LoadBalancer {
			order = append(order, &services[i])
		}
	}
	slices.SortStableFunc(order, func(a, b *model.Service) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.UID, b.UID))
	})
	t := Taken{}
	lost := map[*model.Service][]netip.Addr{}
	for _, incumbents := range [...]bool{true, false} {
		for _, s := range order {
			r, _ := RequestOf(s) // a Service with an invalid request holds its addresses, too
			for _, a := range s.LBAddresses {
				switch {
				case before.heldBy(a, r.Use) != incumbents:
				case r.conflict(a, t) != "":
					lost[s] = append(lost[s], a)
				default:
					t[a] = append(t[a], r.Use)
				}
			}
		}
	}
	for s, addrs := range lost {
		s.LBAddresses = slices.DeleteFunc(slices.Clone(s.LBAddresses), func(a netip.Addr) bool { return slices.Contains(addrs, a) })
	}
	return t
}

// heldBy reports whether a Service held an address with all its present ports.
func (t Taken) heldBy(a netip.Addr, u Use) bool {
	return slices.ContainsFunc(t[a], func(x Use) bool {
		return x.UID == u.UID && !slices.ContainsFunc(u.Ports, func(p Port) bool { return !slices.Contains(x.Ports, p) })
	})
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
