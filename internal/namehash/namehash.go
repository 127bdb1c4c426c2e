// Package namehash hashes names. The result is the same on every node, in every process and in every version: names of interfaces
// and the selection of a node depend on it.
package namehash

import "hash/fnv"

// Of hashes names, in their order: FNV-1a (64 bits) of the names with a zero byte between them, and a final mix, because the low
// bits of FNV alone are distributed badly for short inputs. It is not SHA-256, because crypto/sha256 adds to the start time of the
// CNI plugin.
func Of(names ...string) uint64 {
	f := fnv.New64a()
	for i, n := range names {
		if i > 0 {
			_, _ = f.Write([]byte{0}) // never fails (hash.Hash)
		}
		_, _ = f.Write([]byte(n))
	}
	h := f.Sum64()
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return h ^ h>>29
}
