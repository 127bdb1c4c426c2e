// Package lbpool decides which addresses Services of type LoadBalancer get from the cluster's address pools.
//
// It is pure: the caller passes a Service, the pools and the addresses in use, and stores the result (in etcd, or in the
// status of a Kubernetes Service). It owns nothing, reads no clock and draws no random number: the same input gives the
// same addresses, and a Service that is created again gets its former address if that is still free.
package lbpool

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/namehash"
)

// Choose returns one address for each family of the request. For a family without a free address it returns the reason
// in pending instead. An address that the Service holds is kept while it still fits the request.
func Choose(r Request, pools []model.AddressPool, taken Taken) (got []netip.Addr, pending []string) {
	for _, f := range r.Families {
		a, why := r.one(f, pools, taken)
		if why != "" {
			pending = append(pending, why)
			continue
		}
		got = append(got, a)
	}
	return got, pending
}

func (r *Request) one(f model.Family, pools []model.AddressPool, taken Taken) (netip.Addr, string) {
	for _, a := range r.Named {
		if model.FamilyOf(a) == f {
			return r.grant(a, pools, taken)
		}
	}
	for _, a := range r.Has {
		if model.FamilyOf(a) == f && r.keeps(a, pools) && r.conflict(a, taken) == "" {
			return a, ""
		}
	}
	eligible, why := r.eligible(f, pools)
	if why != "" {
		return netip.Addr{}, why
	}
	if a, ok := r.shared(f, eligible, taken); ok {
		return a, ""
	}
	var names []string
	for _, p := range eligible {
		if a, ok := r.free(f, p, taken); ok {
			return a, ""
		}
		names = append(names, p.Name)
	}
	return netip.Addr{}, fmt.Sprintf("every %s address of %s is taken", f, strings.Join(names, ", "))
}

// grant grants an address that the Service names: it must be in a pool that serves the Service.
func (r *Request) grant(a netip.Addr, pools []model.AddressPool, taken Taken) (netip.Addr, string) {
	why := fmt.Sprintf("%s lies in no pool", a)
	for i := range pools {
		p := &pools[i]
		switch {
		case !p.Contains(a):
		case !serves(p, r.Namespace):
			why = fmt.Sprintf("%s belongs to pool %s, which does not serve namespace %s", a, p.Name, r.Namespace)
		case r.Pool != "" && r.Pool != p.Name:
			why = fmt.Sprintf("%s belongs to pool %s, not to %s", a, p.Name, r.Pool)
		default:
			if c := r.conflict(a, taken); c != "" {
				return netip.Addr{}, c
			}
			return a, ""
		}
	}
	if slices.Contains(r.Has, a) && Pool(pools, a) == nil && r.conflict(a, taken) == "" {
		return a, "" // its pool was deleted; the Service keeps its address
	}
	return netip.Addr{}, why
}

// keeps reports whether an address that the Service holds still fits the pool that the Service names. Pools matter when
// an address is assigned only: a later change or removal of the pool does not withdraw it.
func (r *Request) keeps(a netip.Addr, pools []model.AddressPool) bool {
	if r.Pool == "" {
		return true
	}
	at := Pool(pools, a)
	named := slices.ContainsFunc(pools, func(p model.AddressPool) bool { return p.Name == r.Pool })
	return at == nil || !named || at.Name == r.Pool
}

