package servicelb

import "net/netip"

// Verdict is where a packet goes next. The values are those of the tunnel's hook, in the same order.
type Verdict uint8

// The verdicts.
const (
	Peer    Verdict = iota // to the peer that owns the destination
	Reflect                // to the host, through the TUN
	Drop                   // nowhere; the reason is counted
	Reply                  // back where it came from: the packet has become the answer
)

var verdictNames = [...]string{"peer", "reflect", "drop", "reply"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown"
}

// toward says where a packet to that address goes.
func (t *Table) toward(a netip.Addr) Verdict {
	if t.remote(a) {
		return Peer
	}
	return Reflect
}
