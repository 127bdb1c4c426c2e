package api

// HostIfPrefix begins the name of every host interface of a Pod.
const HostIfPrefix = "wrn"

// HostIfName is the name of the host's end of an attachment's veth pair. Plugin and agent both derive it, so that each
// can remove the interface without asking the other. 55 bits of FNV-1a in base32: 500 Pods collide with a probability
// of 3e-12, and a collision is a refused ADD, no mix-up. FNV, because crypto/sha256 costs the plugin start-up time.
func HostIfName(a Attachment) string {
	h := fnv64(a.ContainerID + "\x00" + a.IfName)
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
	h := fnv64(seed)
	return [6]byte{byte(h)&^1 | 2, byte(h >> 8), byte(h >> 16), byte(h >> 24), byte(h >> 32), byte(h >> 40)}
}

// fnv64 is FNV-1a (64 bits) with a final mix, because the low bits of FNV alone spread short inputs badly.
func fnv64(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return h ^ h>>29
}
