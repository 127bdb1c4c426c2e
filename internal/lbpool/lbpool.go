// Package lbpool decides which addresses Services of type LoadBalancer get from the cluster's address pools.
//
// It is pure: the caller hands it a Service, the pools and what is taken, and writes the result wherever it keeps it
// (etcd transactions, or a Kubernetes status). It owns nothing, reads no clock and draws no random number: the same
// input gives the same addresses, and a Service made anew gets its former address where that is still free.
package lbpool

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

// Choose returns an address for each family of the request that one can be had for, and why there is none for the others.
// It keeps what the Service has while that is still right.
func Choose(r Request, pools []model.AddressPool, taken Taken) (got []netip.Addr, pending []string) {
	for _, v6 := range r.V6 {
		a, why := r.one(v6, pools, taken)
		if why != "" {
			pending = append(pending, why)
			continue
		}
		got = append(got, a)
	}
	return got, pending
}

func (r *Request) one(v6 bool, pools []model.AddressPool, taken Taken) (netip.Addr, string) {
	for _, a := range r.Asked {
		if a.Is6() == v6 {
			return r.asked(a, pools, taken)
		}
	}
	for _, a := range r.Has {
		if a.Is6() == v6 && r.keeps(a, pools) && r.conflict(a, taken) == "" {
			return a, ""
		}
	}
	eligible, why := r.eligible(v6, pools)
	if why != "" {
		return netip.Addr{}, why
	}
	if a, ok := r.shared(v6, eligible, taken); ok {
		return a, ""
	}
	var names []string
	for _, p := range eligible {
		if a, ok := r.free(v6, p, taken); ok {
			return a, ""
		}
		names = append(names, p.Name)
	}
	return netip.Addr{}, fmt.Sprintf("every %s address of %s is taken", family(v6), strings.Join(names, ", "))
}

// asked grants an address that the Service names: it must be in a pool that serves the Service.
func (r *Request) asked(a netip.Addr, pools []model.AddressPool, taken Taken) (netip.Addr, string) {
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
		return a, "" // its pool is gone; it keeps what it has
	}
	return netip.Addr{}, why
}

// keeps reports whether an address that the Service holds still fits the pool it names. Pools decide when an address is
// given: one that was changed or removed since takes none away.
func (r *Request) keeps(a netip.Addr, pools []model.AddressPool) bool {
	if r.Pool == "" {
		return true
	}
	at := Pool(pools, a)
	named := slices.ContainsFunc(pools, func(p model.AddressPool) bool { return p.Name == r.Pool })
	return at == nil || !named || at.Name == r.Pool
}

// eligible are the pools that the Service may take from by itself, best first.
func (r *Request) eligible(v6 bool, pools []model.AddressPool) (out []*model.AddressPool, why string) {
	named := false
	for i := range pools {
		p := &pools[i]
		if r.Pool != "" && p.Name != r.Pool {
			continue
		}
		named = true
		if (p.AutoAssign || r.Pool != "") && serves(p, r.Namespace) && slices.ContainsFunc(p.Ranges, func(x model.AddressRange) bool { return x.First.Is6() == v6 }) {
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
		return nil, fmt.Sprintf("pool %s has no %s addresses for namespace %s", r.Pool, family(v6), r.Namespace)
	default:
		return nil, fmt.Sprintf("no pool assigns %s addresses to namespace %s by itself", family(v6), r.Namespace)
	}
	slices.SortStableFunc(out, func(a, b *model.AddressPool) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	return out, ""
}

func serves(p *model.AddressPool, namespace string) bool {
	return len(p.Namespaces) == 0 || slices.Contains(p.Namespaces, namespace)
}

// conflict says why the Service cannot have an address beside those who hold it, "" if it can.
func (r *Request) conflict(a netip.Addr, taken Taken) string {
	for _, u := range taken[a] {
		if u.UID == r.UID {
			continue
		}
		who := fmt.Sprintf("%s is held by service %s/%s", a, u.Namespace, u.Name)
		if r.Key == "" || u.Key != r.Key {
			return who
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

// shared finds an address that is held with the same sharing key already: that is what the key is for.
func (r *Request) shared(v6 bool, eligible []*model.AddressPool, taken Taken) (best netip.Addr, ok bool) {
	if r.Key == "" {
		return best, false
	}
	for a, uses := range taken {
		in := slices.ContainsFunc(eligible, func(p *model.AddressPool) bool { return p.Contains(a) })
		others := slices.ContainsFunc(uses, func(u Use) bool { return u.UID != r.UID })
		if a.Is6() == v6 && in && others && r.conflict(a, taken) == "" && (!ok || a.Less(best)) {
			best, ok = a, true
		}
	}
	return best, ok
}

// free finds an address of a pool that nobody holds. Where the search begins follows from the Service's name, so that
// racing Services seldom want the same one and a Service made anew gets its old one back.
func (r *Request) free(v6 bool, p *model.AddressPool, taken Taken) (netip.Addr, bool) {
	var total uint64
	for _, x := range p.Ranges {
		if x.First.Is6() == v6 {
			total += size(x)
		}
	}
	if total == 0 {
		return netip.Addr{}, false
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s", r.Namespace, r.Name)
	start := h.Sum64() % total
	// Among that many different addresses one is free, if any is.
	for i := range min(total, uint64(len(taken))+1) {
		a := nth(p.Ranges, v6, (start+i)%total)
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

// TakenBy gathers what a list of Services holds.
func TakenBy(services []model.Service) Taken {
	t := Taken{}
	for i := range services {
		if s := &services[i]; Ours(s) {
			r, _ := RequestOf(s) // one with a bad wish holds its addresses all the same
			for _, a := range s.LBAddresses {
				t[a] = append(t[a], r.Use)
			}
		}
	}
	return t
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// Rank orders nodes for the work on a Service: the one with the highest rank does it.
func Rank(service, node string) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s", service, node)
	x := h.Sum64()
	x ^= x >> 32
	x *= 0x9e3779b97f4a7c15
	return x ^ x>>29
}
