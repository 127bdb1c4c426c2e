package api

import "hash/fnv"

// HostIfPrefix begins the name of every host interface of a Pod.
const HostIfPrefix = "wrn"

// HostIfName is the name of the host's end of an attachment's veth pair. Plugin and agent both derive it, so that each
// can remove the interface without the other. It has 55 bits of FNV-1a in base32: 500 Pods collide with a probability of
// 3e-12, and a collision makes ADD fail. It is not SHA-256, because crypto/sha256 adds to the start time of the plugin.
func HostIfName(a Attachment) string {
	h := hash(a.ContainerID + "\x00" + a.IfName)
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
	h := hash(seed)
	return [6]byte{byte(h)&^1 | 2, byte(h >> 8), byte(h >> 16), byte(h >> 24), byte(h >> 32), byte(h >> 40)}
}

// hash is FNV-1a (64 bits) with a final mix, because the low bits of FNV alone are distributed badly for short inputs.
func hash(s string) uint64 {
	f := fnv.New64a()
	_, _ = f.Write([]byte(s)) // never fails (hash.Hash)
	h := f.Sum64()
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return h ^ h>>29
}
