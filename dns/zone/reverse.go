package zone

import (
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
)

const reverseShards = 256

// reverse maps addresses to the names of their PTR records. It is immutable. A builder copies only the shards that it
// changes, so a small change is cheap in a large cluster.
type reverse struct {
	shards [reverseShards]map[netip.Addr]pointers
}

// pointers are the PTR records of one address. All Services with the address claim it; the names are those of the owner.
type pointers struct {
	names     []string // sorted, at most maxNamesPerAddress
	clusterIP bool     // the owner is the Service with this ClusterIP
	claims    []claim
}

// claim is one name of a Service that has an address.
type claim struct {
	name  string // wire form
	owner owner
}

// owner is what decides between claims.
type owner struct {
	namespace string
	created   int64 // of the Service
	clusterIP bool  // the address is the Service's own; otherwise it is that of an endpoint
}

func (r *reverse) get(a netip.Addr) pointers { return r.shards[shardOf(a)][a] }

func shardOf(a netip.Addr) int {
	b := a.As16()
	h := (binary.LittleEndian.Uint64(b[:8]) ^ binary.LittleEndian.Uint64(b[8:])) * 0x9E3779B97F4A7C15
	return int(h >> 56)
}

// reverseBuilder makes the next reverse from the previous one. It collects the changes of each address and applies them at
// once, so that the time is linear in the number of names.
type reverseBuilder struct {
	reverse
	copied  [reverseShards]bool // shards that are copied already
	changes map[netip.Addr]*change
	pods    []model.Pod
	podOf   map[netip.Addr]string // namespaces of the Pods, by address; nil until one is needed
}

// change is what changes at one address.
type change struct {
	removed map[string]struct{}
	added   []claim
}

func newReverseBuilder(last *reverse, pods []model.Pod) *reverseBuilder {
	return &reverseBuilder{reverse: *last, changes: map[netip.Addr]*change{}, pods: pods}
}

func (b *reverseBuilder) change(a netip.Addr) *change {
	c := b.changes[a]
	if c == nil {
		c = &change{}
		b.changes[a] = c
	}
	return c
}

func (b *reverseBuilder) add(p ptrRecord) {
	c := b.change(p.addr)
	c.added = append(c.added, claim{p.name, p.owner})
}

func (b *reverseBuilder) remove(p ptrRecord) {
	c := b.change(p.addr)
	if c.removed == nil {
		c.removed = map[string]struct{}{}
	}
	c.removed[p.name] = struct{}{}
}

// finish applies the changes.
func (b *reverseBuilder) finish() *reverse {
	for a, c := range b.changes {
		m := b.shard(a)
		claims := make([]claim, 0, len(m[a].claims)+len(c.added))
		for _, old := range m[a].claims {
			if _, gone := c.removed[old.name]; !gone {
				claims = append(claims, old)
			}
		}
		claims = append(claims, c.added...)
		if len(claims) == 0 {
			delete(m, a)
			continue
		}
		m[a] = b.resolve(a, claims)
	}
	return &b.reverse
}

func (b *reverseBuilder) shard(a netip.Addr) map[netip.Addr]pointers {
	i := shardOf(a)
	if !b.copied[i] {
		b.copied[i] = true
		if b.shards[i] = maps.Clone(b.shards[i]); b.shards[i] == nil {
			b.shards[i] = map[netip.Addr]pointers{}
		}
	}
	return b.shards[i]
}

// resolve decides which claims count. A ClusterIP belongs to its Service. The address of an endpoint belongs to the
// namespace of the Pod that has it: no other namespace gives it a name. Without a known Pod it is the namespace of the
// oldest Service.
func (b *reverseBuilder) resolve(a netip.Addr, claims []claim) pointers {
	first := slices.MinFunc(claims, claim.compare)
	p := pointers{claims: claims, clusterIP: first.owner.clusterIP}
	if p.clusterIP {
		p.names = []string{first.name}
		return p
	}
	namespace := first.owner.namespace
	if slices.ContainsFunc(claims, func(c claim) bool { return c.owner.namespace != namespace }) {
		namespace = cmp.Or(b.podNamespace(a), namespace)
	}
	for _, c := range claims {
		if c.owner.namespace == namespace {
			p.names = append(p.names, c.name)
		}
	}
	slices.Sort(p.names)
	p.names = p.names[:min(len(p.names), maxNamesPerAddress)]
	return p
}

// compare orders claims by precedence.
func (c claim) compare(o claim) int {
	if c.owner.clusterIP != o.owner.clusterIP {
		if c.owner.clusterIP {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(c.owner.created, o.owner.created), strings.Compare(c.name, o.name))
}

// podNamespace returns the namespace of the Pod with an address, "" if no Pod is known to have it.
func (b *reverseBuilder) podNamespace(a netip.Addr) string {
	if b.podOf == nil {
		b.podOf = make(map[netip.Addr]string, len(b.pods))
		for i := range b.pods {
			for _, addr := range b.pods[i].Addrs {
				b.podOf[addr.Unmap()] = b.pods[i].Namespace
			}
		}
	}
	return b.podOf[a]
}

// reverseZone is an address range whose reverse names this server answers.
type reverseZone struct {
	prefix  netip.Prefix
	labels  int  // of the largest reverse zone inside the range, in-addr.arpa or ip6.arpa included
	service bool // a range of ClusterIPs, which endpoints do not have
}

func newReverseZone(p netip.Prefix) reverseZone {
	p = p.Masked()
	if p.Addr().Is4() {
		return reverseZone{prefix: p, labels: (p.Bits()+7)/8 + 2}
	}
	return reverseZone{prefix: p, labels: (p.Bits()+3)/4 + 2}
}
