package table

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/internal/netx"
)

// Port is a port of a protocol.
type Port struct {
	Proto uint8
	Port  uint16
}

// Compare orders by protocol, then by number; the result is that of cmp.Compare.
func (p Port) Compare(o Port) int {
	return cmp.Or(cmp.Compare(p.Proto, o.Proto), cmp.Compare(p.Port, o.Port))
}

// ExternalPort is a port of an external IP.
type ExternalPort struct {
	Addr netip.Addr
	Port
}

// Redirects is what the host's policy routing must send to warren0 for the table to work.
type Redirects struct {
	// ServiceAddrs are the addresses of Services outside of the Service CIDRs.
	ServiceAddrs []netip.Addr
	// PodPorts are the target ports of backends in Pods of this node: replies from them are redirected.
	PodPorts []Port
	// ExternalPorts are the external IPs and their ports that Services serve. Other ports of these addresses are not redirected.
	ExternalPorts []ExternalPort
	// HostPorts are the target ports of backends that are this node itself.
	HostPorts []Port
}

// Redirects returns what the host must redirect to warren0.
func (t *Table) Redirects() Redirects { return t.redirects }

// redirectCounts counts the uses of everything in Redirects, so that units can be added and removed one by one.
type redirectCounts struct {
	podPorts, hostPorts map[Port]int
	serviceAddrs        map[netip.Addr]int
	out                 Redirects
	dirty               bool // out is outdated
}

func newRedirectCounts() redirectCounts {
	return redirectCounts{podPorts: map[Port]int{}, hostPorts: map[Port]int{}, serviceAddrs: map[netip.Addr]int{}}
}

// addFrontend counts all endpoints, not only those that new flows are sent to: a terminating one still has connections.
func (r *redirectCounts) addFrontend(t *Table, k Key, f *Frontend, by int) {
	for _, b := range f.Endpoints {
		switch port := (Port{k.Proto, b.Port}); {
		case t.local[b.Addr]:
			r.dirty = addCount(r.hostPorts, port, by) || r.dirty
		case t.IsLocalPod(b.Addr):
			r.dirty = addCount(r.podPorts, port, by) || r.dirty
		}
	}
}

func (r *redirectCounts) addServiceAddr(t *Table, a netip.Addr, by int) {
	if !netx.Contains(t.ranges, a) {
		r.dirty = addCount(r.serviceAddrs, a, by) || r.dirty
	}
}

// addCount adds to a counter and reports whether its key was added or removed.
func addCount[K comparable](m map[K]int, k K, by int) bool {
	n := m[k] + by
	if n == 0 {
		delete(m, k)
		return true
	}
	m[k] = n
	return n == by
}

func (r *redirectCounts) redirects() Redirects {
	if r.dirty {
		r.out = Redirects{
			ServiceAddrs: slices.SortedFunc(maps.Keys(r.serviceAddrs), netip.Addr.Compare),
			PodPorts:     sortedPorts(r.podPorts),
			HostPorts:    sortedPorts(r.hostPorts),
		}
		r.dirty = false
	}
	return r.out
}

func sortedPorts(m map[Port]int) []Port {
	return slices.SortedFunc(maps.Keys(m), Port.Compare)
}
