package table

import (
	"net/netip"
	"testing"
)

func TestMaglev_OneBackendRemoved_FewSlotsMove(t *testing.T) {
	var all []Backend
	for i := range byte(20) {
		all = append(all, Backend{netip.AddrFrom4([4]byte{10, 42, 2, i}), 80})
	}
	before, after := maglev(all), maglev(all[:19])
	moved := 0
	for i := range before {
		if before[i] != 19 && before[i] != after[i] {
			moved++
		}
	}
	if len(before) != len(after) || moved > len(before)/10 {
		t.Fatalf("%d of %d slots moved", moved, len(before))
	}
}
