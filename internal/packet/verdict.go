package packet

// Verdict is what becomes of a packet. Each verdict means the same in both directions of the tunnel, so that the load
// balancer can turn a packet around.
type Verdict uint8

// The verdicts.
const (
	// VerdictPeer encrypts the packet to the peer that owns its destination. Without an owner it is dropped and counted.
	VerdictPeer Verdict = iota
	// VerdictReflect writes the packet to the host through the TUN device. A super-packet is not segmented.
	VerdictReflect
	// VerdictDrop discards the packet. The hook that returns it has counted the reason.
	VerdictDrop
	// VerdictReply returns the packet to its sender, after the hook has replaced its content by an answer (Become).
	// The sender is the host for outbound packets, and the peer that owns the new destination for inbound ones.
	VerdictReply
)

var verdictNames = [...]string{"peer", "reflect", "drop", "reply"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown"
}
