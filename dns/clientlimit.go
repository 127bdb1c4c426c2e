package dns

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// access decides which clients are answered, and how often. All workers share it; it takes no lock.
type access struct {
	allow atomic.Pointer[[]netip.Prefix]
	limit uint32
	slots [4096]atomic.Uint64 // hash of the client (24 bits), second (16), queries in that second (24)
}

func newAccess(allow []netip.Prefix, limit int) *access {
	a := &access{limit: uint32(limit)}
	a.set(allow)
	return a
}

func (a *access) set(allow []netip.Prefix) {
	var masked []netip.Prefix
	for _, p := range allow {
		masked = append(masked, p.Masked())
	}
	a.allow.Store(&masked)
}

func (a *access) allowed(from netip.Addr) bool {
	for _, p := range *a.allow.Load() {
		if p.Contains(from) {
			return true
		}
	}
	return from.IsLoopback()
}

// withinLimit counts a query of a client in this second, and reports whether it is within the limit. Two clients with the
// same slot reset each other's count: the limit is then looser, never tighter.
func (a *access) withinLimit(from netip.Addr, second int64) bool {
	if a.limit == 0 {
		return true
	}
	b := from.As16()
	h := (binary.LittleEndian.Uint64(b[:8])*0x9E3779B97F4A7C15 ^ binary.LittleEndian.Uint64(b[8:])) * 0xC2B2AE3D27D4EB4F
	slot := &a.slots[h>>52]
	tag := h<<12>>40<<40 | uint64(uint16(second))<<24
	for {
		was := slot.Load()
		now := tag | 1
		if was&^0xffffff == tag {
			if uint32(was&0xffffff) >= a.limit {
				return false
			}
			now = was + 1
		}
		if slot.CompareAndSwap(was, now) {
			return true
		}
	}
}

// covers reports whether all addresses of a prefix are allowed.
func (a *access) covers(p netip.Prefix) bool {
	for _, in := range *a.allow.Load() {
		if in.Overlaps(p) && p.Bits() >= in.Bits() {
			return true
		}
	}
	return false
}
