package table

import "slices"

// persistentMap is a hash table in chunks that are copied on write. A new table shares all but a few chunks with the old
// one, so one change costs the same in a small table and in a large one. The chunks are open-addressed, so that a lookup
// in a large table waits for one cache line. The zero key means no entry.
type persistentMap[K comparable, V any] struct {
	chunks [mapChunks]chunk[K, V]
}

const mapChunks = 1024

// chunk has a power of two of slots, of which a quarter or more are empty (linear probing).
type chunk[K comparable, V any] []slot[K, V]

type slot[K comparable, V any] struct {
	key  K
	hash uint64
	val  V
}

func (m *persistentMap[K, V]) get(hash uint64, k K) (v V) {
	p := m.chunks[hash%mapChunks]
	if len(p) == 0 {
		return v
	}
	return p[p.find(hash, k)].val
}

// find returns the slot that has a key, or the empty slot where it belongs.
func (p chunk[K, V]) find(hash uint64, k K) uint64 {
	var none K
	mask := uint64(len(p) - 1)
	i := hash / mapChunks & mask
	for p[i].key != k && p[i].key != none {
		i = (i + 1) & mask
	}
	return i
}

// all calls yield for every entry, in no order.
func (m *persistentMap[K, V]) all(yield func(K, V) bool) {
	var none K
	for _, p := range m.chunks {
		for i := range p {
			if p[i].key != none && !yield(p[i].key, p[i].val) {
				return
			}
		}
	}
}

func (m *persistentMap[K, V]) len() (n int) {
	for range m.all {
		n++
	}
	return n
}

// mapDraft is a persistentMap that is being changed. The chunks marked in owned belong to the draft alone.
type mapDraft[K comparable, V any] struct {
	persistentMap[K, V]
	owned [mapChunks]bool
	used  [mapChunks]int // occupied slots of owned chunks
}

func newMapDraft[K comparable, V any](old *persistentMap[K, V]) *mapDraft[K, V] {
	return &mapDraft[K, V]{persistentMap: *old}
}

// own copies a chunk unless the draft owns it already.
func (d *mapDraft[K, V]) own(hash uint64) (i uint64, p *chunk[K, V]) {
	i = hash % mapChunks
	p = &d.chunks[i]
	if !d.owned[i] {
		d.owned[i] = true
		*p = slices.Clone(*p)
		var none K
		for j := range *p {
			d.used[i] += b2i((*p)[j].key != none)
		}
	}
	return i, p
}

func (d *mapDraft[K, V]) put(hash uint64, k K, v V) {
	i, p := d.own(hash)
	if d.used[i]*4 >= len(*p)*3 {
		p.grow()
	}
	s := &(*p)[p.find(hash, k)]
	if s.key != k {
		d.used[i]++
	}
	*s = slot[K, V]{k, hash, v}
}

func (p *chunk[K, V]) grow() {
	old := *p
	*p = make(chunk[K, V], max(2*len(old), 4))
	var none K
	for _, s := range old {
		if s.key != none {
			(*p)[p.find(s.hash, s.key)] = s
		}
	}
}

// remove deletes a key and closes the gap (Knuth, The Art of Computer Programming, volume 3, 6.4, algorithm R).
func (d *mapDraft[K, V]) remove(hash uint64, k K) {
	n, own := d.own(hash)
	p := *own
	if len(p) == 0 {
		return
	}
	mask := uint64(len(p) - 1)
	gap := p.find(hash, k)
	if p[gap].key != k {
		return
	}
	d.used[n]--
	var none K
	for i := (gap + 1) & mask; p[i].key != none; i = (i + 1) & mask {
		if home := p[i].hash / mapChunks & mask; (i-home)&mask >= (i-gap)&mask {
			p[gap], gap = p[i], i
		}
	}
	p[gap] = slot[K, V]{}
}
