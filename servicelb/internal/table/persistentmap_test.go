package table

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/warrennet/warren/servicelb/internal/stable"
)

// A persistent map equals a Go map after any change, and earlier versions of it do not change.
func TestPersistentMap_RandomChanges_EqualsGoMap(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		var now persistentMap[uint32, int]
		want := map[uint32]int{}
		hash := func(k uint32) uint64 { return stable.Mix(uint64(k)) % 5000 * mapChunks } // few chunks, and many in one place
		for range 50 {
			before, had := now, maps.Clone(want)
			d := newMapDraft(&now)
			for range 40 {
				k := 1 + r.Uint32N(60)
				if r.IntN(2) == 0 {
					d.put(hash(k), k, r.IntN(100)+1)
					want[k] = d.get(hash(k), k)
				} else {
					d.remove(hash(k), k)
					delete(want, k)
				}
			}
			now = d.persistentMap
			for _, c := range []struct {
				*persistentMap[uint32, int]
				want map[uint32]int
			}{{&now, want}, {&before, had}} {
				if got := maps.Collect(c.all); !maps.Equal(got, c.want) || c.len() != len(c.want) {
					t.Fatalf("seed %d: %v, want %v", seed, got, c.want)
				}
				for k := range uint32(62) {
					if got := c.get(hash(k+1), k+1); got != c.want[k+1] {
						t.Fatalf("seed %d: %d is %d, want %d", seed, k+1, got, c.want[k+1])
					}
				}
			}
		}
	}
}
