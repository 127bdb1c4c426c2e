package agent

import (
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
)

// takePools gives a snapshot the API server's pools. Nothing refuses a pool there, so what the cluster uses for itself is
// taken out of it, and said.
func takePools(s *model.Snapshot, pools []model.AddressPool, problems []lbpool.Problem) {
	var kept []lbpool.Reservation
	for _, p := range s.Cluster.PodCIDRs {
		kept = append(kept, lbpool.Reservation{Range: lbpool.OfPrefix(p), Whose: "(Pods)"})
	}
	for _, p := range s.ServiceCIDRs {
		kept = append(kept, lbpool.Reservation{Range: lbpool.OfPrefix(p), Whose: "(Services)"})
	}
	for _, n := range s.Nodes {
		for _, a := range n.Addresses {
			kept = append(kept, lbpool.Address(a, "of node "+n.Name))
		}
	}
	var more []lbpool.Problem
	s.Pools, more = lbpool.Without(pools, kept)
	s.Problems = slices.DeleteFunc(slices.Clone(s.Problems), aboutPool) // s may be the result of an earlier call
	for _, p := range slices.Concat(problems, more) {
		s.Problems = append(s.Problems, p.String())
	}
}

// keepPools gives a snapshot the pools of a former one.
func keepPools(s, last *model.Snapshot) {
	s.Pools = last.Pools
	s.Problems = slices.DeleteFunc(slices.Clone(s.Problems), aboutPool)
	for _, p := range last.Problems {
		if aboutPool(p) {
			s.Problems = append(s.Problems, p)
		}
	}
}

// aboutPool tells problems of the API server's pools from the store's, which begin with a key.
func aboutPool(problem string) bool { return strings.HasPrefix(problem, "AddressPool ") }
