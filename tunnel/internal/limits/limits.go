// Package limits has the sizes that the parts of the tunnel agree on. It owns nothing.
package limits

const (
	// MaxBatch is the number of packets that the WireGuard device takes or returns in one call.
	MaxBatch = 128
	// MaxPacket is the size of the largest IP packet in bytes.
	MaxPacket = 65535
	// MaxSegments is the number of datagrams that kernels accept in one UDP super-packet.
	MaxSegments = 64
	// MinMTU4 is IPv4's minimum reassembly buffer size in bytes: every host accepts a packet of 576 (RFC 791).
	MinMTU4 = 576
	// MinMTU6 is the size in bytes that every link must carry of IPv6 (RFC 8200 section 5).
	MinMTU6 = 1280
)