// eligible returns the pools from which the Service may get an address without naming it, the best one first.
func (r *Request) eligible(f model.Family, pools []model.AddressPool) (out []*model.AddressPool, why string) {
	named := false
	for i := range pools {
		p := &pools[i]
		if r.Pool != "" && p.Name != r.Pool {
			continue
		}
		named = true
		if (p.AutoAssign || r.Pool != "") && serves(p, r.Namespace) &&
			slices.ContainsFunc(p.Ranges, func(x model.AddressRange) bool { return model.FamilyOf(x.First) == f }) {
			out = append(out, p)
		}
	}
	switch {
	case len(out) > 0:
	case len(pools) == 0:
		return nil, "there is no AddressPool"
	case r.Pool != "" && !named:
		return nil, fmt.Sprintf("pool %s does not exist", r.Pool)
	case r.Pool != "":
		return nil, fmt.Sprintf("pool %s has no %s addresses for namespace %s", r.Pool, f, r.Namespace)
	default:
		return nil, fmt.Sprintf("no pool assigns %s addresses to namespace %s by itself", f, r.Namespace)
	}
	slices.SortStableFunc(out, func(a, b *model.AddressPool) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	return out, ""
}

func serves(p *model.AddressPool, namespace string) bool {
	return len(p.Namespaces) == 0 || slices.Contains(p.Namespaces, namespace)
}

// conflict returns why the Service cannot share an address with its holders, "" if it can or if there are none.
func (r *Request) conflict(a netip.Addr, taken Taken) string {
	for _, u := range taken[a] {
		if u.UID == r.UID {
			continue
		}
		who := fmt.Sprintf("%s is held by service %s/%s", a, u.Namespace, u.Name)
		if r.Key == "" || u.Key != r.Key {
			return who
		}
		if u.Namespace != r.Namespace && !(u.sharesWith(r.Namespace) && r.sharesWith(u.Namespace)) {
			return fmt.Sprintf("%s, and Services of two namespaces share an address only if the annotation %s of each names "+
				"the other namespace", who, ShareWithAnnotation)
		}
		for _, p := range r.Ports {
			if slices.Contains(u.Ports, p) {
				return fmt.Sprintf("%s, which shares it but uses %s port %d too", who, p.Protocol, p.Port)
			}
		}
		// An address is announced from one node: with policy Local both must have their endpoints in the same places.
		if (u.Local || r.Local) && (u.Namespace != r.Namespace || len(r.Selector) == 0 || !sameSelector(u.Selector, r.Selector)) {
			return who + ", which shares it only with policy Cluster or its own selector"
		}
	}
	return ""
}

// sharesWith reports whether a Service consents to share its addresses with Services of another namespace.
func (u *Use) sharesWith(namespace string) bool {
	return slices.Contains(u.With, namespace) || slices.Contains(u.With, "*")
}

func sameSelector(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// shared finds an address that another Service holds with the same sharing key.
func (r *Request) shared(f model.Family, eligible []*model.AddressPool, taken Taken) (best netip.Addr, ok bool) {
	if r.Key == "" {
		return best, false
	}
	for a, uses := range taken {
		in := slices.ContainsFunc(eligible, func(p *model.AddressPool) bool { return p.Contains(a) })
		others := slices.ContainsFunc(uses, func(u Use) bool { return u.UID != r.UID })
		if model.FamilyOf(a) == f && in && others && r.conflict(a, taken) == "" && (!ok || a.Less(best)) {
			best, ok = a, true
		}
	}
	return best, ok
}

// free finds an address of a pool that no Service holds. The search starts at a hash of the Service's name: racing
// Services seldom select the same address, and a Service that is created again gets its former one.
func (r *Request) free(f model.Family, p *model.AddressPool, taken Taken) (netip.Addr, bool) {
	var total uint64
	for _, x := range p.Ranges {
		if model.FamilyOf(x.First) == f {
			total += size(x)
		}
	}
	if total == 0 {
		return netip.Addr{}, false
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s", r.Namespace, r.Name)
	start := h.Sum64() % total
	// At most len(taken) addresses are held, so one of len(taken)+1 different ones is free.
	for i := range min(total, uint64(len(taken))+1) {
		a := nth(p.Ranges, f, (start+i)%total)
		if !slices.ContainsFunc(taken[a], func(u Use) bool { return u.UID != r.UID }) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Pool returns the pool that has an address, nil for none.
func Pool(pools []model.AddressPool, a netip.Addr) *model.AddressPool {
	for i := range pools {
		if pools[i].Contains(a) {
			return &pools[i]
		}
	}
	return nil
}

// TakenBy returns the addresses that a list of Services holds.
func TakenBy(services []model.Service) Taken {
	t := Taken{}
	for i := range services {
		if s := &services[i]; Ours(s) {
			r, _ := RequestOf(s) // a Service with an invalid request holds its addresses, too
			for _, a := range s.LBAddresses {
				t[a] = append(t[a], r.Use)
			}
		}
	}
	return t
}

// Rank orders the nodes for one Service: the node with the highest rank allocates its addresses.
func Rank(service, node string) uint64 {
	return namehash.Of(service, node)
}
