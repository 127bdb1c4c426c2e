package servicelb

import (
	"net/netip"

	"github.com/warrennet/warren/internal/packet"
)

// toward returns the verdict for packets to that address.
func (t *Table) toward(a netip.Addr) packet.Verdict {
	if t.remote(a) {
		return packet.VerdictPeer
	}
	return packet.VerdictReflect
}
