package servicelb

import "slices"

// cow is a hash table in chunks that are copied when they are written: a new table shares all but a few of them with the
// old one, so one change costs the same in a small table and in a large one. The chunks are open-addressed, so that a
// lookup in a large table waits for one cache line. The zero key is none.
type cow[K comparable, V any] struct {
	chunks [cowChunks]chunk[K, V]
}

const cowChunks = 1024

// chunk has a power of two of slots, of which a quarter or more are empty. What is not where its hash says is in one of
// the next slots, without a gap.
type chunk[K comparable, V any] []slot[K, V]

type slot[K comparable, V any] struct {
	key  K
	hash uint64
	val  V
}

func (c *cow[K, V]) get(hash uint64, k K) (v V) {
	p := c.chunks[hash%cowChunks]
	if len(p) == 0 {
		return v
	}
	return p[p.find(hash, k)].val
}

// find returns the slot that has a key, or the one for it.
func (p chunk[K, V]) find(hash uint64, k K) uint64 {
	var none K
	mask := uint64(len(p) - 1)
	i := hash / cowChunks & mask
	for p[i].key != k && p[i].key != none {
		i = (i + 1) & mask
	}
	return i
}

// all goes through everything.
func (c *cow[K, V]) all(yield func(K, V) bool) {
	var none K
	for _, p := range c.chunks {
		for i := range p {
			if p[i].key != none && !yield(p[i].key, p[i].val) {
				return
			}
		}
	}
}

func (c *cow[K, V]) len() (n int) {
	for range c.all {
		n++
	}
	return n
}

// draft is a cow that is being changed; the chunks marked as own are not shared with anybody.
type draft[K comparable, V any] struct {
	cow[K, V]
	own  [cowChunks]bool
	used [cowChunks]int // slots of own chunks
}

func newDraft[K comparable, V any](old *cow[K, V]) *draft[K, V] { return &draft[K, V]{cow: *old} }

// chunk makes a chunk own.
func (d *draft[K, V]) chunk(hash uint64) (i uint64, p *chunk[K, V]) {
	i = hash % cowChunks
	p = &d.chunks[i]
	if !d.own[i] {
		d.own[i] = true
		*p = slices.Clone(*p)
		var none K
		for j := range *p {
			d.used[i] += b2i((*p)[j].key != none)
		}
	}
	return i, p
}

func (d *draft[K, V]) put(hash uint64, k K, v V) {
	i, p := d.chunk(hash)
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

// remove closes the gap that a key leaves (Knuth, The Art of Computer Programming, volume 3, 6.4, algorithm R).
func (d *draft[K, V]) remove(hash uint64, k K) {
	n, own := d.chunk(hash)
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
		if home := p[i].hash / cowChunks & mask; (i-home)&mask >= (i-gap)&mask {
			p[gap], gap = p[i], i
		}
	}
	p[gap] = slot[K, V]{}
}
