// Package recent is a cache of fixed size for what a packet leaves for the packets after it. It never allocates and
// never grows: a flood of new keys evicts old entries and does nothing else.
package recent

import "sync"

// Cache maps keys to values that expire. The zero value is empty. It may be used by any number of goroutines.
type Cache[K comparable, V any] struct {
	sets [256]struct {
		mu      sync.Mutex
		entries [8]entry[K, V]
	}
}

// entry is one value. The zero key marks a free entry and is never looked up.
type entry[K comparable, V any] struct {
	key  K
	val  V
	seen uint32 // seconds
}

// Put stores v. It replaces the entry of the same key, or else the oldest entry of the set.
func (c *Cache[K, V]) Put(hash uint64, k K, v V, now uint32) {
	s := &c.sets[hash%uint64(len(c.sets))]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.entries[0]
	for i := range s.entries {
		e := &s.entries[i]
		if e.key == k {
			at = e
			break
		}
		if e.seen < at.seen {
			at = e
		}
	}
	*at = entry[K, V]{k, v, now}
}

// Get returns the value that was stored for the key in the last seconds.
func (c *Cache[K, V]) Get(hash uint64, k K, now, seconds uint32) (v V, ok bool) {
	return c.lookup(hash, k, now, seconds, false)
}

// GetAndRenew is Get, and restarts the entry's lifetime.
func (c *Cache[K, V]) GetAndRenew(hash uint64, k K, now, seconds uint32) (v V, ok bool) {
	return c.lookup(hash, k, now, seconds, true)
}

func (c *Cache[K, V]) lookup(hash uint64, k K, now, seconds uint32, renew bool) (v V, ok bool) {
	s := &c.sets[hash%uint64(len(c.sets))]
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.entries {
		e := &s.entries[i]
		if e.key != k || now-e.seen > seconds {
			continue
		}
		if renew {
			e.seen = now
		}
		return e.val, true
	}
	return v, false
}
