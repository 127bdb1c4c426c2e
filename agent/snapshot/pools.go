package snapshot

import (
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
)

// setPools gives a snapshot the API server's AddressPools. The API server accepts every pool, so addresses that the cluster itself
// uses are removed here, and each removal is a problem.
func setPools(s *model.Snapshot, pools []model.AddressPool, problems []lbpool.Problem) {
	var reserved []lbpool.Reservation
	for _, p := range s.Cluster.PodCIDRs {
		reserved = append(reserved, lbpool.Reservation{Range: lbpool.OfPrefix(p), Whose: "(Pods)"})
	}
	for _, p := range s.ServiceCIDRs {
		reserved = append(reserved, lbpool.Reservation{Range: lbpool.OfPrefix(p), Whose: "(Services)"})
	}
	for _, n := range s.Nodes {
		for _, a := range n.Addresses {
			reserved = append(reserved, lbpool.Address(a, "of node "+n.Name))
		}
	}
	var more []lbpool.Problem
	s.Pools, more = lbpool.Without(pools, reserved)
	s.Problems = slices.DeleteFunc(slices.Clone(s.Problems), isPoolProblem) // s may be the result of an earlier merge
	for _, p := range slices.Concat(problems, more) {
		s.Problems = append(s.Problems, p.String())
	}
}

// copyPools gives a snapshot the pools of an earlier one.
func copyPools(s, last *model.Snapshot) {
	s.Pools = last.Pools
	s.Problems = slices.DeleteFunc(slices.Clone(s.Problems), isPoolProblem)
	for _, p := range last.Problems {
		if isPoolProblem(p) {
			s.Problems = append(s.Problems, p)
		}
	}
}

// isPoolProblem distinguishes problems of the API server's pools from those of etcd's records, which begin with a key.
func isPoolProblem(problem string) bool { return strings.HasPrefix(problem, "AddressPool ") }
