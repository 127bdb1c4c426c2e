package affinity

import (
	"net/netip"
	"testing"
	"time"

	"github.com/warrennet/warren/servicelb/internal/table"
)

// Within the timeout a client keeps its backend. After it the next session may begin at any backend.
func TestSessions_IdleForLongerThanTimeout_AnyBackend(t *testing.T) {
	sessions, pool := New(), &table.Pool{}
	for i := range byte(8) {
		pool.Backends = append(pool.Backends, table.Backend{Addr: netip.AddrFrom4([4]byte{10, 42, 2, i}), Port: 80})
	}
	f, client := &table.Frontend{ID: 7, Affinity: 10 * time.Second}, netip.MustParseAddr("10.42.1.5")
	seen, now := map[table.Backend]bool{}, uint32(100)
	for range 40 {
		first := sessions.Choose(f, pool, client, now)
		for range 5 {
			now += 10
			if again := sessions.Choose(f, pool, client, now); again != first {
				t.Fatalf("%v, then %v within the timeout", first, again)
			}
		}
		seen[first] = true
		now += 11
	}
	if len(seen) < 3 {
		t.Errorf("40 sessions began at %d of 8 backends", len(seen))
	}
}
