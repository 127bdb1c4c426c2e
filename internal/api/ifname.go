package api

import "github.com/warrennet/warren/internal/namehash"

// HostIfPrefix begins the name of every host interface of a Pod.
const HostIfPrefix = "wrn"

// HostIfName is the name of the host's end of an attachment's veth pair. Plugin and agent both derive it, so that each
// can remove the interface without the other. It has 55 bits of the hash in base32: 500 Pods collide with a probability of
// 3e-12, and a collision makes ADD fail.
func HostIfName(a Attachment) string {
	h := namehash.Of(a.ContainerID, a.IfName)
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	name := []byte(HostIfPrefix + "...........")
	for i := len(HostIfPrefix); i < len(name); i++ {
		name[i] = digits[h&31]
		h >>= 5
	}
	return string(name)
}

// StableMAC is a locally administered unicast address derived from a seed.
func StableMAC(seed string) [6]byte {
	h := namehash.Of(seed)
	return [6]byte{byte(h)&^1 | 2, byte(h >> 8), byte(h >> 16), byte(h >> 24), byte(h >> 32), byte(h >> 40)}
}
