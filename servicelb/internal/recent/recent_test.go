package recent

import (
	"testing"

	"github.com/warrennet/warren/servicelb/internal/stable"
)

// A flood of keys does not grow the cache, and the newest entry is always found.
func TestCache_FloodOfKeys_NewestFound(t *testing.T) {
	var c Cache[uint32, string]
	for i := uint32(1); i <= 100_000; i++ {
		c.Put(stable.Mix(uint64(i)), i, "value", i)
		if v, ok := c.Get(stable.Mix(uint64(i)), i, i, 1); !ok || v != "value" {
			t.Fatalf("entry %d: %q, %v", i, v, ok)
		}
	}
}

func TestCache_Expiry_GetAndRenewExtends(t *testing.T) {
	for _, c := range []struct {
		name  string
		renew bool
		found bool
	}{{"Get", false, false}, {"GetAndRenew", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			var cache Cache[int, int]
			cache.Put(0, 1, 7, 100)
			get := cache.Get
			if c.renew {
				get = cache.GetAndRenew
			}
			if v, ok := get(0, 1, 130, 30); !ok || v != 7 {
				t.Fatalf("after 30 s: %d, %v", v, ok)
			}
			if _, ok := cache.Get(0, 1, 160, 30); ok != c.found {
				t.Errorf("after 60 s: found %v, expected %v", ok, c.found)
			}
		})
	}
}
