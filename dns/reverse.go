package dns

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
)

const reverseShards = 256

// reverse maps addresses to the names that point there. It is immutable; a builder copies the shards it changes, so a
// small change of a large cluster stays small.
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
	copied [reverseShards]bool // shards that are copies already
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
		m[p.addr] = slices.Insert(slices.Clone(names), at, p.name) // readers hold the old slice
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

// reverseZone is a range of addresses whose reverse names end here.
type reverseZone struct {
	prefix netip.Prefix
	labels int // of the smallest zone cut inside the range, "in-addr.arpa" included
}

func newReverseZone(p netip.Prefix) reverseZone {
	p = p.Masked()
	if p.Addr().Is4() {
		return reverseZone{p, (p.Bits()+7)/8 + 2}
	}
	return reverseZone{p, (p.Bits()+3)/4 + 2}
}

const (
	arpa4 = "\x07in-addr\x04arpa\x00"
	arpa6 = "\x03ip6\x04arpa\x00"
)

// reversePrefix reads a reverse name: the prefix that its labels say, and whether every label was used. A label that is no
// number ends the reading, so that "x.42.10.in-addr.arpa" is 10.42.0.0/16 with something below.
func (q *query) reversePrefix() (p netip.Prefix, whole, ok bool) {
	switch {
	case q.inZone(arpa4, 2):
		return q.reversePrefix4()
	case q.inZone(arpa6, 2):
		return q.reversePrefix6()
	}
	return netip.Prefix{}, false, false
}

func (q *query) reversePrefix4() (netip.Prefix, bool, bool) {
	var a [4]byte
	n := 0
	for i := q.labels - 3; i >= 0; i-- {
		v, ok := decimal(q.label(i)[1:])
		if n == 4 || !ok {
			return netip.PrefixFrom(netip.AddrFrom4(a), 8*n), false, true
		}
		a[n] = v
		n++
	}
	return netip.PrefixFrom(netip.AddrFrom4(a), 8*n), true, true
}

func (q *query) reversePrefix6() (netip.Prefix, bool, bool) {
	var a [16]byte
	n := 0
	for i := q.labels - 3; i >= 0; i-- {
		l := q.label(i)
		v, ok := nibble(l[1])
		if n == 32 || len(l) != 2 || !ok {
			return netip.PrefixFrom(netip.AddrFrom16(a), 4*n), false, true
		}
		a[n/2] |= v << (4 * (1 - n%2))
		n++
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), 4*n), true, true
}

func decimal(b []byte) (byte, bool) {
	v := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return byte(v), len(b) > 0 && len(b) <= 3 && v < 256 && (b[0] != '0' || len(b) == 1)
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
