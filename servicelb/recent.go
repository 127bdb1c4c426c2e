package servicelb

import "sync"

// recent is a cache of fixed size: a flood of notes costs others at most what was noted for them.
type recent[K comparable, V any] struct {
	sets [256]struct {
		mu   sync.Mutex
		list [8]note[K, V]
	}
}

// note is never looked for by the zero key.
type note[K comparable, V any] struct {
	key  K
	val  V
	seen uint32
}

// put notes v in place of what was noted for the key, else of the oldest note of its set.
func (c *recent[K, V]) put(hash uint64, k K, v V, now uint32) {
	s := &c.sets[hash%uint64(len(c.sets))]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.list[0]
	for i := range s.list {
		n := &s.list[i]
		if n.key == k {
			at = n
			break
		}
		if n.seen < at.seen {
			at = n
		}
	}
	*at = note[K, V]{k, v, now}
}

// get returns what was noted for the key in the last seconds.
func (c *recent[K, V]) get(hash uint64, k K, now, seconds uint32) (v V, ok bool) {
	return c.look(hash, k, now, seconds, false)
}

// renew is get, and the note is as good as new.
func (c *recent[K, V]) renew(hash uint64, k K, now, seconds uint32) (v V, ok bool) {
	return c.look(hash, k, now, seconds, true)
}

func (c *recent[K, V]) look(hash uint64, k K, now, seconds uint32, renew bool) (v V, ok bool) {
	s := &c.sets[hash%uint64(len(c.sets))]
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		n := &s.list[i]
		if n.key != k || now-n.seen > seconds {
			continue
		}
		if renew {
			n.seen = now
		}
		return n.val, true
	}
	return v, false
}
