package servicelb

import "maps"

// cow is a map in pieces that are copied when they are written: a new table shares all but a few of them with the
// old one, so one change costs the same in a small table and in a large one.
type cow[K comparable, V any] struct {
	pieces [cowPieces]map[K]V
}

const cowPieces = 1024

func (c *cow[K, V]) get(hash uint64, k K) V { return c.pieces[hash%cowPieces][k] }

// all goes through everything.
func (c *cow[K, V]) all(yield func(K, V) bool) {
	for _, p := range c.pieces {
		for k, v := range p {
			if !yield(k, v) {
				return
			}
		}
	}
}

func (c *cow[K, V]) len() (n int) {
	for _, p := range c.pieces {
		n += len(p)
	}
	return n
}

// draft is a cow that is being changed; the pieces marked as own are not shared with anybody.
type draft[K comparable, V any] struct {
	cow[K, V]
	own [cowPieces]bool
}

func newDraft[K comparable, V any](old *cow[K, V]) *draft[K, V] { return &draft[K, V]{cow: *old} }

func (d *draft[K, V]) piece(hash uint64) map[K]V {
	i := hash % cowPieces
	if !d.own[i] {
		d.own[i] = true
		if d.pieces[i] = maps.Clone(d.pieces[i]); d.pieces[i] == nil {
			d.pieces[i] = map[K]V{}
		}
	}
	return d.pieces[i]
}

func (d *draft[K, V]) put(hash uint64, k K, v V) { d.piece(hash)[k] = v }

func (d *draft[K, V]) remove(hash uint64, k K) { delete(d.piece(hash), k) }
