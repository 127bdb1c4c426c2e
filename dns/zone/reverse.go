package zone

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
)

const reverseShards = 256

// reverse maps addresses to the names of their PTR records. It is immutable. A builder copies only the shards that it
// changes, so a small change is cheap in a large cluster.
type reverse struct {
	shards [reverseShards]map[netip.Addr][]string
}

func (r *reverse) get(a netip.Addr) []string { return r.shards[shardOf(a)][a] }

func shardOf(a netip.Addr) int {
	b := a.As16()
	h := (binary.LittleEndian.Uint64(b[:8]) ^ binary.LittleEndian.Uint64(b[8:])) * 0x9E3779B97F4A7C15
	return int(h >> 56)
}

// reverseBuilder makes the next reverse from the previous one.
type reverseBuilder struct {
	reverse
	copied [reverseShards]bool // shards that are copied already
}

func (b *reverseBuilder) shard(a netip.Addr) map[netip.Addr][]string {
	i := shardOf(a)
	if !b.copied[i] {
		b.copied[i] = true
		if b.shards[i] = maps.Clone(b.shards[i]); b.shards[i] == nil {
			b.shards[i] = map[netip.Addr][]string{}
		}
	}
	return b.shards[i]
}

func (b *reverseBuilder) add(p ptrRecord) {
	m := b.shard(p.addr)
	names := m[p.addr]
	at, found := slices.BinarySearch(names, p.name)
	if !found {
		m[p.addr] = slices.Insert(slices.Clone(names), at, p.name) // readers may use the old slice
	}
}

func (b *reverseBuilder) remove(p ptrRecord) {
	m := b.shard(p.addr)
	names := slices.DeleteFunc(slices.Clone(m[p.addr]), func(n string) bool { return n == p.name })
	if len(names) == 0 {
		delete(m, p.addr)
		return
	}
	m[p.addr] = names
}

// reverseZone is an address range whose reverse names this server answers.
type reverseZone struct {
	prefix netip.Prefix
	labels int // of the largest reverse zone inside the range, in-addr.arpa or ip6.arpa included
}

func newReverseZone(p netip.Prefix) reverseZone {
	p = p.Masked()
	if p.Addr().Is4() {
		return reverseZone{p, (p.Bits()+7)/8 + 2}
	}
	return reverseZone{p, (p.Bits()+3)/4 + 2}
}
